"""Tails, against SciPy where it has digits, nilearn where it does not clip, and mpmath beyond."""

import numpy as np
import pytest
import scipy.stats
from nilearn.glm._utils import z_score as nilearn_z_score

from daskglm.kernels.distributions import f_p_value, f_z_score, t_p_value, t_z_score

FREEDOM = [1, 2, 5.5, 30, 398, 1e5, 1e10]


@pytest.mark.parametrize("freedom", FREEDOM)
def test_t_equals_scipy_and_nilearn(freedom):
    t = np.linspace(-35, 35, 2001)
    p, below = scipy.stats.t.sf(t, freedom), scipy.stats.t.cdf(t, freedom)
    assert np.allclose(t_p_value(t, freedom), p, rtol=1e-12, atol=0)
    expected = nilearn_z_score(p, one_minus_pvalue=below)
    assert np.allclose(t_z_score(t, freedom), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 30), (3, 30), (2, 1000), (20, 5000)])
def test_f_equals_scipy_and_nilearn(numerator, denominator):
    f = np.linspace(0, 60, 2001)
    p = scipy.stats.f.sf(f, numerator, denominator)
    below = scipy.stats.f.cdf(f, numerator, denominator)
    assert np.allclose(f_p_value(f, numerator, denominator), p, rtol=1e-12, atol=0)
    expected = nilearn_z_score(p, one_minus_pvalue=below)
    assert np.allclose(f_z_score(f, numerator, denominator), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("freedom", [3, 20, 100, 1000, 50_000, 1e8])
def test_far_tails_are_finite_and_monotone(freedom):
    t = np.linspace(1, 400, 40_001)
    z = t_z_score(t, freedom)
    assert np.isfinite(z).all()
    assert (np.diff(z) > 0).all()
    assert np.array_equal(t_z_score(-t, freedom), -z)
    assert np.abs(np.diff(z, 2)).max() < 1e-4  # no step where one formula takes over from another


def test_t_of_200():
    assert np.isfinite(t_z_score(200.0, [3, 10, 1000, 1e6])).all()
    assert t_z_score(200.0, 1e6) > 190 > t_z_score(200.0, 1e4) > 100  # nilearn gives 37.05


@pytest.mark.parametrize(("t", "freedom"), [(60.0, 1000.0), (200.0, 500.0), (200.0, 1e5), (90.0, 300.0)])
def test_far_tail_equals_mpmath(t, freedom):
    """log p by adaptive quadrature in 40 digits, then back through the normal tail in mpmath."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    a, start = freedom / 2, mpmath.log1p(mpmath.mpf(t) ** 2 / freedom)
    integral = mpmath.quad(lambda w: mpmath.e**-w / mpmath.sqrt(-mpmath.expm1(-start - w / a)), [0, 10, 40, 200])
    log_p = mpmath.log(integral / a / mpmath.beta(a, 0.5) / 2) - a * start
    z = mpmath.mpf(float(t_z_score(t, freedom)))
    log_normal = mpmath.log(mpmath.erfc(z / mpmath.sqrt(2)) / 2)
    assert abs(log_normal / log_p - 1) < 1e-12


def test_f_far_tail_of_one_degree_is_t_squared():
    t = np.array([50.0, 120.0, 250.0])
    one_sided = t_z_score(t, 800)
    z = f_z_score(t**2, 1, 800)
    assert (z < one_sided).all()  # two-sided p is twice as large
    assert np.allclose(z, one_sided, rtol=1e-3)


def test_missing_values():
    assert np.isnan(t_z_score([np.nan, 1.0], [3, 0])).all()
    assert np.isnan(f_p_value([np.nan, 1.0], [3, 2], [3, 0])).all()
    assert t_z_score(0.0, 5) == 0
