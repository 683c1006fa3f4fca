"""Sums over the volumes of a run, with lags: everything that an autoregressive linear model needs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.moments import Array

# Values of a slab that are converted, multiplied and lagged while they are in the processor's cache.
_TILE_VALUES = 2**17


@dataclass(frozen=True)
class Lags:
    """How AR(q) whitening weighs the rows of a run, before its images are seen.

    Whitening is ``W = sum_i a_i L^i`` with a_0 = 1, a_i = -rho_i, and L the shift by one volume, which does not
    reach across a gap or the beginning (the first rows are whitened as far as they have predecessors, as in
    nilearn). Hence ``(W Z)'(W Z) = sum over i <= j of a_i a_j M_ij`` with
    ``M_ij = Z'K_ij Z, K_ij = L^i'L^j + L^j'L^i`` (once where i = j).

    Attributes
    ----------
    order : int
        q; 0 is ordinary least squares.
    pairs : tuple of (int, int)
        The pairs (i, j), those with i = 0 first: their sums give the autocovariances too.
    regressors : ((q + 1) r, n) float64
        K_0j A, row by row, for the basis A (n, r).
    edges : tuple of ((m,) int64, (m, r) float64)
        For each other pair the rows, few, in which K_ij A differs from K_0k A, k = j - i, and that difference.
    weights : (n_pairs, n) bool
        Whether the product of volume u and volume u - (j - i) is in the sum of a pair.
    gram : (n_pairs, r, r) float64
        A'K_ij A.
    """

    order: int
    pairs: tuple[tuple[int, int], ...]
    regressors: Array
    edges: tuple[tuple[NDArray[np.int64], Array], ...]
    weights: NDArray[np.bool_]
    gram: Array

    @property
    def n_samples(self) -> int:
        """Number of volumes."""
        return self.weights.shape[1]


@dataclass(frozen=True)
class LaggedMoments:
    """Sums of the products of a basis A (n, r) and a run Y (n, V), for each pair of lags.

    Attributes
    ----------
    lags : Lags
        What is summed, and A'K_ij A.
    cross : (n_pairs, r, V) float64
        A'K_ij (Y - reference).
    power : (n_pairs, V) float64
        (y - reference)'K_ij (y - reference).
    reference : (V,) float64
        What was subtracted from each voxel, so that squares do not cancel.
    broken : (V,) bool
        Voxels with a non-finite value; their sums mean nothing.
    start, stop : int
        The rows of the run that are in the sum.
    head, tail : (<= q, V) float64
        The first and last of those rows, for the products with the rows before and after.
    """

    lags: Lags
    cross: Array
    power: Array
    reference: Array
    broken: NDArray[np.bool_]
    start: int
    stop: int
    head: Array
    tail: Array

    def __add__(self, other: "LaggedMoments") -> "LaggedMoments":
        """Moments of two stretches of a run, `other` following this one."""
        if other.start != self.stop:
            raise ValueError(f"stretches of a run are added in order, but {other.start} follows {self.stop}")
        q = self.lags.order
        power = self.power + other.power
        for pair, (i, j) in enumerate(self.lags.pairs):
            k = j - i
            for ahead in range(min(k, len(other.head))):
                behind = k - ahead
                if behind <= len(self.tail) and self.lags.weights[pair, self.stop + ahead]:
                    power[pair] += 2 * other.head[ahead] * self.tail[-behind]
        return LaggedMoments(
            lags=self.lags,
            cross=self.cross + other.cross,
            power=power,
            reference=self.reference,
            broken=self.broken | other.broken,
            start=self.start,
            stop=other.stop,
            head=np.concatenate([self.head, other.head])[:q],
            tail=np.concatenate([self.tail, other.tail])[-q:] if q else self.tail,
        )


def plan_lags(basis: Array, order: int, volumes: NDArray[np.int64] | None = None) -> Lags:
    """Prepare the sums of a run.

    Parameters
    ----------
    basis : (n, r) float64
        A: regressors of the volumes that are analysed.
    order : int
        Order q of the autoregression.
    volumes : (n,) int64, optional
        Ascending numbers of those volumes in the run: lags do not reach across numbers that are left out.
        None: the volumes are consecutive.

    Returns
    -------
    Lags
    """
    n_samples, rank = basis.shape
    numbers = np.arange(n_samples) if volumes is None else np.asarray(volumes)
    first = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
    before = np.arange(n_samples) - np.repeat(first, np.diff(first, append=n_samples))
    pairs = tuple((i, j) for i in range(order + 1) for j in range(i, order + 1))
    products = np.stack([_both_ways(basis, i, j, before) for i, j in pairs])
    lag_sums = products[: order + 1]
    edges = []
    for pair, (i, j) in enumerate(pairs[order + 1 :], start=order + 1):
        # K_0k counts both directions; at k = 0 both are one.
        difference = products[pair] - lag_sums[j - i]
        rows = np.flatnonzero(np.abs(difference).max(axis=1, initial=0.0) > 0)
        edges.append((rows, difference[rows]))
    return Lags(
        order=order,
        pairs=pairs,
        regressors=np.ascontiguousarray(lag_sums.transpose(0, 2, 1).reshape((order + 1) * rank, n_samples)),
        edges=tuple(edges),
        weights=np.stack([_pair_weights(i, j, before) for i, j in pairs]),
        gram=np.stack([basis.T @ product for product in products]),
    )


def sum_lagged(
    slabs: Iterable[NDArray[np.floating]], lags: Lags, reference: Array | None = None, start: int = 0
) -> LaggedMoments:
    """Sum consecutive volumes of a run, slab by slab; each slab may be dropped as soon as the next one comes.

    Parameters
    ----------
    slabs : iterable of (m, V) float32 or float64
        Volumes in order, in image units, any number in each slab.
    lags : Lags
        From :func:`plan_lags`.
    reference : (V,) float64, optional
        Subtracted from each volume; by default the first volume. One for all stretches of a run.
    start : int
        Row of the first volume in the run.

    Returns
    -------
    LaggedMoments
        Of the rows from `start` on.

    Raises
    ------
    ValueError
        Where there is no volume.
    """
    sums: LaggedMoments | None = None
    for slab in slabs:
        if sums is None:
            sums = _nothing(lags, _finite(slab[0]) if reference is None else _finite(reference), start)
        sums = _add_slab(sums, slab)
    if sums is None:
        raise ValueError("a run has at least one volume")
    # What differs at the edges was summed as a difference.
    for pair, (i, j) in enumerate(lags.pairs[lags.order + 1 :], start=lags.order + 1):
        sums.cross[pair] += sums.cross[j - i]
    return sums


def scale(moments: LaggedMoments, factor: Array, offset: Array) -> LaggedMoments:
    """Moments of factor * y + offset, voxel by voxel.

    Parameters
    ----------
    moments : LaggedMoments
        Moments of y.
    factor, offset : (V,) float64
        The linear map of each voxel.

    Returns
    -------
    LaggedMoments
        The offset goes into the reference.
    """
    return replace(
        moments,
        cross=moments.cross * factor,
        power=moments.power * factor**2,
        reference=moments.reference * factor + offset,
        head=moments.head * factor,
        tail=moments.tail * factor,
    )


def rebase(moments: LaggedMoments, constant: Array) -> LaggedMoments:
    """Moments relative to zero instead of the reference.

    Parameters
    ----------
    moments : LaggedMoments
        Moments of y - reference.
    constant : (r,) float64
        Coefficients c with A c = 1.

    Returns
    -------
    LaggedMoments
        A'K y = A'K d + (A'K A c) reference; y'K y = d'K d + 2 reference c'A'K d + reference^2 c'A'K A c.
    """
    ones = moments.lags.gram @ constant
    shift = moments.reference
    power = moments.power + 2 * shift * (constant @ moments.cross) + shift**2 * (ones @ constant)[:, None]
    cross = moments.cross + ones[:, :, None] * shift
    return replace(
        moments, cross=cross, power=power, reference=np.zeros_like(shift), head=moments.head + shift,
        tail=moments.tail + shift,
    )  # fmt: skip


def project(moments: LaggedMoments, columns: Array) -> LaggedMoments:
    """Moments of a design in the span of the basis: no image is needed for it.

    Parameters
    ----------
    moments : LaggedMoments
        Moments of the basis A (n, r).
    columns : (r, s) float64
        T: the other design is A T.

    Returns
    -------
    LaggedMoments
        Of A T: enough to solve it, not to go on summing.
    """
    gram = columns.T @ moments.lags.gram @ columns
    empty = np.empty((0, 0))
    lags = replace(moments.lags, gram=gram, regressors=empty, edges=())
    return replace(moments, lags=lags, cross=columns.T @ moments.cross)


def select(moments: LaggedMoments, voxels: slice) -> LaggedMoments:
    """Moments of some voxels.

    Parameters
    ----------
    moments : LaggedMoments
        Moments of V voxels.
    voxels : slice
        Which.

    Returns
    -------
    LaggedMoments
        Views, no copies.
    """
    return replace(
        moments, cross=moments.cross[..., voxels], power=moments.power[:, voxels],
        reference=moments.reference[voxels], broken=moments.broken[voxels], head=moments.head[:, voxels],
        tail=moments.tail[:, voxels],
    )  # fmt: skip


def _shifted(rows: Array, lag: int, before: NDArray[np.int64]) -> Array:
    """L^lag rows: each row replaced by the one `lag` earlier, or by zero where there is none."""
    moved = np.zeros_like(rows)
    target = np.flatnonzero(before >= lag)
    moved[target] = rows[target - lag]
    return moved


def _both_ways(basis: Array, i: int, j: int, before: NDArray[np.int64]) -> Array:
    """K_ij A = (L^i'L^j + L^j'L^i) A, or L^i'L^i A where i = j."""

    def one_way(first: int, second: int) -> Array:
        moved, back = _shifted(basis, second, before), np.zeros_like(basis)
        source = np.flatnonzero(before >= first)
        back[source - first] = moved[source]
        return back

    return one_way(i, j) if i == j else one_way(i, j) + one_way(j, i)


def _pair_weights(i: int, j: int, before: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows u for which y_u y_(u - j + i) is a term of y'L^i'L^j y: row u + i exists and has j predecessors."""
    weights = np.zeros(before.size, dtype=bool)
    weights[: max(before.size - i, 0)] = before[i:] >= j
    return weights


def _nothing(lags: Lags, reference: Array, start: int) -> LaggedMoments:
    """Sums of no volume yet."""
    n_pairs, rank, n_voxels = len(lags.pairs), lags.gram.shape[1], reference.size
    nothing = np.empty((0, n_voxels))
    return LaggedMoments(
        lags, np.zeros((n_pairs, rank, n_voxels)), np.zeros((n_pairs, n_voxels)), reference,
        np.zeros(n_voxels, dtype=bool), start, start, nothing, nothing,
    )  # fmt: skip


def _add_slab(sums: LaggedMoments, slab: NDArray[np.floating]) -> LaggedMoments:
    """Add consecutive volumes to sums, in place but for the rows at their ends."""
    q, known, new = sums.lags.order, len(sums.tail), len(slab)
    kept = min(q, known + new)
    tail, head = np.empty((kept, slab.shape[1])), np.empty((min(q - len(sums.head), new), slab.shape[1]))
    width = max(64, _TILE_VALUES // (known + new))
    for begin in range(0, slab.shape[1], width):
        part = slice(begin, min(begin + width, slab.shape[1]))
        rows = np.empty((known + new, part.stop - part.start))
        rows[:known] = sums.tail[:, part]
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(slab[:, part], sums.reference[part], out=rows[known:])
            bad = ~np.isfinite(rows[known:].sum(axis=0))
        if bad.any():
            rows[:, bad] = 0.0
            sums.broken[part] |= bad
        _add_tile(sums, rows, known, part)
        tail[:, part], head[:, part] = rows[len(rows) - kept :], rows[known : known + len(head)]
    return replace(sums, stop=sums.stop + new, tail=tail, head=np.concatenate([sums.head, head]))


def _add_tile(sums: LaggedMoments, rows: Array, known: int, part: slice) -> None:
    """Add some voxels of a slab; the first `known` rows were added before and serve the lags only."""
    lags, new = sums.lags, rows[known:]
    q, first, last = lags.order, sums.stop, sums.stop + len(new)
    products = lags.regressors[:, first:last] @ new
    sums.cross[: q + 1, :, part] += products.reshape(q + 1, -1, new.shape[1])
    for pair, (at, difference) in enumerate(lags.edges, start=q + 1):
        inside = slice(*np.searchsorted(at, (first, last)))
        if inside.stop > inside.start:
            sums.cross[pair, :, part] += difference[inside].T @ new[at[inside] - first]
    lagged: dict[int, Array] = {}
    for pair, (i, j) in enumerate(lags.pairs):
        k = j - i
        missing = max(0, k - known)
        later, earlier = new[missing:], rows[known + missing - k : max(len(rows) - k, 0)]
        counted = lags.weights[pair, first + missing : last]
        if i == 0:
            plain = lags.weights[pair, first + missing : last]
            if not plain.all():
                later, earlier = later[plain], earlier[plain]
            lagged[k] = np.einsum("ij,ij->j", later, earlier)
            sums.power[pair, part] += lagged[k] * (1 if k == 0 else 2)
            continue
        left_out = np.flatnonzero(lags.weights[k, first + missing : last] & ~counted)
        lost = np.einsum("ij,ij->j", later[left_out], earlier[left_out])
        sums.power[pair, part] += (lagged[k] - lost) * (1 if k == 0 else 2)


def _finite(values: NDArray[np.floating]) -> Array:
    """A volume as float64, zero where it is not finite."""
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
