"""Voxels fitted again one by one with NumPy's least squares, by none of this package's arithmetic, beside the maps.

Images come through this package's readers, which mask and smooth; all that follows is done anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from daskglm.graph.compute import compute
from daskglm.graph.images import lazy_array
from daskglm.graph.runs import NoiseModel, RunImages, read_run
from daskglm.kernels.scaling import Scaling
from daskglm.report.analysis import Check

Array = NDArray[np.float64]

_VOXELS = 20
# Reading twenty voxels may need whole chunks, or whole files, of the images.
_MOST_BYTES = 400_000_000
_CHUNKS = 4


@dataclass(frozen=True)
class Fitted:
    """What an analysis says of a contrast; None is what it does not say.

    Attributes
    ----------
    weights : (q, p) float64
        Of the regressors.
    effect, variance, statistic : (V,) float64 or None
        Its maps.
    kind : {"t", "F", "z"}
        What `statistic` is; "z" is z of t.
    """

    weights: Array
    effect: Array | None
    variance: Array | None
    statistic: Array | None
    kind: str


def check_group(images: xr.Dataset, design: Array, fitted: Mapping[str, Fitted]) -> Check:
    """Fit some voxels of a group again.

    Parameters
    ----------
    images : xarray.Dataset
        Images dataset of n samples and V voxels, in the order of the design.
    design : (n, p) float64
        Design.
    fitted : mapping of str to Fitted
        Contrasts by name.

    Returns
    -------
    Check
    """
    data = lazy_array(images["data"])
    chosen = _choose(fitted, data.chunks[1])
    read = sum(size for start, size in _chunks(data.chunks[1]) if ((chosen >= start) & (chosen < start + size)).any())
    size = read * data.shape[0] * data.dtype.itemsize
    if size > _MOST_BYTES:
        return Check(
            why_not=f"reading voxels of these images alone would take {size / 1e9:.1f} GB of reading; a store made by "
            "daskglm convert keeps chunks of voxels apart"
        )
    if not chosen.size:
        return Check(why_not="no voxel was tested")
    (values,) = compute(data[:, chosen], here=True)
    return _compare(values.astype(np.float64), design, None, chosen, fitted)


def check_run(
    run: RunImages, design: Array, noise: NoiseModel, scaling: Scaling, fitted: Mapping[str, Fitted]
) -> Check:
    """Fit some voxels of a run again.

    Parameters
    ----------
    run : RunImages
        n analysed volumes.
    design : (n, p) float64
        Their rows of the design.
    noise : NoiseModel
        Noise.
    scaling : Scaling
        What is done to the values first.
    fitted : mapping of str to Fitted
        Contrasts of this run, by name.

    Returns
    -------
    Check
    """
    adjacent = bool((np.diff(run.volumes) == 1).all())
    if noise.order > 1 or (noise.order == 1 and not adjacent):
        return Check(why_not="only runs without noise model, or with ar1 and no volume left out, are checked")
    if scaling.percent_of == "run" or scaling.standardize or run.by_volume:
        return Check(why_not="only runs as they are, or in percent of the mean of each voxel, are checked")
    size = len(run.volumes) * run.how.space.voxels.size * 4
    if size > _MOST_BYTES:
        return Check(why_not=f"the run is read as a whole for it, and has {size / 1e9:.1f} GB")
    chosen = _choose(fitted, (run.how.space.voxels.size,))
    if not chosen.size:
        return Check(why_not="no voxel was tested")
    values = read_run(run)[:, chosen].astype(np.float64)
    if scaling.percent_of == "voxel":
        # nilearn's rule: a mean under one counts as one.
        values = 100 * (values / np.maximum(values.mean(axis=0), 1.0) - 1)
    return _compare(values, design, noise if noise.order else None, chosen, fitted)


def _choose(fitted: Mapping[str, Fitted], sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Voxels that were tested in every contrast, at random, from a few chunks."""
    known = [
        values for item in fitted.values() for values in (item.effect, item.variance, item.statistic)
        if values is not None
    ]  # fmt: skip
    tested = np.all([np.isfinite(values) for values in known], axis=0)
    rng = np.random.default_rng(0)
    chunks = [(start, size) for start, size in _chunks(sizes) if tested[start : start + size].any()]
    picked = [chunks[index] for index in rng.permutation(len(chunks))[:_CHUNKS]]
    candidates = [start + np.flatnonzero(tested[start : start + size]) for start, size in picked]
    if not candidates:
        return np.empty(0, dtype=np.int64)
    pool = np.concatenate(candidates)
    return np.sort(rng.choice(pool, min(_VOXELS, len(pool)), replace=False))


def _chunks(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Start and size of chunks."""
    return list(zip(np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist(), sizes, strict=True))


def _compare(
    values: Array, design: Array, noise: NoiseModel | None, chosen: NDArray[np.int64], fitted: Mapping[str, Fitted]
) -> Check:
    """Differences between the maps and new fits of values (n, v)."""
    anew = {name: np.full((3, len(chosen)), np.nan) for name in fitted}
    for place, column in enumerate(values.T):
        kept = np.isfinite(column)
        for name, item in fitted.items():
            anew[name][:, place] = _refit(column[kept], design[kept], noise, item)
    rows = [
        (name, *(
            _difference(ours, theirs, chosen)
            for ours, theirs in zip((item.effect, item.variance, item.statistic), anew[name], strict=True)
        ))
        for name, item in fitted.items()
    ]  # fmt: skip
    how = "with numpy.linalg.lstsq in float64, each with the observations that it has"
    if noise is not None:
        how = "with numpy.linalg.lstsq in float64, whitened by its own autoregression of order 1"
    return Check(len(chosen), rows, how)  # type: ignore[arg-type]


def _refit(values: Array, design: Array, noise: NoiseModel | None, item: Fitted) -> tuple[float, float, float]:
    """Effect, variance and statistic of one voxel, from its values (m,) and their rows of the design (m, p)."""
    beta, *_ = np.linalg.lstsq(design, values, rcond=None)
    if noise is not None:
        residuals = values - design @ beta
        lagged = (residuals[1:] @ residuals[:-1]) / (len(values) - 1)
        rho = float(lagged / (residuals @ residuals / len(values)))
        rho = rho if noise.bins is None else float(np.trunc(rho * noise.bins) / noise.bins)
        values, design = _whitened(values, rho), _whitened(design, rho)
        beta, *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(values) - int(np.linalg.matrix_rank(design))
    residuals = values - design @ beta
    noise_variance = float(residuals @ residuals) / freedom
    effects = item.weights @ beta
    spread = item.weights @ np.linalg.pinv(design.T @ design) @ item.weights.T
    if item.kind == "F":
        rank = np.linalg.matrix_rank(item.weights)
        return np.nan, noise_variance, float(effects @ np.linalg.pinv(spread) @ effects / rank / noise_variance)
    variance = float(noise_variance * spread[0, 0])
    t = float(effects[0] / np.sqrt(variance))
    z = float(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), freedom)))
    return float(effects[0]), variance, z if item.kind == "z" else t


def _whitened(values: Array, rho: float) -> Array:
    """Values minus rho times those before them."""
    found = values.copy()
    found[1:] -= rho * values[:-1]
    return found


def _difference(ours: Array | None, theirs: Array, chosen: NDArray[np.int64]) -> float | None:
    """Largest difference, over the largest value; None where there is nothing to compare."""
    if ours is None or np.isnan(theirs).all():
        return None
    differences = np.abs(ours[chosen] - theirs)
    return float(np.nan_to_num(differences, nan=np.inf).max() / np.abs(theirs).max())
