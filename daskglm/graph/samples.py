"""Tables and values by sample, brought into the order of the images: the one place where that happens."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.matching import ID_COLUMNS, are_ids, id_index, label_text, match_rows, subject_of
from daskglm.design.matrix import design_array
from daskglm.errors import DesignError, DesignTypeError, listing
from daskglm.io.tables import as_table
from daskglm.schema.datasets import participants_of, sample_names
from daskglm.schema.names import sample_ids, subject_id

_NAMES_OF_IDS = ("id", "sub", "subid", "subj", "subject", "subjectid", "subjectlabel", "participant", "participantid")


def samples_of_files(paths: Sequence[str]) -> xr.Dataset:
    """The samples that some files are, without their data.

    Parameters
    ----------
    paths : sequence of n str
        Paths or URLs of 3-D images.

    Returns
    -------
    xarray.Dataset
        Coordinate ``sample``, the names; variable ``source``, the paths; ``attrs["named_by"]`` is "id" where all names
        are of subjects, else "file".

    Raises
    ------
    ImageError
        Where one file is given twice.
    """
    known = all(subject_id(path) for path in paths)
    return xr.Dataset(
        {"source": ("sample", np.array(paths, dtype=object))},
        coords={"sample": ("sample", np.array(sample_ids(paths), dtype=object))},
        attrs={"named_by": "id" if known else "file"},
    )


def match_design(design: pd.DataFrame, images: xr.Dataset) -> pd.DataFrame:
    """Rows of a design in the order of the samples: by id, where its index or a column participant_id holds ids.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design matrix.
    images : xarray.Dataset
        Images dataset.

    Returns
    -------
    DataFrame
        The same rows, reordered, without columns of ids; ``attrs["rows"]`` says how they were matched, "by id" or "by
        order".

    Raises
    ------
    DesignError
        Where a sample has no row, or there are no ids and nobody gave the order of the images.
    """
    if not isinstance(design, pd.DataFrame):
        raise DesignTypeError(f"a design matrix is a pandas DataFrame, but this is {type(design).__name__}")
    ids = id_index(design)
    _check_regressors(design)
    attrs = design.attrs
    if ids is not None:
        design = design.set_axis(ids, axis=0).drop(columns=[*ID_COLUMNS, "session_id"], errors="ignore")
    rows = _rows(design.index, images, "the design")
    if rows is None:
        matched = design.copy(deep=False)
    else:
        matched = design.iloc[rows]
        attrs = {**attrs, "reordered": attrs.get("reordered", False) or not _ascend(rows)}
    if are_ids(matched.index):
        attrs = {"subjects": _subjects(matched.index), **attrs}
    matched.attrs = {**attrs, "rows": "by order" if rows is None else "by id"}
    return matched


def match_table(participants: pd.DataFrame, images: xr.Dataset, also_allowed: Collection[str] = ()) -> pd.DataFrame:
    """Rows of a participants table in the order of the samples.

    Parameters
    ----------
    participants : DataFrame
        With a column participant_id or subject_label (and session_id, run), or an index of ids.
    images : xarray.Dataset
        Images dataset of n samples.
    also_allowed : collection of str
        Subjects that the table may have besides, without a word.

    Returns
    -------
    (n, k) DataFrame
        Indexed by sample; with a column participant_id, the subjects.

    Raises
    ------
    DesignError
        Where there are no ids, or a sample has no row.
    """
    if participants.empty:
        raise DesignError("a participants table has a row a subject, but this one has none; add them")
    ids = id_index(participants)
    if ids is None and not are_ids(participants.index) and images.attrs.get("named_by") != "order":
        raise DesignError(
            f"a participants table has a column participant_id, but this one has {listing(participants.columns)}"
        )
    labels = participants.index if ids is None else ids
    rows = _rows(labels, images, "the participants table", also_allowed)
    if rows is None and len(participants) != images.sizes["sample"]:
        raise DesignError(
            f"the participants table has {len(participants)} rows and there are {images.sizes['sample']} images, which "
            "have no ids; give a row an image, in their order"
        )
    table = participants if rows is None else participants.iloc[rows]
    names = sample_names(images)
    kept = [name for name in table.columns if name not in ID_COLUMNS]
    subjects = _subjects(labels if rows is None else labels[rows])
    table = table[kept].set_axis(pd.Index(names, name="participant_id"), axis=0)
    table.insert(0, "participant_id", subjects)
    table.attrs = {"rows": "by order" if rows is None else "by id", "subjects": subjects}
    return table


def participants_by_sample(participants: Any, images: xr.Dataset) -> pd.DataFrame:
    """The participants in the order of the samples.

    Parameters
    ----------
    participants : DataFrame, path or None
        Table as of :func:`match_table`; None: the one that a store brings.
    images : xarray.Dataset
        Images dataset of n samples.

    Returns
    -------
    (n, k) DataFrame
        Indexed by sample; of nothing but a column participant_id, the subjects, where there is no table.

    Raises
    ------
    DesignError
        As of :func:`match_table`.
    """
    table = as_table(participants)
    if table is not None:
        return match_table(table, images)
    table = participants_of(images)
    if table is None:
        table = pd.DataFrame(index=pd.Index(sample_names(images), name="participant_id"))
    if "participant_id" not in table:
        table.insert(0, "participant_id", subjects_of(images))
    table.attrs = {"rows": "by id", "subjects": [str(name) for name in table["participant_id"]]}
    return table


def match_values(values: Any, images: xr.Dataset, design: pd.DataFrame, what: str) -> Any:
    """Values by sample in the order of the samples.

    Parameters
    ----------
    values : array, Series, DataFrame, DataArray or None
        A value, or row, a sample. With an index they follow it: that of the design's rows, or ids of the images.
    images : xarray.Dataset
        Images dataset of n samples.
    design : (n, p) DataFrame
        From :func:`match_design`.
    what : str
        What they are, for messages.

    Returns
    -------
    array or None
        As it was given, where it has no index.

    Raises
    ------
    DesignError
        Where a sample has no value; where there is no index, and the rows of the design were reordered.
    """
    if isinstance(values, xr.DataArray) and "sample" in values.coords:
        rows = _rows(pd.Index(values["sample"].values), images, what)
        return values.data if rows is None else values.isel(sample=rows).data
    if not isinstance(values, (pd.Series, pd.DataFrame)):
        # Of two dimensions they are by sample and voxel, as the images themselves.
        if values is not None and np.ndim(values) == 1:
            _check_order(design, what)
        return values
    if isinstance(values, pd.DataFrame):
        ids = id_index(values)
        values = values if ids is None else values.set_axis(ids, axis=0)
        values = values.drop(columns=[*ID_COLUMNS, "session_id"], errors="ignore")
        values = values.iloc[:, 0] if values.shape[1] == 1 else values
    same = len(values) == len(design) or are_ids(design.index)
    if same and values.index.is_unique and design.index.isin(values.index).all() and design.index.is_unique:
        return values.iloc[values.index.get_indexer(design.index)].to_numpy()
    rows = _rows(values.index, images, what)
    if rows is None:
        _check_order(design, what)
        return values.to_numpy()
    return values.iloc[rows].to_numpy()


def warn_of_repeats(images: xr.Dataset, design: pd.DataFrame, within: Any = None, whole: Any = None) -> None:
    """Warn where several samples are of one subject, and neither the design nor blocks of exchangeability say so.

    Parameters
    ----------
    images : xarray.Dataset
        Images dataset of n samples.
    design : (n, p) DataFrame
        Design in their order.
    within, whole : (n,) array, optional
        Blocks of exchangeability: subjects within which rows change places, or blocks that hold whole subjects.
    """
    subjects = np.array(design.attrs.get("subjects") or subjects_of(images), dtype=str)
    names, numbers, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    if len(names) == len(subjects) or len(design) != len(subjects):
        return
    for blocks, one_each in ((within, True), (whole, False)):
        if blocks is not None and np.shape(blocks) == subjects.shape:
            pairs = set(zip(np.asarray(blocks).astype(str).tolist(), subjects.tolist(), strict=True))
            # Each subject is in one block, and within blocks of their own only its images change places.
            if len(pairs) == len(names) and (not one_each or len({block for block, _ in pairs}) == len(names)):
                return
    indicators = (numbers[:, None] == np.flatnonzero(counts > 1)).astype(float)
    matrix = design_array(design)
    left = indicators - matrix @ np.linalg.lstsq(matrix, indicators, rcond=None)[0]
    if np.abs(left).max() < 1e-8:
        return
    several = dict.fromkeys(subjects[(counts > 1)[numbers]])
    warnings.warn(
        f"{len(several)} subjects have several images ({listing(several, 4)}), but the model "
        "treats rows as independent, so that p of what differs between subjects are too small; take one image of each, "
        "such as a mean or a difference, or for what differs within subjects give the design a column a subject "
        "(C(participant_id) in a formula); a permutation test may keep their images together by within or whole",
        stacklevel=3,
    )


def subjects_of(images: xr.Dataset) -> list[str]:
    """The subject of each sample, by its name.

    Parameters
    ----------
    images : xarray.Dataset
        Images dataset.

    Returns
    -------
    list of str
    """
    return [subject_of(name) for name in sample_names(images)]


def _subjects(index: pd.Index) -> list[str]:
    """Subjects of rows, by their labels."""
    labels = index.get_level_values(0) if isinstance(index, pd.MultiIndex) else index
    return [subject_of(label_text(label)) for label in labels]


def _rows(
    labels: pd.Index, images: xr.Dataset, table: str, also_allowed: Collection[str] = ()
) -> NDArray[np.intp] | None:
    """Positions of rows in the order of the samples; None where the order alone counts."""
    also_allowed = {*also_allowed, *images.attrs.get("not_chosen", ())}
    names, named_by = sample_names(images), str(images.attrs.get("named_by", "id"))
    paths = [str(path) for path in images["source"].values] if "source" in images else None
    rows = match_rows(labels, names, named_by, paths=paths, table=table, also_allowed=also_allowed)
    if rows is None and named_by == "id" and images.attrs.get("sorted_by"):
        raise DesignError(
            f"rows of {table} ({listing(labels, 4)}) have no ids, and the images ({listing(names, 4)}) are in the "
            f"order of {images.attrs['sorted_by']}, so that it is not clear which row is whose; set the index of "
            f"{table} to the ids of the images"
        )
    return rows


def _check_regressors(design: pd.DataFrame) -> None:
    """Raise where a column of ids under another name would be a regressor."""
    for name, column in design.items():
        known = "".join(character for character in str(name).lower() if character.isalpha()) in _NAMES_OF_IDS
        if name in ID_COLUMNS or not known:
            continue
        if not pd.api.types.is_numeric_dtype(column) or not (column % 1 == 0).all():
            continue
        # Of several visits a subject its number repeats; sub-01 and the like are indicators of one.
        repeats = column.nunique() > 2 and not any(character.isdigit() for character in str(name))
        if column.is_unique or repeats:
            raise DesignError(
                f"column {name!r} of the design looks like ids, and would be a regressor; call it participant_id to "
                f"match rows by it, write C({name}) in a formula for a column a subject, or drop it"
            )


def _check_order(design: pd.DataFrame, what: str) -> None:
    """Raise where values without an index stand beside a design whose rows were reordered."""
    if design.attrs.get("reordered"):
        raise DesignError(
            f"the values of {what} have no ids, but the rows of the design were brought into the order of the images, "
            "so that it is not clear whose they are; give a Series with the index of the design"
        )


def _ascend(rows: NDArray[np.intp]) -> bool:
    """Whether rows kept their order."""
    return bool((np.diff(rows) > 0).all())
