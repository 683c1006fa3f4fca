"""What is done of a long command, what failed, and how to go on."""

import os
import warnings
from dataclasses import dataclass, field
from typing import Any

from daskglm.errors import DaskGLMError, OutputError
from daskglm.io import files
from daskglm.io.checkpoints import count_checkpoints
from daskglm.io.conversions import journal_name
from daskglm.io.journal import Record, load_records
from daskglm.io.permutations import count_units
from daskglm.io.results import PROVENANCE, holds_run
from daskglm.io.store import StoredSamples, is_store
from daskglm.io.tables import read_table
from daskglm.models.cohort_output import FAILURES, count_complete
from daskglm.models.permutation_analysis import KEPT

_UNITS = {
    "convert": "images",
    "group": "units of the pass",
    "permute": "rearrangements",
    "first-level": "runs and subjects",
}


@dataclass
class Status:
    """State of an output.

    Attributes
    ----------
    output : str
        Result folder or store.
    kind : str
        Command.
    state : str
        "complete", "running", "failed" or "interrupted".
    done, total : int
        Units; total is -1 where the work had not begun.
    units : str
        What they are.
    failures : list of str
        What failed, and why.
    who : str
        Process and machine, and since when.
    commands : list of dict
        Of the runs that are not complete: "command" and "folder".
    """

    output: str
    kind: str
    state: str
    done: int = 0
    total: int = -1
    units: str = ""
    failures: list[str] = field(default_factory=list)
    who: str = ""
    commands: list[dict[str, Any]] = field(default_factory=list)


def run_status(output: str) -> Status:
    """Find out what is done in an output, from its record and from what is there.

    Parameters
    ----------
    output : str
        Result folder or store; path or URL.

    Returns
    -------
    Status

    Raises
    ------
    OutputError
        Where nothing of daskglm is there.
    """
    output = output.rstrip("/") if files.is_url(output) else os.path.abspath(output)
    records = load_records(output) or load_records(journal_name(output))
    if not records:
        return _without_record(output)
    states = {record.id: _state(output, record) for record in records}
    open_ones = [record for record in records if states[record.id] != "complete"]
    last = open_ones[-1] if open_ones else records[-1]
    status = Status(output, last.kind, states[last.id], last.done, last.total, _UNITS.get(last.kind, "units"))
    if open_ones:
        status.done = max(0, _done(output, last))
        status.who = last.who
    status.failures = [record.message for record in open_ones if record.message] + _failures(output, last.kind)
    status.commands = [{"command": record.command, "folder": record.folder} for record in open_ones]
    return status


def _state(output: str, record: Record) -> str:
    """State of a run; one that was killed after its last file was written is complete."""
    state = record.now
    return "complete" if state == "interrupted" and holds_run(output, record.id) else state


def _done(output: str, record: Record) -> int:
    """Units that are on disk."""
    if record.kind == "convert":
        held = _stored(output)
        return 0 if held is None else sum(bool(name) for name in held.names)
    if record.kind == "group":
        return count_checkpoints(output)
    if record.kind == "permute":
        return count_units(files.join(output, KEPT))
    return count_complete(output)


def _failures(output: str, kind: str) -> list[str]:
    """What a command's own list says failed."""
    if kind == "convert":
        return _left_out(output)
    path = files.join(output, FAILURES)
    if kind != "first-level" or not files.exists(path):
        return []
    try:
        table = read_table(path)
        return [
            f"{row.run if isinstance(row.run, str) and row.run else row.participant_id}: {row.error_type}: {row.error}"
            for row in table.itertuples()
        ]
    except (DaskGLMError, AttributeError):
        return [f"{path} cannot be read"]


def _left_out(store: str) -> list[str]:
    """Samples that a conversion left out."""
    held = _stored(store)
    left_out = {} if held is None else held.attributes.get("quarantined", {})
    return [f"{name}: {entry['reason']}" for name, entry in left_out.items()]


def _stored(store: str) -> StoredSamples | None:
    """What a store holds; None where there is none, or it is half created."""
    try:
        with warnings.catch_warnings():
            # Of the parts of files that a killed process leaves.
            warnings.simplefilter("ignore")
            return StoredSamples.of(store) if is_store(store) else None
    except (DaskGLMError, KeyError):
        return None


def _without_record(output: str) -> Status:
    """State of a store, or of results whose record is gone."""
    held = _stored(output)
    if held is not None:
        done = sum(bool(name) for name in held.names)
        state = "complete" if held.attributes.get("finished") else "interrupted"
        total = done if state == "complete" else len(held.names)
        return Status(output, "convert", state, done, total, _UNITS["convert"], _left_out(output))
    if files.exists(files.join(output, PROVENANCE)):
        return Status(output, "analysis", "complete", units="units")
    raise OutputError(
        f"nothing that daskglm ran is known in {output}; give a result folder of group, permute or first-level, or a "
        "store"
    )
