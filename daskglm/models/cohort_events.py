"""The events of a run of a cohort, as its design takes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from daskglm.design.events import incomplete
from daskglm.design.transformations import check_instruction, transform_events
from daskglm.errors import DesignError, listing
from daskglm.io.bids import Run
from daskglm.io.confounds import read_events


def check_transform(transform: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Raise where an instruction for events is none.

    Parameters
    ----------
    transform : sequence of mapping
        Instructions.

    Returns
    -------
    tuple of mapping
        The same.

    Raises
    ------
    ParameterError
        Naming what is unknown or lacks.
    """
    for instruction in transform:
        check_instruction(instruction)
    return tuple(transform)


def events_of_run(
    run: Run, bad_events: str, transform: Sequence[Mapping[str, Any]] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Events of a run.

    Parameters
    ----------
    run : Run
        The run.
    bad_events : {"stop", "drop"}
        What becomes of events that lack their onset, duration, trial_type or modulation.
    transform : sequence of mapping
        Instructions of :func:`~daskglm.design.transformations.transform_events`; with such, a missing trial_type or
        modulation is no event of that column, and onset and duration alone are asked for.

    Returns
    -------
    events : DataFrame
    notes : list of str
        What was left out of them.

    Raises
    ------
    DesignError
        Where there is no table, or events lack something and are not to be dropped.
    """
    if run.events is None:
        raise DesignError(f"a run has a table of events, but there is none for {run.bold}; add ..._events.tsv")
    events = read_events(run.events)
    bad = incomplete(events[["onset", "duration"]] if transform else events)
    if not len(bad):
        return transform_events(events, transform) if transform else events, []
    if bad_events == "stop":
        raise DesignError(
            "every event has an onset, a duration, a trial_type and, where there is such a column, a modulation, but "
            f"in {run.events} rows {listing(bad)} lack one; correct them, or leave them out: --bad-events drop "
            "(bad_events='drop' in Python)"
        )
    kept = events.drop(index=bad)
    return transform_events(kept, transform) if transform else kept, [
        f"{len(bad)} of {len(events)} events of {run.name} lack an onset, duration, trial_type or modulation and are "
        f"left out: rows {listing(bad)}"
    ]
