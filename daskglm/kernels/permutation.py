"""Permutation tests as products of matrices: rearranged regressors times residuals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskglm.kernels.basis import orthonormal_basis, split_directions
from daskglm.kernels.moments import Array

SCHEMES = ("freedman-lane", "smith", "dekker", "draper-stoneman", "ter-braak")
_EPS = np.finfo(float).eps


@dataclass(frozen=True)
class Partition:
    """A contrast of a design, split into what is tested and what is not.

    With M the design and C the contrast, M b = (M C^+) (C b) + (M N) (N'b), where N spans the null space of C.

    Attributes
    ----------
    tested : (n, s) float64
        Orthonormal basis of M C^+ without M N; for s = 1 with the sign of the effect.
    raw : (n, s) float64
        M C^+.
    nuisance : (n, q) float64
        Orthonormal basis of M N.
    moving : (n, k) float64
        The part of the nuisance that rearrangements change: residuals stay orthogonal to the rest.
    """

    tested: Array
    raw: Array
    nuisance: Array
    moving: Array

    @property
    def degrees_of_freedom(self) -> int:
        """Of the error: n - q - s."""
        return len(self.tested) - self.nuisance.shape[1] - self.tested.shape[1]


def partition(design: Array, contrast: Array, invariant: Array | None = None) -> Partition:
    """Split a design for the test of a contrast.

    Parameters
    ----------
    design : (n, p) float64
        M.
    contrast : (s, p) float64
        C, estimable; rows may be linearly dependent.
    invariant : (n, b) float64, optional
        Orthonormal vectors that no rearrangement changes.

    Returns
    -------
    Partition
    """
    basis = orthonormal_basis(design)
    directions, others = split_directions(contrast, basis)
    rank = len(directions)
    if rank == 1:
        directions = directions * np.sign(contrast[0] @ basis.to_basis @ directions[0])
    columns = design @ basis.to_basis
    tested, nuisance = columns @ directions.T, columns @ others.T
    raw = design @ np.linalg.pinv(contrast)
    if rank < len(contrast):
        raw = design @ np.linalg.svd(contrast)[2][:rank].T
    moving = nuisance
    if invariant is not None and nuisance.shape[1] and invariant.shape[1]:
        _, cosines, directions = np.linalg.svd(invariant.T @ nuisance)
        fixed = np.sum(cosines > 1 - 1e-10)
        moving = nuisance @ directions[fixed:].T
    return Partition(tested, raw, nuisance, moving)


def rearranged(
    parts: Partition, index: NDArray[np.int64], sign: Array, scheme: str, dtype: DTypeLike = np.float32
) -> NDArray[np.floating]:
    """Regressors after each of B rearrangements.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    index, sign : (B, n)
        Row ``i`` becomes ``sign[i] * row index[i]``.
    scheme : str
        One of SCHEMES.
    dtype : dtype
        Of the result.

    Returns
    -------
    (B, s + k, n) array
        Freedman-Lane and ter Braak: the tested and the moving nuisance regressors. Smith (Dekker) and
        Draper-Stoneman: only the tested ones, rearranged with and without having been made orthogonal to the
        nuisance, orthonormal again: k = 0. Zero where a rearranged regressor lies in the nuisance.
    """
    if scheme in ("freedman-lane", "ter-braak"):
        moved = _moved(np.concatenate([parts.tested, parts.moving], axis=1), index, sign)
        return np.ascontiguousarray(moved.transpose(0, 2, 1), dtype=dtype)
    moved = _moved(parts.raw if scheme == "draper-stoneman" else parts.tested, index, sign)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    moved = moved - parts.nuisance @ (parts.nuisance.T @ moved)
    if moved.shape[2] > 1:
        moved = np.linalg.qr(moved)[0]
    else:
        left = np.linalg.norm(moved, axis=1, keepdims=True)
        moved = np.where(left > 1e-8 * length, moved / np.where(left > 0, left, 1.0), 0.0)
    return np.ascontiguousarray(moved.transpose(0, 2, 1), dtype=dtype)


def residuals(
    parts: Partition, values: NDArray[np.floating], scheme: str, dtype: DTypeLike = np.float32
) -> NDArray[np.floating]:
    """What is multiplied: the images without the nuisance (ter Braak: without the design), of unit length.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    values : (n, W) float32 or float64
        Images.
    scheme : str
        One of SCHEMES.
    dtype : dtype
        Of the result.

    Returns
    -------
    (n, W) array
        Zero where nothing is left but rounding.
    """
    first = values[:1] if spans_constant(parts.nuisance) else np.zeros((1, values.shape[1]), dtype=values.dtype)
    left = np.subtract(values, first, dtype=np.float64)
    size = np.einsum("iw,iw->w", left, left)
    left -= parts.nuisance @ (parts.nuisance.T @ left)
    if scheme == "ter-braak":
        left -= parts.tested @ (parts.tested.T @ left)
    length = np.sqrt(np.einsum("iw,iw->w", left, left))
    # Subtracting the first image leaves rounding of its own size.
    rounding = 8 * _EPS * np.sqrt(len(values)) * (np.sqrt(size) + np.abs(values[0]))
    scale = np.where(length > rounding, 1.0 / np.where(length > 0, length, 1.0), 0.0)
    return np.multiply(left, scale, out=np.empty(left.shape, dtype=dtype), casting="same_kind")


def shares(products: NDArray[np.floating], n_tested: int, signed: bool) -> NDArray[np.floating]:
    """Partial correlations, or shares of variance, of rearranged regressors.

    Parameters
    ----------
    products : (B, s + k, W) array
        ``rearranged(...) @ residuals(...)``; overwritten.
    n_tested : int
        s.
    signed : bool
        For t, s = 1.

    Returns
    -------
    (B, W) array
        For t the partial correlation b / sqrt(1 - sum c^2), b the product with the tested and c those with the
        nuisance regressors; for F sum b^2 / (1 - sum c^2). They grow with t and F.
    """
    tested, nuisance = products[:, :n_tested], products[:, n_tested:]
    if not signed:
        explained = np.einsum("bsw,bsw->bw", tested, tested)
        return explained if not nuisance.shape[1] else explained / _left(nuisance)
    if not nuisance.shape[1]:
        return tested[:, 0]
    return np.divide(tested[:, 0], np.sqrt(_left(nuisance)), out=tested[:, 0])


def statistics(
    share: NDArray[np.floating], n_tested: int, freedom: int | NDArray[Any], signed: bool
) -> NDArray[np.floating]:
    """Statistics t or F of what :func:`shares` gave.

    Parameters
    ----------
    share : array
        Partial correlations r, or shares R^2.
    n_tested : int
        s.
    freedom : int or array
        Degrees of freedom v of the error.
    signed : bool
        t, not F.

    Returns
    -------
    array
        t = r sqrt(v / (1 - r^2)); F = R^2 / s / ((1 - R^2) / v).
    """
    tiny = np.finfo(share.dtype).tiny
    if signed:
        return share * np.sqrt(freedom / np.maximum(1 - share * share, tiny)).astype(share.dtype, copy=False)
    ratio: NDArray[np.floating] = share / np.maximum(1 - share, tiny) * (np.asarray(freedom) / n_tested)
    return ratio.astype(share.dtype, copy=False)


def even_scale(
    share: NDArray[np.floating], n_tested: int, freedom: int | NDArray[Any], signed: bool
) -> NDArray[np.floating]:
    """Statistics that are comparable between voxels with different degrees of freedom.

    Parameters
    ----------
    share : array
        Partial correlations r, or shares R^2.
    n_tested : int
        s.
    freedom : int or array
        Degrees of freedom v of the error.
    signed : bool
        t, not F.

    Returns
    -------
    array
        ``-(v + s / 2 - 1) log(1 - R^2)``, Bartlett's approximation of a chi-squared with s degrees of freedom;
        for t its signed square root, which is nearly standard normal.
    """
    squared = share * share if signed else share
    limit = 1 - np.finfo(share.dtype).eps
    scaled = -(np.asarray(freedom) + n_tested / 2 - 1) * np.log1p(-np.minimum(squared, limit))
    result: NDArray[np.floating] = np.sign(share) * np.sqrt(scaled) if signed else scaled
    return result.astype(share.dtype, copy=False)


def exceedances(stats: NDArray[np.floating], observed: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many of B statistics are at least the observed one, at every voxel.

    Parameters
    ----------
    stats : (B, W) array
        Under rearrangements.
    observed : (W,) array
        Of the data, computed in the same way.

    Returns
    -------
    (W,) int64
        Ties count, up to the rounding of single precision.
    """
    reached = stats >= observed - 1e-5 * np.abs(observed)
    counts = np.zeros(stats.shape[1], dtype=np.int64)
    for start in range(0, len(stats), 255):
        counts += np.add.reduce(reached[start : start + 255], axis=0, dtype=np.uint8)
    return counts


def spans_constant(basis: Array) -> bool:
    """Whether the all-one vector is in the span of an orthonormal basis.

    Parameters
    ----------
    basis : (n, q) float64
        Basis.

    Returns
    -------
    bool
    """
    return bool(np.abs(basis @ basis.sum(axis=0) - 1).max(initial=0.0) < 1e-10) if basis.shape[1] else False


def _moved(regressors: Array, index: NDArray[np.int64], sign: Array) -> Array:
    """Regressors (n, k) rearranged B times: (B, n, k)."""
    moved: Array = regressors[index] * sign[:, :, None]
    return moved


def _left(nuisance: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 - sum c^2 of (B, k, W), above zero: a share is at most one."""
    left = np.einsum("bkw,bkw->bw", nuisance, nuisance)
    np.subtract(1, left, out=left)
    return np.maximum(left, np.finfo(left.dtype).eps, out=left)
