"""First-level analysis of a BIDS dataset: every run of every subject, fixed effects, and a store for the group."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import joblib
import numpy as np
import pandas as pd

from daskglm.design.contrasts import contrast_matrix
from daskglm.errors import ContrastError, DaskGLMError, OutputError, ParameterError, SpaceError, listing
from daskglm.graph.cohort import run_cohort
from daskglm.io.bids import Run, find_runs
from daskglm.io.confounds import parse_strategies
from daskglm.io.nifti import read_header, read_values
from daskglm.io.provenance import software
from daskglm.io.results import read_receipt, write_unit
from daskglm.io.store import is_store
from daskglm.io.tables import as_table
from daskglm.models.cohort_runs import Plan, Receipt, combine_files, design_of_run, fit_run_files
from daskglm.models.convert import convert
from daskglm.models.first_level import DESIGN_PARAMETERS
from daskglm.models.group import all_contrasts
from daskglm.models.parameters import parse_noise_model, parse_scaling
from daskglm.schema.names import bids_label, bids_labels

FAILURES = "failures.tsv"
# Runs whose designs are looked at to find a misspelt contrast before the work.
_RUNS_LOOKED_AT = 10


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
    """

    output: str
    subjects: list[Receipt]
    failures: pd.DataFrame
    labels: dict[str, str]
    stores: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    peaks: pd.DataFrame = field(default_factory=pd.DataFrame)
    seconds: float = 0.0


def first_level_analysis(
    dataset: str,
    output: str,
    contrasts: Mapping[str, str],
    *,
    f_contrasts: Mapping[str, str] | None = None,
    task: str | None = None,
    space: str | None = None,
    subjects: Sequence[str] | None = None,
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
    n_jobs: int | None = None,
    progress: bool = False,
    **design: Any,
) -> CohortResult:
    """Fit every run of a BIDS dataset, combine those of each subject, and store the effects for the group.

    All runs of all subjects are one graph, on the active cluster or on threads. A run that fails does not stop
    the others. The same command again does only what is missing or whose inputs or parameters have changed.

    Parameters
    ----------
    dataset : str
        BIDS dataset with preprocessed runs in `derivatives`.
    output : str
        Result folder: maps by subject, ``failures.tsv``, and in ``group/`` a store a contrast.
    contrasts, f_contrasts : mapping of str to str
        Name to expression of regressors, for t and F.
    task, space, subjects, filters, derivatives
        As for :func:`~daskglm.io.bids.find_runs`.
    confounds : sequence of str
        Strategies, as in ``("motion", "scrub=5")``, see :func:`~daskglm.io.confounds.parse_strategies`; none by
        default.
    smoothing_fwhm, noise_model, bins, signal_scaling, standardize
        As in :class:`~daskglm.models.first_level.FirstLevelModel`.
    t_r, slice_time_ref : float, optional
        In place of what the dataset says.
    precision_weighted : bool
        Weigh runs by the inverse of their variance.
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
    ImageError, ParameterError, ContrastError, OutputError
        Before any run is read, where nothing can come of it: no runs, wrong parameters, a contrast that none of
        the first runs has.
    """
    started = time.time()
    unknown = sorted(set(design) - set(DESIGN_PARAMETERS))
    if unknown:
        raise ParameterError(f"parameters of the design are {listing(DESIGN_PARAMETERS)}, but got {listing(unknown)}")
    definitions, kinds = all_contrasts(contrasts, f_contrasts or {})
    scaling, by_volume = parse_scaling(signal_scaling, standardize)
    runs = find_runs(dataset, task, space, subjects=subjects, filters=filters, derivatives=derivatives)
    plan = Plan(
        output=output,
        contrasts=definitions,
        labels=bids_labels(definitions),
        kinds=kinds,
        strategies=parse_strategies(confounds),
        design=design,
        noise=parse_noise_model(noise_model, bins, 0),
        scaling=scaling,
        by_volume=by_volume,
        smoothing_fwhm=smoothing_fwhm,
        precision_weighted=precision_weighted,
        t_r=t_r,
        slice_time_ref=slice_time_ref,
        version=software()["daskglm"],
    )
    _check_contrasts(runs, plan)
    _prepare(output, dataset, plan)
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.subject, []).append(run)
    fit, combine = partial(fit_run_files, plan=plan), partial(combine_files, plan=plan)
    receipts = run_cohort(grouped, fit, combine, n_jobs, "Fitting runs" if progress else None)
    result = CohortResult(output, receipts, _failures(receipts), dict(plan.labels))
    _write_failures(output, result.failures)
    result.notes += sorted({note for item in receipts for run in item.runs for note in run.warnings})
    if subjects is None:
        _store_effects(result, plan, dataset)
    else:
        result.notes.append("no group store: it is made when all subjects are asked for")
    result.peaks = _peaks(receipts, plan)
    result.seconds = time.time() - started
    return result


