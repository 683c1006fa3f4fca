"""Noise models of a run: autoregressive coefficients and whitened least squares, from lagged moments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.cholesky import factorise, solve_lower, solve_upper
from daskglm.kernels.lagged import LaggedMoments, project, rebase
from daskglm.kernels.moments import Array

# Numbers in the matrices that are solved together: 16 MB, but for 64 voxels at least and 8192 at most.
_SOLVE_VALUES = 2**21
_SOLVE_VOXELS = (64, 8192)
_EPS = np.finfo(float).eps


@dataclass(frozen=True)
class WhitenedFit:
    """Whitened least squares of V voxels, in a basis of r columns; what contrasts need of it.

    Attributes
    ----------
    theta : (r, V) float64
        Coefficients of the run minus its reference.
    reference : (V,) float64
        What was subtracted; it belongs to the constant.
    constant : (r,) float64 or None
        Coefficients of the all-one vector.
    residual_variance : (V,) float64
        Whitened RSS / (n - r), in squared image units; NaN where a voxel does not vary or has a non-finite value.
    degrees_of_freedom : (V,) float64
        n - r.
    count : (V,) int64
        Volumes of each voxel: n, or 0 where it has a non-finite value.
    coefficients : (L, q) float64
        The autoregressive coefficients in use.
    labels : (V,) int64
        Which of them each voxel has.
    gram : (n_pairs, r, r) float64
        A'K_ij A, from which X'W'WX of any coefficients is made.
    pairs : tuple of (int, int)
        The pairs (i, j).
    r_square : (V,) float64
        Variance of the fitted values over that of the run, both unwhitened.
    below_one : (V,) bool
        Whether values became percent of a mean that is below one, and counts as one.
    """

    theta: Array
    reference: Array
    constant: Array | None
    residual_variance: Array
    degrees_of_freedom: Array
    count: NDArray[np.int64]
    coefficients: Array
    labels: NDArray[np.int64]
    gram: Array
    pairs: tuple[tuple[int, int], ...]
    r_square: Array
    below_one: NDArray[np.bool_]

    def covariances(self, weights: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """C (X'W'WX)^-1 C' of each voxel.

        Parameters
        ----------
        weights : (q, r) float64
            C, in the basis.

        Yields
        ------
        voxels : (m,) int64
            Some of the voxels.
        covariance : (1, q, q) or (m, q, q) float64
            Theirs; multiply by `residual_variance`.
        """
        order = np.argsort(self.labels, kind="stable")
        bounds = np.searchsorted(self.labels[order], np.arange(len(self.coefficients) + 1))
        together = _together(weights.shape[1])
        for start in range(0, len(self.coefficients), together):
            gram = _grams(self.coefficients[start : start + together].T, self.gram, self.pairs)
            # C G^-1 C' = (L^-1 C')'(L^-1 C') with G = L L'.
            half = solve_lower(factorise(gram), weights.T[:, :, None])
            table = np.einsum("riv,rjv->vij", half, half)
            first, last = bounds[start], bounds[min(start + together, len(self.coefficients))]
            voxels = order[first:last]
            yield voxels, table[self.labels[voxels] - start]

    def undetermined(self, weights: Array) -> NDArray[np.int64]:
        """Voxels that do not determine a contrast: none, for all voxels have the same volumes.

        Parameters
        ----------
        weights : (q, r) float64
            Contrast in the basis.

        Returns
        -------
        (0,) int64
        """
        return np.empty(0, np.int64)


def of_label(fit: WhitenedFit, label: int) -> WhitenedFit:
    """The fit of the voxels that share autoregressive coefficients.

    Parameters
    ----------
    fit : WhitenedFit
        Of V voxels.
    label : int
        Row of its `coefficients`.

    Returns
    -------
    WhitenedFit
        Of those voxels, in their order.
    """
    voxels = np.flatnonzero(fit.labels == label)
    names = ("reference", "residual_variance", "degrees_of_freedom", "count", "r_square")
    return replace(
        fit, theta=fit.theta[:, voxels], coefficients=fit.coefficients[label][None],
        labels=np.zeros(voxels.size, np.int64), **{name: getattr(fit, name)[voxels] for name in names},
    )  # fmt: skip


def pair_weights(rho: Array, pairs: tuple[tuple[int, int], ...]) -> Array:
    """Weights with which the sums of the pairs make whitened sums.

    Parameters
    ----------
    rho : (q, m) float64
        Autoregressive coefficients.
    pairs : tuple of (int, int)
        The pairs (i, j).

    Returns
    -------
    (n_pairs, m) float64
        a_i a_j, with a_0 = 1 and a_i = -rho_i.

    Examples
    --------
    >>> pair_weights(np.array([[0.5]]), ((0, 0), (0, 1), (1, 1)))[:, 0].tolist()
    [1.0, -0.5, 0.25]
    """
    a = np.concatenate([np.ones((1, rho.shape[1])), -rho])
    return np.stack([a[i] * a[j] for i, j in pairs])


def autoregression(moments: LaggedMoments) -> Array:
    """Autoregressive coefficients of the residuals of ordinary least squares at every voxel, exactly.

    Parameters
    ----------
    moments : LaggedMoments
        Of an orthonormal basis of the design and a run, lags 0 to q.

    Returns
    -------
    (q, V) float64
        The Yule-Walker equations of the autocovariances ``r_k = sum e_u e_(u-k) / number of terms`` (nilearn's,
        without its centring on the mean of all voxels, which is rounding error where the design has a
        constant); NaN where a voxel does not vary.
    """
    lags, order = moments.lags, moments.lags.order
    if order == 0:
        return np.empty((0, moments.reference.size))
    theta = np.linalg.inv(lags.gram[0]) @ moments.cross[0]
    covariances = np.empty((order + 1, theta.shape[1]))
    for k in range(order + 1):
        quadratic = np.einsum("iv,iv->v", theta, lags.gram[k] @ theta - 2 * moments.cross[k])
        terms = max(int(lags.weights[k].sum()), 1) * (1 if k == 0 else 2)
        covariances[k] = (moments.power[k] + quadratic) / terms
    flat = moments.broken | (covariances[0] * lags.n_samples <= _rounding(moments))
    covariances[:, flat | ~np.isfinite(covariances).all(axis=0)] = np.nan
    return _yule_walker(covariances)


def _yule_walker(covariances: Array) -> Array:
    """Solve sum_j rho_j r_|k-j| = r_k, k = 1 .. q, of r (q + 1, V) by Levinson's recursion: (q, V).

    Where a leading matrix is singular, which autocovariances with unequal numbers of terms can be, the recursion
    ends and the pseudo-inverse is used.
    """
    order, n_voxels = len(covariances) - 1, covariances.shape[1]
    rho, power = np.empty((order, n_voxels)), covariances[0].copy()
    singular = np.zeros(n_voxels, dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for k in range(order):
            reflection = (covariances[k + 1] - np.sum(rho[:k] * covariances[k:0:-1], axis=0)) / power
            rho[:k] -= reflection * rho[:k][::-1]
            rho[k] = reflection
            power *= 1 - reflection**2
            if k < order - 1:
                singular |= np.abs(power) <= 1e-10 * covariances[0]
    if singular.any():
        lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
        matrices, right = covariances[lags][..., singular], covariances[1:, singular]
        rho[:, singular] = np.einsum("vij,jv->iv", np.linalg.pinv(matrices.transpose(2, 0, 1)), right)
    return rho


def quantise(rho: Array, bins: int) -> Array:
    """Round coefficients towards zero to multiples of 1 / bins, as nilearn does for AR(1).

    Parameters
    ----------
    rho : (1, V) float64
        Coefficients.
    bins : int
        Steps from 0 to 1.

    Returns
    -------
    (1, V) float64
    """
    return np.trunc(rho * bins) / bins + 0.0


def fit_run(
    moments: LaggedMoments, constant: Array, rank: int, adjust: Callable[[Array], Array] | None = None
) -> WhitenedFit:
    """Fit a run, from the moments of its design and of the constant.

    Parameters
    ----------
    moments : LaggedMoments
        Of a basis whose first `rank` columns span the design, and which spans the constant.
    constant : (r,) float64
        Coefficients of the all-one vector in that basis; those beyond `rank` are zero, or left out, where the
        design itself spans the constant.
    rank : int
        Rank of the design.
    adjust : callable, optional
        Takes the autoregressive coefficients (q, V) to those that are used; by default they are themselves.

    Returns
    -------
    WhitenedFit
    """
    n_samples, gram = moments.lags.n_samples, moments.lags.gram[0]
    means = (gram @ constant)[:rank] / n_samples
    spanned = constant if len(constant) == rank else None
    # Voxels with values beyond reason become NaN.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        variance = moments.power[0] / n_samples - (constant @ moments.cross[0] / n_samples) ** 2
        moments = of_design(moments, constant, rank)
        rho = autoregression(moments)
        fit = solve_whitened(moments, rho if adjust is None else adjust(rho), spanned)
        quadratic = np.einsum("iv,iv->v", fit.theta, moments.lags.gram[0] @ fit.theta)
        return replace(fit, r_square=(quadratic / n_samples - (means @ fit.theta) ** 2) / variance)


def of_design(moments: LaggedMoments, constant: Array, rank: int) -> LaggedMoments:
    """Moments of the design alone, from those of the design and of the constant.

    Parameters
    ----------
    moments : LaggedMoments
        Of a basis whose first `rank` columns span the design.
    constant : (r,) float64
        Coefficients of the all-one vector in that basis.
    rank : int
        Rank of the design.

    Returns
    -------
    LaggedMoments
        The same, where the design spans the constant; else relative to zero, of `rank` columns.
    """
    if len(constant) == rank:
        return moments
    return project(rebase(moments, constant), np.eye(len(constant))[:, :rank])


def solve_whitened(moments: LaggedMoments, rho: Array, constant: Array | None) -> WhitenedFit:
    """Whitened least squares at every voxel.

    Parameters
    ----------
    moments : LaggedMoments
        Of a basis of r columns and a run of n volumes.
    rho : (q, V) float64
        Autoregressive coefficients of each voxel; voxels with NaN are not fitted.
    constant : (r,) float64 or None
        Coefficients of the all-one vector in the basis; None where it is not in the span: the moments are
        then relative to zero.

    Returns
    -------
    WhitenedFit
        theta = (X'W'WX)^-1 X'W'Wy; residual variance = (y'W'Wy - theta'X'W'Wy) / (n - r).
    """
    lags, (rank, n_voxels) = moments.lags, moments.cross.shape[1:]
    usable = np.isfinite(rho).all(axis=0) & ~moments.broken
    rho = np.where(usable, rho, 0.0)
    coefficients, labels = _distinct(rho)
    shared = len(coefficients) < n_voxels // 4
    table = np.linalg.inv(np.moveaxis(_grams(coefficients.T, lags.gram, lags.pairs), -1, 0)) if shared else None
    theta, residual = np.empty((rank, n_voxels)), np.empty(n_voxels)
    together = _together(rank)
    for start in range(0, n_voxels, together):
        part = slice(start, start + together)
        weights = pair_weights(rho[:, part], lags.pairs)
        cross = moments.weighted_cross(weights, part)
        if table is None:
            factors = factorise(_grams(rho[:, part], lags.gram, lags.pairs))
            theta[:, part] = solve_upper(factors, solve_lower(factors, cross[:, None]))[:, 0]
        else:
            theta[:, part] = (table[labels[part]] @ cross.T[:, :, None])[:, :, 0].T
        power = np.einsum("pv,pv->v", weights, moments.power[:, part])
        residual[part] = power - np.einsum("rv,rv->v", theta[:, part], cross)
    residual[residual <= _rounding(moments)] = np.nan
    residual[~usable] = np.nan
    freedom = lags.n_samples - rank
    theta[:, np.isnan(residual)] = np.nan
    return WhitenedFit(
        theta=theta,
        reference=moments.reference,
        constant=constant,
        residual_variance=residual / freedom if freedom > 0 else np.full(n_voxels, np.nan),
        degrees_of_freedom=np.full(n_voxels, float(max(freedom, 0))),
        count=np.where(moments.broken, 0, lags.n_samples),
        coefficients=coefficients,
        labels=labels,
        gram=lags.gram,
        pairs=lags.pairs,
        r_square=np.full(n_voxels, np.nan),
        below_one=np.zeros(n_voxels, dtype=bool),
    )


def _together(rank: int) -> int:
    """Number of voxels whose (rank, rank) matrices are in memory together."""
    return int(np.clip(_SOLVE_VALUES // max(rank, 1) ** 2, *_SOLVE_VOXELS))


def _distinct(rho: Array) -> tuple[Array, NDArray[np.int64]]:
    """The distinct columns of (q, V), as rows (L, q), and which one each voxel has."""
    if not len(rho):
        return np.empty((1, 0)), np.zeros(rho.shape[1], np.int64)
    values, labels = np.unique(rho[0], return_inverse=True)
    if len(rho) == 1:
        return values[:, None], labels
    if values.size > rho.shape[1] // 4:  # each voxel has its own: sorting rows would find nothing
        return np.ascontiguousarray(rho.T), np.arange(rho.shape[1])
    distinct, labels = np.unique(rho.T, axis=0, return_inverse=True)
    return distinct, labels.reshape(-1)


def _grams(rho: Array, gram: Array, pairs: tuple[tuple[int, int], ...]) -> Array:
    """X'W'WX (r, r, m) of coefficients (q, m)."""
    rank = gram.shape[1]
    flat = gram.reshape(len(pairs), -1).T @ pair_weights(rho, pairs)
    return flat.reshape(rank, rank, -1)


def _rounding(moments: LaggedMoments) -> Array:
    """Residual sums of squares up to which a voxel does not vary but for rounding: (V,)."""
    n_samples = moments.lags.n_samples
    rounding: Array = 8 * _EPS * np.sqrt(n_samples) * moments.power[0]
    rounding += n_samples * (8 * _EPS * moments.reference) ** 2
    return rounding
