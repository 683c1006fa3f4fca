"""Permutation tests as products of matrices: rearranged regressors times residuals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.basis import orthonormal_basis, split_directions
from daskglm.kernels.moments import Array
from daskglm.kernels.solve import own_rounding, rss_rounding

SCHEMES = ("freedman-lane", "smith", "dekker", "draper-stoneman", "ter-braak")
_EPS = np.finfo(float).eps
# A rearranged regressor of which less than this part of its length is left beside the others lies in their span.
_MIN_LENGTH = 1e-12
_SINGLE = 2.0**-24


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


def rearranged(parts: Partition, index: NDArray[np.int64], sign: Array, scheme: str) -> Array:
    """Regressors after each of B rearrangements.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    index, sign : (B, n)
        Row ``i`` becomes ``sign[i] * row index[i]``.
    scheme : str
        One of SCHEMES.

    Returns
    -------
    (B, s + k, n) float64
        Freedman-Lane and ter Braak: the tested and the moving nuisance regressors. Smith (Dekker) and
        Draper-Stoneman: only the tested ones, rearranged with and without having been made orthogonal to the
        nuisance, orthonormal again: k = 0. All zero where one lies in the span of the nuisance and the others.
    """
    if scheme in ("freedman-lane", "ter-braak"):
        moved = _moved(np.concatenate([parts.tested, parts.moving], axis=1), index, sign)
        return np.ascontiguousarray(moved.transpose(0, 2, 1))
    moved = _moved(parts.raw if scheme == "draper-stoneman" else parts.tested, index, sign)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    moved = moved - parts.nuisance @ (parts.nuisance.T @ moved)
    moved /= np.where(length > 0, length, 1.0)
    if moved.shape[2] > 1:
        moved, triangle = np.linalg.qr(moved)
        left = np.abs(np.diagonal(triangle, axis1=1, axis2=2)).min(axis=1)[:, None, None]
    else:
        left = np.linalg.norm(moved, axis=1, keepdims=True)
        moved /= np.where(left > 0, left, 1.0)
    moved = np.where(left > _MIN_LENGTH, moved, 0.0)
    return np.ascontiguousarray(moved.transpose(0, 2, 1))


@dataclass(frozen=True)
class Fit:
    """What the nuisance explains of W images: from them and this, what it leaves is found again, in any precision.

    Attributes
    ----------
    basis : (n, q) float64
        Orthonormal regressors.
    reference : (W,) array of the images' type
        What is subtracted first.
    weights : (q, W) float64
        What is subtracted then, times the basis.
    length : (W,) float64
        Of what is left.
    size : (W,) float64
        Of the images about their reference.
    noise : (W,) float64
        Rounding of the images themselves, as a fraction of the length.
    """

    basis: Array
    reference: NDArray[np.floating]
    weights: Array
    length: Array
    size: Array
    noise: Array

    def some(self, columns: NDArray[Any]) -> "Fit":
        """That of some images.

        Parameters
        ----------
        columns : (K,) int64
            Which.

        Returns
        -------
        Fit
        """
        return Fit(
            self.basis, self.reference[columns], self.weights[:, columns], self.length[columns], self.size[columns],
            self.noise[columns],
        )  # fmt: skip


def residuals(parts: Partition, values: NDArray[np.floating]) -> tuple[Array, Fit]:
    """Images without the nuisance, of unit length.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    values : (n, W) float32 or float64
        Images.

    Returns
    -------
    left : (n, W) float64
        Zero where nothing can be tested: nothing is left but rounding, or the whole design explains the image.
    fit : Fit
        Of the nuisance.
    """
    first = values[0] if spans_constant(parts.nuisance) else np.zeros(values.shape[1], dtype=values.dtype)
    left = np.subtract(values, first, dtype=np.float64)
    size = np.sqrt(np.einsum("iw,iw->w", left, left))
    weights = parts.nuisance.T @ left
    left -= parts.nuisance @ weights
    length = np.sqrt(np.einsum("iw,iw->w", left, left))
    rounding = rounding_of(len(values), size, np.abs(values[0]))
    safe = np.where(length > rounding, length, 1.0)
    left *= np.where(length > rounding, 1 / safe, 0.0)
    left[:, _explained(parts, values, left, length, size)] = 0.0
    return left, Fit(parts.nuisance, first.copy(), weights, safe, size, rounding / safe)


def without_tested(parts: Partition, fit: Fit, left: Array) -> Fit:
    """The fit of the whole design, whose residuals ter Braak permutes.

    Parameters
    ----------
    parts : Partition
        Contrast of n rows.
    fit, left : Fit and (n, W) float64
        From :func:`residuals`.

    Returns
    -------
    Fit
    """
    inside = parts.tested.T @ left
    share = np.sqrt(np.square(left - parts.tested @ inside).sum(axis=0))
    share = np.where(share > 0, share, 1.0)
    return Fit(
        np.concatenate([fit.basis, parts.tested], axis=1), fit.reference,
        np.concatenate([fit.weights, inside * fit.length]), fit.length * share, fit.size, fit.noise / share,
    )  # fmt: skip


def rounding_of(n_rows: int, size: Array, largest: NDArray[np.floating]) -> Array:
    """Rounding of residuals in double precision.

    Parameters
    ----------
    n_rows : int
        n.
    size, largest : (W,) array
        Length of the images about their reference, and the size of a value.

    Returns
    -------
    (W,) float64
    """
    rounding: Array = 8 * _EPS * np.sqrt(n_rows) * (size + largest)
    return rounding


def single_residuals(fit: Fit, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Residuals of unit length in single precision.

    Parameters
    ----------
    fit : Fit
        Of W images.
    values : (n, W) array
        The images.

    Returns
    -------
    (n, W) float32
    """
    dtype = np.result_type(values.dtype, np.float32)
    left = np.subtract(values, fit.reference, dtype=dtype)
    left -= fit.basis.astype(dtype) @ fit.weights.astype(dtype)
    left *= (1 / fit.length).astype(dtype)
    return left.astype(np.float32, copy=False)


