"""What a first-level analysis will take."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from daskglm.design.matrix import design_array
from daskglm.errors import DaskGLMError
from daskglm.graph.convert import coverage_tree
from daskglm.graph.images import Preparation
from daskglm.graph.planning import Machine, machine
from daskglm.graph.runs import _SLAB_VALUES, _SLAB_VOLUMES
from daskglm.io.bids import Run, find_runs
from daskglm.io.formats import NiftiHeader
from daskglm.io.nifti import read_header, stream_volumes
from daskglm.io.store import SAMPLES_PER_CHUNK
from daskglm.kernels.basis import orthonormal_basis, with_constant
from daskglm.kernels.lagged import Lags, plan_lags, sum_lagged
from daskglm.models.cohort_checks import check_confounds, check_extras, treatment_of
from daskglm.models.cohort_runs import design_of_run, with_contrasts
from daskglm.models.cohort_units import Plan as Treatment
from daskglm.models.contrasts import Contrasts, check_any
from daskglm.models.functional import OUTPUT_TYPES
from daskglm.models.options import Options, header_image, preparation
from daskglm.models.plan import Needs, Plan, count_text, files_bytes, image_memory, map_bytes, seconds_of, text_bytes
from daskglm.models.plan_convert import conversion_needs
from daskglm.models.selection import excluded_ids

# Runs whose designs are made for the plan: the largest.
_LOOKED_AT = 4
_WRITE_SPEED = 60e6
_RUN_MAPS = 3
_CALIBRATED_VOLUMES = 12


@dataclass(frozen=True)
class _Largest:
    """A run among the largest, as far as memory goes."""

    run: Run
    header: NiftiHeader
    how: Preparation
    n_volumes: int
    rank: int
    lags: Lags

    @property
    def n_voxels(self) -> int:
        """Voxels of its mask; of the grid where it has none."""
        return int(self.how.space.voxels.size)


def plan_first_level(
    dataset: str,
    output: str | None,
    contrasts: Contrasts,
    *,
    f_contrasts: Contrasts | None = None,
    task: str | None = None,
    space: str | None = None,
    subjects: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    group_stores: bool | None = None,
    filters: Any = None,
    derivatives: str = "derivatives",
    confounds: Sequence[str] = (),
    smoothing_fwhm: Any = None,
    noise_model: str = "ar1",
    bins: int | str | None = "auto",
    signal_scaling: Any = 0,
    standardize: bool = False,
    t_r: float | None = None,
    slice_time_ref: float | None = None,
    precision_weighted: bool = False,
    bad_events: str = "stop",
    transform: Sequence[Mapping[str, Any]] = (),
    n_jobs: int | None = None,
    calibrate: bool = False,
    **design: Any,
) -> Plan:
    """What :func:`~daskglm.models.cohort.first_level_analysis` will take; nothing is written.

    Parameters
    ----------
    dataset, output, contrasts, f_contrasts, task, space, subjects, exclude, group_stores, filters, derivatives
        As for the analysis.
    confounds, smoothing_fwhm
        As for the analysis.
    noise_model, bins, signal_scaling, standardize, t_r, slice_time_ref, precision_weighted, bad_events, transform
        As for the analysis.
    n_jobs
        As for the analysis.
    calibrate : bool
        Read and sum a few volumes for an estimate of the time.
    **design
        As for the analysis.

    Returns
    -------
    Plan
        As if nothing were done yet.

    Raises
    ------
    DaskGLMError
        As the analysis, before any run is read.
    """
    check_any(contrasts, f_contrasts, "first-level")
    treatment = treatment_of(
        "", "", design, confounds=confounds, smoothing_fwhm=smoothing_fwhm, noise_model=noise_model,
        bins=bins, signal_scaling=signal_scaling, standardize=standardize, bad_events=bad_events, transform=transform,
        precision_weighted=precision_weighted, t_r=t_r, slice_time_ref=slice_time_ref,
    )  # fmt: skip
    runs = find_runs(
        os.path.abspath(dataset),
        task,
        space,
        subjects=subjects,
        exclude_subjects=excluded_ids(exclude),
        filters=filters,
        derivatives=derivatives,
    )
    stores = subjects is None if group_stores is None else group_stores
    check_extras(runs, treatment)
    lacking = check_confounds(runs, treatment.strategies)
    treatment = with_contrasts(runs, treatment, contrasts, f_contrasts)
    plan, largest = plan_runs(runs, treatment, stores, machine(n_jobs), _LOOKED_AT)
    plan = replace(plan, notes=(*plan.notes, *lacking))
    return _timed(plan, runs, largest[0]) if calibrate and largest else plan


def plan_runs(
    runs: Sequence[Run], treatment: Treatment, stores: bool, where: Machine, looked_at: int = 1
) -> tuple[Plan, list["_Largest"]]:
    """The plan of runs that were found.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    treatment : cohort_units.Plan
        What is done to each.
    stores : bool
        Whether effects are stored for the group.
    where : Machine
        Workers.
    looked_at : int
        Of the longest files, how many are looked at.

    Returns
    -------
    plan : Plan
    largest : list
        The runs that it looked at; empty where none can be read.
    """
    largest = list(islice(_largest(runs, treatment), looked_at))
    people = {run.subject for run in runs}
    n_stores = sum(kind == "t" for kind in treatment.kinds.values()) if stores else 0
    needs, written = Needs(0, 0, 0), 0
    if largest:
        n_runs = max(sum(run.subject == person for run in runs) for person in people)
        task = max(_run_memory(item, treatment, n_runs) for item in largest)
        first = max(largest, key=lambda item: item.n_voxels)
        grid = int(np.prod(first.header.shape[:3]))
        client = held = 0
        if n_stores:
            whole = preparation(header_image(first.run.bold), Options(mask_img=False))
            # Maps are float64; a store's pass for its mask comes first.
            header = replace(
                first.header, on_disk=np.dtype("f8"), in_memory=np.dtype("f8"), shape=first.header.shape[:3]
            )
            store = conversion_needs(header, whole, len(people), True, where.workers * where.threads, header.in_memory)
            client, task, held = store.client, max(task, store.per_task), store.held
        needs = Needs(held, task, client + 4 * 8 * grid)
        per_map = map_bytes(grid, first.n_voxels)
        n_maps = len(runs) * (_RUN_MAPS * len(treatment.contrasts) + 1 + _joint_volumes(treatment))
        n_maps += len(people) * (len(OUTPUT_TYPES) * len(treatment.contrasts) + 1)
        n_rows = -(-len(people) // SAMPLES_PER_CHUNK) * SAMPLES_PER_CHUNK
        written = n_maps * per_map + len(runs) * max(text_bytes(item.n_volumes, item.rank) for item in largest)
        written += n_stores * (n_rows * (8 * grid + 2000) + 16 * grid)
    n_chunks = -(-len(people) // SAMPLES_PER_CHUNK)
    per_store = n_chunks + sum(coverage_tree(len(people)))
    notes = ("no brain mask is in the derivatives: every voxel of the grid may be in it",) if any(
        item.run.mask is None for item in largest
    ) else ()  # fmt: skip
    read = files_bytes([run.bold for run in runs]) + files_bytes([run.bold for run in runs if run.mask is None])
    return Plan(
        command="first-level",
        what=f"{count_text(len(people), 'subject')}, {count_text(len(runs), 'run')} of up to "
        f"{max((item.n_volumes for item in largest), default=0)} volumes and "
        f"{max((item.n_voxels for item in largest), default=0):,} voxels, "
        f"{count_text(len(treatment.contrasts), 'contrast')}",
        machine=where, needs=needs, complete=needs, bytes_read=read, bytes_written=written, scratch=0,
        n_tasks=len(runs) + len(people) + per_store * n_stores, notes=notes,
    ), largest  # fmt: skip


def _largest(runs: Sequence[Run], treatment: Treatment) -> Any:
    """Runs with their designs, the largest first; those that will fail are passed over."""
    # By the length of their files: those are known soonest.
    for run in sorted(runs, key=lambda item: -files_bytes([item.bold]) if os.path.isfile(item.bold) else 0):
        try:
            header = read_header(run.bold)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told when the run is fitted
                design = design_of_run(run, treatment)
            mask = False if run.mask is None else run.mask
            how = preparation(header_image(run.bold), Options(mask, smoothing_fwhm=treatment.smoothing_fwhm))
        except DaskGLMError:
            continue
        matrix = design_array(design.design)
        basis = orthonormal_basis(matrix)
        lags = plan_lags(with_constant(matrix @ basis.to_basis)[0], treatment.noise.order, design.volumes)
        yield _Largest(run, header, how, len(design.volumes), basis.rank, lags)


def _joint_volumes(treatment: Treatment) -> int:
    """Volumes of a run that the joint tests of F contrasts need: m effects and the triangle of their covariance."""
    rows = (str(treatment.contrasts[name]).count(",") + 1 for name, kind in treatment.kinds.items() if kind == "F")
    return sum(m * (m + 3) // 2 for m in rows)


def _run_memory(item: _Largest, treatment: Treatment, n_runs: int) -> int:
    """Most memory of one run's task, or of the task that combines the runs of a subject."""
    n_voxels, grid, order = item.n_voxels, int(np.prod(item.header.shape[:3])), treatment.noise.order
    volume = image_memory(item.header, item.how)
    size = min(int(np.clip(_SLAB_VALUES // max(n_voxels, 1), *_SLAB_VOLUMES)), item.n_volumes)
    wide = max(item.header.in_memory.itemsize, 8 if treatment.by_volume else 0)
    slab = size * n_voxels * wide + volume
    rows = len(item.lags.regressors) + len(item.lags.pairs) + 4 * order + 4
    sums = 8 * rows * n_voxels + item.lags.regressors.nbytes * 2
    # Without a constant in the design, sums are brought to zero and projected, chunk by chunk: few voxels.
    solution = 8 * (item.rank + 8 + order) * n_voxels * 2
    components = max([2, *(text.count(",") + 1 for text in map(str, treatment.contrasts.values()))])
    maps = 2 * 8 * (components + 4) * n_voxels
    images = 8 * grid * (_RUN_MAPS * len(treatment.contrasts) + 2 + _joint_volumes(treatment))
    epi_mask = 0 if item.run.mask is not None else 12 * 8 * grid + volume
    fitting = max(epi_mask, slab + sums, sums + solution, solution + maps + images)
    combined = 8 * grid * (len(OUTPUT_TYPES) * len(treatment.contrasts) + 6) + 8 * n_voxels * (4 * n_runs + 20) * 2
    return max(fitting, combined)


def _timed(plan: Plan, runs: Sequence[Run], item: _Largest) -> Plan:
    """The plan with its time: from reading a few volumes of a large run, and summing them."""
    volumes: list[Any] = []
    n_read = min(_CALIBRATED_VOLUMES, item.n_volumes)
    voxels = item.how.space.voxels

    def read() -> None:
        volumes.extend(values[voxels] for values in islice(stream_volumes(item.run.bold), n_read))

    try:
        reading = seconds_of(read) / n_read
    except DaskGLMError:
        return plan
    slab = np.stack(volumes)
    summing = seconds_of(lambda: sum_lagged([slab], item.lags)) / n_read
    per_run = item.n_volumes * (reading + summing)
    together = min(plan.machine.workers * plan.machine.threads, len(runs))
    return replace(plan, seconds=len(runs) * per_run / together + plan.bytes_written / _WRITE_SPEED / together)
