"""Blocks of voxels under rearrangements: tile by tile, in products whose operands do not depend on the blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskglm.kernels.incomplete import Incomplete, incomplete, incomplete_shares, weighed_rows
from daskglm.kernels.moments import Array
from daskglm.kernels.permutation import (
    Partition,
    even_scale,
    exceedances,
    rearranged,
    residuals,
    shares,
    statistics,
)
from daskglm.kernels.variance_groups import VarianceGroups, group_statistics, grouped_rows

# Voxels that are multiplied together. The voxels of a tile are always the same, counted from the first voxel of
# the map: so a product has the same operands, and the same bits, whatever the chunks of the images.
TILE = 1024
# Rows of a product, about: rearrangements are taken together in batches that are filled up, for the same reason.
_ROWS = 512
_BATCH = (8, 128)


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
        Groups with variances of their own: v and G take the place of t and F, at voxels that all images have.
    """

    parts: Partition
    signed: bool
    two_sided: bool
    scheme: str
    uneven: bool = False
    min_count: int = 1
    groups: VarianceGroups | None = None


@dataclass(frozen=True)
class Tile:
    """Voxels that are multiplied together.

    Attributes
    ----------
    voxels : slice
        Where they are in their block.
    complete : (C,) int64
        Those with all images, counted from the first.
    values : (n, C) array
        Their residuals.
    gaps : (G,) int64
        Those with some images.
    others : Incomplete or None
        What is known of these.
    """

    voxels: slice
    complete: NDArray[np.int64]
    values: NDArray[np.floating]
    gaps: NDArray[np.int64]
    others: Incomplete | None


def make_tiles(values: NDArray[np.floating], test: Test, dtype: DTypeLike = np.float32) -> list[Tile]:
    """Prepare a block of voxels.

    Parameters
    ----------
    values : (n, V) array
        Images; the first voxel begins a tile. What is not finite is missing.
    test : Test
        Test.
    dtype : dtype
        Of what is multiplied.

    Returns
    -------
    list of Tile
    """
    made = []
    for start in range(0, values.shape[1], TILE):
        part = slice(start, min(start + TILE, values.shape[1]))
        tile = values[:, part]
        # A sum is not finite where a value is not, and cheaper than looking at each.
        count = np.full(tile.shape[1], len(tile))
        if not np.isfinite(tile.sum(axis=0, dtype=np.float64)).all():
            count = np.isfinite(tile).sum(axis=0)
        complete = np.flatnonzero(count == len(tile))
        left = residuals(test.parts, tile if complete.size == count.size else tile[:, complete], test.scheme, dtype)
        vary = left.any(axis=0)
        gaps = np.flatnonzero((count < len(tile)) & (count >= test.min_count) & (test.groups is None))
        others = None
        if gaps.size:
            some = tile[:, gaps].astype(np.float64)
            others = incomplete(some, test.parts.nuisance, test.parts.tested.shape[1], dtype)
        made.append(
            Tile(part, complete[vary], left if vary.all() else np.ascontiguousarray(left[:, vary]), gaps, others)
        )
    return made


def observe(values: NDArray[np.floating], test: Test) -> tuple[Array, Array, NDArray[np.int64]]:
    """The statistic of the data as they are, in double precision.

    Parameters
    ----------
    values : (n, V) array
        Images.
    test : Test
        Test.

    Returns
    -------
    share : (V,) float64
        Partial correlation or share of variance, or v or G of variance groups; NaN where nothing can be tested.
    freedom : (V,) float64
        Degrees of freedom of the error.
    count : (V,) int64
        Images of each voxel.
    """
    n_rows, n_voxels = values.shape
    share, freedom = np.full(n_voxels, np.nan), np.full(n_voxels, np.nan)
    index, sign = np.arange(n_rows)[None], np.ones((1, n_rows))
    # Of the data as they are all schemes say the same, but for ter Braak, whose residuals know the effect.
    scheme = "smith" if test.groups is None else "freedman-lane"
    plain = replace(test, scheme=scheme, uneven=False)
    tiles = make_tiles(values, plain, np.float64)
    for tile, found in zip(tiles, _shares_of(tiles, plain, index, sign, np.float64), strict=True):
        share[tile.voxels] = found[0]
        freedom[tile.voxels][tile.complete] = test.parts.degrees_of_freedom
        if tile.others is not None:
            freedom[tile.voxels][tile.gaps] = tile.others.freedom
    freedom[~(freedom > 0)] = np.nan
    share[np.isnan(freedom)] = np.nan
    return share, freedom, np.isfinite(values).sum(axis=0)


