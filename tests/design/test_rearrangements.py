"""Rearrangements against counting by hand and full enumeration by itertools."""

import warnings
from itertools import permutations, product
from math import comb, factorial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.design.rearrangements import block_numbers, plan_rearrangements
from daskglm.errors import DesignError, ParameterError


def plan(*arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_rearrangements(*arguments, **named)


@pytest.mark.parametrize(
    ("rows", "named", "distinct"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], {}, comb(8, 4)),
        (np.arange(5), {}, factorial(5)),
        (np.ones(6), {"kind": "sign_flip"}, 2**6),
        (np.arange(3), {"kind": "both"}, 6 * 2**3),
        (np.arange(6), {"within": list("aaabbb")}, 36),
        ([0, 0, 1, 0, 1, 1], {"within": list("aaabbb")}, 9),
        (np.arange(6), {"whole": [1, 1, 2, 2, 3, 3]}, 6),
        ([0, 1, 0, 1, 2, 3], {"whole": [1, 1, 2, 2, 3, 3]}, 3),
        (np.arange(7), {"whole": [1, 1, 2, 2, 3, 3, 3]}, 2),
        (np.ones(6), {"kind": "sign_flip", "whole": [1, 1, 2, 2, 3, 3]}, 8),
    ],
)
def test_all_distinct_ones_are_done_once(rows, named, distinct):
    rows = np.asarray(rows, dtype=float)
    found = plan(rows, 10**6, **named)
    assert found.exhaustive
    assert found.count == distinct - 1
    index, sign = found.take(0, found.count)
    results = {tuple(np.r_[rows[i], s]) for i, s in zip(index, sign, strict=True)}
    assert len(results) == distinct - 1
    assert tuple(np.r_[rows, np.ones(rows.size)]) not in results
    # Any stretch of numbers is the same as in the whole.
    again = found.take(1, found.count)
    assert np.array_equal(again[0], index[1:])
    assert np.array_equal(again[1], sign[1:])


def test_enumeration_equals_itertools():
    rows = np.array([2.0, 0, 1, 1, 0])
    found = plan(rows, 10**6, kind="both")
    index, sign = found.take(0, found.count)
    ours = {tuple(np.r_[rows[i], s]) for i, s in zip(index, sign, strict=True)}
    every = {tuple(np.r_[p, s]) for p in permutations(rows) for s in product((1.0, -1.0), repeat=5)}
    assert ours == every - {tuple(np.r_[rows, np.ones(5)])}


@given(
    seed=st.integers(0, 100),
    start=st.integers(0, 50),
    length=st.integers(1, 30),
    kind=st.sampled_from(["permutation", "both"]),
)
def test_a_draw_depends_on_seed_and_number_alone(seed, start, length, kind):
    rows = np.random.default_rng(0).standard_normal((40, 2))
    found = plan(rows, 10**5, kind, within=np.arange(40) % 4, seed=seed)
    index, sign = found.take(start, start + length)
    for k in range(0, length, 7):
        one = found.take(start + k, start + k + 1)
        assert np.array_equal(one[0][0], index[k])
        assert np.array_equal(one[1][0], sign[k])
    assert all(sorted(row) == list(range(40)) for row in index)
    assert (index % 4 == np.arange(40) % 4).all()
    assert set(np.unique(sign)) <= {-1.0, 1.0}
    other = plan(rows, 10**5, kind, within=np.arange(40) % 4, seed=seed + 1).take(start, start + length)
    assert not np.array_equal(other[0], index)


def test_draws_are_uniform():
    found = plan(np.arange(4), 22, seed=1)
    assert not found.exhaustive
    index, _ = plan_rearrangements(np.arange(30), 6000, seed=3).take(0, 6000)
    share = np.array([[np.mean(index[:, place] == row) for row in range(30)] for place in range(30)])
    assert np.abs(share - 1 / 30).max() < 5 * np.sqrt(1 / 30 / 6000)


def test_whole_blocks_keep_their_order():
    whole = np.array([5, 5, 5, 7, 7, 7, 9, 9])
    index, sign = plan(np.arange(8), 50, "both", whole=whole, seed=2).take(0, 30)
    for row, signs in zip(index, sign, strict=True):
        assert {tuple(row[:3]), tuple(row[3:6])} == {(0, 1, 2), (3, 4, 5)}
        assert tuple(row[6:]) == (6, 7)
        assert len(set(signs[:3])) == len(set(signs[3:6])) == len(set(signs[6:])) == 1


