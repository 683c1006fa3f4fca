"""Confounds that are columns of fMRIPrep's table, by strategy or by name, and volumes that are left out."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import DesignError, listing, nearest

# Strategies that this module has, as nilearn has them; the others are nilearn's own.
BY_COLUMN = ("motion", "wm_csf", "global_signal", "high_pass", "scrub")
_BASES = {
    "motion": ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
    "wm_csf": ("csf", "white_matter"),
    "global_signal": ("global_signal",),
}
_ENDINGS = {
    "basic": ("",),
    "power2": ("", "_power2"),
    "derivatives": ("", "_derivative1"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
_NON_STEADY = "non_steady_state"


def is_pattern(name: str) -> bool:
    """Whether a name stands for all columns that match it.

    Parameters
    ----------
    name : str
        Of a column, or with * and ? for several.

    Returns
    -------
    bool
    """
    return "*" in name or "?" in name


def absent(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of some names and patterns that no column has.

    Parameters
    ----------
    columns : sequence of str
        Of a table.
    names : sequence of str
        Names and patterns.

    Returns
    -------
    list of str
    """
    return [name for name in names if not any(fnmatchcase(column, name) for column in columns)]


def named_columns(table: pd.DataFrame, names: Sequence[str], source: str) -> list[str]:
    """Columns that some names and patterns stand for.

    Parameters
    ----------
    table : DataFrame
        Confounds.
    names : sequence of str
        Names and patterns; a pattern may match none.
    source : str
        Where the table is, for messages.

    Returns
    -------
    list of str
        Each once.

    Raises
    ------
    DesignError
        Where there is no column of a name.
    """
    columns = [str(column) for column in table.columns]
    missing = [name for name in absent(columns, names) if not is_pattern(name)]
    if missing:
        raise DesignError(
            f"confounds are strategies or columns of the table, but {source} has no column {listing(missing)}"
            f"{nearest(missing[0], columns) or '; correct the name'}"
        )
    found = [column for name in names for column in columns if fnmatchcase(column, name)]
    return list(dict.fromkeys(found))


def strategy_columns(table: pd.DataFrame, strategies: Mapping[str, Any], source: str) -> list[str]:
    """Columns of strategies, in alphabetical order as nilearn has them.

    Parameters
    ----------
    table : DataFrame
        Confounds.
    strategies : mapping
        Of ``BY_COLUMN``, and what refines them.
    source : str
        Where the table is, for messages.

    Returns
    -------
    list of str

    Raises
    ------
    DesignError
        Where the table lacks some.
    """
    found: set[str] = set()
    for name, value in strategies.items():
        if name in _BASES:
            wanted = [base + end for base in _BASES[name] for end in _ENDINGS[str(value)]]
            _check_there(table, wanted, strategies, source)
            found.update(wanted)
        elif name == "high_pass":
            found.update(str(column) for column in table.columns if "cosine" in str(column))
    return sorted(found)


def kept_volumes(
    table: pd.DataFrame, strategies: Mapping[str, Any], named: Sequence[str], source: str
) -> NDArray[np.intp] | None:
    """Volumes that are neither of non-steady states nor scrubbed.

    Parameters
    ----------
    table : DataFrame
        Confounds.
    strategies : mapping
        Of ``BY_COLUMN``, with the thresholds of scrubbing.
    named : sequence of str
        Columns that are regressors: what they mark stays in.
    source : str
        Where the table is, for messages.

    Returns
    -------
    (n,) int array, or None where all are kept

    Raises
    ------
    DesignError
        Where the table lacks what scrubbing needs.
    """
    marks = [column for column in table.columns if _NON_STEADY in str(column) and column not in named]
    out = (_numbers(table, marks).fillna(0).to_numpy() != 0).any(axis=1)
    if "scrub" in strategies:
        limits = {
            "framewise_displacement": strategies["fd_threshold"],
            "std_dvars": strategies["std_dvars_threshold"],
        }
        _check_there(table, list(limits), strategies, source)
        moved = (_numbers(table, list(limits)) > pd.Series(limits)).any(axis=1).to_numpy()
        out |= _with_short_segments(moved, int(strategies["scrub"]))
    return np.flatnonzero(~out) if marks or out.any() else None


def _numbers(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Columns as numbers; what is none is missing."""
    return table[list(names)].apply(pd.to_numeric, errors="coerce")


def _with_short_segments(moved: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Scrubbed volumes, and segments between them that are too short (Power et al., 2014)."""
    out = moved.copy()
    if not moved.any():
        return out
    edges = np.flatnonzero(np.diff(np.r_[True, moved, True].astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        out[start:stop] |= stop - start < least
    return out


def fill_first(table: pd.DataFrame) -> pd.DataFrame:
    """Values of the second row where those of the first are missing: derivatives have none there.

    Parameters
    ----------
    table : DataFrame
        Confounds.

    Returns
    -------
    DataFrame
    """
    if len(table) < 2:
        return table
    filled = table.copy()
    filled.iloc[0] = table.iloc[0].where(table.iloc[0].notna(), table.iloc[1])
    return filled


def _check_there(table: pd.DataFrame, wanted: Sequence[str], strategies: Mapping[str, Any], source: str) -> None:
    """Raise where columns are not there."""
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        asked = [name for name in strategies if name in BY_COLUMN]
        raise DesignError(
            f"the strategies {', '.join(asked)} cannot be taken from {source}: it has no columns "
            f"{listing(missing, 24)}; ask for what the table has"
        )
