"""Formulas, against patsy, and what must never run."""

import re

import numpy as np
import pandas as pd
import pytest

from daskglm.design.formula import design_from_formula, formula_columns
from daskglm.errors import DesignError

patsy = pytest.importorskip("patsy")
TABLE = pd.DataFrame(
    {
        "age": np.random.default_rng(0).uniform(20, 80, 24),
        "sex": ["F", "M"] * 12,
        "site": list("abc") * 8,
        "my score": np.arange(24.0),
    },
    index=[f"sub-{k:02d}" for k in range(24)],
)


@pytest.mark.parametrize(
    "formula",
    ["~ age", "age + sex", "~ age * sex", "~ C(site) + age", "~ 0 + site", "~ sex + age:site", "~ (age + sex)**2"],
)
def test_spans_what_patsy_spans(formula):
    ours = design_from_formula(formula, TABLE).to_numpy()
    theirs = np.asarray(patsy.dmatrix(formula, TABLE))
    both = np.linalg.matrix_rank(np.column_stack([ours, theirs]))
    assert ours.shape == theirs.shape
    assert np.linalg.matrix_rank(ours) == np.linalg.matrix_rank(theirs) == both


def test_names_index_and_terms():
    design = design_from_formula("~ age + sex + C(site, contr.sum) + `my score`", TABLE)
    assert list(design.index) == list(TABLE.index)
    assert design.columns[0] == "intercept"
    assert (design["intercept"] == 1).all()
    assert np.array_equal(design["my score"], TABLE["my score"])
    terms = design.attrs["terms"]
    assert terms["sex"] == ["sex[T.M]"]
    assert len(terms["site"]) == 2
    assert terms["intercept"] == ["intercept"]


@pytest.mark.parametrize("kind", ["object", "category", "string", "bool", "numpy strings"])
def test_kinds_of_text(kind):
    values = np.array(["yes", "no"] * 12)
    column = {
        "object": pd.Series(values, dtype=object),
        "category": pd.Series(values, dtype="category"),
        "string": pd.Series(values, dtype="string"),
        "bool": pd.Series(values == "yes"),
        "numpy strings": pd.Series(list(values.astype(np.dtypes.StringDType()))),
    }[kind]
    design = design_from_formula("~ patient", pd.DataFrame({"patient": column}))
    assert design.shape == (24, 2)
    assert set(design.iloc[:, 1]) == {0.0, 1.0}
    assert np.array_equal(np.abs(np.diff(design.iloc[:, 1])), np.ones(23))


def test_missing_values_name_the_subjects():
    table = TABLE.copy()
    table.loc["sub-03", "age"] = np.nan
    table.loc["sub-05", "sex"] = None
    with pytest.raises(DesignError, match="'age', which is missing for sub-03"):
        design_from_formula("~ age", table)
    with pytest.raises(DesignError, match="'sex', which is missing for sub-05"):
        design_from_formula("~ sex", table)
    assert design_from_formula("~ site", table).shape == (24, 3)  # not used, not minded
    with pytest.raises(DesignError, match="'sex', which is missing for sub-05"):
        design_from_formula("~ sex", table.astype({"sex": "category"}))
    with pytest.raises(DesignError, match="not finite for sub-"):
        design_from_formula("~ log(age - 50)", TABLE)


ATTACKS = [
    "~ {{__import__('os').system('touch {0}')}}",
    "~ age + `age`.to_csv('{0}')",
    "~ age.to_csv('{0}')",
    "~ np.save('{0}', age)",
    "~ open('{0}', 'w')",
    "~ I(__import__('os'))",
    "~ C(site, levels=['a'])",
    "~ hashed(site)",
    "~ Q('age')",
    "~ (lambda: 1)()",
    "~ age | site",
    "~ age[0]",
    "~ age @ age",
    "~ 9**9**9**9",
    "~ I(9**9)",
    "~ I(age**9**9)",
    "~ age ** age",
    "~ age ** 100000000",
    "~ poly(age, degree={0})",
    "~ eval(age)",
    "~ bs(age, df=1000000000)",
    "~ poly(age, 1000000000)",
    "~ bs(age, df=99*99*99*99)",
    "~ poly(age, (1000000000))",
    "~ I((((2)**9)**9)**9)",
    "~ (((age + sex)**9)**9)**9",
    "~ (age + sex + site + `my score`)**9",
    "~ np",
    "~ age.__class__",
    "~ I(age.__class__)",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs(tmp_path, attack):
    target = tmp_path / "written"
    with pytest.raises(DesignError):
        design_from_formula(attack.format(target), TABLE)
    assert not target.exists()


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~ agee", r"no column 'agee'.*did you mean 'age'\?.*age, sex, site"),
        ("y ~ age", "right-hand side only"),
        ("~", "names columns"),
        ("", "names columns"),
        ("~ C(site", "cannot be evaluated"),
        ("~ age +* sex", "cannot be evaluated"),
        ("~ foo(age)", "none of the transforms"),
        ("~ age ; sex", "';' at position 7"),
    ],
)
def test_mistakes(formula, message):
    with pytest.raises(DesignError, match=message):
        design_from_formula(formula, TABLE)


