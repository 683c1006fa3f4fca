"""Labelled, lazy functions: images in, fit and maps out."""

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import check_occurs, check_one_row, contrast_matrix
from daskglm.design.formula import design_from_formula
from daskglm.design.matrix import check_design, design_array
from daskglm.errors import ContrastError, DesignError, ImageError, ParameterError, check_choice, option
from daskglm.graph.glm import contrast_maps, fewest, solve_moments, sum_moments
from daskglm.graph.images import lazy_array
from daskglm.graph.runs import solve_run, sum_blocks
from daskglm.graph.samples import match_design, match_values, participants_by_sample, warn_of_repeats
from daskglm.kernels.basis import Basis, is_estimable, orthonormal_basis, split_directions
from daskglm.kernels.contrasts import coefficients
from daskglm.kernels.scaling import Scaling
from daskglm.models.parameters import check_fraction, parse_noise_model
from daskglm.schema.datasets import check_images, space_of
from daskglm.schema.headers import describe_map

OUTPUT_TYPES = ("z_score", "stat", "p_value", "effect_size", "effect_variance")
_MAPS = ("effect_variance", "stat", "p_value", "z_score")


def fit_glm(
    images: xr.Dataset,
    design: pd.DataFrame,
    *,
    weights: Any = None,
    min_coverage: float = 0.5,
    allow_rank_deficient: bool = False,
    noise_model: str = "ols",
    bins: int | str | None = "auto",
) -> xr.Dataset:
    """Fit a linear model at every voxel, lazily: nothing is read until the result is computed.

    Parameters
    ----------
    images : xarray.Dataset
        An images dataset: ``data (sample, voxel)``, NaN = missing. Any chunking will do.
    design : (n, p) DataFrame
        Design matrix. If its index holds subject ids, rows are matched to samples by id; else by order.
    weights : (n,) or (n, V) array, optional
        Non-negative observation weights, by sample or by sample and voxel.
    min_coverage : float
        Voxels observed in a smaller fraction of the samples give NaN.
    allow_rank_deficient : bool
        Fit a rank-deficient design all the same; contrasts that it does not determine are refused.
    noise_model : {"ols", "ar1", "ar2", ...}
        "arN": the samples are the consecutive volumes of a run, with autoregressive noise of order N, fitted by
        whitening. A voxel with a missing value gives NaN then, and there are no weights.
    bins : int, None or "auto"
        Autoregressive coefficients are rounded to 1 / bins (order 1), or to that many clusters (higher orders),
        as nilearn does; None: each voxel has its own. "auto" is 100 for "ar1" and None above.

    Returns
    -------
    xarray.Dataset
        ``beta (regressor, voxel)`` in image units, ``residual_variance``, ``degrees_of_freedom`` and ``n``
        ``(voxel)``; ``solution (block)`` is what :func:`compute_contrasts` uses (drop it before writing the
        dataset). Each voxel uses the samples it has: beta = (X'WX)^-1 X'Wy over those.

    Raises
    ------
    DesignError, ImageError
        Before anything is read, where images and design do not fit together.
    """
    check_images(images)
    design = match_design(design, images)
    check_design(design, images.sizes["sample"], allow_rank_deficient=allow_rank_deficient)
    warn_of_repeats(images, design)
    matrix = design_array(design)
    basis, data = orthonormal_basis(matrix), lazy_array(images["data"])
    noise = parse_noise_model(noise_model, bins)
    if noise.order == 0:
        moments = sum_moments(
            data, basis, matrix, _check_weights(match_values(weights, images, design, "weights"), images)
        )
        solution = solve_moments(moments, fewest(check_fraction(min_coverage), len(design)), data.dtype)
    else:
        if weights is not None:
            raise ParameterError(f"observations have weights with noise_model 'ols' only, not with {noise_model!r}")
        regressors = matrix @ basis.to_basis
        moments = sum_blocks(data, regressors, noise.order)
        solution = solve_run(moments, regressors, noise, Scaling(), data.chunks[1], space_of(images).c_order)
    return label_fit(solution, data.chunks[1], basis, design, images["voxel"], images.attrs["space"])


def design_of_formula(formula: str, participants: Any, images: xr.Dataset) -> pd.DataFrame:
    """Design of a formula, its rows matched to the samples by id.

    Parameters
    ----------
    formula : str
        "~ age + C(site)"; "~ 1" needs no table.
    participants : DataFrame, path or None
        Table with a column participant_id; None: the one that a store brings.
    images : xarray.Dataset
        Images dataset of n samples.

    Returns
    -------
    (n, p) DataFrame

    Raises
    ------
    DesignError
        Where the formula or the table is wrong, or there is no table and the formula names columns.
    """
    table = participants_by_sample(participants, images)
    try:
        design = design_from_formula(formula, table)
    except DesignError as error:
        if table.shape[1] > 1 or participants is not None:
            raise
        raise DesignError(
            f"formula {formula!r} needs a participants table; give "
            f"{option('participants (confounds of SecondLevelModel.fit)', '--participants')}, or convert the images "
            "with it"
        ) from error
    design.attrs |= table.attrs
    return design


