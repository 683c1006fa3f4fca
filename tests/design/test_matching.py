"""Rows matched to images, and files to files, by subject, session and run."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.design.matching import check_pairs, id_index, match_rows, samples_of, subject_of
from daskglm.errors import DesignError, ImageError

NAMES = [f"sub-{k:03d}" for k in range(9)]


@given(st.permutations(NAMES), st.permutations(NAMES), st.booleans())
def test_any_two_orders(rows, samples, bare):
    index = [name.removeprefix("sub-") for name in rows] if bare else rows
    positions = match_rows(index, samples)
    assert [rows[position] for position in positions] == list(samples)


@pytest.mark.parametrize(
    "labels",
    [
        pd.Index([3, 1, 2], name="participant_id"),
        pd.Index([3, 1, 2]),
        pd.Index([3.0, 1.0, 2.0], name="participant_id"),
        pd.Index(["03", "01", "02"]),
        pd.Index(["sub-3", "sub-1", "sub-2"]),
        pd.Index([3, 1, 2], dtype=object),
    ],
)
@pytest.mark.parametrize("names", [["sub-01", "sub-02", "sub-03"], ["1", "2", "3"], ["sub-001", "sub-002", "sub-003"]])
def test_ids_of_digits_match_as_numbers(labels, names):
    assert match_rows(labels, names).tolist() == [1, 2, 0]


def test_ids_of_digits_stay_text_where_two_would_become_one():
    assert match_rows(["1", "001"], ["sub-001", "sub-1"]).tolist() == [1, 0]
    with pytest.raises(DesignError, match="no row: sub-01; no image: 1"):
        match_rows(["1", "001"], ["sub-001", "sub-01"])


def test_zero_to_n_under_the_name_of_ids_are_ids():
    assert match_rows(pd.RangeIndex(3, name="participant_id"), ["sub-2", "sub-0", "sub-1"]).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "paths",
    [
        ["P001_con.nii", "P002_con.nii", "P003_con.nii"],
        ["P001/con_0001.nii", "P002/con_0001.nii", "P003/con_0001.nii"],
        ["x/P001/a/con_0001.nii", "x/P002/b/con_0001.nii", "x/P003/c/con_0001.nii"],
        ["s3://b/con_1-P001.nii.gz", "s3://b/con_2-P002.nii.gz", "s3://b/con_3-P003.nii.gz"],
    ],
)
def test_ids_are_found_in_names_of_files_and_folders(paths):
    names = [f"file {k}" for k in range(3)]
    assert match_rows(["P003", "P001", "P002"], names, "file", paths=paths).tolist() == [1, 2, 0]


def test_folders_tell_where_all_files_have_one_number():
    paths = [f"{k:02d}/con_0001.nii" for k in (1, 2, 3)]
    labels = pd.Index([3, 1, 2], name="id")
    assert match_rows(labels, paths, "file", paths=paths).tolist() == [1, 2, 0]


def test_the_longest_id_in_a_name_counts():
    paths = ["OAS1_0001_MR1.nii", "OAS1_0002_MR1.nii"]
    assert match_rows(["OAS1_0002", "OAS1_0001"], paths, "file", paths=paths).tolist() == [1, 0]
    paths = ["P1_con.nii", "P1_2_con.nii"]
    assert match_rows(["P1_2", "P1"], paths, "file", paths=paths).tolist() == [1, 0]


@pytest.mark.parametrize("longer", ["P1_A", "A_P1", "B_P1_A", "A-P1", "A_B_C_D_E_P1"])
def test_an_id_within_a_longer_one_does_not_count(longer):
    paths = [f"con_{longer}_map.nii", "con_P1_map.nii"]
    assert match_rows(["P1", longer], paths, "file", paths=paths).tolist() == [1, 0]


def test_order_is_used_only_without_ids():
    assert match_rows(pd.RangeIndex(9), NAMES) is None
    assert match_rows(pd.Index([0, 2, 5]), ["map_a", "map_b", "map_c"], "file", paths=["a", "b", "c"]) is None
    assert match_rows(pd.Index([0, 2, 5]), ["image-1", "image-2", "image-3"], "order") is None
    assert match_rows(pd.Index([0.0, 2.0, 4.0]), ["volume-1", "volume-2", "volume-3"], "id") is None
    with pytest.warns(UserWarning, match=r"have no ids: rows of the design \(P1, P2\) are taken in the order"):
        assert match_rows(["P1", "P2"], ["image-1", "image-2"], "order") is None


@pytest.mark.parametrize("named_by", ["id", "file"])
def test_ids_without_a_counterpart_are_refused_with_the_heads_of_both_lists(named_by):
    with pytest.raises(
        DesignError, match=r"none of its 2 ids \(a, b\) is that of one of the 2 images \(map_1, map_2\)"
    ):
        match_rows(["a", "b"], ["map_1", "map_2"], named_by, paths=["map_1.nii", "map_2.nii"])
    with pytest.raises(DesignError, match="no row: map_2; no image: b"):
        match_rows(["map_1", "b"], ["map_1", "map_2"], named_by)


def test_numbers_that_may_be_those_of_rows_name_the_remedy():
    with pytest.raises(DesignError, match=r"no row: sub-04.*reset_index\(drop=True\)"):
        match_rows(pd.Index([0, 2, 5]), ["sub-02", "sub-04", "sub-05"])
    with pytest.raises(DesignError, match="1 occur more than once"):
        match_rows(pd.Index([0, 1, 0, 1]), ["sub-0", "sub-1", "sub-2", "sub-3"])


def test_two_images_of_one_subject_are_refused():
    with pytest.raises(DesignError, match="sub-1, 1 name the same subject"):
        match_rows(["sub-1"], ["sub-1", "1"])
    with pytest.raises(DesignError, match="sub-1_ses-1, sub-1_ses-2; add a column session_id"):
        match_rows(["sub-1"], ["sub-1_ses-1", "sub-1_ses-2"])


def test_a_table_may_hold_more_subjects_but_not_fewer():
    with pytest.warns(UserWarning, match="2 rows of the table have no image and are not used: sub-000, sub-003"):
        assert match_rows(NAMES, ["sub-002", "sub-001", *NAMES[4:]], table="the table")[:2].tolist() == [2, 1]
    assert match_rows(NAMES, NAMES[1:], also_allowed=["0"]).tolist() == list(range(1, 9))
    with pytest.raises(DesignError, match=r"9 rows and there are 10 images \(no row: sub-100\)"):
        match_rows(NAMES, [*NAMES, "sub-100"])
    with pytest.raises(DesignError, match="sub-008 occur more than once"):
        match_rows([*NAMES, "sub-008"], NAMES)


VISITS = pd.DataFrame(
    {"participant_id": [2, 1, 2, 1], "session_id": ["ses-02", "ses-02", "ses-01", "ses-01"], "age": [4, 2, 3, 1]}
)


@pytest.mark.parametrize("column", ["session_id", "session", "ses"])
def test_several_images_of_a_subject_match_by_session(column):
    names = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2"]
    rows = match_rows(id_index(VISITS.rename(columns={"session_id": column})), names)
    assert VISITS["age"].iloc[rows].tolist() == [1, 2, 3, 4]


def test_sessions_are_found_in_paths_and_runs_count_too():
    table = pd.DataFrame({"participant_id": ["P1", "P1", "P1"], "session_id": [1, 2, 2], "run": [1, 1, 2]})
    paths = ["P1/ses-2/run-2_con.nii", "P1/ses-1/run-1_con.nii", "P1/ses-2/run-1_con.nii"]
    assert match_rows(id_index(table), ["a", "b", "c"], "file", paths=paths).tolist() == [2, 0, 1]
    names = ["sub-P1_ses-2_run-2", "sub-P1_ses-1_run-1", "sub-P1_ses-2_run-1"]
    assert match_rows(id_index(table), names).tolist() == [2, 0, 1]
    assert match_rows(["sub-P1_ses-2_run-1", *names[:2]], names).tolist() == [1, 2, 0]


def test_images_of_other_sessions_are_shown_with_theirs():
    labels = pd.MultiIndex.from_tuples([("01", "2"), ("02", "2")], names=["participant_id", "session_id"])
    paths = ["sub-01/ses-1/con.nii", "sub-02/ses-1/con.nii"]
    with pytest.raises(DesignError, match=r"\(01_ses-2, 02_ses-2\) .* images \(sub-01_ses-1, sub-02_ses-1\)"):
        match_rows(labels, ["sub-01", "sub-02"], paths=paths)


def test_a_covariate_called_session_is_none_of_the_ids():
    table = pd.DataFrame({"participant_id": ["1", "2"], "session": [-0.5, 0.5]})
    assert match_rows(id_index(table), ["sub-2_ses-1", "sub-1_ses-1"]).tolist() == [1, 0]


def test_columns_of_ids():
    with pytest.raises(DesignError, match="has several"):
        id_index(pd.DataFrame([["a", "a"]], columns=["participant_id", "participant_id"]))
    with pytest.raises(DesignError, match="participant_id is missing in rows 1"):
        id_index(pd.DataFrame({"participant_id": ["a", None]}))
    assert id_index(pd.DataFrame({"id": [1, 2]})) is None


def test_samples_of_ids():
    names = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    assert samples_of(["1", "sub-02_ses-1", "sub-02_ses-2", "7"], names) == [[0, 1], [2], [], []]
    assert [subject_of(name) for name in (*names, "P1_ses-2", "map_1")] == ["sub-01", "sub-01", "sub-02", "P1", "map_1"]
    assert np.array_equal(match_rows(["face_2", "face_1"], ["face_1", "face_2"]), [1, 0])


def test_files_taken_together_are_of_one_run():
    runs = ["sub-01_run-1_bold.nii.gz", "sub-01_run-2_bold.nii.gz", "sub-01_run-10_bold.nii.gz"]
    check_pairs(["sub-01_run-01_events.tsv", "sub-01_run-02_events.tsv", "sub-01_run-10_events.tsv"], runs, "events")
    check_pairs([None, "a.tsv", 3], runs, "events")
    with pytest.raises(ImageError, match=r"in their order, but sub-01_run-10_events.tsv with sub-01_run-2_bold"):
        check_pairs(["sub-01_run-1_events.tsv", "sub-01_run-10_events.tsv", "sub-01_run-2_events.tsv"], runs, "events")
