"""Responses against nilearn's, and the names of their regressors."""

from functools import partial

import numpy as np
import pytest
from naming import without_addresses
from nilearn.glm.first_level import hemodynamic_models as oracle

from daskglm.design import hrf
from daskglm.errors import DesignError, ParameterError

FUNCTIONS = [
    "spm_hrf",
    "glover_hrf",
    "spm_time_derivative",
    "glover_time_derivative",
    "spm_dispersion_derivative",
    "glover_dispersion_derivative",
]
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
    return np.ones(oversampling)


def ramp(t_r, oversampling):
    return np.arange(4.0 * oversampling) * t_r


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("oversampling", [16, 50])
@pytest.mark.parametrize("t_r", [2, 0.72, 1.35])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_equal_nilearn(name, t_r, oversampling):
    ours, theirs = getattr(hrf, name), getattr(oracle, name)
    assert relative(ours(t_r, oversampling), theirs(t_r, oversampling)) < 1e-12
    others = {"time_length": 25.0, "onset": 1.5}
    assert relative(ours(t_r, oversampling, **others), theirs(t_r, oversampling, **others)) < 1e-12


@pytest.mark.parametrize("model", [*MODELS, boxcar, [boxcar, ramp]], ids=without_addresses)
def test_models_equal_nilearn(model):
    found = hrf.hrf_kernels(model, 1.35, 16, [0, 1, 5])
    expected = oracle._hrf_kernel(model, 1.35, 16, [0, 1, 5])
    assert len(found) == len(expected)
    assert all(relative(*pair) < 1e-12 for pair in zip(found, expected, strict=True))
    assert hrf.regressor_names("go", model, [0, 1, 5]) == oracle._regressor_names("go", model, [0, 1, 5])


def test_responses_sum_to_one_and_derivatives_to_zero():
    for model in ("spm", "glover"):
        response, time, dispersion = hrf.hrf_kernels(f"{model} + derivative + dispersion", 0.8)
        assert response.sum() == pytest.approx(1)
        assert time.sum() == pytest.approx(0, abs=1e-12)
        assert dispersion.sum() == pytest.approx(0, abs=1e-12)
    assert np.argmax(hrf.spm_hrf(1.0)) / 50 == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("spelling", ["SPM + Derivative", "spm+derivative", " Spm  +  derivative "])
def test_case_and_spaces_do_not_matter(spelling):
    assert np.array_equal(hrf.hrf_kernels(spelling, 2)[1], hrf.spm_time_derivative(2))
    assert hrf.regressor_names("a", spelling) == ["a", "a_derivative"]
    assert hrf.regressor_names("a", "FIR") == ["a_delay_0"]
    assert hrf.is_fir(" Fir")
    assert not hrf.is_fir([boxcar])


def test_functions_without_a_name():
    assert hrf.regressor_names("a", partial(ramp)) == ["a_partial"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("glovr", "did you mean 'glover'"),
        ("canonical", "no hrf_model 'canonical'"),
        (3, "a name, None, a function"),
        ([], "a name, None, a function"),
        ([boxcar, "spm"], "a name, None, a function"),
    ],
)
def test_unknown_models(model, message):
    with pytest.raises(DesignError, match=message):
        hrf.hrf_kernels(model, 2)
    with pytest.raises(DesignError, match=message):
        hrf.regressor_names("a", model)


def test_functions_that_give_no_kernel():
    def one_argument(t_r):
        return np.ones(3)

    def matrix(t_r, oversampling):
        return np.ones((2, 2))

    def missing(t_r, oversampling):
        return [1.0, np.nan]

    def words(t_r, oversampling):
        return ["a"]

    for function in (one_argument, words):
        with pytest.raises(DesignError, match=rf"'{function.__name__}' raised"):
            hrf.hrf_kernels(function, 2)
    with pytest.raises(DesignError, match=r"'matrix' gave shape \(2, 2\)"):
        hrf.hrf_kernels([ramp, matrix], 2)
    with pytest.raises(DesignError, match="not finite"):
        hrf.hrf_kernels(missing, 2)


def test_repeated_names():
    with pytest.raises(DesignError, match="different names, but these are a_ramp, a_ramp"):
        hrf.regressor_names("a", [ramp, ramp])
    with pytest.raises(DesignError, match="a_delay_1, a_delay_1"):
        hrf.regressor_names("a", "fir", [1, 1])


@pytest.mark.parametrize("t_r", [0, -2.0, np.nan, np.inf])
def test_bad_t_r(t_r):
    with pytest.raises(ParameterError, match="t_r is a positive number"):
        hrf.spm_hrf(t_r)
    with pytest.raises(ParameterError, match="t_r is a positive number"):
        hrf.hrf_kernels(None, t_r)


@pytest.mark.parametrize("oversampling", [0, -1, 1.5])
def test_bad_oversampling(oversampling):
    with pytest.raises(ParameterError, match="oversampling is a whole number"):
        hrf.glover_time_derivative(2, oversampling)


def test_kernels_without_a_sample():
    for arguments in ({"t_r": 100, "oversampling": 1}, {"t_r": 2, "onset": 40.0}, {"t_r": 2, "time_length": -3.0}):
        with pytest.raises(ParameterError, match="raise oversampling or time_length"):
            hrf.spm_hrf(**arguments)


@pytest.mark.parametrize("delays", [[], [-1], [0.5], [0, np.nan]])
def test_bad_delays(delays):
    with pytest.raises(ParameterError, match="fir_delays are whole numbers"):
        hrf.hrf_kernels("fir", 2, fir_delays=delays)
