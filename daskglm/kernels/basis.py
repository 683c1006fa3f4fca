"""An orthonormal basis for the column space of a design."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

Array = NDArray[np.float64]
# Rows of a contrast that differ by less than this fraction of their weights say the same.
_DEPENDENT = 1e-12


@dataclass(frozen=True)
class Basis:
    """The map between a design X (n, p) and orthonormal columns Q (n, r), with X @ to_basis = Q.

    Moments are summed in the basis, where the normal equations are well conditioned whatever the units of
    the regressors are, and coefficients are mapped back with ``beta = to_basis @ theta``, the minimum-norm
    solution (nilearn's, which uses a pseudo-inverse).

    Attributes
    ----------
    to_basis : (p, r) float64
        The pseudo-inverse of `from_basis`.
    row_space : (p, r) float64
        V: an orthonormal basis of the row space; a contrast is estimable if and only if it lies in it.
    from_basis : (r, p) float64
        Q'X, the regressors in the basis.
    constant : (r,) float64 or None
        The coefficients of the all-one vector in the basis; None where it is not in the span of X.
    """

    to_basis: Array
    row_space: Array
    from_basis: Array
    constant: Array | None

    @property
    def rank(self) -> int:
        """Rank r of the design."""
        return self.to_basis.shape[1]


def orthonormal_basis(design: Array) -> Basis:
    """Find an orthonormal basis of the columns of a design.

    Parameters
    ----------
    design : (n, p) float64
        Design matrix, finite.

    Returns
    -------
    Basis
        Columns are scaled to unit length before the decomposition, so that the rank does not depend on the
        units of the regressors. Singular values under ``max(n, p) * eps * s_max`` count as zero
        (the rule of :func:`numpy.linalg.matrix_rank`).
    """
    norms = np.linalg.norm(design, axis=0)
    scale = np.where(norms > 0, norms, 1.0)
    left, singular, right = np.linalg.svd(design / scale, full_matrices=False)
    rank = int(np.sum(singular > max(design.shape) * np.finfo(float).eps * singular.max(initial=0.0)))
    from_basis = singular[:rank, None] * right[:rank] * scale
    if rank < design.shape[1]:
        row_space, to_basis = _minimum_norm(from_basis)
    else:
        row_space = np.eye(design.shape[1])
        to_basis = right.T / singular / scale[:, None]
    basis = left[:, :rank]
    constant = basis.T @ np.ones(design.shape[0])
    spanned = np.abs(basis @ constant - 1.0).max(initial=0.0) < 1e-8
    return Basis(to_basis, row_space, from_basis, constant if spanned else None)


def _minimum_norm(from_basis: Array) -> tuple[Array, Array]:
    """Orthonormal row space (p, r) and pseudo-inverse (p, r) of rows (r, p) of full rank.

    Rows of the largest regressors first, and pivots, keep the digits of those of small units (Cox & Higham 1998).
    """
    order = np.argsort(-np.abs(from_basis).max(axis=0, initial=0.0))
    rows, triangle, pivots = qr(from_basis.T[order], mode="economic", pivoting=True)
    row_space, to_basis = np.empty(rows.shape), np.empty(rows.shape)
    row_space[order] = rows
    to_basis[:, pivots] = solve_triangular(triangle, row_space.T).T
    return row_space, to_basis


def is_estimable(contrast: Array, basis: Basis) -> bool:
    """Tell whether every row of a contrast lies in the row space of the design.

    Parameters
    ----------
    contrast : (q, p) float64
        Contrast weights, one row a linear combination of regressors.
    basis : Basis
        Basis of the design.

    Returns
    -------
    bool
        True where ``C V V' = C`` to a relative 1e-8.
    """
    outside = contrast - contrast @ basis.row_space @ basis.row_space.T
    return bool(np.all(np.abs(outside).max(axis=1) <= 1e-8 * np.abs(contrast).max(axis=1)))


def null_space(contrast: Array) -> Array:
    """Find the coefficients that a contrast does not see.

    Parameters
    ----------
    contrast : (q, p) float64
        C; rows may be linearly dependent.

    Returns
    -------
    (p, p - k) float64
        K of full column rank k with C K = 0, k the rank of C: ``X @ K`` is the model without what C tests. By
        elimination with complete pivoting, of rows and columns of unit size: it follows the units of the regressors,
        and regressors without weight are columns of their own.

    Examples
    --------
    >>> null_space(np.array([[1.0, -1.0, 0.0]]))
    array([[1., 0.],
           [1., 0.],
           [0., 1.]])
    """
    largest = np.abs(contrast).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    rows = contrast / unit
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.where(largest > 0, largest, 1.0)
    pivots: list[int] = []
    for step in range(min(rows.shape)):
        row, column = divmod(int(np.abs(rows[step:]).argmax()), rows.shape[1])
        if abs(rows[step + row, column]) < _DEPENDENT:
            break
        rows[[step, step + row]] = rows[[step + row, step]]
        rows[step] /= rows[step, column]
        others = np.arange(len(rows)) != step
        rows[others] -= np.outer(rows[others, column], rows[step])
        pivots.append(column)
    free = np.setdiff1d(np.arange(rows.shape[1]), pivots)
    kernel = np.zeros((rows.shape[1], free.size))
    kernel[free, np.arange(free.size)] = unit[free]
    kernel[pivots] = 0.0 - rows[: len(pivots), free] * unit[free]
    return kernel / unit[:, None]


def split_directions(contrast: Array, basis: Basis) -> tuple[Array, Array]:
    """Split the directions of a basis into what a contrast tests and the model without it.

    Parameters
    ----------
    contrast : (q, p) float64
        C, estimable; rows may be linearly dependent.
    basis : Basis
        Basis of the design, of rank r.

    Returns
    -------
    tested : (k, r) float64
        Orthonormal rows that span those of ``C @ to_basis``, k the rank of C.
    others : (r - k, r) float64
        Orthonormal rows that span ``X @ null_space(C)``. They are found first, and so the tested ones do not lose
        digits where tested regressors are nearly collinear.
    """
    kernel = null_space(contrast)
    n_others = basis.rank - (contrast.shape[1] - kernel.shape[1])
    # Each column is scaled by what it is a sum of: one that the design sends to zero stays there.
    size = np.linalg.norm(basis.from_basis, axis=0) @ np.abs(kernel)
    left = np.linalg.svd(basis.from_basis @ kernel / np.where(size > 0, size, 1.0))[0]
    return np.ascontiguousarray(left[:, n_others:].T), np.ascontiguousarray(left[:, :n_others].T)


def with_constant(regressors: Array) -> tuple[Array, Array]:
    """Add the constant to orthonormal regressors, where it is not in their span.

    Parameters
    ----------
    regressors : (n, r) float64
        Orthonormal columns.

    Returns
    -------
    basis : (n, r) or (n, r + 1) float64
        The regressors, and what is left of the constant outside their span, if anything is.
    constant : (r,) or (r + 1,) float64
        The coefficients of the all-one vector in the basis.
    """
    constant = regressors.T @ np.ones(len(regressors))
    rest = 1.0 - regressors @ constant
    if np.abs(rest).max(initial=0.0) < 1e-8:
        return regressors, constant
    length = np.linalg.norm(rest)
    return np.column_stack([regressors, rest / length]), np.append(constant, length)
