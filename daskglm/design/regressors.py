"""Regressors of a condition: events convolved with a response and sampled at the scans."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import pinv

from daskglm.design.hrf import HRFModel, hrf_kernels, is_fir, regressor_names
from daskglm.errors import DesignError, ParameterError, check_choice, listing

Array = NDArray[np.float64]
# Jumps of the event time course that are looked up at once: bounds the memory to some ten MB.
_AT_ONCE = 512
IMPULSES = ("sample", "unit")


def compute_regressor(
    exp_condition: Any,
    hrf_model: HRFModel,
    frame_times: ArrayLike,
    con_id: str = "cond",
    oversampling: int = 50,
    fir_delays: Sequence[int] | None = None,
    min_onset: float = -24,
    *,
    drop_early: bool = False,
    impulse: str = "sample",
) -> tuple[Array, list[str]]:
    """Regressors of one condition.

    Parameters
    ----------
    exp_condition : (3, m) array-like
        Onsets and durations, in seconds, and amplitudes of m events.
    hrf_model : str, callable, list of callable or None
        Model, as for :func:`~daskglm.design.hrf.hrf_kernels`.
    frame_times : (n,) array-like
        Times of the scans, in seconds, increasing.
    con_id : str
        Name of the condition.
    oversampling : int
        Samples a repetition time (the shortest interval between scans) at which events are laid out.
    fir_delays : sequence of int, optional
        Delays of "fir", in scans; [0] where it is not given.
    min_onset : float
        Seconds, zero or negative: the grid starts at frame_times[0] + min_onset.
    drop_early : bool
        Leave events out that begin before the grid does. Otherwise they are moved to its start with what is left
        of their duration, as nilearn does.
    impulse : {"sample", "unit"}
        What an event without duration is: one sample of the grid, of the event's amplitude (nilearn's: its response
        grows with the repetition time and shrinks with the oversampling), or an impulse of area one, whose response
        is that of an event of 1 s as far as it is short.

    Returns
    -------
    regressors : (n, k) float64
        Columns of a response and its derivatives, and of several functions, are made orthogonal to those
        before; those of "fir" are not.
    names : list of k str
        Their names.

    Raises
    ------
    DesignError
        Where events are not (3, m) finite numbers or have negative durations, scan times do not increase, or the
        model is unknown.
    ParameterError
        Where another parameter has a value that it cannot have.

    Warns
    -----
    UserWarning
        Where events begin before the grid or after the last scan.
    """
    check_choice("impulse", impulse, IMPULSES)
    times = check_frame_times(frame_times)
    onsets, durations, amplitudes = _check_condition(exp_condition, con_id)
    early, late = outside(onsets, times, min_onset)
    for message in outside_messages(con_id, onsets, early, late, float(times[0] + min_onset), drop_early):
        warnings.warn(message, UserWarning, stacklevel=2)
    if drop_early:
        onsets, durations, amplitudes = onsets[~early], durations[~early], amplitudes[~early]
    names = regressor_names(con_id, hrf_model, fir_delays)
    columns = convolve(onsets, durations, amplitudes, hrf_model, times, oversampling, fir_delays, min_onset, impulse)
    return columns, names


def convolve(
    onsets: Array,
    durations: Array,
    amplitudes: Array,
    hrf_model: HRFModel,
    frame_times: Array,
    oversampling: int = 50,
    fir_delays: Sequence[int] | None = None,
    min_onset: float = -24,
    impulse: str = "sample",
) -> Array:
    """Convolve events with the kernels of a model, without any warning.

    Parameters
    ----------
    onsets, durations, amplitudes : (m,) float64
        Events; seconds but for the amplitudes.
    hrf_model : str, callable, list of callable or None
        Model.
    frame_times : (n,) float64
        Times of the scans, in seconds, increasing.
    oversampling : int
        Samples a repetition time.
    fir_delays : sequence of int, optional
        Delays of "fir", in scans.
    min_onset : float
        Start of the grid, in seconds after the first scan.
    impulse : {"sample", "unit"}
        As for :func:`compute_regressor`.

    Returns
    -------
    (n, k) float64

    Raises
    ------
    DesignError
        Where scans lie outside of the grid, as they may where times are negative.
    """
    kernels = hrf_kernels(hrf_model, float(np.diff(frame_times).min()), oversampling, fir_delays)
    oversampling = int(oversampling)
    grid = _grid(frame_times, oversampling, min_onset)
    if impulse == "unit":
        amplitudes = np.where(durations == 0, amplitudes / (grid[1] - grid[0]), amplitudes)
    positions, jumps = _jumps(grid, onsets, durations, amplitudes)
    # A bin of "fir" is centred on its scan by reading the convolution most of a repetition time later.
    shift = oversampling - 1 if is_fir(hrf_model) else 0
    last = len(grid) - 1 - shift
    if frame_times[0] < grid[0] or last < 1 or frame_times[-1] > grid[last]:
        raise DesignError(
            f"scans lie within {grid[0]:g} to {grid[max(last, 0)]:g} s, where events are laid out, but they are from "
            f"{frame_times[0]:g} to {frame_times[-1]:g} s; count times from the first scan on"
        )
    upper = np.clip(np.searchsorted(grid, frame_times), 1, last)
    weight = ((frame_times - grid[upper - 1]) / (grid[upper] - grid[upper - 1]))[:, None]
    below, above = (
        np.stack([_convolution_at(upper + offset, positions, jumps, kernel) for kernel in kernels], axis=1)
        for offset in (shift - 1, shift)
    )
    sampled = below + weight * (above - below)
    return sampled if is_fir(hrf_model) else orthogonalize(sampled)


def orthogonalize(columns: Array) -> Array:
    """Make each column orthogonal to those before it, without scaling.

    Parameters
    ----------
    columns : (n, k) float64
        Columns.

    Returns
    -------
    (n, k) float64
        The first column as it was.
    """
    result = np.array(columns, dtype=np.float64)
    for index in range(1, result.shape[1]):
        before = result[:, :index]
        result[:, index] -= (result[:, index] @ before) @ pinv(before)
    return result


def check_frame_times(frame_times: ArrayLike) -> Array:
    """Times of scans as an array.

    Parameters
    ----------
    frame_times : (n,) array-like
        Seconds.

    Returns
    -------
    (n,) float64

    Raises
    ------
    DesignError
        Unless they are at least two finite numbers that increase.
    """
    times = np.asarray(frame_times, dtype=np.float64)
    if times.ndim != 1 or times.size < 2:
        raise DesignError(f"frame_times are the times of at least two scans, but they have shape {times.shape}")
    steps = np.diff(times)
    wrong = np.flatnonzero(~(np.isfinite(steps) & (steps > 0)))
    if len(wrong):
        raise DesignError(
            f"frame_times are finite and increase, but they do not after scan {listing(wrong)}; sort them, and drop "
            "repeated ones"
        )
    return times


def outside(onsets: Array, frame_times: Array, min_onset: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find events that begin before the grid does, or a repetition time after the last scan and later.

    Parameters
    ----------
    onsets : (m,) float64
        Seconds.
    frame_times : (n,) float64
        Times of the scans, in seconds, increasing.
    min_onset : float
        Start of the grid, in seconds after the first scan.

    Returns
    -------
    early, late : (m,) bool

    Raises
    ------
    ParameterError
        Where min_onset is positive.
    """
    if not (np.isfinite(min_onset) and min_onset <= 0):
        raise ParameterError(f"min_onset is zero or a negative number of seconds, but it is {min_onset!r}")
    return onsets < frame_times[0] + min_onset, onsets >= frame_times[-1] + np.diff(frame_times).min()


