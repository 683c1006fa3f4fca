"""What a group analysis will take."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from daskglm.design.matrix import design_array
from daskglm.graph.checkpoints import units_of
from daskglm.graph.planning import Machine, count_tasks, machine
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.moments import block_moments
from daskglm.models.contrasts import Contrasts, check_any, contrasts_of_design
from daskglm.models.functional import OUTPUT_TYPES, compute_contrasts, design_of_formula, fit_glm
from daskglm.models.options import Options
from daskglm.models.plan import Needs, Plan, count_text, map_bytes, seconds_of, text_bytes
from daskglm.models.plan_images import Source, open_source, read_seconds
from daskglm.models.selection import selection
from daskglm.schema.datasets import space_of

# Compression and writing of maps, in bytes a second.
_WRITE_SPEED = 60e6
_CALIBRATED_VOXELS = 4096


def plan_group(
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
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    allow_rank_deficient: bool = False,
    n_jobs: int | None = -1,
    overwrite: bool = False,
    calibrate: bool = False,
) -> Plan:
    """What :func:`~daskglm.models.group.group_analysis` will take; nothing is written.

    Parameters
    ----------
    images, output, formula, contrasts, f_contrasts, participants, exclude, where, na
        As for the analysis.
    mask, missing, min_coverage, smoothing_fwhm, allow_rank_deficient, n_jobs
        As for the analysis.
    overwrite : bool
        Makes no difference here.
    calibrate : bool
        Read an image or block, and multiply one, for an estimate of the time.

    Returns
    -------
    Plan

    Raises
    ------
    DaskGLMError
        As the analysis, from headers and tables.
    """
    check_any(contrasts, f_contrasts, "group", formula)
    options = Options(mask, missing, min_coverage, smoothing_fwhm, n_jobs=n_jobs)
    choose, participants = selection(participants, exclude, where, na, formula)
    source = open_source(images, options, choose)
    design = design_of_formula(formula, participants, source.loaded.images)
    definitions, kinds = contrasts_of_design(contrasts, f_contrasts, design)
    lazy = fit_glm(source.loaded.images, design, min_coverage=min_coverage, allow_rank_deficient=allow_rank_deficient)
    plan = plan_fit(source, lazy, compute_contrasts(lazy, definitions, kinds), machine(n_jobs))
    maps = compute_contrasts(_as_if_computed(lazy, source.data.chunks[1]), definitions, kinds)
    n_bytes, n_tasks, notes = source.passes(count_tasks(lazy) + count_tasks(maps))
    plan = replace(plan, bytes_read=n_bytes, n_tasks=n_tasks, notes=notes)
    return _timed(plan, source, design_array(design)) if calibrate else plan


def plan_fit(source: Source, fit: xr.Dataset, maps: xr.Dataset, where: Machine) -> Plan:
    """The plan of a fit and its contrasts that are built: quick, for nothing is counted.

    Parameters
    ----------
    source : Source
        Images.
    fit : xarray.Dataset
        From :func:`~daskglm.models.functional.fit_glm`, lazy.
    maps : xarray.Dataset
        From :func:`~daskglm.models.functional.compute_contrasts`, lazy.
    where : Machine
        Workers.

    Returns
    -------
    Plan
        Without tasks.
    """
    space, n_contrasts, components = space_of(fit), maps.sizes["contrast"], maps.sizes["component"]
    shape = _Shape(source, fit.sizes["regressor"], n_contrasts, components, int(np.prod(space.shape)))
    chunk, n_maps = max(source.data.chunks[1]), n_contrasts * (len(OUTPUT_TYPES) - 1 + components)
    return Plan(
        command="group",
        what=f"{fit.attrs['n_samples']:,} images of {'' if source.masked else 'at most '}{space.voxels.size:,} voxels, "
        f"{count_text(shape.n_regressors, 'regressor')}, {count_text(n_contrasts, 'contrast')}",
        machine=where,
        needs=_needs(shape, where, chunk, True),
        complete=_needs(shape, where, chunk, False),
        bytes_read=source.n_bytes,
        bytes_written=(n_maps + 1) * map_bytes(shape.n_grid, space.voxels.size)
        + text_bytes(fit.attrs["n_samples"], shape.n_regressors),
        scratch=_scratch(source.data, shape.n_regressors),
        n_tasks=0,
        chunk=chunk,
        at_chunk=None if source.loaded.sources else lambda voxels: _needs(shape, where, voxels, False),
    )


@dataclass(frozen=True)
class _Shape:
    """What the memory of a group analysis depends on."""

    source: Source
    n_regressors: int
    n_contrasts: int
    components: int
    n_grid: int


def _needs(shape: _Shape, where: Machine, chunk: int, gaps: bool) -> Needs:
    """Memory, with blocks of some voxels; `gaps`: of voxels that lack images, all of them."""
    data, p = shape.source.data, shape.n_regressors
    n_voxels, rows = data.shape[1], max(data.chunks[0])
    packed = p * (p + 1) // 2 if gaps else 0
    moments = 8 * (p + 3 + packed + (1 if gaps else 0))
    if max(data.chunks[0]) <= p:
        moments += 8 * (p + 1)  # a block that the design explains whole is summed about its fit, which is kept
    block = data.dtype.itemsize * rows * chunk
    # One block and its sums; or two sums that are added, one of them brought to the reference of the other.
    task = max(block + shape.source.reading(chunk) + moments * chunk, (2 * moments + 24 * p) * chunk)
    task = max(task, 8 * (4 * p + 12 + packed + (p * p if gaps else 0)) * chunk)
    n_blocks = len(data.chunks[0])
    # A tree of sums of two is added depth first: one sum a level waits for another.
    waiting = (
        min(n_blocks, where.threads + int(np.ceil(np.log2(n_blocks))) + 1) * moments * chunk if n_blocks > 1 else 0
    )
    fit = 8 * (2 * p + 6 + packed) * n_voxels
    maps = 2 * 8 * shape.n_contrasts * (shape.components + 4) * n_voxels + 20 * 8 * chunk
    images = 8 * (shape.n_contrasts * (shape.components + 4) + 4) * shape.n_grid
    # Contrasts are of a fit that is here: on its way to the workers there are copies of it at both ends of two lines.
    sent = 4 * 8 * (p + 5 + packed) * n_voxels if where.cluster else 0
    return Needs(waiting + fit, task, fit + sent + maps + images)


def _scratch(data: da.Array, n_regressors: int) -> int:
    """Bytes of the moments that are kept on disk while a long pass goes on."""
    units = units_of(data, n_regressors)
    return 0 if units is None else units.shape[0] * 8 * (n_regressors + 4) * data.shape[1] + 4000 * len(units.names)


def _as_if_computed(lazy: xr.Dataset, chunks: tuple[int, ...]) -> xr.Dataset:
    """A fit whose solution stands for one in memory, for counting what is made of it."""
    solution = np.empty(len(chunks), dtype=object)
    solution[:] = [SimpleNamespace(count=np.broadcast_to(0, size)) for size in chunks]
    freedom = np.broadcast_to(0.0, sum(chunks))
    return lazy.assign(solution=("block", solution), degrees_of_freedom=("voxel", freedom))


def _timed(plan: Plan, source: Source, matrix: Any) -> Plan:
    """The plan with its time: from reading one image or block, and summing values like its own."""
    data, rows = source.data, max(source.data.chunks[0])
    basis = orthonormal_basis(matrix)
    values = np.random.default_rng(0).standard_normal((rows, _CALIBRATED_VOXELS), dtype=np.float32)
    regressors = (matrix @ basis.to_basis)[:rows]
    block_moments(values[:, :64], regressors, basis.constant)  # the first call of a kernel loads things
    summing = seconds_of(lambda: block_moments(values, regressors, basis.constant)) / values.size
    reading = read_seconds(source) * (1 if source.masked else 2)
    work = (reading + summing) * data.size / min(plan.machine.workers * plan.machine.threads, data.npartitions)
    return replace(plan, seconds=work + plan.bytes_written / _WRITE_SPEED)
