"""Rows of tables matched to images, and files to files: by subject, session and run."""

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import DesignError, ImageError, listing

ID_COLUMNS = ("participant_id", "subject_label")
_SESSION_COLUMNS, _RUN_COLUMNS = ("session_id", "ses", "session"), ("run_id", "run")
# Of BIDS; plus signs are in labels of newer datasets.
_ENTITY = re.compile(r"(?:^|[_/\\])(sub|ses|run)-([A-Za-z0-9+]+)(?=[_/\\.]|\Z)")
_SESSION_OR_RUN = re.compile(r"(^|_)(ses|run)-[A-Za-z0-9+]+")
_HEAD = 4

Key = tuple[str, ...]


def match_rows(
    labels: Any,
    names: Sequence[str],
    named_by: str = "id",
    *,
    paths: Sequence[str] | None = None,
    table: str = "the design",
    also_allowed: Collection[str] = (),
) -> NDArray[np.intp] | None:
    """Positions of the rows of a table in the order of the samples.

    Parameters
    ----------
    labels : Index or sequence
        Labels of the rows: ids of subjects, or a MultiIndex of subjects, sessions, runs. Ids match with and without
        "sub-"; those of digits alone match as numbers (001 is 1), unless two on one side would become the same.
    names : sequence of n str
        Names of the samples.
    named_by : {"id", "file", "order"}
        What the samples are named by: "file": their files, in whose names or folders ids of the table may stand;
        "order": their numbers, for they have no names.
    paths : sequence of n str, optional
        Where the samples come from.
    table : str
        What the table is, for messages.
    also_allowed : collection of str
        Subjects that the table may have besides, without a word.

    Returns
    -------
    (n,) intp or None
        ``table.iloc[positions]`` is in the order of the samples; None where there are no ids: rows are in that order.

    Raises
    ------
    DesignError
        Where there are ids, and a sample has no row, or several.

    Warns
    -----
    UserWarning
        Where the table has rows without a sample, or ids that samples without names cannot have.
    """
    index = labels if isinstance(labels, pd.Index) else pd.Index(list(labels))
    surely, floats = are_ids(index), _may_be_float_ids(index)
    if not surely and not floats and not _may_be_ids(index):
        # Images in a Series may have the labels of the same table.
        found = _positions([label_text(label) for label in index], names) if named_by == "id" else None
        if found is None and named_by != "order" and not _is_number_of_rows(index):
            raise DesignError(
                f"rows of {table} are matched to images by id, which is text or a whole number, but the labels of some "
                f"are {_head(label for label in index if not _may_be_id(label))}; set the index to the ids of the "
                "images, or, where rows are in the order of the images, say so by reset_index(drop=True)"
            )
        return found
    texts = [_shown(label, index.names) for label in index]
    found = _positions([_bare(text) for text in texts], [_bare(name) for name in names])
    # Numbers that ascend are those of any table.
    told = surely or not index.is_monotonic_increasing
    if named_by == "order" and found is None:
        if told and len(index) == len(names):
            _warn_of_order("images in memory, or volumes of one file, have no ids", table, index)
        return None
    rows, samples = _keys(index, names, paths)
    _check_names(names)
    if found is None:
        found = _positions(rows, samples)
    if found is None and paths is not None:
        found = _found_in_paths(index, paths)
    if found is None:
        if not surely and (floats or named_by == "file") and not set(rows) & set(samples):
            if told and len(index) == len(names):
                _warn_of_order("names of the images are none of its labels", table, index)
            return None
        raise DesignError(_refusal(texts, rows, _told_apart(index, names, paths), samples, table, surely))
    left = np.setdiff1d(np.arange(len(index)), found)
    known = [texts[row] for row in left]
    allowed = {place for places in samples_of(list(also_allowed), known) for place in places}
    extra = [text for place, text in enumerate(known) if place not in allowed]
    if extra:
        what = (
            "1 row of {} has no image and is" if len(extra) == 1 else f"{len(extra)} rows of {{}} have no image and are"
        )
        warnings.warn(f"{what.format(table)} not used: {listing(extra)}", stacklevel=3)
    return found


def check_pairs(first: Sequence[Any], second: Sequence[Any], what: str) -> None:
    """Raise where files that are taken together, one of each, are of different subjects, sessions or runs.

    Parameters
    ----------
    first, second : sequence of n
        Paths; anything else is of nobody.
    what : str
        What they are, for the message: "events and runs".

    Raises
    ------
    ImageError
        Naming those that are not of the same.
    """
    # Runs may be counted from 0 here and from 1 there.
    runs = [sorted(_labels(item).get("run", "") for item in side) for side in (first, second)]
    wrong, permuted = [], runs[0] == runs[1]
    for x, y in zip(first, second, strict=False):
        one, other = _labels(x), _labels(y)
        shared = one.keys() & other.keys()
        if any(one[key] != other[key] for key in shared if key != "run" or permuted):
            wrong.append(f"{x} with {y}")
    if wrong:
        raise ImageError(
            f"{what} are taken one with one, in their order, but {listing(wrong, 2)} are of different subjects, "
            "sessions or runs; bring them into one order"
        )