def outside_messages(
    condition: str, onsets: Array, early: NDArray[np.bool_], late: NDArray[np.bool_], start: float, drop_early: bool
) -> list[str]:
    """Warnings about events that begin before the grid or after the scans.

    Parameters
    ----------
    condition : str
        Name of the condition.
    onsets : (m,) float64
        Seconds.
    early, late : (m,) bool
        Which events these are.
    start : float
        Start of the grid, in seconds.
    drop_early : bool
        Whether early events are left out.

    Returns
    -------
    list of str
    """
    messages: list[str] = []
    if early.any():
        fate = "they are left out" if drop_early else f"they are moved to {start:g} s; drop_early leaves them out"
        messages.append(
            f"Some stimulus onsets are earlier than {start:g} s: those of {condition!r} at "
            f"{_seconds(onsets[early])}; {fate}"
        )
    if late.any():
        messages.append(
            f"Some stimulus onsets are after the last scan: those of {condition!r} at {_seconds(onsets[late])}; they "
            "have no effect; check that onsets are in seconds from the start of this run"
        )
    return messages


def _seconds(onsets: Array) -> str:
    """Onsets for a message."""
    return f"{listing(f'{onset:g}' for onset in onsets)} s"


def _check_condition(exp_condition: Any, con_id: str) -> tuple[Array, Array, Array]:
    """Onsets, durations and amplitudes of a condition."""
    try:
        values = np.asarray(exp_condition, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DesignError(
            f"a condition is (onsets, durations, amplitudes) of equal lengths, but {con_id!r} is not; correct it"
        ) from error
    if values.ndim != 2 or len(values) != 3:
        raise DesignError(
            f"a condition is (onsets, durations, amplitudes), an array (3, m), but {con_id!r} has shape {values.shape}"
        )
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=0) | (values[1] < 0))
    if len(wrong):
        raise DesignError(
            f"events have finite onsets and amplitudes and durations from 0 on, but those of {con_id!r} at positions "
            f"{listing(wrong)} have not; correct or drop them"
        )
    return values[0], values[1], values[2]