def group_input(images: Any, contrasts: Mapping[str, str], others: bool = False) -> tuple[Any, dict[str, str]]:
    """What a group analysis reads, where it is given the result folder of a first-level analysis.

    Parameters
    ----------
    images : str or list of str
        Images, a store, or such a folder.
    contrasts : mapping of str to str
        Contrasts that were asked for: of the group, and for a folder the label or name of the first level's.
    others : bool
        Whether contrasts of the group are asked for besides.

    Returns
    -------
    images : object
        The store of that contrast; anything else as it was given.
    contrasts : dict of str to str
        Contrasts of the group; the intercept where no other is asked for.

    Raises
    ------
    ContrastError
        Where a folder has several contrasts and none of them is named.
    """
    stores = group_stores(images) if isinstance(images, str) else {}
    if not stores:
        return images, dict(contrasts)
    named = [name for name, text in contrasts.items() if text in stores or bids_label(text) in stores]
    if len(named) > 1 or (not named and len(stores) > 1):
        raise ContrastError(
            f"{images} has the first-level contrasts {listing(stores)}; name one of them, as in --contrast "
            f"{next(iter(stores))}"
        )
    label = next(iter(stores)) if not named else contrasts[named[0]]
    rest = {name: text for name, text in contrasts.items() if name not in named}
    store = stores.get(label) or stores[bids_label(label)]
    return store, rest if rest or others else {"intercept": "intercept"}


def group_stores(folder: str) -> dict[str, str]:
    """Stores of effects in the result folder of a first-level analysis.

    Parameters
    ----------
    folder : str
        Result folder.

    Returns
    -------
    dict of str to str
        Label of the contrast to the path of its store; empty where the folder is none.

    Raises
    ------
    ParameterError
        Where two stores have the same contrast, of several tasks or spaces.
    """
    stores: dict[str, str] = {}
    group = os.path.join(folder, "group")
    names = sorted(os.listdir(group)) if os.path.isdir(group) else []
    for name in names:
        if not name.endswith(".zarr") or "contrast-" not in name:
            continue
        label = name.removesuffix(".zarr").rpartition("contrast-")[2]
        if label in stores:
            raise ParameterError(
                f"{folder} has two stores of contrast {label}; give the one you mean: {stores[label]} or "
                f"{os.path.join(group, name)}"
            )
        stores[label] = os.path.join(group, name)
    return stores


def _check_contrasts(runs: Sequence[Run], plan: Plan) -> None:
    """Raise where none of the first runs that have a design has a contrast."""
    columns: list[list[str]] = []
    for run in runs[:_RUNS_LOOKED_AT]:
        try:
            columns.append([str(name) for name in design_of_run(run, plan).design.columns])
        except DaskGLMError:
            continue  # it will be in the list of failures
    for definition in plan.contrasts.values():
        errors = []
        for names in columns:
            try:
                contrast_matrix(definition, names, {})
                break
            except ContrastError as error:
                errors.append(error)
        else:
            if errors:
                raise errors[0]


def _prepare(output: str, dataset: str, plan: Plan) -> None:
    """Create the result folder and say in it how it was made."""
    description = {
        "Name": "daskglm first-level analysis",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "daskglm", "Version": plan.version}],
        "SourceDatasets": [{"URL": os.path.abspath(dataset)}],
    }
    provenance = {
        "software": software(),
        "contrasts": dict(plan.contrasts),
        "confounds": dict(plan.strategies),
        "design": {name: repr(value) if callable(value) else value for name, value in plan.design.items()},
        "noise": vars(plan.noise),
        "scaling": vars(plan.scaling),
        "smoothing_fwhm": plan.smoothing_fwhm,
    }
    try:
        os.makedirs(output, exist_ok=True)
        for name, document in (("dataset_description.json", description), ("first_level.json", provenance)):
            with open(os.path.join(output, name), "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2, default=str)
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror or error}; choose another output") from error


