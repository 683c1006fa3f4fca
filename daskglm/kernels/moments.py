"""Sums over observations: everything a linear model needs from the images."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A slab of the data is converted to float64, centred and multiplied while it is in the processor's cache.
_SLAB_VALUES = 2**16
_ADD_TOGETHER = 4096
# Sums keep the digits of residuals whose squares are more than this fraction of theirs.
_LOST = 1e-6
# Eigenvalues of X'WX under this fraction of the largest count as zero.
_SINGULAR = 1e-11
# Voxels with gaps of which so many are looked at, and all where one of these needs it.
_LOOKED_AT = 256
# A product with so few regressors is faster one by one: BLAS takes as long for two of them as for eight.
_ONE_BY_ONE = 4


@dataclass(frozen=True)
class Moments:
    """Weighted sums over observations of the products of a design X (n, r) and images Y (n, V).

    ``moments(a and b) = moments(a) + moments(b)``: blocks of observations may be summed in any grouping.
    The images are summed as differences from a reference per voxel, so that squares do not cancel
    (Chan, Golub & LeVeque 1983); adding two moments brings them to the same reference. Where the design explains
    nearly all of a voxel, as of sites whose means are far apart, that is not enough: there what a fit of the block
    explains is subtracted too, and adding two moments compares their fits, not their squares.

    Attributes
    ----------
    gram : (r (r + 1) / 2,) float64
        X'WX over all observations, packed by :func:`pairs`: valid for voxels that miss none of them.
    cross : (r, V) float64
        X'W(Y - reference) over the observations that each voxel has.
    power : (V,) float64
        Sum of w (y - reference)^2 over the observations that each voxel has.
    count : (V,) int64
        Number of observations that each voxel has.
    reference : (V,) float64
        What was subtracted from each voxel; zero where `constant` is None.
    incomplete : (k,) int64
        Voxels, ascending, whose X'WX is their own: they miss observations or have weights of their own.
    gram_incomplete : (k, r (r + 1) / 2) float64
        X'WX of those voxels.
    n_samples : int
        Number of observations in the sum.
    constant : (r,) float64 or None
        Coefficients c with X c = 1, which make the reference exact; None: no reference is subtracted.
    anchored : (f,) int64
        Voxels, ascending, of which more is subtracted than the reference.
    anchor : (r, f) float64
        Coefficients a of what is: X a.
    """

    gram: Array
    cross: Array
    power: Array
    count: NDArray[np.int64]
    reference: Array
    incomplete: NDArray[np.int64]
    gram_incomplete: Array
    n_samples: int
    constant: Array | None
    anchored: NDArray[np.int64]
    anchor: Array

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets of observations together."""
        reference = np.where(self.count > 0, self.reference, other.reference)
        mine, theirs = _moved(self, reference), _moved(other, reference)
        incomplete = np.union1d(self.incomplete, other.incomplete)
        gram_incomplete = gram_at(self, incomplete)
        _add_gram_at(gram_incomplete, other, incomplete)
        total = Moments(
            gram=self.gram + other.gram,
            cross=mine.cross + theirs.cross,
            power=mine.power + theirs.power,
            count=self.count + other.count,
            reference=reference,
            incomplete=incomplete,
            gram_incomplete=gram_incomplete,
            n_samples=self.n_samples + other.n_samples,
            constant=self.constant,
            anchored=np.empty(0, np.int64),
            anchor=np.empty((len(self.cross), 0)),
        )
        far = total.power > (self.power + other.power) / _LOST
        far[self.anchored], far[other.anchored] = True, True
        return _joined(self, other, total, np.flatnonzero(far))


