"""Blocks of voxels under rearrangements: tile by tile, in products whose operands do not depend on the blocks.

Products are in single precision. What rounding could decide is computed again in double precision, from the images:
statistics next to the observed one of their voxel, and those that may be the largest of a map. There a statistic that
equals the observed one but for rounding is set to it, so that ties count alike wherever statistics are compared.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.incomplete import Incomplete, incomplete, incomplete_pairs, incomplete_shares, weighed_rows
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import (
    Fit,
    Partition,
    even_scale,
    exact_residuals,
    growth,
    product_error,
    rearranged,
    residuals,
    share_on_scale,
    shares,
    single_error,
    single_residuals,
    statistics,
    without_tested,
)
from daskglm.kernels.variance_groups import VarianceGroups, group_statistics, group_z, grouped_rows

# Voxels that are multiplied together. The voxels of a tile are always the same, counted from the first voxel of
# the map: so a product has the same operands, and the same bits, whatever the chunks of the images.
TILE = 1024
# Rows of a product, about: rearrangements are taken together in batches that are filled up, for the same reason.
_ROWS = 512
_BATCH = (8, 128)
# Values of the regressors of several batches, about, for which a tile is prepared once.
ROW_VALUES = 2**20
# Voxels whose shares may be further off than this, and shares beyond that, near one, are computed again at once.
_MAX_ERROR, _EXTREME = 1e-2, 0.98
# Errors that grow by no more than this are not looked at voxel by voxel.
_LITTLE = 8.0
# Where more of the pairs of rearrangement and voxel are computed again, whole columns are.
_MANY = 1 / 64
# Pairs that wait at most, and values of the regressors of those that are computed together.
_MOST_WAITING, _PAIR_VALUES = 2**16, 2**20
# Products of double precision that differ by less are equal, but no more than that, however large rounding may be;
# and z, of groups with variances of their own, relative.
_TIE, _MAX_TIE, _TIE_OF_Z = 2.0**-35, 1e-7, 1e-9


@dataclass(frozen=True)
class Test:
    """A test that is repeated under rearrangements.

    Attributes
    ----------
    parts : Partition
        What is tested.
    signed : bool
        t; else F.
    two_sided : bool
        Of t: either sign counts.
    scheme : str
        Which regressors are rearranged, one of ``permutation.SCHEMES``.
    uneven : bool
        Voxels have different numbers of images: statistics are brought to one scale.
    min_count : int
        Images that a voxel must have.
    groups : VarianceGroups or None
        Groups with variances of their own: v and G take the place of t and F, at voxels that all images have, and
        are compared as z.
    """

    parts: Partition
    signed: bool
    two_sided: bool
    scheme: str
    uneven: bool = False
    min_count: int = 1
    groups: VarianceGroups | None = None

    @property
    def n_tested(self) -> int:
        """Regressors tested, s."""
        return int(self.parts.tested.shape[1])

    @property
    def scaled(self) -> bool:
        """Whether something else than the statistic is compared: it has its tail of a normal or chi-squared one."""
        return self.uneven or self.groups is not None


@dataclass(frozen=True)
class Observed:
    """The data as they are, of one test or, with a first axis, several.

    Attributes
    ----------
    stat : (V,) float64
        t or F, or v or G of groups; NaN where nothing can be tested.
    share : (V,) float64
        Partial correlation or share of variance; of groups the z of v or G. It grows with the statistic.
    freedom : (V,) float64
        Degrees of freedom of the error.
    count : (V,) int64
        Images of each voxel.
    """

    stat: Array
    share: Array
    freedom: Array
    count: NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The tested voxels of a tile that all images have, or those that some lack.

    Attributes
    ----------
    columns : (W,) int64
        Where they are in the tile.
    fit : Fit
        Of the nuisance.
    share, freedom : (W,) float64
        The data as they are.
    gaps : Incomplete or None
        What is known of voxels that some images lack.
    """

    columns: NDArray[np.int64]
    fit: Fit
    share: Array
    freedom: Array
    gaps: Incomplete | None = None


@dataclass(frozen=True)
class Tile:
    """Voxels that are multiplied together.

    Attributes
    ----------
    voxels : slice
        Where they are in their block.
    values : (n, W) array
        Their images.
    parts : tuple of Part
        Those that are tested.
    seen : Observed
        The data as they are, at all voxels of the tile.
    """

    voxels: slice
    values: NDArray[np.floating]
    parts: tuple[Part, ...]
    seen: Observed

    def images(self, columns: NDArray[np.int64]) -> NDArray[np.floating]:
        """Those of some voxels.

        Parameters
        ----------
        columns : (W,) int64
            Which, ascending.

        Returns
        -------
        (n, W) array
        """
        return self.values if columns.size == self.values.shape[1] else np.take(self.values, columns, axis=1)


