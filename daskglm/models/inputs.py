"""Whatever users have -> an images dataset."""

import glob
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.errors import ImageError, ParameterError, SpaceError, listing
from daskglm.graph.compute import compute
from daskglm.graph.glm import coverage, fewest
from daskglm.graph.images import Preparation, array_from_files, array_from_images, resample, scan_headers
from daskglm.io.cache import file_states, kept, load_arrays, save_arrays
from daskglm.io.nifti import NiftiHeader, read_header, read_mask
from daskglm.io.store import is_store, open_images
from daskglm.schema.datasets import check_images, images_dataset, sample_names, space_of
from daskglm.schema.names import check_unique, sample_ids, subject_id
from daskglm.schema.space import VolumeSpace

_TABLE_COLUMNS = ("subject_label", "map_name", "effects_map_path")


@dataclass(frozen=True)
class Options:
    """How images become vectors: the parameters of the estimators that say so.

    Attributes
    ----------
    mask_img : image, path, fitted masker, False or None
        Voxels to analyse; False: all; None: those with data in at least `min_coverage` of the images.
    missing : {"nan", "zero"}
        What counts as missing besides NaN and infinity.
    min_coverage : float
        Fraction of the samples.
    smoothing_fwhm, target_affine, target_shape
        As in nilearn.
    n_jobs : int or None
        Threads of a pass for the mask.
    memory : path or None
        Folder where what such a pass found is kept.
    """

    mask_img: Any = None
    missing: str = "nan"
    min_coverage: float = 0.5
    smoothing_fwhm: Any = None
    target_affine: Any = None
    target_shape: Any = None
    n_jobs: int | None = None
    memory: str | None = None


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


