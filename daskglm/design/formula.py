"""Designs from formulas, behind an allow-list: formulaic itself runs any Python that a formula holds."""

import difflib
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from daskglm.errors import DesignError, listing

# Transforms of formulaic that only compute.
_FUNCTIONS = ("C", "I", "bs", "cc", "center", "cr", "cs", "exp", "log", "log10", "log2", "poly", "scale", "standardize")
_CODINGS = ("contr.treatment", "contr.sum", "contr.helmert", "contr.poly", "contr.diff")
_KEYWORDS = ("base", "degree", "df")
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<quoted>`[^`]+`)|(?P<number>\d+(\.\d*)?|\.\d+)|(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)"
    r"|(?P<operator>\*\*|[-+*/:^(),~=])"
)
_MAX_LENGTH, _MAX_POWER = 10_000, 9


def design_from_formula(formula: str, participants: pd.DataFrame) -> pd.DataFrame:
    """Make a design of a formula and a participants table.

    Parameters
    ----------
    formula : str
        In Wilkinson's notation, right-hand side only: "~ age + C(site) + age:sex". Columns with other signs in
        their names stand in backquotes. Transforms: C, I, bs, cc, center, cr, cs, exp, log, log10, log2, poly,
        scale, standardize.
    participants : (n, k) DataFrame
        One row a subject.

    Returns
    -------
    (n, p) DataFrame
        float64, index of the participants; the constant is called "intercept". ``attrs["terms"]`` maps each
        term, and each variable that makes up one term alone, to its columns.

    Raises
    ------
    DesignError
        Where the formula holds anything but names of columns, numbers, operators and the transforms above, or
        a value that it uses is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"age": [30.0, 40.0, 50.0], "sex": ["F", "M", "F"]})
    >>> design_from_formula("~ age + sex", table).columns.tolist()
    ['intercept', 'age', 'sex[T.M]']
    """
    used = check_formula(formula, [str(name) for name in participants.columns])
    table = _plain(participants[used])
    for name, column in table.items():
        missing = participants.index[column.isna().to_numpy()]
        if len(missing):
            raise DesignError(
                f"the formula uses {name!r}, which is missing for {listing(missing)}; fill it in, or drop those "
                "subjects and their images"
            )
    import formulaic

    right = formula.strip().removeprefix("~")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            matrix = formulaic.model_matrix(f"~ {right}", table, na_action="ignore", context={})
    except Exception as error:  # formulaic raises errors of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DesignError(f"formula {formula!r} cannot be evaluated: {reason}") from error
    design = pd.DataFrame(np.asarray(matrix, dtype=np.float64), index=participants.index)
    design.columns = pd.Index(["intercept" if name == "Intercept" else str(name) for name in matrix.columns])
    for name, column in design.items():
        wrong = design.index[~np.isfinite(column.to_numpy())]
        if len(wrong):
            raise DesignError(f"column {name!r} of formula {formula!r} is not finite for {listing(wrong)}")
    design.attrs = {"terms": _terms(matrix, list(design.columns))}
    return design


def check_formula(formula: str, columns: Sequence[str]) -> list[str]:
    """Check a formula against the allow-list.

    Parameters
    ----------
    formula : str
        Formula.
    columns : sequence of str
        Columns of the participants table.

    Returns
    -------
    list of str
        The columns that it uses.

    Raises
    ------
    DesignError
        Naming what is not allowed, and where it stands.
    """
    if len(formula) > _MAX_LENGTH:
        raise DesignError(f"a formula has up to {_MAX_LENGTH} characters, but this one has {len(formula)}")
    tokens = list(_tokens(formula))
    if tokens and tokens[0][1] == "~":
        tokens = tokens[1:]
    if not tokens:
        raise DesignError(f"a formula names columns, as in '~ age', but this is {formula!r}")
    if any(text == "~" for _, text in tokens):
        raise DesignError(f"a formula has a right-hand side only (the images are the left), but this is {formula!r}")
    _check_powers(tokens, formula)
    used: dict[str, None] = {}
    for index, (kind, text) in enumerate(tokens):
        following = tokens[index + 1][1] if index + 1 < len(tokens) else ""
        if kind == "quoted":
            used[_column(text.strip("`"), columns, formula)] = None
        elif kind == "name" and following == "(":
            if text not in (*_FUNCTIONS, *_CODINGS):
                raise DesignError(
                    f"{text}() in formula {formula!r} is none of the transforms {listing(_FUNCTIONS, 20)}"
                )
        elif kind == "name" and following == "=" and text in _KEYWORDS:
            continue
        elif kind == "name" and text not in _CODINGS:
            used[_column(text, columns, formula)] = None
        elif text == "=" and tokens[index - 1][1] not in _KEYWORDS:
            raise DesignError(f"'=' in formula {formula!r} follows {listing(_KEYWORDS)} only")
    return list(used)


def _tokens(formula: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token; anything else is refused."""
    position = 0
    while position < len(formula):
        match = _TOKEN.match(formula, position)
        if match is None:
            raise DesignError(
                f"{formula[position]!r} at position {position + 1} of formula {formula!r} is not allowed; a formula "
                "has names of columns (in backquotes if they have other signs), numbers, transforms and + - * / : ^ ( )"
            )
        position = match.end()
        if match.lastgroup != "space":
            yield str(match.lastgroup), match.group()


def _check_powers(tokens: list[tuple[str, str]], formula: str) -> None:
    """Refuse powers but small whole ones of a name or parentheses: 9**9**9**9 would never end."""
    for index, (_, text) in enumerate(tokens):
        if text not in ("**", "^"):
            continue
        before = tokens[index - 1] if index else ("", "")
        after = tokens[index + 1 : index + 3]
        small = bool(after) and after[0][1].isdigit() and 1 <= int(after[0][1][:4]) <= _MAX_POWER
        chained = len(after) > 1 and after[1][1] in ("**", "^")
        if not small or chained or before[0] == "number":
            raise DesignError(f"powers in a formula are whole numbers from 1 to {_MAX_POWER}, but this is {formula!r}")


def _column(name: str, columns: Sequence[str], formula: str) -> str:
    """The name, if the table has such a column."""
    if name in columns:
        return name
    near = difflib.get_close_matches(name, columns, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DesignError(f"no column {name!r} for formula {formula!r}.{hint} The table has {listing(columns, 30)}")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Columns as formulaic takes them: numbers as they are, everything else as text."""
    plain = {}
    for name, column in table.items():
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            ordered = isinstance(column.dtype, pd.CategoricalDtype)
            text = column if ordered else column.map(str, na_action="ignore").astype(object)
            plain[str(name)] = text
        else:
            plain[str(name)] = column.astype(np.float64)
    return pd.DataFrame(plain, index=table.index)


def _terms(matrix: object, columns: list[str]) -> dict[str, list[str]]:
    """Columns of each term; a variable that is used in one term only stands for it as well."""
    spec = matrix.model_spec  # type: ignore[attr-defined]
    terms = {str(term): [columns[index] for index in indices] for term, indices in spec.term_indices.items()}
    if "1" in terms:
        terms["intercept"] = terms.pop("1")
    users: dict[str, list[str]] = {}
    for term, variables in spec.term_variables.items():
        for variable in variables:
            users.setdefault(str(variable), []).append(str(term))
    for variable, using in users.items():
        if len(using) == 1 and variable not in (*_FUNCTIONS, *_CODINGS) and ":" not in using[0]:
            terms.setdefault(variable, terms[using[0]])
    return terms
