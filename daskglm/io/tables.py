"""Tables: participants in, designs out."""

import codecs
import csv
import os
import re
from io import StringIO
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from daskglm.errors import DesignError, DesignTypeError, StorageError, listing
from daskglm.io import files
from daskglm.io.objects import check_bucket
from daskglm.io.urls import check_url

_SEPARATORS = {".tsv": "\t", ".csv": ",", ".txt": "\t"}
_SIGNS = {"\t": "tabs", ",": "commas", ";": "semicolons"}


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table: .tsv (tabs, ``n/a`` is missing, as BIDS says) or .csv (commas or semicolons).

    Parameters
    ----------
    path : path
        File or URL, of UTF-8 or, with a byte order mark, UTF-16.

    Returns
    -------
    pandas.DataFrame
        Cells without the blanks around them; rows and columns of nothing at the end are left out.

    Raises
    ------
    DesignError
        Where the file is absent, empty, of another kind or encoding, or its rows and columns do not fit together.
    """
    name = os.fspath(path)
    if os.path.splitext(name)[1].lower() not in _SEPARATORS:
        raise DesignError(f"tables are .tsv or .csv, but this is {name}; save it as one of those")
    check_url(name)
    try:
        if files.absent(name):
            raise FileNotFoundError(name)
        text, separator = table_text(files.read_bytes(name), name)
        table = pd.read_csv(StringIO(text), sep=separator, na_values=["n/a"], dtype=_text_ids(text, separator))
    except (DesignError, StorageError):  # the latter says nothing of the table
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    return table.drop(columns=_nameless(table, name))


def _nameless(table: pd.DataFrame, name: str) -> list[Any]:
    """Columns without a name, that hold nothing or count the rows, as pandas and R write them; others are refused."""
    nameless = [column for column in table if str(column).startswith("Unnamed: ")]
    for column in nameless:
        held = table[column]
        counts = pd.api.types.is_integer_dtype(held) and any(
            np.array_equal(held, np.arange(first, first + len(held))) for first in (0, 1)
        )
        if not (held.isna().all() or counts):
            raise DesignError(
                f"columns of a table have names, but that of {listing(held.dropna().astype(str), 4)} in {name} has "
                "none; name it (participant_id, if it holds ids), or delete it"
            )
    return nameless


def _unreadable(name: str, error: Exception) -> DesignError:
    """The error of a table that cannot be read: what is wrong, and what to do."""
    absent = files.absent(name)
    if files.is_url(name) and isinstance(error, FileNotFoundError):
        check_bucket(name)
    if absent:
        return DesignError(f"cannot read the table {name}: {'; '.join(absent)}")
    if isinstance(error, IsADirectoryError):
        return DesignError(f"cannot read the table {name}: it is a folder; name the file in it")
    if isinstance(error, FileNotFoundError):
        return DesignError(f"cannot read the table {name}: there is no such file; correct the path")
    return DesignError(f"cannot read the table {name}: {error}")


def table_text(content: bytes, name: str) -> tuple[str, str]:
    """Text of a table and what separates its columns.

    Parameters
    ----------
    content : bytes
        Of the file.
    name : str
        Its name, which says what separates its columns.

    Returns
    -------
    text, separator : str
        Without blanks around cells, and without lines of nothing at the end.

    Raises
    ------
    DesignError
        Where it has another encoding, other separators than its name says, or a name twice.
    """
    text = re.sub(r"\r\n?", "\n", _decoded(content, name))  # lines of old Macs end in a carriage return alone
    separator = _separator(text, name)
    text = re.sub(rf"(\n[{re.escape(separator)} ]*)+\Z", "\n", _stripped(text, separator))
    columns, row = [*islice(csv.reader(StringIO(text), delimiter=separator), 2), [], []][:2]
    if len(row) > len(columns):
        raise DesignError(
            f"rows of a table have as many cells as its first line has names, but those of {name} have {len(row)} "
            f"and the line {len(columns)}; name every column"
        )
    twice = [column for column in dict.fromkeys(columns) if column.strip() and columns.count(column) > 1]
    if twice:
        raise DesignError(f"columns of a table have different names, but {name} has {listing(twice)} more than once")
    return text, separator


def as_table(given: pd.DataFrame | str | os.PathLike[str] | None) -> pd.DataFrame | None:
    """A table that may be given as a path.

    Parameters
    ----------
    given : DataFrame, path or None
        What a user gave.

    Returns
    -------
    DataFrame or None
        The file's table for a path, else what was given.

    Raises
    ------
    DesignTypeError
        Where it is none of these.
    """
    if given is not None and not isinstance(given, (pd.DataFrame, str, os.PathLike)):
        raise DesignTypeError(f"a table is a DataFrame or a path, but this is {type(given).__name__}")
    return read_table(given) if isinstance(given, (str, os.PathLike)) else given


def _decoded(content: bytes, name: str) -> str:
    """Text of UTF-8, or of UTF-16 where its mark says so; any other encoding would have to be guessed."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if not {"\n", "\r"} & set(text := content.decode("utf-16", errors="replace")):
            raise DesignError(f"{name} is marked as UTF-16, but has no lines in it; save the file as UTF-8")
        return text
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        line = content.split(b"\n")[number - 1].decode("latin-1").strip()
        raise DesignError(
            f"tables are text in UTF-8, but line {number} of {name} is not: {line[:80]!r}; save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise DesignError(f"tables are text in UTF-8, but {name} has zero bytes; save the file as UTF-8")
    return text


def _stripped(text: str, separator: str) -> str:
    """A table without the blanks around its cells, in quotes or not."""
    if '"' not in text:
        return re.sub(rf"[ \u00a0]*({re.escape(separator)}|\n|\Z)[ \u00a0]*", r"\1", text).lstrip(" \u00a0")
    try:
        rows = list(csv.reader(StringIO(text), delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error:
        return text  # pandas says what is wrong with it
    stripped = StringIO()
    writer = csv.writer(stripped, delimiter=separator, lineterminator="\n")
    writer.writerows([cell.strip() for cell in row] for row in rows)
    return stripped.getvalue()


def _separator(text: str, name: str) -> str:
    """What separates the columns: by the file's name, and in a .csv also semicolons, where its first line has them."""
    first = text.partition("\n")[0]
    separator = _SEPARATORS.get(os.path.splitext(name)[1].lower(), "\t")
    if separator in first:
        return separator
    if separator == "," and ";" in first:
        return ";"
    other = next((word for sign, word in _SIGNS.items() if sign in first), None)
    if other is None:
        return separator
    raise DesignError(
        f"columns of {name} are separated by {_SIGNS[separator]}, as its name says, but its first line has {other}: "
        f"{first.strip()[:80]!r}; save it with {_SIGNS[separator]}, or name it {'.csv' if separator != ',' else '.tsv'}"
    )


def _text_ids(text: str, separator: str) -> dict[str, Any]:
    """Ids stay text: 007 is no number."""
    columns = pd.read_csv(StringIO(text), sep=separator, nrows=0).columns
    return {column: str for column in ("participant_id", "subject_label") if column in columns}
