"""Contrasts over the runs of a subject: fixed effects."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import check_occurs, contrast_matrix, is_text
from daskglm.design.matching import check_pairs
from daskglm.errors import ContrastError, ImageError, NullRegressorError, ParameterError, listing
from daskglm.graph.compute import compute
from daskglm.io.nifti import read_values
from daskglm.kernels.contrasts import ContrastMaps, estimates
from daskglm.kernels.fixed_effects import fixed_effects, joint_f
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
    approximate_f: bool = False,
) -> xr.Dataset:
    """Maps of a contrast over runs.

    Parameters
    ----------
    fits : sequence of xarray.Dataset
        Fit datasets, one a run, of the same voxels.
    contrast : str, array, or list with one of them a run, or one for all
        Contrast of the regressors of each run.
    stat_type : {"t", "F"}, optional
        By default t for one row, F for several.
    precision_weighted : bool
        Weigh runs by the inverse of their (co)variance.
    compute : callable
        Computes lazy objects.
    approximate_f : bool
        Nilearn's mean of the whitened effects of an F contrast, in place of the joint test.

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
    if len(lazy) == 1:
        (maps,) = compute(*lazy)
        return maps
    kinds = {str(item["stat_type"].values[0]) for item in lazy}
    if len(kinds) > 1:
        raise ContrastError("a contrast has the same type in every run, but it is t in some and F in others")
    ranks = [len(independent_rows(matrix)) for matrix in given.values()]
    if len({item.sizes["component"] for item in lazy}) > 1 or len(set(ranks)) > 1:
        raise ContrastError(
            "a contrast has as many rows in every run, and as many that are independent, but the runs have "
            f"{listing(str(len(matrix)) for matrix in given.values())} rows, {listing(map(str, ranks))} independent"
        )
    if kinds == {"F"} and not approximate_f:
        combined = _joint_f({k: fits[k] for k in given}, given, precision_weighted)
    else:
        maps = compute(*lazy)
        combined = fixed_effects(
            np.stack([item["effect_size"].values[0] for item in maps]),
            np.stack([item["effect_variance"].values[0] for item in maps]),
            _freedom(fits, given),
            ranks[0] if kinds == {"F"} else None,
            precision_weighted,
        )
    values: dict[str, Any] = {kind: (("contrast", "voxel"), getattr(combined, kind)[None]) for kind in _MAPS}
    values["effect_size"] = (("contrast", "component", "voxel"), combined.effect_size[None])
    seen = np.stack([np.asarray(fits[k]["residual_variance"].values) > 0 for k in given])
    values["degrees_of_freedom"] = ("voxel", np.where(seen, _freedom(fits, given), 0.0).sum(axis=0))
    return xr.Dataset(values, coords=lazy[0].coords, attrs=lazy[0].attrs)


def _freedom(fits: Sequence[xr.Dataset] | Mapping[int, xr.Dataset], runs: Iterable[int]) -> NDArray[np.float64]:
    """Degrees of freedom (k, V) of some runs."""
    return np.stack([np.asarray(fits[k]["degrees_of_freedom"].values) for k in runs])


def independent_rows(matrix: NDArray[np.float64]) -> list[int]:
    """Rows of a contrast that are no combination of those before them.

    Parameters
    ----------
    matrix : (q, p) float64
        Contrast.

    Returns
    -------
    list of int

    Examples
    --------
    >>> independent_rows(np.array([[1.0, -1, 0], [0, 1, -1], [1, 0, -1]]))
    [0, 1]
    """
    scaled = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    kept: list[int] = []
    for row in range(len(scaled)):
        if np.linalg.matrix_rank(scaled[[*kept, row]]) > len(kept):
            kept.append(row)
    return kept