def are_ids(index: pd.Index) -> bool:
    """Whether the labels of rows are ids: text, several levels, or numbers under a name.

    Parameters
    ----------
    index : Index
        Labels.

    Returns
    -------
    bool
        False for numbers without a name, which rows of any table have, and for no rows.
    """
    if isinstance(index, pd.MultiIndex) or index.name in ID_COLUMNS:
        return len(index) > 0
    if pd.api.types.is_numeric_dtype(index):
        return index.name is not None and _may_be_ids(index)
    return len(index) > 0 and all(map(_may_be_id, index))


def id_index(table: pd.DataFrame) -> pd.Index | None:
    """Ids of the rows of a table, from its columns of subjects, sessions and runs.

    Parameters
    ----------
    table : DataFrame
        Any.

    Returns
    -------
    Index or None
        A MultiIndex where there are sessions or runs; None without a column of subjects.

    Raises
    ------
    DesignError
        Where there are several such columns of one name, or an id is missing.
    """
    column = next((name for name in ID_COLUMNS if name in table.columns), None)
    if column is None:
        return None
    if list(table.columns).count(column) > 1:
        raise DesignError(f"a participants table has one column {column}, but this one has several; keep one")
    lacking = table.index[table[column].isna()]
    if len(lacking):
        raise DesignError(f"each row has an id, but {column} is missing in rows {listing(lacking)}; fill it in")
    levels = {"participant_id": table[column].map(label_text)}
    repeated = levels["participant_id"].duplicated().any()
    for name, known in (("session_id", _SESSION_COLUMNS), ("run", _RUN_COLUMNS)):
        # Under its everyday name such a column may be a covariate.
        usable = known if repeated else known[: len(known) - 1]
        chosen = next((key for key in usable if key in table.columns and table[key].notna().all()), None)
        if chosen is not None:
            levels[name] = table[chosen].map(label_text)
    if len(levels) == 1:
        return pd.Index(levels["participant_id"], name="participant_id")
    return pd.MultiIndex.from_arrays(list(levels.values()), names=list(levels))


