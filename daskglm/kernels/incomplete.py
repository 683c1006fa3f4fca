"""Permutation tests of voxels that some images lack: each uses the images it has."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from daskglm.kernels.cholesky import factorise, solve_lower
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import Fit, rounding_of, spans_constant
from daskglm.kernels.solve import rss_rounding

_EPS = np.finfo(float).eps
# A nuisance direction of less weight than this among the images of a voxel is found by a decomposition, not by its
# weight, which is a difference of numbers near one; of less length than the other, it is not there.
_SURE_WEIGHT, _MIN_LENGTH = 1e-5, 1e-12
# A rearranged regressor of which a voxel's images, beside the nuisance, keep less than this says nothing there.
_MIN_LEFT = 1e-10
# Where fewer images than this are missing, their sum is taken from that of all: there a sparse product is cheaper.
_FEW = 0.15


@dataclass(frozen=True)
class Incomplete:
    """W voxels with gaps, ready for products.

    Attributes
    ----------
    fit : Fit
        Of the nuisance, voxel by voxel. Residuals are to be zero where an image is missing.
    lost : (L, n) sparse array
        The distinct patterns of images that miss few: 1 where one is missing.
    seen : (U - L, n) array
        Those that miss more: 1 where there is an image, else 0.
    pattern : (W,) int64
        Which of them each voxel has, counted through both.
    whiten : (U, q, q) float64
        T of each pattern: T Z'Z T' over its images is the identity, or zero where the nuisance Z is not determined.
    share : (W,) float64
        Partial correlation, or share of variance, of the regressors as they are.
    count, freedom : (W,) int64
        Images of each voxel, and degrees of freedom of the error: 0 where nothing can be tested.
    """

    fit: Fit
    lost: Any
    seen: NDArray[np.floating]
    pattern: NDArray[np.int64]
    whiten: Array
    share: Array
    count: NDArray[np.int64]
    freedom: NDArray[np.int64]

    def some(self, columns: NDArray[Any]) -> "Incomplete":
        """Some of the voxels.

        Parameters
        ----------
        columns : (K,) int64
            Which.

        Returns
        -------
        Incomplete
        """
        return replace(
            self, fit=self.fit.some(columns), pattern=self.pattern[columns], share=self.share[columns],
            count=self.count[columns], freedom=self.freedom[columns],
        )  # fmt: skip


def incomplete(given: NDArray[np.floating], nuisance: Array, tested: Array, signed: bool) -> Incomplete:
    """Prepare voxels with gaps.

    Parameters
    ----------
    given : (n, W) float32 or float64
        Images; what is not finite is missing.
    nuisance : (n, q) float64
        Z, orthonormal over all images.
    tested : (n, s) float64
        Tested regressors, likewise.
    signed : bool
        For t, s = 1.

    Returns
    -------
    Incomplete
    """
    there = np.isfinite(given)
    values = np.where(there, given.astype(np.float64), 0.0)
    seen, pattern = _patterns(there)
    whiten = _whiten(seen, nuisance)
    count = there.sum(axis=0)
    # Residuals do not depend on what is subtracted in the span of the nuisance; a mean keeps them exact.
    mean = (values.sum(axis=0) / np.maximum(count, 1)).astype(given.dtype)
    about_mean = np.where(there, values - mean, 0.0)
    reference, filled = (mean, about_mean) if spans_constant(nuisance) else (np.zeros_like(mean), values)
    size = np.linalg.norm(filled, axis=0)
    weights = _weights(filled.T[:, None], nuisance, whiten[pattern])[:, 0].T
    left = (filled - nuisance @ weights) * there
    length = np.linalg.norm(left, axis=0)
    largest = np.abs(values).max(axis=0, initial=0.0)
    good = length > rounding_of(len(values), size, largest)
    safe = np.where(good, length, 1.0)
    left *= good / safe
    directions, determined = _directions(
        _without(_masked(tested, seen), nuisance, whiten, seen), _least_lengths(whiten)
    )
    products = np.einsum("wsn,nw->ws", directions[pattern], left, optimize=True)
    explained = np.sum(products**2, axis=1)
    freedom = count - np.any(whiten, axis=2).sum(axis=1)[pattern] - tested.shape[1]
    good &= (1 - explained) * length**2 > rss_rounding(np.square(about_mean).sum(axis=0), count, mean, given.dtype)
    few = int(np.sum(seen.mean(axis=1) > 1 - _FEW))
    # Directions that the images of a voxel do not tell apart have large weights, which cancel.
    size += np.sum(np.abs(weights) * np.sqrt(seen @ nuisance**2)[pattern].T, axis=0)
    return Incomplete(
        Fit(nuisance, reference, weights, safe, size, rounding_of(len(values), size, largest) / safe),
        scipy.sparse.csr_array(1 - seen[:few].astype(np.float32)),
        np.ascontiguousarray(seen[few:], dtype=np.float32), pattern, whiten, products[:, 0] if signed else explained,
        count, np.where(good & determined[pattern], np.maximum(freedom, 0), 0),
    )  # fmt: skip


def _masked(columns: Array, seen: Array) -> Array:
    """Columns (n, k) over the images of each pattern: (U, k, n)."""
    masked: Array = columns.T * seen[:, None]
    return masked


def _whiten(seen: Array, nuisance: Array) -> Array:
    """T (U, q, q) of each pattern; rows of zeros for what is not there."""
    rank = nuisance.shape[1]
    pairs = (nuisance[:, :, None] * nuisance[:, None, :]).reshape(len(nuisance), -1)
    weights, directions = np.linalg.eigh((seen @ pairs).reshape(len(seen), rank, rank))
    directions = directions.transpose(0, 2, 1)
    lengths = np.sqrt(np.maximum(weights, 0.0))
    for number in np.flatnonzero((weights < _SURE_WEIGHT).any(axis=1)):
        _, lengths[number], directions[number] = np.linalg.svd(_padded(seen[number, :, None] * nuisance), False)
    kept = lengths > _MIN_LENGTH
    whiten: Array = np.where(kept, 1 / np.where(kept, lengths, 1.0), 0.0)[:, :, None] * directions
    return whiten


def _padded(columns: Array) -> Array:
    """Columns with as many rows at least: rows of zeros change no singular value."""
    return np.pad(columns, ((0, max(0, columns.shape[1] - len(columns))), (0, 0)))


def _without(rows: Array, nuisance: Array, whiten: Array, seen: NDArray[Any]) -> Array:
    """Rows (m, k, n), zero where an image is missing, without the nuisance over the images seen (m, n)."""
    left: Array = (rows - _weights(rows, nuisance, whiten) @ nuisance.T) * seen[:, None]
    return left


def _weights(rows: Array, nuisance: Array, whiten: Array) -> Array:
    """What of the nuisance (m, k, q) explains rows (m, k, n), zero where an image is missing."""
    weights: Array = (rows @ nuisance) @ whiten.transpose(0, 2, 1) @ whiten
    return weights


def _least_lengths(whiten: Array) -> Array:
    """Length (U, 1) that is rounding, of what is left beside the nuisance: a short direction of it is less exact."""
    growth = np.linalg.norm(whiten, axis=2).max(axis=1, initial=0.0)
    return np.maximum(_MIN_LENGTH, 64 * _EPS * growth)[:, None]


def _directions(left: Array, least: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Orthonormal rows of regressors (U, s, n) without the nuisance, and whether all of them are there."""
    length = np.linalg.norm(left, axis=2)
    found = length > least
    scaled = left / np.where(found, length, 1.0)[:, :, None]
    if left.shape[1] == 1:
        return scaled, found[:, 0]
    _, singular, rows = np.linalg.svd(scaled, full_matrices=False)
    return rows, found.all(axis=1) & (singular.min(axis=1) > 1e-8)


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
    voxels: Incomplete, moved: NDArray[np.floating], rows: NDArray[np.floating], values: NDArray[np.floating],
    columns: NDArray[np.int64] | slice, signed: bool,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.int64]]:  # fmt: skip
    """Partial correlations, or shares of variance, of rearranged regressors at voxels with gaps.

    Parameters
    ----------
    voxels : Incomplete
        Voxels.
    moved : (B, s, n) array
        Rearranged regressors.
    rows : (n, s, s + q, B) array
        From :func:`weighed_rows`.
    values : (n, W) array
        Images of some of the voxels, in the precision of the regressors.
    columns : (W,) int64 or slice
        Which.
    signed : bool
        For t, s = 1.

    Returns
    -------
    share : (B, W) array
        The regressor is made orthogonal to the nuisance over the images of each voxel:
        t: ``x'y / sqrt(x'x - |T Z'x|^2)`` with y of unit length; F: the same with s regressors.
    left : (U, B) array
        Which fraction of the regressor that is, at each pattern of images: errors grow by it.
    pattern : (W,) int64
        Which of them each voxel has.
    """
    n_moved, n_tested, n_rows = moved.shape
    flat = rows.reshape(n_rows, -1)
    whole = np.ones(n_rows, dtype=flat.dtype) @ flat
    pattern = voxels.pattern[columns]
    lost, seen, whiten = voxels.lost, voxels.seen, voxels.whiten
    if not isinstance(columns, slice):
        some, pattern = np.unique(pattern, return_inverse=True)
        few = some < lost.shape[0]
        lost, seen, whiten = lost[some[few]], seen[some[~few] - lost.shape[0]], whiten[some]
    weighed = np.concatenate([whole - lost @ flat, seen.astype(flat.dtype, copy=False) @ flat])
    weighed = weighed.reshape(-1, *rows.shape[1:])
    gram, cross = weighed[:, :, :n_tested], weighed[:, :, n_tested:]
    white = whiten.astype(flat.dtype, copy=False)[:, None] @ cross
    left = gram - (white[:, :, None] * white[:, None]).sum(axis=3)
    effect = (moved.reshape(-1, n_rows) @ values).reshape(n_moved, n_tested, -1)
    diagonal = np.arange(n_tested)
    kept = (left[:, diagonal, diagonal] / whole.reshape(rows.shape[1:])[diagonal, diagonal]).min(axis=1)
    if n_tested == 1:
        scale = _root(kept, left[:, 0, 0]).astype(effect.dtype)
        share: NDArray[np.floating] = effect[:, 0] * scale[pattern].T
        return (share if signed else share * share), kept, pattern
    matrices = np.moveaxis(left.astype(np.float64), 0, 2).reshape(n_tested, n_tested, -1)
    factors, kept = _factors(matrices, kept.reshape(-1))
    factors = factors.reshape(n_tested, n_tested, -1, n_moved)[:, :, pattern]
    right = effect.transpose(1, 2, 0).reshape(n_tested, 1, -1).astype(np.float64)
    white_effect = solve_lower(factors.reshape(n_tested, n_tested, -1), right)
    explained = np.sum(white_effect**2, axis=(0, 1)).reshape(-1, n_moved)
    kept = kept.reshape(-1, n_moved)
    explained = np.where((kept[pattern] > _MIN_LEFT) & np.isfinite(explained), explained, 0.0)
    return np.ascontiguousarray(explained.T, dtype=effect.dtype), kept, pattern