def label_fit(
    solution: da.Array,
    chunks: tuple[int, ...],
    basis: Basis,
    design: pd.DataFrame,
    voxel: Any,
    space: Mapping[str, Any],
) -> xr.Dataset:
    """Label the fits of all chunks of voxels.

    Parameters
    ----------
    solution : (v,) dask array of Fit or WhitenedFit
        One a chunk of voxels.
    chunks : tuple of v int
        Number of voxels in each.
    basis : Basis
        Basis of the design.
    design : (n, p) DataFrame
        Design matrix in the order of the samples.
    voxel : (V,) array
        Index of each voxel into the space.
    space : mapping
        Attributes of the space.

    Returns
    -------
    xarray.Dataset
        A fit dataset, lazy.
    """
    columns = [str(name) for name in design.columns]

    def per_voxel(field: str, dtype: type) -> da.Array:
        return da.map_blocks(
            _field, solution, field, dtype=dtype, chunks=(chunks,), meta=np.empty(0, dtype), token="fit-map"
        )

    beta = da.map_blocks(
        _beta,
        solution[None],
        basis.to_basis,
        dtype=float,
        chunks=((len(columns),), chunks),
        meta=np.empty((0, 0)),
        token="fit-map",
    )
    return xr.Dataset(
        {
            "beta": (("regressor", "voxel"), beta),
            "residual_variance": ("voxel", per_voxel("residual_variance", float)),
            "degrees_of_freedom": ("voxel", per_voxel("degrees_of_freedom", float)),
            "n": ("voxel", per_voxel("count", int)),
            "solution": ("block", solution),
            "to_basis": (("regressor", "basis"), basis.to_basis),
            "row_space": (("regressor", "basis"), basis.row_space),
            "from_basis": (("basis", "regressor"), basis.from_basis),
        },
        coords={"regressor": np.array(columns, dtype=object), "voxel": ("voxel", np.asarray(voxel))},
        attrs={
            "space": dict(space),
            "n_samples": len(design),
            "terms": design.attrs.get("terms", {}),
        },
    )


def compute_contrasts(
    fit: xr.Dataset, contrasts: Mapping[str, Any], stat_type: str | Mapping[str, str] | None = None
) -> xr.Dataset:
    """Evaluate contrasts of a fit, lazily; no image is read for it.

    Parameters
    ----------
    fit : xarray.Dataset
        From :func:`fit_glm`, lazy or computed.
    contrasts : mapping of str to contrast
        Name to definition: an expression of regressors ("age - sex"), a vector (p,), or for an F contrast a
        list of expressions, an expression with commas, or a matrix (q, p).
    stat_type : {"t", "F"} or mapping of str to one of them, optional
        Of all contrasts, or by name. By default t for one row and F for several.

    Returns
    -------
    xarray.Dataset
        ``effect_size (contrast, component, voxel)``, ``effect_variance, stat, p_value, z_score
        (contrast, voxel)`` and ``degrees_of_freedom (voxel)``, lazy; ``rank (contrast)`` of its rows. F contrasts
        follow nilearn: effects are whitened and their variance is the residual variance. p is one-sided for t.

    Raises
    ------
    ContrastError
        Where a contrast is unknown, null or not estimable; it is named.
    """
    basis = basis_of(fit)
    columns = [str(name) for name in fit["regressor"].values]
    kinds = stat_type if isinstance(stat_type, Mapping) else dict.fromkeys(contrasts, stat_type)
    weights = {
        name: contrast_weights(name, definition, columns, basis, fit.attrs["terms"], kinds.get(name))
        for name, definition in contrasts.items()
    }
    if not weights:
        raise ContrastError(f"give at least one contrast of the regressors {columns}")
    solution = lazy_array(fit["solution"])
    components = max(matrix.shape[0] for matrix, _ in weights.values())
    computed = fit["solution"].chunks is None
    chunks = tuple(item.count.size for item in fit["solution"].values) if computed else fit["n"].data.chunks[0]
    stacked = da.map_blocks(
        _contrasts_of_block, solution[None, None], basis, weights, components, dtype=float,
        chunks=((len(weights),), (components + len(_MAPS),), chunks), meta=np.empty((0, 0, 0)),
        token="contrasts",
    )  # fmt: skip
    maps: dict[str, Any] = {name: (("contrast", "voxel"), stacked[:, components + k]) for k, name in enumerate(_MAPS)}
    return xr.Dataset(
        {
            "effect_size": (("contrast", "component", "voxel"), stacked[:, :components]),
            **maps,
            "degrees_of_freedom": fit["degrees_of_freedom"].variable,
        },
        coords={
            "contrast": np.array(list(weights), dtype=object),
            "stat_type": ("contrast", [kind for _, kind in weights.values()]),
            "rank": ("contrast", [len(split_directions(matrix, basis)[0]) for matrix, _ in weights.values()]),
            "voxel": fit["voxel"],
        },
        attrs={"space": fit.attrs["space"]},
    )


