"""Whatever users have -> an images dataset."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.matching import select_participants
from daskglm.errors import DesignError, ImageError, ImageTypeError, SpaceError, listing, nearest
from daskglm.graph.compute import compute
from daskglm.graph.images import array_from_files, array_from_images, scan_headers
from daskglm.io.cache import file_states
from daskglm.io.files import exists, glob_paths
from daskglm.io.nifti import NiftiHeader
from daskglm.io.store import is_store, open_images
from daskglm.io.tables import as_table
from daskglm.io.urls import check_url
from daskglm.models.options import Options, checked, header_image, mask_from_coverage, mask_of, preparation
from daskglm.schema.datasets import check_images, images_dataset, participants_of, sample_names, space_of
from daskglm.schema.names import check_unique, sample_ids, subject_id

_TABLE_COLUMNS = ("subject_label", "map_name", "effects_map_path")


@dataclass(frozen=True)
class Loaded:
    """Images and what is known of where they came from.

    Attributes
    ----------
    images : xarray.Dataset
        Lazy images dataset.
    ids_are_known : bool
        Whether the samples are named by subject, not just by file or number.
    sources : list of str or None
        Paths; empty for a dataset, None for images in memory.
    """

    images: xr.Dataset
    ids_are_known: bool
    sources: list[str] | None


def load_images(given: Any, options: Options, check: Callable[[Loaded], object] | None = None) -> Loaded:
    """Make an images dataset of any input of the second level.

    Parameters
    ----------
    given : path, glob, URL, list of paths or images, 4-D image, Series or Dataset
        Images in one of the forms that nilearn takes, or a store, or an images dataset.
    options : Options
        Mask, missing values, smoothing, resampling.
    check : callable, optional
        Called before a pass over the images for the mask, with the images on all voxels of their grid, unread: it
        raises where the design does not go with them.

    Returns
    -------
    Loaded

    Raises
    ------
    ImageError, SpaceError, CorruptImageError, StoreError
        From the headers, before any image is read.
    """
    options = checked(options)
    if isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        if is_store(path):
            return _from_dataset(open_images(path), options, [path])
        given = expand(path)
    if isinstance(given, xr.Dataset):
        return _from_dataset(given, options, [])
    ids: list[str] | None = None
    if isinstance(given, pd.Series):
        ids = [str(name) for name in given.index] if all(isinstance(name, str) for name in given.index) else None
        given = given.tolist()
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    if not items:
        raise ImageError("a model needs images, but the list is empty")
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        for item in items:
            check_url(os.fspath(item))
        return _named(_from_files([os.fspath(item) for item in items], options, _of_named(check, ids)), ids)
    if all(hasattr(item, "dataobj") and hasattr(item, "affine") for item in items):
        return _named(_from_images(items, options, _of_named(check, ids)), ids)
    kinds = sorted({type(item).__name__ for item in items})
    raise ImageTypeError(
        f"images are paths, a glob, a store, nibabel images, a Series or an images dataset, but got {listing(kinds)}"
    )


def load_maps(table: pd.DataFrame, options: Options) -> dict[str | None, Loaded]:
    """Images of each map name in a table, in the order of the sorted subjects, as nilearn takes them.

    Parameters
    ----------
    table : DataFrame
        Columns subject_label, map_name and effects_map_path.
    options : Options
        Mask, missing values, smoothing, resampling.

    Returns
    -------
    dict of str to Loaded
        By map name.

    Raises
    ------
    ImageError
        Where a column is missing, a subject has two maps of one name, or lacks one that others have.
    """
    missing = [name for name in _TABLE_COLUMNS if name not in table.columns]
    if missing or table.empty:
        raise ImageError(
            f"a DataFrame of images has columns {listing(_TABLE_COLUMNS)} and a row a map; "
            f"it lacks {listing(missing) or 'rows'}"
        )
    subjects = sorted({str(label) for label in table["subject_label"]})
    loaded: dict[str | None, Loaded] = {}
    other = [label for label in table["subject_label"] if not isinstance(label, str)]
    if other:
        raise ImageError(f"subject_label is text, but it has {listing(map(repr, other))}; write subjects as text")
    for name, rows in table.groupby("map_name", sort=False):
        labels = [str(label) for label in rows["subject_label"]]
        check_unique(labels, f"each subject has one map {name!r}, but the table repeats")
        absent = sorted(set(subjects) - set(labels))
        if absent:
            raise ImageError(f"every subject has every map, but {listing(absent)} lack {name!r}; add or drop them")
        paths = [
            path for _, path in sorted(zip(labels, rows["effects_map_path"], strict=True), key=lambda pair: pair[0])
        ]
        _check_labels(subjects, [os.fspath(path) for path in paths if isinstance(path, (str, os.PathLike))])
        item = load_images(paths, options)
        images = item.images.assign_coords(sample=("sample", np.array(subjects, dtype=object)))
        loaded[str(name)] = Loaded(images, True, item.sources)
    return loaded


def fingerprint(loaded: Loaded) -> Any:
    """What tells one set of images from another, without reading files.

    Parameters
    ----------
    loaded : Loaded
        Images.

    Returns
    -------
    object
        States of the files, the conversion and name of a lazy array, or the values of images in memory.
    """
    images = loaded.images
    if loaded.sources and exists(loaded.sources[0]):
        return file_states(loaded.sources)
    data = images["data"]
    if loaded.sources is None or data.chunks is None:
        (values,) = compute(data.data)
        return [sample_names(images), values]
    # Dask names an array after what it is made of; a store says by which conversion its images came.
    return [sample_names(images), data.data.name, images.attrs.get("conversion")]


def participants_column(name: str | None, participants: Any, images: xr.Dataset) -> NDArray[Any] | None:
    """A column of the participants, in the order of the samples.

    Parameters
    ----------
    name : str or None
        Of the column.
    participants : DataFrame, path or None
        Table with a column participant_id; None: the one that a store brings.
    images : xarray.Dataset
        Images dataset of n samples.

    Returns
    -------
    (n,) array or None
        None without a name.

    Raises
    ------
    DesignError
        Where there is no table, or no such column.
    """
    if name is None:
        return None
    table = as_table(participants)
    table = participants_of(images) if table is None else table
    if table is None:
        raise DesignError(f"blocks of {name!r} need a participants table; give --participants (participants in Python)")
    table = select_participants(table, sample_names(images))
    if name not in table:
        hint = nearest(name, table.columns) or "."
        raise DesignError(
            f"the participants have no column {name!r}{hint} There are {listing(map(str, table.columns))}"
        )
    return np.asarray(table[name])


def expand(pattern: str) -> list[str]:
    """Files of a path or glob pattern, sorted, numbers in their names by value: run-2 before run-10.

    Parameters
    ----------
    pattern : str
        Path or URL, or glob pattern of either; ``**`` matches folders.

    Returns
    -------
    list of str

    Raises
    ------
    ImageError
        Where nothing matches.
    """
    if exists(pattern):
        return [pattern]
    found = sorted(glob_paths(pattern), key=_natural)
    if not found:
        raise ImageError(f"no file matches {pattern!r}; check the folder and quote the pattern")
    return found


def _natural(path: str) -> list[tuple[int, str]]:
    """Parts of a path, digits as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _from_dataset(images: xr.Dataset, options: Options, sources: list[str] | None) -> Loaded:
    """An images dataset, in the voxels of the mask."""
    check_images(images)
    for name in ("smoothing_fwhm", "target_affine", "target_shape"):
        if getattr(options, name) is not None:
            raise ImageError(
                f"{name} needs whole images, but a store has only the voxels of its mask; "
                "fit the image files, or convert them again with it"
            )
    space = space_of(images)
    mask = mask_of(options, space)
    if mask is not None:
        keep = mask.ravel(order="F")[space.voxels]
        lost = int(mask.sum() - keep.sum())
        if not keep.any():
            raise SpaceError("the mask and the store have no voxel in common; give another mask_img")
        if lost:
            warnings.warn(f"{lost:,} voxels of the mask are not in the store and are left out", stacklevel=4)
        images = images.isel(voxel=np.flatnonzero(keep)) if not keep.all() else images
    if options.missing == "zero":
        images = images.assign(data=images["data"].where(images["data"] != 0))
    return Loaded(images, True, sources)


