"""Tables of a run: its events, and its confounds as nilearn's strategies choose them."""

import csv
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import DesignError, MissingDependencyError, ParameterError, listing, nearest
from daskglm.io.tables import read_table

CONFOUND_STRATEGIES = ("motion", "wm_csf", "global_signal", "compcor", "scrub", "high_pass", "ica_aroma", "tedana")

_MODELS = ("basic", "power2", "derivatives", "full")
_COMPCOR = ("anat_combined", "anat_separated", "temporal", "temporal_anat_combined", "temporal_anat_separated")
# Values of each key, that of a bare name first.
_CHOICES: dict[str, tuple[str, ...]] = {
    "motion": _MODELS,
    "wm_csf": _MODELS,
    "global_signal": _MODELS,
    "compcor": _COMPCOR,
    "ica_aroma": ("full", "basic"),
    "tedana": ("aggressive", "non-aggressive"),
}
# Keys that refine a strategy ("" is any), and what they take where they are not given.
_REFINED = {"fd_threshold": "scrub", "std_dvars_threshold": "scrub", "n_compcor": "compcor", "demean": ""}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "scrub": {"fd_threshold": 0.5, "std_dvars_threshold": 1.5},
    "compcor": {"n_compcor": "all"},
}
_MISSING = ["n/a", "", "nan", "NaN", "NA", "N/A"]

Strategy = str | float | int | None


