"""t and F contrasts of a fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.basis import Basis, split_directions
from daskglm.kernels.cholesky import factorise, solve_lower
from daskglm.kernels.distributions import f_p_value, f_z_score, t_p_value, t_z_score
from daskglm.kernels.moments import Array


class Solution(Protocol):
    """What a contrast needs of a fit of V voxels in a basis of r columns.

    Attributes
    ----------
    theta : (r, V) float64
        Coefficients of the images minus their reference.
    reference : (V,) float64
        What was subtracted; it belongs to the constant.
    constant : (r,) float64 or None
        Coefficients of the all-one vector.
    residual_variance, degrees_of_freedom : (V,) float64
        Of each voxel.
    count : (V,) int64
        Observations of each voxel.
    """

    @property
    def theta(self) -> Array:
        """(r, V)."""

    @property
    def reference(self) -> Array:
        """(V,)."""

    @property
    def constant(self) -> Array | None:
        """(r,) or None."""

    @property
    def residual_variance(self) -> Array:
        """(V,)."""

    @property
    def degrees_of_freedom(self) -> Array:
        """(V,)."""

    @property
    def count(self) -> NDArray[np.int64]:
        """(V,)."""

    def covariances(self, weights: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Voxels and their C (X'WX)^-1 C' of a contrast.

        Parameters
        ----------
        weights : (q, r) float64
            C, in the basis.

        Yields
        ------
        voxels : (m,) int64
        covariance : (1, q, q) or (m, q, q) float64
        """

    def undetermined(self, weights: Array) -> NDArray[np.int64]:
        """Voxels whose observations do not determine a contrast.

        Parameters
        ----------
        weights : (q, r) float64
            Contrast in the basis.

        Returns
        -------
        (m,) int64
        """


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


def t_contrast(fit: Solution, weights: Array) -> ContrastMaps:
    """Test one linear combination of the coefficients at every voxel.

    Parameters
    ----------
    fit : Solution
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
    variance = fit.residual_variance.copy()
    for voxels, covariance in fit.covariances(weights[None]):
        variance[voxels] *= covariance[:, 0, 0]
    variance[fit.undetermined(weights[None])] = np.nan
    effect[:, np.isnan(variance)] = np.nan
    stat = effect[0] / np.sqrt(np.where(variance > 0, variance, np.nan))
    freedom = fit.degrees_of_freedom
    return ContrastMaps(effect, variance, stat, t_p_value(stat, freedom), t_z_score(stat, freedom))


def f_contrast(fit: Solution, contrast: Array, basis: Basis) -> ContrastMaps:
    """Test several linear combinations of the coefficients together at every voxel.

    Parameters
    ----------
    fit : Solution
        Fit of V voxels in a basis of r columns.
    contrast : (q, p) float64
        C, estimable, one row a combination of the p regressors; rows may be linearly dependent.
    basis : Basis
        That basis.

    Returns
    -------
    ContrastMaps
        With e = C beta and A = C (X'WX)^-1 C': F = e' A^-1 e / (k sigma^2) on k = rank(C) and n - rank(X) degrees of
        freedom (nilearn divides by q, the same for independent rows); effect_size = A^-1/2 e. Both are found in the
        orthonormal directions that C tests, whose covariance is well conditioned whatever the units of the
        regressors and however close they are to each other.
    """
    directions, _ = split_directions(contrast, basis)
    effect = _effects(fit, directions)
    # C beta = rows (directions theta).
    rows = contrast @ basis.to_basis @ directions.T
    quadratic, whitened = np.empty(effect.shape[1]), np.empty((len(rows), effect.shape[1]))
    for voxels, covariance in fit.covariances(directions):
        quadratic[voxels], whitened[:, voxels] = _whiten(effect[:, voxels], covariance, rows)
    variance = fit.residual_variance.copy()
    variance[fit.undetermined(directions)] = np.nan
    whitened[:, np.isnan(variance)] = np.nan
    positive = np.where(variance > 0, variance, np.nan)
    dimension = np.full(quadratic.shape, len(directions))
    stat = quadratic / len(directions) / positive
    freedom = fit.degrees_of_freedom
    p_value, z_score = f_p_value(stat, dimension, freedom), f_z_score(stat, dimension, freedom)
    return ContrastMaps(whitened, variance, stat, p_value, z_score)


def estimates(fit: Solution, weights: Array) -> tuple[Array, Array]:
    """Linear combinations of the coefficients and their covariance at every voxel.

    Parameters
    ----------
    fit : Solution
        Fit of V voxels in a basis of r columns.
    weights : (q, r) float64
        Contrast in the basis, of independent rows.

    Returns
    -------
    effects : (q, V) float64
        C theta, in image units.
    factors : (q, q, V) float64
        Lower triangular L with L L' = sigma^2 C (X'WX)^-1 C'; NaN where a voxel does not determine the contrast.
    """
    # Directions of the contrast: their covariance is well conditioned whatever the units of the regressors.
    directions, triangle = np.linalg.qr(weights.T)
    effects = triangle.T @ _effects(fit, directions.T)
    factors = np.full((len(weights), len(weights), fit.count.size), np.nan)
    for voxels, covariance in fit.covariances(directions.T):
        lower = factorise(np.ascontiguousarray(np.moveaxis(covariance, 0, 2)))
        lower[np.triu_indices(len(lower), 1)] = 0.0
        factors[:, :, voxels] = np.tensordot(triangle.T, lower, 1)
    positive = np.where(fit.residual_variance > 0, fit.residual_variance, np.nan)
    positive[fit.undetermined(weights)] = np.nan
    return effects, factors * np.sqrt(positive)


def coefficients(fit: Solution, to_basis: Array) -> Array:
    """Coefficients of the regressors of the design, in the images' own units and origin.

    Parameters
    ----------
    fit : Solution
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


def _effects(fit: Solution, weights: Array) -> Array:
    """Combinations (q, r) of the coefficients, with the reference given back to the constant."""
    effect: Array = weights @ fit.theta
    if fit.constant is not None:
        effect += np.outer(weights @ fit.constant, fit.reference)
    return effect


def _whiten(effect: Array, covariance: Array, rows: Array) -> tuple[Array, Array]:
    """E' B^-1 e (m,) of effects (k, m) and one B or m of them (., k, k), and (R B R')^-1/2 R e (q, m) of rows R (q, k).

    Both are lengths and directions of u = L^-1 e with B = L L': R e = M u and R B R' = M M' with M = R L, and so
    (M M')^-1/2 M is the orthogonal factor of M.
    """
    factors = factorise(np.ascontiguousarray(np.moveaxis(covariance, 0, 2)))
    inverse = solve_lower(factors, np.eye(len(factors))[:, :, None])
    white = np.einsum("ijv,jv->iv", inverse, effect, optimize=True)
    # Voxels that do not determine the contrast have no factor, and become NaN later.
    lower = np.tril(np.moveaxis(np.nan_to_num(factors), 2, 0))
    left, _, right = np.linalg.svd(rows @ lower, full_matrices=False)
    return np.sum(white**2, axis=0), np.einsum("vij,jv->iv", left @ right, white, optimize=True)
