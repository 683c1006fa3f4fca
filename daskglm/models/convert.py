"""Images -> a cohort store."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from daskglm.design.matching import select_participants
from daskglm.errors import ImageError, OutputError, StoreError, listing
from daskglm.graph.convert import write_files
from daskglm.graph.images import Preparation, array_from_files, scan_headers
from daskglm.io.nifti import read_header
from daskglm.io.provenance import software
from daskglm.io.store import (
    check_store,
    create_store,
    finish_store,
    is_store,
    stored_samples,
    stored_space,
)  # fmt: skip
from daskglm.io.tables import read_table
from daskglm.models.inputs import Options, expand, header_image, mask_from_coverage, preparation
from daskglm.schema.datasets import participant_columns
from daskglm.schema.names import check_unique, stem, subject_id


@dataclass
class Conversion:
    """What a conversion did.

    Attributes
    ----------
    store : str
        The store.
    written, kept : list of str
        Names of the samples converted now, and of those that were there before.
    quarantined : dict
        Name of each sample left out, and why.
    n_voxels : int
        Voxels of the mask.
    """

    store: str
    n_voxels: int
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)


def convert(
    images: str | Sequence[str],
    output: str,
    *,
    participants: Any = None,
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    on_error: str = "stop",
    overwrite: bool = False,
    progress: bool = False,
) -> Conversion:
    """Convert 3-D images to a cohort store, which ``xarray.open_zarr`` opens.

    A store that exists is appended to: files that it has are skipped, and a conversion that was interrupted
    continues. The store names a sample only once all of it is written.

    Parameters
    ----------
    images : glob or list of paths
        One image a subject. Samples are named by the ``sub-`` entity, else by the file.
    output : str
        The store, a folder ending in .zarr or a URL.
    participants : DataFrame or path, optional
        Table with a column participant_id; its rows go into the store beside the images.
    mask : image, path, False or None
        Voxels to keep; None: those with data in at least `min_coverage` of the images (one more pass).
    missing : {"nan", "zero"}
        What is stored as missing: non-finite values, or those and exact zeros.
    min_coverage : float
        Fraction of the images, for `mask` None.
    smoothing_fwhm : float, 3 floats or None
        Gaussian smoothing before masking, in mm.
    on_error : {"stop", "quarantine"}
        Stop at a file that cannot be used, or leave its subject out and report it in the result and in
        ``quarantined.tsv`` beside the store.
    overwrite : bool
        Replace a store that exists.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Conversion

    Raises
    ------
    ImageError, SpaceError, CorruptImageError, DesignError, StoreError, OutputError
        From the headers and the table, before anything is written, wherever it can be known.
    """
    if on_error not in ("stop", "quarantine"):
        raise ImageError(f"on_error is 'stop' or 'quarantine', but it is {on_error!r}")
    files = _named(images)
    table = None if participants is None else _participants(participants, list(files))
    exists = is_store(output) and not overwrite
    kept = _already_stored(output, files) if exists else []
    new = {name: path for name, path in files.items() if name not in set(kept)}
    options = Options(mask, missing, min_coverage, smoothing_fwhm)
    how = _preparation_of_store(output, options, new) if exists else preparation(_reference(new, on_error), options)
    new, quarantined, headers = _usable(new, how, on_error)
    if not exists:
        if mask is None:
            how = replace(
                how,
                space=mask_from_coverage(array_from_files(list(new.values()), headers, how), how, options),
            )
        attributes = {"software": software(), "missing": missing, "smoothing_fwhm": smoothing_fwhm}
        create_store(output, how.space, attributes, overwrite)
    result = Conversion(output, how.space.voxels.size, kept=kept, quarantined=quarantined)
    columns = {} if table is None else participant_columns(table.loc[list(new)])
    if new:
        for receipt in write_files(output, new, columns, how, on_error, "Converting" if progress else None):
            result.written += receipt.written
            result.quarantined |= receipt.faults
    finish_store(output, {"software": software(), "quarantined": result.quarantined})
    _report_quarantine(output, result.quarantined, files)
    return result


def _named(images: str | Sequence[str]) -> dict[str, str]:
    """Sample name -> path; every subject once."""
    paths = expand(os.fspath(images)) if isinstance(images, (str, os.PathLike)) else [os.fspath(p) for p in images]
    if not paths:
        raise ImageError("a conversion needs images, but the list is empty")
    check_unique(paths, "the same image is given twice")
    names = [subject_id(path) or stem(path) for path in paths]
    check_unique(names, "a store has one image a subject, but several files are of")
    return dict(zip(names, paths, strict=True))


def _participants(participants: Any, names: list[str]) -> pd.DataFrame:
    """Rows of the participants table, indexed by sample."""
    table = participants if isinstance(participants, pd.DataFrame) else read_table(participants)
    return select_participants(table, names)


def _already_stored(output: str, files: Mapping[str, str]) -> list[str]:
    """Names of the given files that the store has, provided they have not changed."""
    names, columns = stored_samples(output)
    sizes = dict(zip(names, columns.get("source_size", []), strict=False))
    kept = [name for name in files if name in sizes]
    changed = [name for name in kept if os.path.isfile(files[name]) and os.path.getsize(files[name]) != sizes[name]]
    if changed:
        raise StoreError(
            f"{output} holds {listing(changed)} from a file of another size than the one given now; "
            "convert again with --overwrite, or to another store"
        )
    return kept


def _reference(files: Mapping[str, str], on_error: str) -> Any:
    """An image on the grid that most files have: the first of them."""
    grids: dict[str, Any] = {}
    for path in files.values():
        try:
            header = read_header(path)
        except ImageError:
            if on_error == "stop":
                raise
            continue
        grids[path] = (header.shape[:3], header.affine.round(3).tobytes())
    if not grids:
        raise ImageError(
            f"none of the {len(files)} files is a readable image; the first is {next(iter(files.values()))}"
        )
    common, _ = Counter(grids.values()).most_common(1)[0]
    return header_image(next(path for path, grid in grids.items() if grid == common))


def _preparation_of_store(output: str, options: Options, files: Mapping[str, str]) -> Preparation:
    """The treatment that the images of a store had, for more of them."""
    space, attributes = stored_space(output)
    given = {"missing": options.missing, "smoothing_fwhm": options.smoothing_fwhm}
    for name, value in given.items():
        if attributes[name] != value:
            raise StoreError(
                f"images of one store are treated alike, but {output} has {name} {attributes[name]!r} and now it "
                f"is {value!r}; give the same, or convert to another store"
            )
    how = Preparation(space, options.missing == "zero", options.smoothing_fwhm)
    if options.mask_img is not None and files:
        check_store(output, preparation(header_image(next(iter(files.values()))), options).space)
    return how


def _usable(
    files: Mapping[str, str], how: Preparation, on_error: str
) -> tuple[dict[str, str], dict[str, str], list[Any]]:
    """Files whose headers are right, what is wrong with the others, and the headers."""
    headers, faults = scan_headers(list(files.values()), how)
    for path, header in zip(files.values(), headers, strict=True):
        if header is not None and len(header.shape) > 3:
            faults[path] = ImageError(f"a store is made of 3-D images, but {path} has shape {header.shape}; split it")
    if faults and on_error == "stop":
        raise next(iter(faults.values()))
    quarantined = {name: str(faults[path]) for name, path in files.items() if path in faults}
    good = {name: path for name, path in files.items() if path not in faults}
    if files and not good:
        raise ImageError(f"none of the {len(files)} images can be used; the first: {next(iter(faults.values()))}")
    return good, quarantined, [header for header in headers if header is not None]


def _report_quarantine(output: str, quarantined: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Write quarantined.tsv beside the store, or remove the one of an earlier run."""
    # Beside a local store; beside the working directory's other files for one behind a URL.
    path = os.path.join("" if "://" in output else os.path.dirname(os.path.abspath(output)), "quarantined.tsv")
    if not quarantined:
        if os.path.exists(path):
            os.remove(path)
        return
    rows = [{"sample": name, "source": files[name], "reason": reason} for name, reason in quarantined.items()]
    try:
        pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