def make_tiles(values: NDArray[np.floating], test: Test) -> list[Tile]:
    """Prepare a block of voxels.

    Parameters
    ----------
    values : (n, V) array
        Images, which the tiles show; the first voxel begins a tile. What is not finite is missing.
    test : Test
        Test.

    Returns
    -------
    list of Tile
    """
    starts = range(0, values.shape[1], TILE)
    return [_make_tile(values, slice(start, min(start + TILE, values.shape[1])), test) for start in starts]


def _make_tile(values: NDArray[np.floating], part: slice, test: Test) -> Tile:
    """Prepare some voxels."""
    tile = values[:, part]
    # A sum is not finite where a value is not, and cheaper than looking at each.
    count = np.full(tile.shape[1], len(tile))
    if not np.isfinite(tile.sum(axis=0, dtype=np.float64)).all():
        count = np.isfinite(tile).sum(axis=0)
    complete = np.flatnonzero(count == len(tile))
    left, fit = residuals(test.parts, tile if complete.size == count.size else tile[:, complete])
    found = _observed(left, test)
    vary = np.flatnonzero(np.isfinite(found[0]))
    if test.scheme == "ter-braak":
        fit = without_tested(test.parts, fit, left)
    parts = [Part(complete[vary], fit.some(vary), found[1][vary], found[2][vary])]
    stat, share, freedom = (np.full(count.size, np.nan) for _ in range(3))
    stat[complete[vary]] = found[0][vary]
    lacking = np.flatnonzero((count < len(tile)) & (count >= test.min_count) & (test.groups is None))
    if lacking.size:
        gaps = incomplete(tile[:, lacking], test.parts.nuisance, test.parts.tested, test.signed)
        known = np.flatnonzero(gaps.freedom > 0)
        gaps = gaps.some(known)
        parts.append(Part(lacking[known], gaps.fit, gaps.share, gaps.freedom.astype(np.float64), gaps))
        stat[lacking[known]] = statistics(gaps.share, test.n_tested, gaps.freedom, test.signed)
    for some in parts:
        share[some.columns], freedom[some.columns] = some.share, some.freedom
    return Tile(part, tile, tuple(some for some in parts if some.columns.size), Observed(stat, share, freedom, count))