def incomplete_pairs(
    voxels: Incomplete, moved: Array, nuisance: Array, values: Array, columns: NDArray[np.int64], signed: bool
) -> tuple[Array, Array]:
    """The same for pairs of a rearrangement and a voxel, each by itself: no pair depends on which others there are.

    Parameters
    ----------
    voxels : Incomplete
        Voxels.
    moved : (P, s, n) float64
        Rearranged regressors of each pair.
    nuisance : (n, q) float64
        Z.
    values : (P, n) float64
        Images of each pair.
    columns : (P,) int64
        Its voxel.
    signed : bool
        For t, s = 1.

    Returns
    -------
    share, left : (P,) float64
    """
    n_tested, pattern = moved.shape[1], voxels.pattern[columns]
    n_few = voxels.lost.shape[0]
    seen = np.ones((len(pattern), moved.shape[2]))
    dense = pattern >= n_few
    seen[dense] = voxels.seen[pattern[dense] - n_few]
    seen[~dense] -= voxels.lost[pattern[~dense]].toarray() if (~dense).any() else 0.0
    there = moved * seen[:, None]
    gram = (there[:, :, None] * there[:, None]).sum(axis=3)
    cross = (there[:, :, None] * nuisance.T).sum(axis=3)
    white = (cross[:, :, None] * voxels.whiten[pattern][:, None]).sum(axis=3)
    left = gram - (white[:, :, None] * white[:, None]).sum(axis=3)
    effect = (there * values[:, None]).sum(axis=2)
    diagonal = np.arange(n_tested)
    kept = (left[:, diagonal, diagonal] / (moved**2).sum(axis=2)).min(axis=1)
    if n_tested == 1:
        share = effect[:, 0] * _root(kept, left[:, 0, 0])
        return (share if signed else share * share), kept
    factors, kept = _factors(np.moveaxis(left, 0, 2).copy(), kept)
    explained = np.sum(solve_lower(factors, effect.T[:, None]) ** 2, axis=(0, 1))
    return np.where((kept > _MIN_LEFT) & np.isfinite(explained), explained, 0.0), kept


def _root(kept: NDArray[np.floating], left: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / sqrt(left); zero where next to nothing is kept."""
    good = (kept > _MIN_LEFT) & (left > 0)
    root: NDArray[np.floating] = np.where(good, 1 / np.sqrt(np.where(good, left, 1.0)), 0.0)
    return root


def _factors(matrices: Array, kept: NDArray[np.floating]) -> tuple[Array, Array]:
    """Cholesky factors of (s, s, m), and which fraction of its least regressor is kept beside the others."""
    diagonal = np.arange(len(matrices))
    sizes = matrices[diagonal, diagonal].copy()
    factors = factorise(matrices)
    with np.errstate(invalid="ignore", divide="ignore"):
        least = np.nan_to_num((factors[diagonal, diagonal] ** 2 / sizes).min(axis=0))
    return factors, np.minimum(kept, 1.0) * least