def parse_strategies(texts: Sequence[str]) -> dict[str, Strategy]:
    """Strategies for confounds from texts such as ``motion=full`` or ``motion,wm_csf,scrub=5``.

    Parameters
    ----------
    texts : sequence of str
        Each a name, ``name=value`` or several of these with commas between them. Names are those of
        ``CONFOUND_STRATEGIES`` and, with a value, fd_threshold, std_dvars_threshold, n_compcor and demean.

    Returns
    -------
    dict
        Name to value; a bare name takes "basic", but ica_aroma "full", compcor "anat_combined",
        tedana "aggressive", scrub 5; high_pass has no value, which is None.

    Raises
    ------
    ParameterError
        Where a name or value is unknown, a name has two values, or strategies do not go together.

    Examples
    --------
    >>> parse_strategies(["motion,wm_csf=full", "scrub=3"])
    {'motion': 'basic', 'wm_csf': 'full', 'scrub': 3}
    """
    parsed: dict[str, Strategy] = {}
    for item in ",".join([texts] if isinstance(texts, str) else texts).split(",") if texts else []:
        name, equals, text = (part.strip() for part in item.partition("="))
        if equals and not text:
            raise ParameterError(f"a confound strategy is a name or name=value, but this is {item.strip()!r}; add it")
        value = _value(name, text or None)
        if parsed.setdefault(name, value) != value:
            raise ParameterError(f"a confound strategy has one value, but {name} has {parsed[name]} and {value}")
    return _check_together(parsed)


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
        As :func:`parse_strategies` gives; empty to take every column of the table as it is, NaN in its
        first row as 0 (the rule of nilearn's ``first_level_from_bids``).
    n_volumes : int or None
        Volumes of the image, for a check.

    Returns
    -------
    confounds : DataFrame or None
        A row for every volume, kept or not; with strategies, the columns in alphabetical order, NaN of the first
        row taken from the second, and (but for demean=False) means over the kept volumes removed, as nilearn's
        ``load_confounds`` does. None where no column is left: nothing asked and no table, or scrubbing alone.
        high_pass takes the table's cosines, which it lacks where a run is short.
    sample_mask : (n_kept,) int array or None
        Indices of the volumes to keep: neither non-steady states nor scrubbed. None where all are kept, and
        where there are no strategies (columns of such volumes are regressors then).

    Raises
    ------
    DesignError
        Where the table is missing, lacks columns, has NaN beyond the first row or another number of rows than the
        image has volumes, or where no volume is kept.
    ParameterError
        As :func:`parse_strategies`.
    MissingDependencyError
        Where strategies are given and nilearn is not installed.
    """
    wanted = _check_together({name: _value(name, value) for name, value in strategies.items()})
    if not wanted:
        return (None, None) if confounds is None else (_whole_table(confounds, n_volumes), None)
    source = run_bold if "tedana" in wanted else confounds
    if source is None:
        raise DesignError(
            f"the strategies {', '.join(wanted)} need a table of confounds, but there is none for {run_bold}; "
            "add desc-confounds_timeseries.tsv beside it, or ask for no strategy"
        )
    n_rows = None if "tedana" in wanted else len(read_table(source))
    if n_rows is not None:
        _check_rows(n_rows, n_volumes, source)
    table, sample_mask = _by_nilearn(run_bold, confounds, wanted)
    if n_rows is None:
        _check_rows(len(table), n_volumes, source)
    if sample_mask is not None and len(sample_mask) == 0:
        raise DesignError(
            f"a run keeps some volumes, but every one is a non-steady state or scrubbed by {source}; "
            "raise fd_threshold or std_dvars_threshold, or leave the run out"
        )
    if table.shape[1] == 0:
        return None, sample_mask
    _check_numbers(table, source)
    return table, sample_mask


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
    separator = "," if name.lower().endswith(".csv") else "\t"
    try:
        with open(name, newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file, delimiter=separator), [])
        if len(columns) < 2:
            kind = "commas" if separator == "," else "tabs"
            raise DesignError(
                f"tables of events have columns separated by {kind} (BIDS: tabs in .tsv), but the first line of "
                f"{name} is {separator.join(columns)!r}; save it so"
            )
        missing = {column: _MISSING[:2] if column == "trial_type" else _MISSING for column in columns}
        events = pd.read_csv(name, sep=separator, keep_default_na=False, na_values=missing, dtype={"trial_type": str})
    except (OSError, UnicodeError, pd.errors.ParserError, csv.Error) as error:
        raise DesignError(f"cannot read the table of events {name}: {error}; repair it") from error
    for column in ("onset", "duration"):
        if column not in events:
            raise DesignError(f"events have columns onset and duration, but {name} has {listing(columns)}; add them")
        numbers = pd.to_numeric(events[column], errors="coerce")
        if (wrong := events[column][numbers.isna() & events[column].notna()].tolist()) != []:
            raise DesignError(f"{column} is in seconds, but {name} has {listing(map(repr, wrong))}; give numbers")
        events[column] = numbers
    return events


def _value(name: str, value: Any) -> Strategy:
    """A checked value of a strategy or refinement: from text, or as given in Python."""
    if name in _CHOICES:
        value = _CHOICES[name][0] if value is None else value
        if value not in _CHOICES[name]:
            hint = nearest(value, _CHOICES[name]) or "; choose one"
            raise ParameterError(f"{name} is one of {', '.join(_CHOICES[name])}, but this is {value!r}{hint}")
        return str(value)
    if name == "high_pass":
        if value not in (None, True):
            raise ParameterError(f"high_pass takes no value, but this is {value!r}; give the name alone")
        return None
    if name == "scrub":
        return _number(name, 5 if value is None else value, int, 0)
    if name not in _REFINED:
        known = (*CONFOUND_STRATEGIES, *_REFINED)
        hint = nearest(name, known) or "."
        raise ParameterError(f"no confound strategy is named {name!r}{hint} There are {', '.join(known)}")
    if value is None:
        raise ParameterError(f"{name} needs a value; give {name}=...")
    if name == "demean":
        truth = {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
        if truth is None:
            raise ParameterError(f"demean is true or false, but this is {value!r}; choose one")
        return truth
    if name == "n_compcor":
        return "all" if value == "all" else _number(name, value, int, 1)
    return _number(name, value, float, 0.0)


def _number(name: str, value: Any, kind: Callable[[Any], Any], least: float) -> Any:
    try:
        number = kind(value)
        good = math.isfinite(number) and number >= least and (isinstance(value, str) or number == value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good or isinstance(value, bool):
        what = "a whole number" if kind is int else "a number"
        raise ParameterError(f"{name} is {what} of at least {least:g}, but this is {value!r}; correct it")
    return number


def _check_together(strategies: dict[str, Strategy]) -> dict[str, Strategy]:
    chosen = [name for name in strategies if name in CONFOUND_STRATEGIES]
    for name in strategies:
        if name in _REFINED and (_REFINED[name] not in chosen if _REFINED[name] else not chosen):
            raise ParameterError(
                f"{name} has no effect without {_REFINED[name] or 'a strategy'}; add it or drop {name}"
            )
    if "compcor" in chosen and "high_pass" not in chosen:
        raise ParameterError("CompCor's components are of high-pass filtered data, so compcor needs high_pass; add it")
    if "tedana" in chosen and len(chosen) > 1:
        others = ", ".join(name for name in chosen if name != "tedana")
        raise ParameterError(f"tedana has tables of its own and goes with no other strategy; drop it or {others}")
    return strategies


def _by_nilearn(
    run_bold: str, confounds: str | None, strategies: Mapping[str, Strategy]
) -> tuple[pd.DataFrame, NDArray[np.intp] | None]:
    """Call nilearn on names that it knows."""
    try:
        from nilearn.interfaces.fmriprep import load_confounds as nilearn_load_confounds
    except ImportError as error:
        raise MissingDependencyError(
            "strategies for confounds are nilearn's, which is not installed; pip install 'daskglm[nilearn]'"
        ) from error
    names = [name for name in strategies if name in CONFOUND_STRATEGIES]
    options: dict[str, Any] = {"demean": True}
    for name in names:
        options |= _DEFAULTS.get(name, {})
    options |= {name: value for name, value in strategies.items() if value is not None}
    if strategies.get("ica_aroma") == "full" and "_desc-smoothAROMAnonaggr_bold" not in os.path.basename(run_bold):
        raise DesignError(
            f"ica_aroma=full is for images desc-smoothAROMAnonaggr, but this is {run_bold}; "
            "filter by desc=smoothAROMAnonaggr, or ask for ica_aroma=basic"
        )
    with tempfile.TemporaryDirectory() as folder:
        # nilearn finds the table by the image's name: it refuses other names than desc-preproc_bold.nii.gz, and
        # folders with tables of names that are part of the right one. Here is one table, by the right name.
        image = run_bold if confounds is None or "tedana" in names else _stage(confounds, folder, strategies)
        try:
            table, sample_mask = nilearn_load_confounds(image, strategy=names, **options)
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            text = str(error).replace(folder, os.path.dirname(str(confounds)))
            raise DesignError(
                f"the strategies {', '.join(names)} cannot be taken from {confounds or run_bold}: {text}; "
                "ask for what the table has"
            ) from error
        n_rows = len(table) or (0 if confounds is None else len(read_table(confounds)))
    return table.reset_index(drop=True).reindex(range(n_rows)), sample_mask


def _stage(confounds: str, folder: str, strategies: Mapping[str, Strategy]) -> str:
    """Copy a table and its JSON file under names that nilearn knows; the name of their image."""
    metadata = f"{os.path.splitext(confounds)[0]}.json"
    shutil.copyfile(confounds, os.path.join(folder, "sub-x_desc-confounds_timeseries.tsv"))
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
