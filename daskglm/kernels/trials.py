"""Betas of single trials: models that are subspaces of one design, solved from its moments alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskglm.kernels.basis import is_estimable, orthonormal_basis
from daskglm.kernels.lagged import LaggedMoments, project, select
from daskglm.kernels.moments import Array
from daskglm.kernels.noise import autoregression, pair_weights, solve_whitened

# Values of the matrices that are inverted together: 32 MB.
_SOLVE_VALUES = 2**22


@dataclass(frozen=True)
class TrialModel:
    """A model that some trials' betas are taken from.

    Attributes
    ----------
    trials : (k,) int64
        Which trials.
    columns : (r, s) float64
        Orthonormal: the model's basis is A columns, for the basis A (n, r) of the design of all trials.
    to_beta : (k, s) float64
        Coefficients in the model's basis -> betas of the trials; rows of NaN where the model does not determine
        them.
    """

    trials: NDArray[np.int64]
    columns: Array
    to_beta: Array


def span(design: Array) -> tuple[Array, Array]:
    """Find an orthonormal basis of a design that may have more columns than rows.

    Parameters
    ----------
    design : (n, p) float64
        X, finite.

    Returns
    -------
    basis : (n, r) float64
        A, orthonormal to rounding however close to each other columns of X are; r <= n.
    coordinates : (r, p) float64
        A'X.
    """
    norms = np.linalg.norm(design, axis=0)
    left, singular, _ = np.linalg.svd(design / np.where(norms > 0, norms, 1.0), full_matrices=False)
    kept = singular > max(design.shape) * np.finfo(float).eps * singular.max(initial=0.0)
    basis = np.ascontiguousarray(left[:, kept])
    return basis, basis.T @ design


def all_trials(coordinates: Array, n_trials: int) -> list[TrialModel]:
    """Least squares all: one model with a regressor a trial.

    Parameters
    ----------
    coordinates : (r, p) float64
        A'X: the design X of all trials, trials first, in its basis A.
    n_trials : int
        Number of trials.

    Returns
    -------
    list of TrialModel
        One.
    """
    return [_model(coordinates, np.arange(n_trials))]


def separate_trials(coordinates: Array, condition: NDArray[np.int64]) -> list[TrialModel]:
    """Least squares separate: a model a trial, in which the other trials are a regressor a condition.

    Parameters
    ----------
    coordinates : (r, p) float64
        A'X: the design X of all trials, trials first, in its basis A.
    condition : (T,) int64
        Number of the condition of each trial.

    Returns
    -------
    list of T TrialModel
        Of the columns: the trial, the sum of the other trials of its condition (if there are any), the sum of the
        trials of each other condition, and all other columns of X.
    """
    n_trials = len(condition)
    sums = coordinates[:, :n_trials] @ (condition[:, None] == np.unique(condition)).astype(np.float64)
    others = coordinates[:, n_trials:]
    models = []
    for trial in range(n_trials):
        own = np.unique(condition).searchsorted(condition[trial])
        same = np.flatnonzero((condition == condition[trial]) & (np.arange(n_trials) != trial))
        rest = coordinates[:, same].sum(axis=1, keepdims=True)[:, : len(same)]
        design = np.column_stack([coordinates[:, [trial]], rest, np.delete(sums, own, axis=1), others])
        models.append(_model(design, np.array([trial])))
    return models


def undetermined_trials(models: Sequence[TrialModel]) -> NDArray[np.int64]:
    """Trials whose model does not determine their beta: their regressor is zero, or a sum of others.

    Parameters
    ----------
    models : sequence of TrialModel
        Models.

    Returns
    -------
    (m,) int64
        Ascending.
    """
    return np.sort(np.concatenate([model.trials[np.isnan(model.to_beta).any(axis=1)] for model in models]))


def trial_betas(
    moments: LaggedMoments,
    constant: Array,
    models: Sequence[TrialModel],
    adjust: Callable[[Array], Array] | None = None,
) -> Array:
    """Betas of all trials at every voxel; no image is needed for them.

    Parameters
    ----------
    moments : LaggedMoments
        Of the basis A (n, r) of the design of all trials; order 0 for ordinary least squares.
    constant : (r,) float64
        Coefficients of the all-one vector in A. Every model spans it.
    models : sequence of TrialModel
        Models.
    adjust : callable, optional
        Takes the autoregressive coefficients (q, V) of a model to those that are used; by default they are
        themselves. Each model has its own noise.

    Returns
    -------
    (T, V) float64
        In the units of the data; NaN where a voxel does not vary or has a value that is not finite, or the model
        does not determine the trial.
    """
    n_trials = sum(model.trials.size for model in models)
    if moments.lags.order == 0:
        return _unwhitened(moments, constant, models, n_trials)
    betas = np.empty((n_trials, moments.cross.shape[2]))
    for model in models:
        projected = project(moments, model.columns)
        rho = autoregression(projected)
        betas[model.trials] = _whitened(projected, rho if adjust is None else adjust(rho), model, constant)
    return betas


def _unwhitened(moments: LaggedMoments, constant: Array, models: Sequence[TrialModel], n_trials: int) -> Array:
    """Ordinary least squares of all models: one product of matrices."""
    weights = np.empty((n_trials, len(constant)))
    for model in models:
        weights[model.trials] = model.to_beta @ model.columns.T
    betas: Array = weights @ moments.cross[0]
    # The model of the constant alone tells which voxels vary.
    alone = project(moments, constant[:, None] / np.linalg.norm(constant))
    mean = solve_whitened(alone, np.empty((0, betas.shape[1])), np.array([np.linalg.norm(constant)]))
    betas[:, np.isnan(mean.residual_variance)] = np.nan
    return betas


def _whitened(moments: LaggedMoments, rho: Array, model: TrialModel, constant: Array) -> Array:
    """Whitened least squares (k, V) of one model with coefficients (q, V); a design may be wide."""
    lags, (rank, n_voxels) = moments.lags, moments.cross.shape[1:]
    betas = np.full((model.trials.size, n_voxels), np.nan)
    seen = np.flatnonzero(np.isfinite(rho).all(axis=0))
    coefficients, labels = np.unique(rho[:, seen], axis=1, return_inverse=True)
    if coefficients.shape[1] > n_voxels // 4:
        width = max(1, _SOLVE_VALUES // rank**2)
        for part in (slice(start, start + width) for start in range(0, n_voxels, width)):
            fit = solve_whitened(select(moments, part), rho[:, part], model.columns.T @ constant)
            betas[:, part] = model.to_beta @ fit.theta
        return betas
    order = np.argsort(labels.reshape(-1), kind="stable")
    bounds = np.searchsorted(labels.reshape(-1)[order], np.arange(1, coefficients.shape[1]))
    for label, group in enumerate(np.split(seen[order], bounds) if seen.size else []):
        weights = pair_weights(coefficients[:, [label]], lags.pairs)
        rows = np.linalg.solve(np.tensordot(weights[:, 0], lags.gram, axes=1), model.to_beta.T).T
        betas[:, group] = rows @ moments.weighted_cross(weights, group)
    return betas


def _model(design: Array, trials: NDArray[np.int64]) -> TrialModel:
    """The model of a design (r, s) in coordinates, whose first columns are those of the trials."""
    basis = orthonormal_basis(design)
    to_beta = basis.to_basis[: trials.size].copy()
    for row in range(trials.size):
        unit = np.zeros((1, design.shape[1]))
        unit[0, row] = 1.0
        if not is_estimable(unit, basis):
            to_beta[row] = np.nan
    return TrialModel(trials, design @ basis.to_basis, to_beta)
