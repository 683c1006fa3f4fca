"""Variance inflation factors and leverage against statsmodels."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.outliers_influence import OLSInfluence

from daskglm.design.diagnostics import leverage, variance_inflation_factors
from daskglm.errors import DesignError

RNG = np.random.default_rng(3)
AGE = RNG.uniform(20, 80, 25)
SITE = np.arange(25) % 3
DESIGNS = {
    "intercept": pd.DataFrame(
        {"age": AGE, "age2": AGE**2, "noise": RNG.standard_normal(25), "intercept": 1.0},
        index=[f"sub-{k:02d}" for k in range(25)],
    ),
    "cells": pd.DataFrame({"age": AGE, **{f"site{k}": (k == SITE).astype(float) for k in range(3)}}),
    "no constant": pd.DataFrame({"age": AGE, "noise": RNG.standard_normal(25)}),
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_factors_equal_statsmodels(kind):
    design = DESIGNS[kind]
    found = variance_inflation_factors(design)
    for name in design.columns:
        if np.ptp(design[name]) == 0:
            assert np.isnan(found[name])
        else:
            # Of statsmodels, which tells whether the others span the constant.
            fit = sm.OLS(design[name], design.drop(columns=name)).fit()
            np.testing.assert_allclose(found[name], 1 / (1 - fit.rsquared), rtol=1e-8)


@pytest.mark.parametrize("kind", DESIGNS)
def test_leverage_equals_statsmodels(kind):
    design = DESIGNS[kind]
    expected = OLSInfluence(sm.OLS(np.arange(25.0), design).fit()).hat_matrix_diag
    found = leverage(design)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert list(found.index) == list(design.index)


def test_factor_is_the_growth_of_the_variance():
    design = DESIGNS["intercept"]
    beside, alone = np.linalg.inv(design.T @ design).diagonal(), ((design - design.mean()) ** 2).sum()
    found = variance_inflation_factors(design)
    np.testing.assert_allclose(found[:3], (beside * alone)[:3], rtol=1e-6)


def test_dependent_columns():
    design = DESIGNS["intercept"].assign(twice=2 * AGE)
    found = variance_inflation_factors(design)
    assert np.isinf(found[["age", "twice"]]).all()
    assert np.isfinite(found["noise"])
    # The sum of the hat matrix's diagonal is the rank.
    np.testing.assert_allclose(leverage(design).sum(), np.linalg.matrix_rank(design.to_numpy()))


def test_values_that_are_none_are_refused():
    with pytest.raises(DesignError, match=r"no missing values, but column 'age'"):
        leverage(DESIGNS["cells"].assign(age=np.nan))


@pytest.mark.parametrize("apart", [1e-6, 1e-8])
def test_a_column_is_explained_by_the_others_but_for_rounding(apart):
    a, b, noise = np.linalg.qr(np.random.default_rng(1).standard_normal((25, 3)))[0].T
    design = pd.DataFrame({"a": a, "b": b, "sum": a + b + apart * noise})
    found = variance_inflation_factors(design)["sum"]
    np.testing.assert_allclose(found, (2 + apart**2) / apart**2 if apart > 1e-7 else np.inf, rtol=1e-3)