def exact_residuals(fit: Fit, values: NDArray[np.floating]) -> Array:
    """Residuals of unit length in double precision, whose bits do not depend on which other images there are.

    Parameters
    ----------
    fit : Fit
        Of W images.
    values : (n, W) array
        The images.

    Returns
    -------
    (W, n) float64
    """
    left = np.subtract(values.T, fit.reference[:, None], dtype=np.float64, order="C")
    left -= (fit.weights.T[:, None] @ fit.basis.T)[:, 0]
    left /= fit.length[:, None]
    return left


def single_error(fit: Fit) -> Array:
    """How far :func:`single_residuals` are off at most, beside the rounding of their own digits.

    Parameters
    ----------
    fit : Fit
        Of W images.

    Returns
    -------
    (W,) float64
        Length of the difference.
    """
    error: Array = fit.noise + _SINGLE * (3 + fit.basis.shape[1]) * fit.size / fit.length
    return error


def _explained(
    parts: Partition, values: NDArray[np.floating], left: Array, length: Array, size: Array
) -> NDArray[np.int64]:
    """Images (n, W) that the whole design explains to rounding, as a fit of it says; `left` are their residuals."""
    inside = np.square(parts.tested.T @ left).sum(axis=0)
    stored = own_rounding(values.dtype) * (size + np.sqrt(len(values)) * np.abs(values[0]))
    close = np.flatnonzero((1 - inside) * length**2 < np.maximum(1e-6 * length**2, 2 * stored**2))
    rss = np.square(_without(parts.tested, left[:, close])).sum(axis=0) * length[close] ** 2
    some = values[:, close].astype(np.float64)
    whole = np.concatenate([parts.nuisance, parts.tested], axis=1)
    reference = some[0] if spans_constant(whole) else np.zeros(close.size)
    power = np.square(some - reference).sum(axis=0)
    found: NDArray[np.int64] = close[rss <= rss_rounding(power, len(some), reference, values.dtype)]
    return found


