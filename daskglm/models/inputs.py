"""Whatever users have -> an images dataset."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.matching import label_text
from daskglm.errors import DesignError, ImageError, ImageTypeError, SpaceError, listing, nearest, option
from daskglm.graph.compute import compute
from daskglm.graph.images import Preparation, array_from_files, array_from_images, raise_faults, scan_headers
from daskglm.graph.samples import participants_by_sample, samples_of_files
from daskglm.io.cache import file_states
from daskglm.io.files import exists, glob_paths, join, list_names, parts
from daskglm.io.formats import NiftiHeader
from daskglm.io.store import is_store, open_images
from daskglm.io.urls import check_url
from daskglm.models.options import Options, checked, header_image, mask_from_coverage, mask_of, preparation
from daskglm.schema.datasets import check_images, images_dataset, sample_names, space_of
from daskglm.schema.names import IMAGE_SUFFIXES, check_unique, subject_id
from daskglm.schema.space import VolumeSpace

Choice = Callable[[xr.Dataset], xr.Dataset]
_TABLE_COLUMNS = ("subject_label", "map_name", "effects_map_path")


@dataclass(frozen=True)
class Loaded:
    """Images and what is known of where they came from.

    Attributes
    ----------
    images : xarray.Dataset
        Lazy images dataset. ``attrs["named_by"]``, where there, says what samples are named by: "id", "file" or
        "order"; ``attrs["sorted_by"]`` by what they were sorted, where the order is not that in which they were given.
    sources : list of str or None
        Paths; empty for a dataset, None for images in memory.
    untreated : xarray.Dataset or None
        Of images in memory that are smoothed: as they are before.
    """

    images: xr.Dataset
    sources: list[str] | None
    untreated: xr.Dataset | None = None


def load_images(
    given: Any, options: Options, check: Callable[[Loaded], object] | None = None, choose: Choice | None = None
) -> Loaded:
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
    choose : callable, optional
        Called with the samples, before headers of files are read; gives those to keep.

    Returns
    -------
    Loaded

    Raises
    ------
    ImageError, SpaceError, CorruptImageError, StoreError
        From the headers, before any image is read.
    """
    options, order = checked(options), ""
    if isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        if is_store(path):
            return _from_dataset(open_images(path), options, [path], choose)
        given = expand(path)
        order = "the numbers in their names" if given != sorted(given) else ""
    if isinstance(given, xr.Dataset):
        return _from_dataset(given, options, [], choose)
    labels = None if not isinstance(given, pd.Series) or given.index.equals(pd.RangeIndex(len(given))) else given.index
    items = list(given) if isinstance(given, (list, tuple, pd.Series)) else [given]
    if not items:
        raise ImageError("a model needs images, but the list is empty")
    in_memory = all(hasattr(item, "dataobj") and hasattr(item, "affine") for item in items)
    if not in_memory and not all(isinstance(item, (str, os.PathLike)) for item in items):
        kinds = sorted({type(item).__name__ for item in items})
        raise ImageTypeError(
            "images are paths, a glob, a store, nibabel images, a Series or an images dataset, but got "
            f"{listing(kinds)}"
        )
    items = items if in_memory else [file_of_values(os.fspath(item)) for item in items]
    for item in items if not in_memory else ():
        check_url(item)
    if not in_memory and len(items) == 1 and is_store(items[0]):
        return _from_dataset(open_images(items[0]), options, items, choose)
    samples = _samples(items, labels)
    samples.attrs |= {"sorted_by": order} if order else {}
    return (_from_images if in_memory else _from_files)(items, samples, options, check, choose)


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
        maps = pd.Series(rows["effects_map_path"].tolist(), index=labels, dtype=object).loc[subjects]
        item = load_images(maps, options)
        if labels != subjects:
            item.images.attrs["sorted_by"] = "subject_label"
        loaded[str(name)] = item
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
        # Of a store some samples may have been chosen.
        return [sample_names(images), file_states(loaded.sources)]
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
    table = participants_by_sample(participants, images)
    if participants is None and table.shape[1] == 1 and name not in table:
        how = option("participants", "--participants")
        raise DesignError(f"blocks of {name!r} need a participants table; give {how}")
    if name not in table:
        hint = nearest(name, table.columns) or "."
        raise DesignError(
            f"the participants have no column {name!r}{hint} There are {listing(map(str, table.columns))}"
        )
    return np.asarray(table[name])


