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
        effect_size = A^-1/2 e.
    """
    effect = _effects(fit, weights)
    root, rank = _inverse_root((weights @ unpack(fit.covariance) @ weights.T)[None])
    whitened = root[0] @ effect
    dimension = np.full(effect.shape[1], rank[0])
    own = fit.incomplete
    if own.size:
        own_covariance = weights @ unpack(fit.covariance_incomplete) @ weights.T
        root, dimension[own] = _inverse_root(own_covariance)
        whitened[:, own] = np.einsum("vij,jv->iv", root, effect[:, own])
    variance = _blank(fit, weights, fit.residual_variance)
    whitened[:, np.isnan(variance)] = np.nan
    positive = np.where(variance > 0, variance, np.nan)
    stat = np.einsum("ij,ij->j", whitened, whitened) / np.maximum(dimension, 1) / positive
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
    outside = weights - weights @ fit.deficient_row_space
    undetermined = (np.abs(outside) > 1e-6 * np.abs(weights).max()).any(axis=(1, 2))
    variance = variance.copy()
    variance[fit.deficient[undetermined]] = np.nan
    return variance


def _inverse_root(covariance: Array) -> tuple[Array, NDArray[np.intp]]:
    """Symmetric pseudo-inverse square roots of (m, q, q) and their ranks (m,)."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-11 * values[:, -1:]
    kept &= values > 0
    reciprocal = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return (vectors * reciprocal[:, None, :]) @ vectors.transpose(0, 2, 1), kept.sum(axis=1)
