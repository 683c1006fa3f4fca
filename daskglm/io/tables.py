"""Tables: participants in, designs out."""

import os
from io import BytesIO
from typing import Any

import pandas as pd

from daskglm.errors import DesignError, StorageError
from daskglm.io import files
from daskglm.io.urls import check_url


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table: .tsv (tabs, ``n/a`` is missing, as BIDS says) or .csv (commas).

    Parameters
    ----------
    path : path
        File or URL.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DesignError
        Where the file is absent, empty, or of another kind.
    """
    name = os.fspath(path)
    separators = {".tsv": "\t", ".csv": ",", ".txt": "\t"}
    separator = separators.get(os.path.splitext(name)[1].lower())
    if separator is None:
        raise DesignError(f"tables are .tsv or .csv, but this is {name}; save it as one of those")
    check_url(name)
    try:
        content = files.read_bytes(name)
        return pd.read_csv(BytesIO(content), sep=separator, na_values=["n/a"], dtype=_text_ids(content, separator))
    except StorageError:  # says nothing of the table
        raise
    except (OSError, ValueError) as error:
        raise DesignError(f"cannot read the table {name}: {error}") from error


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
    """
    return read_table(given) if isinstance(given, (str, os.PathLike)) else given


def _text_ids(content: bytes, separator: str) -> dict[str, Any]:
    """Ids stay text: 007 is no number."""
    columns = pd.read_csv(BytesIO(content), sep=separator, nrows=0).columns
    return {column: str for column in ("participant_id", "subject_label") if column in columns}