def _failures(receipts: Sequence[Receipt]) -> pd.DataFrame:
    """Runs that failed, and subjects that failed though a run of theirs did not."""
    rows = []
    for subject in receipts:
        failed = [run for run in subject.runs if run.error]
        rows += [(subject.subject, run.name, run.error_type, run.error) for run in failed]
        if subject.error and len(failed) < len(subject.runs):
            rows.append((subject.subject, "", subject.error_type, subject.error))
    return pd.DataFrame(rows, columns=["participant_id", "run", "error_type", "error"])


def _write_failures(output: str, failures: pd.DataFrame) -> None:
    """Write the list of failures, or remove that of an earlier run."""
    path = os.path.join(output, FAILURES)
    if failures.empty:
        if os.path.exists(path):
            os.remove(path)
    else:
        failures.to_csv(path, sep="\t", index=False)


def _store_effects(result: CohortResult, plan: Plan, dataset: str) -> None:
    """Store the effects of all subjects, a store a contrast, where they share a grid and anything is new."""
    for contrast, label in plan.labels.items():
        if contrast in plan.kinds:
            continue
        done = [item for item in result.subjects if not item.error and contrast in item.contrasts]
        if not done:
            continue
        paths = {item.subject: map_path(item, label, "effect") for item in done}
        entities = [part for part in done[0].name.split("_") if part.partition("-")[0] in ("task", "space")]
        store = os.path.join(result.output, "group", "_".join([*entities, f"contrast-{label}.zarr"]))
        result.stores[contrast] = store
        folder, receipt = os.path.dirname(store), f"{os.path.basename(store)}.json"
        participants = _participants(dataset, list(paths))
        key = joblib.hash([label, sorted((item.subject, item.key) for item in done), participants])
        if is_store(store) and read_receipt(folder, receipt, key):
            continue
        headers = [read_header(path) for path in paths.values()]
        if any(item.shape != headers[0].shape for item in headers):
            del result.stores[contrast]
            result.notes.append(f"no store of {contrast!r}: the subjects are not in one space")
            continue
        os.makedirs(folder, exist_ok=True)
        try:
            images = list(paths.values())
            convert(images, store, participants=participants, missing="zero", overwrite=is_store(store))
            write_unit(folder, {}, {}, receipt, {"key": key, "files": []})
        except SpaceError as error:
            del result.stores[contrast]
            result.notes.append(f"no store of {contrast!r}: {error}")


def _participants(dataset: str, subjects: Sequence[str]) -> pd.DataFrame | None:
    """Rows of the dataset's participants.tsv; None where it lacks a subject."""
    path = os.path.join(dataset, "participants.tsv")
    if not os.path.isfile(path):
        return None
    table = as_table(path)
    if table is None or "participant_id" not in table.columns or table["participant_id"].duplicated().any():
        return None
    known = set(table["participant_id"].astype(str))
    if not set(subjects) <= known:
        return None
    return table[table["participant_id"].astype(str).isin(subjects)]


def map_path(item: Receipt, label: str, stat: str) -> str:
    """Path of a map of a subject, over its runs.

    Parameters
    ----------
    item : Receipt
        A subject.
    label, stat : str
        Label of the contrast; "effect", "variance", "t", "F", "p" or "z".

    Returns
    -------
    str
    """
    return os.path.join(item.folder, f"{item.name}_contrast-{label}_stat-{stat}_statmap.nii.gz")


def _peaks(receipts: Sequence[Receipt], plan: Plan) -> pd.DataFrame:
    """Extremes of z of each subject and contrast, and the number of voxels beyond 3.1."""
    rows = []
    for item in receipts:
        for contrast in item.contrasts if not item.error else []:
            z = read_values(map_path(item, plan.labels[contrast], "z"))[1][0]
            z = z[np.isfinite(z)]
            rows.append((item.subject, contrast, len(item.runs), z.min(), z.max(), int((np.abs(z) > 3.1).sum())))
    names = ["participant_id", "contrast", "runs", "min_z", "max_z", "voxels_beyond_3.1"]
    return pd.DataFrame(rows, columns=names)
