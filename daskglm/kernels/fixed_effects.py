"""Contrasts over the runs of a subject: fixed effects."""

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.cholesky import solve_lower, solve_upper
from daskglm.kernels.contrasts import ContrastMaps
from daskglm.kernels.distributions import f_p_value, f_z_score, t_p_value, t_z_score
from daskglm.kernels.moments import Array

# Voxels whose factors are in memory together.
_TOGETHER = 2**13


def fixed_effects(
    effects: Array, variances: Array, freedom: Array, dimension: int | None = None, precision_weighted: bool = False
) -> ContrastMaps:
    """Combine a contrast over runs, each voxel over the runs that have it.

    Parameters
    ----------
    effects : (k, q, V) float64
        Effects of k runs, as of :func:`t_contrast` or :func:`f_contrast`.
    variances : (k, V) float64
        Their variances; NaN where a run does not have a voxel.
    freedom : (k, V) float64
        Degrees of freedom; they add up.
    dimension : int or None
        Rank of an F contrast; None for t.
    precision_weighted : bool
        Weigh runs by 1 / variance: effect = sum(e / v) / sum(1 / v), variance = 1 / sum(1 / v). Otherwise the
        runs weigh equally, as in nilearn: effect = sum(e) / k, variance = sum(v) / k^2.

    Returns
    -------
    ContrastMaps
        For F the whitened effects are combined, nilearn's approximation; :func:`joint_f` is the test itself.
    """
    seen = np.isfinite(variances) & (variances > 0)
    safe = np.where(seen, variances, 1.0)
    weights = np.where(seen, 1.0 / safe if precision_weighted else 1.0, 0.0)
    total = weights.sum(axis=0)
    total[total == 0] = np.nan
    effect = np.einsum("kv,kqv->qv", weights, np.where(seen[:, None], effects, 0.0)) / total
    variance = np.sum(weights**2 * np.where(seen, safe, 0.0), axis=0) / total**2
    degrees = np.where(seen, freedom, 0.0).sum(axis=0)
    if dimension is None:
        stat = effect[0] / np.sqrt(variance)
        return ContrastMaps(effect, variance, stat, t_p_value(stat, degrees), t_z_score(stat, degrees))
    stat = np.sum(effect**2, axis=0) / dimension / variance
    rows = np.full(stat.shape, dimension)
    return ContrastMaps(effect, variance, stat, f_p_value(stat, rows, degrees), f_z_score(stat, rows, degrees))


def joint_f(
    effects: Array, factors: Array, variances: Array, freedom: Array, precision_weighted: bool = False
) -> ContrastMaps:
    """Test several combinations of the coefficients together over runs: Wald's test, each voxel over its runs.

    Parameters
    ----------
    effects : (k, q, V) float64
        Effects e_i of k runs, as of :func:`~daskglm.kernels.contrasts.estimates`.
    factors : (k, q, q, V) float64
        Lower triangular factors of their covariances, V_i = L_i L_i'.
    variances : (k, V) float64
        Residual variances; NaN where a run does not have a voxel.
    freedom : (k, V) float64
        Degrees of freedom; they add up.
    precision_weighted : bool
        Weigh runs by V_i^-1: e = V sum(V_i^-1 e_i), V = (sum V_i^-1)^-1. Otherwise the runs weigh equally, as for t:
        e = sum(e_i) / k, V = sum(V_i) / k^2.

    Returns
    -------
    ContrastMaps
        F = e' V^-1 e / q. As of one run, effects are whitened, and ``F = sum(effect_size^2) / (q effect_variance)``;
        effect_variance combines the residual variances as the fixed effects of t combine variances.
    """
    seen = np.isfinite(variances) & (variances > 0) & np.isfinite(factors).all(axis=(1, 2))
    count = seen.sum(axis=0)
    n_rows, fitted = effects.shape[1], np.flatnonzero(count)
    white = np.full((n_rows, seen.shape[1]), np.nan)
    for start in range(0, fitted.size, _TOGETHER):
        part = fitted[start : start + _TOGETHER]
        combine = _by_precision if precision_weighted else _equally
        white[:, part] = _whitened(*combine(effects[..., part], factors[..., part], seen[:, part]))
    weights = np.where(seen, 1.0 / np.where(seen, variances, 1.0) if precision_weighted else 1.0, 0.0)
    total = np.where(count, weights.sum(axis=0), np.nan)
    variance = np.sum(weights**2 * np.where(seen, variances, 0.0), axis=0) / total**2
    degrees = np.where(seen, freedom, 0.0).sum(axis=0)
    stat, rows = np.sum(white**2, axis=0) / n_rows, np.full(count.shape, n_rows)
    p_value, z_score = f_p_value(stat, rows, degrees), f_z_score(stat, rows, degrees)
    return ContrastMaps(white * np.sqrt(variance), variance, stat, p_value, z_score)


def _equally(effects: Array, factors: Array, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean (q, m) of the runs' effects and the lower factor (q, q, m) of its covariance."""
    count = seen.sum(axis=0)
    effect = np.where(seen[:, None], effects, 0.0).sum(axis=0) / count
    return effect, _triangle(np.where(seen[:, None, None], factors, 0.0) / count)


def _by_precision(effects: Array, factors: Array, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean of the effects weighted by inverse covariances, and the lower factor of its covariance."""
    identity, precise, white = np.eye(effects.shape[1])[:, :, None], [], []
    for effect, factor, here in zip(effects, factors, seen, strict=True):
        lower = np.where(here, factor, identity)
        precise.append(np.where(here, solve_lower(lower, identity), 0.0))
        white.append(np.where(here, solve_lower(lower, effect[:, None])[:, 0], 0.0))
    # V^-1 = sum L_i^-T L_i^-1 = U U' with U lower: V = U^-T U^-1, and e = V sum L_i^-T L_i^-1 e_i.
    upper = _triangle(np.stack([item.swapaxes(0, 1) for item in precise]))
    total = sum(np.einsum("jiv,jv->iv", inverse, item) for inverse, item in zip(precise, white, strict=True))
    effect = solve_upper(upper, solve_lower(upper, total[:, None]))[:, 0]
    inverse = solve_upper(upper, np.broadcast_to(identity, upper.shape))
    return effect, _triangle(inverse[None])


def _triangle(factors: Array) -> Array:
    """Lower triangular L (q, q, m) with L L' = sum S_i S_i' of factors S (k, q, q, m), without forming the sum."""
    wide = np.concatenate([np.moveaxis(item, 2, 0) for item in factors], axis=2)
    upper: Array = np.linalg.qr(wide.swapaxes(1, 2)).R
    return np.moveaxis(upper, 0, 2).swapaxes(0, 1)


def _whitened(effect: Array, factor: Array) -> Array:
    """(L L')^-1/2 e (q, m) of effects (q, m) and lower factors L (q, q, m)."""
    left, _, right = np.linalg.svd(np.moveaxis(factor, 2, 0))
    return np.einsum("vij,jv->iv", left @ right, solve_lower(factor, effect[:, None])[:, 0], optimize=True)
