"""Cholesky factors of many small matrices against LAPACK's, one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.kernels.cholesky import factorise, solve_lower, solve_upper


def positive_definite(seed, rank, count):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count, rank, rank + 2))
    return rng, root @ root.transpose(0, 2, 1)


@given(seed=st.integers(0, 1000), rank=st.integers(1, 9), count=st.integers(1, 7), sides=st.integers(1, 3))
def test_factors_and_solutions_equal_lapack(seed, rank, count, sides):
    rng, matrices = positive_definite(seed, rank, count)
    factors = factorise(matrices.transpose(1, 2, 0).copy())
    expected = np.linalg.cholesky(matrices)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.tril(factors.transpose(2, 0, 1)), expected, rtol=1e-7, atol=1e-10 * scale)
    right = rng.standard_normal((count, rank, sides))
    lower = solve_lower(factors, right.transpose(1, 2, 0))
    solved = solve_upper(factors, lower).transpose(2, 0, 1)
    np.testing.assert_allclose(matrices @ solved, right, atol=1e-8 * scale**2)
    np.testing.assert_allclose(expected @ lower.transpose(2, 0, 1), right, atol=1e-8)


def test_one_right_hand_side_for_all_matrices():
    rng, matrices = positive_definite(1, 5, 4)
    factors = factorise(matrices.transpose(1, 2, 0).copy())
    right = rng.standard_normal((5, 2, 1))
    repeated = solve_lower(factors, np.repeat(right, 4, axis=2))
    np.testing.assert_array_equal(solve_lower(factors, right), repeated)
    assert right.shape == (5, 2, 1)


@pytest.mark.parametrize("wrong", [-1.0, 0.0, np.nan, np.inf])
def test_a_matrix_that_is_not_positive_definite_is_nan_alone(wrong):
    _, matrices = positive_definite(2, 4, 3)
    bad = matrices.copy()
    bad[1, 2, 2] = wrong
    found = factorise(bad.transpose(1, 2, 0).copy()).transpose(2, 0, 1)
    assert np.isnan(found[1]).any()
    np.testing.assert_allclose(np.tril(found[[0, 2]]), np.linalg.cholesky(matrices[[0, 2]]), atol=1e-10)
