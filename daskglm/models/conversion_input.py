"""What a conversion is given, checked by headers and tables: samples, their rows, their treatment."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.design.matching import samples_of, subject_of
from daskglm.errors import ImageError, StoreError, listing, option
from daskglm.graph.images import Preparation, raise_faults, scan_headers
from daskglm.graph.samples import match_table, samples_of_files
from daskglm.io.files import each, state
from daskglm.io.formats import NiftiHeader
from daskglm.io.nifti import checksum, read_header
from daskglm.io.store import StoredSamples, check_store, stored_space, stored_type
from daskglm.io.tables import as_table
from daskglm.models.inputs import Choice, expand, file_of_values
from daskglm.models.options import Options, header_image, preparation
from daskglm.schema.datasets import participant_columns, sample_names
from daskglm.schema.names import check_unique, stem, subject_id


def named_samples(images: str | Sequence[str], choose: Choice | None = None) -> xr.Dataset:
    """The samples of a conversion, without their data.

    Parameters
    ----------
    images : glob or list of paths
        One image a subject, session and run.
    choose : callable, optional
        From :func:`~daskglm.models.selection.selection`.

    Returns
    -------
    xarray.Dataset
        As :func:`~daskglm.graph.samples.samples_of_files`; every subject, session and run once.

    Raises
    ------
    ImageError
        Where there is none, or a file or a subject comes twice.
    """
    if isinstance(images, (str, os.PathLike)):
        paths = expand(os.fspath(images))
    else:
        paths = [file_of_values(os.fspath(path)) for path in images]
    if not paths:
        raise ImageError("a conversion needs images, but the list is empty")
    check_unique(paths, "the same image is given twice")
    samples = samples_of_files(paths)
    if sample_names(samples) == [stem(path) for path in paths]:
        # Without sessions and runs, several files of a subject are several maps, such as effects and variances.
        subjects = [subject_id(path) or stem(path) for path in paths]
        check_unique(subjects, "a store has one image a subject, session and run, but several files are of")
        samples = samples.assign_coords(sample=("sample", np.array(subjects, dtype=object)))
    return samples if choose is None else choose(samples)


def files_of(samples: xr.Dataset) -> dict[str, str]:
    """Files by the names of samples.

    Parameters
    ----------
    samples : xarray.Dataset
        From :func:`named_samples`.

    Returns
    -------
    dict of str to str
    """
    return dict(zip(sample_names(samples), map(str, samples["source"].values), strict=True))


def participant_rows(participants: Any, samples: xr.Dataset, stored: StoredSamples) -> pd.DataFrame | None:
    """Rows of the participants table of the given files.

    Parameters
    ----------
    participants : DataFrame, path or None
        Table with a column participant_id.
    samples : xarray.Dataset
        From :func:`named_samples`.
    stored : StoredSamples
        What the store has: its samples may have rows, too.

    Returns
    -------
    DataFrame or None
        Indexed by sample; None without a table.

    Raises
    ------
    StoreError
        Where the store has an image of a subject that is now one of several.
    """
    names, before = sample_names(samples), set(stored.names)
    mixed = [name for name in names if name not in before and subject_of(name) in before]
    if mixed:
        raise StoreError(
            f"the store has one image each of the subjects of {listing(mixed)}, named without session and run; convert "
            "all images with --overwrite, or to another store"
        )
    table = as_table(participants)
    if table is None:
        return None
    table = match_table(table, samples, also_allowed=before - {*names, ""})
    if stored.names and not table["participant_id"].duplicated().any():
        named = "participant_id" not in stored.columns
    else:
        named = samples_of(list(table["participant_id"]), names) == [[place] for place in range(len(names))]
    # Ids are kept where samples are not named like their subjects.
    return table.drop(columns="participant_id") if named else table


def already_stored(
    output: str, files: Mapping[str, str], table: pd.DataFrame | None, stored: StoredSamples
) -> set[str]:
    """Names of the given files that the store has, provided that neither they nor their rows have changed.

    Parameters
    ----------
    output : str
        The store.
    files : mapping of str to str
        Sample name to path.
    table : DataFrame or None
        From :func:`participant_rows`.
    stored : StoredSamples
        What the store has.

    Returns
    -------
    set of str

    Raises
    ------
    StoreError
        Where a file or a row is another than that of the store.
    """
    rows = {name: index for index, name in enumerate(stored.names) if name}
    kept = [name for name in files if name in rows]
    row_of = {files[name]: rows[name] for name in kept}
    differing = each(lambda path: _file_changed(path, stored.columns, row_of[path]), list(row_of))
    changed = [name for name, differs in zip(kept, differing, strict=True) if differs]
    if changed:
        raise StoreError(
            f"{output} holds {listing(changed)} from a file with other contents than the one given now; "
            f"convert again with {option('overwrite=True', '--overwrite')}, or to another store"
        )
    if table is not None and kept:
        columns = participant_columns(table.loc[kept])
        if lacking := [name for name in columns if name not in stored.columns]:
            raise StoreError(
                f"{output} was made without {listing(lacking)} of the participants table; "
                f"give the analysis the new table ({option('participants', '--participants')}), or convert again "
                f"with {option('overwrite=True', '--overwrite')}"
            )
        for name, values in columns.items():
            before = stored.columns[name][[rows[sample] for sample in kept]]
            same = [str(x) == str(y) for x, y in zip(before, values, strict=True)]
            other = [sample for sample, equal in zip(kept, same, strict=True) if not equal]
            if other:
                raise StoreError(
                    f"{name!r} of {listing(other)} in {output} is not what the participants table says now; "
                    f"give the analysis the new table ({option('participants', '--participants')}), or convert again "
                    f"with {option('overwrite=True', '--overwrite')}"
                )
    return set(kept)


def _file_changed(path: str, columns: Mapping[str, Any], row: int) -> bool:
    """Tell whether a file is another than the one converted: by size, then by version and checksum."""
    if "source_size" not in columns:
        return False
    try:
        size, version = state(path)
    except FileNotFoundError:
        return False
    if size != columns["source_size"][row]:
        return True
    return version != columns["source_mtime"][row] and checksum(path) != columns["source_crc32"][row]


def reference_image(files: Mapping[str, str], on_error: str) -> Any:
    """An image on the grid that most files have: the first of them.

    Parameters
    ----------
    files : mapping of str to str
        Sample name to path.
    on_error : {"stop", "quarantine"}
        Whether a header that cannot be read is an error.

    Returns
    -------
    image
        Header alone.

    Raises
    ------
    ImageError
        For "stop", naming the file; and where no file is an image.
    """
    grids: dict[str, Any] = {}
    faults: dict[str, Exception] = {}
    for path, header in zip(files.values(), each(_header_or_fault, list(files.values())), strict=True):
        if not isinstance(header, ImageError):
            grids[path] = (header.shape[:3], header.affine.round(3).tobytes())
        else:
            faults[path] = header
    if on_error == "stop":
        raise_faults(faults)
    if not grids:
        raise ImageError(
            f"none of the {len(files)} files is a readable image; the first is {next(iter(files.values()))}"
        )
    common, _ = Counter(grids.values()).most_common(1)[0]
    return header_image(next(path for path, grid in grids.items() if grid == common))


def _header_or_fault(path: str) -> NiftiHeader | ImageError:
    """The header of a file, or what is wrong with it."""
    try:
        return read_header(path)
    except ImageError as error:
        return error


def preparation_of_store(output: str, options: Options) -> Preparation:
    """The treatment that the images of a store had, for more of them.

    Parameters
    ----------
    output : str
        The store.
    options : Options
        Mask, missing values and smoothing that are asked for now.

    Returns
    -------
    Preparation

    Raises
    ------
    StoreError, SpaceError
        Where another treatment or mask is asked for.
    """
    space, attributes = stored_space(output)
    given = {"missing": options.missing, "smoothing_fwhm": listed(options.smoothing_fwhm)}
    for name, value in given.items():
        if attributes.get(name) != value:
            raise StoreError(
                f"images of one store are treated alike, but {output} has {name} {attributes.get(name)!r} and now it "
                f"is {value!r}; give the same, or convert to another store"
            )
    how = Preparation(space, options.missing == "zero", options.smoothing_fwhm)
    if options.mask_img is not None:
        check_store(output, preparation(space.mask_image(), options).space)
    return how


def listed(value: Any) -> Any:
    """Three numbers as JSON gives them back.

    Parameters
    ----------
    value : sequence or None
        Numbers.

    Returns
    -------
    list or None
    """
    return None if value is None else list(value)


def usable_files(
    files: Mapping[str, str], how: Preparation, on_error: str, kept: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Files whose headers are right, what is wrong with the others, and who has more digits than float32.

    Parameters
    ----------
    files : mapping of str to str
        Sample name to path.
    how : Preparation
        What happens to each.
    on_error : {"stop", "quarantine"}
        Raise at the first that is wrong, or leave them out.
    kept : collection of str
        Samples that the store has already.

    Returns
    -------
    good, faults : dict of str to str
        Sample name to path, and to what is wrong.
    double : set of str
        Names of good samples whose values are float64: stored so, scaled, or integers of 32 bits.

    Raises
    ------
    ImageError
        For "stop", naming every file; and where no file can be used and nothing is kept.
    """
    headers, faults = scan_headers(list(files.values()), how)
    for path, header in zip(files.values(), headers, strict=True):
        if header is not None and len(header.shape) > 3:
            faults[path] = ImageError(f"a store is made of 3-D images, but {path} has shape {header.shape}; split it")
    if on_error == "stop":
        raise_faults(faults)
    good = {name: path for name, path in files.items() if path not in faults}
    if files and not good and not kept:
        raise ImageError(f"none of the {len(files)} images can be used; the first: {next(iter(faults.values()))}")
    wide = {path for path, header in zip(files.values(), headers, strict=True) if header and header.in_memory == "f8"}
    double = {name for name, path in good.items() if path in wide}
    return good, {name: str(faults[path]) for name, path in files.items() if path in faults}, double


def type_of_store(output: str, exists: bool, double: set[str]) -> np.dtype[Any]:
    """Type of the values of a store, which keeps every digit of its images.

    Parameters
    ----------
    output : str
        The store.
    exists : bool
        Whether it is there already.
    double : set of str
        From :func:`usable_files`.

    Returns
    -------
    numpy.dtype
        Float32, or float64 where an image has more digits.

    Raises
    ------
    StoreError
        Where a store of float32 would be given such images.
    """
    if not exists:
        return np.dtype(np.float64 if double else np.float32)
    found = stored_type(output)
    if double and found == np.float32:
        raise StoreError(
            f"a store keeps every digit of its images, but {output} has float32 values and {listing(sorted(double))} "
            "have more digits (float64, or scaled integers); convert all images again with "
            f"{option('overwrite=True', '--overwrite')}, or these to another store"
        )
    return found
