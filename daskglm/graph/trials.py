"""Moments of a run -> betas of its single trials."""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskglm.graph.compute import shared, task
from daskglm.graph.runs import NoiseModel
from daskglm.kernels.basis import with_constant
from daskglm.kernels.lagged import LaggedMoments, select
from daskglm.kernels.moments import Array
from daskglm.kernels.noise import quantise
from daskglm.kernels.scaling import Scaling, below_one, run_mean, scale_run
from daskglm.kernels.trials import TrialModel, trial_betas


def trial_maps(
    moments: da.Array,
    regressors: Array,
    models: Sequence[TrialModel],
    noise: NoiseModel,
    scaling: Scaling,
    chunks: tuple[int, ...],
) -> tuple[da.Array, da.Array]:
    """Betas of single trials, lazily.

    Parameters
    ----------
    moments : (parts, 1) dask array of LaggedMoments
        From :func:`~daskglm.graph.runs.sum_run`: stretches of a run, all voxels.
    regressors : (n, r) float64
        Orthonormal basis of the design of all trials; it spans the constant.
    models : sequence of TrialModel
        Models of the T trials.
    noise : NoiseModel
        Of the order the moments were summed for; coefficients of order 1 may be rounded, not those of higher ones.
    scaling : Scaling
        What is done to the values.
    chunks : tuple of int
        Voxels that are solved together.

    Returns
    -------
    betas : (T, V) dask array of float64
    below_one : (V,) dask array of bool
        Whether values became percent of a mean below one.
    """
    constant = with_constant(regressors)[1]
    stretches = moments.to_delayed()[:, 0].tolist()
    mean = task("mean-of-run", _mean, stretches, constant) if scaling.percent_of == "run" else np.nan
    once = shared("trial-models", list(models))
    n_trials = sum(model.trials.size for model in models)
    betas, low = [], []
    for start, stop in pairwise(np.cumsum([0, *chunks]).tolist()):
        piece = task("cut-moments", _piece, stretches, slice(start, stop))
        found = task("trial-betas", _betas, piece, constant, once, noise, scaling, mean)
        betas.append(da.from_delayed(found, (n_trials, stop - start), np.float64))
        below = task("below-one", below_one, piece, constant, scaling, mean)
        low.append(da.from_delayed(below, (stop - start,), bool))
    return da.concatenate(betas, axis=1), da.concatenate(low)


def _mean(stretches: list[NDArray[Any]], constant: Array) -> float:
    """Mean of a run over volumes and voxels."""
    return run_mean([item[0, 0] for item in stretches], constant)


def _piece(stretches: list[NDArray[Any]], voxels: slice) -> LaggedMoments:
    """Moments of some voxels, over all stretches."""
    return reduce(add, (select(item[0, 0], voxels) for item in stretches))


def _betas(
    moments: LaggedMoments,
    constant: Array,
    models: list[TrialModel],
    noise: NoiseModel,
    scaling: Scaling,
    mean: float,
) -> Array:
    """Betas (T, m) of all trials at some voxels."""
    adjust = None if noise.order != 1 or noise.bins is None else partial(quantise, bins=noise.bins)
    return trial_betas(scale_run(moments, constant, scaling, mean), constant, models, adjust)
