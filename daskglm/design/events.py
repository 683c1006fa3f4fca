"""Tables of events: checked, completed, and events that occur twice summed."""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from daskglm.errors import DesignError, listing

_COLUMNS = ("trial_type", "onset", "duration", "modulation")
_IDENTITY = list(_COLUMNS[:3])
_MISSING = ["n/a", "", "nan", "NaN", "NA", "N/A"]


def check_events(events: pd.DataFrame) -> pd.DataFrame:
    """Check and complete a table of events.

    Parameters
    ----------
    events : DataFrame
        Columns onset and duration, in seconds, and if need be trial_type (the condition; "dummy" where there is no
        such column) and modulation (amplitude; 1 where there is no such column).

    Returns
    -------
    (n, 4) DataFrame
        trial_type as given, onset, duration and modulation float64, with a new index. Rows that share trial_type,
        onset and duration are one, with the sum of their modulations, where the first of them was.

    Raises
    ------
    DesignError
        Where a column is absent or there twice; a value is missing, not finite or no number; or a duration is
        negative. nilearn drops events without trial_type, takes a missing modulation for 0, and models a negative
        duration as a negative response: here each of these is an error.

    Warns
    -----
    UserWarning
        Where there is no trial_type, durations are zero, columns are not used, or events are summed.

    Examples
    --------
    >>> table = pd.DataFrame({"trial_type": ["go", "stop"], "onset": [1, 5], "duration": [2, 2]})
    >>> check_events(table).to_numpy().tolist()
    [['go', 1.0, 2.0, 1.0], ['stop', 5.0, 2.0, 1.0]]
    """
    if not isinstance(events, pd.DataFrame):
        raise DesignError(
            f"events are a DataFrame with columns onset and duration, but these are {type(events).__name__}"
        )
    for name in _COLUMNS:
        count = list(events.columns).count(name)
        if count > 1 or (count == 0 and name in ("onset", "duration")):
            what = "more than one" if count else "no"
            raise DesignError(
                f"events have one column {name!r}, but there is {what} such column among {listing(events.columns)}; "
                f"{'keep one' if count else 'add it, in seconds'}"
            )
    checked = pd.DataFrame({"trial_type": _trial_types(events)})
    for name in ("onset", "duration"):
        checked[name] = _numbers(events, name)
    checked["modulation"] = _numbers(events, "modulation") if "modulation" in events.columns else 1.0
    _check_durations(events, checked)
    unused = [str(name) for name in events.columns if name not in _COLUMNS]
    if unused:
        warnings.warn(
            f"The following unexpected columns in events data will be ignored: {listing(unused)}",
            UserWarning,
            stacklevel=2,
        )
    return _merge(checked)


def events_table(given: Any) -> pd.DataFrame:
    """Events that may be given as a path: .csv, or a table with tabs; ``n/a`` is missing.

    Parameters
    ----------
    given : DataFrame or path
        Events.

    Returns
    -------
    DataFrame
        The file's for a path, else what was given.

    Raises
    ------
    DesignError
        Where the file cannot be read.
    """
    if not isinstance(given, (str, os.PathLike)):
        return given
    separator = "," if os.fspath(given).lower().endswith(".csv") else "\t"
    try:
        columns = pd.read_csv(given, sep=separator, nrows=0).columns
        return pd.read_csv(
            given, sep=separator, keep_default_na=False, na_values=missing_cells(columns), dtype={"trial_type": str}
        )
    except FileNotFoundError as error:
        raise DesignError(
            f"cannot read the table of events {os.fspath(given)}: there is no such file; correct the path"
        ) from error
    except (OSError, ValueError) as error:
        raise DesignError(f"cannot read the table of events {os.fspath(given)}: {error}; repair it") from error


def missing_cells(columns: Iterable[str]) -> dict[str, list[str]]:
    """Cells of a table of events that are missing values, by column: a condition may be called null or NA.

    Parameters
    ----------
    columns : iterable of str
        Names of the columns.

    Returns
    -------
    dict of str to list of str
    """
    return {name: _MISSING[:2] if name == "trial_type" else _MISSING for name in columns}


def incomplete(events: pd.DataFrame) -> pd.Index:
    """Rows of events that lack what a regressor is made of.

    Parameters
    ----------
    events : DataFrame
        Events.

    Returns
    -------
    Index
        Of the rows with a missing onset, duration, trial_type or modulation.
    """
    there = [name for name in _COLUMNS if name in events.columns]
    return events.index[events[there].isna().any(axis=1)]