def _of_named(check: Callable[[Loaded], object] | None, ids: list[str] | None) -> Callable[[Loaded], object]:
    """A check of images under the names that a Series gives them; of nothing, where there is none."""
    return lambda loaded: None if check is None else check(_named(loaded, ids))


def _from_files(paths: list[str], options: Options, check: Callable[[Loaded], object]) -> Loaded:
    """3-D files, or one 4-D file."""
    if len(paths) == 1 and is_store(paths[0]):
        return _from_dataset(open_images(paths[0]), options, paths)
    ids = sample_ids(paths)
    how = preparation(header_image(paths[0]), options)
    headers, faults = scan_headers(paths, how)
    if faults:
        raise next(iter(faults.values()))
    found: list[NiftiHeader] = [header for header in headers if header is not None]
    data = array_from_files(paths, found, how)
    names = ids if len(ids) == data.shape[0] else [f"volume-{k + 1}" for k in range(data.shape[0])]
    known = all(subject_id(path) for path in paths) and len(paths) > 1 and len(ids) == data.shape[0]
    if options.mask_img is None:
        check(Loaded(images_dataset(data, names, how.space), known, paths))
        seen = array_from_files(paths, found, replace(how, coverage=True))
        how = replace(how, space=mask_from_coverage(seen, how, options, paths))
        data = array_from_files(paths, found, how)
    return Loaded(images_dataset(data, names, how.space), known, paths)