def load_images(given: Any, options: Options) -> Loaded:
    """Make an images dataset of any input of the second level.

    Parameters
    ----------
    given : path, glob, URL, list of paths or images, 4-D image, Series or Dataset
        Images in one of the forms that nilearn takes, or a store, or an images dataset.
    options : Options
        Mask, missing values, smoothing, resampling.

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
        return _named(_from_files([os.fspath(item) for item in items], options), ids)
    if all(hasattr(item, "dataobj") and hasattr(item, "affine") for item in items):
        return _named(_from_images(items, options), ids)
    kinds = sorted({type(item).__name__ for item in items})
    raise ImageError(
        f"images are paths, a glob, a store, nibabel images, a Series or an images dataset, but got {listing(kinds)}"
    )


def checked(options: Options) -> Options:
    """Check the values of options, and bring `smoothing_fwhm` to three floats.

    Parameters
    ----------
    options : Options
        As users gave them.

    Returns
    -------
    Options

    Raises
    ------
    ParameterError
        Naming the parameter and its value.
    """
    if options.missing not in ("nan", "zero"):
        raise ParameterError(f"missing is 'nan' or 'zero', but it is {options.missing!r}")
    if not 0 <= options.min_coverage <= 1:
        raise ParameterError(f"min_coverage is a fraction from 0 to 1, but it is {options.min_coverage}")
    for name, shapes in (
        ("smoothing_fwhm", ((), (3,))),
        ("target_affine", ((3, 3), (4, 4))),
        ("target_shape", ((3,),)),
    ):
        value = getattr(options, name)
        try:
            array = np.zeros(shapes[0]) if value is None else np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.full((), np.nan)
        if array.shape not in shapes or not np.isfinite(array).all() or (name != "target_affine" and (array < 0).any()):
            raise ParameterError(f"{name} is finite numbers of shape {shapes}, none negative, but it is {value!r}")
        if name == "smoothing_fwhm" and value is not None:
            options = replace(options, smoothing_fwhm=tuple(np.broadcast_to(array, 3).tolist()))
    return options


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
    if loaded.sources and all(os.path.isfile(path) for path in loaded.sources):
        return file_states(loaded.sources)
    data = images["data"]
    if loaded.sources is None or data.chunks is None:
        (values,) = compute(data.data)
        return [sample_names(images), values]
    # Dask names an array after what it is made of; a store says by which conversion its images came.
    return [sample_names(images), data.data.name, images.attrs.get("conversion")]


def expand(pattern: str) -> list[str]:
    """Files of a path or glob pattern, sorted.

    Parameters
    ----------
    pattern : str
        Path, or glob pattern; ``**`` matches folders.

    Returns
    -------
    list of str

    Raises
    ------
    ImageError
        Where nothing matches.
    """
    if os.path.isfile(pattern):
        return [pattern]
    found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    if not found:
        raise ImageError(f"no file matches {pattern!r}; check the folder and quote the pattern")
    return found


def preparation(reference: Any, options: Options) -> Preparation:
    """Grid, mask and treatment of images whose first one is `reference`; all voxels where no mask is given.

    Parameters
    ----------
    reference : nibabel image
        On the grid of the images.
    options : Options
        Mask, smoothing, resampling.

    Returns
    -------
    Preparation

    Raises
    ------
    SpaceError
        Where the mask is on another grid or empty.
    """
    if options.target_shape is not None and options.target_affine is None:
        raise SpaceError("target_shape goes with target_affine; give both or neither")
    if options.target_affine is not None:
        reference = resample(reference, options.target_affine, options.target_shape, "continuous")
    space = VolumeSpace.from_image(reference)
    mask = _mask_of(options, space)
    if mask is not None:
        space = VolumeSpace.from_image(reference, mask)
    return Preparation(
        space, options.missing == "zero", options.smoothing_fwhm, options.target_affine, options.target_shape
    )


def header_image(path: str) -> Any:
    """An image with the header of a file and no values of its own: it gives grid and affine.

    Parameters
    ----------
    path : str
        A file.

    Returns
    -------
    Nifti1Image
    """
    header = read_header(path)
    empty = np.broadcast_to(np.float32(0), header.shape[:3])
    return nib.Nifti1Image(empty, header.affine, nib.Nifti1Header(header.raw, check=False))


def mask_from_coverage(
    data: Any, how: Preparation, options: Options, sources: Sequence[str] | None = None
) -> VolumeSpace:
    """Voxels that enough images have, found by one pass over the images or kept from an earlier one.

    Parameters
    ----------
    data : (n, V) dask array
        Images.
    how : Preparation
        Gives the space of the V voxels.
    options : Options
        Coverage, threads, cache.
    sources : sequence of str, optional
        Files that the images come from.

    Returns
    -------
    VolumeSpace

    Raises
    ------
    ImageError
        Where no voxel has data in enough of them.
    """

    def count() -> list[NDArray[np.int64]]:
        return list(compute(coverage(data), n_jobs=options.n_jobs))

    if options.memory is None or sources is None:
        (counts,) = count()
    else:
        key = [file_states(sources), replace(options, mask_img=None, n_jobs=None, memory=None)]
        (counts,) = kept(options.memory, "coverage", key, count, save_arrays, load_arrays)
    return covered(how.space, counts, data.shape[0], options.min_coverage)


def covered(space: VolumeSpace, counts: NDArray[np.int64], n_images: int, min_coverage: float) -> VolumeSpace:
    """Voxels that enough images have.

    Parameters
    ----------
    space : VolumeSpace
        Space of V voxels.
    counts : (V,) int64
        Images that each voxel has.
    n_images : int
        Number of images.
    min_coverage : float
        Fraction of them that a voxel must have.

    Returns
    -------
    VolumeSpace
        Of the voxels that do.

    Raises
    ------
    ImageError
        Where none does.
    """
    keep = counts >= fewest(min_coverage, n_images)
    if not keep.any():
        raise ImageError(
            f"no voxel is finite and non-zero in {min_coverage:.0%} of the {n_images} images "
            f"(best: {counts.max()}); check the images, or lower min_coverage"
        )
    return space.select(keep)


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
    mask = _mask_of(options, space)
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


def _from_files(paths: list[str], options: Options) -> Loaded:
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
    if options.mask_img is None:
        how = replace(how, space=mask_from_coverage(data, how, options, paths))
        data = array_from_files(paths, found, how)
    known = all(subject_id(path) for path in paths) and len(paths) > 1
    names = ids if len(ids) == data.shape[0] else [f"volume-{k + 1}" for k in range(data.shape[0])]
    return Loaded(images_dataset(data, names, how.space), known and len(ids) == data.shape[0], paths)


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


def _from_images(items: Sequence[Any], options: Options) -> Loaded:
    """Images in memory."""
    if len({id(image) for image in items}) < len(items):
        raise ImageError("the same image in memory is given twice; give each once")
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
    if options.mask_img is None:
        how = replace(how, space=mask_from_coverage(data, how, options))
        data = array_from_images(items, how)
    names = [f"image-{k + 1}" for k in range(data.shape[0])]
    return Loaded(images_dataset(data, names, how.space), False, None)


def _mask_of(options: Options, space: VolumeSpace) -> NDArray[np.bool_] | None:
    """The mask that a user gave, as a 3-D bool array on the grid of a space; None: none given."""
    mask_img = options.mask_img
    if mask_img is None or mask_img is False:
        return None
    if hasattr(mask_img, "mask_img_"):
        mask_img = mask_img.mask_img_
    elif hasattr(mask_img, "mask_img") and not hasattr(mask_img, "dataobj"):
        raise ImageError("a masker given as mask_img is fitted, but this one is not; call its fit first")
    if isinstance(mask_img, (str, os.PathLike)):
        header, mask = read_mask(os.fspath(mask_img))
        affine, name = header.affine, f"the mask {mask_img}"
    elif not hasattr(mask_img, "dataobj"):
        raise ParameterError(f"mask_img is an image, a path, a fitted masker, False or None, but it is {mask_img!r}")
    else:
        mask = np.nan_to_num(np.asanyarray(mask_img.dataobj)) != 0
        affine, name = mask_img.affine, "the mask"
    if options.target_affine is not None:
        image = nib.Nifti1Image(mask.astype(np.float32), affine)
        resampled = resample(image, options.target_affine, options.target_shape, "nearest")
        mask = np.asanyarray(resampled.dataobj) != 0
    else:
        space.check_same_grid(mask.shape, affine, name)
    if not mask.any():
        raise SpaceError(f"a mask keeps at least one voxel, but {name} is empty; give another mask_img")
    return mask
