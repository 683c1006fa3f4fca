"""Design matrices, against nilearn's, and what cannot be fitted."""

import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.first_level.design_matrix import make_second_level_design_matrix as of_nilearn

from daskglm.design.formula import design_from_formula
from daskglm.design.matrix import check_design, design_array, make_second_level_design_matrix
from daskglm.errors import DesignError

RANDOM = np.random.default_rng(0).normal(size=(6, 8))
ONE, AGE = np.ones(6), RANDOM[:, 0]
LABELS = [f"sub-{k}" for k in range(6)]


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=9))
def test_equals_nilearn(labels):
    confounds = pd.DataFrame({"age": AGE, "subject_label": LABELS, "dose": RANDOM[:, 1]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few subjects: both warn of dependent columns
        ours, theirs = make_second_level_design_matrix(labels, confounds), of_nilearn(labels, confounds)
    pd.testing.assert_frame_equal(ours, theirs, check_index_type=False)


def test_intercept_alone_equals_nilearn():
    pd.testing.assert_frame_equal(make_second_level_design_matrix(LABELS), of_nilearn(LABELS), check_index_type=False)


@pytest.mark.parametrize(
    ("labels", "confounds", "message"),
    [
        (["a", "d"], {"subject_label": ["a", "b", "a"], "v": [1, 2, 3]}, r"a \(2\), d \(0\)"),
        (["a"], {"subject_label": ["a", "b"], "v": [1, None]}, "no missing values, but v"),
        (["a"], {"subject_label": ["a"], "intercept": [3]}, "intercept"),
        (["a"], {"v": [3]}, "subject_label"),
        (["a"], {"v": [3], "w": [4]}, "a column subject_label and at least one other, but these have v, w"),
        (["a"], {"subject_label": ["a"]}, "and at least one other, but these have subject_label"),
        (["a"], {"subject_label": ["a"], "v": ["x"]}, "v of the design are not numeric"),
        ([], {"subject_label": ["a"], "v": [3]}, "no subjects"),
    ],
)
def test_confounds_that_are_refused(labels, confounds, message):
    with pytest.raises(DesignError, match=message):
        make_second_level_design_matrix(labels, pd.DataFrame(confounds))


def test_dependent_confounds_warn():
    confounds = pd.DataFrame({"subject_label": LABELS, "a": AGE, "b": 2 * AGE + 1})
    with pytest.warns(UserWarning, match="a, b, intercept.*linearly dependent"):
        make_second_level_design_matrix(LABELS, confounds)


@pytest.mark.parametrize(
    ("columns", "n_samples", "message"),
    [
        ({"a": AGE}, 5, "6 rows and there are 5 images"),
        ({"a": ["x"] * 6}, 6, "a of the design are not numeric"),
        ({"a": AGE + 1j}, 6, "a of the design are not numeric"),
        ({"a": np.where(ONE.cumsum() == 3, np.nan, AGE)}, 6, "'a' has in rows 2"),
        ({"a": np.where(ONE.cumsum() == 3, np.inf, AGE)}, 6, "'a' has in rows 2"),
        ({"a": AGE, "z": 0 * ONE}, 6, "z of the design are zero"),
        ({"i": ONE, "j": 2 * ONE}, 6, "i, j of the design are all constant"),
        ({"i": ONE, "c": RANDOM[:, 1], "a": AGE, "b": 2 * AGE + 1}, 6, "i, a, b of the design are linearly"),
        ({str(k): RANDOM[:, k] for k in range(6)}, 6, "6 images and 6 columns"),
        ({str(k): RANDOM[:, k] for k in range(8)}, 6, "6 images and 8 columns"),
        ({"a": AGE * 1e200, "i": ONE}, 6, "change its unit"),
        ({"a": AGE * 1e-200, "i": ONE}, 6, "change its unit"),
    ],
)
def test_designs_that_are_refused(columns, n_samples, message):
    with pytest.raises(DesignError, match=message):
        check_design(pd.DataFrame(columns), n_samples)


@pytest.mark.parametrize(("size", "factor"), [(1e140, 1.001), (1e-140, 0.999)])
def test_sizes_whose_squares_are_numbers_are_allowed_to_the_last(size, factor):
    column = np.array([1.0, -1, 0.5, 0, 0.25, 0.75])
    check_design(pd.DataFrame({"a": size * column, "i": ONE}), 6)
    with pytest.raises(DesignError, match=r"between 1e-140 and 1e\+140 in size, but column 'a'.*change its unit"):
        check_design(pd.DataFrame({"a": factor * size * column, "i": ONE}), 6)


def test_shapes_that_are_refused():
    with pytest.raises(DesignError, match="at least two images"):
        check_design(pd.DataFrame({"i": [1.0]}), 1)
    with pytest.raises(DesignError, match="at least one column"):
        check_design(pd.DataFrame(index=range(6)), 6)
    with pytest.raises(DesignError, match="a occur more than once"):
        check_design(pd.DataFrame(RANDOM[:, :2], columns=["a", "a"]), 6)


def test_units_do_not_matter_and_dependence_can_be_allowed():
    assert check_design(pd.DataFrame({"i": ONE, "a": 1e-9 * AGE, "b": 1e9 * RANDOM[:, 1]}), 6) is None
    dependent = pd.DataFrame({"i": ONE, "j": 2 * ONE, "a": AGE})
    assert check_design(dependent, 6, allow_rank_deficient=True) is None


def test_array_is_float64():
    values = design_array(pd.DataFrame({"a": [1, 2], "b": [True, False]}))
    assert values.dtype == np.float64
    assert values.tolist() == [[1, 1], [2, 0]]


@pytest.mark.parametrize("sentinel", [9999.0, -999.0])
def test_values_that_may_stand_for_missing_ones_are_told(sentinel):
    age = 40 + 10 * np.random.default_rng(1).standard_normal(30)
    design = pd.DataFrame({"age": age, "dose": age**2, "mean": 1.0})
    check_design(design, 30)
    design.loc[[3, 7], "age"] = sentinel
    with pytest.warns(UserWarning, match=rf"'age'.* {sentinel:g}, .*missing values, write n/a"):
        check_design(design, 30)
    # So far away that the others have no digits left.
    design.loc[3, "age"] = 1e10
    with pytest.raises(DesignError, match=r"'age'.* 1e\+10.*no digits"):
        check_design(design, 30)


def test_groups_counts_and_skewed_columns_are_not_told():
    rng = np.random.default_rng(2)
    columns = {
        "rare": np.arange(200) < 3, "half": np.arange(200) < 100, "income": np.exp(rng.standard_normal(200)),
        "drinks": rng.poisson(0.3, 200), "year": rng.integers(2005, 2016, 200), "mean": np.ones(200),
    }  # fmt: skip
    check_design(pd.DataFrame(columns).astype(float), 200)


@pytest.mark.parametrize(
    ("far", "told"),
    [
        ([50.0], False),
        ([50.01], True),
        ([50.0, 499.0], False),
        ([50.0, 500.0], True),
        ([49.0, 499.0], True),
        ([600.0, 700.0, 800.0], True),
        ([600.0, 700.0, 800.0, 900.0], False),
        ([1e6], True),
    ],
)
def test_sentinels_are_few_and_ten_times_as_far_as_any_other_value(far, told):
    """In standard deviations from the median, 0, where half of the values are nearer than 1."""
    column = np.r_[-np.ones(10 + len(far)), 0, np.ones(10), 1.4826 * np.array(far)]
    design = pd.DataFrame({"dose": column, "mean": 1.0})
    with pytest.warns(UserWarning, match="'dose'") if told else nullcontext():
        check_design(design, len(column))
    design["dose"] *= 1024  # in another unit it is the same
    with pytest.warns(UserWarning, match="'dose'") if told else nullcontext():
        check_design(design, len(column))


def test_sentinels_of_a_million_standard_deviations_are_refused():
    column = np.r_[-np.ones(11), 0, np.ones(10), 1.4826 * 1.00001e6]
    with pytest.raises(DesignError, match=r"no digits"):
        check_design(pd.DataFrame({"dose": column, "mean": 1.0}), len(column))


@pytest.mark.filterwarnings("error")
def test_columns_that_lead_up_to_their_largest_values_hold_no_sentinels():
    """A column of a spline is nearly 0 for most, and a long tail has no gap; 9999 among ages is told elsewhere."""
    rng = np.random.default_rng(40)
    age = pd.DataFrame({"age": np.round(rng.uniform(20, 80, 24), 1)})
    for formula in ("~ bs(age, df=4)", "~ bs(age, df=6)", "~ cr(age, df=4)"):
        check_design(design_from_formula(formula, age), 24, allow_rank_deficient=True)
    check_design(pd.DataFrame({"dose": np.exp(np.linspace(-6, 9, 200)), "intercept": 1.0}), 200)


@pytest.mark.parametrize(("share", "named"), [(1e-6, True), (1e-10, False)])
def test_columns_that_have_a_part_in_a_dependency_are_named(share, named):
    a, b = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 2)))[0].T
    design = pd.DataFrame({"first": a, "second": b, "third": a + share * b})
    with pytest.raises(DesignError, match="linearly dependent") as error:
        check_design(design, 20)
    assert "first" in str(error.value)
    assert ("second" in str(error.value)) == named