def shares(
    products: NDArray[np.floating], n_tested: int, signed: bool
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
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
    share : (B, W) array
        For t the partial correlation b / sqrt(1 - sum c^2), b the product with the tested and c those with the
        nuisance regressors; for F sum b^2 / (1 - sum c^2). They grow with t and F.
    left : (B, W) array or None
        1 - sum c^2, by which errors grow; None where it is 1.
    """
    tested, nuisance = products[:, :n_tested], products[:, n_tested:]
    left = _left(nuisance) if nuisance.shape[1] else None
    if not signed:
        explained = np.einsum("bsw,bsw->bw", tested, tested)
        return (explained if left is None else explained / left), left
    if left is None:
        return tested[:, 0], None
    return np.divide(tested[:, 0], np.sqrt(left), out=tested[:, 0]), left


def growth(left: NDArray[np.floating] | None, n_nuisance: int, n_tested: int, signed: bool) -> NDArray[np.float64]:
    """How much larger errors of shares are than those of products.

    Parameters
    ----------
    left : array or None
        From :func:`shares`, or its least value.
    n_nuisance, n_tested : int
        Regressors of the nuisance that move, and s.
    signed : bool
        For t.

    Returns
    -------
    array of float64
        Of b / sqrt(1 - sum c^2), or of sum b^2 / (1 - sum c^2), at most.
    """
    direct = 1.0 if signed else 2 * np.sqrt(n_tested)
    if left is None:
        return np.asarray(direct)
    kept = np.clip(left.astype(np.float64), _EPS, 1.0)
    found: NDArray[np.float64] = (direct + 2 * np.sqrt(n_nuisance * (1 - kept))) / kept
    return found


def product_error(n_rows: int, size: float | Array) -> float | Array:
    """Rounding of a single-precision product of unit vectors.

    Parameters
    ----------
    n_rows : int
        Their length.
    size : float or (W,) array
        Of the product: sums on the way to it are seldom larger.

    Returns
    -------
    float or (W,) array
    """
    return _SINGLE * (16 + 3 * np.sqrt(n_rows) * size)


def statistics(
    share: NDArray[np.floating], n_tested: int, freedom: float | NDArray[Any], signed: bool
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
    # A rearrangement may explain everything: the statistic is very large then, not infinite.
    least = np.finfo(share.dtype).eps
    if signed:
        return share * np.sqrt(freedom / np.maximum(1 - share * share, least)).astype(share.dtype, copy=False)
    ratio: NDArray[np.floating] = share / np.maximum(1 - share, least) * (np.asarray(freedom) / n_tested)
    return ratio.astype(share.dtype, copy=False)


def even_scale(
    share: NDArray[np.floating], n_tested: int, freedom: float | NDArray[Any], signed: bool
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


def share_on_scale(scaled: Array, n_tested: int, freedom: float, signed: bool) -> Array:
    """The share that :func:`even_scale` brings there.

    Parameters
    ----------
    scaled : (B,) float64
        Statistics on the even scale.
    n_tested : int
        s.
    freedom : float
        Degrees of freedom v of the error.
    signed : bool
        t, not F.

    Returns
    -------
    (B,) float64
        Partial correlations or shares of variance; less than any where the statistic is not above zero.
    """
    squared = -np.expm1(-(scaled**2 if signed else scaled) / (freedom + n_tested / 2 - 1))
    return np.where(scaled > 0, np.sqrt(np.maximum(squared, 0.0)) if signed else squared, -2.0)


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


def _without(basis: Array, values: Array) -> Array:
    """Values (n, W) without what lies in the span of an orthonormal basis."""
    rest: Array = values - basis @ (basis.T @ values)
    return rest


def _moved(regressors: Array, index: NDArray[np.int64], sign: Array) -> Array:
    """Regressors (n, k) rearranged B times: (B, n, k)."""
    moved: Array = regressors[index] * sign[:, :, None]
    return moved


def _left(nuisance: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 - sum c^2 of (B, k, W), above zero: a share is at most one."""
    left = np.einsum("bkw,bkw->bw", nuisance, nuisance)
    np.subtract(1, left, out=left)
    return np.maximum(left, np.finfo(left.dtype).eps, out=left)
