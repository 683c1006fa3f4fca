"""Permuted statistics of groups with variances of their own: Aspin and Welch's v, and G (Winkler et al. 2014)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.cholesky import factorise
from daskglm.kernels.distributions import f_z_score, t_z_score
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import Partition

# A group of which less than this part of the residuals is left is explained by the design.
_MIN_RESIDUAL = 1e-12


@dataclass(frozen=True)
class VarianceGroups:
    """What the design says of the groups; r regressors in an orthonormal basis, the s tested ones last.

    Attributes
    ----------
    members : (g, n) bool
        Rows of each group.
    gram : (g, r, r) float64
        B'B over the rows of a group.
    freedom : (g,) float64
        Sum of the diagonal of the residual-forming matrix over them.
    """

    members: NDArray[np.bool_]
    gram: Array
    freedom: Array


def variance_groups(parts: Partition, names: NDArray[np.generic]) -> VarianceGroups:
    """Prepare groups.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    names : (n,) array
        Group of each row.

    Returns
    -------
    VarianceGroups
    """
    basis = _basis(parts)
    members = np.array([names == name for name in np.unique(names)])
    gram = np.array([basis[rows].T @ basis[rows] for rows in members])
    left = 1 - np.sum(basis**2, axis=1)
    return VarianceGroups(members, gram, members @ left)


def grouped_rows(parts: Partition, groups: VarianceGroups, index: NDArray[np.int64], sign: Array) -> Array:
    """Regressors after each of B rearrangements, group by group.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    groups : VarianceGroups
        g groups; rearrangements do not mix them.
    index, sign : (B, n)
        Rearrangements.

    Returns
    -------
    (B, g r, n) float64
        Zero outside of the group.
    """
    moved = (_basis(parts)[index] * sign[:, :, None]).transpose(0, 2, 1)
    apart = moved[:, None] * groups.members[None, :, None, :]
    return np.ascontiguousarray(apart.reshape(len(index), -1, index.shape[1]))


def group_statistics(
    products: NDArray[Any], squares: NDArray[Any], groups: VarianceGroups, n_tested: int, signed: bool
) -> tuple[Array, Array]:
    """Statistics v or G and their degrees of freedom.

    Parameters
    ----------
    products : (B, g r, W) float64
        ``grouped_rows(...) @ residuals``.
    squares : (g, W) float64
        Sums of squared residuals of the nuisance model in each group: rearrangements do not change them.
    groups : VarianceGroups
        Groups.
    n_tested : int
        s.
    signed : bool
        v; else G.

    Returns
    -------
    stat : (B, W) float64
        With residual variances w_g^-1 = RSS_g / sum R_nn, a the coefficients and A = sum w_g B_g'B_g:
        ``v = a / sqrt((A^-1)_tt)``; ``G = a_t' ((A^-1)_tt)^-1 a_t / (s L)``, ``L = 1 + 2 (s - 1) / (s (s + 2)) D``,
        ``D = sum (1 - w_g n_g / sum w n)^2 / sum R_nn``. NaN where a group has no residual.
    freedom : (B, W) float64
        Those of the error as PALM takes them: 1 / (3 D) of v, s (s + 2) / (3 D) of G.
    """
    n_moved, _, n_voxels = products.shape
    n_groups, rank = groups.gram.shape[:2]
    by_group = products.reshape(n_moved, n_groups, rank, n_voxels)
    coefficients = by_group.sum(axis=1)
    weights = np.empty((n_groups, n_moved, n_voxels))
    for number in range(n_groups):
        fitted = np.einsum("ij,bjw->biw", groups.gram[number], coefficients) - 2 * by_group[:, number]
        rss = squares[number] + np.einsum("biw,biw->bw", coefficients, fitted)
        there = rss > _MIN_RESIDUAL * squares[number]
        weights[number] = groups.freedom[number] / np.where(there, rss, np.nan)
    matrices = np.tensordot(groups.gram.reshape(n_groups, -1).T, weights.reshape(n_groups, -1), axes=1)
    factors = factorise(matrices.reshape(rank, rank, -1)).reshape(rank, rank, n_moved, n_voxels)
    tested = coefficients[:, rank - n_tested :]
    sizes = groups.members.sum(axis=1)[:, None, None] * weights
    spread = np.sum((1 - sizes / sizes.sum(axis=0)) ** 2 / groups.freedom[:, None, None], axis=0)
    if signed:
        return tested[:, 0] * factors[-1, -1], 1 / (3 * spread)
    first = rank - n_tested
    white = [np.einsum("ibw,biw->bw", factors[k:, k], tested[:, k - first :]) for k in range(first, rank)]
    spread /= n_tested * (n_tested + 2)
    stat: Array = np.sum(np.square(white), axis=0) / (n_tested * (1 + 2 * (n_tested - 1) * spread))
    return stat, 1 / (3 * spread)


def group_z(stat: Array, freedom: Array, n_tested: int, signed: bool) -> Array:
    """The z with the same p: what PALM compares between rearrangements and voxels, which differ in freedom.

    Parameters
    ----------
    stat, freedom : (B, W) float64
        From :func:`group_statistics`.
    n_tested : int
        s.
    signed : bool
        v; else G.

    Returns
    -------
    (B, W) float64
        Of the upper tail of t or F.
    """
    return t_z_score(stat, freedom) if signed else f_z_score(stat, np.float64(n_tested), freedom)


def _basis(parts: Partition) -> Array:
    """Orthonormal regressors (n, r), the tested ones last."""
    return np.concatenate([parts.nuisance, parts.tested], axis=1)
