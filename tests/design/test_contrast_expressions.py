"""Contrast expressions, against nilearn's evaluation of the same strings, and what must never run."""

from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.contrasts import expression_to_contrast_vector

from daskglm.design.contrasts import check_occurs, contrast_matrix, parse_contrast
from daskglm.errors import ContrastError, NullRegressorError
from daskglm.kernels.basis import orthonormal_basis

COLUMNS = ["age", "sex", "iq"]


def expressions() -> st.SearchStrategy[str]:
    """Linear expressions of the columns, nested at random."""
    number = st.sampled_from(["2", "0.5", "3.25", "1e1"])
    name = st.sampled_from(COLUMNS)

    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from("+-"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.tuples(number, inner).map(lambda t: f"{t[0]} * {t[1]}"),
            st.tuples(inner, number).map(lambda t: f"({t[0]}) / {t[1]}"),
            inner.map(lambda text: f"-({text})"),
        )

    return st.recursive(name, extend, max_leaves=8)


@given(expressions())
def test_equals_nilearn(expression):
    assert np.allclose(parse_contrast(expression, COLUMNS)[0], expression_to_contrast_vector(expression, COLUMNS))


def test_names_with_other_signs():
    columns = ["sex[T.M]", "my column", "a-b", "age"]
    assert parse_contrast("sex[T.M]", columns).tolist() == [[1, 0, 0, 0]]
    assert parse_contrast("my column", columns).tolist() == [[0, 1, 0, 0]]
    assert parse_contrast("a-b", columns).tolist() == [[0, 0, 1, 0]]
    assert parse_contrast("`a-b` - `my column` / 2 + age", columns).tolist() == [[0, -0.5, 1, 1]]
    assert parse_contrast("sex[T.M], `a-b` - age", columns).tolist() == [[1, 0, 0, 0], [0, 0, 1, -1]]


def test_terms_stand_for_their_columns():
    columns, terms = ["x", "s[b]", "s[c]"], {"s": ["s[b]", "s[c]"], "z": ["x"]}
    assert parse_contrast("s", columns, terms).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert parse_contrast("x, s", columns, terms).shape == (3, 3)
    assert parse_contrast("2 * z", columns, terms).tolist() == [[2, 0, 0]]
    with pytest.raises(ContrastError, match="several columns"):
        parse_contrast("s - x", columns, terms)


@pytest.mark.parametrize(
    "expression",
    [
        "age + 1",
        "age * age",
        "1 / age",
        "age / 0",
        "age ** 2",
        "age // 2",
        "3",
        "",
        "age -",
        "age, ",
        "True * age",
        "age if sex else iq",
        "(age, sex)",
        "nobody",
        "`age",
        "a" * 20_000,
        "(" * 400 + "age" + ")" * 400,
        "-" * 9_000 + "age",
        "age # sex",
        "1e999 * age",
        "age * 1e308 * 1e308",
        "9" * 5_000 + " * age",
        "`age` - _0",
    ],
)
def test_what_is_not_linear_is_refused(expression):
    with pytest.raises(ContrastError):
        parse_contrast(expression, COLUMNS)


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch {0}')",
        "age.to_csv('{0}')",
        "@pd.io.common.os.system('touch {0}')",
        "[open('{0}', 'w') for _ in [1]]",
        "(lambda: open('{0}', 'w'))()",
        "age.__class__",
        'f\'{{open("{0}", "w")}}\'',
        "(x := age)",
    ],
)
def test_nothing_runs(tmp_path, attack):
    target = tmp_path / "written"
    with pytest.raises(ContrastError):
        parse_contrast(attack.format(target), COLUMNS)
    assert not target.exists()


def test_weights():
    definition = [[1, 0, 0], [0, 1, 0]]
    assert contrast_matrix(definition, COLUMNS).tolist() == definition
    assert contrast_matrix((0, 1, 0), COLUMNS).tolist() == [[0, 1, 0]]
    assert contrast_matrix(["age", "sex - iq"], COLUMNS).tolist() == [[1, 0, 0], [0, 1, -1]]
    with pytest.warns(UserWarning, match="2 weights and the design 3 columns"):
        assert contrast_matrix([1, -1], COLUMNS).tolist() == [[1, -1, 0]]
    for wrong in ([1, 2, 3, 4], [np.nan, 0, 1], [[0, 0, 0]], [], np.zeros((1, 1, 3)), object()):
        with pytest.raises(ContrastError):
            contrast_matrix(wrong, COLUMNS)


def test_names_that_python_would_change():
    columns = ["class", "µ", "_0", "ﬁ"]
    assert parse_contrast("class - µ", columns).tolist() == [[1, -1, 0, 0]]
    assert parse_contrast("2 * _0 - ﬁ", columns).tolist() == [[0, 0, 2, -1]]


def test_quoted_term_and_repeated_columns():
    terms = {"C(site)": ["s1", "s2"]}
    assert parse_contrast("`C(site)`", ["s1", "s2"], terms).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ContrastError, match="different names"):
        parse_contrast("age", ["age", "age"])