def expand(pattern: str) -> list[str]:
    """Files of a path, folder or glob pattern, sorted, numbers in their names by value: run-2 before run-10.

    Parameters
    ----------
    pattern : str
        Path or URL, or glob pattern of either; ``**`` matches folders. Of a folder the images that are directly in it,
        of a pair of files one.

    Returns
    -------
    list of str

    Raises
    ------
    ImageError
        Where nothing matches.
    """
    if exists(pattern):
        return [file_of_values(pattern)]
    inside = [] if has_magic(pattern) else [name for name in list_names(pattern) if not name.startswith(".")]
    if inside:
        found = [join(pattern, name) for name in inside if name.lower().endswith(IMAGE_SUFFIXES)]
        if not found:
            raise ImageError(
                f"no image is directly in the folder {pattern}, which holds {listing(inside, 3)}; give a pattern, "
                f"as in '{join(pattern, '**', '*.nii.gz')}'"
            )
    else:
        found = glob_paths(pattern)
    if not found:
        raise ImageError(f"no file matches {pattern!r}; check the folder and quote the pattern")
    return sorted({file_of_values(path) for path in found}, key=_natural)


def file_of_values(path: str) -> str:
    """The file that an image is named by: of a pair the one with its values (.img, .BRIK).

    Parameters
    ----------
    path : str
        Path or URL of either.

    Returns
    -------
    str
    """
    return parts(path)[-1]