def warn_of_differing_durations(events: Mapping[str, pd.DataFrame | None], stacklevel: int = 2) -> None:
    """Warn where a condition is without duration in some runs and lasts in others.

    Parameters
    ----------
    events : mapping of str to DataFrame or None
        Run to its events, as they were given.
    stacklevel : int
        Of the warning.
    """
    instant, lasting = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for run, table in events.items():
        if table is None or "duration" not in table.columns:
            continue
        conditions = table["trial_type"] if "trial_type" in table.columns else pd.Series("dummy", table.index)
        for condition, durations in pd.to_numeric(table["duration"], errors="coerce").groupby(conditions.map(str)):
            if (durations == 0).all():
                instant[str(condition)].append(run)
            elif (durations > 0).all():
                lasting[str(condition)].append(run)
    both = [name for name in instant if name in lasting]
    if both:
        name = both[0]
        warnings.warn(
            f"Events of {listing(both)} are without duration in some runs and last in others ({name!r}: 0 s in "
            f"{listing(instant[name], 2)}, longer in {listing(lasting[name], 2)}): where they are 0 s long, effect "
            "sizes depend on t_r and oversampling, so that those of these runs are not in one unit; correct the "
            "durations, or give impulse='unit' (--impulse unit)",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _trial_types(events: pd.DataFrame) -> np.ndarray:
    """Conditions, (n,) objects."""
    if "trial_type" not in events.columns:
        warnings.warn(
            "'trial_type' column not found in the given events data; all events are of one condition, 'dummy'",
            UserWarning,
            stacklevel=3,
        )
        return np.full(len(events), "dummy", dtype=object)
    missing = events.index[events["trial_type"].isna().to_numpy()]
    if len(missing):
        raise DesignError(
            f"every event has a trial_type, but it is missing in {_rows(missing)}; name the condition, or drop them"
        )
    return np.asarray(events["trial_type"].to_numpy(dtype=object))


def _numbers(events: pd.DataFrame, name: str) -> np.ndarray:
    """A column as (n,) float64, all finite."""
    column = events[name]
    missing = events.index[column.isna().to_numpy()]
    if len(missing):
        raise DesignError(
            f"{name!r} of events must not contain nan values, but it is missing in {_rows(missing)}; "
            "fill it in, or drop those events"
        )
    if pd.api.types.is_complex_dtype(column):
        raise DesignError(f"{name!r} of events holds numbers, but it is complex; give real numbers")
    try:
        values = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        other = pd.to_numeric(column.astype(str), errors="coerce").isna().to_numpy()
        raise DesignError(
            f"{name!r} of events holds numbers, but could not cast {_rows(events.index[other])} to float "
            f"({listing(map(repr, column[other]))}); correct them, or drop those events"
        ) from error
    infinite = events.index[~np.isfinite(values)]
    if len(infinite):
        raise DesignError(
            f"{name!r} of events is finite, but it is not in {_rows(infinite)}; correct it, or drop those events"
        )
    return np.asarray(values)


def _check_durations(events: pd.DataFrame, checked: pd.DataFrame) -> None:
    """Raise where a duration is negative, warn where it is zero."""
    negative = events.index[checked["duration"].to_numpy() < 0]
    if len(negative):
        raise DesignError(
            f"'duration' of events is zero or positive, but it is negative in {_rows(negative)}; correct it, or drop "
            "those events"
        )
    instant = sorted({str(name) for name in checked["trial_type"][checked["duration"] == 0]})
    if instant:
        warnings.warn(
            f"The following conditions contain events with null duration: {listing(instant)}; they are modelled as "
            "impulses",
            UserWarning,
            stacklevel=3,
        )


def _merge(events: pd.DataFrame) -> pd.DataFrame:
    """Sum the modulations of events that are the same."""
    twice = events.duplicated(_IDENTITY)
    if not twice.any():
        return events
    again = events[twice].drop_duplicates(_IDENTITY)
    named = [
        f"{name} at {onset:g} s for {length:g} s" for name, onset, length in again[_IDENTITY].itertuples(index=False)
    ]
    warnings.warn(
        f"Duplicated events were detected: {listing(named)}. Their modulations are summed; check that this is meant",
        UserWarning,
        stacklevel=3,
    )
    return events.groupby(_IDENTITY, sort=False, as_index=False)["modulation"].sum()


def _rows(rows: pd.Index) -> str:
    """Rows for a message."""
    return f"row{'s' if len(rows) > 1 else ''} {listing(rows)}"