def pairs(rank: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of each packed entry of a symmetric (rank, rank) matrix.

    Parameters
    ----------
    rank : int
        Number of columns r.

    Returns
    -------
    two (r (r + 1) / 2,) int arrays

    Examples
    --------
    >>> rows, columns = pairs(2)
    >>> list(zip(rows.tolist(), columns.tolist(), strict=True))
    [(0, 0), (1, 0), (1, 1)]
    """
    return np.tril_indices(rank)


def pack(symmetric: Array) -> Array:
    """Pack symmetric matrices (..., r, r) into (..., r (r + 1) / 2).

    Parameters
    ----------
    symmetric : (..., r, r) float64
        Symmetric matrices.

    Returns
    -------
    (..., r (r + 1) / 2) float64
        Lower triangles, row by row.
    """
    rows, columns = pairs(symmetric.shape[-1])
    packed: Array = symmetric[..., rows, columns]
    return packed


def unpack(packed: Array) -> Array:
    """Undo :func:`pack`.

    Parameters
    ----------
    packed : (..., r (r + 1) / 2) float64
        Lower triangles.

    Returns
    -------
    (..., r, r) float64
        Symmetric matrices.

    Examples
    --------
    >>> unpack(np.array([1.0, 2.0, 3.0]))
    array([[1., 2.],
           [2., 3.]])
    """
    rank = (int(np.sqrt(8 * packed.shape[-1] + 1)) - 1) // 2
    rows, columns = pairs(rank)
    matrix = np.empty((*packed.shape[:-1], rank, rank))
    matrix[..., rows, columns] = packed
    matrix[..., columns, rows] = packed
    return matrix


def gram_at(moments: Moments, voxels: NDArray[np.int64]) -> Array:
    """X'WX at some voxels.

    Parameters
    ----------
    moments : Moments
        Moments of V voxels.
    voxels : (k,) int64
        Voxels, ascending, among them every incomplete one.

    Returns
    -------
    (k, r (r + 1) / 2) float64
        Packed X'WX: the voxel's own where it is incomplete, else that of all observations.
    """
    gram = np.empty((voxels.size, moments.gram.size))
    gram[:] = moments.gram
    gram[np.searchsorted(voxels, moments.incomplete)] = moments.gram_incomplete
    return gram


def _add_gram_at(total: Array, moments: Moments, voxels: NDArray[np.int64]) -> None:
    """Add X'WX at some voxels to `total` (k, ...), in place and a few voxels at a time: it can be large."""
    own = np.searchsorted(voxels, moments.incomplete)
    shared = np.ones(voxels.size, dtype=bool)
    shared[own] = False
    for start in range(0, voxels.size, _ADD_TOGETHER):
        part = slice(start, start + _ADD_TOGETHER)
        total[part][shared[part]] += moments.gram
    for start in range(0, own.size, _ADD_TOGETHER):
        part = slice(start, start + _ADD_TOGETHER)
        total[own[part]] += moments.gram_incomplete[part]


def rebase(moments: Moments, reference: Array) -> Moments:
    """Express moments relative to another reference.

    Parameters
    ----------
    moments : Moments
        Moments of V voxels.
    reference : (V,) float64
        The new reference, in image units; nothing else is subtracted then.

    Returns
    -------
    Moments
        With ``d = old - new``: cross + d X'W1 and power + 2 d 1'W(y - old) + d^2 1'W1, where
        X'W1 = X'WX c and 1'W(y - old) = c'cross because X c = 1.
    """
    return _moved(_without_anchors(moments) if moments.anchored.size else moments, reference)


def _moved(moments: Moments, reference: Array) -> Moments:
    """As :func:`rebase`, where nothing but a reference is subtracted."""
    if moments.constant is None or np.array_equal(moments.reference, reference):
        return moments
    shift = np.where(moments.count > 0, moments.reference - reference, 0.0)
    regressor_sums, weight_sums = constant_sums(moments)
    cross = moments.cross + regressor_sums[:, None] * shift
    own = moments.incomplete
    if own.size:
        own_sums = unpack(moments.gram_incomplete) @ moments.constant
        cross[:, own] = moments.cross[:, own] + own_sums.T * shift[own]
    power = moments.power + shift * (2 * (moments.constant @ moments.cross) + shift * weight_sums)
    return replace(moments, cross=cross, power=power, reference=reference)


def constant_sums(moments: Moments) -> tuple[Array, Array]:
    """Sums of the regressors and of the weights alone.

    Parameters
    ----------
    moments : Moments
        Moments of V voxels.

    Returns
    -------
    regressor_sums : (r,) float64
        X'W1 = X'WX c, of voxels that miss nothing; zero where the constant is not in the span.
    weight_sums : (V,) float64
        1'W1 = c'X'WX c of each voxel.
    """
    constant = np.zeros(moments.cross.shape[0]) if moments.constant is None else moments.constant
    regressor_sums = unpack(moments.gram) @ constant
    weight_sums = np.full(moments.power.shape, constant @ regressor_sums)
    if moments.incomplete.size:
        weight_sums[moments.incomplete] = (unpack(moments.gram_incomplete) @ constant) @ constant
    return regressor_sums, weight_sums


def block_moments(
    data: NDArray[np.floating],
    design: Array,
    constant: Array | None = None,
    weights: Array | None = None,
) -> Moments:
    """Sum one block of observations.

    Parameters
    ----------
    data : (n, V) float32 or float64
        Images, in image units; a non-finite value is a missing observation.
    design : (n, r) float64
        Regressors, or their orthonormal basis.
    constant : (r,) float64 or None
        Coefficients c with X c = 1, if the constant is in the span of the whole design: the block's mean is
        then subtracted from each voxel before squaring.
    weights : (n,) or (n, V) float64, optional
        Non-negative observation weights; an observation of weight zero is missing.

    Returns
    -------
    Moments
        All X'WX of incomplete voxels are one product, of the mask (V, n) and the products of the regressors
        (n, r (r + 1) / 2).
    """
    n_samples, n_voxels = data.shape
    rows, columns = pairs(design.shape[1])
    products = design[:, rows] * design[:, columns]
    voxel_weights = None if weights is None or weights.ndim == 1 else weights
    sample_weights = weights if weights is not None and weights.ndim == 1 else np.ones(n_samples)
    regressors, cross = np.ascontiguousarray(design.T), np.empty((design.shape[1], n_voxels))
    power, reference, explained = np.empty(n_voxels), np.zeros(n_voxels), np.empty(n_voxels)
    count = np.full(n_voxels, np.count_nonzero(sample_weights), dtype=np.int64)
    # A sum is not finite where a value is not; one that overflows is taken for one, which is harmless.
    with np.errstate(invalid="ignore", over="ignore"):
        sums = data.sum(axis=0)
    incomplete = np.flatnonzero(~np.isfinite(sums)) if voxel_weights is None else np.arange(n_voxels)
    gram, gram_incomplete = sample_weights @ products, np.empty((incomplete.size, rows.size))
    whiten = _whitener(unpack(gram))
    width = max(64, _SLAB_VALUES // max(n_samples, 1))
    # One piece of memory for all slabs: workers give each freed one back to the system, which costs more than the sums.
    memory = np.empty(n_samples * min(width, n_voxels))
    for start in range(0, n_voxels, width):
        part = slice(start, min(start + width, n_voxels))
        slab = memory[: n_samples * (part.stop - start)].reshape(n_samples, part.stop - start)
        slab[:], slab_weights = data[:, part], sample_weights[:, None]
        first, last = np.searchsorted(incomplete, (part.start, part.stop))
        if last > first:
            own = incomplete[first:last]
            given = slab_weights if voxel_weights is None else voxel_weights[:, part]
            slab_weights = _weights_of_slab(slab, given)
            own_weights = slab_weights[:, own - start]
            gram_incomplete[first:last] = own_weights.T @ products
            count[own] = np.count_nonzero(own_weights, axis=0)
        if constant is not None:
            # Any reference near the mean is exact; that of a sum in single precision costs nothing more.
            means = _means(slab, slab_weights > 0) if last > first else sums[part] / n_samples
            reference[part] = means
            slab -= reference[part]
        weighted = slab if weights is None and last == first else slab_weights * slab
        _multiply(regressors, weighted, cross[:, part])
        power[part] = np.einsum("ij,ij->j", weighted, slab)
        fitted = whiten @ cross[:, part]
        explained[part] = np.einsum("ij,ij->j", fitted, fitted)
    moments = Moments(
        gram=gram,
        cross=cross,
        power=power,
        count=count,
        reference=reference,
        incomplete=incomplete,
        gram_incomplete=gram_incomplete,
        n_samples=n_samples,
        constant=constant,
        anchored=np.empty(0, np.int64),
        anchor=np.empty((len(cross), 0)),
    )
    far = _explained(moments, explained)
    return _anchored(moments, far, data, design, sample_weights[:, None] if voxel_weights is None else voxel_weights)


def _multiply(regressors: Array, slab: Array, cross: Array) -> None:
    """Products (r, v) of regressors (r, n) and a slab (n, v), into `cross`."""
    if len(regressors) > _ONE_BY_ONE:
        cross[:] = (slab.T @ regressors.T).T  # of a wide slab this is the faster order
        return
    for regressor, sums in zip(regressors, cross, strict=True):
        np.dot(regressor, slab, out=sums)


def _weights_of_slab(slab: Array, weights: Array) -> Array:
    """Weights (n, v) of a slab, zero where a value is missing; missing values become zero, in place."""
    seen = np.isfinite(slab)
    slab[~seen] = 0.0
    return weights * seen


def _means(slab: Array, seen: NDArray[np.bool_]) -> Array:
    """Each voxel's mean over its observations."""
    means: Array = np.where(seen, slab, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return means


def totals(moments: Moments, voxels: NDArray[np.int64], about: Array | None = None) -> Array:
    """All that was subtracted from some voxels.

    Parameters
    ----------
    moments : Moments
        Moments of V voxels.
    voxels : (k,) int64
        Some of them.
    about : (V,) float64, optional
        Another reference, which is not counted.

    Returns
    -------
    (r, k) float64
        Coefficients: the reference times those of the constant, and the anchor.
    """
    found = np.zeros((len(moments.cross), voxels.size))
    if moments.constant is not None:
        reference = moments.reference if about is None else moments.reference - about
        found += np.outer(moments.constant, reference[voxels])
    mine, theirs = _both(voxels, moments.anchored)
    found[:, mine] += moments.anchor[:, theirs]
    return found


def grams_of(moments: Moments, voxels: NDArray[np.int64]) -> Array:
    """X'WX of some voxels.

    Parameters
    ----------
    moments : Moments
        Moments of V voxels.
    voxels : (k,) int64
        Some of them, ascending.

    Returns
    -------
    (k, r, r) or (1, r, r) float64
        One for all where none of them misses anything.
    """
    mine, theirs = _both(voxels, moments.incomplete)
    if not mine.size:
        return unpack(moments.gram)[None]
    packed = np.tile(moments.gram, (voxels.size, 1))
    packed[mine] = moments.gram_incomplete[theirs]
    return unpack(packed)


def _anchored(
    moments: Moments, voxels: NDArray[np.int64], data: NDArray[np.floating], design: Array, weights: Array
) -> Moments:
    """Moments of a block about what its own fit explains, at the voxels whose sums would lose digits."""
    cross, power = moments.cross.copy(), moments.power.copy()
    anchor = np.empty((len(cross), voxels.size))
    for start in range(0, voxels.size, _ADD_TOGETHER):
        part = voxels[start : start + _ADD_TOGETHER]
        values = data[:, part].astype(np.float64)
        own = _weights_of_slab(values, weights if weights.shape[1] == 1 else weights[:, part])
        fit = _times(_inverses(grams_of(moments, part)), cross[:, part])
        values -= moments.reference[part]
        values -= design @ fit
        anchor[:, start : start + _ADD_TOGETHER] = fit
        cross[:, part], power[part] = design.T @ (own * values), np.sum(own * values**2, axis=0)
    return replace(moments, cross=cross, power=power, anchored=voxels, anchor=anchor) if voxels.size else moments


def _explained(moments: Moments, explained: Array) -> NDArray[np.int64]:
    """Voxels of a block whose squares the design explains but for a fraction that is lost in them.

    `explained` (V,) holds for the complete ones. Of those with gaps some are looked at, and all where one is found.
    """

    def among(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        cross, power = moments.cross[:, voxels], moments.power[voxels]
        fit = _times(_inverses(grams_of(moments, voxels)), cross)
        return voxels[power - np.einsum("rv,rv->v", fit, cross) < _LOST * power]

    own, power = moments.incomplete, moments.power
    far = power - explained < _LOST * power
    far[own] = False
    some = own[:: max(1, own.size // _LOOKED_AT)]
    if own.size and (far.any() or among(some[moments.count[some] > len(moments.cross)]).size):
        for start in range(0, own.size, _ADD_TOGETHER):
            far[among(own[start : start + _ADD_TOGETHER])] = True
    return np.flatnonzero(far)


def _joined(one: Moments, other: Moments, total: Moments, voxels: NDArray[np.int64]) -> Moments:
    """The sum of two moments where some voxels are far apart in both: there about the fit of both together."""
    kept = np.zeros(voxels.size, dtype=bool)
    anchor = np.empty((len(total.cross), voxels.size))
    complete = ~np.isin(voxels, total.incomplete)
    groups = [np.flatnonzero(complete), np.flatnonzero(~complete)]
    for group in groups:
        for start in range(0, group.size, _ADD_TOGETHER):
            part = group[start : start + _ADD_TOGETHER]
            kept[part], anchor[:, part] = _join(one, other, total, voxels[part])
    return replace(total, anchored=voxels[kept], anchor=anchor[:, kept]) if kept.any() else total


def _join(one: Moments, other: Moments, total: Moments, voxels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Array]:
    """Sums of some voxels, into `total`; which of them stay anchored, and where."""
    grams = [grams_of(side, voxels) for side in (one, other)]
    # About the reference of both: a mean may be a million times what is left about it.
    own = [totals(side, voxels, total.reference) for side in (one, other)]
    sums = [side.cross[:, voxels] for side in (one, other)]
    whole = grams[0] + grams[1]
    right = sums[0] + sums[1] + _times(grams[0], own[0]) + _times(grams[1], own[1])
    anchor = _times(_inverses(whole), right)
    cross, power = np.zeros_like(anchor), one.power[voxels] + other.power[voxels]
    for part, gram, mine in zip(sums, grams, own, strict=True):
        # |X d|^2 as the square of a root times d: what a side does not see of d is zero but for rounding of d.
        root, shift = _roots(gram), mine - anchor
        moved = _times(root, shift)
        cross += part + _times(root.swapaxes(1, 2), moved)
        power += 2 * np.sum(shift * part, axis=0) + np.sum(moved**2, axis=0)
    # Squares that a side did not sum about its own fit have rounding of their own, and no more may be left of them.
    rounding = 64 * np.finfo(float).eps * np.sqrt(total.count[voxels]) * (one.power[voxels] + other.power[voxels])
    power = np.where(power > rounding, power, 0.0)
    inside = _times(whole, anchor)
    plain = power + np.sum(anchor * (2 * cross + inside), axis=0)
    kept = plain > power / _LOST
    total.cross[:, voxels], total.power[voxels] = np.where(kept, cross, cross + inside), np.where(kept, power, plain)
    return kept, anchor


def _without_anchors(moments: Moments) -> Moments:
    """The same about the reference alone."""
    cross, power = moments.cross.copy(), moments.power.copy()
    for start in range(0, moments.anchored.size, _ADD_TOGETHER):
        voxels, anchor = (
            moments.anchored[start : start + _ADD_TOGETHER],
            moments.anchor[:, start : start + _ADD_TOGETHER],
        )
        inside = _times(grams_of(moments, voxels), anchor)
        power[voxels] += np.sum(anchor * (2 * cross[:, voxels] + inside), axis=0)
        cross[:, voxels] += inside
    nothing = np.empty((len(cross), 0))
    return replace(moments, cross=cross, power=power, anchored=np.empty(0, np.int64), anchor=nothing)


def _both(some: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions in both, each ascending, of the voxels that they share."""
    if not others.size:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    positions = np.minimum(np.searchsorted(others, some), others.size - 1)
    shared = np.flatnonzero(others[positions] == some)
    return shared, positions[shared]


def _times(matrices: Array, vectors: Array) -> Array:
    """Products (r, k) of k matrices (k, r, r), or of one for all, and vectors (r, k)."""
    product: Array = (matrices[0] @ vectors) if len(matrices) == 1 else np.einsum("vij,jv->iv", matrices, vectors)
    return product


def _roots(grams: Array) -> Array:
    """Roots R (k, r, r) of X'WX = R'R, zero in the directions that X does not have."""
    values, vectors = np.linalg.eigh(grams)
    kept = np.where(values > _SINGULAR * values[:, -1:], values, 0.0)
    return np.sqrt(kept)[:, :, None] * vectors.swapaxes(1, 2)


def _whitener(gram: Array) -> Array:
    """W (r, r) with W'W the pseudo-inverse of X'WX."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > _SINGULAR * values[-1:]
    whitener: Array = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)[:, None] * vectors.T
    return whitener


def _inverses(grams: Array) -> Array:
    """Pseudo-inverses (k, r, r)."""
    values, vectors = np.linalg.eigh(grams)
    kept = values > _SINGULAR * values[:, -1:]
    scaled = vectors * np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)[:, None, :]
    inverse: Array = scaled @ vectors.swapaxes(1, 2)
    return inverse