@pytest.mark.parametrize(
    "name", ["log", "C", "lambda", "True", "x\\", "a'", 'b"', "age.values", "{1}", "a b", "ä", "np"]
)
def test_columns_of_any_name(name):
    table = pd.DataFrame({name: np.arange(1.0, 9.0)})
    design = design_from_formula(f"~ `{name}` + log(`{name}`)", table)
    assert design.columns[1] == name
    assert np.array_equal(design[name], table[name])
    assert np.allclose(design.iloc[:, 2], np.log(table[name]))
    assert set(design.attrs["terms"]) == {"intercept", name, design.columns[2]}


def test_names_of_columns_never_run(tmp_path):
    target = tmp_path / "written"
    names = ["x\\", f"{{np.savetxt('{target}', [1])#", "'+str(np.savetxt(1, 1))+'", "}", "\\"]
    table = pd.DataFrame(np.random.default_rng(0).random((8, 5)), columns=names)
    design = design_from_formula("~ " + " + ".join(f"`{name}` + I(`{name}`)" for name in names), table)
    assert np.array_equal(design[names], table)
    assert not target.exists()


def test_columns_given_twice():
    table = pd.concat([TABLE[["age", "sex"]], TABLE[["age"]]], axis=1)
    assert design_from_formula("~ sex", table).shape == (24, 2)
    with pytest.raises(DesignError, match="age of the table occur more than once"):
        design_from_formula("~ age", table)


def test_rows_with_one_label_and_integer_columns():
    table = pd.DataFrame({0: [1.0, 2.0, 4.0], "age": [3.0, 5.0, 4.0]}, index=["a", "a", "b"])
    design = design_from_formula("~ `0` + age", table)
    assert list(design.index) == ["a", "a", "b"]
    assert design["0"].tolist() == [1, 2, 4]


def test_complex_numbers_are_refused():
    with pytest.raises(DesignError, match="complex"):
        design_from_formula("~ z", pd.DataFrame({"z": [1j, 2.0, 3.0]}))


AGES = [f"{20 + k}" for k in range(30)]
WRITTEN = {
    "BIDS's way to hide an age": [*AGES[:-1], "89+"],
    "a question mark": [*AGES[:-1], "?"],
    "a decimal comma": [*AGES[:-1], "34,5"],
    "decimal commas throughout": [f"{20 + k},5" for k in range(30)],
    "thousands": [f"1,{270 + k}" for k in range(30)],
    "a unit": [*AGES[:-1], "30 y"],
    "a bound": [*AGES[:-1], "<18"],
    "two columns in one": [*AGES[:-1], "31 F"],
    "a word for half of them": AGES[:15] + ["unknown"] * 15,
    "a word for most of them": AGES[:10] + ["unknown"] * 20,
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("formula", ["~ age", "~ sex * age", "~ C(sex) + log(age)", "~ C(age) + age"])
def test_a_number_that_one_cell_makes_text_is_no_factor(written, formula):
    """Such a column had a regressor for each of its values, and its contrast was an F of as many columns."""
    values = WRITTEN[written]
    table = pd.DataFrame({"age": values, "sex": ["F", "M"] * 15}, index=[f"sub-{k:02d}" for k in range(30)])
    with pytest.raises(DesignError, match=r"'age' as a number.*\(sub-\d\d\).*or write C\(age\)") as caught:
        design_from_formula(formula, table)
    assert repr(next(value for value in values if not value.isdigit())) in str(caught.value)
    assert ("decimals have a point" in str(caught.value)) == ("," in values[-1])
    # As a factor it is what was asked for.
    assert design_from_formula("~ C(age)", table).shape[1] == len(set(values))


def test_numbers_that_are_text_or_objects():
    table = pd.DataFrame({"text": AGES, "objects": pd.Series(range(30), dtype=object)})
    with pytest.raises(DesignError, match=r"'text', whose numbers are text, as in '20', '21'.*to_numeric.*C\(text\)"):
        design_from_formula("~ text", table)
    assert design_from_formula("~ objects", table)["objects"].tolist() == list(range(30))


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_blanks_around_text_make_no_level(dtype):
    sex = pd.Series(["F", "F ", " M", "M"] * 5, dtype=dtype)
    design = design_from_formula("~ sex", pd.DataFrame({"sex": sex}))
    level = design.columns[1]  # a categorical column has the order of its categories
    assert design.shape == (20, 2)
    assert design[level].tolist() == ([1, 1, 0, 0] if level == "sex[T.F]" else [0, 0, 1, 1]) * 5
    with pytest.raises(DesignError, match="'sex', which is missing for 3"):
        design_from_formula("~ sex", pd.DataFrame({"sex": ["F", "M", "F", " ", "M"]}))


def test_factors_with_some_labels_like_numbers():
    scanner = ["Prisma", "Skyra", "7"] * 8
    assert design_from_formula("~ scanner", pd.DataFrame({"scanner": scanner})).shape == (24, 3)


def test_a_category_that_nobody_has():
    """After a selection of subjects pandas keeps all categories; R's lm and a new factor have those that occur."""
    group = pd.Categorical(["a", "b"] * 6, categories=["unused", "a", "b", "other"])
    with pytest.warns(UserWarning, match="no row has unused, other of 'group'"):
        design = design_from_formula("~ group", pd.DataFrame({"group": group}))
    assert list(design.columns) == ["intercept", "group[T.b]"]


@pytest.mark.parametrize("coding", ['contr.treatment("b")', "contr.treatment('b')", 'contr.treatment(base="b")'])
def test_a_reference_level_of_text(coding):
    from patsy import dmatrix

    table = pd.DataFrame({"group": list("abcabc"), "age": [1.0, 2, 3, 5, 4, 6]})
    design = design_from_formula(f"~ C(group, {coding}) + age", table)
    expected = dmatrix("C(group, Treatment('b')) + age", table)
    assert np.array_equal(design.to_numpy(), np.asarray(expected))
    assert design.columns[1] == f"C(group, {coding})[T.a]".replace('"', "'") or "[T.a]" in design.columns[1]


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ('~ C(group, contr.treatment("bb"))', "no level 'bb', which is to be the reference; did you mean 'b'"),
        ('~ "group"', "text in quotes"),
        ('~ C("group")', "text in quotes"),
        ('~ bs(age, df="3")', "arguments of a transform"),
        ("~ C(group, contr.treatment(\"b' + open('x') + 'b\"))", "no level"),
        ('~ C(group, contr.treatment("{age}"))', "no level"),
    ],
)
def test_text_is_a_reference_level_and_nothing_else(formula, message):
    table = pd.DataFrame({"group": list("abcabc"), "age": [1.0, 2, 3, 5, 4, 6]})
    with pytest.raises(DesignError, match=re.escape(message)):
        design_from_formula(formula, table)


