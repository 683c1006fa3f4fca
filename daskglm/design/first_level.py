"""Design matrices of one run: conditions, additional regressors, drifts and the constant."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from daskglm.design.drifts import drift_matrix
from daskglm.design.events import check_events, events_table
from daskglm.design.hrf import HRFModel, regressor_names
from daskglm.design.regressors import IMPULSES, check_frame_times, convolve, outside, outside_messages
from daskglm.errors import DesignError, ParameterError, RegressorError, check_choice, listing

Array = NDArray[np.float64]
Modulators = Literal["raw", "centered", "orthogonalized"]
# Seconds: no repetition time of functional images is as long, but one in milliseconds is.
LONGEST = 100.0
# Amplitudes that differ by less of their size are the same.
_SAME = 1e-8


def frame_times(n_volumes: int, t_r: float, slice_time_ref: float = 0.0) -> Array:
    """Times of the scans of a run.

    Parameters
    ----------
    n_volumes : int
        Number of scans n.
    t_r : float
        Repetition time, in seconds.
    slice_time_ref : float
        Time within a scan that it stands for, as a fraction of the repetition time: 0.5 where slices were shifted
        to the middle of the scan.

    Returns
    -------
    (n,) float64
        Seconds.

    Raises
    ------
    ParameterError
        Unless n_volumes and t_r are positive, t_r is less than 100 and slice_time_ref is from 0 to 1.

    Examples
    --------
    >>> frame_times(3, 2.0, 0.5).tolist()
    [1.0, 3.0, 5.0]
    """
    if int(n_volumes) != n_volumes or n_volumes < 1:
        raise ParameterError(f"n_volumes is a whole number from 1 on, but it is {n_volumes!r}")
    if not (np.isfinite(t_r) and t_r > 0):
        raise ParameterError(f"t_r is a positive number of seconds, but it is {t_r!r}")
    if t_r >= LONGEST:
        raise ParameterError(
            f"t_r must be in seconds and below {LONGEST:g}, got {t_r:g}; if these are milliseconds, give {t_r / 1000:g}"
        )
    if not 0 <= slice_time_ref <= 1:
        raise ParameterError(f"slice_time_ref is a fraction of t_r from 0 to 1, but it is {slice_time_ref!r}")
    return np.linspace(slice_time_ref * t_r, (n_volumes - 1 + slice_time_ref) * t_r, int(n_volumes))


def make_first_level_design_matrix(
    frame_times: ArrayLike,
    events: pd.DataFrame | str | os.PathLike[str] | None = None,
    hrf_model: HRFModel = "glover",
    drift_model: str | None = "cosine",
    high_pass: float = 0.01,
    drift_order: int = 1,
    fir_delays: Sequence[int] | None = None,
    add_regs: ArrayLike | pd.DataFrame | None = None,
    add_reg_names: Sequence[str] | None = None,
    min_onset: float = -24,
    oversampling: int = 50,
    *,
    modulators: Modulators = "raw",
    duration_modulation: bool = False,
    drop_early_events: bool = False,
    impulse: str = "sample",
) -> pd.DataFrame:
    """Design matrix of one run.

    Parameters
    ----------
    frame_times : (n,) array-like
        Times of the scans, in seconds, increasing.
    events : DataFrame or path, optional
        Events, as for :func:`~daskglm.design.events.check_events`.
    hrf_model : str, callable, list of callable or None
        Model of the response, as for :func:`~daskglm.design.hrf.hrf_kernels`.
    drift_model : {"cosine", "polynomial"} or None
        Model of slow drifts.
    high_pass : float
        Highest frequency of cosine drifts, in Hz.
    drift_order : int
        Highest power of polynomial drifts.
    fir_delays : sequence of int, optional
        Delays of "fir", in scans; [0] where it is not given.
    add_regs : (n, k) array-like or DataFrame, optional
        Additional regressors; a DataFrame's column names are those of the regressors.
    add_reg_names : sequence of k str, optional
        Names of an array's columns; reg0, reg1 ... where they are not given.
    min_onset : float
        Seconds, zero or negative: events are laid out from this long before the first scan.
    oversampling : int
        Samples a repetition time at which events are laid out.
    modulators : {"raw", "centered", "orthogonalized"}
        What becomes of the events' column modulation. "raw" (nilearn's): it scales the condition's regressor.
        "centered": regressors of conditions are of amplitude 1, and where the modulation varies within a condition
        there is besides ``<condition>_x_modulation``, of the modulation less its mean. "orthogonalized" (SPM's):
        the same, and the columns of modulations are made orthogonal to those of their condition.
    duration_modulation : bool
        Add ``<condition>_x_duration``, of the duration less its mean in seconds, where durations vary within a
        condition.
    drop_early_events : bool
        Leave events out that begin before ``frame_times[0] + min_onset``; otherwise they are moved there, as
        nilearn does.
    impulse : {"sample", "unit"}
        What an event without duration is: one sample of the grid, a repetition time / `oversampling` long (nilearn's),
        on which effect sizes then depend; or an impulse of area one, which weighs as much as an event of 1 s.

    Returns
    -------
    (n, p) DataFrame
        float64, index of the scans' times. Conditions in the order of their names, each with its modulations;
        additional regressors; drifts; constant. Linearly dependent columns are left as they are (nilearn adds to
        the singular values where the condition number is 1e15 or more).

    Raises
    ------
    DesignError
        Where events, scan times, models or additional regressors cannot be used, or two columns have one name.
    ParameterError
        Where another parameter has a value that it cannot have.

    Warns
    -----
    UserWarning
        As of :func:`~daskglm.design.events.check_events`, for events outside of the run, and where events without
        duration are samples of the grid beside others that last.

    Examples
    --------
    >>> table = pd.DataFrame({"trial_type": ["go", "stop"], "onset": [0.0, 8.0], "duration": [2.0, 2.0]})
    >>> make_first_level_design_matrix(np.arange(10) * 2.0, table).columns.tolist()
    ['go', 'stop', 'constant']
    """
    check_choice("modulators", modulators, ("raw", "centered", "orthogonalized"))
    check_choice("impulse", impulse, IMPULSES)
    times = check_frame_times(frame_times)
    extra, extra_names = _additional(add_regs, add_reg_names, len(times))
    layout = _Layout(times, hrf_model, fir_delays, min_onset, oversampling, impulse)
    blocks: list[Array] = []
    names: list[str] = []
    if events is not None:
        table = events_table(events)
        checked = _inside(check_events(table), layout, drop_early_events)
        _warn_of_mixed_durations(checked, layout)
        scaled = modulators == "raw" or "modulation" not in table.columns
        for condition in _conditions(checked["trial_type"]):
            of_condition = checked[(checked["trial_type"] == condition).to_numpy()]
            for name, block in _blocks(str(condition), of_condition, layout, scaled, modulators, duration_modulation):
                blocks.append(block)
                names += regressor_names(name, hrf_model, fir_delays)
    drifts, drift_names = drift_matrix(drift_model, times, drift_order, high_pass)
    names += [*extra_names, *drift_names]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DesignError(
            f"Design matrix columns do not have unique names: {listing(repeated)} occur more than once; rename the "
            "conditions or additional regressors"
        )
    return pd.DataFrame(np.concatenate([*blocks, extra, drifts], axis=1), columns=names, index=times)


def check_design_matrix(design_matrix: pd.DataFrame) -> tuple[pd.Index, Array, list[str]]:
    """Take a design matrix apart.

    Parameters
    ----------
    design_matrix : (n, p) DataFrame
        Numeric columns; the index holds the times of the scans, in seconds.

    Returns
    -------
    frame_times : Index of length n
        Times of the scans.
    matrix : (n, p) float64
        Values.
    names : list of p str
        Names of the columns.

    Raises
    ------
    DesignError
        Where there are no columns, or some are not numeric.
    """
    if not isinstance(design_matrix, pd.DataFrame):
        raise DesignError(f"a design matrix is a DataFrame, but this is {type(design_matrix).__name__}")
    if not design_matrix.shape[1]:
        raise DesignError("a design matrix has at least one column, but this has none; the DataFrame cannot be empty")
    return design_matrix.index, _matrix(design_matrix, "the design matrix"), list(design_matrix.columns)


@dataclass(frozen=True)
class _Layout:
    """How events become regressors."""

    times: Array
    hrf_model: HRFModel
    fir_delays: Sequence[int] | None
    min_onset: float
    oversampling: int
    impulse: str

    def regressors(self, events: pd.DataFrame, amplitudes: Array) -> Array:
        """Convolve events, (n, k), with amplitudes (m,)."""
        onsets, durations = (events[name].to_numpy(dtype=np.float64) for name in ("onset", "duration"))
        return convolve(
            onsets,
            durations,
            amplitudes,
            self.hrf_model,
            self.times,
            self.oversampling,
            self.fir_delays,
            self.min_onset,
            self.impulse,
        )


def _conditions(trial_types: pd.Series) -> list[Any]:
    """Conditions in order; those of several types by their names."""
    found = list(dict.fromkeys(trial_types))
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=str)


def _inside(events: pd.DataFrame, layout: _Layout, drop_early: bool) -> pd.DataFrame:
    """Warn of events outside of the run, condition by condition, and drop the early ones where that is wanted."""
    if not len(events):
        warnings.warn("the events table has no rows: the design has no conditions", UserWarning, stacklevel=3)
    onsets = events["onset"].to_numpy(dtype=np.float64)
    early, late = outside(onsets, layout.times, layout.min_onset)
    start = float(layout.times[0] + layout.min_onset)
    for condition in _conditions(events["trial_type"][early | late]):
        rows = (events["trial_type"] == condition).to_numpy()
        for message in outside_messages(str(condition), onsets[rows], early[rows], late[rows], start, drop_early):
            warnings.warn(message, UserWarning, stacklevel=3)
    return events[~early] if drop_early else events


def _warn_of_mixed_durations(events: pd.DataFrame, layout: _Layout) -> None:
    """Warn where impulses, whose weight is a matter of the grid, are beside events that last."""
    instant = (events["duration"] == 0).to_numpy()
    if layout.impulse == "sample" and instant.any() and not instant.all():
        sample = np.diff(layout.times).min() / layout.oversampling
        warnings.warn(
            f"Events without duration ({listing(_conditions(events['trial_type'][instant]))}) are mixed with others "
            f"that last: they are one sample (t_r / oversampling = {sample:g} s) long, as in nilearn, so that their "
            "effect sizes depend on t_r and oversampling and they weigh about "
            f"1/{1 / sample:.0f} of an event of 1 s; impulse='unit' (--impulse unit) gives them an area of one",
            UserWarning,
            stacklevel=3,
        )


def _blocks(
    condition: str,
    events: pd.DataFrame,
    layout: _Layout,
    scaled: bool,
    modulators: Modulators,
    duration_modulation: bool,
) -> Iterator[tuple[str, Array]]:
    """Names and columns of a condition's regressors and of those of its modulations."""
    modulation = events["modulation"].to_numpy(dtype=np.float64)
    main = layout.regressors(events, modulation if scaled else np.ones(len(events)))
    yield condition, main
    amplitudes = {} if scaled else {"modulation": modulation}
    if duration_modulation:
        amplitudes["duration"] = events["duration"].to_numpy(dtype=np.float64)
    for name, values in amplitudes.items():
        if np.ptp(values) <= _SAME * np.abs(values).max():
            continue
        columns = layout.regressors(events, values - values.mean())
        if modulators == "orthogonalized":
            columns = columns - main @ np.linalg.lstsq(main, columns, rcond=None)[0]
        yield f"{condition}_x_{name}", columns


def _additional(add_regs: Any, names: Sequence[str] | None, n_scans: int) -> tuple[Array, list[str]]:
    """Additional regressors, (n, k), and their names."""
    if isinstance(add_regs, pd.DataFrame):
        values, names = _matrix(add_regs, "add_regs"), list(add_regs.columns)
    elif add_regs is None:
        values = np.zeros((n_scans, 0))
    else:
        array = np.asarray(add_regs)
        if array.ndim not in (1, 2):
            raise DesignError(f"add_regs has one row a scan and one column a regressor, but its shape is {array.shape}")
        values = _matrix(pd.DataFrame(array[:, None] if array.ndim == 1 else array), "add_regs")
    if len(values) != n_scans:
        raise RegressorError(
            f"additional regressors have one row a scan, but add_regs has {len(values)} rows and there are {n_scans} "
            "scans; add or drop rows"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        what = "contain NaN values" if np.isnan(values).any() else "are not finite"
        raise DesignError(
            f"Extra regressors {what}, in row {listing(bad)}; fill them in (the first row of a temporal derivative "
            "with 0)"
        )
    chosen = [f"reg{index}" for index in range(values.shape[1])] if names is None else list(names)
    if len(chosen) != values.shape[1]:
        raise DesignError(
            f"additional regressors have one name each, but there are {len(chosen)} names and {values.shape[1]} "
            "columns; give as many names"
        )
    return values, chosen


def check_in_order(table: pd.DataFrame, what: str) -> None:
    """Raise where rows of volumes were sorted by something else than their numbers, or times.

    Parameters
    ----------
    table : DataFrame
        A row a volume. Numbers of tables that were put together start again: these are in order.
    what : str
        What it is, for the message.

    Raises
    ------
    DesignError
        With the labels.
    """
    index = table.index
    if pd.api.types.is_numeric_dtype(index) and index.is_unique and not index.is_monotonic_increasing:
        raise DesignError(
            f"rows of {what} are in the order of the volumes, but their index ({listing(index, 4)}) does not ascend; "
            "sort them (sort_index), or, where they are in that order, say so by reset_index(drop=True)"
        )


def _matrix(table: pd.DataFrame, what: str) -> Array:
    """Values of a table, float64."""
    numeric, is_complex = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
    check_in_order(table, what)
    dtypes = zip(table.columns, table.dtypes, strict=True)
    other = [str(name) for name, dtype in dtypes if not numeric(dtype) or is_complex(dtype)]
    if other:
        raise DesignError(f"columns {listing(other)} of {what} are not numeric; code them as numbers, or drop them")
    return np.asarray(table.to_numpy(dtype=np.float64, na_value=np.nan))