def _named(loaded: Loaded, ids: list[str] | None) -> Loaded:
    """Images under the names that a Series gives them."""
    if ids is None:
        return loaded
    check_unique(ids, "names of the images in a Series are unique, but it repeats")
    images = loaded.images.assign_coords(sample=("sample", np.array(ids, dtype=object)))
    return replace(loaded, images=images, ids_are_known=True)


def _check_labels(labels: list[str], paths: list[str]) -> None:
    """Raise where subjects of a table are named like those of its files, and one has the file of another."""
    found = [(subject_id(path) or "").removeprefix("sub-") for path in paths]
    bare = [label.removeprefix("sub-") for label in labels]
    wrong = [f"{label}: {path}" for label, path, x, y in zip(labels, paths, bare, found, strict=False) if x != y]
    if wrong and sorted(found) == sorted(bare):
        raise ImageError(f"each subject has its own image, but the table pairs {listing(wrong, 3)}; correct it")


def _from_images(items: Sequence[Any], options: Options, check: Callable[[Loaded], object]) -> Loaded:
    """Images in memory."""
    again = len(items) - len({id(image) for image in items})
    if again:
        warnings.warn(
            f"{again} of {len(items)} images in memory are given before: what is counted as independent subjects is "
            "the same data; give each image once",
            stacklevel=4,
        )
    shapes = [image.shape for image in items]
    if any(len(shape) < 3 for shape in shapes):
        raise ImageError(f"images are 3-D or 4-D, but the shapes are {listing(sorted(set(shapes)))}")
    if len(items) > 1 and any(len(shape) > 3 and shape[3:] != (1,) for shape in shapes):
        raise ImageError(f"several images are 3-D each, but the shapes are {listing(sorted(set(shapes)))}")
    how = preparation(items[0], options)
    if options.target_affine is None:
        for index, image in enumerate(items):
            how.space.check_same_grid(image.shape, image.affine, f"image {index}")
    data = array_from_images(items, how)
    names = [f"image-{k + 1}" for k in range(data.shape[0])]
    if options.mask_img is None:
        check(Loaded(images_dataset(data, names, how.space), False, None))
        seen = array_from_images(items, replace(how, coverage=True))
        how = replace(how, space=mask_from_coverage(seen, how, options))
        data = array_from_images(items, how)
    return Loaded(images_dataset(data, names, how.space), False, None)
