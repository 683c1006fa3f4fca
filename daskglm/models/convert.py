"""Images -> a cohort store."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import pandas as pd

from daskglm.design.matching import select_participants
from daskglm.errors import DaskGLMError, ImageError, OutputError, ParameterError, StoreError, listing
from daskglm.graph.convert import count_coverage, write_files
from daskglm.graph.images import Preparation, scan_headers
from daskglm.io.nifti import checksum, read_header
from daskglm.io.provenance import software
from daskglm.io.store import StoredSamples, check_store, check_target, is_store, stored_space
from daskglm.io.store_writing import create_store, finish_store
from daskglm.io.tables import as_table
from daskglm.models.inputs import expand
from daskglm.models.options import Options, checked, covered, header_image, preparation
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
    list_of_quarantined : str
        Table of all samples ever left out of the store, if there are any.
    """

    store: str
    n_voxels: int
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    list_of_quarantined: str = ""


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
        ``<store>_quarantined.tsv`` beside the store.
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
        raise ParameterError(f"on_error is 'stop' or 'quarantine', but it is {on_error!r}")
    output = os.fspath(output)
    options = checked(Options(mask, missing, min_coverage, smoothing_fwhm))
    check_target(output, overwrite)
    files = _named(images)
    exists = is_store(output) and not overwrite
    stored = StoredSamples.of(output) if exists else StoredSamples([], {}, {})
    table = _participants(participants, files, stored)
    kept = _already_stored(output, files, table, stored)
    new = {name: path for name, path in files.items() if name not in kept}
    how = _preparation_of_store(output, options, new) if exists else preparation(_reference(new, on_error), options)
    new, faults = _usable(new, how, on_error)
    if not exists:
        if mask is None:
            counts, unreadable = count_coverage(new, how, on_error)
            faults |= unreadable
            new = {name: path for name, path in new.items() if name not in unreadable}
            how = replace(how, space=covered(how.space, counts, len(new), min_coverage))
        attributes = {"software": software(), "missing": missing, "smoothing_fwhm": _listed(options.smoothing_fwhm)}
        create_store(output, how.space, attributes, overwrite)
    result = Conversion(output, how.space.voxels.size, kept=sorted(kept), quarantined=faults)
    columns = {} if table is None else participant_columns(table.loc[list(new)])
    label = "Converting" if progress else None
    try:
        for receipt in write_files(output, new, columns, how, on_error, label) if new else []:
            result.written += receipt.written
            result.quarantined |= receipt.faults
    except DaskGLMError:
        if any(stored.names):
            # What the store had before, and names, stays usable.
            finish_store(output, {})
        raise
    _finish(result, files, stored.attributes.get("quarantined", {}))
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


def _participants(participants: Any, files: Mapping[str, str], stored: StoredSamples) -> pd.DataFrame | None:
    """Rows of the participants table of the given files, indexed by sample; those of stored samples may be more."""
    table = as_table(participants)
    if table is None:
        return None
    others = set(stored.names) - set(files) - {""}
    return select_participants(table, list(files), also_allowed=others)


def _already_stored(
    output: str, files: Mapping[str, str], table: pd.DataFrame | None, stored: StoredSamples
) -> set[str]:
    """Names of the given files that the store has, provided that neither they nor their rows have changed."""
    rows = {name: index for index, name in enumerate(stored.names) if name}
    kept = [name for name in files if name in rows]
    changed = [name for name in kept if _file_changed(files[name], stored.columns, rows[name])]
    if changed:
        raise StoreError(
            f"{output} holds {listing(changed)} from a file with other contents than the one given now; "
            "convert again with --overwrite, or to another store"
        )
    if table is not None and kept:
        for name, values in participant_columns(table.loc[kept]).items():
            before = stored.columns[name][[rows[sample] for sample in kept]] if name in stored.columns else values
            same = [str(x) == str(y) for x, y in zip(before, values, strict=True)]
            other = [sample for sample, equal in zip(kept, same, strict=True) if not equal]
            if other:
                raise StoreError(
                    f"{name!r} of {listing(other)} in {output} is not what the participants table says now; "
                    "give the new table to the analysis with --participants, or convert again with --overwrite"
                )
    return set(kept)


def _file_changed(path: str, columns: Mapping[str, Any], row: int) -> bool:
    """Tell whether a file is another than the one converted: by size, then by time of change and checksum."""
    if not os.path.isfile(path) or "source_size" not in columns:
        return False
    state = os.stat(path)
    if state.st_size != columns["source_size"][row]:
        return True
    return state.st_mtime_ns != columns["source_mtime"][row] and checksum(path) != columns["source_crc32"][row]


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
    given = {"missing": options.missing, "smoothing_fwhm": _listed(options.smoothing_fwhm)}
    for name, value in given.items():
        if attributes.get(name) != value:
            raise StoreError(
                f"images of one store are treated alike, but {output} has {name} {attributes.get(name)!r} and now it "
                f"is {value!r}; give the same, or convert to another store"
            )
    how = Preparation(space, options.missing == "zero", options.smoothing_fwhm)
    if options.mask_img is not None and files:
        check_store(output, preparation(header_image(next(iter(files.values()))), options).space)
    return how


def _listed(value: Any) -> Any:
    """Three numbers as JSON gives them back."""
    return None if value is None else list(value)


def _usable(files: Mapping[str, str], how: Preparation, on_error: str) -> tuple[dict[str, str], dict[str, str]]:
    """Files whose headers are right, and what is wrong with the others."""
    headers, faults = scan_headers(list(files.values()), how)
    for path, header in zip(files.values(), headers, strict=True):
        if header is not None and len(header.shape) > 3:
            faults[path] = ImageError(f"a store is made of 3-D images, but {path} has shape {header.shape}; split it")
    if faults and on_error == "stop":
        raise next(iter(faults.values()))
    good = {name: path for name, path in files.items() if path not in faults}
    if files and not good:
        raise ImageError(f"none of the {len(files)} images can be used; the first: {next(iter(faults.values()))}")
    return good, {name: str(faults[path]) for name, path in files.items() if path in faults}


def _finish(result: Conversion, files: Mapping[str, str], before: Mapping[str, Any]) -> None:
    """Declare the store complete, and write or remove the list of all that was ever left out of it."""
    left_out = {name: entry for name, entry in before.items() if name not in files}
    left_out |= {name: {"source": files[name], "reason": reason} for name, reason in result.quarantined.items()}
    finish_store(result.store, {"software": software(), "quarantined": left_out})
    # Beside a local store, under its name: several stores may share a folder.
    folder = "" if "://" in result.store else os.path.dirname(os.path.abspath(result.store))
    result.list_of_quarantined = os.path.join(folder, f"{PurePath(result.store).stem}_quarantined.tsv")
    try:
        if left_out:
            rows = [{"sample": name, **entry} for name, entry in left_out.items()]
            pd.DataFrame(rows).to_csv(result.list_of_quarantined, sep="\t", index=False)
        elif os.path.exists(result.list_of_quarantined):
            os.remove(result.list_of_quarantined)
    except OSError as error:
        raise OutputError(f"cannot write {result.list_of_quarantined}: {error}") from error
