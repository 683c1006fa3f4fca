"""Models of single trials from the moments of the design of all trials."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from daskglm.kernels.lagged import plan_lags, sum_lagged
from daskglm.kernels.noise import quantise
from daskglm.kernels.trials import all_trials, separate_trials, span, trial_betas, undetermined_trials

CONDITION = np.array([0, 1, 0, 2, 1, 0, 1])


def make(n: int = 40, n_trials: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A design of trials, a covariate and the constant, and data."""
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.standard_normal((n, n_trials + 1)), np.ones(n)])
    return design, 50 + rng.standard_normal((n, 24)).cumsum(axis=0) * 0.3 + rng.standard_normal((n, 24))


def separate_design(design: np.ndarray, condition: np.ndarray, trial: int) -> np.ndarray:
    """The design of one trial, column by column."""
    others = np.arange(len(condition)) != trial
    sums = [
        design[:, : len(condition)][:, (condition == name) & others].sum(axis=1)
        for name in np.unique(condition)
        if ((condition == name) & others).any()
    ]
    return np.column_stack([design[:, trial], *sums, design[:, len(condition) :]])


def whitened_beta(design: np.ndarray, data: np.ndarray, bins: int | None) -> np.ndarray:
    """The first beta of AR(1) least squares, voxel by voxel."""
    found = []
    for y in data.T:
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        rho = (residual[1:] @ residual[:-1] / (len(y) - 1)) / (residual @ residual / len(y))
        rho = rho if bins is None else np.trunc(rho * bins) / bins
        white = np.eye(len(y)) - rho * np.eye(len(y), k=-1)
        found.append(np.linalg.lstsq(white @ design, white @ y, rcond=None)[0][0])
    return np.array(found)


def test_basis_is_orthonormal_where_columns_nearly_agree() -> None:
    rng = np.random.default_rng(1)
    design = np.vander(np.linspace(0, 1, 12), 30) + 1e-11 * rng.standard_normal((12, 30))
    basis, coordinates = span(design)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-13)
    np.testing.assert_allclose(basis @ coordinates, design, atol=1e-13)


def test_ordinary_least_squares() -> None:
    design, data = make()
    basis, coordinates = span(design)
    moments, constant = sum_lagged([data], plan_lags(basis, 0)), basis.T @ np.ones(40)
    together = trial_betas(moments, constant, all_trials(coordinates, 7))
    np.testing.assert_allclose(together, np.linalg.lstsq(design, data, rcond=None)[0][:7], rtol=1e-9)
    separate = trial_betas(moments, constant, separate_trials(coordinates, CONDITION))
    for trial in range(7):
        expected = np.linalg.lstsq(separate_design(design, CONDITION, trial), data, rcond=None)[0][0]
        np.testing.assert_allclose(separate[trial], expected, rtol=1e-9)


@pytest.mark.parametrize("bins", [2, 100, None])
def test_autoregressive_noise_is_that_of_each_model(bins: int | None) -> None:
    design, data = make()
    basis, coordinates = span(design)
    moments, constant = sum_lagged([data[:15], data[15:]], plan_lags(basis, 1)), basis.T @ np.ones(40)
    adjust = None if bins is None else partial(quantise, bins=bins)
    separate = trial_betas(moments, constant, separate_trials(coordinates, CONDITION), adjust)
    together = trial_betas(moments, constant, all_trials(coordinates, 7), adjust)
    for trial in range(7):
        expected = whitened_beta(separate_design(design, CONDITION, trial), data, bins)
        np.testing.assert_allclose(separate[trial], expected, rtol=1e-8)
        rolled = np.roll(design, -trial, axis=1)
        np.testing.assert_allclose(together[trial], whitened_beta(rolled, data, bins), rtol=1e-8)


def test_more_trials_than_volumes() -> None:
    design, data = make(n_trials=60)
    condition = np.arange(60) % 4 * 5
    basis, coordinates = span(design)
    assert basis.shape == (40, 40)
    moments, constant = sum_lagged([data], plan_lags(basis, 0)), basis.T @ np.ones(40)
    found = trial_betas(moments, constant, separate_trials(coordinates, condition))
    for trial in range(60):
        expected = np.linalg.lstsq(separate_design(design, condition, trial), data, rcond=None)[0][0]
        np.testing.assert_allclose(found[trial], expected, rtol=1e-8)
    assert undetermined_trials(all_trials(coordinates, 60)).tolist() == list(range(60))


def test_undetermined_trials_are_nan_and_touch_no_other() -> None:
    design, data = make()
    design[:, 3] = 0.0
    design[:, 4] = design[:, 2]
    basis, coordinates = span(design)
    models = all_trials(coordinates, 7)
    assert undetermined_trials(models).tolist() == [2, 3, 4]
    found = trial_betas(sum_lagged([data], plan_lags(basis, 0)), basis.T @ np.ones(40), models)
    assert np.isnan(found[[2, 3, 4]]).all()
    expected = np.linalg.lstsq(np.delete(design, [3, 4], axis=1), data, rcond=None)[0]
    np.testing.assert_allclose(found[[0, 1, 5, 6]], expected[[0, 1, 3, 4]], rtol=1e-9)
    assert undetermined_trials(separate_trials(coordinates, CONDITION)).tolist() == [3]


@pytest.mark.parametrize(("order", "adjust"), [(0, None), (1, None), (1, partial(quantise, bins=2))])
def test_voxels_that_do_not_vary_or_are_not_finite_are_nan(order: int, adjust: Callable[..., Any] | None) -> None:
    design, data = make()
    data[:, 2], data[4, 5] = 0.1, np.inf
    basis, coordinates = span(design)
    moments = sum_lagged([data], plan_lags(basis, order))
    for models in (all_trials(coordinates, 7), separate_trials(coordinates, CONDITION)):
        found = trial_betas(moments, basis.T @ np.ones(40), models, adjust)
        np.testing.assert_array_equal(np.isnan(found), np.isin(np.arange(24), [2, 5])[None].repeat(7, axis=0))
