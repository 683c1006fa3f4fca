"""Subjects left out of an analysis: by a list, by a condition on their table, or for missing covariates."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.formula import formula_columns
from daskglm.design.matching import ID_COLUMNS, id_index, label_text, samples_of
from daskglm.design.selection import rows_where
from daskglm.errors import DesignError, ImageError, check_choice, listing
from daskglm.graph.samples import match_table, participants_by_sample
from daskglm.io.files import read_bytes
from daskglm.io.tables import as_table, read_table
from daskglm.models.inputs import Choice
from daskglm.schema.datasets import sample_names

_LISTS = (".tsv", ".csv", ".txt")
_MET, _MISSING = "daskglm meets the condition", "daskglm lacks a value of it"


def selection(
    participants: Any,
    exclude: Any = (),
    where: str | None = None,
    na: str = "stop",
    formula: str = "~ 1",
    columns: Sequence[str | None] = (),
) -> tuple[Choice | None, Any]:
    """How the samples of an analysis are chosen.

    Parameters
    ----------
    participants : DataFrame, path or None
        Table of the participants; None: the one that a store brings.
    exclude : str or sequence of str
        Ids to leave out, and files that list such: tables with a column participant_id, or texts with an id a line.
    where : str, optional
        Condition on the participants that the others do not meet, as of :func:`~daskglm.design.selection.rows_where`.
    na : {"stop", "drop"}
        "drop": those that lack a value of the formula, or of `columns`, are left out.
    formula : str
        Formula of the design.
    columns : sequence of str or None
        Further columns that the analysis uses.

    Returns
    -------
    choose : callable or None
        Takes the samples, as an images dataset or without its data, to those that are chosen; ``attrs["not_chosen"]``
        says of each other one why. None where nothing is left out.
    participants : DataFrame, path or None
        Rows of the table that meet the condition.

    Raises
    ------
    ParameterError, DesignError
        Where `na` is none of these, or a list cannot be read.

    Warns
    -----
    UserWarning
        By the choice, naming who is left out and why, and ids of `exclude` of which there is no image.
    """
    check_choice("na", na, ("stop", "drop"))
    ids = excluded_ids(exclude)
    if not ids and where is None and na == "stop":
        return None, participants

    def choose(samples: xr.Dataset) -> xr.Dataset:
        if "not_chosen" in samples.attrs:
            return samples
        if samples.attrs.get("named_by") == "order" and participants is not None:
            samples = _named(samples, as_table(participants))
        left_out, unknown = _excluded(ids, samples)
        table = pd.DataFrame()
        met = missing = np.ones(0, dtype=bool)
        if where is not None or na == "drop" or unknown:
            table, met, missing = _rows_and_condition(participants, where, _without(samples, left_out))
            # Names of files are not always those of subjects.
            more = samples_of(unknown, id_index(table))
            left_out |= {table.index[row]: "excluded" for rows in more for row in rows}
            unknown = [name for name, rows in zip(unknown, more, strict=True) if not rows]
            keep = [name not in left_out for name in table.index]
            table, met, missing = table[keep], met[keep], missing[keep]
        if unknown:
            warnings.warn(f"no image is excluded by {listing(unknown)}: no image has such an id", stacklevel=2)
        if where is not None:
            left_out |= dict.fromkeys(table.index[~met & ~missing], f"not {where}")
            left_out |= dict.fromkeys(table.index[missing], f"a value of {where} is missing")
            table = table[met]
        if na == "drop":
            used = [*formula_columns(formula, [str(name) for name in table.columns]), *filter(None, columns)]
            lacking = table[[name for name in used if name in table]].isna()
            left_out |= {
                name: f"no {listing(lacking.columns[row])}"
                for name, row in zip(table.index, lacking.to_numpy(), strict=True) if row.any()
            }  # fmt: skip
        chosen = _without(samples, left_out)
        if not chosen.sizes["sample"]:
            raise ImageError(f"all {len(left_out)} images are left out ({_told(left_out)}); leave out fewer")
        if left_out:
            warnings.warn(f"{len(left_out)} of {samples.sizes['sample']} images left out: {_told(left_out)}",
                          stacklevel=2)  # fmt: skip
        return chosen

    given = None if where is None else as_table(participants)
    return choose, participants if given is None or where is None else given[rows_where(where, given)[0]]


def chosen_by(exclude: Any, where: str | None, na: str) -> dict[str, Any]:
    """What the provenance says of how samples were chosen; nothing where all were.

    Parameters
    ----------
    exclude, where, na
        As of :func:`selection`.

    Returns
    -------
    dict
    """
    given = {"exclude": excluded_ids(exclude), "where": where, "na": na}
    return {} if given == {"exclude": [], "where": None, "na": "stop"} else given


def excluded_ids(exclude: Any) -> list[str]:
    """Ids to leave out, those of files among them.

    Parameters
    ----------
    exclude : str or sequence of str
        Ids and files that list such.

    Returns
    -------
    list of str

    Raises
    ------
    DesignError
        Where a file cannot be read, or has no column of ids.
    """
    given = [exclude] if isinstance(exclude, (str, os.PathLike)) else list(exclude or ())
    ids: list[str] = []
    for item in map(str, given):
        suffix = os.path.splitext(item)[1].lower()
        if suffix not in _LISTS:
            ids.append(item)
        elif suffix == ".txt":
            try:
                ids += [line.strip() for line in read_bytes(item).decode().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise DesignError(f"cannot read the list {item} of excluded subjects: {error}") from error
        else:
            table = read_table(item)
            # The list of a conversion's quarantine has samples.
            column = next((name for name in (*ID_COLUMNS, "sample") if name in table), None)
            if column is None:
                raise DesignError(
                    f"a list of excluded subjects has a column participant_id, but {item} has {listing(table.columns)}"
                )
            ids += [str(name) for name in table[column]]
    return list(dict.fromkeys(ids))


def _rows_and_condition(
    participants: Any, where: str | None, samples: xr.Dataset
) -> tuple[pd.DataFrame, NDArray[np.bool_], NDArray[np.bool_]]:
    """The participants by sample; who of them meets a condition, and who lacks a value of it."""
    given = as_table(participants)
    if given is None or where is None:
        table = _by_sample(participants, samples)
        none = np.zeros(len(table), dtype=bool)
        return (table, ~none, none) if where is None else (table, *rows_where(where, table))
    met, missing = rows_where(where, given)
    marked = given.assign(**{_MET: met, _MISSING: missing})
    try:
        table = _by_sample(marked, samples)
    except DesignError:
        # A condition may choose one of several rows of a subject, such as a visit that file names do not tell.
        ids = id_index(given)
        labels = given.index if ids is None else ids
        subjects = pd.Series(labels.get_level_values(0).map(label_text), index=range(len(given)))
        chosen = met | ~(subjects.isin(subjects[met]) | subjects.duplicated()).to_numpy()
        if chosen.all():
            raise
        table = _by_sample(marked[chosen], samples)
    found, lacking = (table.pop(name).to_numpy(dtype=bool) for name in (_MET, _MISSING))
    return table, found, lacking


def _by_sample(participants: Any, samples: xr.Dataset) -> pd.DataFrame:
    """Participants by sample; rows without one are told when the design is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return participants_by_sample(participants, samples)


def _named(samples: xr.Dataset, participants: Any) -> xr.Dataset:
    """Samples without names, under the ids of the participants in their order, where each has one of its own."""
    ids = match_table(participants, samples)["participant_id"].astype(str)
    if ids.duplicated().any():
        return samples
    return samples.assign_coords(sample=("sample", ids.to_numpy(dtype=object))).assign_attrs(named_by="id")


def _excluded(ids: Sequence[str], samples: xr.Dataset) -> tuple[dict[str, str], list[str]]:
    """Samples that ids exclude by name, and the ids that name none."""
    names = sample_names(samples)
    found = samples_of(ids, names)
    unknown = [item for item, places in zip(ids, found, strict=True) if not places]
    return {names[place]: "excluded" for places in found for place in places}, unknown


def _without(samples: xr.Dataset, left_out: dict[str, str]) -> xr.Dataset:
    """Samples without some of them."""
    keep = [name not in left_out for name in sample_names(samples)]
    if all(keep):
        return samples
    return samples.isel(sample=np.flatnonzero(keep)).assign_attrs(not_chosen=dict(left_out))


def _told(left_out: dict[str, str]) -> str:
    """Who is left out, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{reason}: {listing(names, 30)}" for reason, names in reasons.items())