def test_whole_blocks_are_drawn_as_wholes():
    whole = np.repeat(np.arange(10), 2)
    found = plan(np.arange(20), 50, "both", whole=whole, seed=2)
    assert not found.exhaustive
    index, sign = (part.reshape(50, 10, 2) for part in found.take(0, 50))
    assert (index[:, :, 1] == index[:, :, 0] + 1).all()
    assert (index[:, :, 0] % 2 == 0).all()
    assert (sign[:, :, 0] == sign[:, :, 1]).all()
    assert len(np.unique(sign.sum(axis=(1, 2)))) > 3


@pytest.mark.parametrize("blocks", [{}, {"within": list("aabbbccc")}, {"whole": list("aabbccdd")}])
def test_invariant_vectors_do_not_change(blocks):
    found = plan(np.arange(8), 20, **blocks)
    basis = found.invariant
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    for row in found.take(0, found.count)[0]:
        assert np.array_equal(basis[row], basis)
    assert np.abs(basis @ basis.sum(axis=0) * 0 + basis @ (basis.T @ np.ones(8)) - 1).max() < 1e-12
    assert plan(np.arange(8), 20, "both", **blocks).invariant.shape == (8, 0)


def test_fewer_than_asked_for_are_told():
    with pytest.warns(UserWarning, match=r"70 distinct .* all 69 others .* instead of 100; the smallest p is 0.0143"):
        plan_rearrangements([0, 0, 0, 0, 1, 1, 1, 1], 100)


@pytest.mark.parametrize(
    ("rows", "named", "distinct"),
    [
        ([0, 0, 0, 1, 1, 1], {}, comb(6, 3)),
        (np.arange(4), {"kind": "both"}, factorial(4) * 2**4),
        (np.ones(6), {"kind": "sign_flip"}, 2**6),
        (np.arange(6), {"within": list("aaabbb")}, 36),
    ],
)
def test_all_are_done_where_as_many_are_asked_for_as_there_are_others(rows, named, distinct):
    with pytest.warns(UserWarning, match=rf"all {distinct - 1} others are done; the smallest p is {1 / distinct:.3g}"):
        found = plan_rearrangements(rows, distinct - 1, **named)
    assert (found.exhaustive, found.count) == (True, distinct - 1)
    assert len({row.tobytes() for row in np.hstack(found.take(0, found.count))}) == distinct - 1
    fewer = plan_rearrangements(rows, distinct - 2, **named)
    assert (fewer.exhaustive, fewer.count) == (False, distinct - 2)


@pytest.mark.parametrize(
    ("rows", "named", "error", "message"),
    [
        (np.ones(5), {}, DesignError, "flip signs"),
        (np.arange(5), {"kind": "shuffle"}, ParameterError, "'shuffle'"),
        (np.arange(5), {"within": [1, 1]}, DesignError, "2 for 5"),
        (np.arange(3), {"within": [1, np.nan, 2]}, DesignError, "missing"),
        (np.arange(4), {"within": [1, 1, 2, 2], "whole": [1, 1, 2, 2]}, ParameterError, "not both"),
        (np.arange(3), {"within": [1, 2, 3]}, DesignError, "no rearrangement"),
    ],
)
def test_what_cannot_be_rearranged(rows, named, error, message):
    with pytest.raises(error, match=message):
        plan_rearrangements(rows, 100, **named)
    for wrong in (0, 1.5, True):
        with pytest.raises(ParameterError, match="n_perm"):
            plan_rearrangements(np.arange(9), wrong)


def test_blanks_around_the_name_of_a_block_make_no_block():
    names = ["a", "a ", " b", "b", "a", "b"]
    assert block_numbers(names, 6).tolist() == [0, 0, 1, 1, 0, 1]
    assert block_numbers([2, 10, 2], 3).tolist() == [0, 1, 0]


@pytest.mark.parametrize("lacking", [None, np.nan, pd.NA, " "])
def test_rows_without_a_block_are_refused(lacking):
    """As text the missing name of a variance group was a group called nan."""
    with pytest.raises(DesignError, match="variance groups, but some names are missing"):
        block_numbers(pd.Series(["a", lacking, "b"], dtype=object), 3, "variance groups")
