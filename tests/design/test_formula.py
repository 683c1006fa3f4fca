"""Formulas, against patsy, and what must never run."""

import numpy as np
import pandas as pd
import pytest

from daskglm.design.formula import design_from_formula
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
