"""Times of a run's volumes: what its metadata says, and what is told where that is not enough."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from daskglm.errors import MetadataWarning, listing, option
from daskglm.io.bids import Run

# fMRIPrep before 21 corrected to the middle of the repetition time and wrote no StartTime.
_MIDDLE = 0.5


def slice_time_of(run: Run, t_r: float | None) -> float:
    """The time within a repetition time to which the volumes of a run are aligned, by its metadata.

    Parameters
    ----------
    run : Run
        The run.
    t_r : float or None
        Its repetition time in seconds.

    Returns
    -------
    float
        StartTime as a fraction of `t_r`. Without a StartTime: 0.5 where ``SliceTimingCorrected`` is true, else 0.
    """
    if run.start_time is not None and t_r:
        return run.start_time / t_r
    return _MIDDLE if run.start_time is None and run.slice_timing_corrected else 0.0


def warn_of_times(runs: Sequence[Run], t_r: float | None, slice_time_ref: float | None, stacklevel: int = 3) -> None:
    """Warn of times that the metadata of runs do not say, say elsewhere or say differently, as nilearn does.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    t_r, slice_time_ref : float or None
        What was given in place of the metadata.
    stacklevel : int
        As of :func:`warnings.warn`.
    """
    runs = [run for run in runs if not run.fault]  # what is wrong with the others is told as such
    for message in _messages(runs, t_r, slice_time_ref):
        warnings.warn(message, MetadataWarning, stacklevel=stacklevel)


def warn_of_drifts(strategies: Mapping[str, Any], drift_model: Any, stacklevel: int = 3) -> None:
    """Warn where cosines among the confounds meet drifts of the model, as nilearn does.

    Parameters
    ----------
    strategies : mapping
        Of confounds.
    drift_model : str or None
        Of the design.
    stacklevel : int
        As of :func:`warnings.warn`.
    """
    if drift_model is not None and "high_pass" in strategies:
        warnings.warn(
            "high_pass among the confounds brings cosines, which "
            f"{'repeat' if drift_model == 'cosine' else 'conflict with'} the {drift_model} drifts of the design; leave "
            "high_pass out of the confounds, or the drifts out of the design (drift_model=None, --drift none)",
            stacklevel=stacklevel,
        )


def _messages(runs: Sequence[Run], t_r: float | None, slice_time_ref: float | None) -> list[str]:
    """The warnings, each of all runs that it is of."""
    silent = [run for run in runs if run.start_time is None] if slice_time_ref is None else []
    corrected = [run.name for run in silent if run.slice_timing_corrected]
    unknown = [run.name for run in silent if not run.slice_timing_corrected]
    other_t_r = [run.name for run in runs if t_r and run.t_r and not math.isclose(t_r, run.t_r, rel_tol=1e-3)]
    other = [
        run.name for run in runs
        if slice_time_ref is not None and run.start_time is not None
        and not math.isclose(slice_time_ref, slice_time_of(run, t_r or run.t_r), abs_tol=1e-3)
    ]  # fmt: skip
    no_t_r = [run.name for run in runs if t_r is None and run.t_r is None]
    raw_t_r = [run.name for run in runs if t_r is None and run.raw_t_r]
    found = {
        "t_r is not given, and cannot be inferred from the metadata: no RepetitionTime is in those of "
        f"{_of(no_t_r)}; give {option('t_r', '--t-r')}, which events need": no_t_r,
        f"the RepetitionTime of {_of(raw_t_r)} is that of the raw dataset, for the metadata of the derivatives have "
        f"none; give {option('t_r', '--t-r')} if it is another there": raw_t_r,
        "slice times were corrected (SliceTimingCorrected), but no StartTime says to which time of the volume, in "
        f"{_of(corrected)}: slice_time_ref is taken for {_MIDDLE}, the middle, as fMRIPrep before 21 did; give "
        "slice_time_ref (--slice-time-ref) where it is another": corrected,
        "slice_time_ref is not given, and cannot be inferred from the metadata: no StartTime is in those of "
        f"{_of(unknown)}; slice_time_ref is taken for 0; give it (--slice-time-ref), such as 0.5 where slices were "
        "shifted to the middle of the volume": unknown,
        f"slice_time_ref is {slice_time_ref}, but StartTime / RepetitionTime says otherwise in the metadata of "
        f"{_of(other)}; correct the one that is wrong: events and volumes are matched by it": other,
        f"t_r is {t_r} s, but RepetitionTime says otherwise in the metadata of {_of(other_t_r)}; correct the one that "
        "is wrong: events and volumes are matched by it": other_t_r,
    }
    return [message for message, names in found.items() if names]


def _of(names: Sequence[str]) -> str:
    """Runs for a message: the first of them and their number."""
    return listing(names, 3) + (f" ({len(names)} runs)" if len(names) > 3 else "")
