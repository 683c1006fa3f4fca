"""From moments to coefficients and their covariance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskglm.kernels.moments import Array, Moments, constant_sums, grams_of, pack, pairs, totals, unpack

# Voxels solved together: (2048, 20, 20) float64 is 6.5 MB.
_SOLVE_TOGETHER = 2048
# Eigenvalues of X'WX under this fraction of the largest count as zero.
_RANK_TOLERANCE = 1e-11
# Where the design explains nearly all, a residual of less than this part of it is rounding of regressors.
_EXPLAINED = 2.0**-29


@dataclass(frozen=True)
class Fit:
    """Least-squares coefficients of V voxels in the basis (r columns) of the moments.

    Attributes
    ----------
    theta : (r, V) float64
        Coefficients of the images minus their reference.
    reference : (V,) float64
        What was subtracted; it belongs to the constant.
    residual_variance : (V,) float64
        RSS / (n - rank), in squared image units; NaN without residual degrees of freedom, zero for a voxel
        that the design explains to rounding.
    degrees_of_freedom : (V,) float64
        n - rank of each voxel, in the observations it has.
    count : (V,) int64
        Observations of each voxel.
    covariance : (r (r + 1) / 2,) float64
        (X'WX)^-1, packed, of voxels that miss nothing; multiply by `residual_variance`.
    row_space : (r, r) float64
        The projection on the row space of X at those voxels: the identity, unless weights of zero take away a
        whole group.
    incomplete : (k,) int64
        Voxels, ascending, with a covariance of their own.
    covariance_incomplete : (k, r (r + 1) / 2) float64
        Their (X'WX)^-1; the pseudo-inverse where X loses rank in the observations left.
    deficient : (d,) int64
        Voxels, ascending, where X loses rank.
    deficient_row_space : (d, r, r) float64
        The projection on the row space of X there: only contrasts inside it are estimable.
    constant : (r,) float64 or None
        Coefficients of the all-one vector.
    """

    theta: Array
    reference: Array
    residual_variance: Array
    degrees_of_freedom: Array
    count: NDArray[np.int64]
    covariance: Array
    row_space: Array
    incomplete: NDArray[np.int64]
    covariance_incomplete: Array
    deficient: NDArray[np.int64]
    deficient_row_space: Array
    constant: Array | None

    def covariances(self, weights: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """C (X'WX)^-1 C' of each voxel.

        Parameters
        ----------
        weights : (q, r) float64
            C, in the basis.

        Yields
        ------
        voxels : (m,) int64
            Some of the voxels.
        covariance : (1, q, q) or (m, q, q) float64
            Theirs; multiply by `residual_variance`.
        """
        left, right = pairs(len(weights))
        rows, columns = pairs(weights.shape[1])
        # Both entries of the symmetric covariance that a packed one stands for.
        products = weights[left][:, rows] * weights[right][:, columns]
        products += np.where(rows == columns, 0.0, weights[left][:, columns] * weights[right][:, rows])
        complete = np.delete(np.arange(self.count.size), self.incomplete)
        yield complete, unpack(products @ self.covariance)[None]
        yield self.incomplete, unpack(self.covariance_incomplete @ products.T)

    def undetermined(self, weights: Array) -> NDArray[np.int64]:
        """Voxels whose remaining observations do not determine a contrast.

        Parameters
        ----------
        weights : (q, r) float64
            Contrast in the basis.

        Returns
        -------
        (m,) int64
        """
        lost = self.deficient[_leave_out(weights, self.deficient_row_space)]
        if not _leave_out(weights, self.row_space[None])[0]:
            return lost
        return np.concatenate([lost, np.delete(np.arange(self.count.size), self.incomplete)])


def solve(moments: Moments, min_count: int = 1, dtype: DTypeLike = np.float64) -> Fit:
    """Solve the normal equations at every voxel.

    Parameters
    ----------
    moments : Moments
        Summed over all observations.
    min_count : int
        Voxels with fewer observations get a NaN residual variance: no statistic is made of them.
    dtype : dtype
        Of the images: what their own rounding leaves is no residual.

    Returns
    -------
    Fit
        theta = (X'WX)^-1 X'Wy; RSS = y'Wy - theta'X'Wy; both relative to the reference. Each voxel uses
        the observations it has, and the rank of X in those (nilearn divides by n - p but tests with
        n - rank: equal at full rank).
    """
    covariance, lost, rank = _inverse(unpack(moments.gram)[None])
    theta = covariance[0] @ moments.cross
    ranks = np.full(moments.power.shape, rank[0])
    own = moments.incomplete
    covariance_own = np.empty_like(moments.gram_incomplete)
    deficient, deficient_row_space = [np.empty(0, np.int64)], [np.empty((0, *covariance.shape[1:]))]
    for start in range(0, own.size, _SOLVE_TOGETHER):
        part = slice(start, start + _SOLVE_TOGETHER)
        inverse, row_space, rank = _inverse(unpack(moments.gram_incomplete[part]))
        theta[:, own[part]] = np.einsum("vij,jv->iv", inverse, moments.cross[:, own[part]], optimize=True)
        ranks[own[part]] = rank
        covariance_own[part] = pack(inverse)
        deficient.append(own[part][rank < theta.shape[0]])
        deficient_row_space.append(row_space)
    variance = _residual_variance(moments, theta, ranks, min_count, dtype)
    theta[:, moments.anchored] += moments.anchor
    return Fit(
        theta=theta,
        reference=moments.reference,
        residual_variance=variance,
        degrees_of_freedom=np.maximum(moments.count - ranks, 0).astype(np.float64),
        count=moments.count,
        covariance=pack(covariance[0]),
        row_space=lost[0] if len(lost) else np.eye(len(theta)),
        incomplete=own,
        covariance_incomplete=covariance_own,
        deficient=np.concatenate(deficient),
        deficient_row_space=np.concatenate(deficient_row_space),
        constant=moments.constant,
    )


def rss_rounding(
    power: Array,
    count: NDArray[np.int64] | int,
    reference: NDArray[np.floating],
    dtype: DTypeLike,
    weight: Array | None = None,
) -> Array:
    """The sum of squared residuals that is rounding error: a voxel with no more is explained by the design.

    Parameters
    ----------
    power : (V,) float64
        Sum of squares of the images minus their reference.
    count : (V,) int64 or int
        Observations.
    reference : (V,) array
        What was subtracted.
    dtype : dtype
        Of the images.
    weight : (V,) float64, optional
        Sum of the weights, where it is not the count.

    Returns
    -------
    (V,) float64
        Of the products, and of the images' own values about their reference.
    """
    eps = np.finfo(float).eps
    mean = (count if weight is None else weight) * np.asarray(reference, dtype=np.float64) ** 2
    rounding: Array = 8 * eps * np.sqrt(np.maximum(count, 1)) * power + (8 * eps) ** 2 * mean
    return rounding + own_rounding(dtype) ** 2 * (power + mean)


def own_rounding(dtype: DTypeLike) -> float:
    """By how much of it a value differs from the true one, stored in a type, at most.

    Parameters
    ----------
    dtype : dtype
        Type of images.

    Returns
    -------
    float
        2^-24 of float32; of whole numbers, which are exact, that of float64.
    """
    kind = np.dtype(dtype)
    return float(np.finfo(kind if kind.kind == "f" else np.float64).eps) / 2


def _residual_variance(
    moments: Moments, theta: Array, ranks: NDArray[np.intp], min_count: int, dtype: DTypeLike
) -> Array:
    """RSS / (n - rank); zero where RSS is rounding error, NaN where nothing is left to divide by."""
    residual = moments.power - np.einsum("ij,ij->j", theta, moments.cross)
    weight = constant_sums(moments)[1]
    rounding = rss_rounding(moments.power, moments.count, moments.reference, dtype, weight)
    far = moments.anchored
    for part in (far[start : start + _SOLVE_TOGETHER] for start in range(0, far.size, _SOLVE_TOGETHER)):
        subtracted, grams = totals(moments, part, moments.reference), grams_of(moments, part)
        squares = np.einsum("iv,vij,jv->v", subtracted, grams, subtracted, optimize=True)
        rounding[part] += (_EXPLAINED**2 + own_rounding(dtype) ** 2) * squares
    residual[residual <= rounding] = 0.0
    freedom = moments.count - ranks
    usable = (freedom > 0) & (moments.count >= min_count)
    variance: Array = np.where(usable, residual / np.where(usable, freedom, 1), np.nan)
    return variance


def _inverse(gram: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """Pseudo-inverses of (m, r, r), the row-space projections of the deficient ones (d, r, r), ranks (m,)."""
    size = gram.shape[-1]
    rank = np.full(gram.shape[0], size)
    good = _well_conditioned(gram)
    inverse = np.empty_like(gram)
    inverse[good] = np.linalg.inv(gram[good])
    values, vectors = np.linalg.eigh(gram[~good])
    kept = values > _RANK_TOLERANCE * values[:, -1:]
    reciprocal = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    inverse[~good] = (vectors * reciprocal[:, None, :]) @ vectors.transpose(0, 2, 1)
    rank[~good] = kept.sum(axis=1)
    projection = (vectors * kept[:, None, :]) @ vectors.transpose(0, 2, 1)
    return inverse, projection[kept.sum(axis=1) < size], rank


def _well_conditioned(gram: Array) -> NDArray[np.bool_]:
    """Tell which matrices (m, r, r) surely have full rank, by the pivots of Cholesky's factorisation.

    The smallest squared pivot bounds the smallest eigenvalue within a factor of r 4^r at worst; in practice
    within a few times r. The test is strict and the rest is decomposed.
    """
    if gram.shape[-1] == 0:
        return np.zeros(gram.shape[0], dtype=bool)
    try:
        pivots = np.diagonal(np.linalg.cholesky(gram), axis1=-2, axis2=-1) ** 2
    except np.linalg.LinAlgError:
        return np.zeros(gram.shape[0], dtype=bool)
    good: NDArray[np.bool_] = pivots.min(axis=-1) > 1e-6 * np.diagonal(gram, axis1=-2, axis2=-1).max(axis=-1)
    return good


def _leave_out(weights: Array, row_space: Array) -> NDArray[np.bool_]:
    """Tell which projections (m, r, r) on row spaces leave out part of a contrast (q, r)."""
    outside = weights - weights @ row_space
    left_out: NDArray[np.bool_] = (np.abs(outside) > 1e-6 * np.abs(weights).max()).any(axis=(1, 2))
    return left_out
