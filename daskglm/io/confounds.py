"""Tables of a run: its events, and its confounds as nilearn's strategies choose them."""

import csv
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.design.events import missing_cells
from daskglm.errors import DesignError, MissingDependencyError, listing
from daskglm.io.confound_columns import fill_first, kept_volumes, named_columns, strategy_columns
from daskglm.io.confound_strategies import (
    CONFOUND_STRATEGIES,
    DEFAULTS,
    Strategy,
    check_strategies,
    column_names,
    missing_nilearn,
    need_nilearn,
)
from daskglm.io.files import absent as absent_content
from daskglm.io.tables import read_table, table_text


def load_confounds(
    run_bold: str,
    confounds: str | None,
    strategies: Mapping[str, Strategy],
    n_volumes: int | None = None,
) -> tuple[pd.DataFrame | None, NDArray[np.intp] | None]:
    """Confounds of a run, and the volumes to keep.

    Parameters
    ----------
    run_bold : str
        Path of the preprocessed image: full ICA-AROMA and tedana ask for its name, the latter for the files beside it.
    confounds : str or None
        Path of fMRIPrep's table, with its JSON file beside it where CompCor is asked for.
    strategies : mapping
        As :func:`~daskglm.io.confound_strategies.parse_strategies` gives; empty to take every column of the table
        as it is, NaN in its first row as 0 (the rule of nilearn's ``first_level_from_bids``).
    n_volumes : int or None
        Volumes of the image, for a check.

    Returns
    -------
    confounds : DataFrame or None
        A row for every volume, kept or not. Columns of strategies come in alphabetical order and (but for
        demean=False) with their means over the kept volumes removed, as in nilearn's ``load_confounds``; columns
        that are named follow, as the table has them; NaN of the first row is taken from the second in both. None
        where no column is left: nothing asked and no table, or scrubbing alone. high_pass takes the table's
        cosines, which it lacks where a run is short.
    sample_mask : (n_kept,) int array or None
        Indices of the volumes to keep: neither non-steady states nor scrubbed. None where all are kept, and
        where there are no strategies. Non-steady states whose columns are named are regressors, and kept.

    Raises
    ------
    DesignError
        Where the table is missing, lacks columns, has NaN beyond the first row or another number of rows than the
        image has volumes, or where no volume is kept.
    ParameterError
        As :func:`~daskglm.io.confound_strategies.parse_strategies`.
    MissingDependencyError
        Where compcor, ica_aroma or tedana is asked for and nilearn is not installed.
    """
    wanted = check_strategies(strategies)
    if not wanted:
        return (None, None) if confounds is None else (_whole_table(confounds, n_volumes), None)
    names = column_names(wanted)
    chosen = {name: value for name, value in wanted.items() if name not in names}
    if confounds is None and (names or "tedana" not in chosen):
        raise DesignError(
            f"the confounds {', '.join(wanted)} need a table of confounds, but there is none for {run_bold}; "
            "add desc-confounds_timeseries.tsv beside it, or ask for none"
        )
    whole = None if confounds is None else read_table(confounds)
    if whole is not None:
        _check_rows(len(whole), n_volumes, str(confounds))
    named = [] if whole is None else named_columns(whole, names, str(confounds))
    table, sample_mask, source = _by_strategies(run_bold, confounds, whole, chosen, named)
    if whole is None:
        _check_rows(len(table), n_volumes, source)
    if sample_mask is not None and len(sample_mask) == 0:
        raise DesignError(
            f"a run keeps some volumes, but every one is a non-steady state or scrubbed by {source}; "
            "raise fd_threshold or std_dvars_threshold, or leave the run out"
        )
    if whole is not None and named:
        more = fill_first(whole[[name for name in named if name not in table.columns]])
        table = pd.concat([table, more], axis=1)
    if table.shape[1] == 0:
        return None, sample_mask
    _check_numbers(table, source)
    return table, sample_mask


