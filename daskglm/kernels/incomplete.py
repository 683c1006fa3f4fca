"""Permutation tests of voxels that some images lack: each uses the images it has."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import DTypeLike, NDArray

from daskglm.kernels.cholesky import factorise, solve_lower
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import spans_constant

_EPS = np.finfo(float).eps
# A nuisance direction of less weight than this among the images of a voxel is not there.
_MIN_WEIGHT = 1e-8
# A rearranged regressor of which a voxel's images, beside the nuisance, keep less than this says nothing there.
_MIN_LEFT = 1e-5
# Where fewer images than this are missing, their sum is taken from that of all: there a sparse product is cheaper.
_FEW = 0.15


@dataclass(frozen=True)
class Incomplete:
    """W voxels with gaps, ready for products.

    Attributes
    ----------
    values : (n, W) array
        Images without the nuisance, voxel by voxel, of unit length; zero where missing.
    lost : (L, n) sparse array
        The distinct patterns of images that miss few: 1 where one is missing.
    seen : (U - L, n) array
        Those that miss more: 1 where there is an image, else 0.
    pattern : (W,) int64
        Which of them each voxel has, counted through both.
    whiten : (U, q, q) array
        T of each pattern: T Z'Z T' over its images is the identity, or zero where the nuisance Z is not determined.
    count, freedom : (W,) int64
        Images of each voxel, and degrees of freedom of the error.
    """

    values: NDArray[np.floating]
    lost: Any
    seen: NDArray[np.floating]
    pattern: NDArray[np.int64]
    whiten: NDArray[np.floating]
    count: NDArray[np.int64]
    freedom: NDArray[np.int64]


def incomplete(values: Array, nuisance: Array, n_tested: int, dtype: DTypeLike = np.float32) -> Incomplete:
    """Prepare voxels with gaps.

    Parameters
    ----------
    values : (n, W) float64
        Images; what is not finite is missing.
    nuisance : (n, q) float64
        Z, orthonormal over all images.
    n_tested : int
        s.
    dtype : dtype
        Of what is multiplied.

    Returns
    -------
    Incomplete
    """
    there = np.isfinite(values)
    seen, pattern = _patterns(there)
    rank = nuisance.shape[1]
    pairs = (nuisance[:, :, None] * nuisance[:, None, :]).reshape(len(values), -1)
    weights, directions = np.linalg.eigh((seen @ pairs).reshape(len(seen), rank, rank))
    kept = weights > _MIN_WEIGHT
    whiten = np.where(kept, 1 / np.sqrt(np.where(kept, weights, 1.0)), 0.0)[:, :, None] * directions.transpose(0, 2, 1)
    count = there.sum(axis=0)
    # Residuals do not depend on what is subtracted in the span of the nuisance; a mean keeps them exact.
    filled = np.where(there, values, 0.0)
    if spans_constant(nuisance):
        filled = np.where(there, values - filled.sum(axis=0) / np.maximum(count, 1), 0.0)
    size = np.linalg.norm(filled, axis=0)
    own = whiten[pattern]
    coefficients = np.einsum("vji,vjk,kv->iv", own, own, nuisance.T @ filled, optimize=True)
    left = np.where(there, filled - nuisance @ coefficients, 0.0)
    freedom = count - kept.sum(axis=1)[pattern] - n_tested
    length = np.linalg.norm(left, axis=0)
    rounding = 8 * _EPS * np.sqrt(len(values)) * (size + np.abs(np.where(there, values, 0.0)).max(axis=0, initial=0.0))
    good = (length > rounding) & (freedom > 0)
    scale = np.where(good, 1 / np.where(length > 0, length, 1.0), 0.0)
    few = int(np.sum(seen.mean(axis=1) > 1 - _FEW))
    return Incomplete(
        np.ascontiguousarray(left * scale, dtype=dtype), scipy.sparse.csr_array(1 - seen[:few].astype(dtype)),
        np.ascontiguousarray(seen[few:], dtype=dtype), pattern,
        np.ascontiguousarray(whiten, dtype=dtype), count, np.where(good, freedom, 0),
    )  # fmt: skip


def _patterns(there: NDArray[np.bool_]) -> tuple[Array, NDArray[np.int64]]:
    """Distinct columns (U, n), the fullest first, and which of them each column is."""
    packed, pattern = np.unique(np.packbits(there.T, axis=1), axis=0, return_inverse=True)
    seen = np.unpackbits(packed, axis=1, count=len(there)).astype(np.float64)
    order = np.argsort(-seen.sum(axis=1), kind="stable")
    return seen[order], np.argsort(order)[pattern.reshape(-1)]


def weighed_rows(moved: NDArray[np.floating], nuisance: Array) -> NDArray[np.floating]:
    """What is multiplied with the patterns: products of the rearranged regressors with the nuisance and themselves.

    Parameters
    ----------
    moved : (B, s, n) array
        Rearranged regressors.
    nuisance : (n, q) float64
        Z.

    Returns
    -------
    (n, s, s + q, B) array
        For each tested regressor its products with the tested ones and then the nuisance.
    """
    tested = np.ascontiguousarray(moved.transpose(2, 1, 0))
    columns = nuisance.astype(moved.dtype)
    n_rows, n_tested, n_moved = tested.shape
    made = np.empty((n_rows, n_tested, n_tested + columns.shape[1], n_moved), dtype=moved.dtype)
    np.multiply(tested[:, :, None], tested[:, None], out=made[:, :, :n_tested])
    np.multiply(tested[:, :, None], columns[:, None, :, None], out=made[:, :, n_tested:])
    return made


def incomplete_shares(
    voxels: Incomplete, moved: NDArray[np.floating], rows: NDArray[np.floating], signed: bool
) -> NDArray[np.floating]:
    """Partial correlations, or shares of variance, of rearranged regressors at voxels with gaps.

    Parameters
    ----------
    voxels : Incomplete
        W voxels.
    moved : (B, s, n) array
        Rearranged regressors.
    rows : (n, s, s + q, B) array
        From :func:`weighed_rows`.
    signed : bool
        For t, s = 1.

    Returns
    -------
    (B, W) array
        The regressor is made orthogonal to the nuisance over the images of each voxel:
        t: ``x'y / sqrt(x'x - |T Z'x|^2)`` with y of unit length; F: the same with s regressors.
    """
    n_moved, n_tested, n_rows = moved.shape
    flat = rows.reshape(n_rows, -1)
    whole = np.ones(n_rows, dtype=flat.dtype) @ flat
    weighed = np.concatenate([whole - voxels.lost @ flat, voxels.seen @ flat]).reshape(-1, *rows.shape[1:])
    gram, cross = weighed[:, :, :n_tested], weighed[:, :, n_tested:]
    white = voxels.whiten[:, None] @ cross
    left = gram - (white[:, :, None] * white[:, None]).sum(axis=3)
    effect = (moved.reshape(-1, n_rows) @ voxels.values).reshape(n_moved, n_tested, -1)
    diagonal = np.arange(n_tested)
    least = _MIN_LEFT * whole.reshape(rows.shape[1:])[diagonal, diagonal]
    lost = (left[:, diagonal, diagonal] <= least).any(axis=1)
    if n_tested == 1:
        scale = np.where(lost, 0.0, 1 / np.sqrt(np.where(lost, 1.0, left[:, 0, 0]))).astype(effect.dtype)
        share: NDArray[np.floating] = effect[:, 0] * scale[voxels.pattern].T
        return share if signed else share * share
    matrices = np.moveaxis(left.astype(np.float64), 0, 2).reshape(n_tested, n_tested, -1)
    factors = factorise(matrices).reshape(n_tested, n_tested, -1, n_moved)[:, :, voxels.pattern]
    right = effect.transpose(1, 2, 0).reshape(n_tested, 1, -1).astype(np.float64)
    white_effect = solve_lower(factors.reshape(n_tested, n_tested, -1), right)
    explained = np.sum(white_effect**2, axis=(0, 1)).reshape(-1, n_moved)
    explained = np.where(lost[voxels.pattern] | ~np.isfinite(explained), 0.0, explained)
    return np.ascontiguousarray(explained.T, dtype=effect.dtype)
