"""Regressors against nilearn's, and against the convolution written out."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naming import without_addresses
from nilearn.glm.first_level.hemodynamic_models import compute_regressor as oracle

from daskglm.design.hrf import glover_hrf
from daskglm.design.regressors import _AT_ONCE, check_frame_times, compute_regressor, orthogonalize
from daskglm.errors import DesignError, ParameterError

ONSETS = np.array([-30.0, -3.0, 0.0, 0.31, 7.9, 20.0, 20.0, 41.3, 60.0, 88.8])
DURATIONS = np.array([10.0, 1.0, 0.0, 0.001, 3.3, 12.0, 0.0, 30.0, 0.0, 2.0])
AMPLITUDES = np.array([1.0, 2.0, 1.0, -0.7, 1.0, 1.5, 1.0, 0.2, 1.0, 1.0])
CONDITION = (ONSETS, DURATIONS, AMPLITUDES)
MODELS = [
    "spm",
    "spm + derivative",
    "spm + derivative + dispersion",
    "glover",
    "glover + derivative",
    "glover + derivative + dispersion",
    "fir",
    None,
]


def boxcar(t_r, oversampling):
    return np.ones(3 * oversampling)


def ramp(t_r, oversampling):
    return np.arange(2.0 * oversampling)


def quiet(function, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


def assert_same(found, expected, tolerance=1e-10):
    assert found[1] == expected[1]
    assert found[0].shape == expected[0].shape
    assert (np.abs(found[0] - expected[0]).max(axis=0) <= tolerance * np.abs(expected[0]).max(axis=0)).all()


@pytest.mark.parametrize("oversampling", [1, 16, 50])
@pytest.mark.parametrize(("t_r", "first"), [(2, 0.0), (0.72, 0.36), (1.35, 1.35)])
@pytest.mark.parametrize("min_onset", [-24, 0, -7.7])
@pytest.mark.parametrize("model", [*MODELS, boxcar, [ramp, boxcar, glover_hrf]], ids=without_addresses)
def test_equals_nilearn(model, min_onset, t_r, first, oversampling):
    times = first + np.arange(round(110 / t_r)) * t_r
    arguments = (CONDITION, model, times, "go", oversampling, [0, 2, 3, 9], min_onset)
    assert_same(quiet(compute_regressor, *arguments), quiet(oracle, *arguments))


def test_irregular_scans_equal_nilearn():
    times = np.delete(np.arange(60) * 2.0, [3, 17, 18, 40])
    for model in ("glover + derivative", "fir"):
        arguments = (CONDITION, model, times, "go", 50, [0, 1])
        assert_same(quiet(compute_regressor, *arguments), quiet(oracle, *arguments))


@given(
    st.lists(
        st.tuples(
            st.floats(-40, 80),
            st.one_of(st.just(0.0), st.floats(0, 20)),
            st.sampled_from([0.5, 1.0, 2.25]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["spm + derivative + dispersion", "glover", "fir", None]),
    st.sampled_from([0.72, 2.0]),
    st.sampled_from([-24, 0]),
)
def test_random_events_equal_nilearn(events, model, t_r, min_onset):
    times = np.arange(round(110 / t_r)) * t_r
    arguments = (np.array(events).T, model, times, "go", 16, [0, 3], min_onset)
    found, expected = quiet(compute_regressor, *arguments), quiet(oracle, *arguments)
    assert found[1] == expected[1]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-10 * np.abs(expected[0]).max(initial=1e-6))


def test_equals_the_convolution():
    """A block on scans of the grid, by hand: no interpolation, no early events."""
    times, kernel = np.arange(40) * 1.0, glover_hrf(1.0, 10)
    series = np.zeros(401)
    series[50:80] = 2
    expected = np.convolve(series, kernel)[:400:10]
    found, names = compute_regressor(([5.0], [3.0], [2.0]), "glover", times, oversampling=10, min_onset=0)
    assert names == ["cond"]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-14)


def test_many_events_are_summed_in_parts():
    onsets = np.linspace(0, 100, 2 * _AT_ONCE + 7)
    condition = (onsets, np.full(len(onsets), 0.1), np.sin(onsets))
    assert_same(compute_regressor(condition, "spm", np.arange(60) * 2.0), oracle(condition, "spm", np.arange(60) * 2.0))


def test_exact_zeros_before_the_first_event():
    found, _ = compute_regressor(([50.0], [4.0], [1.0]), "spm + derivative", np.arange(60) * 2.0)
    assert not found[:25, 0].any()
    assert not found[45:, 0].any()
    assert abs(found[:, 0] @ found[:, 1]) < 1e-12


def test_no_events():
    found, names = compute_regressor(np.zeros((3, 0)), "glover + derivative", np.arange(20.0))
    assert names == ["cond", "cond_derivative"]
    assert not found.any()


def test_early_events():
    times = np.arange(60) * 2.0
    early = r"onsets are earlier than -24 s: those of 'go' at -30 s; they are"
    with pytest.warns(UserWarning, match=early + " moved to -24 s; drop_early"):
        compute_regressor(CONDITION, "glover", times, "go")
    with pytest.warns(UserWarning, match=early + " left out"):
        found, _ = compute_regressor(CONDITION, "glover", times, "go", drop_early=True)
    kept = tuple(values[1:] for values in CONDITION)
    assert np.array_equal(found, compute_regressor(kept, "glover", times, "go")[0])
    with pytest.warns(UserWarning, match="at -30, -3 s"):
        found, _ = compute_regressor(CONDITION, "fir", times, "go", min_onset=0, drop_early=True)
    kept = tuple(values[2:] for values in CONDITION)
    assert np.array_equal(found, compute_regressor(kept, "fir", times, "go", min_onset=0)[0])


def test_late_events():
    with pytest.warns(UserWarning, match=r"after the last scan: those of 'go' at 40, 1000 s; they have no effect"):
        found, _ = compute_regressor(([39.9, 40.0, 1000.0], [0, 0, 3], [1, 1, 1]), "spm", np.arange(20) * 2.0, "go")
    assert not found.any()


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_orthogonalize(k, seed):
    columns = np.random.default_rng(seed).standard_normal((12, k))
    before = columns.copy()
    result = orthogonalize(columns)
    assert np.array_equal(columns, before)
    gram = result.T @ result
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-10)
    assert np.array_equal(result[:, 0], columns[:, 0])
    assert np.linalg.matrix_rank(np.hstack([result, columns])) == k


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (([1.0], [1.0]), r"an array \(3, m\), but 'cond' has shape \(2, 1\)"),
        (([1.0], [1.0, 2.0], [1.0]), "of equal lengths, but 'cond' is not"),
        ((["x"], [1.0], [1.0]), "of equal lengths, but 'cond' is not"),
        (([1.0, np.nan, 3.0], [1, 1, -1], [1, 1, 1]), "at positions 1, 2 have not"),
    ],
)
def test_bad_conditions(condition, message):
    with pytest.raises(DesignError, match=message):
        compute_regressor(condition, "glover", np.arange(20.0))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], r"at least two scans, but they have shape \(1,\)"),
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        ([0.0, 2.0, 2.0, 4.0, 3.0], "after scan 1, 3; sort"),
        ([0.0, np.nan, 4.0], "after scan 0, 1"),
    ],
)
def test_bad_times(times, message):
    with pytest.raises(DesignError, match=message):
        check_frame_times(times)


def test_scans_outside_of_the_grid():
    with pytest.raises(DesignError, match="count times from the first scan on"):
        compute_regressor(([-80.0], [1.0], [1.0]), "glover", np.arange(-100.0, -50.0))
    with pytest.raises(DesignError, match="count times from the first scan on"):
        compute_regressor(([-9.0], [1.0], [1.0]), "fir", np.arange(-20.0, 0.0))


@pytest.mark.parametrize("min_onset", [1.0, np.nan, -np.inf])
def test_bad_min_onset(min_onset):
    with pytest.raises(ParameterError, match="min_onset is zero or a negative"):
        compute_regressor(([1.0], [1.0], [1.0]), "glover", np.arange(20.0), min_onset=min_onset)


@pytest.mark.parametrize("model", ["glover", "spm", "spm + derivative", "fir"])
@pytest.mark.parametrize(("t_r", "oversampling"), [(2.0, 50), (0.9, 50), (2.0, 16), (0.5, 100)])
def test_a_unit_impulse_has_the_area_of_a_second(model, t_r, oversampling):
    """The kernels sum to one, so that a response integrates to the area of its event: 1, not t_r / oversampling."""
    times = np.arange(round(60 / t_r)) * t_r
    onset, none, one = np.array([6.0]), np.array([0.0]), np.array([1.0])
    found, _ = compute_regressor((onset, none, one), model, times, "go", oversampling, impulse="unit")
    nilearn, _ = oracle((onset, none, one), model, times, "go", oversampling, [0])
    np.testing.assert_allclose(found, nilearn * oversampling / t_r, rtol=1e-3, atol=1e-12)
    if model != "fir":
        assert found[:, 0].sum() * t_r == pytest.approx(1.0, rel=0.02)
        second, _ = compute_regressor((onset - 0.5, one, one), model, times, "go", oversampling)
        assert found[:, 0].max() == pytest.approx(second[:, 0].max(), rel=0.05)


def test_events_that_last_are_the_same_whatever_the_impulse():
    times = np.arange(60) * 2.0
    lasting = (np.array([5.0, 40.0]), np.array([0.001, 3.0]), np.array([1.0, 2.0]))
    unit, sample = (compute_regressor(lasting, "glover", times, impulse=kind)[0] for kind in ("unit", "sample"))
    assert np.array_equal(unit, sample)
    with pytest.raises(ParameterError, match="impulse must be 'sample' or 'unit', got 'area'"):
        compute_regressor(lasting, "glover", times, impulse="area")
