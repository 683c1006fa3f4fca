"""nilearn's GLM of arrays: run_glm, its results by label, and contrasts of them."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskglm.design.contrasts import contrast_matrix, parse_contrast
from daskglm.errors import ContrastError, DesignError, ParameterError, check_choice
from daskglm.graph.compute import compute
from daskglm.graph.glm import contrast_maps
from daskglm.graph.runs import solve_run, sum_blocks
from daskglm.kernels.basis import Basis, is_estimable, orthonormal_basis
from daskglm.kernels.contrasts import Solution, coefficients
from daskglm.kernels.distributions import f_p_value, f_z_score, t_p_value, t_z_score
from daskglm.kernels.noise import WhitenedFit, of_label
from daskglm.kernels.scaling import Scaling, percent_of_volume, scale_values
from daskglm.models.parameters import affordable_noise, parse_noise_model

Array = NDArray[np.float64]
# Voxels that are solved by one task.
_VOXELS_TOGETHER = 2**14


@dataclass(frozen=True)
class OLSModel:
    """Independent noise."""

    order: int = 0


@dataclass(frozen=True)
class ARModel:
    """Autoregressive noise: its order, and the coefficients of a label."""

    rho: Array

    @property
    def order(self) -> int:
        """Number of the coefficients."""
        return self.rho.size


@dataclass(frozen=True)
class TContrastResults:
    """A t contrast: effect, its standard deviation, t and degrees of freedom, of the V voxels of a label."""

    effect: Array
    sd: Array
    t: Array
    df_den: float


@dataclass(frozen=True)
class FContrastResults:
    """An F contrast: whitened effects, F and its degrees of freedom, of the V voxels of a label."""

    effect: Array
    F: Array
    df_num: int
    df_den: float


@dataclass(frozen=True)
class RegressionResults:
    """The fit of the voxels that share a label, by nilearn's names.

    Attributes
    ----------
    parts : tuple of Solution
        Fits of the V voxels.
    basis : Basis
        Of the design, p columns.
    model : OLSModel or ARModel
        Their noise.
    """

    parts: tuple[Solution, ...]
    basis: Basis
    model: OLSModel | ARModel

    @property
    def theta(self) -> Array:
        """Coefficients, (p, V)."""
        return np.concatenate([coefficients(part, self.basis.to_basis) for part in self.parts], axis=1)

    @property
    def dispersion(self) -> Array:
        """Residual variance, (V,)."""
        return np.concatenate([part.residual_variance for part in self.parts])

    @property
    def df_residuals(self) -> float:
        """Degrees of freedom; the most of a voxel, where observations are missing."""
        return float(max(part.degrees_of_freedom.max(initial=0.0) for part in self.parts))

    @property
    def cov(self) -> Array:
        """(X'W'WX)^-1 of complete voxels, (p, p)."""
        _, covariance = next(self.parts[0].covariances(self.basis.to_basis))
        return np.asarray(covariance[0])

    def Tcontrast(self, matrix: Any) -> TContrastResults:  # noqa: N802
        """Test one combination of the coefficients.

        Parameters
        ----------
        matrix : (p,) or (1, p) array
            Weights.

        Returns
        -------
        TContrastResults
        """
        found = compute_contrast(self._labels, {0.0: self}, matrix, "t")
        return TContrastResults(found.effect, np.sqrt(found.variance), found.stat(), found.dof)

    def Fcontrast(self, matrix: Any) -> FContrastResults:  # noqa: N802
        """Test several combinations of the coefficients together.

        Parameters
        ----------
        matrix : (q, p) array
            Weights.

        Returns
        -------
        FContrastResults
        """
        found = compute_contrast(self._labels, {0.0: self}, matrix, "F")
        return FContrastResults(found.effect, found.stat(), found.dim, found.dof)

    @property
    def _labels(self) -> Array:
        """The one label of its voxels."""
        return np.zeros(sum(part.count.size for part in self.parts))


def run_glm(
    Y: Any,
    X: Any,
    noise_model: str = "ar1",
    bins: int | str | None = 100,
    n_jobs: int | None = -1,
    verbose: int = 0,
    random_state: Any = None,
) -> tuple[NDArray[Any], dict[Any, RegressionResults]]:
    """Fit a linear model to each column of an array, as nilearn's function of this name.

    Parameters
    ----------
    Y : (n, V) array or dask array
        Data, a row a volume.
    X : (n, p) array
        Design.
    noise_model : str
        "ols" or "arN".
    bins : int, None or "auto"
        Steps, or clusters, of the autoregressive coefficients; None: each voxel has its own.
    n_jobs : int or None
        Threads in this process when no ``distributed.Client`` is active.
    verbose : int
        1 and more: a progress bar, on standard error.
    random_state : int, RandomState or None
        Seed of the clusters.

    Returns
    -------
    labels : (V,) array
        Label of each voxel: 0.0 for "ols", else its coefficients as text, "0.12" or "0.12_-0.05".
    results : dict
        Label to :class:`RegressionResults`, whose ``theta`` is (p, voxels of the label).

    Raises
    ------
    DesignError, ParameterError
        Where shapes differ, the design leaves no degrees of freedom, or the noise model is none.
    """
    matrix = np.asarray(X, dtype=np.float64)
    values = Y if isinstance(Y, da.Array) else np.asarray(Y)
    if matrix.ndim != 2 or values.ndim != 2 or len(matrix) != values.shape[0]:
        raise DesignError(
            f"the design has a row a row of the data, but the shapes are {matrix.shape} and {values.shape}; give both "
            "for the same volumes"
        )
    data = values if isinstance(values, da.Array) else da.from_array(values, chunks=(-1, _VOXELS_TOGETHER))
    if not np.isfinite(matrix).all():
        raise DesignError("a design is finite numbers, but this one has NaN or infinity; replace them")
    noise = parse_noise_model(noise_model, bins, random_state)
    basis = orthonormal_basis(matrix)
    noise = affordable_noise(noise, len(matrix), basis.rank)
    regressors = matrix @ basis.to_basis
    moments = sum_blocks(data, regressors, noise.order)
    lazy = solve_run(moments, regressors, noise, Scaling(), data.chunks[1])
    (found,) = compute(lazy, n_jobs=n_jobs, progress="Fitting" if verbose else None)
    return labelled(found, basis)


def labelled(fits: Iterable[Any], basis: Basis) -> tuple[NDArray[Any], dict[Any, RegressionResults]]:
    """Voxels by what noise they have, as nilearn keeps them.

    Parameters
    ----------
    fits : iterable of Fit or WhitenedFit
        Of consecutive chunks of V voxels.
    basis : Basis
        Of the design.

    Returns
    -------
    labels : (V,) array
    results : dict
        Label to :class:`RegressionResults`.
    """
    fits = tuple(fits)
    whitened = [fit for fit in fits if isinstance(fit, WhitenedFit) and fit.coefficients.shape[1]]
    if not whitened:
        return np.zeros(sum(fit.count.size for fit in fits)), {0.0: RegressionResults(fits, basis, OLSModel())}
    parts: dict[str, list[WhitenedFit]] = {}
    labels: list[str] = []
    for fit in whitened:
        names = np.array(["_".join(str(value) for value in row.tolist()) for row in fit.coefficients], dtype=object)
        for index, name in enumerate(names):
            if (fit.labels == index).any():
                parts.setdefault(name, []).append(of_label(fit, index))
        labels += names[fit.labels].tolist()
    results = {
        name: RegressionResults(tuple(of_name), basis, ARModel(rho))
        for name, of_name in parts.items()
        for rho in of_name[0].coefficients
    }
    return np.array(labels), results


class Contrast:
    """A contrast's effect and variance at each voxel, by nilearn's names; those of independent runs add up.

    Parameters
    ----------
    effect : (V,) or (q, V) array
        Effects, in image units; those of F are whitened.
    variance : (V,) array
        Their variance.
    dim : int, optional
        Rows of the contrast; by default those of `effect`. Several make an F contrast.
    dof : float
        Degrees of freedom.
    stat_type : {"t", "F"}
        Type.

    Raises
    ------
    ContrastError
        Where shapes or type are wrong.
    """

    def __init__(self, effect: Any, variance: Any, dim: int | None = None, dof: float = 1e10, stat_type: str = "t"):
        self.effect, self.variance = np.asarray(effect), np.asarray(variance)
        if self.variance.ndim != 1 or self.effect.ndim not in (1, 2):
            raise ContrastError(
                f"effects have shape (V,) or (q, V) and variances (V,), but these have {self.effect.shape} and "
                f"{self.variance.shape}"
            )
        check_choice("stat_type", stat_type, ("t", "F"), ContrastError)
        rows = self.effect.shape[0] if self.effect.ndim == 2 else 1
        self.dim = rows if dim is None else int(dim)
        self.dof = float(dof)
        self.stat_type = "F" if self.dim > 1 else stat_type
        self.stat_: Array | None = None

    def effect_size(self) -> Array:
        """Effects.

        Returns
        -------
        (V,) or (q, V) float64
        """
        return self.effect

    def effect_variance(self) -> Array:
        """Variance of the effects.

        Returns
        -------
        (V,) float64
        """
        return self.variance

    def stat(self, baseline: float = 0.0) -> Array:
        """The statistic, t or F, of the effect minus a baseline; NaN where the variance is zero.

        Parameters
        ----------
        baseline : float
            Effect under the null hypothesis.

        Returns
        -------
        (V,) float64
        """
        variance = np.where(self.variance > 0, self.variance, np.nan)
        effect = self.effect - baseline
        if self.stat_type == "F":
            self.stat_ = np.sum(np.atleast_2d(effect) ** 2, axis=0) / self.dim / variance
        else:
            self.stat_ = (effect / np.sqrt(variance)).ravel()
        return self.stat_

    def p_value(self, baseline: float = 0.0) -> Array:
        """One-sided p.

        Parameters
        ----------
        baseline : float
            Effect under the null hypothesis.

        Returns
        -------
        (V,) float64
        """
        stat = self.stat(baseline)
        return t_p_value(stat, self.dof) if self.stat_type == "t" else f_p_value(stat, self.dim, self.dof)

    def one_minus_pvalue(self, baseline: float = 0.0) -> Array:
        """1 - p, without the loss of digits.

        Parameters
        ----------
        baseline : float
            Effect under the null hypothesis.

        Returns
        -------
        (V,) float64
        """
        stat = self.stat(baseline)
        if self.stat_type == "t":
            return t_p_value(-stat, self.dof)
        with np.errstate(divide="ignore"):
            return f_p_value(1.0 / stat, self.dof, self.dim)

    def z_score(self, baseline: float = 0.0) -> Array:
        """Standard normal quantile of p, finite in the far tails.

        Parameters
        ----------
        baseline : float
            Effect under the null hypothesis.

        Returns
        -------
        (V,) float64
        """
        stat = self.stat(baseline)
        return t_z_score(stat, self.dof) if self.stat_type == "t" else f_z_score(stat, self.dim, self.dof)

    def __add__(self, other: "Contrast") -> "Contrast":
        """Effects, variances and degrees of freedom of independent runs add up."""
        if (self.stat_type, self.dim) != (other.stat_type, other.dim):
            raise ContrastError(
                f"contrasts that add up have one type and as many rows, but these are {self.stat_type} of {self.dim} "
                f"and {other.stat_type} of {other.dim}"
            )
        if self.stat_type == "F":
            warnings.warn(
                "whitened effects of F contrasts are added, which is approximate; FirstLevelModel.compute_contrast "
                "tests several runs jointly",
                stacklevel=2,
            )
        dof = self.dof + other.dof
        return Contrast(self.effect + other.effect, self.variance + other.variance, self.dim, dof, self.stat_type)

    def __mul__(self, scalar: float) -> "Contrast":
        """The same contrast in other units."""
        return Contrast(self.effect * scalar, self.variance * scalar**2, self.dim, self.dof, self.stat_type)

    __rmul__ = __mul__

    def __truediv__(self, scalar: float) -> "Contrast":
        """The same contrast in other units."""
        return self * (1.0 / scalar)


def compute_contrast(
    labels: NDArray[Any], regression_result: Mapping[Any, RegressionResults], con_val: Any, stat_type: str | None = None
) -> Contrast:
    """Evaluate a contrast of what :func:`run_glm` found, as nilearn's function of this name.

    Parameters
    ----------
    labels : (V,) array
        From :func:`run_glm`.
    regression_result : mapping
        From :func:`run_glm`.
    con_val : (p,) or (q, p) array
        Weights.
    stat_type : {"t", "F"}, optional
        By default t for one row, F for several.

    Returns
    -------
    Contrast

    Raises
    ------
    ContrastError
        Where the weights are malformed, null or not estimable.
    """
    basis = next(iter(regression_result.values())).basis
    matrix = contrast_matrix(con_val, [str(index) for index in range(len(basis.to_basis))])
    kind = stat_type or ("t" if len(matrix) == 1 else "F")
    check_choice("stat_type", kind, ("t", "F"), ContrastError)
    if kind == "t" and len(matrix) > 1:
        raise ContrastError(f"a t contrast must have one row, got {len(matrix)}; give stat_type='F'")
    if not is_estimable(matrix, basis):
        raise ContrastError(f"contrast {con_val!r} is not estimable: the design cannot tell its columns apart")
    effect, variance = np.empty((len(matrix), len(labels))), np.empty(len(labels))
    for label, result in regression_result.items():
        maps = [contrast_maps(part, basis, {"contrast": (matrix, kind)})["contrast"] for part in result.parts]
        effect[:, labels == label] = np.concatenate([item.effect_size for item in maps], axis=1)
        variance[labels == label] = np.concatenate([item.effect_variance for item in maps])
    dof = max(result.df_residuals for result in regression_result.values())
    return Contrast(effect if kind == "F" else effect[0], variance, len(matrix), dof, kind)


def expression_to_contrast_vector(expression: str, design_columns: Sequence[str]) -> Array:
    """Weights of a contrast's expression, as nilearn's function of this name; nothing in it is run.

    Parameters
    ----------
    expression : str
        Regressors combined by + - * / with numbers.
    design_columns : sequence of p str
        Regressors of the design.

    Returns
    -------
    (p,) float64

    Raises
    ------
    ContrastError
        Naming what is not understood, and where it is an F contrast.

    Examples
    --------
    >>> expression_to_contrast_vector("task - rest", ["task", "rest"])
    array([ 1., -1.])
    """
    columns = [str(name) for name in design_columns]
    # As in nilearn a whole name comes first, also where it could be read as an expression.
    given = f"`{expression}`" if expression in columns else expression
    matrix = parse_contrast(given, columns)
    if len(matrix) > 1:
        raise ContrastError(f"a vector is of one contrast, but {expression!r} has {len(matrix)} rows; give each alone")
    vector: Array = matrix[0]
    return vector


def mean_scaling(Y: Any, axis: int | tuple[int, int] = 0) -> tuple[Array, Array]:
    """Scale data to percent of a mean, minus 100, as nilearn's function of this name.

    Parameters
    ----------
    Y : (n, V) array
        Data, a row a volume.
    axis : {0, 1, (0, 1)}
        The mean of each voxel, of each volume, or of all.

    Returns
    -------
    scaled : (n, V) float64
    mean : array
        What it was scaled by: (V,), (n,) or a number.

    Raises
    ------
    ParameterError
        Where `axis` is none of its values.

    Warns
    -----
    UserWarning
        Where a mean is under 1: it counts as 1, and the result is no percent.
    """
    values = np.asarray(Y, dtype=np.float64)
    ways = {"0": Scaling("voxel"), "1": None, "(0, 1)": Scaling("run")}
    if str(axis) not in ways:
        raise ParameterError(f"axis is 0, 1 or (0, 1), but it is {axis!r}")
    scaling, mean = ways[str(axis)], values.mean(axis=axis)
    low = int(np.sum(np.asarray(mean) < 1))
    if low:
        warnings.warn(
            f"{low} of {np.size(mean)} means are under 1, and count as 1: what they scale is not percent signal "
            "change; give data that are not centred",
            stacklevel=2,
        )
    return (percent_of_volume(values) if scaling is None else scale_values(values, scaling)), mean