def test_arrays_of_names_and_caller_input():
    assert contrast_matrix(np.array(["age", "sex"]), COLUMNS).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert contrast_matrix(pd.Series([0, 1, 0]), COLUMNS).tolist() == [[0, 1, 0]]
    weights = np.array([1.0, 0.0, 0.0])
    contrast_matrix(weights, COLUMNS)[0, 0] = 5
    assert weights.tolist() == [1, 0, 0]


def test_messages():
    with pytest.raises(ContrastError, match=r"did you mean 'age'\?.*age, sex, iq"):
        parse_contrast("agge", COLUMNS)
    with pytest.raises(ContrastError) as caught:
        parse_contrast("-" * 9_000 + "age", COLUMNS)
    assert len(str(caught.value)) < 600


# Expression, regressors, weights by hand: names as formulas, events and confounds print them.
AS_PRINTED = {
    "C(group)[patient] - C(group)[control]": (["C(group)[control]", "C(group)[patient]", "age"], [[-1, 1, 0]]),
    "group[T.patient]:age": (["intercept", "age", "group[T.patient]", "group[T.patient]:age"], [[0, 0, 0, 1]]),
    "group[T.patient]:age / 2 - age": (["intercept", "age", "group[T.patient]", "group[T.patient]:age"],
                                       [[0, -1, 0, 0.5]]),
    "face/left - face/right": (["face/left", "face/right", "constant"], [[1, -1, 0]]),
    "a-b": (["a-b", "c"], [[1, 0]]),
    "a-b - c": (["a-b", "c"], [[1, -1]]),
    "I(age ** 2) - 2 * age": (["age", "I(age ** 2)"], [[-2, 1]]),
    # As a formula is written, and as its regressors are printed.
    "I(age**2)": (["age", "I(age ** 2)"], [[0, 1]]),
    "I(age**2)/2-age": (["age", "I(age ** 2)"], [[-1, 0.5]]),
    "poly( age,2 )[1] - bs(age,df=3)[2]": (["poly(age, 2)[1]", "bs(age, df=3)[2]"], [[1, -1]]),
    "log( (age+1) / 2)": (["log((age + 1) / 2)", "age"], [[1, 0]]),
    "f(a, b)": (["f(a, b)", "f(a,b)"], [[1, 0]]),
    "mean.FD - age": (["mean.FD", "age"], [[1, -1]]),
    "C(site)[T.2]": (["intercept", "C(site)[T.2]", "C(site)[T.3]"], [[0, 1, 0]]),
    "C(site)[T.2] - C(site)[T.3]": (["intercept", "C(site)[T.2]", "C(site)[T.3]"], [[0, 1, -1]]),
    "load=2 - load=1": (["load=1", "load=2"], [[-1, 1]]),
    "bs(age, df=3)[1], bs(age, df=3)[2]": (["bs(age, df=3)[1]", "bs(age, df=3)[2]"], [[1, 0], [0, 1]]),
    "(2back + 3back) / 2 - 0back": (["0back", "2back", "3back"], [[-1, 0.5, 0.5]]),
    "\u9762\u5b54 - \u623f\u5b50": (["\u623f\u5b50", "\u9762\u5b54"], [[-1, 1]]),
    "a + b's + c?": (["a", "b's", "c?"], [[1, 1, 1]]),
    "1 - 2": (["1 - 2", "x"], [[1, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("expression", AS_PRINTED)
def test_names_as_they_are_printed(expression):
    columns, weights = AS_PRINTED[expression]
    assert parse_contrast(expression, columns).tolist() == weights
    for column, unit in zip(columns, np.eye(len(columns)), strict=True):
        assert parse_contrast(column, columns).tolist() == [unit.tolist()]
        assert parse_contrast(f"-(`{column}`) * 2", columns).tolist() == [(-2 * unit).tolist()]


@given(st.data(), st.lists(st.text("ab-+*/()[]:. =,`", min_size=1, max_size=6), min_size=1, max_size=4, unique=True))
def test_a_name_is_itself_or_said_to_be_ambiguous(data, columns):
    # Names that are numbers, or weights, or hold backquotes, are beside the point here.
    columns = [name for name in columns if name == name.strip() and "`" not in name] or ["a"]
    index = data.draw(st.integers(0, len(columns) - 1))
    unit = np.eye(len(columns))[index].tolist()
    with suppress(ContrastError):
        assert parse_contrast(columns[index], columns).tolist() == [unit]
    assert parse_contrast(f"`{columns[index]}`", columns).tolist() == [unit]


@pytest.mark.parametrize(
    ("expression", "columns", "ways"),
    [
        ("a-b", ["a", "b", "a-b"], ("`a-b`", "`a` - `b`")),
        ("2 * a/2", ["a", "a/2"], ("2 * `a/2`", "2 * `a` / 2")),
        ("a-b-c", ["a-b", "c", "a", "b-c"], ("`a-b` - `c`", "`a` - `b-c`")),
        ("a, b", ["a", "b", "a, b"], ("`a, b`", "`a` , `b`")),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(expression, columns, ways):
    with pytest.raises(ContrastError, match="in single quotes for the shell") as caught:
        parse_contrast(expression, columns)
    found = [parse_contrast(way, columns).tolist() for way in ways]
    assert all(way in str(caught.value) for way in ways)
    assert found[0] != found[1]


def test_blanks_and_what_is_not_linear_decide():
    assert parse_contrast("a - b", ["a", "b", "a-b"]).tolist() == [[1, -1, 0]]
    assert parse_contrast("a-2", ["a", "a-2"]).tolist() == [[0, 1]]
    assert parse_contrast("face-house", ["face-hou", "face", "house"]).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("text", ["0 1 -1", "[0, 1, -1]", "0, 1, -1", "(0, 1, -1)", " [0. 1e0 -1.]", "[[0, 1, -1]]"])
def test_weights_as_text(text):
    assert parse_contrast(text, COLUMNS).tolist() == [[0, 1, -1]]


def test_weights_as_text_beside_names():
    assert contrast_matrix("[[1, 0, 0], [0, 0, 1]]", COLUMNS).tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(ContrastError, match=r"shape \(q, 3\)"):
        parse_contrast("1 2 3 4", COLUMNS)
    with pytest.raises(ContrastError, match="can be read as"):
        parse_contrast("1, 0, 0", ["0", "1", "2"])
    assert parse_contrast("[1, 0, 0]", ["0", "1", "2"]).tolist() == [[1, 0, 0]]
    assert parse_contrast("2", ["1", "2"]).tolist() == [[0, 1]]


def test_what_cannot_be_read_takes_no_time():
    with pytest.raises(ContrastError, match="no regressor 'b'"):
        parse_contrast("a-" * 4_000 + "b", ["a", "a-a"])
    with pytest.raises(ContrastError, match="can be read as"):
        parse_contrast("a-" * 40 + "a", ["a", "a-a"])


@pytest.mark.parametrize("name", ["C(group)[patiet]", "group[T.patient]:agee", "mean.FDD", "face/lft"])
def test_a_misspelt_name_is_told_whole(name):
    columns = ["C(group)[patient]", "group[T.patient]:age", "mean.FD", "face/left", "age"]
    with pytest.raises(ContrastError, match="did you mean"):
        parse_contrast(f"{name} - age", columns)


@pytest.mark.parametrize("text", ["1 - 2", "1 - go", "2 * (1 - go)"])
def test_names_that_are_numbers_are_written_in_backquotes(text):
    columns = ["1", "2", "go"]
    with pytest.raises(ContrastError, match="write names that are numbers in backquotes, as in `1` - `2`"):
        contrast_matrix(text, columns)
    assert contrast_matrix("`1` - `2`", columns).tolist() == [[1, -1, 0]]
    with pytest.raises(ContrastError, match=r"(?s)^(?!.*backquotes)"):
        contrast_matrix("1 - 2", ["a", "b"])


def test_the_longest_contrast_has_ten_thousand_characters():
    assert parse_contrast("age" + " " * 9_997, COLUMNS).tolist() == [[1, 0, 0]]
    with pytest.raises(ContrastError, match="up to 10000 characters, but this one has 10001"):
        parse_contrast("age" + " " * 9_998, COLUMNS)


def test_weights_by_name_are_of_regressors_that_there_are_each_once():
    named = pd.Series({"iq": 2.0, "age": -1.0})
    assert contrast_matrix(named, COLUMNS).tolist() == [[-1, 0, 2]]
    assert contrast_matrix(pd.DataFrame([named, 3 * named]), COLUMNS).tolist() == [[-1, 0, 2], [-3, 0, 6]]
    with pytest.raises(ContrastError, match="name each regressor once, but these name aeg; did you mean 'age'"):
        contrast_matrix(pd.Series({"aeg": 1.0}), COLUMNS)
    with pytest.raises(ContrastError, match="name each regressor once, but these name age, age"):
        contrast_matrix(pd.Series([1.0, 2.0], index=["age", "age"]), COLUMNS)


@pytest.mark.parametrize("unit", [1.0, 1e-3, 3e-8])
def test_a_regressor_in_a_small_unit_is_not_one_that_never_occurs(unit):
    """Also where the design does not tell it apart from another."""
    values = np.random.default_rng(0).standard_normal((12, 2))
    basis = orthonormal_basis(np.column_stack([values, unit * values[:, 0], np.zeros(12)]))
    check_occurs(np.eye(4)[:3], ["a", "b", "c", "never"], basis.row_space)
    with pytest.raises(NullRegressorError, match="but never is zero throughout"):
        check_occurs(np.array([[1.0, 0, 0, 1e-9]]), ["a", "b", "c", "never"], basis.row_space)
