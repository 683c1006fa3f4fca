"""Conditions on the participants, beside pandas' own reading of them."""

import numpy as np
import pandas as pd
import pytest

from daskglm.design.selection import rows_where
from daskglm.errors import DesignError

TABLE = pd.DataFrame(
    {
        "age": [17.0, 18.0, 40.0, 65.0, 70.0],
        "site": ["x", "y", "z", "x", "y"],
        "group": ["1", "2", "1", "2", "1"],
        "mean.FD": [0.1, 0.2, 0.3, 0.4, 0.5],
        "count": [1, 2, 3, 4, 5],
        "left": [True, False, True, False, True],
    }
)


@pytest.mark.parametrize(
    "condition",
    [
        "site != 'x'", 'site == "x"', "18 <= age < 65", "age > 18 and site == 'y' or count == 1",
        "not (age > 18 and site == 'y')", "not age > 18 and site == 'x'", "site in ['x', 'z']",
        "site not in ('x', 'z')",
        "`mean.FD` <= 0.3", "count in [1, 5]", "age > count", "65 > age", "age >= 1.8e1", "not not age > 18",
        "(site == 'x' or site == 'y') and not (count < 2)", "count > -1",
    ],
)  # fmt: skip
def test_conditions_mean_what_they_mean_to_pandas(condition):
    met, missing = rows_where(condition, TABLE)
    assert met.tolist() == TABLE.eval(condition).tolist()
    assert not missing.any()


@pytest.mark.parametrize(
    ("longest", "longer"),
    [
        ("age > 18" + " " * 9_992, "age > 18" + " " * 9_993),
        ("(" * 50 + "age > 18" + ")" * 50, "(" * 51 + "age > 18" + ")" * 51),
        ("not " * 50 + "age > 18", "not " * 51 + "age > 18"),
    ],
)
def test_limits_of_a_condition_hold_to_the_last(longest, longer):
    assert rows_where(longest, TABLE)[0].tolist() == (TABLE["age"] > 18).tolist()
    with pytest.raises(DesignError, match="at most 10,000 characters, 50 parentheses and 50 nots"):
        rows_where(longer, TABLE)


def test_numbers_and_codes_meet_each_other():
    assert rows_where("group == 1", TABLE)[0].tolist() == [True, False, True, False, True]
    assert rows_where("count == '2'", TABLE)[0].tolist() == [False, True, False, False, False]
    assert rows_where("left == 'True'", TABLE)[0].tolist() == TABLE["left"].tolist()
    assert rows_where("mean.FD < 0.2", TABLE)[0].tolist() == [True, False, False, False, False]


def test_what_is_missing_meets_nothing():
    table = TABLE.assign(site=["x", None, "z", "x", "y"], age=[17.0, 18.0, np.nan, 65.0, 70.0])
    met, missing = rows_where("site != 'x' or age > 0", table)
    assert met.tolist() == [True, False, False, True, True]
    assert missing.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("site = 'x'", "cannot be read at '='; equality is =="),
        ("age > 3 & site == 'x'", "at '&'; write and"),
        ("sit == 'x'", "names 'sit'.*did you mean 'site'"),
        ("site == x", "names 'x'.*texts stand in quotes"),
        ("site > 3", r"'site' holds text \(x, y, z\).*with 3; make its column numbers"),
        ("age == 'old'", "'age' holds numbers, but the condition compares it with 'old'"),
        ("age == site", "one holds numbers, the other text"),
        ("1 == 1", "name a column"),
        ("age", "at its end"),
        ("", "at its end"),
        ("(age > 3", "at its end"),
        ("age > 3)", r"at '\)'"),
        ("age.__class__ == 3", "names 'age.__class__'"),
        ("exec('x') == 3", "names 'exec'"),
        ("@age > 3", "at '@'"),
        ("(" * 60 + "age > 3" + ")" * 60, "50 parentheses"),
        ("not " * 60 + "age > 3", "50 nots"),
    ],
)
def test_anything_else_is_refused(condition, message):
    with pytest.raises(DesignError, match=message):
        rows_where(condition, TABLE)
