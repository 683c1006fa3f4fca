"""Scaling of the values of a run: linear maps of its moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.lagged import LaggedMoments, scale
from daskglm.kernels.moments import Array


@dataclass(frozen=True)
class Scaling:
    """What is done to the values of a run before the fit.

    Attributes
    ----------
    percent_of : {"voxel", "run", None}
        Values become percent of the mean of their voxel, or of the whole run, minus 100; None: they stay.
    standardize : bool
        Values become differences from the mean of their voxel, over its standard deviation (n - 1).
    """

    percent_of: str | None = None
    standardize: bool = False


def run_mean(stretches: Sequence[LaggedMoments], constant: Array) -> float:
    """Mean of a run over volumes and voxels.

    Parameters
    ----------
    stretches : sequence of LaggedMoments
        Of a basis that spans the constant; all volumes of the run together.
    constant : (r,) float64
        Coefficients of the all-one vector.

    Returns
    -------
    float
        Of the voxels that are finite throughout; NaN where there is none.
    """
    fine = ~np.any([item.broken for item in stretches], axis=0)
    shifts = sum(constant @ item.cross[0] for item in stretches) / stretches[0].lags.n_samples
    return float((stretches[0].reference + shifts)[fine].mean()) if fine.any() else np.nan


def scale_run(moments: LaggedMoments, constant: Array, scaling: Scaling, grand_mean: float = np.nan) -> LaggedMoments:
    """Scale a run; no image is needed for it.

    Parameters
    ----------
    moments : LaggedMoments
        Of a basis that spans the constant.
    constant : (r,) float64
        Coefficients of the all-one vector.
    scaling : Scaling
        What is done.
    grand_mean : float
        Mean of the run, from :func:`run_mean`, where values become percent of it.

    Returns
    -------
    LaggedMoments
        Of ``100 (y / max(mean, 1) - 1)``, nilearn's rule: a mean under one counts as one.
    """
    if scaling == Scaling():
        return moments
    mean = _means(moments, constant)
    if scaling.percent_of is None:
        n_samples = moments.lags.n_samples
        variance = (moments.power[0] - n_samples * (mean - moments.reference) ** 2) / max(n_samples - 1, 1)
        deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
        return scale(moments, 1.0 / deviation, -mean / deviation)
    if scaling.percent_of == "run":
        mean = np.full_like(mean, grand_mean)
    return scale(moments, 100.0 / np.maximum(mean, 1.0), np.full_like(mean, -100.0))


def below_one(
    moments: LaggedMoments, constant: Array, scaling: Scaling, grand_mean: float = np.nan
) -> NDArray[np.bool_]:
    """Find voxels whose values become percent of a mean that is below one, and so are no percent.

    Parameters
    ----------
    moments, constant, scaling, grand_mean
        As for :func:`scale_run`.

    Returns
    -------
    (V,) bool
    """
    n_voxels = moments.reference.size
    if scaling.percent_of is None:
        return np.zeros(n_voxels, dtype=bool)
    return np.full(n_voxels, grand_mean < 1.0) if scaling.percent_of == "run" else _means(moments, constant) < 1.0


def _means(moments: LaggedMoments, constant: Array) -> Array:
    """Mean of each voxel."""
    means: Array = moments.reference + (constant @ moments.cross[0]) / moments.lags.n_samples
    return means


def scale_values(values: NDArray[Any], scaling: Scaling) -> Array:
    """Scale the values of a run themselves, as :func:`scale_run` scales its moments.

    Parameters
    ----------
    values : (n, V) array
        A run.
    scaling : Scaling
        What is done.

    Returns
    -------
    (n, V) float64
    """
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=0)
    if scaling.percent_of is None:
        if not scaling.standardize:
            return values
        with np.errstate(invalid="ignore"):
            values = values - mean
            deviation = np.sqrt((values**2).sum(axis=0) / (len(values) - 1))
        return values / np.where(deviation > 0, deviation, 1.0)
    if scaling.percent_of == "run":
        fine = np.isfinite(mean)
        mean = np.full_like(mean, mean[fine].mean() if fine.any() else np.nan)
    with np.errstate(invalid="ignore"):  # infinity over infinity
        return 100.0 * (values / np.maximum(mean, 1.0) - 1.0)


def percent_of_volume(volumes: NDArray[Any]) -> Array:
    """Express each volume in percent of its mean over the voxels, minus 100.

    Parameters
    ----------
    volumes : (m, V) array
        In image units.

    Returns
    -------
    (m, V) float64
        ``100 (y / max(mean, 1) - 1)``; values that are not finite do not enter the mean.
    """
    values = volumes.astype(np.float64)
    finite = np.isfinite(values)
    sums = np.where(finite, values, 0.0).sum(axis=1, keepdims=True)
    mean = sums / np.maximum(finite.sum(axis=1, keepdims=True), 1)
    return 100.0 * (values / np.maximum(mean, 1.0) - 1.0)