def test_a_level_of_any_signs():
    level = "b\\' {x} `~\""[:6]
    table = pd.DataFrame({"group": ["a", level, "c"] * 2})
    design = design_from_formula(f'~ C(group, contr.treatment("{level}"))', table)
    assert design.to_numpy()[:, 1:].sum(axis=0).tolist() == [2.0, 2.0]


def test_levels_of_numbers_are_named_as_the_table_writes_them():
    table = pd.DataFrame(
        {"site": [1, 2, 3, 1, 2, 3], "dose": [0.5, 1.0, 0.5, 1.0, 0.5, 1.0], "text": ["1.0", "2.0"] * 3}
    )
    names = design_from_formula("~ C(site) + C(dose) + C(text)", table).columns.tolist()
    assert names == ["intercept", "C(site)[T.2]", "C(site)[T.3]", "C(dose)[T.1.0]", "C(text)[T.2.0]"]
    assert "C(site)[T.2]:C(text)[T.2.0]" in design_from_formula("~ C(site) * C(text)", table).columns


WIDE = pd.DataFrame(np.random.default_rng(5).standard_normal((4, 142)), columns=[f"x{k}" for k in range(142)])


@pytest.mark.parametrize(
    ("allowed", "refused", "message"),
    [
        ("~ age" + " " * 9_995, "~ age" + " " * 9_996, "up to 10000 characters, but this one has 10001"),
        ("~ (age + sex)**9", "~ (age + sex)**10", "whole numbers from 1 to 9"),
        ("~ age**1", "~ age**0", "whole numbers from 1 to 9"),
        # 141 ** 2 = 19881 and 142 ** 2 = 20164.
        (f"~ ({' + '.join(WIDE.columns[:141])})**2", f"~ ({' + '.join(WIDE.columns)})**2", "up to 20000 products"),
        ("~ bs(age, df=100)", "~ bs(age, df=101)", "numbers up to 100"),
        ("~ poly(age, 100)", "~ poly(age, 100.5)", "numbers up to 100, .* but '100.5' follows"),
        # The base of a coding is a level, of any size.
        ("~ C(site, contr.treatment(base=101))", "~ C(site, contr.treatment, 101)", "numbers up to 100"),
    ],
)
def test_limits_of_a_formula_hold_to_the_last(allowed, refused, message):
    columns = [*TABLE.columns, *WIDE.columns]
    assert formula_columns(allowed, columns)
    with pytest.raises(DesignError, match=message):
        formula_columns(refused, columns)
