"""Permutation tests as a graph: (rearrangements, voxels) -> maxima, counts, and whole maps for clusters."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskglm.design.rearrangements import Rearrangements
from daskglm.graph.compute import compute, kept_in_memory, memory_limit, n_workers, shared, task
from daskglm.kernels.moments import Array
from daskglm.kernels.null import tie_level
from daskglm.kernels.permutation_blocks import TILE, Observed, Test, Tile, make_tiles, observe, permute

# Numbers of one statistic map, times the maps that one task holds: 32 MB.
_MAP_VALUES = 2**23
_MAPS_TOGETHER = (4, 128)
# Rearrangements of a unit: its rows are drawn once and sent to each block; index and sign are 16 bytes a row.
# Units are what is kept, told and tested for an early end: small enough to be seconds.
_UNIT_ROWS = 2**22
_UNIT = (64, 1024)
# Values of a block of images: 64 MB of float32.
_BLOCK_VALUES = 2**24
# Part of the memory that images may stay in.
_RESIDENT = 0.4


@dataclass
class Unit:
    """What a stretch of rearrangements gave, for R tests.

    Attributes
    ----------
    start, stop : int
        Numbers of the rearrangements.
    maxima : dict of str to (R, stop - start) float64
        By statistic: the largest of the map under each.
    counts : dict of str to (R, V) int64
        By statistic: how often it was at least the observed one, at each voxel.
    """

    start: int
    stop: int
    maxima: dict[str, Array]
    counts: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Blocks:
    """Images in blocks of voxels, all images in each.

    Attributes
    ----------
    parts : list of (n, v) arrays, in memory or delayed
        Each begins at a tile of voxels.
    edges : list of int
        Voxels at which they begin, and V.
    n_rows : int
        n.
    tiles : list of tiles, or None
        The blocks prepared for each test, in memory or delayed; None: prepared again for each unit.
    """

    parts: list[Any]
    edges: list[int]
    n_rows: int
    tiles: list[Any] | None = None


def voxel_blocks(data: da.Array, n_jobs: int | None = None) -> Blocks:
    """Cut images into blocks of voxels.

    What takes less than 0.4 of the memory is kept there, prepared for the tests by :func:`observed`.

    Parameters
    ----------
    data : (n, V) dask array
        Images.
    n_jobs : int or None
        Threads, where no cluster is active.

    Returns
    -------
    Blocks
        Lazy blocks that are not kept are read again for each unit of rearrangements.
    """
    n_rows, n_voxels = data.shape
    per_worker = -(-n_voxels // (2 * n_workers(n_jobs)))
    width = max(TILE, min(per_worker, _BLOCK_VALUES // n_rows) // TILE * TILE)
    edges = [*range(0, n_voxels, width), n_voxels]
    lazy = data.rechunk(((n_rows,), tuple(stop - start for start, stop in pairwise(edges))))
    parts = lazy.to_delayed().reshape(-1).tolist()
    return Blocks(parts, edges, n_rows, tiles=[] if lazy.nbytes <= _RESIDENT * memory_limit() else None)


def observed(blocks: Blocks, tests: Sequence[Test], n_jobs: int | None = None) -> tuple[Observed, Blocks]:
    """Statistics of the data as they are.

    Parameters
    ----------
    blocks : Blocks
        Images.
    tests : sequence of R Test
        Tests.
    n_jobs : int or None
        Threads, where no cluster is active.

    Returns
    -------
    seen : Observed
    blocks : Blocks
        With their tiles, where those are kept.
    """
    once, keep = shared("tests", list(tests)), blocks.tiles is not None
    lazy = [task("observe-block", _observe_block, part, once, keep, n_out=2) for part in blocks.parts]
    both = kept_in_memory(*lazy, n_jobs=n_jobs) if keep else lazy
    found = compute(*[item[0] for item in both], n_jobs=n_jobs)
    stat, share, freedom, count = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    tiles = [item[1] for item in both] if keep else None
    return Observed(stat, share, freedom, count[0]), replace(blocks, tiles=tiles)


def units(
    blocks: Blocks,
    tests: Sequence[Test],
    rearrangements: Rearrangements,
    on_map: Callable[[NDArray[np.float32], int], dict[str, Any]] | None = None,
    enhanced: Array | None = None,
    start: int = 0,
    n_jobs: int | None = None,
) -> Iterator[Unit]:
    """Run rearrangements, unit by unit, in the order of their numbers.

    Parameters
    ----------
    blocks : Blocks
        Images.
    tests : sequence of R Test
        Tests.
    rearrangements : Rearrangements
        Which.
    on_map : callable, optional
        Takes a statistic map (V,) and the number of the test to numbers of the whole map by name, and under
        "enhanced" a map (V,) whose maximum and counts are wanted.
    enhanced : (R, V) float64, optional
        Enhanced map of the data.
    start : int
        The first rearrangement to do; those before are done already. A unit begins there.
    n_jobs : int or None
        Threads, where no cluster is active.

    Yields
    ------
    Unit
    """
    sizes = unit_size(blocks.n_rows, blocks.edges[-1], on_map is not None)
    once = shared("tests", list(tests))
    plan = _Plan(
        blocks, once, shared("rearrangements", rearrangements),
        None if on_map is None else shared("on-map", on_map), shared("enhanced", enhanced), sizes[1],
    )  # fmt: skip
    firsts = range(start, rearrangements.count, sizes[0])
    at_once = max(1, -(-2 * n_workers(n_jobs) // len(blocks.parts)))
    for wave in range(0, len(firsts), at_once):
        lazy = [
            _lazy_unit(plan, first, min(first + sizes[0], rearrangements.count))
            for first in firsts[wave : wave + at_once]
        ]
        yield from compute(*lazy, n_jobs=n_jobs)


def unit_size(n_rows: int, n_voxels: int, whole_maps: bool) -> tuple[int, int]:
    """Rearrangements of a unit, and of those how many maps one task holds.

    Parameters
    ----------
    n_rows, n_voxels : int
        Shape of the images.
    whole_maps : bool
        Whether statistics of whole maps are wanted.

    Returns
    -------
    size, together : int
        They depend on nothing else: finished units fit whatever the machines are.
    """
    size = int(np.clip(_UNIT_ROWS // n_rows // 64 * 64, *_UNIT))
    together = int(np.clip(_MAP_VALUES // n_voxels, *_MAPS_TOGETHER))
    return (min(size, 4 * together), together) if whole_maps else (size, together)


@dataclass(frozen=True)
class _Plan:
    """What every unit needs, delayed."""

    blocks: Blocks
    tests: Any
    rearrangements: Any
    on_map: Any
    enhanced: Any
    together: int


def _lazy_unit(plan: _Plan, first: int, last: int) -> Any:
    """The graph of one unit: drawn once, each block multiplied, whole maps in groups."""
    drawn = plan.rearrangements.take(first, last, dask_key_name=f"draw-rearrangements-{uuid4().hex}")
    bounds = [] if plan.on_map is None else [*range(0, last - first, plan.together), last - first]
    n_groups = max(0, len(bounds) - 1)
    # Tasks of this unit alone where they are not kept: nothing holds on to what they made.
    prepared = plan.blocks.tiles or [task("prepare-block", _prepare, part, plan.tests) for part in plan.blocks.parts]
    tiles = [dask.delayed(item, name=f"tiles-{uuid4().hex}", traverse=False) for item in prepared]
    done = [
        task("permute-block", _permute_block, item, plan.tests, drawn, bounds, first, n_out=2 + n_groups)
        for item in tiles
    ]
    groups = [
        task("enhance-maps", _on_maps, [item[2 + group] for item in done], plan.on_map, plan.enhanced)
        for group in range(n_groups)
    ]
    return task("join-unit", _unit, first, last, [item[0] for item in done], [item[1] for item in done], groups)


def _observe_block(
    block: NDArray[Any], tests: Sequence[Test], keep: bool
) -> tuple[tuple[NDArray[Any], ...], list[list[Tile]] | None]:
    """Statistic, share and freedom (R, V) and count (1, V) of a block, and its tiles where they are kept."""
    tiles = _prepare(block, tests)
    seen = [observe(of_test) for of_test in tiles]
    stacked = (np.array([item.stat for item in seen]), np.array([item.share for item in seen]),
               np.array([item.freedom for item in seen]), seen[0].count[None])  # fmt: skip
    return stacked, tiles if keep else None


def _prepare(block: NDArray[Any], tests: Sequence[Test]) -> list[list[Tile]]:
    """The tiles of a block, for each test."""
    return [make_tiles(block, test) for test in tests]


def _permute_block(
    prepared: list[list[Tile]], tests: Sequence[Test], drawn: Any, bounds: list[int], first: int
) -> tuple[Any, ...]:
    """Maxima (R, m), counts (R, V), and groups of maps (R, m', V) of a block."""
    index, sign = drawn
    n_voxels = prepared[0][-1].voxels.stop
    maxima, counts, maps = [], [], []
    for tiles, test in zip(prepared, tests, strict=True):
        whole = np.full((len(index), n_voxels), np.nan, dtype=np.float32) if bounds else None
        found = permute(tiles, test, index, sign, whole, first=first)
        maxima.append(found[0])
        counts.append(found[1])
        maps.append(whole)
    groups = [np.array([whole[a:b] for whole in maps if whole is not None]) for a, b in pairwise(bounds)]
    return np.array(maxima), np.array(counts), *groups


def _on_maps(parts: list[NDArray[np.float32]], on_map: Any, enhanced: Array | None) -> tuple[Any, Any]:
    """Numbers (R, m) by name of some whole maps, and counts (R, V) of enhanced ones."""
    maps = np.concatenate(parts, axis=2)
    names: dict[str, Array] = {}
    counts = None if enhanced is None else np.zeros(enhanced.shape, dtype=np.int64)
    for test, of_test in enumerate(maps):
        for number, values in enumerate(of_test):
            found = on_map(values, test)
            better = found.pop("enhanced", None)
            if better is not None and counts is not None and enhanced is not None:
                found["tfce"] = float(np.fmax.reduce(np.abs(better), initial=0.0))
                with np.errstate(invalid="ignore"):
                    counts[test] += np.abs(better) >= tie_level(np.abs(enhanced[test]))
            for name, value in found.items():
                names.setdefault(name, np.full(maps.shape[:2], np.nan))[test, number] = value
    return names, counts


def _unit(first: int, last: int, maxima: list[Array], counts: list[NDArray[np.int64]], groups: list[Any]) -> Unit:
    """A unit of its blocks and groups of maps."""
    by_name = {"stat": np.maximum.reduce(maxima)}
    counted = {"stat": np.concatenate(counts, axis=1)}
    for name in groups[0][0] if groups else ():
        by_name[name] = np.concatenate([names[name] for names, _ in groups], axis=1)
    if groups and groups[0][1] is not None:
        counted["tfce"] = np.sum([more for _, more in groups], axis=0)
    return Unit(first, last, by_name, counted)
