"""Beta series: the response to every single trial of a run, from one pass over its volumes."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.events import check_events
from daskglm.design.first_level import frame_times
from daskglm.design.hrf import is_fir, regressor_names
from daskglm.design.matrix import design_array
from daskglm.design.regressors import convolve
from daskglm.errors import ContrastError, DesignError, ImageError, ParameterError, check_choice, listing, nearest
from daskglm.graph.compute import compute, n_workers
from daskglm.graph.runs import NoiseModel, RunImages, sum_run
from daskglm.graph.trials import trial_maps
from daskglm.io.confounds import read_events
from daskglm.kernels.scaling import Scaling
from daskglm.kernels.trials import TrialModel, all_trials, separate_trials, span, undetermined_trials
from daskglm.models.options import Options, checked
from daskglm.models.parameters import parse_noise_model, parse_scaling
from daskglm.models.run_fits import warn_of_means
from daskglm.models.runs import check_repetition_times, run_designs, run_preparation, run_shape, run_sources
from daskglm.schema.datasets import images_dataset
from daskglm.schema.names import bids_label

Array = NDArray[np.float64]
# Voxels that are solved by one task.
_VOXELS_TOGETHER = 2**13
# A trial of whose response the run has a smaller part is not estimated.
_LEAST_PART = 0.01
# Length of a response, in seconds, with some to spare.
_RESPONSE = 40.0


def beta_series(
    run_img: Any,
    events: Any,
    t_r: float,
    *,
    method: str = "lsa",
    conditions: str | Sequence[str] | None = None,
    confounds: Any = None,
    sample_mask: Any = None,
    noise_model: str = "ols",
    bins: int | str | None = "auto",
    mask_img: Any = None,
    smoothing_fwhm: Any = None,
    signal_scaling: Any = 0,
    hrf_model: Any = "glover",
    drift_model: str | None = "cosine",
    high_pass: float = 0.01,
    drift_order: int = 1,
    slice_time_ref: float = 0.0,
    min_onset: float = -24,
    oversampling: int = 50,
    impulse: str = "sample",
    n_jobs: int | None = -1,
    dtype: str = "float32",
) -> xr.Dataset:
    """Estimate the response to every trial of a run, reading the run once.

    Parameters
    ----------
    run_img : path or image
        4-D image of n volumes.
    events : DataFrame or path
        Columns onset, duration (seconds), trial_type, modulation.
    t_r : float
        Repetition time in seconds.
    method : {"lsa", "lss"}
        "lsa", least squares all: one model with a regressor a trial. "lss", least squares separate (Mumford 2012):
        a model a trial, of the trial, the other trials of its condition together, the trials of each other
        condition together, and the nuisance regressors.
    conditions : str or sequence of str, optional
        Trial types whose trials are estimated; the others have one regressor a trial type. None: all.
    confounds : DataFrame, array or path, optional
        A row a volume.
    sample_mask : array, optional
        Numbers of the volumes to keep, or one bool a volume.
    noise_model : str
        "ols" or "arN"; autoregressive coefficients are those of each model's own residuals.
    bins : int, None or "auto"
        Steps to which coefficients of "ar1" are rounded; None: each voxel has its own. "auto": 100 for "ar1"
        (nilearn's results), None for higher orders, which have no other.
    mask_img : image, path, fitted masker, False or None
        Voxels to analyse. None: nilearn's EPI mask, which takes one more pass. False: all voxels.
    smoothing_fwhm : float, 3 floats or None
        Full width at half maximum of a Gaussian, in mm.
    signal_scaling : {0, 1, (0, 1), False}
        Percent of the mean of each voxel (0), of each volume (1), of the run ((0, 1)), or no scaling.
    hrf_model : str, callable or None
        Response with one column a condition: "glover", "spm", a kernel, or None.
    drift_model, high_pass, drift_order, slice_time_ref, min_onset, oversampling, impulse
        As for :class:`~daskglm.models.first_level.FirstLevelModel`.
    n_jobs : int
        Threads in this process when no ``distributed.Client`` is active; -1: all cores.
    dtype : {"float32", "float64"}
        Of the betas; they are computed in float64 in any case.

    Returns
    -------
    xarray.Dataset
        An images dataset in memory: ``data (sample, voxel)``, in percent or in image units, whose samples are the
        trials in order of onset, named ``<trial type>_<number>``; with coordinates ``trial_type`` and ``onset``
        (seconds). NaN where a trial cannot be estimated, and at voxels that do not vary or are not finite.

    Raises
    ------
    DesignError, ImageError, SpaceError, CorruptImageError, ParameterError
        Before the pass, wherever it can be known.

    Warns
    -----
    UserWarning
        Naming the trials that cannot be estimated, and as of
        :func:`~daskglm.design.first_level.make_first_level_design_matrix`.

    Notes
    -----
    Every LSS model is in the span of the LSA design, so that the moments of that design solve all of them. Memory:
    its rank (at most n) times the voxels, in float64; (q + 1)(q + 2) / 2 times that for AR(q).
    """
    check_choice("method", method, ("lsa", "lss"))
    check_choice("dtype", dtype, ("float32", "float64"))
    noise = _noise(noise_model, bins)
    scaling, by_volume = parse_scaling(signal_scaling)
    source = _one_source(run_img)
    parameters = {
        "hrf_model": _one_column(hrf_model), "drift_model": drift_model, "high_pass": high_pass,
        "drift_order": drift_order, "min_onset": min_onset, "oversampling": oversampling,
        "impulse": impulse,
    }  # fmt: skip
    check_repetition_times([source], t_r)
    shape = run_shape(source)[0]
    design = _trial_design(shape, events, conditions, confounds, sample_mask, t_r, slice_time_ref, parameters)
    _check_width(design, method)
    options = checked(Options(mask_img=mask_img, smoothing_fwhm=smoothing_fwhm, n_jobs=n_jobs))
    run = RunImages(source, run_preparation([source], options), design.volumes, by_volume)
    maps, low = _lazy_maps(run, design, method, noise, scaling, n_workers(n_jobs))
    data, below = compute(maps.astype(dtype), low, n_jobs=n_jobs)
    if np.isnan(data).all():
        raise ImageError("no voxel of the run varies and is finite throughout; check the image and the mask")
    fitted = np.isfinite(data).any(axis=0)
    warn_of_means(int((below & fitted).sum()), int(fitted.sum()), "the run", stacklevel=3)
    found = images_dataset(data, design.names, run.how.space)
    types = np.array([str(name) for name in design.trials["trial_type"]], dtype=object)
    return found.assign_coords(trial_type=("sample", types), onset=("sample", design.trials["onset"].to_numpy(float)))


@dataclass(frozen=True)
class _TrialDesign:
    """The design with a regressor a trial.

    Attributes
    ----------
    trials : (T, 4) DataFrame
        Events that are estimated, in order of onset.
    names : list of T str
        Theirs.
    condition : (T,) int64
        Numbers of their trial types.
    matrix : (n, T + k) float64
        Regressors of the trials, then of the other trial types, confounds, drifts and the constant.
    absent : (T,) bool
        Trials of whose response the analysed volumes have nothing, or next to nothing.
    volumes : (n,) int64
        Numbers of the analysed volumes.
    """

    trials: pd.DataFrame
    names: list[str]
    condition: NDArray[np.int64]
    matrix: Array
    absent: NDArray[np.bool_]
    volumes: NDArray[np.int64]


def _noise(noise_model: str, bins: int | str | None) -> NoiseModel:
    """The noise model; clusters of coefficients would need all voxels of every model at the same time."""
    noise = parse_noise_model(noise_model, bins)
    if noise.order > 1 and noise.bins is not None:
        raise ParameterError(
            f"a beta series has bins for noise_model 'ar1' only, but noise_model is {noise_model!r} and bins "
            f"{bins!r}; give bins=None"
        )
    return noise


def _one_source(run_img: Any) -> Any:
    """The source of the one run."""
    sources = run_sources(run_img)
    if len(sources) != 1:
        raise ImageError(f"a beta series is of one run, but there are {len(sources)}; call it for each run")
    return sources[0]


def _one_column(hrf_model: Any) -> Any:
    """A model of the response that has one column a condition."""
    if is_fir(hrf_model) or len(regressor_names("trial", hrf_model)) != 1:
        raise DesignError(
            f"a trial has one regressor, but hrf_model {hrf_model!r} makes several of each condition; give 'glover', "
            "'spm' or one kernel"
        )
    return hrf_model


def _trial_design(
    shape: tuple[int, ...], events: Any, conditions: Any, confounds: Any, sample_mask: Any, t_r: float,
    slice_time_ref: float, parameters: dict[str, Any],
) -> _TrialDesign:  # fmt: skip
    """The design with a regressor a trial, at the analysed volumes."""
    table = read_events(os.fspath(events)) if isinstance(events, (str, os.PathLike)) else events
    if table is None or (isinstance(table, pd.DataFrame) and not len(table)):
        raise DesignError("a beta series needs events, but there are none; give a table with a row a trial")
    # The design of the conditions says what is wrong with the events, by condition and not by trial.
    masks = None if sample_mask is None else [sample_mask]
    base = run_designs([shape], [table], [confounds], masks, None, t_r, slice_time_ref, parameters)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = check_events(table)
    chosen = _chosen(table, conditions)
    trials = table[chosen].sort_values("onset", kind="stable").reset_index(drop=True)
    types = list(dict.fromkeys(trials["trial_type"]))
    columns = [regressor_names(str(name), parameters["hrf_model"])[0] for name in types]
    times = frame_times(shape[3], t_r, slice_time_ref)
    regressors = _regressors(trials, times, parameters)[base.volumes]
    whole = _whole(trials, t_r, parameters)
    present = np.linalg.norm(regressors, axis=0)
    others = design_array(base.design.drop(columns=columns))
    return _TrialDesign(
        trials=trials,
        names=_names(trials["trial_type"]),
        condition=np.array([types.index(name) for name in trials["trial_type"]]),
        matrix=np.column_stack([regressors, others]),
        absent=(present == 0) | (present < _LEAST_PART * whole),
        volumes=base.volumes,
    )


def _chosen(events: pd.DataFrame, conditions: Any) -> NDArray[np.bool_]:
    """Which events are single trials."""
    if conditions is None:
        return np.ones(len(events), dtype=bool)
    wanted = [conditions] if isinstance(conditions, str) else [str(name) for name in conditions]
    types = events["trial_type"].astype(str)
    unknown = [name for name in wanted if name not in set(types)]
    if unknown or not wanted:
        raise DesignError(
            f"conditions are trial types of the events ({listing(dict.fromkeys(types))}), but "
            + (
                f"{listing(unknown)} is none of them{nearest(unknown[0], types)}"
                if unknown
                else "none is given; give some, or None for all"
            )
        )
    return np.asarray(types.isin(wanted))


def _regressors(trials: pd.DataFrame, times: Array, parameters: dict[str, Any]) -> Array:
    """Regressors (n, T) of events, one each."""
    values = trials[["onset", "duration", "modulation"]].to_numpy(dtype=np.float64)
    layout = {name: parameters[name] for name in ("hrf_model", "oversampling", "min_onset", "impulse")}
    columns = [convolve(row[:1], row[1:2], row[2:], frame_times=times, **layout) for row in values]
    return np.concatenate(columns, axis=1)


def _whole(trials: pd.DataFrame, t_r: float, parameters: dict[str, Any]) -> Array:
    """Norms (T,) of the regressors that the trials would have at the start of a run that is long enough."""
    kinds, which = np.unique(trials[["duration", "modulation"]].to_numpy(dtype=np.float64), axis=0, return_inverse=True)
    norms = []
    for duration, modulation in kinds:
        kind = pd.DataFrame({"onset": [0.0], "duration": [duration], "modulation": [modulation]})
        times = frame_times(int(np.ceil((duration + _RESPONSE) / t_r)) + 2, t_r)
        norms.append(np.linalg.norm(_regressors(kind, times, parameters)))
    return np.array(norms)[which.reshape(-1)]


def _names(trial_types: pd.Series) -> list[str]:
    """Names of trials: label of the trial type and number; different also where case is ignored."""
    counts: dict[str, int] = {}
    names = []
    for trial_type in trial_types:
        try:
            label = bids_label(str(trial_type))
        except ContrastError as error:
            raise DesignError(
                f"trials are named by their trial_type, but {str(trial_type)!r} has no letter or digit; rename it"
            ) from error
        number = counts[label.casefold()] = counts.get(label.casefold(), 0) + 1
        names.append(f"{label}_{number:03d}")
    return names


def _check_width(design: _TrialDesign, method: str) -> None:
    """Raise unless the models leave degrees of freedom."""
    n_volumes, width = design.matrix.shape
    n_trials, n_types = len(design.names), len(np.unique(design.condition))
    if method == "lss":
        width += n_types - n_trials + int(n_trials > n_types)
    if width >= n_volumes:
        remedy = "use method='lss'" if method == "lsa" else "use fewer confounds or keep more volumes"
        raise DesignError(
            f"a model has fewer columns than there are volumes, but that of {n_trials} trials by method {method!r} has "
            f"{width} columns for {n_volumes} volumes; {remedy}"
        )


def _lazy_maps(
    run: RunImages, design: _TrialDesign, method: str, noise: NoiseModel, scaling: Scaling, threads: int
) -> Any:
    """Betas (T, V) of all trials, and voxels (V,) whose mean is below one, lazily."""
    regressors, coordinates = span(design.matrix)
    models = _models(coordinates, design, method)
    n_volumes, rank = regressors.shape
    # Moments of a stretch of fewer volumes than the rank would outweigh its data.
    parts = max(1, min(threads, n_volumes // rank))
    n_voxels = run.how.space.voxels.size
    chunks = tuple(min(_VOXELS_TOGETHER, n_voxels - start) for start in range(0, n_voxels, _VOXELS_TOGETHER))
    moments = sum_run(run, regressors, noise.order, parts, ahead=parts < threads)
    return trial_maps(moments, regressors, models, noise, scaling, chunks)


def _models(coordinates: Array, design: _TrialDesign, method: str) -> list[TrialModel]:
    """Models of the trials; those that cannot be estimated are named, and give NaN."""
    if method == "lsa":
        models = all_trials(coordinates, len(design.names))
    else:
        models = separate_trials(coordinates, design.condition)
    alike = [design.names[k] for k in undetermined_trials(models) if not design.absent[k]]
    absent = [design.names[k] for k in np.flatnonzero(design.absent)]
    if len(alike) + len(absent) == len(design.names):
        raise DesignError(
            "no trial can be estimated: the run has no response to any, or their regressors cannot be told apart; "
            "check that onsets are in seconds from the start of this run"
        )
    if absent:
        warnings.warn(
            f"The run has no response to trials {listing(absent)}: their betas are NaN; check that onsets are in "
            "seconds from the start of this run",
            UserWarning,
            stacklevel=4,
        )
    if alike:
        warnings.warn(
            f"The regressors of trials {listing(alike)} cannot be told apart from others: their betas are NaN"
            + ("; use method='lss'" if method == "lsa" else ""),
            UserWarning,
            stacklevel=4,
        )
    for model in models:
        model.to_beta[design.absent[model.trials]] = np.nan
    return models