def _natural(path: str) -> list[tuple[int, str]]:
    """Parts of a path, digits as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def _from_dataset(images: xr.Dataset, options: Options, sources: list[str] | None, choose: Choice | None) -> Loaded:
    """An images dataset, in the voxels of the mask."""
    check_images(images)
    for name in ("smoothing_fwhm", "target_affine", "target_shape"):
        if getattr(options, name) is not None:
            raise ImageError(
                f"{name} needs whole images, but a store has only the voxels of its mask; "
                "fit the image files, or convert them again with it"
            )
    names = sample_names(images)
    if sources and names != sorted(names, key=_natural) and names != sorted(names):
        images = images.assign_attrs(sorted_by="their conversion")
    if choose is not None:
        images = choose(images)
    space = space_of(images)
    mask = mask_of(options, space)
    if mask is not None:
        keep = mask.ravel(order="F")[space.voxels]
        lost = int(mask.sum() - keep.sum())
        if not keep.any():
            raise SpaceError("the mask and the store have no voxel in common; give another mask")
        if lost:
            warnings.warn(f"{lost:,} voxels of the mask are not in the store and are left out", stacklevel=4)
        images = images.isel(voxel=np.flatnonzero(keep)) if not keep.all() else images
    if options.missing == "zero":
        images = images.assign(data=images["data"].where(images["data"] != 0))
    return Loaded(images, sources)


def _samples(items: Sequence[Any], labels: pd.Index | None) -> xr.Dataset:
    """The samples that files or images in memory are, without their data; named by the labels of a Series."""
    paths = [item if isinstance(item, str) else item.get_filename() for item in items]
    in_files = len(items) > 1 and None not in paths
    # Images in memory that were read from a file each go by its name.
    if in_files and (isinstance(items[0], str) or len(set(paths)) == len(paths)):
        samples = samples_of_files(paths)
    else:
        numbers = np.array([f"image-{k + 1}" for k in range(len(items))], dtype=object)
        samples = xr.Dataset(coords={"sample": ("sample", numbers)}, attrs={"named_by": "order"})
    if labels is None:
        return samples
    names = [label_text(label) for label in labels]
    check_unique(names, "names of the images in a Series are unique, but it repeats")
    if "source" in samples:
        _check_labels(names, [str(path) for path in samples["source"].values])
    return samples.assign_coords(sample=("sample", np.array(names, dtype=object))).assign_attrs(named_by="id")


def _reference(paths: list[str]) -> Any:
    """The header of the first image that can be read."""
    faults: dict[str, Exception] = {}
    for path in paths:
        try:
            return header_image(path)
        except ImageError as error:
            faults[path] = error
    raise_faults(faults)
    raise ImageError("a model needs images, but the list is empty")


def _labelled(data: Any, samples: xr.Dataset, space: VolumeSpace) -> xr.Dataset:
    """An array of images as a dataset of the samples; volumes of a 4-D image have numbers for names."""
    if samples.sizes["sample"] != data.shape[0]:
        volumes = [f"volume-{k + 1}" for k in range(data.shape[0])]
        return images_dataset(data, volumes, space).assign_attrs(named_by="order")
    images = images_dataset(data, sample_names(samples), space).assign_attrs(samples.attrs)
    return images.assign(source=samples["source"]) if "source" in samples else images


def _masked(
    read: Callable[[Preparation], Any], samples: xr.Dataset, how: Preparation, options: Options,
    check: Callable[[Loaded], object] | None, choose: Choice | None, paths: list[str] | None,
) -> Loaded:  # fmt: skip
    """Images that `read` gives, in the voxels that the mask, or their coverage, leaves."""

    def chosen(how: Preparation) -> Loaded:
        def images_of(how: Preparation) -> xr.Dataset:
            images = _labelled(read(how), samples, how.space)
            # Files are chosen before their headers are read.
            return images if choose is None else choose(images)

        smooths = paths is None and how.smoothing_fwhm is not None
        untreated = images_of(replace(how, smoothing_fwhm=None)) if smooths else None
        return Loaded(images_of(how), paths, untreated)

    loaded = chosen(how)
    if options.mask_img is not None:
        return loaded
    if check is not None:
        check(loaded)
    seen = chosen(replace(how, coverage=True)).images["data"].data
    return chosen(replace(how, space=mask_from_coverage(seen, how, options, paths)))


def _from_files(
    paths: list[str], samples: xr.Dataset, options: Options, check: Callable[[Loaded], object] | None,
    choose: Choice | None,
) -> Loaded:  # fmt: skip
    """3-D files, or one 4-D file."""
    if choose is not None and len(paths) > 1:
        samples, choose = choose(samples), None
        paths = [str(path) for path in samples["source"].values]
    how = preparation(_reference(paths), options)
    headers, faults = scan_headers(paths, how)
    raise_faults(faults)
    found: list[NiftiHeader] = [header for header in headers if header is not None]
    return _masked(lambda how: array_from_files(paths, found, how), samples, how, options, check, choose, paths)


def _check_labels(labels: list[str], paths: list[str]) -> None:
    """Raise where subjects of a table are named like those of its files, and one has the file of another."""
    found = [(subject_id(path) or "").removeprefix("sub-") for path in paths]
    bare = [label.removeprefix("sub-") for label in labels]
    wrong = [f"{label}: {path}" for label, path, x, y in zip(labels, paths, bare, found, strict=False) if x != y]
    if wrong and sorted(found) == sorted(bare):
        raise ImageError(f"each subject has its own image, but the table pairs {listing(wrong, 3)}; correct it")


def _from_images(
    items: list[Any], samples: xr.Dataset, options: Options, check: Callable[[Loaded], object] | None,
    choose: Choice | None,
) -> Loaded:  # fmt: skip
    """Images in memory."""
    again = len(items) - len({id(image) for image in items})
    if again:
        warnings.warn(
            f"{again} of {len(items)} images in memory are given more than once, so that the same data count as "
            "independent subjects; give each image once",
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
    return _masked(lambda how: array_from_images(items, how), samples, how, options, check, choose, None)
