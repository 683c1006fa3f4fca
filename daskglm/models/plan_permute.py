"""What a permutation analysis will take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np

from daskglm.design.matrix import check_design
from daskglm.design.rearrangements import Rearrangements
from daskglm.errors import check_choice
from daskglm.graph import permutation as graph
from daskglm.graph.compute import memory_limit, shared, task
from daskglm.graph.glm import fewest
from daskglm.graph.planning import Machine, count_tasks, machine
from daskglm.inference.permutation import permutation_test
from daskglm.inference.permutation_maps import WholeMap
from daskglm.inference.planning import cluster_threshold, plan_tests
from daskglm.kernels.adjacency import CONNECTIVITIES, grid_adjacency
from daskglm.kernels.permutation_blocks import ROW_VALUES, TILE, Test, make_tiles, permute
from daskglm.kernels.tfce import Grid, check_enhancement
from daskglm.models.contrasts import Contrasts, check_any, contrasts_of_design
from daskglm.models.functional import design_of_formula
from daskglm.models.inputs import participants_column
from daskglm.models.options import Options
from daskglm.models.plan import Needs, Plan, count_text, map_bytes, seconds_of, text_bytes
from daskglm.models.plan_images import Source, open_source, read_seconds
from daskglm.models.selection import selection
from daskglm.schema.datasets import space_of
from daskglm.schema.space import VolumeSpace

_CALIBRATED = 256
# Rows of a product, at least.
_PRODUCT_ROWS = 512
_DEFAULTS = {name: item.default for name, item in signature(permutation_test).parameters.items()}


def plan_permutation(
    images: Any,
    output: str | None,
    formula: str,
    contrasts: Contrasts,
    *,
    f_contrasts: Contrasts | None = None,
    participants: Any = None,
    exclude: Any = (),
    where: str | None = None,
    na: str = "stop",
    within: str | None = None,
    whole: str | None = None,
    variance_groups: str | None = None,
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    n_jobs: int | None = -1,
    overwrite: bool = False,
    count: bool = True,
    calibrate: bool = False,
    **test: Any,
) -> Plan:
    """What :func:`~daskglm.models.permutation_analysis.permutation_analysis` will take; nothing is written.

    Parameters
    ----------
    images, output, formula, contrasts, f_contrasts, participants, exclude, where, na
        As for the analysis.
    within, whole, variance_groups
        As for the analysis.
    mask, missing, min_coverage, smoothing_fwhm, n_jobs
        As for the analysis.
    overwrite : bool
        Makes no difference here.
    count : bool
        Count the tasks, which takes longer than all else; where `images` are loaded, this is quick without.
    calibrate : bool
        Read an image or block, and permute a tile and a map, for an estimate of the time.
    **test
        As for the analysis.

    Returns
    -------
    Plan

    Raises
    ------
    DaskGLMError
        As the analysis, from headers and tables.
    """
    chosen = {name: test.get(name, default) for name, default in _DEFAULTS.items()}
    check_any(contrasts, f_contrasts, "permutation", formula)
    check_enhancement(chosen["tfce"], chosen["extent"], chosen["height"])
    check_choice("connectivity", chosen["connectivity"], CONNECTIVITIES)
    choose, participants = selection(participants, exclude, where, na, formula, (within, whole, variance_groups))
    source = open_source(images, Options(mask, missing, min_coverage, smoothing_fwhm, n_jobs=n_jobs), choose)
    loaded = source.loaded.images
    design = design_of_formula(formula, participants, loaded)
    check_design(design, len(design), allow_rank_deficient=chosen["allow_rank_deficient"])
    definitions, kinds = contrasts_of_design(contrasts, f_contrasts, design)
    several = [name for name, kind in kinds.items() if kind == "F"]
    inside, units, groups = (
        participants_column(name, participants, loaded) for name in (within, whole, variance_groups)
    )
    rearrangements, tests = plan_tests(
        design, definitions, several, chosen["two_sided"], chosen["scheme"], chosen["rearrangement"],
        chosen["n_perm"], inside, units, groups, chosen["random_state"], fewest(min_coverage, len(design)),
    )  # fmt: skip
    heights = tuple(cluster_threshold(item, chosen["threshold"]) for item in tests.values())
    shape = _shape(source, space_of(loaded), list(tests.values()), rearrangements, chosen, machine(n_jobs))
    n_units = -(-rearrangements.count // shape.unit[0])
    n_bytes, n_tasks, notes = source.passes(_tasks(shape) if count else 0)
    if not shape.kept:
        n_bytes += source.n_bytes * n_units
        notes += ("the images do not fit into memory: each unit of rearrangements reads them again",)
    if chosen["stop_at"] is not None:
        notes += ("it may stop early: these are the numbers if it does not",)
    # Counts of voxels, of each unit; and the maxima of every rearrangement.
    kept = n_units * (4 * len(tests) * shape.n_voxels * shape.n_statistics + 3000)
    kept += 8 * len(tests) * rearrangements.count * shape.n_maxima
    plan = Plan(
        command="permute",
        what=f"{len(design):,} images of {'' if source.masked else 'at most '}{shape.n_voxels:,} voxels, "
        f"{count_text(len(tests), 'contrast')}, {count_text(rearrangements.count, 'rearrangement')}",
        machine=shape.where,
        needs=_needs(shape, True),
        complete=_needs(shape, False),
        bytes_read=n_bytes,
        bytes_written=len(tests) * (shape.n_maps * map_bytes(shape.n_grid, shape.n_voxels) + 80 * rearrangements.count)
        + 2 * map_bytes(shape.n_grid, shape.n_voxels) + text_bytes(*design.shape),
        scratch=kept,
        n_tasks=n_tasks,
        notes=notes,
    )  # fmt: skip
    return _timed(plan, shape, heights, chosen) if calibrate else plan


@dataclass(frozen=True)
class _Shape:
    """What a permutation analysis depends on; `unit`: rearrangements of a unit, and maps that a task holds."""

    source: Source
    space: VolumeSpace
    tests: Sequence[Test]
    rearrangements: Rearrangements
    where: Machine
    width: int
    unit: tuple[int, int]
    whole_maps: bool
    n_statistics: int
    n_maxima: int
    n_maps: int
    neighbours: int
    kept: bool

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.source.data.shape[1])

    @property
    def n_grid(self) -> int:
        """Voxels of the grid."""
        return int(np.prod(self.space.shape))

    @property
    def at_once(self) -> int:
        """Units that run together."""
        return max(1, -(-2 * self.where.workers * self.where.threads // (len(self.edges) - 1)))

    @property
    def edges(self) -> list[int]:
        """Where blocks of voxels begin, and the end."""
        return [*range(0, self.n_voxels, self.width), self.n_voxels]


def _shape(
    source: Source, space: VolumeSpace, tests: Sequence[Test], rearrangements: Rearrangements,
    chosen: Mapping[str, Any], where: Machine,
) -> _Shape:  # fmt: skip
    """How the analysis will cut its images."""
    n_rows, n_voxels = source.data.shape
    per_worker = -(-n_voxels // (2 * where.workers * where.threads))
    whole = bool(chosen["threshold"] is not None or chosen["tfce"])
    # What is decided by the memory that is free then may be decided otherwise than now: more is promised.
    room = 1.2 * graph._RESIDENT * memory_limit()
    return _Shape(
        source, space, tests, rearrangements, where,
        width=max(TILE, min(per_worker, graph._BLOCK_VALUES // n_rows) // TILE * TILE),
        unit=graph.unit_size(n_rows, n_voxels, whole),
        whole_maps=whole,
        n_statistics=2 if chosen["tfce"] else 1,
        n_maxima=1 + (2 if chosen["threshold"] is not None else 0) + (1 if chosen["tfce"] else 0),
        n_maps=8 + (4 if chosen["threshold"] is not None else 0) + (3 if chosen["tfce"] else 0),
        neighbours=int(chosen["connectivity"]) if whole else 0,
        kept=source.data.nbytes <= room,
    )  # fmt: skip


def _tasks(shape: _Shape) -> int:
    """Tasks of all graphs: of the images in blocks, of the data as they are, of the units."""
    edges, tests = shape.edges, shared("tests", list(shape.tests))
    rechunked = shape.source.data.rechunk(((shape.source.data.shape[0],), tuple(b - a for a, b in pairwise(edges))))
    lazy = rechunked.to_delayed().reshape(-1).tolist()
    seen = [task("observe", graph._observe_block, part, tests, shape.kept, n_out=2) for part in lazy]
    n_tasks = count_tasks(*seen) if shape.kept else count_tasks(*[item[0] for item in seen])
    blocks = graph.Blocks(lazy, edges, shape.source.data.shape[0], [[[]]] * len(lazy) if shape.kept else None)
    plan = graph._Plan(
        blocks, tests, shared("rearrangements", shape.rearrangements),
        shared("on-map", 0) if shape.whole_maps else None, shared("enhanced", 0), shape.unit[1],
    )  # fmt: skip
    # Units run in waves, and those of a wave share what they need.
    count, (size, _), at_once = shape.rearrangements.count, shape.unit, shape.at_once
    firsts = range(0, count, size)
    waves = [firsts[start : start + at_once] for start in range(0, len(firsts), at_once)]
    last = count_tasks(*[graph._lazy_unit(plan, first, min(first + size, count)) for first in waves[-1]])
    if len(waves) > 1:
        n_tasks += (len(waves) - 1) * count_tasks(*[graph._lazy_unit(plan, first, first + size) for first in waves[0]])
    return n_tasks + last


def _needs(shape: _Shape, gaps: bool) -> Needs:
    """Memory; `gaps`: of voxels that lack images, all of them."""
    source, where, n_tests = shape.source, shape.where, len(shape.tests)
    (n_rows, n_voxels), width, size = source.data.shape, shape.width, shape.source.data.dtype.itemsize
    part, n_parts, (unit, together) = n_rows * width, len(shape.edges) - 1, shape.unit
    rank = shape.tests[0].parts.nuisance.shape[1]
    patterns = 8 * rank**2 * width if gaps else 0
    share = 1.0 if not where.cluster else min(1.0, (n_parts / where.workers + 2) / n_parts)
    # Tiles of all tests show the same images, but for those that a worker sends to another.
    images = size * part * (n_tests if where.cluster else 1)
    tiles = images + n_tests * ((100 + 8 * (rank + 1)) * width + patterns)
    # Images of a source block wait for those of all others, and are copied into blocks of voxels then.
    column = n_rows * max(source.data.chunks[1])
    loading = size * min(n_rows * n_voxels, (where.threads + 1) * column)
    held = int(share * loading) + (int(share * n_parts * tiles) if shape.kept else 0)
    moving = max(sum(item.parts.tested.shape[1] + item.parts.moving.shape[1] for item in shape.tests), 1)
    unit = min(unit, shape.rearrangements.count)
    product = 28 * min(max(ROW_VALUES, _PRODUCT_ROWS * n_rows), (unit + 2 * 128) * moving * n_rows)
    product += 20 * max(_PRODUCT_ROWS, 8 * moving) * TILE
    observing = 8 * part * (2 if gaps else 1) + 2 * patterns + 32 * n_rows * TILE + 100 * width
    permuting = (0 if shape.kept else tiles) + product + 32 * n_rows * TILE + 50 * n_tests * width
    at_once = shape.at_once
    held += at_once * (2 * 16 * unit * n_rows + 8 * n_tests * n_voxels * shape.n_statistics * 3)
    mapping = 0
    if shape.whole_maps:
        held += at_once * 4 * n_tests * unit * n_voxels + 40 * shape.neighbours * n_voxels
        permuting += 8 * n_tests * unit * width
        mapping = 4 * n_tests * together * n_voxels + n_voxels * (24 * shape.neighbours + 100) + 16 * shape.n_grid
    reading = size * max(source.data.chunks[0]) * max(source.data.chunks[1]) + source.reading(
        max(source.data.chunks[1])
    )
    work = max(observing, permuting, mapping, reading)
    client = 2 * 8 * n_tests * n_voxels * (shape.n_maps + 4) + 40 * shape.neighbours * n_voxels
    client += 8 * n_tests * n_voxels * 4
    # What units counted comes from the workers, for those that run together.
    client += 2 * 8 * at_once * n_tests * n_voxels * shape.n_statistics if where.cluster else held
    return Needs(held, work, max(client, 8 * shape.n_grid * (n_tests * shape.n_maps + 4)))


def _timed(plan: Plan, shape: _Shape, heights: tuple[float | None, ...], chosen: Mapping[str, Any]) -> Plan:
    """The plan with its time: from reading, from one tile, and from one map."""
    data, rng, test = shape.source.data, np.random.default_rng(0), shape.tests[0]
    tiles = make_tiles(rng.standard_normal((data.shape[0], TILE), dtype=np.float32), test)
    index, sign = shape.rearrangements.take(0, min(_CALIBRATED, shape.rearrangements.count))
    permute(tiles, test, index[:1], sign[:1])  # the first call of a kernel loads things
    each = seconds_of(lambda: permute(tiles, test, index, sign)) / len(index)
    n_done = shape.rearrangements.count * len(shape.tests)
    work = n_done * each * shape.n_voxels / TILE
    work += read_seconds(shape.source) * plan.bytes_read / max(shape.source.n_bytes, 1) * data.size
    if shape.whole_maps:
        neighbours = grid_adjacency(shape.space.shape, shape.space.voxels, shape.neighbours)
        grid = Grid(shape.space.shape, shape.space.voxels, shape.neighbours) if shape.neighbours > 6 else None
        sides = tuple(item.signed and item.two_sided for item in shape.tests)
        on_map = WholeMap(neighbours, grid, heights, sides, chosen["tfce"], chosen["extent"], chosen["height"])
        values = rng.standard_normal(shape.n_voxels, dtype=np.float32)
        on_map(values, 0)
        work += n_done * seconds_of(lambda: on_map(values, 0))
    return replace(plan, seconds=work / (plan.machine.workers * plan.machine.threads))
