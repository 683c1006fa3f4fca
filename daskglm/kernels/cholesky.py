"""Cholesky factors of many small matrices, voxels last: NumPy works along the voxels, where LAPACK takes one by one."""

import numpy as np

from daskglm.kernels.moments import Array


def factorise(matrices: Array) -> Array:
    """Factorise symmetric positive definite matrices, in place.

    Parameters
    ----------
    matrices : (r, r, m) float64
        m matrices A; their lower triangles are read and overwritten.

    Returns
    -------
    (r, r, m) float64
        The same array: L of A = L L' in the lower triangles. NaN where a matrix is not positive definite.

    Examples
    --------
    >>> factorise(np.array([[[4.0], [0.0]], [[2.0], [5.0]]]).reshape(2, 2, 1))[1, :, 0].tolist()
    [1.0, 2.0]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(len(matrices)):
            if j:
                matrices[j:, j] -= np.einsum("ikv,kv->iv", matrices[j:, :j], matrices[j, :j])
            pivot = matrices[j, j]
            matrices[j:, j] /= np.sqrt(np.where(pivot > 0, pivot, np.nan))
    return matrices


def solve_lower(factors: Array, right: Array) -> Array:
    """Solve L x = b.

    Parameters
    ----------
    factors : (r, r, m) float64
        L, from :func:`factorise`.
    right : (r, k, m) or (r, k, 1) float64
        k right-hand sides b of each matrix, or the same of all.

    Returns
    -------
    (r, k, m) float64
    """
    solved = np.array(np.broadcast_to(right, (*right.shape[:2], factors.shape[2])))
    for j in range(len(factors)):
        if j:
            solved[j] -= np.einsum("iv,ikv->kv", factors[j, :j], solved[:j])
        solved[j] /= factors[j, j]
    return solved


def solve_upper(factors: Array, right: Array) -> Array:
    """Solve L' x = b.

    Parameters
    ----------
    factors : (r, r, m) float64
        L, from :func:`factorise`.
    right : (r, k, m) float64
        k right-hand sides b of each matrix.

    Returns
    -------
    (r, k, m) float64
    """
    solved = right.copy()
    for j in reversed(range(len(factors))):
        if j < len(factors) - 1:
            solved[j] -= np.einsum("iv,ikv->kv", factors[j + 1 :, j], solved[j + 1 :])
        solved[j] /= factors[j, j]
    return solved