def table_columns(path: str) -> list[str]:
    """Columns of a table of confounds, of which only the first line is read.

    Parameters
    ----------
    path : str
        The table.

    Returns
    -------
    list of str

    Raises
    ------
    DesignError
        Where it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.readline().rstrip("\r\n").split("\t")
    except (OSError, UnicodeError) as error:
        raise DesignError(f"cannot read the table {path}: {error}") from error


def read_events(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of events: .tsv with tabs, as BIDS says, or .csv with commas.

    Parameters
    ----------
    path : path
        The file; ``n/a`` and empty cells are missing. Trial types are text, also "null" and "001".

    Returns
    -------
    pandas.DataFrame
        Columns of the file, at least onset and duration.

    Raises
    ------
    DesignError
        Where the file cannot be read, is not separated as its name says, has no onset or duration, or has
        ones that are no numbers.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            text, separator = table_text(file.read(), name)
        columns = next(csv.reader(StringIO(text), delimiter=separator), [])
        if len(columns) < 2:
            kind = "commas" if separator == "," else "tabs"
            raise DesignError(
                f"tables of events have columns separated by {kind} (BIDS: tabs in .tsv), but the first line of "
                f"{name} is {separator.join(columns)!r}; save it so"
            )
        missing = missing_cells(columns)
        events = pd.read_csv(
            StringIO(text), sep=separator, keep_default_na=False, na_values=missing, dtype={"trial_type": str}
        )
    except FileNotFoundError as error:
        raise DesignError(f"cannot read the table of events {name}: there is no such file; correct the path") from error
    except (OSError, pd.errors.ParserError, csv.Error) as error:
        raise DesignError(f"cannot read the table of events {name}: {error}; repair it") from error
    for column in ("onset", "duration"):
        if column not in events:
            raise DesignError(f"events have columns onset and duration, but {name} has {listing(columns)}; add them")
        numbers = pd.to_numeric(events[column], errors="coerce")
        if (wrong := events[column][numbers.isna() & events[column].notna()].tolist()) != []:
            raise DesignError(f"{column} is in seconds, but {name} has {listing(map(repr, wrong))}; give numbers")
        events[column] = numbers
    return events


def _by_strategies(
    run_bold: str,
    confounds: str | None,
    whole: pd.DataFrame | None,
    chosen: Mapping[str, Strategy],
    named: Sequence[str],
) -> tuple[pd.DataFrame, NDArray[np.intp] | None, str]:
    """Columns of strategies, the volumes that they keep, and where these are from."""
    options: dict[str, Any] = {"demean": True}
    for name in chosen:
        options |= DEFAULTS.get(name, {})
    options |= {name: value for name, value in chosen.items() if value is not None}
    if need_nilearn(chosen) or whole is None:
        table, sample_mask = _by_nilearn(run_bold, confounds, whole, chosen, options, named)
        return table, sample_mask, run_bold if confounds is None or "tedana" in chosen else confounds
    source, with_marks = str(confounds), any(name in CONFOUND_STRATEGIES for name in chosen)
    sample_mask = kept_volumes(whole, {**chosen, **options}, named, source) if with_marks else None
    table = fill_first(whole[strategy_columns(whole, chosen, source)])
    if options["demean"] and table.shape[1]:
        _check_numbers(table, source)
        table = table - (table if sample_mask is None else table.iloc[sample_mask]).mean()
    return table, sample_mask, source


def _by_nilearn(
    run_bold: str,
    confounds: str | None,
    whole: pd.DataFrame | None,
    strategies: Mapping[str, Strategy],
    options: Mapping[str, Any],
    named: Sequence[str],
) -> tuple[pd.DataFrame, NDArray[np.intp] | None]:
    """Call nilearn on names that it knows."""
    try:
        from nilearn.interfaces.fmriprep import load_confounds as nilearn_load_confounds
    except ImportError as error:
        raise MissingDependencyError(missing_nilearn(need_nilearn(strategies))) from error
    names = [name for name in strategies if name in CONFOUND_STRATEGIES]
    if strategies.get("ica_aroma") == "full" and "_desc-smoothAROMAnonaggr_bold" not in os.path.basename(run_bold):
        raise DesignError(
            f"ica_aroma=full is for images desc-smoothAROMAnonaggr, but this is {run_bold}; "
            "filter by desc=smoothAROMAnonaggr, or ask for ica_aroma=basic"
        )
    with tempfile.TemporaryDirectory() as folder:
        # nilearn finds the table by the image's name: it refuses other names than desc-preproc_bold.nii.gz, and
        # folders with tables of names that are part of the right one. Here is one table, by the right name.
        image = run_bold
        if confounds is not None and whole is not None and "tedana" not in names:
            # What is a regressor must not be left out besides.
            marks = [name for name in named if "non_steady_state" in name]
            image = _stage(confounds, whole.drop(columns=marks), folder, strategies)
        try:
            table, sample_mask = nilearn_load_confounds(image, strategy=names, **options)
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            text = str(error).replace(folder, os.path.dirname(str(confounds)))
            raise DesignError(
                f"the strategies {', '.join(names)} cannot be taken from {confounds or run_bold}: {text}; "
                "ask for what the table has"
            ) from error
        n_rows = len(table) or (0 if whole is None else len(whole))
    return table.reset_index(drop=True).reindex(range(n_rows)), sample_mask


def _stage(confounds: str, table: pd.DataFrame, folder: str, strategies: Mapping[str, Strategy]) -> str:
    """Write a table, and copy its JSON file, under names that nilearn knows; the name of their image."""
    metadata = f"{os.path.splitext(confounds)[0]}.json"
    table.to_csv(os.path.join(folder, "sub-x_desc-confounds_timeseries.tsv"), sep="\t", index=False, na_rep="n/a")
    if absent := absent_content(metadata):
        raise DesignError(f"cannot read {metadata}: {'; '.join(absent)}")
    if os.path.isfile(metadata):
        shutil.copyfile(metadata, os.path.join(folder, "sub-x_desc-confounds_timeseries.json"))
    elif "compcor" in strategies:
        raise DesignError(f"compcor needs the table's JSON file, but there is no {metadata}; add it or drop compcor")
    desc = "smoothAROMAnonaggr" if strategies.get("ica_aroma") == "full" else "preproc"
    return os.path.join(folder, f"sub-x_desc-{desc}_bold.nii.gz")


def _whole_table(confounds: str, n_volumes: int | None) -> pd.DataFrame:
    table = read_table(confounds)
    _check_rows(len(table), n_volumes, confounds)
    if len(table):
        first = table.iloc[0]
        table = table.fillna(dict.fromkeys(table.columns[first.isna().to_numpy()], 0.0), limit=1)
    _check_numbers(table, confounds)
    return table


def _check_rows(n_rows: int, n_volumes: int | None, source: str) -> None:
    if n_volumes is not None and n_rows != n_volumes:
        raise DesignError(
            f"a table of confounds has a row for every volume, but {source} has {n_rows} rows and the image "
            f"{n_volumes} volumes; take those of the same run"
        )


def _check_numbers(table: pd.DataFrame, source: str) -> None:
    """Raise DesignError where a cell is no finite number."""
    text = [str(column) for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        raise DesignError(f"confounds are numbers, but the columns {listing(text)} of {source} are not; drop these")
    bad = ~np.isfinite(table.to_numpy(dtype=np.float64))
    if bad.any():
        columns = [str(column) for column in table.columns[bad.any(axis=0)]]
        rows = (int(row) for row in np.flatnonzero(bad.any(axis=1)))
        raise DesignError(
            f"confounds are finite numbers (but for the first row), but {source} has others in the columns "
            f"{listing(columns)}, rows {listing(rows)} (the first is 0); choose strategies without these columns"
        )
