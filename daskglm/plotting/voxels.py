"""One voxel: what was observed against what was fitted."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.utils.validation import check_is_fitted

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import design_array
from daskglm.errors import ParameterError
from daskglm.kernels.basis import orthonormal_basis
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.permutation import contrast_of
from daskglm.models.runs import run_shape
from daskglm.models.second_level import SecondLevelModel
from daskglm.models.voxels import check_run, images_at, peak_of, run_at, voxel_at
from daskglm.plotting.canvas import BLUE, GREY, ORANGE, RED, axes_for, finish, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
# A regressor with so few values is one of groups: its points are drawn side by side.
_GROUPS = 6


def plot_voxel(
    model: FirstLevelModel | SecondLevelModel, contrast: Any = None, coords: Sequence[float] | None = None, *,
    first_level_contrast: str | None = None, run: int = 0, axes: "Axes | None" = None, title: str | None = None,
    output_file: "str | os.PathLike[str] | None" = None,
) -> "Axes":  # fmt: skip
    """Plot what was observed in one voxel, and what was fitted to it.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted; the voxel is read again, from the store, files, images or models that were fitted.
    contrast : str, array or list, optional
        Contrast of the model. May be left out where the design has one column, or `coords` are given.
    coords : 3 float, optional
        Point, in mm; by default the peak: the largest absolute z of the contrast.
    first_level_contrast : str, optional
        Which maps, where the input of a second level named several.
    run : int
        Which run of a first level, from 0.
    axes : Axes, optional
        Where to draw.
    title : str, optional
        Above the plot.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Axes
        First level: the series of the run, in the units of the fit, and X beta, over time. Second level, t contrast c:
        over ``X c / c'c``, the contrast's regressor, the partial residuals (what was observed, less what the other
        regressors explain beyond their mean) and the fitted line with its 95% confidence band. F contrast or none:
        observed against fitted. Images without a value there are left out and counted in the legend.

    Raises
    ------
    ContrastError, ParameterError
        Where the contrast is wrong, or the voxel was not analysed or not fitted.
    """
    check_is_fitted(model)
    if isinstance(model, FirstLevelModel):
        check_run(model, run)
        index = _voxel(model, contrast, coords, None)
        axes, shown = _draw_series(axes, model, index, run)
    else:
        contrast = contrast_of(model.design_matrix_, contrast) if coords is None else contrast
        index = _voxel(model, contrast, coords, first_level_contrast)
        axes, shown = _draw_subjects(axes, model, contrast, index, first_level_contrast)
    place = ", ".join(f"{value:g}" for value in model.space_.coordinates(np.array([index]))[0].round(1) + 0.0)
    finish(axes, title or f"Voxel at ({place}) mm\n{shown}", output_file)
    return axes


def _voxel(model: Any, contrast: Any, coords: Any, first_level_contrast: str | None) -> int:
    """Position of the voxel to draw."""
    if coords is not None:
        return voxel_at(model.space_, coords)
    if contrast is None:
        raise ParameterError("a voxel is that of coords, or the peak of a contrast; give one of them")
    names = {} if isinstance(model, FirstLevelModel) else {"first_level_contrast": first_level_contrast}
    return peak_of(model.compute_contrast(contrast, **names), model.space_)


def _draw_series(axes: "Axes | None", model: FirstLevelModel, index: int, run: int) -> tuple["Axes", str]:
    """Draw a series and its fit over time; what they are, for the title."""
    fit = model.fits_[run]
    beta = fit["beta"].values[:, index]
    _check_fitted(beta)
    design = design_array(model.design_matrices_[run])
    observed, fitted = run_at(model, np.array([index]), run)[:, 0], design @ beta
    volumes = model._runs[run].volumes
    # Lines break where volumes were left out.
    series = np.full((2, run_shape(model._runs[run].source)[0][3]), np.nan)
    series[:, volumes] = observed, fitted
    times = np.arange(series.shape[1], dtype=np.float64)
    if model.t_r is not None:
        times = (times + model.slice_time_ref) * model.t_r
    left_out = series.shape[1] - len(volumes)
    note = f"; {left_out} left out" if left_out else ""
    axes = axes_for(axes, 9.0, 3.8)
    axes.plot(times, series[0], color=GREY, marker=".", markersize=4, linewidth=0.8,
              label=f"observed, {len(volumes):,} volumes{note}")  # fmt: skip
    axes.plot(times, series[1], color=BLUE, linewidth=2.0, label="fitted")
    axes.set(xlabel="Volume" if model.t_r is None else "Time (s)", ylabel=f"Signal ({_unit(model, run)})")
    return axes, f"run {run + 1}: R\u00b2 = {fitted.var() / observed.var():.2f}"


def _draw_subjects(
    axes: "Axes | None", model: SecondLevelModel, contrast: Any, index: int, first_level_contrast: str | None
) -> tuple["Axes", str]:
    """Draw images and their fit; what they are, for the title."""
    fit = model._fit_of(first_level_contrast)
    beta = fit["beta"].values[:, index]
    _check_fitted(beta)
    values = images_at(model, np.array([index]), first_level_contrast)[:, 0]
    present = np.isfinite(values)
    design, observed = design_array(model.design_matrix_)[present], values[present]
    missing = int((~present).sum())
    note = f"{present.sum():,} images" + (f"; {missing:,} left out, without a value here" if missing else "")
    columns = [str(name) for name in model.design_matrix_.columns]
    weights = None if contrast is None else contrast_matrix(contrast, columns, fit.attrs["terms"])
    axes = axes_for(axes)
    if weights is None or len(weights) > 1:
        fitted = design @ beta
        axes.plot(fitted, observed, "o", color=BLUE, markersize=5, label=note)
        ends = np.array([fitted.min(), fitted.max()])
        axes.plot(ends, ends, color=RED, label="observed = fitted")
        axes.set(xlabel="Fitted value (image units)", ylabel="Observed value (image units)")
        return axes, "observed against fitted"
    variance = float(fit["residual_variance"].values[index])
    dof = float(fit["degrees_of_freedom"].values[index])
    _draw_contrast(axes, design, observed, beta, weights[0], variance, dof, note)
    name = contrast if isinstance(contrast, str) else "contrast"
    effect = float(weights[0] @ beta)
    error = float(_standard_errors(weights, design, variance)[0])
    if np.ptp(_regressor(design, weights[0])) == 0:
        axes.set_xlabel("Image, in the order of the design")
    else:
        axes.set_xlabel(f"{plain(name)} (regressor, in the units of the design)")
    return axes, f"{name}: {effect:.3g} \u00b1 {error:.2g} (standard error), t({dof:.0f}) = {effect / error:.2f}"


def _draw_contrast(
    axes: "Axes", design: Array, observed: Array, beta: Array, weights: Array, variance: float, dof: float, note: str
) -> None:
    """Draw partial residuals, the line of a contrast and its confidence band."""
    x = _regressor(design, weights)
    others = design - np.outer(x, weights)
    basis = orthonormal_basis(others)
    # The mean of the other regressors is the level of the plot, unless the level is what the contrast tests.
    mean = others.mean(axis=0) if basis.rank and basis.constant is not None else np.zeros_like(beta)
    points = observed - (others - mean) @ beta
    constant = np.ptp(x) == 0
    places = np.arange(1.0, len(x) + 1) if constant else _side_by_side(x)
    axes.plot(places, points, "o", color=BLUE, markersize=5, alpha=0.8, label=note)
    along = np.array([places[0], places[-1]]) if constant else np.linspace(x.min(), x.max(), 101)
    rows = np.outer(np.full(2, x[0]) if constant else along, weights) + mean
    line = rows @ beta
    half = stats.t.ppf(0.975, dof) * _standard_errors(rows, design, variance)
    axes.plot(along, line, color=RED, linewidth=2.0, label="fitted")
    axes.fill_between(
        along, line - half, line + half, color=ORANGE, alpha=0.25, linewidth=0, label="95% confidence of the fit"
    )
    adjusted = "\nadjusted for the other regressors" if basis.rank else ""
    axes.set_ylabel(f"Value (image units){adjusted}")


def _standard_errors(rows: Array, design: Array, variance: float) -> Array:
    """Standard error of each row times the coefficients."""
    errors: Array = np.sqrt(variance * ((rows @ orthonormal_basis(design).to_basis) ** 2).sum(axis=1))
    return errors


def _regressor(design: Array, weights: Array) -> Array:
    """The contrast's regressor: X beta = x (c'beta) + what is orthogonal to c."""
    x: Array = design @ weights / (weights @ weights)
    return x


def _side_by_side(x: Array) -> Array:
    """Points of a few groups moved apart, in the order of the images."""
    groups, members = np.unique(x.round(9), return_inverse=True)
    if len(groups) > _GROUPS or len(groups) == len(x):
        return x
    moved = x.copy()
    for group in range(len(groups)):
        here = np.flatnonzero(members == group)
        if here.size > 1:
            moved[here] += np.linspace(-0.1, 0.1, here.size) * np.diff(groups).min()
    return moved


def _unit(model: FirstLevelModel, run: int) -> str:
    """Unit of the values that were fitted."""
    scaling = model._scaled
    if scaling.percent_of is not None:
        return f"% of the mean of the {scaling.percent_of}"
    if model._runs[run].by_volume:
        return "% of the mean of the volume"
    return "standard deviations" if scaling.standardize else "image units"


def _check_fitted(beta: Array) -> None:
    """Raise where a voxel has no fit."""
    if not np.isfinite(beta).all():
        raise ParameterError("a voxel with a fit can be drawn, but this one has none: it has too few values")
