"""The result folder of a first-level analysis: how it was made, what is out of date in it, and what failed."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import escape, glob
from typing import Any

import joblib
import pandas as pd

from daskglm.errors import DaskGLMError, OutputError
from daskglm.io.bids import Run
from daskglm.io.files import remove_partial
from daskglm.io.locks import gate
from daskglm.io.ownership import check_ours, is_ours
from daskglm.io.provenance import software
from daskglm.io.receipts import check_place, load_receipt, own_receipt, remove_unit, write_text
from daskglm.io.tables import read_table
from daskglm.models.cohort_stores import picture_receipt, store_receipt
from daskglm.models.cohort_units import Plan, Receipt, common_name, run_receipt, subject_receipt

FAILURES = "failures.tsv"
_DOCUMENTS = ("dataset_description.json", "first_level.json")
# Folders that hold receipts, and the names of these.
_FOLDERS = ("sub-*", "sub-*/func", "sub-*/ses-*/func", "group", "figures")
_RECEIPTS = ("*_glm.json", "contrast-*.json", "*.zarr.json")


@dataclass(frozen=True)
class Choice:
    """Which files of a dataset were chosen.

    Attributes
    ----------
    dataset, derivatives : str
        Absolute paths.
    task, space : str
        Labels; empty where the files have none.
    filters : list
        Entity and values.
    subjects : list of str or None
        None for all.
    stores : bool
        Whether the effects of these subjects are stored for the group.
    """

    dataset: str
    derivatives: str
    task: str
    space: str
    filters: list[tuple[str, list[str]]]
    subjects: list[str] | None
    stores: bool

    @classmethod
    def of(
        cls, runs: Sequence[Run], dataset: str, derivatives: str, filters: Any, everyone: bool, stores: bool
    ) -> "Choice":
        """The choice that gave some runs.

        Parameters
        ----------
        runs : sequence of Run
            What was found: its task and space are those chosen, whether they were named or not.
        dataset, derivatives : str
            As they were given.
        filters : sequence of (entity, value) or None
            Filters.
        everyone : bool
            Whether no subjects were named or excluded.
        stores : bool
            Whether their effects are stored for the group.

        Returns
        -------
        Choice
        """
        return cls(
            dataset=os.path.realpath(dataset),
            derivatives=os.path.realpath(os.path.join(dataset, derivatives)),
            task=", ".join(sorted({run.entities.get("task", "") for run in runs})),
            space=runs[0].entities.get("space", ""),
            filters=sorted((entity, _texts(value)) for entity, value in filters or ()),
            subjects=None if everyone else sorted({run.subject for run in runs}),
            stores=stores,
        )

    def hash(self) -> str:
        """Hash of the choice; the subjects of a call are no part of it.

        Returns
        -------
        str
        """
        text: str = joblib.hash([self.dataset, self.derivatives, self.task, self.space, self.filters])
        return text


def prepare_cohort(plan: Plan, choice: Choice, subjects: Mapping[str, Sequence[Run]], alone: bool) -> None:
    """Remove what is out of date in the result folder, and say in it how the new results are made.

    Parameters
    ----------
    plan : Plan
        What is done.
    choice : Choice
        What was chosen.
    subjects : mapping of str to sequence of Run
        Runs of each subject of this call.
    alone : bool
        Whether no other call writes to the folder; otherwise only the folders of these subjects are touched.

    Raises
    ------
    OutputError
        Where the folder is not writable.
    """
    _check_places(plan.output, (run_receipt(run, plan.output) for runs in subjects.values() for run in runs))
    for name in (*_DOCUMENTS, FAILURES):
        check_ours(os.path.join(plan.output, name))
    ours = is_ours(os.path.join(plan.output, _DOCUMENTS[1]))
    try:
        if alone:
            for folder in {plan.output, *_files(plan.output, _FOLDERS, ("",))}:
                remove_partial(folder)
        _remove_outdated(plan, subjects, choice.subjects is not None, alone)
        _check_strange(plan, subjects, ours)
        describe(plan, choice, {"software": software()})
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or error
        raise OutputError(f"cannot write to {plan.output}: {reason}; choose another output") from error


def write_failures(output: str, failures: pd.DataFrame, subjects: Iterable[str] | None) -> None:
    """Write the list of failures, or remove that of an earlier call where nothing failed.

    Parameters
    ----------
    output : str
        Result folder.
    failures : DataFrame
        What failed in this call.
    subjects : iterable of str or None
        Subjects of this call, where it was not for all: what failed of the others stays in the list.
    """
    path = os.path.join(output, FAILURES)
    with gate(output):
        if subjects is not None and os.path.exists(path):
            with suppress(DaskGLMError, KeyError):
                before = read_table(path)
                others = before[~before["participant_id"].isin(list(subjects))]
                failures = pd.concat([others, failures]) if len(others) else failures
        if not failures.empty:
            write_text(path, failures.to_csv(sep="\t", index=False))
        elif is_ours(path):
            os.remove(path)


def list_failures(receipts: Sequence[Receipt]) -> pd.DataFrame:
    """Runs that failed, and subjects that failed though a run of theirs did not.

    Parameters
    ----------
    receipts : sequence of Receipt
        Subjects.

    Returns
    -------
    DataFrame
        Columns participant_id, run, error_type, error.
    """
    rows = []
    for subject in receipts:
        failed = [run for run in subject.runs if run.error]
        rows += [(subject.subject, run.name, run.error_type, run.error) for run in failed]
        if subject.error and len(failed) < len(subject.runs):
            rows.append((subject.subject, "", subject.error_type, subject.error))
    return pd.DataFrame(rows, columns=["participant_id", "run", "error_type", "error"])


def count_done(plan: Plan, subjects: Mapping[str, Sequence[Run]]) -> int:
    """Number of runs and subjects whose maps are whole.

    Parameters
    ----------
    plan : Plan
        What is done.
    subjects : mapping of str to sequence of Run
        Runs of each subject.

    Returns
    -------
    int
    """
    paths = [run_receipt(run, plan.output) for runs in subjects.values() for run in runs]
    paths += [subject_receipt(subject, runs, plan.output) for subject, runs in subjects.items()]
    held = [load_receipt(path) or {} for path in paths]
    return sum(item.get("complete") is True and item.get("analysis") == plan.analysis for item in held)


def count_complete(output: str) -> int:
    """Number of runs and subjects in a result folder whose maps are whole, of whichever analysis.

    Parameters
    ----------
    output : str
        Result folder.

    Returns
    -------
    int
    """
    paths = _files(output, _FOLDERS[:3], _RECEIPTS[:1])
    return sum((load_receipt(path) or {}).get("complete") is True for path in paths)


def _check_places(output: str, receipts: Iterable[str]) -> None:
    """Raise where a folder of results is a link to elsewhere: files there would be written and removed."""
    root = os.path.realpath(output)
    folders = {os.path.join(output, name) for name in ("group", "figures")}
    for folder in sorted(folders | {os.path.dirname(path) for path in receipts}):
        place = os.path.realpath(folder)
        if os.path.commonpath([root, place]) != root:
            raise OutputError(
                f"results stay within {output}, but {folder} leads to {place}; remove the link or choose another output"
            )


def _remove_outdated(plan: Plan, subjects: Mapping[str, Sequence[Run]], restricted: bool, alone: bool) -> None:
    """Remove units of the same selection that another analysis made, or that are no longer part of this one."""
    own = [os.path.join(plan.output, subject) for subject in subjects]
    wanted = {run_receipt(run, plan.output) for runs in subjects.values() for run in runs}
    wanted |= {subject_receipt(subject, runs, plan.output) for subject, runs in subjects.items()}
    stores = [store_receipt(plan, subjects, label) for name, label in plan.labels.items() if plan.kinds[name] == "t"]
    wanted |= {*stores, *(picture_receipt(plan.output, label) for label in plan.labels.values())}
    for path in _files(plan.output, _FOLDERS, _RECEIPTS):
        held = load_receipt(path) or {}
        mine = any(path.startswith(os.path.join(folder, "")) for folder in own)
        if held.get("selection") != plan.selection or not (alone or mine):
            continue
        if held.get("analysis") != plan.analysis or (path not in wanted and (mine or not restricted)):
            remove_unit(path)
            _remove_empty(os.path.dirname(path), plan.output)


def _check_strange(plan: Plan, subjects: Mapping[str, Sequence[Run]], ours: bool) -> None:
    """Raise where maps of this analysis would replace files that daskglm did not write to a folder of `ours` or not."""
    receipts = {run_receipt(run, plan.output): run.name for runs in subjects.values() for run in runs}
    for subject, runs in subjects.items():
        receipts[subject_receipt(subject, runs, plan.output)] = common_name([run.name for run in runs])
    ends = ["_design.tsv", "_desc-brain_mask.nii.gz", *(f"_contrast-{label}_*" for label in plan.labels.values())]
    patterns = {receipt: [f"{escape(name)}{end}" for end in ends] for receipt, name in receipts.items()}
    for label in plan.labels.values():
        for receipt, end in ((store_receipt(plan, subjects, label), ""), (picture_receipt(plan.output, label), ".png")):
            patterns[receipt] = [f"{escape(os.path.basename(receipt).removesuffix('.json'))}{end}"]
    for receipt, names in patterns.items():
        found = [os.path.basename(path) for path in _files(os.path.dirname(receipt), [""], names)]
        if ours and os.path.isfile(receipt) and not (own_receipt(receipt) or {}).get("files"):
            # Damaged since: what it named is known by the names that it gave.
            write_text(receipt, json.dumps({"files": found, "complete": False}))
        check_place(receipt, found)


def _remove_empty(folder: str, output: str) -> None:
    """Remove a folder and those above it that hold nothing any more."""
    with suppress(OSError):
        while folder != output:
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def _files(output: str, folders: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Files of some patterns in the folders of a result folder."""
    return [
        path
        for folder in folders
        for pattern in patterns
        for path in sorted(glob(os.path.join(escape(output), folder, pattern)))
    ]


