"""First-level analysis of a BIDS dataset: every run of every subject, fixed effects, and a store for the group."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import pandas as pd

from daskglm.errors import OutputError, listing, option
from daskglm.graph.cohort import run_cohort
from daskglm.graph.compute import cluster_description
from daskglm.graph.planning import machine
from daskglm.io.bids import Run, find_runs
from daskglm.io.files import is_url
from daskglm.io.journal import running
from daskglm.io.nifti import read_values
from daskglm.io.provenance import run_record, software, stage
from daskglm.io.receipts import read_receipt, remove_unit
from daskglm.models.cohort_checks import check_confounds, check_extras, treatment_of, warn_of_durations
from daskglm.models.cohort_output import (
    FAILURES,
    Choice,
    count_done,
    describe,
    list_failures,
    prepare_cohort,
    write_failures,
)
from daskglm.models.cohort_runs import combine_files, fit_run_files, run_inputs, with_contrasts
from daskglm.models.cohort_stores import group_input as group_input
from daskglm.models.cohort_stores import group_stores as group_stores
from daskglm.models.cohort_stores import picture_receipt, read_participants, store_effects
from daskglm.models.cohort_units import Plan, Receipt, map_path
from daskglm.models.contrasts import Contrasts, check_any
from daskglm.models.doubts import warn_of_equal_files
from daskglm.models.plan import check_resources, folder_bytes
from daskglm.models.plan_first_level import plan_runs
from daskglm.models.run_times import warn_of_drifts, warn_of_times
from daskglm.models.selection import excluded_ids

SUBJECTS_DRAWN = 8


@dataclass
class CohortResult:
    """What a first-level analysis did.

    Attributes
    ----------
    output : str
        Result folder.
    subjects : list of Receipt
        Every subject, with its runs.
    failures : DataFrame
        Runs and subjects that failed: columns participant_id, run, error_type, error.
    labels : dict of str to str
        Label of each contrast in the names of files.
    stores : dict of str to str
        Store of the effects of all subjects, by contrast.
    notes : list of str
        Why there is no store, and which runs are left out of which contrast.
    peaks : DataFrame
        Extremes of z of each subject and contrast.
    seconds : float
        Time it took.
    stamp : dict of str to str
        What the receipts of this analysis say of it.
    """

    output: str
    subjects: list[Receipt]
    failures: pd.DataFrame
    labels: dict[str, str]
    stores: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    peaks: pd.DataFrame = field(default_factory=pd.DataFrame)
    seconds: float = 0.0
    stamp: dict[str, str] = field(default_factory=dict)

    def drawn(self, contrast: str) -> list[Receipt]:
        """Subjects that have a contrast, as many as a picture shows.

        Parameters
        ----------
        contrast : str
            Its name.

        Returns
        -------
        list of Receipt
        """
        return [item for item in self.subjects if not item.error and contrast in item.contrasts][:SUBJECTS_DRAWN]

    def picture(self, contrast: str) -> tuple[str, str]:
        """Receipt of the picture of a contrast, and its key.

        Parameters
        ----------
        contrast : str
            Its name.

        Returns
        -------
        receipt : str
            Path; the picture has this name, but ends in .png.
        key : str
            Tells the maps that are drawn from others.
        """
        key = joblib.hash([item.key for item in self.drawn(contrast)])
        return picture_receipt(self.output, self.labels[contrast]), key


def first_level_analysis(
    dataset: str,
    output: str,
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
    progress: bool = False,
    **design: Any,
) -> CohortResult:
    """Fit every run of a BIDS dataset, combine those of each subject, and store the effects for the group.

    All runs of all subjects are one graph, on the active cluster or on threads. A run that fails does not stop
    the others. The same command again does only what is missing or whose inputs or parameters have changed.

    Results in the folder that no longer hold are removed: of runs that fail or are gone, and of the same task, space
    and filters with other contrasts or parameters. One analysis writes to a folder at a time; several may that each
    name their `subjects`.

    Parameters
    ----------
    dataset : str
        BIDS dataset with preprocessed runs in `derivatives`.
    output : str
        Result folder: maps by subject, ``failures.tsv``, and in ``group/`` a store a contrast.
    contrasts, f_contrasts : mapping of str to contrast, or sequence of str
        Name to expression of regressors, for t and F; or texts "name=expression", as on the command line.
    task, space, subjects, filters, derivatives
        As for :func:`~daskglm.io.bids.find_runs`.
    exclude : sequence of str
        Subjects to leave out.
    group_stores : bool, optional
        Store the effects of these subjects for the group; by default unless `subjects` are named.
    confounds : sequence of str
        Strategies and columns, as in ``("motion", "scrub=5", "framewise_displacement", "a_comp_cor_0?")``, see
        :func:`~daskglm.io.confound_strategies.parse_strategies`; none by default.
    smoothing_fwhm, noise_model, bins, signal_scaling, standardize
        As in :class:`~daskglm.models.first_level.FirstLevelModel`.
    t_r, slice_time_ref : float, optional
        In place of what the dataset says: as for :func:`~daskglm.first_level_from_bids`.
    precision_weighted : bool
        Weigh runs by the inverse of their variance.
    bad_events : {"stop", "drop"}
        What becomes of events that lack their onset, duration, trial_type or modulation: a run that has such fails, or
        they are left out, with a note.
    transform : sequence of mapping
        Instructions of BIDS Stats Models (``pybids-transforms-v1``) for the events, as in ``[{"Name": "Scale", "Input":
        ["rt"]}, {"Name": "Select", "Input": ["trial_type.go", "rt"]}]``: each variable that they leave is a condition.
    n_jobs : int, optional
        Threads, where no cluster is active.
    progress : bool
        Show a progress bar on standard error.
    **design
        ``hrf_model``, ``drift_model``, ``high_pass`` and the other parameters of
        :func:`~daskglm.design.first_level.make_first_level_design_matrix`.

    Returns
    -------
    CohortResult

    Raises
    ------
    ImageError, ParameterError, ContrastError, DesignError, OutputError
        Before any run is read, where nothing can come of it: no runs, wrong parameters, a contrast that no run
        has, an unreadable table of participants, another analysis that writes to the folder.
    """
    started = time.time()
    if is_url(os.fspath(output)):
        raise OutputError(f"first-level writes to a folder on disk, but the output is {output}; give a folder")
    check_any(contrasts, f_contrasts, "first-level")
    plan = treatment_of(
        os.path.abspath(output), software()["daskglm"], design, confounds=confounds, smoothing_fwhm=smoothing_fwhm,
        noise_model=noise_model, bins=bins, signal_scaling=signal_scaling, standardize=standardize,
        bad_events=bad_events, transform=transform, precision_weighted=precision_weighted, t_r=t_r,
        slice_time_ref=slice_time_ref,
    )  # fmt: skip
    if filters is not None:
        filters = list(filters.items() if isinstance(filters, Mapping) else filters)
    # Workers of a cluster may have another working directory.
    root = os.path.abspath(dataset)
    timings: dict[str, float] = {}
    with stage("find runs", timings):
        runs = find_runs(
            root,
            task,
            space,
            subjects=subjects,
            exclude_subjects=excluded_ids(exclude),
            filters=filters,
            derivatives=derivatives,
        )
    everyone, stores = subjects is None and not exclude, subjects is None if group_stores is None else group_stores
    choice = Choice.of(runs, root, derivatives, filters, everyone, stores)
    plan = replace(plan, selection=choice.hash())
    plan.hash()  # what cannot be compared is refused first
    # A record for all, one for each choice of subjects, and one of the stores that a choice was asked for.
    record = "run" if everyone else "run-stores" if group_stores else f"run-{joblib.hash(choice.subjects)}"
    result = _analyse(runs, plan, (contrasts, f_contrasts), choice, record, timings, n_jobs, progress)
    return replace(result, output=os.fspath(output), seconds=time.time() - started)


def _analyse(
    runs: Sequence[Run], plan: Plan, contrasts: tuple[Contrasts, Contrasts | None], choice: Choice, record: str,
    timings: dict[str, float], n_jobs: int | None, progress: bool,
) -> CohortResult:  # fmt: skip
    """Fit runs, combine those of each subject and store the effects."""
    with stage("check designs", timings):
        participants, notes = read_participants(choice.dataset) if choice.stores else (None, [])
        check_extras(runs, plan)
        lacking = check_confounds(runs, plan.strategies)
        plan = with_contrasts(runs, plan, *contrasts)
        plan = replace(plan, analysis=plan.hash())
        needed, _ = plan_runs(runs, plan, choice.stores, machine(n_jobs))
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.subject, []).append(run)
    check_resources(needed, plan.output, kept=sum(folder_bytes(os.path.join(plan.output, name)) for name in grouped))
    fit, combine = partial(fit_run_files, plan=plan), partial(combine_files, plan=plan)
    prepare = partial(prepare_cohort, plan, choice, grouped)
    with running(plan.output, "first-level", name=record, shared=not choice.stores, prepare=prepare) as journal:
        journal.begin(len(runs) + len(grouped), partial(count_done, plan, grouped))
        warn_of_times(runs, plan.t_r, plan.slice_time_ref, stacklevel=4)
        warn_of_drifts(plan.strategies, dict(plan.design).get("drift_model", "cosine"), stacklevel=4)
        warn_of_durations(runs, plan)
        with stage("fit runs", timings):
            receipts = run_cohort(grouped, fit, combine, n_jobs, "Fitting runs" if progress else None)
        result = CohortResult(plan.output, receipts, list_failures(receipts), dict(plan.labels), stamp=plan.stamp)
        write_failures(plan.output, result.failures, choice.subjects)
        fitted = {item.name for subject in receipts for item in subject.runs if not item.error}
        warn_of_equal_files([run.bold for run in runs if run.name in fitted])
        # Workers of a cluster show their warnings elsewhere.
        for text in dict.fromkeys(text for item in receipts for run in item.runs for text in run.heard):
            if text not in journal.warnings:
                warnings.warn(text, UserWarning, stacklevel=4)
        result.notes += sorted({note for item in receipts for run in item.runs for note in run.warnings})
        result.notes += [*lacking, *_without_mask(runs)]
        if choice.stores:
            with stage("store effects", timings):
                result.stores, more = store_effects(receipts, plan, participants)
            result.notes += notes + more
        else:
            result.notes.append(
                "no group store: it is made when all subjects are asked for, or with "
                + option("group_stores=True", "--group-stores, or by the group level of daskglm-bids")
            )
        for contrast in plan.contrasts:
            receipt, key = result.picture(contrast)
            if choice.stores and read_receipt(receipt, key) is None:
                remove_unit(receipt)  # of other maps than those there are now
        result.peaks = _peaks(receipts, plan)
        inputs = sorted({path for run in runs for path in run_inputs(run, plan)})
        made = run_record(journal.record.command, timings, cluster_description(n_jobs), inputs)
        describe(plan, choice, {**made, "warnings": journal.warnings})
        if not result.failures.empty:
            journal.failures = f"{len(result.failures)} runs or subjects failed, see {FAILURES}"
    return result


def _without_mask(runs: Sequence[Run]) -> list[str]:
    """A note of the runs that lack a brain mask, where others have one."""
    lacking = [run.name for run in runs if run.mask is None and not run.fault]
    if not lacking or all(run.mask is None for run in runs):
        return []
    return [f"no brain mask is in the derivatives for {listing(lacking)}: there it was computed from the images"]


def _peaks(receipts: Sequence[Receipt], plan: Plan) -> pd.DataFrame:
    """Extremes of z of each subject and contrast, and the number of voxels beyond 3.1."""
    rows = []
    for item in receipts:
        for contrast in item.contrasts if not item.error else []:
            z = read_values(map_path(item, plan.labels[contrast], "z"))[1][0]
            z = z[np.isfinite(z)]
            n_runs = sum(contrast in run.contrasts for run in item.runs if not run.error)
            extremes = (z.min(), z.max()) if z.size else (np.nan, np.nan)
            rows.append((item.subject, contrast, n_runs, *extremes, int((np.abs(z) > 3.1).sum())))
    names = ["participant_id", "contrast", "runs", "min_z", "max_z", "voxels_beyond_3.1"]
    return pd.DataFrame(rows, columns=names)
