"""Stores of the effects of all subjects: made after the first level, read by the group analysis."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import joblib
import pandas as pd

from daskglm.design.matching import samples_of
from daskglm.errors import ContrastError, ImageError, ParameterError, listing
from daskglm.io.bids import Run
from daskglm.io.nifti import read_header
from daskglm.io.receipts import read_receipt, remove_unit, unit
from daskglm.io.store import is_store
from daskglm.io.tables import read_table
from daskglm.models.cohort_units import Plan, Receipt, common_name, map_path
from daskglm.models.contrasts import Contrasts, definitions_in, is_mean
from daskglm.models.convert import write_store
from daskglm.models.options import Options
from daskglm.schema.datasets import participant_columns
from daskglm.schema.names import bids_label


def store_receipt(plan: Plan, subjects: Mapping[str, Sequence[Run | Receipt]], label: str) -> str:
    """Path of the receipt of the store of a contrast.

    Parameters
    ----------
    plan : Plan
        What is done.
    subjects : mapping of str to sequence of Run or Receipt
        Runs of each subject, those that failed as well: the name does not depend on what fails.
    label : str
        Label of the contrast.

    Returns
    -------
    str
        The store is this without ``.json``; its name has every entity that those of all subjects share.
    """
    shared = common_name([common_name([run.name for run in runs]) for runs in subjects.values()])
    entities = [part for part in shared.split("_") if part and not part.startswith("sub-")]
    return os.path.join(plan.output, "group", "_".join([*entities, f"contrast-{label}.zarr.json"]))


def picture_receipt(output: str, label: str) -> str:
    """Path of the receipt of the picture of a contrast.

    Parameters
    ----------
    output : str
        Result folder.
    label : str
        Label of the contrast.

    Returns
    -------
    str
        The picture has this name, but ends in .png.
    """
    return os.path.join(output, "figures", f"contrast-{label}_stat-z.json")


def read_participants(dataset: str) -> tuple[pd.DataFrame | None, list[str]]:
    """The dataset's table of participants, by id with "sub-".

    Parameters
    ----------
    dataset : str
        BIDS dataset.

    Returns
    -------
    table : DataFrame or None
        None where there is none, or it cannot go into a store.
    notes : list of str
        Why it cannot.

    Raises
    ------
    DesignError
        Where the file cannot be read.
    """
    path = os.path.join(dataset, "participants.tsv")
    if not os.path.lexists(path):
        return None, []
    table, why = read_table(path), ""
    if "participant_id" not in table.columns:
        return None, [f"the group stores have no columns of participants: {path} has no column participant_id"]
    ids = "sub-" + table["participant_id"].astype(str).str.strip().str.removeprefix("sub-")
    table = table.drop(columns="participant_id").set_axis(pd.Index(ids, name="participant_id"), axis=0)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        why = f"{path} has several rows of {listing(dict.fromkeys(twice))}"
    else:
        try:
            participant_columns(table)
        except ImageError as error:
            why = f"{path}: {error}"
    return (None, [f"the group stores have no columns of participants: {why}"]) if why else (table, [])


def store_effects(
    receipts: Sequence[Receipt], plan: Plan, participants: pd.DataFrame | None
) -> tuple[dict[str, str], list[str]]:
    """Store the effects of all subjects, a store a contrast, where they share a grid and anything is new.

    Parameters
    ----------
    receipts : sequence of Receipt
        Every subject.
    plan : Plan
        What is done.
    participants : DataFrame or None
        Table of :func:`read_participants`.

    Returns
    -------
    stores : dict of str to str
        Store of each contrast that has one.
    notes : list of str
        Why another has none, and whose values are missing.
    """
    stores: dict[str, str] = {}
    table, notes = _rows(participants, [item.subject for item in receipts if not item.error])
    for contrast, label in plan.labels.items():
        lacking = [item.subject for item in receipts if not item.error and contrast not in item.contrasts]
        if lacking and len(lacking) < len(receipts):
            notes.append(f"{contrast!r} is without {listing(lacking)}, of whom no run has it")
        if plan.kinds[contrast] == "F":
            continue
        receipt = store_receipt(plan, {item.subject: item.runs for item in receipts}, label)
        done = [item for item in receipts if not item.error and contrast in item.contrasts]
        try:
            stores[contrast] = _store(receipt, label, done, table, plan)
        except ImageError as error:
            # What an earlier call stored is of other maps.
            remove_unit(receipt)
            notes.append(f"no store of {contrast!r}: {error}")
    return stores, notes


def _store(receipt: str, label: str, done: Sequence[Receipt], table: pd.DataFrame | None, plan: Plan) -> str:
    """The store of one contrast, made unless it is there already."""
    if not done:
        raise ImageError("no subject has a map of it")
    store = receipt.removesuffix(".json")
    names = [item.subject for item in done]
    rows = None if table is None else table.loc[names]
    key = joblib.hash([label, sorted((item.subject, item.key) for item in done), rows])
    if read_receipt(receipt, key) is not None and is_store(store):
        return store
    remove_unit(receipt)
    paths = [map_path(item, label, "effect") for item in done]
    if len({read_header(path).shape for path in paths}) > 1:
        raise ImageError("the subjects are not in one space")
    with unit(receipt, {"key": key, **plan.stamp}, [os.path.basename(store)]):
        given = None if rows is None else rows.reset_index()
        write_store(paths, store, Options(missing="zero"), given, overwrite=is_store(store))
    return store


def _rows(participants: pd.DataFrame | None, subjects: Sequence[str]) -> tuple[pd.DataFrame | None, list[str]]:
    """A row of the participants table for each subject, and whose are missing."""
    if participants is None or not subjects:
        return None, []
    found = samples_of(subjects, [str(name) for name in participants.index])
    named = {participants.index[rows[0]]: name for name, rows in zip(subjects, found, strict=True) if len(rows) == 1}
    participants = participants.rename(index=named)
    absent = [name for name in subjects if name not in participants.index]
    if len(absent) == len(subjects):
        return None, [
            "the group stores have no columns of participants: participants.tsv has none of the subjects, such as "
            f"{listing(absent, 3)}, but {listing(participants.index, 3)}"
        ]
    notes = [f"participants.tsv lacks {listing(absent)}, whose values are missing in the stores"] if absent else []
    return participants.reindex(list(subjects)), notes


def group_input(
    images: Any, contrasts: Sequence[str], others: bool = False, formula: str = "~ 1"
) -> tuple[Any, Contrasts]:
    """What a group analysis reads, where it is given the result folder of a first-level analysis.

    Parameters
    ----------
    images : str or list of str
        Images, a store, or such a folder.
    contrasts : sequence of str
        Contrasts that were asked for, as on the command line: of the group, and for a folder the label or name of the
        first level's.
    others : bool
        Whether contrasts of the group are asked for besides.
    formula : str
        Of the group.

    Returns
    -------
    images : object
        The store of that contrast; anything else as it was given.
    contrasts : sequence of str, or mapping of str to str
        Contrasts of the group; of the mean the intercept, by the name of the first level's, where none is asked for.

    Raises
    ------
    ContrastError
        Where a folder has several contrasts and none of them is named.
    """
    stores = group_stores(images) if isinstance(images, str) else {}
    if not stores:
        return images, contrasts
    found = {text: pair for text in contrasts if (pair := first_level_contrast(text, stores)) is not None}
    if len(found) > 1 or (not found and len(stores) > 1):
        raise ContrastError(
            f"{images} has the first-level contrasts {listing(stores)}; name one of them, as in --contrast "
            f"{next(iter(stores))}"
        )
    name, label = next(iter(found.values()), (next(iter(stores)),) * 2)
    rest = [text for text in contrasts if text not in found]
    return stores[label], rest if rest or others or not is_mean(formula) else {name: "intercept"}


def first_level_contrast(text: str, stores: Mapping[str, str]) -> tuple[str, str] | None:
    """The first-level contrast that a text names, as "face - house", "faceMinusHouse" or "new_name=faceMinusHouse".

    Parameters
    ----------
    text : str
        Text.
    stores : mapping of str to str
        Of :func:`group_stores`.

    Returns
    -------
    (name, label) or None
        None where it names none.
    """
    for name, definition in definitions_in(text):
        if definition in stores:
            return name, definition
        with suppress(ContrastError):  # an expression may be too long for a label, or have no letter
            if bids_label(definition) in stores:
                return name, bids_label(definition)
    return None


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