def _observed(left: Array, test: Test) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Statistic, share and degrees of freedom (C,) of residuals (n, C); NaN where nothing can be tested."""
    parts, n_tested = test.parts, test.n_tested
    untested = ~left.any(axis=0)
    if test.groups is None:
        share = shares((parts.tested.T @ left)[None], n_tested, test.signed)[0][0]
        freedom = np.full(share.shape, float(parts.degrees_of_freedom))
        share[untested], freedom[untested] = np.nan, np.nan
        return statistics(share, n_tested, freedom, test.signed), share, freedom
    rows = grouped_rows(parts, test.groups, np.arange(len(left))[None], np.ones((1, len(left))))
    found = group_statistics((rows[0] @ left)[None], test.groups.members @ left**2, test.groups, n_tested, test.signed)
    stat, freedom = (item[0] for item in found)
    lost = untested | ~np.isfinite(stat) | ~np.isfinite(freedom)
    stat[lost], freedom[lost] = np.nan, np.nan
    return stat, group_z(stat, freedom, n_tested, test.signed), freedom


def observe(tiles: list[Tile]) -> Observed:
    """The statistic of the data as they are, in double precision.

    Parameters
    ----------
    tiles : list of Tile
        The block.

    Returns
    -------
    Observed
    """
    fields = zip(*((t.seen.stat, t.seen.share, t.seen.freedom, t.seen.count) for t in tiles), strict=True)
    return Observed(*(np.concatenate(parts) for parts in fields))


def on_scale(share: NDArray[np.floating], test: Test, freedom: float | NDArray[np.floating]) -> NDArray[np.floating]:
    """The statistic that is compared between voxels and rearrangements.

    Parameters
    ----------
    share : (..., V) array
        Partial correlations or shares of variance, or z of groups.
    test : Test
        Test.
    freedom : float or (V,) array
        Degrees of freedom.

    Returns
    -------
    (..., V) array
        t or F; where voxels have different numbers of images, :func:`~daskglm.kernels.permutation.even_scale`; z of
        groups.
    """
    if test.groups is not None:
        return share
    if test.uneven:
        return even_scale(share, test.n_tested, freedom, test.signed)
    return statistics(share, test.n_tested, freedom, test.signed)


def permute(
    tiles: list[Tile], test: Test, index: NDArray[np.int64], sign: Array, maps: NDArray[np.float32] | None = None,
    first: int = 0,
) -> tuple[Array, NDArray[np.int64]]:  # fmt: skip
    """Statistics of a block under rearrangements.

    Parameters
    ----------
    tiles : list of Tile
        The block, from :func:`make_tiles`; V voxels.
    test : Test
        Test.
    index, sign : (m, n)
        Rearrangements.
    maps : (m, V) float32, optional
        To be filled with the statistics on their scale; NaN where there is none.
    first : int
        Number of the first rearrangement: it decides which are multiplied together.

    Returns
    -------
    maxima : (m,) float64
        Largest statistic of the block, by magnitude where the test is two-sided; minus infinity where there is none.
    counts : (V,) int64
        How many statistics are at least the observed one.
    """
    width = _n_regressors(test)
    # A power of two, for units of rearrangements are multiples of one. Where there are no maps, the bits of products in
    # single precision are seen nowhere.
    most = _BATCH[1] if maps is not None else 2 * _BATCH[1]
    together = int(np.clip(2 ** round(np.log2(_ROWS / width)), _BATCH[0], most))
    # As many batches at once as there is room for: what a tile takes is done once for them.
    at_once = together * max(1, ROW_VALUES // (together * width * len(test.parts.tested)))
    n_voxels = tiles[-1].voxels.stop if tiles else 0
    maxima, counts = np.full(len(index), -np.inf), np.zeros(n_voxels, dtype=np.int64)
    for start in range(-(first % together), len(index), at_once):
        # A batch is filled up, and a rearrangement has its own place in it: neither the shape of a product nor the
        # row of it that is looked at depends on how many are asked for, or asked for first.
        stop = min(start + at_once, start - (start - len(index)) // together * together)
        rows = np.arange(start, stop).clip(0, len(index) - 1)
        part = slice(max(start, 0), min(stop, len(index)))
        run = _Run(test, tiles, index[rows], sign[rows], slice(part.start - start, part.stop - start), together)
        for tile in tiles:
            run.add(tile, counts[tile.voxels], None if maps is None else maps[part, tile.voxels])
        maxima[part] = run.maxima()
    if not test.scaled:
        found = np.isfinite(maxima)
        maxima[found] = on_scale(maxima[found], test, test.parts.degrees_of_freedom)
    return maxima, counts


@dataclass(frozen=True)
class _Batch:
    """Rearrangements that are multiplied together, in single precision.

    `rows` (B, k, n) are their regressors, `moved` (B, s, n) and `weighed` those of voxels with gaps; `all`: where they
    are among all; `asked`: which of them are asked for; `place`: where those are among all that are.
    """

    rows: NDArray[np.float32]
    moved: NDArray[np.float32] | None
    weighed: NDArray[np.floating] | None
    all: slice
    asked: slice
    place: slice


@dataclass(frozen=True)
class _Work:
    """A part of a tile, and what becomes of it.

    `level` (W,) is what sizes are compared with; `error` and `slack` (W,) how far the product of a statistic next to
    it, and of any, is off at most; `counts` and `maps` are those of the tile.
    """

    tile: Tile
    part: Part
    level: Array
    error: Array
    slack: Array
    counts: NDArray[np.int64]
    maps: NDArray[np.float32] | None

    def residuals(self) -> NDArray[np.float32]:
        """All of them, in single precision."""
        given = self.tile.images(self.part.columns)
        left = single_residuals(self.part.fit, given)
        if self.part.gaps is not None:
            left[~np.isfinite(given)] = 0.0
        return left

    def exact_residuals(self, voxels: NDArray[np.int64]) -> Array:
        """Those of some voxels (K, n), in double precision."""
        given = np.take(self.tile.values, self.part.columns[voxels], axis=1)
        left = exact_residuals(self.part.fit.some(voxels), given)
        if self.part.gaps is not None:
            left[~np.isfinite(given.T)] = 0.0
        return left


@dataclass(frozen=True)
class _Limits:
    """What sizes in single precision are compared with: between `low` and `high` (W,) they may be the observed ones.

    `far` (W,): where they are too far off; `slack`: how far they are off at most elsewhere.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    far: NDArray[np.bool_]
    slack: float


