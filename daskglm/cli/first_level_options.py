"""Options of the first level: how regressors, scaling and noise are made, and what these texts stand for in Python."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from daskglm.cli.options import pairs
from daskglm.errors import ContrastError, ParameterError

_SCALINGS = {"0": 0, "1": 1, "0,1": (0, 1), "none": False}


def design_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the model of a run."""
    options = [
        click.option("--hrf", "hrf_model", default="glover", help='As in "spm + derivative"; fir: see --fir-delays.'),
        click.option("--fir-delays", multiple=True, metavar="N,N,...",
                     help="Volumes after an event that fir has a regressor of, as in 0,1,2,3,4,5."),
        click.option("--modulators", type=click.Choice(["raw", "centered", "orthogonalized"]), default="raw",
                     help="What the events' column modulation is: raw scales them, else it is a regressor."),
        click.option("--duration-modulation", is_flag=True, help="A regressor of durations, where they vary."),
        click.option("--impulse", type=click.Choice(["sample", "unit"]), default="sample",
                     help="An event of duration 0: one sample of --oversampling, or an impulse of area 1."),
        click.option("--bad-events", type=click.Choice(["stop", "drop"]), default="stop",
                     help="Stop at, or leave out, events with n/a as onset, duration, trial_type or modulation."),
        click.option("--transform", multiple=True, metavar="JSON",
                     help="An instruction of BIDS Stats Models for the events, as in "
                     '{"Name": "Select", "Input": ["trial_type.face"]}.'),
        click.option("--drop-early-events", is_flag=True, help="Leave out events before --min-onset."),
        click.option("--min-onset", type=float, default=-24, help="Seconds before the first volume that count."),
        click.option("--oversampling", type=click.IntRange(1), default=50, help="Samples a volume, for convolution."),
        click.option("--drift", "drift_model", type=click.Choice(["cosine", "polynomial", "none"]), default="cosine",
                     help="Slow drifts."),
        click.option("--high-pass", type=float, default=0.01, help="Highest frequency of cosine drifts, in Hz."),
        click.option("--drift-order", type=click.IntRange(0), default=1, help="Highest power of polynomial drifts."),
        click.option("--noise", "noise_model", default="ar1", help="ols, ar1, ar2, ..."),
        click.option("--bins", default="auto", metavar="N|none|auto",
                     help="Steps of ar1's coefficients, or clusters of ar2's; none: exact; auto: 100 for ar1."),
        click.option("--smoothing-fwhm", type=float, help="Smooth each volume first, in mm."),
        click.option("--signal-scaling", type=click.Choice(list(_SCALINGS)), default="0",
                     help="Percent of the mean of each voxel (0), of each volume (1), of the run (0,1)."),
        click.option("--standardize", is_flag=True, help="Standardize each voxel; with --signal-scaling none."),
        click.option("--t-r", type=float, help="Repetition time in seconds, in place of the dataset's."),
        click.option("--slice-time-ref", type=click.FloatRange(0, 1),
                     help="Fraction of it that volumes are of, in place of the dataset's StartTime."),
        click.option("--precision-weighted", is_flag=True, help="Weigh runs by the inverse of their variance."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def first_level_arguments(
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    subjects: tuple[str, ...],
    filters: tuple[str, ...],
    drift_model: str,
    fir_delays: tuple[str, ...],
    signal_scaling: str,
    bins: str,
    transform: tuple[str, ...],
    **options: Any,
) -> dict[str, Any]:
    """Arguments of the analysis in Python, from options of the command line."""
    if not contrasts and not f_contrasts:
        raise ContrastError("a first-level analysis needs a contrast; give --contrast or --f-contrast")
    return {
        **options,
        "contrasts": contrasts,
        "f_contrasts": f_contrasts,
        "subjects": subjects or None,
        "filters": pairs(filters),
        "drift_model": None if drift_model == "none" else drift_model,
        "fir_delays": _delays(fir_delays),
        "signal_scaling": _SCALINGS[signal_scaling],
        "bins": _bins(bins),
        "transform": [_instruction(text) for text in transform],
    }


def _delays(texts: Sequence[str]) -> list[int] | None:
    """Whole numbers, of texts such as 0,1,2."""
    parts = [part.strip() for text in texts for part in text.strip(" []").split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ParameterError(f"--fir-delays must be whole numbers of volumes, as in 0,1,2,3, got {','.join(texts)!r}")
    return [int(part) for part in parts] or None


def _bins(text: str) -> int | str | None:
    """A number, None or "auto"."""
    if text not in ("auto", "none") and not text.isdecimal():
        raise ParameterError(f"--bins must be a whole number of 1 or more, none or auto, got {text!r}")
    return None if text == "none" else int(text) if text.isdecimal() else text


def _instruction(text: str) -> Any:
    """An instruction of its JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ParameterError(
            f'--transform must be JSON, as in \'{{"Name": "Demean", "Input": ["rt"]}}\', got {text!r}: {error}'
        ) from error
