"""Contrasts over the runs of a subject: fixed effects."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import check_occurs, contrast_matrix
from daskglm.errors import ContrastError, ImageError, NullRegressorError, listing
from daskglm.graph.compute import compute
from daskglm.kernels.contrasts import fixed_effects
from daskglm.models.functional import compute_contrasts
from daskglm.models.options import Options, mask_of
from daskglm.schema.space import VolumeSpace

_MAPS = ("effect_variance", "stat", "p_value", "z_score")


def contrast_over_runs(
    fits: Sequence[xr.Dataset],
    contrast: Any,
    stat_type: str | None = None,
    precision_weighted: bool = False,
    compute: Callable[..., tuple[Any, ...]] = compute,
) -> xr.Dataset:
    """Maps of a contrast over runs.

    Parameters
    ----------
    fits : sequence of xarray.Dataset
        Fit datasets, one a run, of the same voxels.
    contrast : str, array, or list with one of them a run
        Contrast of the regressors of each run.
    stat_type : {"t", "F"}, optional
        By default t for one row, F for several.
    precision_weighted : bool
        Weigh runs by the inverse of their variance.
    compute : callable
        Computes lazy objects.

    Returns
    -------
    xarray.Dataset
        As of :func:`compute_contrasts`, of one contrast, in memory.

    Raises
    ------
    ContrastError
        Where the contrast is wrong, or null in every run; the run is named.
    """
    name = contrast if isinstance(contrast, str) else "contrast"
    weights = run_weights(fits, contrast)
    given = {k: matrix for k, matrix in enumerate(weights) if matrix is not None}
    lazy = []
    for k, matrix in given.items():
        try:
            lazy.append(compute_contrasts(fits[k], {name: matrix}, stat_type))
        except ContrastError as error:
            raise ContrastError(f"run {k + 1}: {error}" if len(fits) > 1 else str(error)) from error
    maps = compute(*lazy)
    kinds = {str(item["stat_type"].values[0]) for item in maps}
    if len(kinds) > 1:
        raise ContrastError("a contrast has the same type in every run, but it is t in some and F in others")
    if len(maps) == 1:
        return maps[0]
    rows = {item.sizes["component"] for item in maps}
    if len(rows) > 1:
        raise ContrastError(f"a contrast has as many rows in every run, but the runs have {listing(map(str, rows))}")
    first = maps[0]
    combined = fixed_effects(
        np.stack([item["effect_size"].values[0] for item in maps]),
        np.stack([item["effect_variance"].values[0] for item in maps]),
        np.stack([np.asarray(fits[k]["degrees_of_freedom"].values) for k in given]),
        int(np.linalg.matrix_rank(next(iter(given.values())))) if kinds == {"F"} else None,
        precision_weighted,
    )
    values: dict[str, Any] = {kind: (("contrast", "voxel"), getattr(combined, kind)[None]) for kind in _MAPS}
    effect = (("contrast", "component", "voxel"), combined.effect_size[None])
    return xr.Dataset({"effect_size": effect, **values}, coords=first.coords, attrs=first.attrs)


def run_weights(fits: Sequence[xr.Dataset], contrast: Any) -> list[NDArray[np.float64] | None]:
    """Weights (q, p) of a contrast in each run; None in a run that it leaves out.

    Parameters
    ----------
    fits : sequence of xarray.Dataset
        Fit datasets.
    contrast : str, array, or list with one of them a run
        Contrast.

    Returns
    -------
    list of (q, p) float64 or None

    Raises
    ------
    ContrastError
        Where it is wrong in a run, or leaves all of them out.
    """
    per_run = contrast if isinstance(contrast, (list, tuple)) and _is_per_run(contrast, len(fits)) else None
    if per_run is not None and len(per_run) != len(fits):
        raise ContrastError(f"a list has one contrast a run, but there are {len(per_run)} for {len(fits)} runs")
    weights: list[NDArray[np.float64] | None] = []
    missing: list[ContrastError] = []
    for index, fit in enumerate(fits):
        definition = contrast if per_run is None else per_run[index]
        columns = [str(name) for name in fit["regressor"].values]
        if not isinstance(definition, str) and not np.any(np.asarray(definition, dtype=object) != 0):
            weights.append(None)
            warnings.warn(f"the contrast is null in run {index + 1}, which is left out", stacklevel=5)
            continue
        try:
            matrix = contrast_matrix(definition, columns, fit.attrs["terms"])
            check_occurs(matrix, columns, fit["row_space"].values)
            weights.append(matrix)
        except NullRegressorError as error:
            missing.append(error)
            weights.append(None)
        except ContrastError as error:
            if per_run is not None:
                raise ContrastError(f"run {index + 1}: {error}") from error
            if not isinstance(definition, str) or len(fits) == 1:
                raise
            missing.append(error)
            weights.append(None)
    if missing and all(item is None for item in weights):
        raise missing[0]
    if missing:
        left_out = [str(k + 1) for k, item in enumerate(weights) if item is None]
        warnings.warn(
            f"the contrast cannot be made in runs {listing(left_out)}, which are left out: {missing[0]}", stacklevel=5
        )
    if all(item is None for item in weights):
        raise ContrastError("the contrast is null in every run; give weights that are not all zero")
    return weights


def compute_fixed_effects(
    contrast_imgs: Sequence[Any],
    variance_imgs: Sequence[Any],
    mask: Any = None,
    precision_weighted: bool = False,
    dofs: Sequence[float] | None = None,
) -> tuple[Any, Any, Any, Any]:
    """Combine maps of effects and their variances, as nilearn's function of this name.

    Parameters
    ----------
    contrast_imgs, variance_imgs : sequence of images or paths
        Effects and their variances, one of each a run; 4-D effects are those of an F contrast.
    mask : image, path, fitted masker or None
        Voxels to combine; all by default.
    precision_weighted : bool
        Weigh by the inverse of the variance.
    dofs : sequence of float, optional
        Degrees of freedom of each; 100 by default, as in nilearn.

    Returns
    -------
    effect, variance, stat, z_score : Nifti1Image

    Raises
    ------
    ImageError, SpaceError
        Where the numbers of images or their grids differ.
    """
    if len(contrast_imgs) != len(variance_imgs) or not len(contrast_imgs):
        raise ImageError(f"effects come with variances, but there are {len(contrast_imgs)} and {len(variance_imgs)}")
    if dofs is not None and len(dofs) != len(contrast_imgs):
        raise ImageError(f"there is one number of degrees of freedom a run, but {len(dofs)} for {len(contrast_imgs)}")
    images = [nib.load(image) if not hasattr(image, "dataobj") else image for image in contrast_imgs]
    variances = [nib.load(image) if not hasattr(image, "dataobj") else image for image in variance_imgs]
    first = images[0]
    space = VolumeSpace.from_image(first)
    for index, image in enumerate([*images, *variances]):
        space.check_same_grid(image.shape, image.affine, f"image {index}")
    keep = mask_of(Options(mask), space)
    space = VolumeSpace.from_image(first, keep)
    effects = np.stack([_values(image, space) for image in images])
    spread = np.stack([_values(image, space)[0] for image in variances])
    freedom = np.repeat(np.asarray(dofs if dofs is not None else [100.0] * len(images))[:, None], spread.shape[1], 1)
    combined = fixed_effects(
        effects, spread, freedom, None if first.ndim == 3 else effects.shape[1], precision_weighted
    )
    effect = combined.effect_size if first.ndim == 4 else combined.effect_size[0]
    maps = (effect, combined.effect_variance, combined.stat, combined.z_score)
    return tuple(space.to_image(np.nan_to_num(values), outside=0) for values in maps)


def _is_per_run(contrast: Sequence[Any], n_runs: int) -> bool:
    """Whether a list holds one contrast a run, not the weights of one."""
    if all(np.ndim(item) == 0 and not isinstance(item, str) for item in contrast):
        return False
    texts = all(isinstance(item, str) for item in contrast)
    # A list of expressions is an F contrast where there is one run.
    return not (n_runs == 1 and (texts or len(contrast) > 1))


def _values(image: Any, space: VolumeSpace) -> NDArray[np.float64]:
    """Values (m, V) of an image at the voxels of a space."""
    grid = np.asanyarray(image.dataobj, dtype=np.float64)
    flat = grid.reshape(int(np.prod(space.shape)), -1, order="F")
    values: NDArray[np.float64] = flat[space.voxels].T
    return values