def run_estimates(fit: xr.Dataset, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a run contributes to an F contrast over runs.

    Parameters
    ----------
    fit : xarray.Dataset
        Fit dataset of a run, its solution in memory.
    matrix : (q, p) float64
        Contrast, estimable.

    Returns
    -------
    effects : (m, V) float64
        The contrast's m independent rows times the coefficients.
    factors : (m, m, V) float64
        Lower triangular factors of their covariances.
    """
    weights = matrix[independent_rows(matrix)] @ fit["to_basis"].values
    parts = [estimates(solution, weights) for solution in fit["solution"].values]
    effects, factors = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    return effects, factors


def _joint_f(
    fits: Mapping[int, xr.Dataset], weights: Mapping[int, NDArray[np.float64]], precision_weighted: bool
) -> ContrastMaps:
    """The joint test of an F contrast over runs."""
    parts = [run_estimates(fit, weights[k]) for k, fit in fits.items()]
    return joint_f(
        np.stack([effects for effects, _ in parts]),
        np.stack([factors for _, factors in parts]),
        np.stack([np.asarray(fit["residual_variance"].values) for fit in fits.values()]),
        _freedom(fits, fits),
        precision_weighted,
    )


def run_weights(fits: Sequence[xr.Dataset], contrast: Any) -> list[NDArray[np.float64] | None]:
    """Weights (q, p) of a contrast in each run; None in a run that it leaves out.

    Parameters
    ----------
    fits : sequence of xarray.Dataset
        Fit datasets.
    contrast : str, array, or list with one of them a run, or one for all
        Contrast.

    Returns
    -------
    list of (q, p) float64 or None

    Raises
    ------
    ContrastError
        Where it is wrong in a run, or leaves all of them out.
    """
    definitions, shared = _by_run(contrast, len(fits))
    weights: list[NDArray[np.float64] | None] = []
    missing: list[ContrastError] = []
    names = [[str(name) for name in fit["regressor"].values] for fit in fits]
    for index, (fit, definition, columns) in enumerate(zip(fits, definitions, names, strict=True)):
        named = is_text(definition)
        if not named and not np.any(np.asarray(definition, dtype=object) != 0):
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
            if not shared or (not named and len(fits) > 1):
                raise ContrastError(f"run {index + 1}: {error}") from error
            if len(fits) == 1:
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
    if shared:
        check_same_names(weights, names, [f"run {k + 1}" for k in range(len(fits))])
    return weights


def warn_of_other_columns(fits: Sequence[xr.Dataset], contrast: Any, stacklevel: int) -> None:
    """Warn where one contrast serves runs whose designs have other columns, as nilearn does.

    Parameters
    ----------
    fits : sequence of xarray.Dataset
        Fit datasets.
    contrast : str, array, or list with one of them a run, or one for all
        Contrast.
    stacklevel : int
        As of :func:`warnings.warn`, from here.
    """
    names = [[str(name) for name in fit["regressor"].values] for fit in fits]
    lone = [name for name in dict.fromkeys(chain.from_iterable(names)) if not all(name in own for own in names)]
    if lone and _by_run(contrast, len(fits))[1]:
        warnings.warn(
            f"one contrast serves {len(fits)} runs, but not all of their designs have {listing(lone)}: regressors are "
            "found by name in each run, and adjusted for the others that it has; give the same regressors in every "
            "design, or a list with one contrast a run",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def check_same_names(
    weights: Sequence[NDArray[np.float64] | None], columns: Sequence[Sequence[str]], designs: Sequence[str]
) -> None:
    """Raise where weights by position are of other regressors in one design than in another.

    Parameters
    ----------
    weights : sequence of (q, p) float64 or None
        One contrast in each design; None where it is left out.
    columns : sequence of sequence of str
        Regressors of each design.
    designs : sequence of str
        What they are called.

    Raises
    ------
    ContrastError
        Naming the regressors that have weight in two that differ.
    """
    first: tuple[str, dict[str, list[float]]] | None = None
    for matrix, names, design in zip(weights, columns, designs, strict=True):
        if matrix is None:
            continue
        weighted = {names[k]: matrix[:, k].tolist() for k in np.flatnonzero(matrix.any(axis=0)).tolist()}
        first = first or (design, weighted)
        if weighted != first[1]:
            raise ContrastError(
                f"the same weights belong to the same regressors in every design, but they are of "
                f"{listing(first[1])} in {first[0]} and of {listing(weighted)} in {design}; give an expression of "
                "names, a pandas Series with the names as its index, or a list with one contrast a run"
            )


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
        Of each voxel over the runs that have it: a finite effect and a positive variance. NaN where none has.

    Notes
    -----
    Effects of an F contrast (4-D) come whitened and without their covariances, so that their mean is nilearn's
    approximation; :meth:`FirstLevelModel.compute_contrast` makes the joint test.

    Raises
    ------
    ImageError, SpaceError
        Where the numbers of images or their grids differ, a file cannot be read, or a variance is negative.
    ParameterError
        Where degrees of freedom are not positive numbers.
    """
    if len(contrast_imgs) != len(variance_imgs) or not len(contrast_imgs):
        raise ImageError(f"effects come with variances, but there are {len(contrast_imgs)} and {len(variance_imgs)}")
    if dofs is not None and len(dofs) != len(contrast_imgs):
        raise ImageError(f"there is one number of degrees of freedom a run, but {len(dofs)} for {len(contrast_imgs)}")
    degrees = np.asarray([100.0] * len(contrast_imgs) if dofs is None else dofs, dtype=np.float64)
    if not (np.isfinite(degrees) & (degrees > 0)).all():
        raise ParameterError(
            f"degrees of freedom are positive numbers, but dofs is {listing(dofs or ())}; correct them"
        )
    check_pairs(contrast_imgs, variance_imgs, "effects and variances")
    images, variances = ([_image(item) for item in given] for given in (contrast_imgs, variance_imgs))
    first = images[0]
    space = VolumeSpace.from_image(first)
    for index, image in enumerate([*images, *variances]):
        space.check_same_grid(image.shape, image.affine, f"image {index}")
    keep = mask_of(Options(mask), space)
    space = VolumeSpace.from_image(first, keep)
    effects = np.stack([_values(image, space) for image in images])
    spread = np.stack([_values(image, space)[0] for image in variances])
    if (spread < 0).any():
        raise ImageError("variances are not negative, but some of these are; give effects first, then their variances")
    # A run without a voxel's effect is none of those that are combined there.
    spread[~np.isfinite(effects).all(axis=1)] = np.nan
    freedom = np.repeat(degrees[:, None], spread.shape[1], axis=1)
    rows = effects.shape[1]
    combined = fixed_effects(effects, spread, freedom, rows if rows > 1 else None, precision_weighted)
    effect = combined.effect_size if rows > 1 else combined.effect_size[0]
    maps = (effect, combined.effect_variance, combined.stat, combined.z_score)
    return tuple(space.to_image(values, outside=0) for values in maps)


def _by_run(contrast: Any, n_runs: int) -> tuple[list[Any], bool]:
    """The contrast of each run, and whether it is one for all.

    A list holds contrasts: one a run, or one for all runs, whatever their number; only a list of numbers is itself
    one contrast. So does nilearn.
    """
    if not isinstance(contrast, (list, tuple)) or all(np.ndim(x) == 0 and not isinstance(x, str) for x in contrast):
        return [contrast] * n_runs, True
    if len(contrast) == 1:
        return list(contrast) * n_runs, True
    if len(contrast) != n_runs:
        raise ContrastError(
            f"a list has one contrast a run, or one for all runs, but there are {len(contrast)} for "
            f"{n_runs} run{'s' if n_runs > 1 else ''}; for an F contrast give one expression with commas "
            "('face, house') or a two-dimensional array"
        )
    return list(contrast), False


def _image(item: Any) -> Any:
    """An image in memory; a file is read to its end, and verified."""
    if hasattr(item, "dataobj"):
        return item
    header, values = read_values(os.fspath(item))
    grid = values.T.reshape(header.shape, order="F")
    return nib.Nifti1Image(grid, header.affine, nib.Nifti1Header(header.raw, check=False), dtype=grid.dtype)


def _values(image: Any, space: VolumeSpace) -> NDArray[np.float64]:
    """Values (m, V) of an image at the voxels of a space."""
    grid = np.asanyarray(image.dataobj, dtype=np.float64)
    flat = grid.reshape(int(np.prod(space.shape)), -1, order="F")
    values: NDArray[np.float64] = flat[space.voxels].T
    return values
