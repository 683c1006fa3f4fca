"""Statistics of groups with variances of their own against Welch's test and the formula of G, voxel by voxel."""

import numpy as np
import pytest
from scipy import stats

from daskglm.kernels.permutation import partition, residuals
from daskglm.kernels.variance_groups import group_statistics, grouped_rows, variance_groups

GROUP = np.repeat([0, 1, 2], [8, 12, 7])


def problem(seed=0):
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.standard_normal((27, 2)), (GROUP[:, None] == np.arange(3)) * 1.0])
    values = rng.standard_normal((27, 6)) * np.array([1.0, 3, 0.5])[GROUP][:, None]
    index = np.concatenate([rng.permutation(np.flatnonzero(g == GROUP)) for g in range(3)])
    return design, values, np.array([np.arange(27), index]), np.array([np.ones(27), rng.choice([-1.0, 1], 27)])


def ours(design, contrast, values, index, sign, signed, names=GROUP):
    parts = partition(design, np.atleast_2d(contrast))
    groups = variance_groups(parts, names)
    left, _ = residuals(parts, values)
    rows = grouped_rows(parts, groups, index, sign)
    products = (rows.reshape(-1, len(values)) @ left).reshape(len(index), -1, values.shape[1])
    return group_statistics(products, groups.members @ left**2, groups, parts.tested.shape[1], signed)[0], parts


def rearranged(parts, values, index, sign):
    left = values - parts.nuisance @ (parts.nuisance.T @ values)
    moved = np.empty_like(left)
    moved[index] = sign[:, None] * left
    return moved


def test_two_groups_equal_welch():
    _, values, index, sign = problem()
    two = np.minimum(GROUP, 1)
    design = (two[:, None] == np.arange(2)) * 1.0
    index = np.array([np.arange(27), np.r_[np.roll(np.arange(8), 3), 8 + np.roll(np.arange(19), 5)]])
    found, parts = ours(design, [1.0, -1], values, index, sign, True, two)
    for k in range(2):
        moved = values if k == 0 else rearranged(parts, values, index[k], sign[k])
        expected = stats.ttest_ind(moved[two == 0], moved[two == 1], equal_var=False).statistic
        np.testing.assert_allclose(found[k], expected, rtol=1e-10)


@pytest.mark.parametrize("contrast", [np.eye(5)[0], np.eye(5)[:2], np.array([[0, 0, 1.0, -1, 0], [0, 0, 0, 1, -1]])])
def test_equals_the_formula(contrast):
    design, values, index, sign = problem(1)
    signed = np.ndim(contrast) == 1
    rows = np.atleast_2d(contrast)
    found, parts = ours(design, contrast, values, index, sign, signed)
    left = np.eye(27) - design @ np.linalg.pinv(design)
    for k in range(2):
        moved = rearranged(parts, values, index[k], sign[k])
        for voxel, y in enumerate(moved.T):
            beta, residual = np.linalg.pinv(design) @ y, left @ y
            weights, spread = np.empty(27), 0.0
            for g in range(3):
                inside = g == GROUP
                weights[inside] = np.diag(left)[inside].sum() / (residual[inside] @ residual[inside])
            covariance = rows @ np.linalg.inv(design.T @ (weights[:, None] * design)) @ rows.T
            for g in range(3):
                inside = g == GROUP
                spread += (1 - weights[inside].sum() / weights.sum()) ** 2 / np.diag(left)[inside].sum()
            s = len(rows)
            effect = rows @ beta
            scale = 1 + 2 * (s - 1) / (s * (s + 2)) * spread
            expected = effect @ np.linalg.solve(covariance, effect) / s / scale
            expected = np.sign(effect[0]) * np.sqrt(expected) if signed else expected
            np.testing.assert_allclose(found[k, voxel], expected, rtol=1e-8)
