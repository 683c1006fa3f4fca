"""t and F contrasts of a fit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.distributions import f_p_value, f_z_score, t_p_value, t_z_score
from daskglm.kernels.moments import Array, pairs, unpack
from daskglm.kernels.solve import Fit


@dataclass(frozen=True)
class ContrastMaps:
    """The maps of one contrast, over V voxels; NaN where a voxel does not support the statistic.

    Attributes
    ----------
    effect_size : (q, V) float64
        t: the contrast of the coefficients (q = 1), in image units. F: the q effects, whitened by the
        inverse square root of their covariance (nilearn's convention).
    effect_variance : (V,) float64
        t: the variance of the effect. F: the residual variance (nilearn's convention).
    stat, p_value, z_score : (V,) float64
        t or F; its one-sided p; the standard normal quantile of p, finite in the far tails.
    """

    effect_size: Array
    effect_variance: Array
    stat: Array
    p_value: Array
    z_score: Array


def t_contrast(fit: Fit, weights: Array) -> ContrastMaps:
    """Test one linear combination of the coefficients at every voxel.

    Parameters
    ----------
    fit : Fit
        Fit of V voxels in a basis of r columns.
    weights : (r,) float64
        Contrast in that basis: ``c @ basis.to_basis``.

    Returns
    -------
    ContrastMaps
        effect = w theta; variance = sigma^2 w (X'WX)^-1 w'; t = effect / sqrt(variance) on n - rank
        degrees of freedom; p = P(T > t). Where sigma^2 is zero t is NaN, not infinite.
    """
    effect = _effects(fit, weights[None])
    rows, columns = pairs(weights.size)
    products = weights[rows] * weights[columns] * np.where(rows == columns, 1.0, 2.0)
    unit_variance = np.full(effect.shape[1], fit.covariance @ products)
    unit_variance[fit.incomplete] = fit.covariance_incomplete @ products
    variance = _blank(fit, weights[None], unit_variance * fit.residual_variance)
    effect[:, np.isnan(variance)] = np.nan
    stat = effect[0] / np.sqrt(np.where(variance > 0, variance, np.nan))
    freedom = fit.degrees_of_freedom
    return ContrastMaps(effect, variance, stat, t_p_value(stat, freedom), t_z_score(stat, freedom))


def f_contrast(fit: Fit, weights: Array) -> ContrastMaps:
    """Test several linear combinations of the coefficients together at every voxel.

    Parameters
    ----------
    fit : Fit
        Fit of V voxels in a basis of r columns.
    weights : (q, r) float64
        Contrast in that basis, one row a combination; rows may be linearly dependent.

    Returns
    -------
    ContrastMaps
        With C = `weights`, e = C theta and A = C (X'WX)^-1 C': F = e' A^-1 e / (rank(A) sigma^2) on rank(A)
        and n - rank(X) degrees of freedom (nilearn divides by q, the same for independent rows);
        effect_size = A^-1/2 e. Rank and F are found with A scaled to a unit diagonal: they do not depend on the
        units of the regressors.
    """
    effect = _effects(fit, weights)
    quadratic, whitened = np.empty(effect.shape[1]), np.empty_like(effect)
    dimension = np.empty(effect.shape[1], dtype=np.intp)
    complete = np.delete(np.arange(effect.shape[1]), fit.incomplete)
    shared = (weights @ unpack(fit.covariance) @ weights.T)[None]
    own = weights @ unpack(fit.covariance_incomplete) @ weights.T
    for voxels, covariance in ((complete, shared), (fit.incomplete, own)):
        parts = _whiten(effect[:, voxels], covariance)
        quadratic[voxels], whitened[:, voxels], dimension[voxels] = parts
    variance = _blank(fit, weights, fit.residual_variance)
    whitened[:, np.isnan(variance)] = np.nan
    positive = np.where(variance > 0, variance, np.nan)
    stat = quadratic / np.maximum(dimension, 1) / positive
    freedom = fit.degrees_of_freedom
    p_value, z_score = f_p_value(stat, dimension, freedom), f_z_score(stat, dimension, freedom)
    return ContrastMaps(whitened, variance, stat, p_value, z_score)


def coefficients(fit: Fit, to_basis: Array) -> Array:
    """Coefficients of the regressors of the design, in the images' own units and origin.

    Parameters
    ----------
    fit : Fit
        Fit of V voxels in a basis of r columns.
    to_basis : (p, r) float64
        ``Basis.to_basis`` of the design.

    Returns
    -------
    (p, V) float64
        beta; NaN at voxels without residual degrees of freedom.
    """
    beta = _effects(fit, to_basis)
    beta[:, np.isnan(fit.residual_variance)] = np.nan
    return beta


def _effects(fit: Fit, weights: Array) -> Array:
    """Combinations (q, r) of the coefficients, with the reference given back to the constant."""
    effect: Array = weights @ fit.theta
    if fit.constant is not None:
        effect += np.outer(weights @ fit.constant, fit.reference)
    return effect


def _blank(fit: Fit, weights: Array, variance: Array) -> Array:
    """The variance, NaN at voxels whose remaining observations do not determine the contrast."""
    variance = variance.copy()
    if _undetermined(weights, fit.row_space[None])[0]:
        variance[np.delete(np.arange(variance.size), fit.incomplete)] = np.nan
    variance[fit.deficient[_undetermined(weights, fit.deficient_row_space)]] = np.nan
    return variance


def _undetermined(weights: Array, row_space: Array) -> NDArray[np.bool_]:
    """Tell which projections (m, r, r) on row spaces leave out part of a contrast (q, r)."""
    outside = weights - weights @ row_space
    left_out: NDArray[np.bool_] = (np.abs(outside) > 1e-6 * np.abs(weights).max()).any(axis=(1, 2))
    return left_out


def _whiten(effect: Array, covariance: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """E' A^-1 e (m,), A^-1/2 e (q, m) and rank(A) (m,), of effects (q, m) and one A or m of them (., q, q)."""
    diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
    scale = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = np.linalg.eigh(covariance * scale[:, :, None] * scale[:, None, :])
    kept = values > 1e-10
    scaled = np.einsum("vji,jv->vi", vectors, effect * scale.T, optimize=True)
    quadratic = np.sum(np.where(kept, scaled**2 / np.where(kept, values, 1.0), 0.0), axis=1)
    rank = kept.sum(axis=1)
    values, vectors = np.linalg.eigh(covariance)
    largest = np.arange(values.shape[1]) >= values.shape[1] - rank[:, None]
    reciprocal = np.where(largest, 1.0 / np.sqrt(np.where(largest, values, 1.0)), 0.0)
    root = (vectors * reciprocal[:, None, :]) @ vectors.transpose(0, 2, 1)
    return quadratic, np.einsum("vij,jv->iv", root, effect, optimize=True), np.broadcast_to(rank, quadratic.shape)