def _grid(frame_times: Array, oversampling: int, min_onset: float) -> Array:
    """Times at which events are laid out, nilearn's: they end at max * n / (n - 1), which is a scan after the last."""
    n, first, last = len(frame_times), frame_times[0], frame_times[-1]
    end = last * (1 + 1.0 / (n - 1))
    rate = (n - 1) * 1.0 / (last - first)
    n_samples = int(np.rint(rate * ((end - first - float(min_onset)) * oversampling) + 1))
    return np.linspace(first + min_onset, end, max(n_samples, 2))


def _jumps(grid: Array, onsets: Array, durations: Array, amplitudes: Array) -> tuple[NDArray[np.intp], Array]:
    """Where the time course of the events changes on the grid, and by how much; an event lasts a sample at least."""
    last = len(grid) - 1
    start = np.minimum(np.searchsorted(grid, onsets), last)
    stop = np.minimum(np.searchsorted(grid, onsets + durations), last)
    stop += (stop < last) & (stop == start)
    return np.concatenate([start, stop]), np.concatenate([amplitudes, -amplitudes])


def _convolution_at(at: NDArray[np.intp], positions: NDArray[np.intp], jumps: Array, kernel: Array) -> Array:
    """Values at grid positions of a kernel convolved with a step function.

    A step's response is the running sum of the kernel, so that only the scans are computed and nothing but the
    events in reach adds rounding errors.
    """
    response = np.concatenate([[0.0], np.cumsum(kernel)])
    total = np.zeros(len(at))
    half = len(jumps) // 2
    for begin in range(0, half, _AT_ONCE):
        part = slice(begin, min(begin + _AT_ONCE, half))
        up, down = (
            response[np.clip(at[:, None] - where[part] + 1, 0, len(kernel))]
            for where in (positions[:half], positions[half:])
        )
        total += (up - down) @ jumps[part]
    return total