def describe(plan: Plan, choice: Choice, record: Mapping[str, Any]) -> None:
    """Say in the result folder how the results are made.

    Parameters
    ----------
    plan : Plan
        What is done.
    choice : Choice
        What was chosen.
    record : mapping
        What is known of the run: from :func:`~daskglm.io.provenance.run_record`, when it comes to its end.
    """
    description = {
        "Name": "daskglm first-level analysis",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "daskglm", "Version": plan.version}],
        "SourceDatasets": [{"URL": choice.dataset}],
    }
    provenance = {
        **record,
        **vars(choice),
        "contrasts": dict(plan.contrasts),
        "confounds": dict(plan.strategies),
        "design": {name: repr(value) if callable(value) else value for name, value in plan.design.items()},
        "noise": vars(plan.noise),
        "scaling": vars(plan.scaling),
        "by_volume": plan.by_volume,
        "smoothing_fwhm": plan.smoothing_fwhm,
        "precision_weighted": plan.precision_weighted,
        "t_r": plan.t_r,
        "slice_time_ref": plan.slice_time_ref,
        "bad_events": plan.bad_events,
        "transform": list(plan.transform),
    }
    for name, document in zip(_DOCUMENTS, (description, provenance), strict=True):
        write_text(os.path.join(plan.output, name), json.dumps(document, indent=2, default=str))


def _texts(value: Any) -> list[str]:
    """The values of a filter."""
    values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return sorted("" if item is None else str(item) for item in values)
