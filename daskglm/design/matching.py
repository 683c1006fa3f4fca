"""Rows of tables matched to images, by subject."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import DesignError, listing

_ID_COLUMNS = ("participant_id", "subject_label")


def match_rows(
    design_ids: Any,
    sample_ids: Sequence[str],
    ids_are_known: bool,
    table: str = "the design",
    also_allowed: Collection[str] = (),
) -> NDArray[np.intp] | None:
    """Positions of the rows of a table in the order of the samples.

    Parameters
    ----------
    design_ids : sequence
        Index of the table.
    sample_ids : sequence of n str
        Names of the samples.
    ids_are_known : bool
        False where samples are only named by their files: then rows whose names have nothing in common with
        those are taken by order.
    table : str
        What the table is, for messages.
    also_allowed : collection of str
        Subjects that the table may have besides.

    Returns
    -------
    (n,) intp or None
        ``table.iloc[positions]`` is in the order of the samples; None where the index holds no ids.

    Raises
    ------
    DesignError
        Where an id occurs twice in either, or is in the table and not among the samples, or the other way round.
    """
    if not all(isinstance(name, str) for name in design_ids):
        return None
    rows = [_bare(name) for name in design_ids]
    samples = [_bare(name) for name in sample_ids]
    if not ids_are_known and set(rows).isdisjoint(samples):
        return None
    counts = Counter(rows)
    twice = dict.fromkeys(name for name, bare in zip(design_ids, rows, strict=True) if counts[bare] > 1)
    if twice:
        raise DesignError(
            f"{table} has one row a subject, but {listing(twice)} occur more than once; keep one row each"
        )
    of_samples = Counter(samples)
    shared = [name for name, bare in zip(sample_ids, samples, strict=True) if of_samples[bare] > 1]
    if shared:
        raise DesignError(f"images have one subject each, but {listing(shared)} are the same one; name them apart")
    _check_same(rows, samples, list(design_ids), list(sample_ids), table, {_bare(name) for name in also_allowed})
    position = {name: index for index, name in enumerate(rows)}
    return np.array([position[name] for name in samples], dtype=np.intp)


def select_participants(
    participants: pd.DataFrame, sample_ids: Sequence[str], also_allowed: Collection[str] = ()
) -> pd.DataFrame:
    """Rows of a participants table in the order of the samples.

    Parameters
    ----------
    participants : DataFrame
        With a column participant_id or subject_label, or an index of ids.
    sample_ids : sequence of n str
        Names of the samples.
    also_allowed : collection of str
        Subjects that the table may have besides.

    Returns
    -------
    DataFrame
        n rows, indexed by sample, without the column of ids.

    Raises
    ------
    DesignError
        Where there are no ids, or ids of one are not in the other.
    """
    column = next((name for name in _ID_COLUMNS if name in participants.columns), None)
    if column is not None and list(participants.columns).count(column) > 1:
        raise DesignError(f"a participants table has one column {column}, but this one has several; keep one")
    if column is not None:
        table = participants.set_index(participants[column].map(str)).drop(columns=column)
    elif len(participants) and all(isinstance(name, str) for name in participants.index):
        table = participants
    else:
        raise DesignError(
            f"a participants table has a column participant_id, but this one has {listing(participants.columns)}"
        )
    rows = match_rows(table.index, sample_ids, True, "the participants table", also_allowed)
    selected = table.iloc[rows]
    return selected.set_axis(pd.Index(list(sample_ids), name="participant_id"), axis=0)


def _check_same(
    rows: list[str],
    samples: list[str],
    row_names: list[Any],
    sample_names: list[str],
    table: str,
    allowed: set[str],
) -> None:
    """Raise where one side has ids that the other has not."""
    have, want = set(rows), set(samples) | allowed
    absent = [name for name, bare in zip(sample_names, samples, strict=True) if bare not in have]
    extra = [name for name, bare in zip(row_names, rows, strict=True) if bare not in want]
    if absent or extra:
        parts = [f"no row: {listing(absent)}"] if absent else []
        parts += [f"no image: {listing(extra)}"] if extra else []
        raise DesignError(
            f"{table} has {len(rows)} rows and there are {len(samples)} images ({'; '.join(parts)}); "
            "add the rows or images, or drop them"
        )


def _bare(name: str) -> str:
    """An id without the prefix that BIDS gives it in some places and not in others."""
    return str(name).strip().removeprefix("sub-")