def samples_of(ids: Sequence[str], names: Sequence[str] | pd.Index) -> list[list[int]]:
    """Samples of some ids: of a subject, or of one session or run of it, by the rules of :func:`match_rows`.

    Parameters
    ----------
    ids : sequence of m str
        Ids.
    names : Index or sequence of n str
        Names of samples, or a MultiIndex of subjects, sessions, runs.

    Returns
    -------
    list of m lists of int
        Positions of the samples; empty where there is none.
    """
    levels = names.names if isinstance(names, pd.MultiIndex) else ()
    wanted, samples = _comparable([_parts(item, ()) for item in ids], [_parts(name, levels) for name in names])
    of_subject: dict[str, list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    for place, (name, (subject, *_)) in enumerate(zip(names, samples, strict=True)):
        of_subject[subject].append(place)
        by_name[_bare(name)].append(place)
    return [
        by_name[_bare(item)] if _bare(item) in by_name else [
            place for place in of_subject.get(key[0], [])
            if all(x in ("", y) for x, y in zip(key[1:], samples[place][1:], strict=True))
        ]
        for item, key in zip(ids, wanted, strict=True)
    ]  # fmt: skip


def subject_of(name: str) -> str:
    """The subject in the name of a sample: ``sub-01`` of ``sub-01_ses-2``; the name itself where it has none.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    str
    """
    found = dict(_ENTITY.findall(name))
    return f"sub-{found['sub']}" if "sub" in found else _parts(name, ())[0] if found else name


def _may_be_id(label: Any) -> bool:
    """Whether a label is text, or a whole number of any type."""
    if isinstance(label, (float, np.floating)):
        return float(label).is_integer()
    return isinstance(label, (str, int, np.integer)) and not isinstance(label, bool)


def _may_be_ids(index: pd.Index) -> bool:
    """Whether labels without a name are whole numbers other than those of the rows."""
    return bool(pd.api.types.is_integer_dtype(index)) and not _counts_rows(index)


def _may_be_float_ids(index: pd.Index) -> bool:
    """Whether labels are 1.0, 2.0, ...: ids of a table that once lacked some, or times of volumes."""
    return bool(pd.api.types.is_float_dtype(index) and (index % 1 == 0).all()) and not _counts_rows(index)


def _is_number_of_rows(index: pd.Index) -> bool:
    """Whether labels without a name are numbers: of rows, or times of volumes."""
    return not len(index) or bool(pd.api.types.is_numeric_dtype(index) and not pd.api.types.is_bool_dtype(index))


def _counts_rows(index: pd.Index) -> bool:
    """Whether labels are 0, 1, 2, ..."""
    return bool(np.array_equal(index.to_numpy(), np.arange(len(index))))


def _keys(index: pd.Index, names: Sequence[str], paths: Sequence[str] | None) -> tuple[list[Key], list[Key]]:
    """Subject of each row and of each sample, with its session and run where both sides have them."""
    rows = [_parts(label, index.names) for label in index]
    places = names if paths is None else paths
    samples = []
    for name, path in zip(names, places, strict=True):
        subject, *more = _parts(name, ())
        samples.append((subject, *(x or y for x, y in zip(more, _entities(str(path)), strict=True))))
    used = [0, *(k for k in (1, 2) if all(row[k] for row in rows) and all(sample[k] for sample in samples))]
    return _comparable(
        [tuple(row[k] for k in used) for row in rows], [tuple(item[k] for k in used) for item in samples]
    )


def _parts(label: Any, levels: Sequence[Any]) -> Key:
    """Subject, session and run of a label; empty where it does not say."""
    if isinstance(label, tuple):
        order = [_level(name, position) for position, name in enumerate(levels)]
        held = {place: label_text(item) for place, item in zip(order, label, strict=True)}
        return _bare(held.get(0, "")), held.get(1, "").removeprefix("ses-"), held.get(2, "").removeprefix("run-")
    text = label_text(label)
    found = dict(_ENTITY.findall(text))
    # Without the prefix of BIDS the subject is what is left.
    subject = found.get("sub") or _SESSION_OR_RUN.sub("", _bare(text)) or _bare(text)
    return subject, found.get("ses", ""), found.get("run", "")


def _labels(item: Any) -> dict[str, str]:
    """Subject, session and run of a path, digits as numbers; of anything else nothing."""
    found = _ENTITY.findall(os.fspath(item)) if isinstance(item, (str, os.PathLike)) else []
    return {name: _number(label) for name, label in found}


def _level(name: Any, position: int) -> int:
    """What a level of labels holds: 0 subjects, 1 sessions, 2 runs."""
    if name in ID_COLUMNS:
        return 0
    return 1 if name in _SESSION_COLUMNS else 2 if name in _RUN_COLUMNS else position


def _entities(text: str) -> tuple[str, str]:
    """Session and run in a name or path."""
    found = dict(_ENTITY.findall(text))
    return found.get("ses", ""), found.get("run", "")


def _comparable(rows: list[Key], samples: list[Key]) -> tuple[list[Key], list[Key]]:
    """Keys whose parts of digits are numbers, where that makes no two of one side the same."""
    for part in range(len(next(iter([*rows, *samples]), ()))):
        sides = [{key[part] for key in side} for side in (rows, samples)]
        if all(len({_number(text) for text in side}) == len(side) for side in sides):
            rows, samples = ([(*k[:part], _number(k[part]), *k[part + 1 :]) for k in side] for side in (rows, samples))
    return rows, samples


def _number(text: str) -> str:
    """Digits without the zeros before them; anything else as it is."""
    return text.lstrip("0") or "0" if text.isascii() and text.isdecimal() else text


def _check_names(names: Sequence[str]) -> None:
    """Raise where names of samples differ by nothing but the prefix of BIDS."""
    bare = Counter(map(_bare, names))
    twice = [name for name in names if bare[_bare(name)] > 1]
    if twice:
        raise DesignError(f"images must differ by name, but {listing(twice)} name the same subject; rename them")


def _positions(rows: Sequence[Any], samples: Sequence[Any]) -> NDArray[np.intp] | None:
    """Where each sample is among the rows; None where one is not there once, or two are the same."""
    counts, place = Counter(rows), {key: position for position, key in enumerate(rows)}
    if len(set(samples)) < len(samples) or any(counts[key] != 1 for key in samples):
        return None
    return np.array([place[key] for key in samples], dtype=np.intp)


def _found_in_paths(index: pd.Index, paths: Sequence[str]) -> NDArray[np.intp] | None:
    """Rows whose ids stand in the paths: in all file names, else in all folders of one level, nearest first."""
    rows = [_parts(label, index.names) for label in index]
    subjects = [row[0] for row in rows]
    as_number = len({_number(text) for text in subjects}) == len(set(subjects))
    known = {_number(text) if as_number else text for text in subjects}
    folders = [re.split(r"[/\\]", path)[::-1] for path in map(str, paths)]
    for level in range(min(map(len, folders), default=0)):
        found = [_ids_in(_SESSION_OR_RUN.sub("", names[level]), known, as_number) for names in folders]
        if not all(len(ids) == 1 for ids in found):
            continue
        samples = [(next(iter(ids)), *_entities(path)) for ids, path in zip(found, paths, strict=True)]
        used = [0, *(k for k in (1, 2) if all(row[k] for row in rows) and all(item[k] for item in samples))]
        sides = ([tuple(key[k] for k in used) for key in side] for side in (rows, samples))
        positions = _positions(*_comparable(*sides))
        if positions is not None:
            return positions
    return None


def _ids_in(text: str, known: Collection[str], as_number: bool) -> set[str]:
    """Known ids that stand in a text between signs, the longest ones."""
    words = [match.span() for match in re.finditer(r"[^\W_]+", text)]
    spans = []
    for first, (start, _) in enumerate(words):
        for _, stop in words[first : first + 6]:
            candidate = _number(text[start:stop]) if as_number else text[start:stop]
            if candidate in known:
                spans.append((start, stop, candidate))
    return {
        name for start, stop, name in spans
        if not any(x <= start and stop <= y and (x, y) != (start, stop) for x, y, _ in spans)
    }  # fmt: skip


def _warn_of_order(why: str, table: str, index: pd.Index) -> None:
    """Warn that labels of rows are not used."""
    warnings.warn(
        f"{why}: rows of {table} ({_head(index)}) are taken in the order of the images; check that they are in it",
        stacklevel=4,
    )


def _refusal(
    texts: list[str], rows: list[Key], names: Sequence[str], samples: list[Key], table: str, surely: bool
) -> str:
    """Why rows and images cannot be matched."""
    counts, of_samples = Counter(rows), Counter(samples)
    order = "" if surely else "; where rows are in the order of the images, say so by reset_index(drop=True)"
    twice = dict.fromkeys(text for text, key in zip(texts, rows, strict=True) if counts[key] > 1 and key in of_samples)
    if twice:
        return (
            f"{table} has one row a subject, but {listing(twice)} occur more than once; keep one row each, or tell "
            f"them apart by a column session_id, which names of images have as ses-{order}"
        )
    shared = [name for name, key in zip(names, samples, strict=True) if of_samples[key] > 1]
    if shared and set(samples) & set(rows):
        return (
            f"{table} has one row a subject, but several images are of one: {listing(shared)}; add a column "
            f"session_id (and run) with a row an image, or keep one image each{order}"
        )
    if not set(samples) & set(rows):
        return (
            f"rows of {table} are matched to images by id, but none of its {len(rows)} ids ({_head(texts)}) is that of "
            f"one of the {len(names)} images ({_head(names)}); write the same ids in both{order}"
        )
    absent = [name for name, key in zip(names, samples, strict=True) if key not in counts]
    extra = [text for text, key in zip(texts, rows, strict=True) if key not in of_samples]
    parts = [f"no row: {listing(absent)}"] + ([f"no image: {listing(extra)}"] if extra else [])
    return (
        f"{table} has {len(rows)} rows and there are {len(names)} images ({'; '.join(parts)}); "
        f"add the rows, or drop the images{order}"
    )


def _told_apart(index: pd.Index, names: Sequence[str], paths: Sequence[str] | None) -> list[str]:
    """Names of samples with the session and run of their paths, where rows have such."""
    if index.nlevels == 1 or paths is None:
        return list(names)
    entities = [dict(zip(("ses", "run"), _entities(path), strict=True)) for path in paths]
    return [
        "_".join([name, *(f"{key}-{text}" for key, text in found.items() if text and f"{key}-" not in name)])
        for name, found in zip(names, entities, strict=True)
    ]


def _head(items: Iterable[Any]) -> str:
    """The first of some labels."""
    return listing(map(_shown, items), _HEAD)


def _shown(label: Any, levels: Sequence[Any] = ()) -> str:
    """A label as messages have it, and as samples are named."""
    if not isinstance(label, tuple):
        return label_text(label)
    _, session, run = _parts(label, levels or range(len(label)))
    more = [f"{name}-{text}" for name, text in (("ses", session), ("run", run)) if text]
    return "_".join([label_text(label[0]), *more])


def label_text(label: Any) -> str:
    """A label of a row as text; a whole number is one, whatever its type.

    Parameters
    ----------
    label : object
        Label.

    Returns
    -------
    str
    """
    if isinstance(label, (float, np.floating)) and np.isfinite(label) and label == int(label):
        label = int(label)
    return str(label).strip()


def _bare(name: str) -> str:
    """An id without the prefix that BIDS gives it in some places and not in others."""
    return str(name).strip().removeprefix("sub-")
