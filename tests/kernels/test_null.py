"""P-values from maxima and counts, against counting, SciPy's generalized Pareto distribution and PALM's fit of it."""

import numpy as np
import pytest
from scipy import optimize, stats

from daskglm.kernels.null import corrected_p, counted_p, critical_value, false_discovery_q, tie_level, z_of_p


def maxima_of(distribution, size, seed=0):
    return distribution.rvs(size, random_state=np.random.default_rng(seed))


def counted(level, maxima):
    return (1 + np.sum(maxima[None] >= np.asarray(level)[:, None], axis=1)) / (1 + maxima.size)


def pareto_by_moments(level, maxima, shape_of=lambda shape: shape):
    """Upper tail of SciPy's genpareto with the parameters of PALM's palm_pareto: by moments of the largest quarter."""
    ordered = np.sort(maxima)
    n_above = int(0.25 * maxima.size)
    start = ordered[maxima.size - n_above - 1]
    excess = ordered[maxima.size - n_above :] - start
    mean, variance = excess.mean(), excess.var(ddof=1)
    shape, scale = 0.5 * (1 - mean**2 / variance), 0.5 * mean * (1 + mean**2 / variance)
    if shape < 0:
        shape, scale = 0.0, mean
    return n_above / maxima.size * stats.genpareto.sf(np.asarray(level) - start, shape, scale=scale)


@pytest.mark.parametrize("size", [80, 81, 82, 83, 499, 500])
@pytest.mark.parametrize(
    "distribution",
    [stats.uniform(2, 3), stats.expon(3, 0.5), stats.gumbel_r(4, 0.4), stats.t(5), stats.genpareto(0.3, 2)],
    ids=["bounded", "exponential", "Gumbel", "t", "Pareto"],
)
def test_small_p_are_those_of_a_generalized_pareto_tail(distribution, size):
    maxima = maxima_of(distribution, size)
    level = np.r_[np.quantile(maxima, [0.3, 0.7, 0.86, 0.95, 0.99, 1.0]), maxima.max() + np.array([0.5, 3.0, 30.0])]
    by_count = counted(level, maxima)
    expected = np.where(by_count < 0.1, pareto_by_moments(level, maxima), by_count)
    assert (by_count < 0.1).sum() == 6
    np.testing.assert_allclose(corrected_p(level, maxima, tail=True), expected, rtol=1e-9)
    # No data are impossible under the null.
    assert (expected > 0).all()


def test_a_tail_that_is_nearly_exponential():
    quantiles = -np.log(1 - (np.arange(125) + 0.5) / 125)

    def excess(power, shape=0.0):
        values = quantiles**power
        return 0.5 * (1 - values.mean() ** 2 / values.var(ddof=1)) - shape

    for shape in (0.005, 1e-4):
        power = optimize.brentq(excess, 0.5, 2, args=(shape,), xtol=1e-15)
        maxima = np.r_[np.linspace(0, 1, 375), 1 + quantiles**power]
        level = np.array([5.0, 20.0, 60.0])
        expected = pareto_by_moments(level, maxima)
        assert expected[-1] > 1.05 * pareto_by_moments(level, np.r_[np.linspace(0, 1, 375), 1 + quantiles])[-1]
        np.testing.assert_allclose(corrected_p(level, maxima, tail=True), expected, rtol=1e-6)


def test_p_of_a_tenth_and_more_are_counted():
    maxima = np.arange(99.0) ** 1.5
    level = np.sort(maxima)[::-1][[8, 9, 14]]
    np.testing.assert_array_equal(corrected_p(level[:1], maxima), [0.1])
    np.testing.assert_array_equal(corrected_p(level, maxima, tail=True), [0.1, 0.11, 0.16])
    above = np.sort(maxima)[::-1][[7, 4]]
    found = corrected_p(above, maxima, tail=True)
    np.testing.assert_allclose(found, pareto_by_moments(above, maxima), rtol=1e-9)
    assert (found != corrected_p(above, maxima)).all()


@pytest.mark.parametrize("size", [19, 40, 79])
def test_few_maxima_have_no_tail(size):
    maxima = maxima_of(stats.gumbel_r(4, 0.4), size)
    level = np.array([np.median(maxima), maxima.max(), maxima.max() + 1])
    np.testing.assert_array_equal(corrected_p(level, maxima, tail=True), counted(level, maxima))


def test_maxima_that_are_all_equal_have_no_tail():
    maxima = np.full(200, 3.0)
    level = np.array([2.0, 3.0, 4.0, np.nan])
    np.testing.assert_array_equal(corrected_p(level, maxima, tail=True), [1.0, 1.0, 1 / 201, np.nan])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_differs_by_rounding_alone_ties(sign):
    """A statistic that is less by a billionth of it, or less than that, is no smaller one."""
    maxima = sign * np.array([1 - sign * 1e-8, 1 - sign * 2e-10, 1.0, 1 + sign * 1e-8]) * 7
    assert corrected_p(np.array([sign * 7.0]), maxima).tolist() == [4 / 5]
    assert (tie_level(np.array([sign * 7.0])) < sign * 7).all()


def test_statistics_of_zero_tie():
    assert corrected_p(np.zeros(1), np.array([-1.0, 0, 0, 1])).tolist() == [4 / 5]


def test_counts_and_maxima_have_the_data_as_they_are_among_them():
    assert counted_p(np.array([0, 3, 99]), 99).tolist() == [0.01, 0.04, 1.0]
    assert corrected_p(np.array([0.5, 50.5, 99.5, np.nan]), np.arange(1.0, 100))[:3].tolist() == [1.0, 0.5, 0.01]


@pytest.mark.parametrize("size", [19, 99, 999])
def test_a_critical_value_is_the_largest_that_is_not_significant(size):
    maxima = maxima_of(stats.norm(), size)
    p = counted(maxima, maxima)
    for alpha in (0.01, 0.05, 0.07, 0.14, 0.28, 0.29, 0.57, 0.58):
        over = maxima[p > alpha + 1e-12]
        least = 1 / (1 + size) <= alpha + 1e-12
        assert critical_value(maxima, alpha) == (over.max() if least else np.inf), alpha


def test_z_have_the_sign_of_effects_and_are_zero_where_p_is_one():
    p = np.array([0.001, 0.4, 0.6, 1.0])
    expected = np.maximum(stats.norm.isf(p), 0)
    np.testing.assert_allclose(z_of_p(p), expected, rtol=1e-12)
    sign = np.array([-1.0, 1, -1, 1])
    np.testing.assert_allclose(z_of_p(p, sign), sign * stats.norm.isf(p / 2), rtol=1e-12, atol=1e-15)


def test_false_discovery_rates_are_those_of_scipy_whatever_is_missing():
    p = np.random.default_rng(0).random(50) ** 3
    p[10] = p[11]
    q = false_discovery_q(np.r_[p, np.nan])
    np.testing.assert_allclose(q[:-1], stats.false_discovery_control(p), rtol=1e-12)
    assert np.isnan(q[-1])