@dataclass(frozen=True)
class _Pairs:
    """Pairs (P,) of a rearrangement and a voxel of a part that are to be computed again.

    `reach` is how large they may be on their scale; infinite where they are next to the observed statistic.
    """

    work: _Work
    rows: NDArray[np.int64]
    voxels: NDArray[np.int64]
    reach: NDArray[np.floating]


class _Run:
    """Batches of rearrangements: the largest statistics so far, and what is to be computed again.

    Statistics are ranked by their share where that orders those of all voxels, else on their scale.
    """

    def __init__(
        self, test: Test, tiles: list[Tile], index: NDArray[np.int64], sign: Array, asked: slice, together: int
    ) -> None:
        parts, self.test, self.two_sided, self.asked = test.parts, test, test.signed and test.two_sided, asked
        self.rows, self.moved = _regressors(test, index, sign), np.empty((0, 0, 0))
        if any(part.gaps is not None for tile in tiles for part in tile.parts):
            base = parts.raw if test.scheme == "draper-stoneman" else parts.tested
            self.moved = np.ascontiguousarray((base[index] * sign[:, :, None]).transpose(0, 2, 1))
        self.batches = []
        for start in range(0, len(index), together):
            part = slice(start, start + together)
            first, last = max(start, asked.start), min(start + together, asked.stop)
            moved = self.moved[part].astype(np.float32) if self.moved.size else None
            weighed = None if moved is None else weighed_rows(moved, parts.nuisance)
            self.batches.append(
                _Batch(self.rows[part].astype(np.float32), moved, weighed, part, slice(first - start, last - start),
                       slice(first - asked.start, last - asked.start))
            )  # fmt: skip
        self.top = np.full(asked.stop - asked.start, -np.inf)
        # What the largest statistic is at least: exact values, and others less their error.
        self.floor = self.top.copy()
        self.waiting: list[_Pairs] = []

    def maxima(self) -> Array:
        """The largest statistic under each rearrangement, as a share or on its scale."""
        self._settle()
        return self.top

    def add(self, tile: Tile, counts: NDArray[np.int64], maps: NDArray[np.float32] | None) -> None:
        """Multiply a tile; `counts` (W,) and `maps` (b, W) of it are filled."""
        if maps is not None:
            maps[:, np.isnan(tile.seen.share)] = np.nan
        for part in tile.parts:
            level = np.abs(part.share) if self.two_sided else part.share
            noise, n_rows = single_error(part.fit), len(tile.values)
            work = _Work(tile, part, level, product_error(n_rows, np.abs(part.share)) + noise,
                         product_error(n_rows, 1.0) + noise, counts, maps)  # fmt: skip
            if self.test.groups is not None:
                for batch in self.batches:
                    self._exact_columns(batch, work, np.arange(level.size))
                continue
            values = work.residuals()
            # Where nothing but what is tested is rearranged, errors are alike under all rearrangements.
            alike = part.gaps is None and self.rows.shape[1] == self.test.n_tested
            limits = _limits(work, self._growth(None)) if alike else None
            found = [pairs for batch in self.batches for pairs in self._compare(batch, work, values, limits)]
            rows, voxels, reach = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
            self.waiting.append(_Pairs(work, rows, voxels, reach))
            if sum(pairs.rows.size for pairs in self.waiting) > _MOST_WAITING:
                self._settle()

    def _compare(
        self, batch: _Batch, work: _Work, values: NDArray[np.float32], limits: _Limits | None
    ) -> list[tuple[Any, Any, Any]]:
        """Statistics of a batch, into counts and maps; rows, voxels and reach of pairs to be computed again."""
        part = work.part
        share, grows = self._single_shares(batch, part, values)
        if work.maps is not None:
            freedom = self.test.parts.degrees_of_freedom if part.gaps is None else part.freedom
            _put(work.maps, batch.place, part.columns, on_scale(share, self.test, freedom))
        size = np.abs(share, out=share) if self.two_sided else share
        limits = limits or _limits(work, grows)
        low, high = size >= limits.low, size > limits.high
        reached = _count(high)
        near = np.flatnonzero(_count(low) != reached)
        close = low[:, near] & ~high[:, near]
        whole = limits.far
        if work.maps is not None:
            whole = whole | (size.max(axis=0) > _EXTREME)
        if np.count_nonzero(close) > _MANY * size.size:
            whole = whole.copy()
            whole[near] = True
        if whole.any():
            columns = np.flatnonzero(whole)
            reached[columns] = 0
            self._exact_columns(batch, work, columns)
            size[:, columns] = -np.inf
            close &= ~whole[near]
        work.counts[part.columns] += reached
        rows, chosen = np.nonzero(close)
        largest = self._candidates(size, limits.slack, part.freedom, self.floor[batch.place])
        start = batch.place.start
        return [(start + rows, near[chosen], np.full(rows.size, np.inf)), (start + largest[0], *largest[1:])]

    def _single_shares(
        self, batch: _Batch, part: Part, values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Array]:
        """Shares (b, W) in single precision, and how errors of products grow in them (W,)."""
        if part.gaps is None or batch.moved is None or batch.weighed is None:
            share, left = self._products(batch.rows, values)
            return share[batch.asked], self._growth_of(left)
        share, left, pattern = incomplete_shares(
            part.gaps, batch.moved, batch.weighed, values, slice(None), self.test.signed
        )
        return share[batch.asked], self._growth(left.min(axis=1))[pattern]

    def _growth_of(self, left: NDArray[np.floating] | None) -> Array:
        """That of products of a batch, (W,) or, where that is little more, one number."""
        if left is None:
            return self._growth(None)
        most = self._growth(left.min())
        return most if most < _LITTLE else self._growth(left.min(axis=0))

    def _growth(self, left: NDArray[np.floating] | None) -> Array:
        """How much larger errors of shares are than those of products."""
        return growth(left, self.test.parts.nuisance.shape[1], self.test.n_tested, self.test.signed)

    def _products(
        self, rows: NDArray[np.floating], values: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
        """Shares (B, W) of rows (B, k, n) and residuals (n, W), and what is left beside the nuisance."""
        products = (rows.reshape(-1, rows.shape[2]) @ values).reshape(*rows.shape[:2], -1)
        return shares(products, self.test.n_tested, self.test.signed)

    def _candidates(
        self, size: NDArray[np.float32], slack: float, freedom: Array, floor: Array
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
        """Rows, voxels and reach of what may be the largest of sizes (b, W), each at most `slack` off."""
        top = size.max(axis=1).astype(np.float64)
        sure = top - slack
        if self.test.uneven:
            sure = on_scale(sure, self.test, freedom[size.argmax(axis=1)])
        np.maximum(floor, sure, out=floor)
        # At the voxel with the most degrees of freedom the smallest share is enough.
        least = floor
        if self.test.uneven:
            least = share_on_scale(floor, self.test.n_tested, float(freedom.max()), self.test.signed)
        rows = np.flatnonzero(top + slack >= least)
        flat = np.flatnonzero(size[rows] >= (least[rows] - slack).astype(np.float32)[:, None])
        found, voxels = np.divmod(flat, size.shape[1])
        rows = rows[found]
        reach = self._rank(size[rows, voxels].astype(np.float64) + slack, freedom[voxels])
        return rows, voxels, reach

    def _rank(self, size: NDArray[np.floating], freedom: Array) -> NDArray[np.floating]:
        """What orders the statistics of all voxels."""
        return on_scale(size, self.test, freedom) if self.test.uneven else size

    def _settle(self) -> None:
        """Compute what waits in double precision, each pair by itself."""
        together = max(1, _PAIR_VALUES // self.rows[0].size)
        for pairs in self.waiting:
            chosen = np.flatnonzero(pairs.reach >= self.floor[pairs.rows])
            for start in range(0, chosen.size, together):
                some = chosen[start : start + together]
                self._settle_pairs(pairs.work, pairs.rows[some], pairs.voxels[some], np.isinf(pairs.reach[some]))
        self.waiting = []
        np.maximum(self.floor, self.top, out=self.floor)

    def _settle_pairs(
        self, work: _Work, rows: NDArray[np.int64], voxels: NDArray[np.int64], near: NDArray[np.bool_]
    ) -> None:
        """Pairs (P,) into the maxima, and those next to the observed statistic into counts and maps."""
        part, values = work.part, work.exact_residuals(voxels)
        given = rows + self.asked.start
        if part.gaps is None:
            # Sums of one pair's products alone: their bits depend on nothing else.
            products = np.einsum("pkn,pn->kp", self.rows[given], values)
            found, some = shares(products[None], self.test.n_tested, self.test.signed)
            share, left = found[0], None if some is None else some[0]
        else:
            share, left = incomplete_pairs(
                part.gaps, self.moved[given], self.test.parts.nuisance, values, voxels, self.test.signed
            )
        size = self._tied(share, left, work, voxels)
        np.maximum.at(self.top, rows, self._rank(size, part.freedom[voxels]))
        # Which may be the largest depends on the block, and what is put into a map must not.
        rows, voxels, size = rows[near], voxels[near], size[near]
        np.add.at(work.counts, part.columns[voxels], size >= work.level[voxels])
        if work.maps is not None:
            signed = np.copysign(size, share[near]) if self.two_sided else size
            work.maps[rows, part.columns[voxels]] = on_scale(signed, self.test, part.freedom[voxels])

    def _exact_columns(self, batch: _Batch, work: _Work, voxels: NDArray[np.int64]) -> None:
        """Some voxels of a part under all rearrangements of a batch, in double precision."""
        part = work.part
        share, left = self._of_columns(batch, part, voxels, work.exact_residuals(voxels).T)
        share, left = share[batch.asked], None if left is None else left[batch.asked]
        size = self._tied(share, left, work, voxels)
        freedom, columns = part.freedom[voxels], part.columns[voxels]
        work.counts[columns] += _count(size >= work.level[voxels])
        top = self._rank(size, freedom).max(axis=1, initial=-np.inf)
        for known in (self.top, self.floor):
            np.maximum(known[batch.place], top, out=known[batch.place])
        if work.maps is not None:
            signed = np.copysign(size, share) if self.two_sided else size
            _put(work.maps, batch.place, columns, on_scale(signed, self.test, freedom))

    def _of_columns(
        self, batch: _Batch, part: Part, voxels: NDArray[np.int64], values: Array
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Shares (B, K) of residuals (n, K) in double precision, and what is left beside the nuisance."""
        test, rows = self.test, self.rows[batch.all]
        if part.gaps is not None:
            moved = self.moved[batch.all]
            weighed = weighed_rows(moved, test.parts.nuisance)
            share, kept, pattern = incomplete_shares(part.gaps, moved, weighed, values, voxels, test.signed)
            return share, kept[pattern].T
        if test.groups is None:
            return self._products(rows, values)
        products = (rows.reshape(-1, len(values)) @ values).reshape(*rows.shape[:2], -1)
        squares = test.groups.members @ np.square(values)
        z = group_z(*group_statistics(products, squares, test.groups, test.n_tested, test.signed), test.n_tested,
                    test.signed)  # fmt: skip
        # A rearrangement that leaves a group without residuals says nothing there.
        return np.nan_to_num(z), None

    def _tied(self, share: Array, left: Array | None, work: _Work, voxels: NDArray[np.int64]) -> Array:
        """Sizes of shares (..., K); those that equal the observed one but for rounding are set to it."""
        level = work.level[voxels]
        size = np.abs(share) if self.two_sided else share
        if self.test.groups is not None:
            error = _TIE_OF_Z * (1 + np.abs(level))
        else:
            error = np.minimum(self._growth(left) * (_TIE + work.part.fit.noise[voxels]), _MAX_TIE)
        np.copyto(size, level, where=np.abs(size - level) <= error)
        return size


def _n_regressors(test: Test) -> int:
    """Those that are multiplied for a rearrangement, k."""
    if test.groups is not None:
        return len(test.groups.members) * (test.n_tested + test.parts.nuisance.shape[1])
    both = test.scheme in ("freedman-lane", "ter-braak")
    return test.n_tested + (test.parts.moving.shape[1] if both else 0)


def _regressors(test: Test, index: NDArray[np.int64], sign: Array) -> Array:
    """Rearranged regressors (B, k, n)."""
    if test.groups is not None:
        return grouped_rows(test.parts, test.groups, index, sign)
    return rearranged(test.parts, index, sign, test.scheme)


def _limits(work: _Work, grows: Array) -> _Limits:
    """Limits of a part, where errors of products grow so in shares (W,)."""
    error = grows * work.error
    far = error > _MAX_ERROR
    low, high = (work.level - error).astype(np.float32), (work.level + error).astype(np.float32)
    return _Limits(low, high, far, float((grows * work.slack)[~far].max(initial=0.0)))


def _put(maps: NDArray[np.float32], rows: slice, columns: NDArray[np.int64], values: NDArray[np.floating]) -> None:
    """Put statistics into some columns of maps."""
    if columns.size == maps.shape[1]:
        maps[rows] = values
    else:
        maps[rows, columns] = values


def _count(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of (B, W) there are in each column."""
    counts = np.zeros(reached.shape[1], dtype=np.int64)
    for start in range(0, len(reached), 255):
        counts += np.add.reduce(reached[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return counts
