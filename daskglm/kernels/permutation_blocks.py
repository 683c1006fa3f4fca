"""Blocks of voxels under rearrangements: tile by tile, in products whose operands do not depend on the blocks.

Products are in single precision. What rounding could decide is computed again in double precision: statistics next to
the observed one of their voxel, and those that may be the largest of a map. There a statistic that equals the observed
one but for rounding is set to it, so that ties count alike wherever statistics are compared.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.incomplete import Incomplete, incomplete, incomplete_pairs, incomplete_shares, weighed_rows
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import (
    Partition,
    even_scale,
    growth,
    joined,
    product_error,
    rearranged,
    residuals,
    shares,
    split,
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
# Voxels whose shares may be further off than this, and shares beyond that, near one, are computed again at once.
_MAX_ERROR, _EXTREME = 1e-2, 0.98
# Where more of the pairs of rearrangement and voxel are computed again, whole columns are.
_MANY = 1 / 64
_PAIRS_TOGETHER = 4096
# However large rounding may be, what differs by more is no tie. Of z, of groups with variances of their own, relative.
_MAX_TIE, _TIE_OF_Z = 1e-7, 1e-9
# What storing residuals in 35 bits takes from a product.
_STORED = 2.0**-35


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
class Tile:
    """Voxels that are multiplied together.

    Attributes
    ----------
    voxels : slice
        Where they are in their block.
    complete : (C,) int64
        Those with all images, counted from the first.
    values, rest : (n, C) float32 and float16
        Their residuals, as :func:`~daskglm.kernels.permutation.split` stores them.
    noise : (C,) float64
        Rounding of the images, as a fraction of the residuals.
    gaps : (G,) int64
        Those with some images.
    others : Incomplete or None
        What is known of these.
    seen : Observed
        The data as they are, at all voxels of the tile.
    """

    voxels: slice
    complete: NDArray[np.int64]
    values: NDArray[np.float32]
    rest: NDArray[np.float16]
    noise: Array
    gaps: NDArray[np.int64]
    others: Incomplete | None
    seen: Observed

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(self.voxels.stop - self.voxels.start)


def make_tiles(values: NDArray[np.floating], test: Test) -> list[Tile]:
    """Prepare a block of voxels.

    Parameters
    ----------
    values : (n, V) array
        Images; the first voxel begins a tile. What is not finite is missing.
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
    left, noise = residuals(test.parts, tile if complete.size == count.size else tile[:, complete])
    stat, share, freedom = (np.full(count.size, np.nan) for _ in range(3))
    stat[complete], share[complete], freedom[complete] = _observed(left, test)
    vary = np.isfinite(stat[complete])
    if test.scheme == "ter-braak":
        left = without_tested(test.parts, left)
    single, rest = split(left if vary.all() else left[:, vary])
    others = None
    gaps = np.flatnonzero((count < len(tile)) & (count >= test.min_count) & (test.groups is None))
    if gaps.size:
        others = incomplete(tile[:, gaps], test.parts.nuisance, test.parts.tested, test.signed)
        known = others.freedom > 0
        found = gaps[known]
        share[found], freedom[found] = others.share[known], others.freedom[known]
        stat[found] = statistics(share[found], test.n_tested, freedom[found], test.signed)
    seen = Observed(stat, share, freedom, count)
    return Tile(part, complete[vary], single, rest, noise[vary], gaps, others, seen)


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
    width = test.n_tested + test.parts.moving.shape[1]
    width *= 1 if test.groups is None else len(test.groups.members)
    together = int(np.clip(_ROWS // width, *_BATCH))
    n_voxels = tiles[-1].voxels.stop if tiles else 0
    maxima, counts = np.full(len(index), -np.inf), np.zeros(n_voxels, dtype=np.int64)
    for start in range(-(first % together), len(index), together):
        # A batch is filled up, and a rearrangement has its own place in it: neither the shape of a product nor the
        # row of it that is looked at depends on how many are asked for, or asked for first.
        rows = np.arange(start, start + together).clip(0, len(index) - 1)
        part = slice(max(start, 0), min(start + together, len(index)))
        batch = _Batch(test, tiles, index[rows], sign[rows], slice(part.start - start, part.stop - start))
        for tile in tiles:
            batch.add(tile, counts[tile.voxels], None if maps is None else maps[part, tile.voxels])
        maxima[part] = batch.maxima()
    if not test.scaled:
        found = np.isfinite(maxima)
        maxima[found] = on_scale(maxima[found], test, test.parts.degrees_of_freedom)
    return maxima, counts


class _Rows:
    """Regressors of a batch of rearrangements in one precision: (B, k, n), and what voxels with gaps need."""

    def __init__(self, flat: NDArray[Any], moved: NDArray[Any] | None, nuisance: Array) -> None:
        self.all, self.moved = flat, moved
        self.weighed = None if moved is None else weighed_rows(moved, nuisance)

    def single(self, nuisance: Array) -> "_Rows":
        """The same in single precision."""
        moved = None if self.moved is None else self.moved.astype(np.float32)
        return _Rows(self.all.astype(np.float32), moved, nuisance)


@dataclass(frozen=True)
class _Pairs:
    """Pairs (P,) of a rearrangement and a voxel that are to be computed again.

    `reach` is how large those may be that may be the largest; None: of those next to the observed statistic.
    """

    tile: Tile
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    reach: NDArray[np.floating] | None
    counts: NDArray[np.int64]
    maps: NDArray[np.float32] | None

    def some(self, chosen: slice | NDArray[Any]) -> "_Pairs":
        """Some of them."""
        reach = None if self.reach is None else self.reach[chosen]
        return replace(self, rows=self.rows[chosen], columns=self.columns[chosen], reach=reach)


class _Batch:
    """A batch of rearrangements: its rows, the largest statistics so far, and what is to be computed again.

    Statistics are ranked by their share where that orders those of all voxels, else on their scale.
    """

    def __init__(self, test: Test, tiles: list[Tile], index: NDArray[np.int64], sign: Array, kept: slice) -> None:
        parts, self.test, self.kept = test.parts, test, kept
        if test.groups is not None:
            self.exact = _Rows(grouped_rows(parts, test.groups, index, sign), None, parts.nuisance)
        else:
            moved = None
            if any(tile.others is not None for tile in tiles):
                base = parts.raw if test.scheme == "draper-stoneman" else parts.tested
                moved = np.ascontiguousarray((base[index] * sign[:, :, None]).transpose(0, 2, 1))
            self.exact = _Rows(rearranged(parts, index, sign, test.scheme), moved, parts.nuisance)
            self.single = self.exact.single(parts.nuisance)
        self.two_sided = test.signed and test.two_sided
        n_rows = kept.stop - kept.start
        self.top = np.full(n_rows, -np.inf)
        # What the largest statistic is at least: exact values, and others less their error.
        self.floor = self.top.copy()
        self.pairs: list[_Pairs] = []

    def add(self, tile: Tile, counts: NDArray[np.int64], maps: NDArray[np.float32] | None) -> None:
        """Multiply a tile; `counts` (W,) and `maps` (b, W) of it are filled."""
        if self.test.groups is not None:
            self._exact_columns(tile, tile.complete, counts, maps)
            return
        share, grows, noise = self._single_shares(tile)
        freedom = tile.seen.freedom if tile.gaps.size or self.test.uneven else self.test.parts.degrees_of_freedom
        if maps is not None:
            maps[:] = on_scale(share, self.test, freedom)
        size = np.abs(share, out=share) if self.two_sided else share
        level = np.abs(tile.seen.share) if self.two_sided else tile.seen.share
        with np.errstate(invalid="ignore"):
            error = grows * (product_error(len(tile.values), np.abs(tile.seen.share)) + noise)
            low, high = size >= (level - error).astype(np.float32), size > (level + error).astype(np.float32)
            reached = _count(high)
            near = np.flatnonzero(_count(low) != reached)
            whole = error > _MAX_ERROR
            if maps is not None:
                whole |= np.fmax.reduce(size, axis=0) > _EXTREME
        close = low[:, near] & ~high[:, near]
        if close.sum() > _MANY * close.shape[0] * tile.size:
            whole[near] = True
        if whole.any():
            columns = np.flatnonzero(whole)
            reached[columns] = 0
            self._exact_columns(tile, columns, counts, maps)
            size[:, columns] = np.nan
            close &= ~whole[near]
        counts += reached
        rows, chosen = np.nonzero(close)
        self._defer(_Pairs(tile, rows, near[chosen], None, counts, maps))
        top = np.fmax.reduce(size, axis=1, initial=-np.inf)
        largest = product_error(len(tile.values), float(top.max(initial=0.0))) + noise
        slack = float((grows * largest)[~whole].max(initial=0.0))
        self._defer(
            _Pairs(tile, *self._candidates(size, top, slack, np.asarray(freedom, dtype=np.float32)), counts, maps)
        )

    def maxima(self) -> Array:
        """The largest statistic under each rearrangement: (b,), as a share or on its scale."""
        self._settle()
        return self.top

    def _single_shares(self, tile: Tile) -> tuple[NDArray[np.float32], Array, Array]:
        """Shares (b, W) in single precision, NaN where there is nothing to test; how rounding grows, and noise (W,)."""
        rows = self.single
        share, left = self._products(rows.all, tile.values)
        grows = np.broadcast_to(self._growth(None if left is None else left.min(axis=0)), tile.noise.shape)
        if tile.complete.size == tile.size:
            return share[self.kept], grows, tile.noise
        found, grown, noise = np.full((len(share), tile.size), np.nan, dtype=np.float32), *np.zeros((2, tile.size))
        found[:, tile.complete], grown[tile.complete], noise[tile.complete] = share, grows, tile.noise
        others = tile.others
        if others is not None and rows.moved is not None and rows.weighed is not None:
            share, left, pattern = incomplete_shares(
                others, rows.moved, rows.weighed, others.values, slice(None), self.test.signed
            )
            known = others.freedom > 0
            found[:, tile.gaps] = np.where(known, share, np.nan)
            grown[tile.gaps] = np.where(known, self._growth(left.min(axis=1))[pattern], 0.0)
            noise[tile.gaps] = np.where(known, others.noise, 0.0)
        return found[self.kept], grown, noise

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
        self, size: NDArray[np.float32], top: NDArray[np.float32], error: float, freedom: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
        """Rearrangements and voxels, of sizes (b, W) of which `top` (b,) is the largest, that may be the largest."""
        with np.errstate(invalid="ignore"):
            reach, slack = size, error
            if self.test.uneven:
                reach, slack = self._with_slack(size + np.float32(error), freedom, 1), 0.0
                top = np.fmax.reduce(reach, axis=1, initial=-np.inf)
            rows = np.flatnonzero((top + slack >= self.floor) & (top > -np.inf))
            if not rows.size:
                return rows, rows, top[rows]
            least = top[rows] - slack
            if self.test.uneven:
                best = np.where(np.isnan(reach[rows]), -np.inf, reach[rows]).argmax(axis=1)
                least = self._with_slack(size[rows, best] - np.float32(error), freedom[best], -1)
            self.floor[rows] = np.maximum(self.floor[rows], least)
            found, columns = np.nonzero(reach[rows] + slack >= self.floor[rows, None])
        rows = rows[found]
        return rows, columns, reach[rows, columns] + slack

    def _with_slack(self, size: NDArray[np.floating], freedom: NDArray[np.float32], sign: int) -> NDArray[np.floating]:
        """Sizes on their scale, and a little beyond: they are rounded there as well."""
        scaled = on_scale(size, self.test, freedom)
        return scaled + np.float32(sign * 1e-3) if self.test.signed else scaled * np.float32(1 + sign * 1e-5)

    def _defer(self, pairs: _Pairs) -> None:
        """Keep pairs for later, when those of many tiles are computed together."""
        for start in range(0, pairs.rows.size, _PAIRS_TOGETHER):
            self.pairs.append(pairs.some(slice(start, start + _PAIRS_TOGETHER)))
            if sum(waiting.rows.size for waiting in self.pairs) >= _PAIRS_TOGETHER:
                self._settle()

    def _settle(self) -> None:
        """Compute what was deferred, in double precision, each pair by itself."""
        waiting = [
            pairs if pairs.reach is None else pairs.some(np.flatnonzero(pairs.reach >= self.floor[pairs.rows]))
            for pairs in self.pairs
        ]
        waiting, self.pairs = [pairs for pairs in waiting if pairs.rows.size], []
        test, shares_of = self.test, self._exact_pairs(waiting)
        for pairs, share in zip(waiting, shares_of, strict=True):
            size = np.abs(share) if self.two_sided else share
            freedom = pairs.tile.seen.freedom[pairs.columns]
            np.maximum.at(self.top, pairs.rows, on_scale(size, test, freedom) if test.uneven else size)
            if pairs.reach is not None:
                continue
            np.add.at(pairs.counts, pairs.columns, size >= self._level(pairs.tile, pairs.columns))
            # Which may be the largest depends on the block, and what is put into a map must not.
            if pairs.maps is not None:
                pairs.maps[pairs.rows, pairs.columns] = on_scale(share, test, freedom)
        self.floor = np.maximum(self.floor, self.top)

    def _exact_pairs(self, waiting: list[_Pairs]) -> list[Array]:
        """Shares of pairs: sums of one pair's products alone, so that their bits depend on nothing else."""
        test, sizes = self.test, [pairs.rows.size for pairs in waiting]
        if not sizes:
            return []
        rows = np.concatenate([pairs.rows for pairs in waiting]) + self.kept.start
        seen = np.concatenate([pairs.tile.seen.share[pairs.columns] for pairs in waiting])
        values, noise = np.empty((rows.size, len(test.parts.tested))), np.empty(rows.size)
        share, left, gap = np.empty(rows.size), np.ones(rows.size), np.zeros(rows.size, dtype=bool)
        for pairs, stop in zip(waiting, np.cumsum(sizes), strict=True):
            part, tile = slice(stop - pairs.rows.size, stop), pairs.tile
            if tile.complete.size == tile.size:
                values[part] = joined(tile.values, tile.rest, pairs.columns).T
                noise[part] = tile.noise[pairs.columns]
                continue
            gap[part] = np.isin(pairs.columns, tile.gaps)
            there, places = ~gap[part], np.searchsorted(tile.complete, pairs.columns[~gap[part]])
            values[part][there] = joined(tile.values, tile.rest, places).T
            noise[part][there] = tile.noise[places]
            if gap[part].any():
                chosen = np.flatnonzero(gap[part])
                found = self._pairs_with_gaps(tile, rows[part][chosen], pairs.columns[chosen])
                share[part][chosen], left[part][chosen], noise[part][chosen] = found
        complete = np.flatnonzero(~gap)
        products = np.einsum("pkn,pn->kp", self.exact.all[rows[complete]], values[complete])
        found_share, some = shares(products[None], test.n_tested, test.signed)
        share[complete] = found_share[0]
        if some is not None:
            left[complete] = some[0]
        return np.split(self._tied(share, left, noise, seen), np.cumsum(sizes)[:-1])

    def _pairs_with_gaps(
        self, tile: Tile, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[Array, Array, Array]:
        """Shares, what is left beside the nuisance, and noise of pairs at voxels with gaps."""
        others, moved = tile.others, self.exact.moved
        if others is None or moved is None:
            raise AssertionError("a tile with gaps has them prepared")
        places = np.searchsorted(tile.gaps, columns)
        values = joined(others.values, others.rest, places).T
        found = incomplete_pairs(others, moved[rows], self.test.parts.nuisance, values, places, self.test.signed)
        return *found, others.noise[places]

    def _exact_columns(
        self, tile: Tile, columns: NDArray[np.int64], counts: NDArray[np.int64], maps: NDArray[np.float32] | None
    ) -> None:
        """Shares of some voxels under all rearrangements, in double precision, into counts, maps and maxima."""
        share = np.empty((self.kept.stop - self.kept.start, columns.size))
        is_gap = np.isin(columns, tile.gaps)
        for gap in (False, True):
            chosen = np.flatnonzero(is_gap == gap)
            if chosen.size:
                found, left, noise = self._of_columns(tile, columns[chosen], gap)
                seen = tile.seen.share[columns[chosen]]
                share[:, chosen] = self._tied(found[self.kept], left[self.kept], noise, seen)
        size = np.abs(share) if self.two_sided else share
        freedom = tile.seen.freedom[columns]
        counts[columns] += np.sum(size >= self._level(tile, columns), axis=0)
        rank = on_scale(size, self.test, freedom) if self.test.uneven else size
        self.top = np.maximum(self.top, np.fmax.reduce(rank, axis=1, initial=-np.inf))
        self.floor = np.maximum(self.floor, self.top)
        if maps is not None:
            if self.test.groups is not None:
                maps[:] = np.nan
            maps[:, columns] = on_scale(share, self.test, freedom)

    def _of_columns(
        self, tile: Tile, columns: NDArray[np.int64], gap: bool
    ) -> tuple[NDArray[Any], NDArray[Any], Array]:
        """Shares (B, K), what is left beside the nuisance, and noise (K,), of voxels with or without gaps."""
        test, rows = self.test, self.exact
        if gap and tile.others is not None and rows.moved is not None and rows.weighed is not None:
            places, others = np.searchsorted(tile.gaps, columns), tile.others
            values = joined(others.values, others.rest, places)
            share, kept, pattern = incomplete_shares(others, rows.moved, rows.weighed, values, places, test.signed)
            return share, kept[pattern].T, others.noise[places]
        places = np.searchsorted(tile.complete, columns)
        values = joined(tile.values, tile.rest, places)
        if test.groups is None:
            share, left = self._products(rows.all, values)
            return share, np.ones(share.shape) if left is None else left, tile.noise[places]
        products = (rows.all.reshape(-1, len(values)) @ values).reshape(*rows.all.shape[:2], -1)
        squares = test.groups.members @ np.square(values)
        z = group_z(*group_statistics(products, squares, test.groups, test.n_tested, test.signed), test.n_tested,
                    test.signed)  # fmt: skip
        # A rearrangement that leaves a group without residuals says nothing there.
        return np.nan_to_num(z), np.ones(z.shape), tile.noise[places]

    def _tied(self, share: Array, left: Array, noise: Array, seen: Array) -> Array:
        """Shares, of which those that equal the observed one but for rounding are set to it, or to its negative."""
        if self.test.groups is not None:
            error = _TIE_OF_Z * (1 + np.abs(seen))
        else:
            error = np.minimum(self._growth(left) * (_STORED + noise), _MAX_TIE)
        tied = np.where(np.abs(share - seen) <= error, seen, share)
        return np.where(np.abs(share + seen) <= error, -seen, tied) if self.two_sided else tied

    def _level(self, tile: Tile, columns: NDArray[np.int64]) -> Array:
        """What the size of statistics is compared with."""
        seen = tile.seen.share[columns]
        return np.abs(seen) if self.two_sided else seen


def _count(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of (B, W) there are in each column."""
    counts = np.zeros(reached.shape[1], dtype=np.int64)
    for start in range(0, len(reached), 255):
        counts += np.add.reduce(reached[start : start + 255], axis=0, dtype=np.uint8)
    return counts