def on_scale(share: NDArray[np.floating], test: Test, freedom: int | NDArray[np.floating]) -> NDArray[np.floating]:
    """The statistic that is compared between voxels and rearrangements.

    Parameters
    ----------
    share : (..., V) array
        Partial correlations or shares of variance.
    test : Test
        Test.
    freedom : int or (V,) array
        Degrees of freedom.

    Returns
    -------
    (..., V) array
        t or F; where voxels have different numbers of images, :func:`~daskglm.kernels.permutation.even_scale`.
    """
    if test.uneven and test.groups is None:
        return even_scale(share, test.parts.tested.shape[1], freedom, test.signed)
    return as_statistic(share, test, freedom)


def as_statistic(share: NDArray[np.floating], test: Test, freedom: int | NDArray[np.floating]) -> NDArray[np.floating]:
    """The statistic that is reported.

    Parameters
    ----------
    share : (..., V) array
        Partial correlations or shares of variance, or v or G.
    test : Test
        Test.
    freedom : int or (V,) array
        Degrees of freedom.

    Returns
    -------
    (..., V) array
        t or F, or v or G.
    """
    if test.groups is not None:
        return share
    return statistics(share, test.parts.tested.shape[1], freedom, test.signed)


def compared(share: NDArray[np.floating], test: Test, freedom: NDArray[np.floating]) -> NDArray[np.floating]:
    """What rearrangements are compared with: shares where all voxels have one number of degrees of freedom.

    Parameters
    ----------
    share : (V,) array
        Observed, from :func:`observe`.
    test : Test
        Test.
    freedom : (V,) array
        Degrees of freedom.

    Returns
    -------
    (V,) array
        There t and F grow with the share, and need not be computed; else :func:`on_scale`.
    """
    return share if _even(test) else on_scale(share, test, freedom)


