"""P-values from null distributions of maxima and from counts."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from daskglm.kernels.moments import Array

# Winkler et al. 2016: the tail is fitted to the largest quarter, for p under 0.1.
_TAIL_SHARE = 0.25
_TAIL_P = 0.1
_FEWEST = 20
# Statistics that differ by less, relatively, are equal but for rounding.
_TIE = 1e-9


def corrected_p(stats: Array, maxima: Array, tail: bool = False) -> Array:
    """P-values corrected for the family of all voxels, from the maxima of maps under rearrangements.

    Parameters
    ----------
    stats : (V,) float64
        Observed statistics; NaN where there is none.
    maxima : (m,) float64
        Largest statistic under each rearrangement.
    tail : bool
        Take p under 0.1 from a generalized Pareto distribution fitted to the largest quarter of the maxima.

    Returns
    -------
    (V,) float64
        ``(1 + number of maxima >= statistic) / (1 + m)``: the data as they are count as one rearrangement, and ties
        count. NaN for NaN.
    """
    order = np.sort(maxima)
    reached = len(order) - np.searchsorted(order, tie_level(stats), side="left")
    p: Array = np.asarray((1 + reached) / (1 + len(order)), dtype=np.float64)
    if tail:
        fitted = _tail_p(stats, order)
        replaced = (p < _TAIL_P) & np.isfinite(fitted)
        p[replaced] = fitted[replaced]
    p[np.isnan(stats)] = np.nan
    return p


def critical_value(maxima: Array, alpha: float) -> float:
    """What a statistic has to exceed for a corrected p of at most alpha.

    Parameters
    ----------
    maxima : (m,) float64
        As for :func:`corrected_p`.
    alpha : float
        Between 0 and 1.

    Returns
    -------
    float
        The largest of the maxima whose own corrected p is above `alpha`; infinite where 1 / (1 + m) is.

    Examples
    --------
    >>> critical_value(np.arange(1.0, 20.0), 0.05), critical_value(np.arange(1.0, 20.0), 0.01)
    (19.0, inf)
    """
    # Rounding of the product must not cost a rearrangement.
    may_reach = int(np.floor(alpha * (1 + maxima.size) + 1e-9)) - 1
    return float(np.sort(maxima)[maxima.size - 1 - may_reach]) if 0 <= may_reach < maxima.size else np.inf


def tie_level(stats: NDArray[np.floating]) -> NDArray[np.floating]:
    """What reaches a statistic, or equals it but for rounding.

    Parameters
    ----------
    stats : (V,) array
        Statistics.

    Returns
    -------
    (V,) array
        A little less than they.
    """
    level: NDArray[np.floating] = stats - _TIE * np.abs(stats)
    return level


def counted_p(counts: NDArray[np.int64], n_perm: int) -> Array:
    """Uncorrected p-values from counts.

    Parameters
    ----------
    counts : (V,) int64
        Rearrangements in which a voxel's statistic was at least the observed one.
    n_perm : int
        Number of rearrangements.

    Returns
    -------
    (V,) float64
        ``(1 + count) / (1 + n_perm)``.
    """
    return np.asarray((1 + counts) / (1 + n_perm), dtype=np.float64)


def false_discovery_q(p: Array) -> Array:
    """Benjamini and Hochberg's adjusted p-values.

    Parameters
    ----------
    p : (V,) float64
        Uncorrected p-values; NaN where there is none.

    Returns
    -------
    (V,) float64
        The smallest false discovery rate at which a voxel is found; NaN for NaN.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested])]
    adjusted = p[order] * order.size / np.arange(1, order.size + 1)
    q = np.full(p.shape, np.nan)
    q[order] = np.minimum(np.minimum.accumulate(adjusted[::-1])[::-1], 1.0)
    return q


def z_of_p(p: Array, sign: Array | None = None) -> Array:
    """Standard normal quantile of p.

    Parameters
    ----------
    p : (V,) float64
        P-values.
    sign : (V,) float64, optional
        Of the effects, for two-sided p.

    Returns
    -------
    (V,) float64
        z of the upper tail p, or ``sign * z`` of the upper tail p / 2; 0 at least, finite for p = 1.
    """
    tail = p if sign is None else p / 2
    z = np.maximum(-special.ndtri(tail), 0.0)
    signed: Array = z if sign is None else np.sign(sign) * z
    return signed


def _tail_p(stats: Array, order: Array) -> Array:
    """P of a generalized Pareto tail by moments; NaN below the tail, or where it cannot be fitted."""
    start = int(np.ceil(len(order) * (1 - _TAIL_SHARE)))
    excess = order[start:] - order[start - 1]
    p = np.full(stats.shape, np.nan)
    spread = excess.var(ddof=1) if excess.size >= _FEWEST else 0.0
    if not spread > 0:
        return p
    ratio = excess.mean() ** 2 / spread
    # A negative shape ends the tail at a finite value, beyond which p would be 0: the exponential is kept instead.
    shape, scale = max(0.5 * (1 - ratio), 0.0), 0.5 * excess.mean() * (1 + ratio)
    scale = excess.mean() if shape == 0.0 else scale
    beyond = stats > order[start - 1]
    over = (stats[beyond] - order[start - 1]) / scale
    survival = np.exp(-over) if shape < 1e-8 else (1 + shape * over) ** (-1 / shape)
    p[beyond] = survival * excess.size / len(order)
    return p