def basis_of(fit: xr.Dataset) -> Basis:
    """Basis of the design of a fit, as contrasts need it.

    Parameters
    ----------
    fit : xarray.Dataset
        From :func:`fit_glm`.

    Returns
    -------
    Basis
        Without the coefficients of the constant, which the solution has.
    """
    return Basis(fit["to_basis"].values, fit["row_space"].values, fit["from_basis"].values, None)


def check_any_fitted(fit: xr.Dataset, of_what: str = "") -> None:
    """Raise where no voxel at all could be fitted.

    Parameters
    ----------
    fit : xarray.Dataset
        Computed fit.
    of_what : str
        Which images, for the message.

    Raises
    ------
    ImageError
        With the number of images that the best voxel has.
    """
    if not np.isfinite(fit["residual_variance"].values).any():
        best = int(fit["n"].values.max(initial=0))
        raise ImageError(
            f"no voxel{of_what} has enough observations: the best has {best} of {fit.attrs['n_samples']} images; "
            f"check that the images are finite, or lower {option('min_coverage', '--min-coverage')}"
        )


def map_image(maps: xr.Dataset, contrast: str, kind: str) -> Any:
    """One map of one contrast as an image.

    Parameters
    ----------
    maps : xarray.Dataset
        Computed maps.
    contrast : str
        Name of the contrast.
    kind : str
        One of the output types.

    Returns
    -------
    Nifti1Image
        3-D; 4-D for the effects of an F contrast, one volume a row. Outside the mask 0, or 1 for p.
    """
    chosen = maps.sel(contrast=contrast)
    values = chosen[kind].values
    if kind == "effect_size":
        is_f = str(chosen["stat_type"].values) == "F"
        values = values[: max(1, int((~np.isnan(values)).any(axis=1).sum()))] if is_f else values[0]
    image = space_of(maps).to_image(values, outside=1 if kind == "p_value" else 0)
    return describe_map(image, chosen, kind)


def contrast_weights(
    name: str,
    definition: Any,
    columns: list[str],
    basis: Basis,
    terms: Mapping[str, Any],
    stat_type: str | None,
) -> tuple[NDArray[np.float64], str]:
    """Weights of one contrast and its type; refused by name where a design does not determine it.

    Parameters
    ----------
    name : str
        For messages.
    definition : object
        Contrast, as in :func:`compute_contrasts`.
    columns : list of p str
        Of the design.
    basis : Basis
        Of the design.
    terms : mapping
        Terms of its formula.
    stat_type : {"t", "F"} or None
        As asked for; None: by the number of rows.

    Returns
    -------
    weights : (q, p) float64
    kind : {"t", "F"}

    Raises
    ------
    ContrastError
        Where it is unknown, null or not estimable, or t with several rows.
    """
    if stat_type is not None:
        check_choice("the type of a contrast", stat_type, ("t", "F"), ContrastError)
    matrix = contrast_matrix(definition, columns, terms)
    check_occurs(matrix, columns, basis.row_space)
    if not is_estimable(matrix, basis):
        raise ContrastError(
            f"contrast {name!r} is not estimable: the design cannot tell apart the regressors it compares; "
            "remove linearly dependent columns, or contrast what the design determines"
        )
    kind = stat_type or ("t" if matrix.shape[0] == 1 else "F")
    if kind == "t":
        check_one_row(name, matrix, columns)
    return matrix, kind


def _check_weights(weights: Any, images: xr.Dataset) -> Any:
    """Weights as an array of the shape of the samples or of the data."""
    if weights is None:
        return None
    array = weights.data if isinstance(weights, xr.DataArray) else weights
    if not isinstance(array, da.Array) or array.ndim == 1:
        array = np.asarray(array, dtype=np.float64)
    shape = images["data"].shape
    if array.shape not in (shape, shape[:1]):
        raise DesignError(f"weights have shape {shape[:1]} or {shape}, but these have {array.shape}")
    if isinstance(array, np.ndarray) and not (np.isfinite(array) & (array >= 0)).all():
        raise DesignError("weights are finite and not negative; give missing observations weight 0")
    return array


def _field(solution: NDArray[Any], field: str) -> NDArray[Any]:
    """A per-voxel field of the one fit in a block."""
    values: NDArray[Any] = getattr(solution[0], field)
    return values


def _beta(solution: NDArray[Any], to_basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of the one fit in a block."""
    return coefficients(solution[0, 0], to_basis)


def _contrasts_of_block(
    solution: NDArray[Any], basis: Basis, weights: Mapping[str, Any], components: int
) -> NDArray[np.float64]:
    """Stack the maps of every contrast of the one fit in a block: (contrast, components + 4, V)."""
    fit = solution[0, 0, 0]
    stacked = np.full((len(weights), components + len(_MAPS), fit.count.size), np.nan)
    for index, maps in enumerate(contrast_maps(fit, basis, weights).values()):
        stacked[index, : maps.effect_size.shape[0]] = maps.effect_size
        for offset, name in enumerate(_MAPS):
            stacked[index, components + offset] = getattr(maps, name)
    return stacked
