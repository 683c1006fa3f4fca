"""Tail probabilities of t and F and their standard normal quantiles, also where p underflows."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

# Under this p (nilearn clips z at p = 1e-300) the tail is integrated in logarithms.
_SMALL_P = 1e-280
_NODES = 64
# nilearn: more degrees of freedom are as good as infinite.
_MAX_FREEDOM = 1e10


def t_p_value(stat: ArrayLike, freedom: ArrayLike) -> Array:
    """One-sided p of Student's t, P(T > t).

    Parameters
    ----------
    stat, freedom : array_like of float
        t, and its degrees of freedom; they broadcast.

    Returns
    -------
    ndarray of float64
        p; it underflows to 0 under 1e-308, where :func:`t_z_score` still tells values apart. NaN for NaN.
    """
    t, v = _broadcast(stat, freedom)
    return np.asarray(special.stdtr(v, -t))


def f_p_value(stat: ArrayLike, numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Upper tail p of Fisher's F.

    Parameters
    ----------
    stat, numerator, denominator : array_like of float
        F and its two degrees of freedom; they broadcast.

    Returns
    -------
    ndarray of float64
        p; NaN for NaN.
    """
    f, a, b = _broadcast(stat, numerator, denominator)
    return np.asarray(special.fdtrc(a, b, f))


def t_z_score(stat: ArrayLike, freedom: ArrayLike) -> Array:
    """Standard normal quantile with the same tail probability as a t.

    Parameters
    ----------
    stat, freedom : array_like of float
        t and its degrees of freedom; they broadcast.

    Returns
    -------
    ndarray of float64
        z, odd and strictly increasing in t: |z| is not clipped at 37 (nilearn's bound), because beyond
        p = 1e-280 it is found from log p.
    """
    t, v = _broadcast(stat, freedom)
    with np.errstate(divide="ignore"):
        log_p = np.array(np.log(t_p_value(np.abs(t), v)))
    far = log_p < np.log(_SMALL_P)
    ratio = t[far] ** 2 / v[far]
    log_p[far] = _log_tail(v[far] / 2, np.full(v[far].shape, 0.5), ratio) - np.log(2)
    return np.sign(t) * _z_from_log_p(log_p)


def f_z_score(stat: ArrayLike, numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Standard normal quantile with the same upper tail probability as an F.

    Parameters
    ----------
    stat, numerator, denominator : array_like of float
        F and its two degrees of freedom; they broadcast.

    Returns
    -------
    ndarray of float64
        z; negative where p > 0.5, as in nilearn.
    """
    f, a, b = _broadcast(stat, numerator, denominator)
    with np.errstate(divide="ignore"):
        log_p = np.array(np.log(f_p_value(f, a, b)))
    far = log_p < np.log(_SMALL_P)
    log_p[far] = _log_tail(b[far] / 2, a[far] / 2, a[far] * f[far] / b[far])
    z = np.array(_z_from_log_p(log_p))
    low = log_p > np.log(0.5)
    below = special.fdtr(a[low], b[low], f[low])
    # nilearn clips the other end at p = 1e-300 as well; F = 0 would be minus infinity.
    z[low] = special.ndtri(np.maximum(below, 1e-300))
    return z


def _broadcast(stat: ArrayLike, *freedoms: ArrayLike) -> tuple[Array, ...]:
    """The statistic and its degrees of freedom as float64 of one shape; dof of 0 become NaN."""
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (stat, *freedoms)))
    stat, *others = (np.array(value) for value in arrays)
    return (stat, *(np.minimum(np.where(v > 0, v, np.nan), _MAX_FREEDOM) for v in others))


def _z_from_log_p(log_p: Array) -> Array:
    """Solve log P(Z > z) = log p."""
    z: Array = -special.ndtri_exp(log_p)
    return z


def _log_tail(a: Array, b: Array, ratio: Array) -> Array:
    """Logarithm of the regularised incomplete beta function I_x(a, b) at x = 1 / (1 + ratio), far in the tail.

    With y = exp(-v0 - w / a) and v0 = log1p(ratio), the integral of y^(a - 1) (1 - y)^(b - 1) from 0 to x is
    exp(-a v0) / a times the integral of exp(-w) (1 - exp(-v0 - w / a))^(b - 1), whose second factor is smooth:
    Gauss-Laguerre quadrature converges fast for every a and b once a v0 is large.
    """
    nodes, weights = special.roots_laguerre(_NODES)
    start = np.log1p(ratio)
    exponent = start[:, None] + nodes / a[:, None]
    log_terms = (b[:, None] - 1) * np.log(-np.expm1(-exponent))
    log_integral = special.logsumexp(log_terms, b=weights, axis=1)
    log_value: Array = log_integral - a * start - np.log(a) - special.betaln(a, b)
    return log_value
