"""Tables of events: nilearn's rules, and the errors in place of what it drops."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.first_level import experimental_paradigm as oracle

from daskglm.design.events import check_events, events_table, warn_of_differing_durations
from daskglm.errors import DesignError


def table(**columns):
    base = {"trial_type": ["b", "a", "b"], "onset": [1, 5, 9], "duration": [1.0, 2.0, 1.0]}
    return pd.DataFrame(base | columns)


def quiet(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def test_complete_table():
    events = table(modulation=[1, 2, 3]).set_axis([7, 8, 9])
    before = events.copy()
    checked = check_events(events)
    assert checked.columns.tolist() == ["trial_type", "onset", "duration", "modulation"]
    assert checked.to_numpy().tolist() == [["b", 1.0, 1.0, 1.0], ["a", 5.0, 2.0, 2.0], ["b", 9.0, 1.0, 3.0]]
    assert checked.index.tolist() == [0, 1, 2]
    assert (checked.dtypes[1:] == np.float64).all()
    assert events.equals(before)


def test_text_is_read_as_numbers():
    checked = check_events(table(onset=["1", "2.5", "3e1"]))
    assert checked["onset"].tolist() == [1, 2.5, 30]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from([0.0, 1.5, 3.0]),
            st.sampled_from([0.0, 2.0]),
            st.floats(-5, 5, allow_subnormal=False),
        ),
        min_size=1,
        max_size=15,
    )
)
def test_duplicates_equal_nilearn(rows):
    events = pd.DataFrame(rows, columns=["trial_type", "onset", "duration", "modulation"])
    found = quiet(check_events, events)
    expected = quiet(lambda: oracle.handle_modulation_of_duplicate_events(oracle.check_events(events)))
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12, atol=1e-12)


def test_duplicates_are_named():
    events = table(trial_type="a", onset=[4, 4, 9], duration=1.0)
    with pytest.warns(UserWarning, match=r"Duplicated events were detected: a at 4 s for 1 s\. Their modulations"):
        checked = check_events(events)
    assert checked["modulation"].tolist() == [2, 1]


def test_no_trial_type():
    with pytest.warns(UserWarning, match="'trial_type' column not found"):
        checked = check_events(table().drop(columns="trial_type"))
    assert checked["trial_type"].tolist() == ["dummy"] * 3


def test_null_durations():
    with pytest.warns(UserWarning, match="events with null duration: a, b"):
        check_events(table(duration=0))


def test_unexpected_columns():
    with pytest.warns(UserWarning, match="unexpected columns in events data will be ignored: response, rt"):
        check_events(table(response=1, rt=0.3))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("trial_type", ["a", None, "b"], "trial_type, but it is missing in row 1; name"),
        ("onset", [1, np.nan, np.nan], "'onset' of events must not contain nan values.* in rows 1, 2; fill"),
        ("duration", [np.nan, 1, 1], "'duration' of events must not contain nan values.* in row 0"),
        ("modulation", [1, 1, np.nan], "'modulation' of events must not contain nan values.* in row 2"),
        ("onset", [1, "soon", 2], r"could not cast row 1 to float \('soon'\); correct"),
        ("onset", [1, np.inf, 2], "'onset' of events is finite, but it is not in row 1"),
        ("modulation", [1, 1j, 2], "complex; give real"),
        ("duration", [1, -2, -1], "negative in rows 1, 2; correct"),
    ],
)
def test_bad_values(column, values, message):
    with pytest.raises(DesignError, match=message):
        check_events(table(**{column: values}))


def test_rows_are_named_by_the_index():
    with pytest.raises(DesignError, match="row run1"):
        check_events(table(onset=[1, "x", 2]).set_axis(["run0", "run1", "run1b"]))
    with pytest.raises(DesignError, match=r"row 0 to float \('x'\)"):
        check_events(table(onset=[1, "x", 2]).set_axis([0, 0, 0]))


def test_bad_columns():
    for name in ("onset", "duration"):
        with pytest.raises(DesignError, match=f"one column '{name}', but there is no such column"):
            check_events(table().drop(columns=name))
    with pytest.raises(DesignError, match="one column 'onset', but there is more than one"):
        check_events(pd.concat([table(), table()[["onset"]]], axis=1))
    with pytest.raises(DesignError, match=r"are a DataFrame .* these are dict"):
        check_events({"onset": [1]})


@pytest.mark.parametrize("name", ["null", "None", "NA", "001"])
def test_conditions_of_files_may_have_any_name(tmp_path, name):
    path = tmp_path / "events.tsv"
    path.write_text(f"onset\tduration\ttrial_type\n1\t2\t{name}\n9\t2\tgo\n")
    assert events_table(path)["trial_type"].tolist() == [name, "go"]
    path.write_text("onset\tduration\ttrial_type\n1\t2\tn/a\n9\t2\t\n")
    assert events_table(path)["trial_type"].isna().all()


def test_durations_that_differ_over_runs_are_told():
    table = pd.DataFrame({"onset": [1.0, 9.0, 20.0], "duration": [0.0, 0.0, 3.0], "trial_type": ["a", "b", "c"]})
    longer = table.assign(duration=[2.0, 0.0, 3.0])
    with pytest.warns(UserWarning, match=r"Events of a are without .*'a': 0 s in run 1, longer in run 2\).*impulse"):
        warn_of_differing_durations({"run 1": table, "run 2": longer, "run 3": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_differing_durations({"run 1": table, "run 2": table})
        # Within one run it is told by its design.
        warn_of_differing_durations({"run 1": table.assign(trial_type="a"), "run 2": longer.assign(trial_type="a")})