def permute(
    tiles: list[Tile], test: Test, index: NDArray[np.int64], sign: Array, observed: Array | None = None,
    maps: NDArray[np.float32] | None = None, dtype: DTypeLike = np.float32, first: int = 0,
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
    observed : (V,) float64, optional
        From :func:`compared`, for the counts.
    maps : (m, V) float32, optional
        To be filled with the statistics on their scale; NaN where there is none.
    dtype : dtype
        Of the products.
    first : int
        Number of the first rearrangement: it decides which are multiplied together.

    Returns
    -------
    maxima : (m,) float64
        Largest statistic of the block, by magnitude where the test is two-sided; minus infinity where there is none.
    counts : (V,) int64
        How many statistics are at least the observed one.
    """
    width = test.parts.tested.shape[1] + test.parts.moving.shape[1]
    width *= 1 if test.groups is None else len(test.groups.members)
    together = int(np.clip(_ROWS // width, *_BATCH))
    n_voxels = tiles[-1].voxels.stop if tiles else 0
    maxima, counts = np.full(len(index), -np.inf), np.zeros(n_voxels, dtype=np.int64)
    two_sided = test.signed and test.two_sided
    levels = None if observed is None else (np.abs(observed) if two_sided else observed).astype(dtype)
    for start in range(-(first % together), len(index), together):
        # A batch is filled up, and a rearrangement has its own place in it: neither the shape of a product nor the
        # row of it that is looked at depends on how many are asked for, or asked for first.
        rows = np.arange(start, start + together).clip(0, len(index) - 1)
        part = slice(max(start, 0), min(start + together, len(index)))
        for tile, share in zip(tiles, _shares_of(tiles, test, index[rows], sign[rows], dtype), strict=True):
            values = share[part.start - start : part.stop - start]
            if maps is not None or not _even(test):
                stats = _stats_of(tile, values, test)
                values = values if _even(test) else stats
            if maps is not None:
                maps[part, tile.voxels] = stats
            if two_sided:
                values = np.abs(values, out=values)
            with np.errstate(invalid="ignore"):
                top = np.fmax.reduce(values, axis=1, initial=-np.inf)
                np.maximum(maxima[part], top, out=maxima[part])
                if levels is not None:
                    counts[tile.voxels] += exceedances(values, levels[tile.voxels])
    if _even(test):
        found = np.isfinite(maxima)
        maxima[found] = on_scale(maxima[found].astype(dtype), test, test.parts.degrees_of_freedom)
    return maxima, counts


def _even(test: Test) -> bool:
    """Whether the statistic grows with the share, alike at all voxels."""
    return not test.uneven and test.groups is None


def _shares_of(
    tiles: list[Tile], test: Test, index: NDArray[np.int64], sign: Array, dtype: DTypeLike
) -> Iterator[NDArray[np.floating]]:
    """Shares (B, W) of each tile; NaN where there is nothing to test."""
    if test.groups is not None:
        yield from _grouped(tiles, test, index, sign, dtype)
        return
    parts, n_tested = test.parts, test.parts.tested.shape[1]
    rows = rearranged(parts, index, sign, test.scheme, dtype)
    flat = rows.reshape(-1, rows.shape[2])
    moved = weighed = None
    for tile in tiles:
        size = tile.voxels.stop - tile.voxels.start
        products = (flat @ tile.values).reshape(*rows.shape[:2], tile.complete.size)
        share = shares(products, n_tested, test.signed)
        if tile.complete.size == size:
            yield share
            continue
        found = np.full((len(rows), size), np.nan, dtype=dtype)
        found[:, tile.complete] = share
        if tile.others is not None:
            if moved is None or weighed is None:
                base = parts.raw if test.scheme == "draper-stoneman" else parts.tested
                moved = np.ascontiguousarray((base[index] * sign[:, :, None]).transpose(0, 2, 1), dtype=dtype)
                weighed = weighed_rows(moved, parts.nuisance)
            found[:, tile.gaps] = incomplete_shares(tile.others, moved, weighed, test.signed)
            found[:, tile.gaps[tile.others.freedom <= 0]] = np.nan
        yield found


def _grouped(
    tiles: list[Tile], test: Test, index: NDArray[np.int64], sign: Array, dtype: DTypeLike
) -> Iterator[NDArray[np.floating]]:
    """Statistics v or G (B, W) of each tile."""
    groups, n_tested = test.groups, test.parts.tested.shape[1]
    if groups is None:
        return
    rows = grouped_rows(test.parts, groups, index, sign, dtype)
    flat, members = rows.reshape(-1, rows.shape[2]), groups.members.astype(dtype)
    for tile in tiles:
        found = np.full((len(rows), tile.voxels.stop - tile.voxels.start), np.nan, dtype=dtype)
        if tile.complete.size:
            products = (flat @ tile.values).reshape(*rows.shape[:2], -1)
            squares = members @ np.square(tile.values)
            found[:, tile.complete] = group_statistics(products, squares, groups, n_tested, test.signed)
        yield found


def _stats_of(tile: Tile, share: NDArray[np.floating], test: Test) -> NDArray[np.floating]:
    """Statistics (B, W) of shares."""
    if tile.others is None:
        return on_scale(share, test, test.parts.degrees_of_freedom)
    freedom = np.full(share.shape[1], float(test.parts.degrees_of_freedom))
    freedom[tile.gaps] = tile.others.freedom
    return on_scale(share, test, freedom)
