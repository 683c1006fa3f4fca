"""Drifts against nilearn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.first_level.design_matrix import _make_drift

from daskglm.design.drifts import drift_matrix
from daskglm.errors import DesignError, ParameterError


@pytest.mark.parametrize("first", [0.0, 0.36, 5.0])
@pytest.mark.parametrize("t_r", [2, 0.72, 1.35])
@pytest.mark.parametrize(
    ("model", "order", "high_pass"),
    [
        ("cosine", 1, 0.01),
        ("Cosine", 1, 1 / 128),
        ("cosine", 1, 0.0),
        ("polynomial", 0, 0.01),
        ("polynomial", 1, 0.01),
        ("Polynomial", 5, 0.01),
        (None, 3, 0.01),
    ],
)
def test_equals_nilearn(model, order, high_pass, t_r, first):
    times = first + np.arange(130) * t_r
    found, names = drift_matrix(model, times, order, high_pass)
    expected, expected_names = _make_drift(model, times, order, high_pass)
    assert names == expected_names
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@given(st.integers(2, 300), st.floats(0.3, 4), st.floats(0, 0.12))
def test_number_of_cosines_equals_nilearn(n, t_r, high_pass):
    times = np.arange(n) * t_r
    found, names = drift_matrix("cosine", times, 1, high_pass)
    assert found.shape == _make_drift("cosine", times, 1, high_pass)[0].shape
    assert len(names) == found.shape[1]
    assert np.allclose(found[:, :-1].T @ found[:, :-1], np.eye(len(names) - 1))


def test_columns_are_orthogonal():
    for model in ("cosine", "polynomial"):
        columns, _ = drift_matrix(model, 3 + np.arange(100) * 2.0, 4)
        gram = columns.T @ columns
        assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
        assert (columns[:, -1] == 1).all()


def test_saturation():
    with pytest.warns(UserWarning, match="saturate the design matrix: high_pass is 0.3 Hz and a scan is taken every 2"):
        columns, _ = drift_matrix("cosine", np.arange(20) * 2.0, 1, 0.3)
    assert columns.shape == (20, 20)


def test_errors():
    times = np.arange(20) * 2.0
    with pytest.raises(DesignError, match="no drift model 'spline'; give 'cosine', 'polynomial' or None"):
        drift_matrix("spline", times)
    with pytest.raises(DesignError, match="no drift model 3"):
        drift_matrix(3, times)
    for high_pass in (-0.1, np.nan):
        with pytest.raises(ParameterError, match="high_pass is a frequency"):
            drift_matrix("cosine", times, high_pass=high_pass)
    for order in (-1, 1.5, np.inf):
        with pytest.raises(ParameterError, match="order of a polynomial drift"):
            drift_matrix("polynomial", times, order)
    with pytest.raises(DesignError, match="not at 0 s"):
        drift_matrix("polynomial", times - times[-1])
    with pytest.raises(DesignError, match="at least two scans"):
        drift_matrix(None, [1.0])
