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
    regressors : ((q + 1) r + s, n) float64
        What is multiplied with the volumes. First K_0k A, for the basis A (n, r), lag by lag. The other pairs
        differ from the one of the same lag, k = j - i, in few volumes, at the ends of stretches: then the
        selection of these volumes; of many such volumes the differences themselves.
    edges : (n_pairs - q - 1, r, s) float64
        For each other pair, (K_ij A - K_0k A)' by those last s rows.
    weights : (n_pairs, n) bool
        Whether the product of volume u and volume u - (j - i) is in the sum of a pair.
    gram : (n_pairs, r, r) float64
        A'K_ij A.
    """

    order: int
    pairs: tuple[tuple[int, int], ...]
    regressors: Array
    edges: Array
    weights: NDArray[np.bool_]
    gram: Array

    @property
    def n_samples(self) -> int:
        """Number of volumes."""
        return self.weights.shape[1]


@dataclass(frozen=True)
class LaggedMoments:
    """Sums of the products of a basis A (n, r) and a run Y (n, V), from which those of each pair of lags follow.

    Attributes
    ----------
    lags : Lags
        What is summed, and A'K_ij A.
    sums : ((q + 1) r + s, V) float64
        ``lags.regressors`` @ (Y - reference).
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
    sums: Array
    power: Array
    reference: Array
    broken: NDArray[np.bool_]
    start: int
    stop: int
    head: Array
    tail: Array

    @property
    def cross(self) -> Array:
        """A'K_0k (Y - reference), (q + 1, r, V): of the pairs (0, k)."""
        n_lags, rank = self.lags.order + 1, self.lags.gram.shape[1]
        return self.sums[: n_lags * rank].reshape(n_lags, rank, -1)

    def weighted_cross(self, weights: Array, voxels: slice | NDArray[np.int64]) -> Array:
        """Weighted sum over all pairs of A'K_ij (Y - reference).

        Parameters
        ----------
        weights : (n_pairs, m) or (n_pairs, 1) float64
            Of each voxel.
        voxels : slice or (m,) int64
            Which.

        Returns
        -------
        (r, m) float64
        """
        n_lags, rank = self.lags.order + 1, self.lags.gram.shape[1]
        by_lag = weights[:n_lags].copy()
        np.add.at(by_lag, [j - i for i, j in self.lags.pairs[n_lags:]], weights[n_lags:])
        total = np.einsum("kv,krv->rv", by_lag, self.cross[:, :, voxels])
        at_edges = self.sums[n_lags * rank :, voxels]
        for weight, edge in zip(weights[n_lags:], self.lags.edges, strict=True):
            total += weight * (edge @ at_edges)
        return total

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
            sums=self.sums + other.sums,
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
    lag_sums, others = products[: order + 1], [j - i for i, j in pairs[order + 1 :]]
    differences = (products[order + 1 :] - lag_sums[others]).transpose(0, 2, 1)
    at_edges = np.flatnonzero(differences.any(axis=(0, 1)))
    if at_edges.size <= len(others) * rank:
        last, edges = np.eye(n_samples)[at_edges], differences[:, :, at_edges]
    else:
        last = differences.reshape(-1, n_samples)
        edges = np.eye(len(last)).reshape(len(others), rank, -1)
    return Lags(
        order=order,
        pairs=pairs,
        regressors=np.concatenate([lag_sums.transpose(0, 2, 1).reshape(-1, n_samples), last]),
        edges=edges,
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
        sums=moments.sums * factor,
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
    lags, shift = moments.lags, moments.reference
    power = moments.power + shift**2 * (lags.gram @ constant @ constant)[:, None]
    every = slice(None)
    for pair, weights in enumerate(np.eye(len(lags.pairs))):
        power[pair] += 2 * shift * (constant @ moments.weighted_cross(weights[:, None], every))
    sums = moments.sums + np.outer(lags.regressors.sum(axis=1), shift)
    return replace(
        moments, sums=sums, power=power, reference=np.zeros_like(shift), head=moments.head + shift,
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
    lags, cross = moments.lags, moments.cross
    sums = np.concatenate([(columns.T @ cross).reshape(-1, cross.shape[2]), moments.sums[cross[:, :, 0].size :]])
    gram, edges = columns.T @ lags.gram @ columns, columns.T @ lags.edges
    return replace(moments, lags=replace(lags, gram=gram, regressors=np.empty((0, 0)), edges=edges), sums=sums)


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
        moments, sums=moments.sums[:, voxels], power=moments.power[:, voxels],
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
    n_voxels = reference.size
    nothing = np.empty((0, n_voxels))
    return LaggedMoments(
        lags, np.full((len(lags.regressors), n_voxels), 0.0), np.full((len(lags.pairs), n_voxels), 0.0), reference,
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
        with np.errstate(invalid="ignore"):  # squares of values beyond reason are infinite
            _add_tile(sums, rows, known, part)
        tail[:, part], head[:, part] = rows[len(rows) - kept :], rows[known : known + len(head)]
    return replace(sums, stop=sums.stop + new, tail=tail, head=np.concatenate([sums.head, head]))


def _add_tile(sums: LaggedMoments, rows: Array, known: int, part: slice) -> None:
    """Add some voxels of a slab; the first `known` rows were added before and serve the lags only."""
    lags, new = sums.lags, rows[known:]
    first, last = sums.stop, sums.stop + len(new)
    sums.sums[:, part] += lags.regressors[:, first:last] @ new
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
