"""Rows matched to images by subject."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.design.matching import match_rows, select_participants
from daskglm.errors import DesignError

NAMES = [f"sub-{k:03d}" for k in range(9)]


@given(st.permutations(NAMES), st.permutations(NAMES), st.booleans())
def test_any_two_orders(rows, samples, bare):
    index = [name.removeprefix("sub-") for name in rows] if bare else rows
    positions = match_rows(index, samples, True)
    assert [rows[position] for position in positions] == list(samples)


def test_order_is_used_only_without_ids():
    assert match_rows(pd.RangeIndex(9), NAMES, True) is None
    assert match_rows(["a", "b"], ["map_1", "map_2"], False) is None
    with pytest.raises(DesignError, match="no row: sub-000"):
        match_rows(["a", "b"], NAMES[:2], True)
    with pytest.raises(DesignError, match="no row: map_2; no image: b"):
        match_rows(["map_1", "b"], ["map_1", "map_2"], False)


def test_two_images_of_one_subject_are_refused():
    with pytest.raises(DesignError, match="sub-1, 1 are the same one"):
        match_rows(["sub-1"], ["sub-1", "1"], True)


def test_two_columns_of_ids_are_refused():
    table = pd.DataFrame([["a", "a"]], columns=["participant_id", "participant_id"])
    with pytest.raises(DesignError, match="has several"):
        select_participants(table, ["a"])


def test_participants():
    table = pd.DataFrame({"participant_id": NAMES[::-1], "age": np.arange(9.0)})
    selected = select_participants(table, NAMES)
    assert list(selected.index) == NAMES
    assert selected["age"].tolist() == list(range(8, -1, -1))
    with pytest.raises(DesignError, match=r"10 images.*no row: sub-100"):
        select_participants(table, [*NAMES, "sub-100"])
    with pytest.raises(DesignError, match="no image: sub-000"):
        select_participants(table, NAMES[1:])
    with pytest.raises(DesignError, match="sub-008 occur more than once"):
        select_participants(pd.concat([table, table.iloc[:1]]), NAMES)
    with pytest.raises(DesignError, match="column participant_id, but this one has id"):
        select_participants(pd.DataFrame({"id": [1, 2]}), NAMES[:2])
