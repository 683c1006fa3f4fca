"""How images become vectors: parameters, grid and mask."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from daskglm.errors import ImageError, ParameterError, SpaceError, check_choice, listing, option
from daskglm.graph.compute import compute
from daskglm.graph.glm import coverage, fewest
from daskglm.graph.images import Preparation, resample
from daskglm.io.cache import file_states, kept, load_arrays, save_arrays
from daskglm.io.nifti import mask_of_values, read_header, read_mask
from daskglm.schema.space import VolumeSpace, one_volume


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
    check_choice("missing", options.missing, ("nan", "zero"))
    if not 0 <= options.min_coverage <= 1:
        raise ParameterError(f"min_coverage is a fraction from 0 to 1, but it is {options.min_coverage}")
    for name, shapes, rule in (
        ("smoothing_fwhm", ((), (3,)), "a width in mm, or three of them, not negative"),
        ("target_affine", ((3, 3), (4, 4)), "a 3 x 3 or 4 x 4 matrix of finite numbers"),
        ("target_shape", ((3,),), "three numbers of voxels"),
    ):
        value = getattr(options, name)
        try:
            array = np.zeros(shapes[0]) if value is None else np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.full((), np.nan)
        if array.shape not in shapes or not np.isfinite(array).all() or (name != "target_affine" and (array < 0).any()):
            raise ParameterError(f"{name} is {rule}, but it is {value!r}")
        if name == "smoothing_fwhm" and value is not None:
            options = replace(options, smoothing_fwhm=tuple(np.broadcast_to(array, 3).tolist()))
    return options


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
    options = _as_masker(options)
    if options.target_shape is not None and options.target_affine is None:
        raise SpaceError("target_shape goes with target_affine; give both or neither")
    if options.target_affine is not None:
        reference = resample(reference, options.target_affine, options.target_shape, "nearest")
    space = VolumeSpace.from_image(reference)
    mask = mask_of(options, space)
    if mask is not None:
        space = VolumeSpace.from_image(reference, mask)
    return Preparation(
        space, options.missing == "zero", options.smoothing_fwhm, options.target_affine, options.target_shape
    )


def _as_masker(options: Options) -> Options:
    """Options with what a masker given as mask does to images beside masking them, which nilearn does then too."""
    masker = options.mask_img
    if not hasattr(masker, "mask_img_"):
        return options
    unknown = {
        name: value
        for name in ("detrend", "high_pass", "low_pass", "high_variance_confounds", "runs", "clean_args")
        if (value := getattr(masker, name, None)) is not None and value is not False
    }
    if unknown:
        raise ParameterError(
            f"a masker given as mask_img may smooth and resample, but this one has {listing(map(str, unknown))} set; "
            "leave that to the design (drift_model, confounds)"
        )
    found = {name: getattr(masker, name, None) for name in ("smoothing_fwhm", "target_affine", "target_shape")}
    for name, value in found.items():
        own = getattr(options, name)
        if value is not None and own is not None and not np.array_equal(np.broadcast_arrays(value, own)[0], own):
            raise ParameterError(f"{name} is {own!r}, but that of the masker given as mask_img is {value!r}; give one")
    return checked(replace(options, **{name: value for name, value in found.items() if value is not None}))


def mask_of(options: Options, space: VolumeSpace) -> NDArray[np.bool_] | None:
    """The mask that a user gave.

    Parameters
    ----------
    options : Options
        Mask and target grid.
    space : VolumeSpace
        Grid that the mask has to be on.

    Returns
    -------
    (X, Y, Z) bool array or None
        None where no mask was given.

    Raises
    ------
    ParameterError, ImageError, SpaceError
        Where it is no mask, not fitted, empty, or on another grid.
    """
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
        affine, name = mask_img.affine, "the mask"
        mask = one_volume(mask_of_values(np.asanyarray(mask_img.dataobj), name))
    if options.target_affine is not None:
        image = nib.Nifti1Image(mask.astype(np.float32), affine)
        resampled = resample(image, options.target_affine, options.target_shape, "nearest")
        mask = np.asanyarray(resampled.dataobj) != 0
    else:
        space.check_same_grid(mask.shape, affine, name)
    if not mask.any():
        raise SpaceError(f"a mask keeps at least one voxel, but {name} is empty; give another mask")
    return mask


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
        Images prepared for their coverage, or as they are.
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
        key = [file_states(sources), options.target_affine, options.target_shape]
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
            f"(best: {counts.max()}); check the images, or lower {option('min_coverage', '--min-coverage')}"
        )
    return space.select(keep)
