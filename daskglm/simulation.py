"""Small simulated data with a known truth, for the examples and for trying things out."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from daskglm.design.first_level import frame_times, make_first_level_design_matrix
from daskglm.io.files import write_bytes
from daskglm.io.nifti import write_image
from daskglm.io.ownership import check_ours

Array = NDArray[np.float64]
# Centre and half axes of the brain in mm: about the box of the MNI templates.
_CENTRE, _HALF_AXES = (0.0, -18.0, 8.0), (70.0, 86.0, 68.0)
_MEAN, _AUTOCORRELATION, _DRIFT = 1000.0, 0.3, 1.0
_MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def simulate_brain(voxel_mm: float = 6.0) -> Any:
    """A mask of the size and place of a brain in MNI space: an ellipsoid.

    Parameters
    ----------
    voxel_mm : float
        Edge of a voxel, in mm.

    Returns
    -------
    Nifti1Image
        (X, Y, Z) uint8.

    Examples
    --------
    >>> simulate_brain(12).shape
    (13, 17, 13)
    """
    half = [int(np.ceil(axis / voxel_mm)) for axis in _HALF_AXES]
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = np.array(_CENTRE) - voxel_mm * np.array(half)
    empty = nib.Nifti1Image(np.zeros([2 * size + 1 for size in half], dtype=np.uint8), affine)
    x, y, z = _positions(empty)
    inside = sum(((at - c) / a) ** 2 for at, c, a in zip((x, y, z), _CENTRE, _HALF_AXES, strict=True)) < 1
    return nib.Nifti1Image(np.asarray(inside, dtype=np.uint8), affine)


def blob(mask_img: Any, centre: Sequence[float], height: float = 1.0, width_mm: float = 12.0) -> Array:
    """An effect in one place: a Gaussian, cut off to zero where it is under a tenth of its height.

    Parameters
    ----------
    mask_img : Nifti1Image
        Brain.
    centre : 3 floats
        Where, in mm.
    height : float
        Its largest value, in the units of the effect.
    width_mm : float
        Standard deviation, in mm.

    Returns
    -------
    (X, Y, Z) float64
    """
    distance = sum((at - c) ** 2 for at, c in zip(_positions(mask_img), centre, strict=True))
    shape = np.exp(-distance / (2 * width_mm**2))
    return height * np.where((shape > 0.1) & (np.asarray(mask_img.dataobj) > 0), shape, 0.0)


def simulate_maps(
    mask_img: Any,
    weights: Mapping[str, Sequence[float]] | pd.DataFrame,
    effects: Mapping[str, Array],
    *,
    noise: float = 1.0,
    smoothness_mm: float = 4.0,
    shared: Sequence[Any] | None = None,
    shared_noise: float = 0.0,
    seed: int = 0,
) -> list[Any]:
    """Maps of n samples: each a weighted sum of effects, and smooth noise.

    Parameters
    ----------
    mask_img : Nifti1Image
        Brain; outside it maps are 0.
    weights : mapping of str to n floats, or (n, k) DataFrame
        Weight of each effect in each map.
    effects : mapping of str to (X, Y, Z) float64
        What each weight counts.
    noise : float
        Standard deviation of the noise of each map.
    smoothness_mm : float
        Standard deviation of the Gaussian that smooths it.
    shared : sequence of n labels, optional
        Maps of one label, a subject say, have besides one map of noise in common.
    shared_noise : float
        Standard deviation of that.
    seed : int
        Map i depends on (seed, i) and its label alone.

    Returns
    -------
    list of n Nifti1Image
        (X, Y, Z) float64.
    """
    table = pd.DataFrame(weights)[list(effects)]
    labels = list(dict.fromkeys(shared if shared is not None else ()))
    images = []
    for index, row in enumerate(table.to_numpy(float)):
        values = noise * _smooth_noise(mask_img, smoothness_mm, (seed, 0, index))
        if shared is not None:
            values += shared_noise * _smooth_noise(mask_img, smoothness_mm, (seed, 1, labels.index(shared[index])))
        for weight, effect in zip(row, effects.values(), strict=True):
            values += weight * effect
        values *= np.asarray(mask_img.dataobj) > 0
        images.append(nib.Nifti1Image(values, mask_img.affine))
    return images


def simulate_run(
    mask_img: Any,
    events: pd.DataFrame,
    effects: Mapping[str, Array],
    n_volumes: int,
    t_r: float,
    *,
    hrf_model: Any = "glover",
    noise: float = 1.0,
    seed: int = 0,
) -> Any:
    """One run of fMRI: responses to events, a slow drift, and noise that remembers the volume before.

    Parameters
    ----------
    mask_img : Nifti1Image
        Brain; outside it the run is 0.
    events : DataFrame
        Columns onset and duration (seconds), trial_type, modulation (the amplitude; 1 where there is none).
    effects : mapping of str to (X, Y, Z) float64
        Response to each trial type, in percent of the mean, once it lasts: a short event has a part of it.
    n_volumes : int
        Number of volumes n.
    t_r : float
        Repetition time in seconds.
    hrf_model : str or callable
        The true response, one column a trial type.
    noise : float
        Standard deviation of the noise, in percent of the mean.
    seed : int
        Of the noise.

    Returns
    -------
    Nifti1Image
        (X, Y, Z, n) float32.
    """
    inside = np.asarray(mask_img.dataobj) > 0
    times = frame_times(n_volumes, t_r)
    design = make_first_level_design_matrix(times, events, hrf_model=hrf_model, drift_model=None)
    # One column a trial type, in the order of their names, and the constant.
    responses = dict(zip(sorted(set(events["trial_type"])), design.to_numpy().T[:-1], strict=True))
    percent = _remembering_noise(np.random.default_rng(seed), n_volumes, int(inside.sum()), noise)
    percent += _DRIFT * np.cos(np.pi * np.arange(n_volumes) / n_volumes)[:, None]
    for name, effect in effects.items():
        percent += responses[name][:, None] * effect[inside]
    data = np.zeros((*inside.shape, n_volumes), dtype=np.float32)
    data[inside] = (_MEAN * (1 + percent / 100)).T
    image = nib.Nifti1Image(data, mask_img.affine)
    image.header.set_zooms((*mask_img.header.get_zooms()[:3], t_r))
    image.header.set_xyzt_units("mm", "sec")
    return image


def simulate_events(trial_types: Sequence[str], n_trials: int, spacing: float, duration: float, seed: int = 0) -> Any:
    """Events of a run, in random order and with some jitter.

    Parameters
    ----------
    trial_types : sequence of str
        Each has as many trials, to within one.
    n_trials : int
        Number of trials.
    spacing : float
        Seconds from one trial to the next, on average.
    duration : float
        Of each trial, in seconds.
    seed : int
        Of order and jitter.

    Returns
    -------
    (n_trials, 3) DataFrame
        Columns onset, duration (seconds) and trial_type.
    """
    rng = np.random.default_rng(seed)
    onsets = spacing / 2 + spacing * np.arange(n_trials) + rng.uniform(-0.25, 0.25, n_trials) * spacing
    kinds = rng.permutation(np.resize(np.array(trial_types, dtype=object), n_trials))
    return pd.DataFrame({"onset": onsets.round(2), "duration": duration, "trial_type": kinds})


def simulate_bids(
    folder: str,
    mask_img: Any,
    effects: Mapping[str, Array],
    n_subjects: int,
    n_runs: int = 2,
    n_volumes: int = 100,
    t_r: float = 2.0,
    *,
    age_effect: float = 0.0,
    task: str = "faces",
    seed: int = 0,
) -> pd.DataFrame:
    """Write a BIDS dataset with the derivatives that fMRIPrep makes.

    Parameters
    ----------
    folder : str
        Where it goes.
    mask_img : Nifti1Image
        Brain.
    effects : mapping of str to (X, Y, Z) float64
        Response to each trial type, as for :func:`simulate_run`, of a subject of 50 years.
    n_subjects, n_runs, n_volumes : int
        Subjects, runs of each, volumes n of each.
    t_r : float
        Repetition time in seconds.
    age_effect : float
        All responses are larger by this fraction with each year.
    task : str
        Name of the task.
    seed : int
        Each run depends on it and its number alone.

    Returns
    -------
    (n_subjects, 2) DataFrame
        The participants: columns participant_id and age.
    """
    ages = np.random.default_rng(seed).uniform(20, 80, n_subjects).round(1)
    names = [f"sub-{index + 1:02d}" for index in range(n_subjects)]
    participants = pd.DataFrame({"participant_id": names, "age": ages})
    check_ours(os.path.join(folder, "dataset_description.json"), "folder")
    derivatives = os.path.join(folder, "derivatives", "fmriprep")
    for root, kind in ((folder, "raw"), (derivatives, "derivative")):
        about = {"Name": "Simulated", "BIDSVersion": "1.9.0", "DatasetType": kind, "GeneratedBy": [{"Name": "daskglm"}]}
        write_bytes(os.path.join(root, "dataset_description.json"), json.dumps(about).encode())
    _write_table(participants, os.path.join(folder, "participants.tsv"))
    for subject, (name, age) in enumerate(zip(names, ages, strict=True)):
        scaled = {kind: effect * (1 + age_effect * (age - 50)) for kind, effect in effects.items()}
        for run in range(n_runs):
            number = 1 + seed + subject * n_runs + run
            events = simulate_events(list(effects), int(n_volumes * t_r / 10) - 1, 10.0, 2.0, number)
            image = simulate_run(mask_img, events, scaled, n_volumes, t_r, seed=number)
            entities = os.path.join(name, "func", f"{name}_task-{task}_run-{run + 1}")
            _write_table(events, os.path.join(folder, f"{entities}_events.tsv"))
            _write_derivatives(os.path.join(derivatives, entities), image, mask_img, t_r, number)
    return participants


def _write_derivatives(path: str, image: Any, mask_img: Any, t_r: float, seed: int) -> None:
    """The run, its mask and its confounds, by the names that fMRIPrep gives them."""
    stem = f"{path}_space-MNI152NLin2009cAsym_desc"
    write_image(image, f"{stem}-preproc_bold.nii.gz")
    write_bytes(f"{stem}-preproc_bold.json", json.dumps({"RepetitionTime": t_r, "StartTime": 0.0}).encode())
    write_image(mask_img, f"{stem}-brain_mask.nii.gz")
    steps = 0.02 * np.random.default_rng((seed, 2)).standard_normal((image.shape[3], len(_MOTION)))
    _write_table(pd.DataFrame(steps.cumsum(axis=0), columns=_MOTION), f"{path}_desc-confounds_timeseries.tsv")


def _write_table(table: pd.DataFrame, path: str) -> None:
    """A table as BIDS has it."""
    write_bytes(path, table.to_csv(sep="\t", index=False).encode())


def _positions(image: Any) -> Array:
    """Positions (3, X, Y, Z) of the voxels in mm, of a grid along the axes."""
    axes = [image.affine[k, 3] + image.affine[k, k] * np.arange(size) for k, size in enumerate(image.shape[:3])]
    return np.array(np.meshgrid(*axes, indexing="ij"))


def _smooth_noise(mask_img: Any, smoothness_mm: float, seed: tuple[int, ...]) -> Array:
    """Noise (X, Y, Z) of standard deviation 1 in the brain."""
    white = np.random.default_rng(seed).standard_normal(mask_img.shape)
    smooth: Array = gaussian_filter(white, smoothness_mm / np.abs(np.diag(mask_img.affine)[:3]), mode="wrap")
    return smooth / smooth.std()


def _remembering_noise(rng: np.random.Generator, n: int, n_voxels: int, size: float) -> Array:
    """Autoregressive noise (n, V) of order one, of a standard deviation."""
    noise = rng.standard_normal((n, n_voxels))
    for volume in range(1, n):
        noise[volume] = _AUTOCORRELATION * noise[volume - 1] + np.sqrt(1 - _AUTOCORRELATION**2) * noise[volume]
    return size * noise
