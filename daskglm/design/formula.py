"""Designs from formulas, behind an allow-list: formulaic itself runs any Python that a formula holds."""

import ast
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from daskglm.errors import DesignError, listing, nearest

# Transforms of formulaic that only compute.
_FUNCTIONS = ("C", "I", "bs", "cc", "center", "cr", "cs", "exp", "log", "log10", "log2", "poly", "scale", "standardize")
_CODINGS = ("contr.treatment", "contr.sum", "contr.helmert", "contr.poly", "contr.diff")
_KEYWORDS = ("base", "degree", "df")
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<quoted>`[^`]+`)|(?P<number>\d+(\.\d*)?|\.\d+)|(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)"
    r"|(?P<operator>\*\*|[-+*/:^(),~=])|(?P<level>\"[^\"`]*\"|'[^'`]*')"
)
_MAX_LENGTH, _MAX_POWER, _MAX_PRODUCTS, _MAX_ARGUMENT = 10_000, 9, 20_000, 100
# "89+", "<18", "34,5", "1,270", "80 %" and "?": what is written where a number is meant.
_LIKE_NUMBER = re.compile(r"[<>=~\u2264\u2265\u2248]*\s*[-+\u2212]?(\d[\d.,']*|[.,]\d+)([eE][-+]?\d+)?\s*[+%]?")
# What formulaic sees instead of a column's name, which may hold quotes, braces or the name of a function.
_ALIAS, _ALIASED = "daskglm_column_{}_", re.compile(r"`?daskglm_column_(\d+)_`?")
_FLOAT_LEVEL = re.compile(r"(daskglm_column_(\d+)_[^\[\]]*\[(?:[A-Z]+\.)?-?\d+)\.0\]")


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
        a value that it uses is missing, or one that it makes is not finite; where a column of which most values are
        numbers, and that is not in C(), holds others.

    Examples
    --------
    >>> table = pd.DataFrame({"age": [30.0, 40.0, 50.0], "sex": ["F", "M", "F"]})
    >>> design_from_formula("~ age + sex", table).columns.tolist()
    ['intercept', 'age', 'sex[T.M]']
    """
    names = [str(name) for name in participants.columns]
    tokens = _checked(formula, names)
    used = _used(tokens)
    repeated = [name for name in used if names.count(name) > 1]
    if repeated:
        raise DesignError(f"columns {listing(repeated)} of the table occur more than once; keep one of each")
    given = participants.iloc[:, [names.index(name) for name in used]]
    table = _plain(given, _as_numbers(tokens), formula)
    for name, column in table.items():
        missing = participants.index[column.isna().to_numpy()]
        if len(missing):
            raise DesignError(
                f"the formula uses {name!r}, which is missing for {listing(missing)}; fill it in, or leave "
                "those subjects out (--na drop; na='drop' of group_analysis and permutation_analysis)"
            )
    _check_levels(tokens, table)
    matrix = _evaluate(formula, tokens, table)
    design = pd.DataFrame(np.asarray(matrix, dtype=np.float64), index=participants.index)
    whole = [pd.api.types.is_float_dtype(column) and (column % 1 == 0).all() for _, column in table.items()]
    columns = [_restore(_whole_levels(str(name), whole), used) for name in matrix.columns]
    design.columns = pd.Index(["intercept" if name == "Intercept" else name for name in columns])
    for name, column in design.items():
        wrong = design.index[~np.isfinite(column.to_numpy())]
        if len(wrong):
            raise DesignError(f"column {name!r} of formula {formula!r} is not finite for {listing(wrong)}")
    design.attrs = {"terms": _terms(matrix.model_spec, list(design.columns), used), "formula": formula}
    return design


def formula_columns(formula: str, columns: Sequence[str]) -> list[str]:
    """Columns of a table that a formula uses.

    Parameters
    ----------
    formula : str
        As in :func:`design_from_formula`.
    columns : sequence of str
        Those that there are.

    Returns
    -------
    list of str
        Each once.

    Raises
    ------
    DesignError
        As :func:`design_from_formula`.
    """
    return _used(_checked(formula, columns))


def _evaluate(formula: str, tokens: list[tuple[str, str]], table: pd.DataFrame) -> Any:
    """Model matrix, by formulaic, of a checked formula, its columns under aliases."""
    import formulaic

    used = [str(name) for name in table.columns]
    aliases = {name: _ALIAS.format(index) for index, name in enumerate(used)}
    aliased = table.set_axis(list(aliases.values()), axis=1)
    words = [aliases[text] if kind == "column" else text for kind, text in tokens]
    # No blank before the parenthesis of a call: formulaic would take it for a group.
    calls = [kind == "name" and after == "(" for (kind, _), after in zip(tokens, [*words[1:], ""], strict=True)]
    code = "~ " + "".join(word + ("" if call else " ") for word, call in zip(words, calls, strict=True))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return formulaic.model_matrix(code, aliased, na_action="ignore", context={})
    except Exception as error:  # formulaic raises errors of many kinds
        reason = _restore(next(iter(str(error).splitlines()), type(error).__name__), used)
        raise DesignError(f"formula {formula!r} cannot be evaluated: {reason}") from error


def _whole_levels(name: str, whole: Sequence[bool]) -> str:
    """A column's name with levels of whole numbers as a table writes them: [T.2] for [T.2.0]."""
    return _FLOAT_LEVEL.sub(lambda match: f"{match[1]}]" if whole[int(match[2])] else match[0], name)


def _restore(text: str, used: list[str]) -> str:
    """Text of formulaic with the names of columns for their aliases, in backquotes where they are part of a call."""

    def name(match: re.Match[str]) -> str:
        original = used[int(match[1])]
        inside = text.count("(", 0, match.start()) > text.count(")", 0, match.start())
        return f"`{original}`" if inside and not original.isidentifier() else original

    return _ALIASED.sub(name, text)


def _used(tokens: list[tuple[str, str]]) -> list[str]:
    """Columns among the tokens, each once."""
    return list(dict.fromkeys(text for kind, text in tokens if kind == "column"))


def _checked(formula: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and text of the right-hand side's tokens, all allowed; names of columns are of kind "column"."""
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
    for index, (kind, text) in enumerate(tokens):
        following = tokens[index + 1][1] if index + 1 < len(tokens) else ""
        if kind == "quoted":
            tokens[index] = ("column", _column(text.strip("`"), columns, formula))
        elif kind == "name" and following == "(":
            if text not in (*_FUNCTIONS, *_CODINGS):
                raise DesignError(
                    f"{text}() in formula {formula!r} is none of the transforms {listing(_FUNCTIONS, 20)}"
                    f"{nearest(text, _FUNCTIONS)}"
                )
        elif kind == "name" and following == "=" and text in _KEYWORDS:
            continue
        elif kind == "name" and text not in _CODINGS:
            tokens[index] = ("column", _column(text, columns, formula))
        elif kind == "level":
            tokens[index] = ("level", _level(tokens, index, formula))
        elif text in (",", "="):
            _check_argument(tokens, index, formula)
    return tokens


def _check_argument(tokens: list[tuple[str, str]], index: int, formula: str) -> None:
    """Refuse arguments of transforms but codings and small numbers: bs(age, df=10**9) fills any memory."""
    before, text = tokens[index - 1][1] if index else "", tokens[index][1]
    (kind, value), (_, after) = [*tokens[index + 1 : index + 3], ("", ""), ("", "")][:2]
    if text == "=" and before not in _KEYWORDS:
        raise DesignError(f"'=' in formula {formula!r} follows {listing(_KEYWORDS)} only")
    if text == "," and (value in _CODINGS or (value in _KEYWORDS and after == "=")):
        return
    bounded = before != "base"  # the base of a coding is a level, of any size
    if text == "=" and before == "base" and kind == "level":
        return
    if kind != "number" or after not in (",", ")") or (bounded and float(value) > _MAX_ARGUMENT):
        raise DesignError(
            f"arguments of a transform are numbers up to {_MAX_ARGUMENT}, {listing(_KEYWORDS)} and a number, or "
            f"{listing(_CODINGS)}, but {value!r} follows {text!r} in formula {formula!r}"
        )


def _level(tokens: list[tuple[str, str]], index: int, formula: str) -> str:
    """A level in quotes, as Python writes it: the base of a coding, and nothing else."""
    before = ["", "", *(text for _, text in tokens[:index])][-2:]
    if before != ["base", "="] and not (before[1] == "(" and before[0] in _CODINGS):
        raise DesignError(
            f"text in quotes in formula {formula!r} is the reference level of a coding, as in "
            'C(group, contr.treatment("control")); a column stands without quotes, or in backquotes'
        )
    return repr(tokens[index][1][1:-1])


def _check_levels(tokens: list[tuple[str, str]], table: pd.DataFrame) -> None:
    """Raise where a coding names a level that its column has not."""
    column = ""
    for kind, text in tokens:
        column = text if kind == "column" else column
        if kind != "level":
            continue
        levels = sorted(map(str, table[column].dropna().unique()))
        if ast.literal_eval(text) not in levels:
            hint = nearest(ast.literal_eval(text), levels) or f"; there are {listing(levels)}"
            raise DesignError(f"column {column!r} has no level {text}, which is to be the reference{hint}")


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
        base = _group_before(tokens, index)
        after = tokens[index + 1 : index + 3]
        small = bool(after) and after[0][1].isdigit() and 1 <= int(after[0][1][:4]) <= _MAX_POWER
        chained = len(after) > 1 and after[1][1] in ("**", "^")
        nested = any(token in ("**", "^") for _, token in base)
        if not small or chained or nested or all(kind != "name" and kind != "quoted" for kind, _ in base):
            raise DesignError(
                f"powers in a formula are whole numbers from 1 to {_MAX_POWER} after a column or parentheses that hold "
                f"no other power, but this is {formula!r}"
            )
        n_names = sum(kind in ("name", "quoted") for kind, _ in base)
        if n_names ** int(after[0][1]) > _MAX_PRODUCTS:
            raise DesignError(
                f"a power in a formula makes up to {_MAX_PRODUCTS} products, but {n_names} names to the power "
                f"{after[0][1]} in {formula!r} make more; take a smaller power"
            )


def _group_before(tokens: list[tuple[str, str]], index: int) -> list[tuple[str, str]]:
    """The token before a position, or all of the parentheses that end there."""
    depth, start = 0, index
    while start > 0:
        start -= 1
        depth += (tokens[start][1] == ")") - (tokens[start][1] == "(")
        if depth <= 0:
            break
    return tokens[start:index]


def _column(name: str, columns: Sequence[str], formula: str) -> str:
    """The name, if the table has such a column."""
    if name in columns:
        return name
    hint = nearest(name, columns) or "."
    raise DesignError(f"no column {name!r} for formula {formula!r}{hint} The table has {listing(columns, 30)}")


def _as_numbers(tokens: list[tuple[str, str]]) -> set[str]:
    """Columns that are used somewhere without C()."""
    texts = ["", "", *(text for _, text in tokens)]
    return {
        text
        for index, (kind, text) in enumerate(tokens)
        if kind == "column" and not (texts[index] == "C" and texts[index + 1] == "(")
    }


def _plain(table: pd.DataFrame, as_numbers: Collection[str], formula: str) -> pd.DataFrame:
    """Columns as formulaic takes them: numbers as they are, everything else as text without blanks around it."""
    plain = {}
    for name, column in table.items():
        if pd.api.types.is_complex_dtype(column):
            raise DesignError(f"column {name!r} of the table has complex numbers; take their real part or size")
        if isinstance(column.dtype, pd.CategoricalDtype):
            plain[str(name)] = _occurring(str(name), column)
        elif pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            plain[str(name)] = _text_or_numbers(str(name), column, name in as_numbers, formula)
        else:
            plain[str(name)] = column.astype(np.float64)
    return pd.DataFrame(plain, index=table.index)


def _text_or_numbers(name: str, column: pd.Series, as_number: bool, formula: str) -> pd.Series:
    """A column of other values: numbers where all are, text where it is no number; refused in between."""
    if as_number and all(isinstance(value, Real) and not isinstance(value, bool) for value in column.dropna()):
        return column.astype(np.float64)
    text = column.map(lambda value: str(value).strip(), na_action="ignore").astype(object)
    text = text.mask((text == "").to_numpy())
    cells = text.dropna()
    alike = cells.map(lambda cell: bool(_LIKE_NUMBER.fullmatch(cell))).astype(bool)
    distinct = alike[~cells.duplicated()]
    if as_number and len(cells) and (alike.mean() >= 0.5 or distinct.mean() > 0.5):
        _refuse_numbers(name, cells, formula)
    return text


def _refuse_numbers(name: str, cells: pd.Series, formula: str) -> None:
    """Refuse a column of which most cells are numbers: as text it would be a factor with a level a value."""
    wrong = cells[pd.to_numeric(cells, errors="coerce").isna()]
    remedy = f"or write C({name if name.isidentifier() else f'`{name}`'}) where it is a factor"
    if wrong.empty:
        raise DesignError(
            f"formula {formula!r} uses {name!r}, whose numbers are text, as in "
            f"{listing(map(repr, cells.unique()), 3)}; make them numbers (pandas.to_numeric), {remedy}"
        )
    where = listing([f"{cell!r} ({row})" for row, cell in wrong.items()], 4)
    point = " (decimals have a point)" if wrong.str.contains(",").any() else ""
    numbers = len(cells) - len(wrong)
    what = f"{numbers} of its {len(cells)} values are, but not" if numbers else "none of its values is one:"
    raise DesignError(f"formula {formula!r} uses {name!r} as a number; {what} {where}; correct them{point}, {remedy}")


def _occurring(name: str, column: pd.Series) -> pd.Series:
    """A categorical column without the categories that nobody has: each would be a column of zeros."""
    labels = {level: level.strip() if isinstance(level, str) else level for level in column.cat.categories}
    seen = {labels[level] for level in column.dropna()}
    unused = [level for level in dict.fromkeys(labels.values()) if level not in seen]
    if unused:
        warnings.warn(f"no row has {listing(unused)} of {name!r}; the design leaves it out", stacklevel=5)
    levels = [level for level in dict.fromkeys(labels.values()) if level in seen]
    return column.astype(object).map(labels, na_action="ignore").astype(pd.CategoricalDtype(levels, column.cat.ordered))


def _terms(spec: Any, columns: list[str], used: list[str]) -> dict[str, list[str]]:
    """Columns of each term; a variable that is used in one term only stands for it as well."""
    restored = {_restore(str(term), used): positions for term, positions in spec.term_indices.items()}
    terms = {term: [columns[index] for index in positions] for term, positions in restored.items()}
    if "1" in terms:
        terms["intercept"] = terms.pop("1")
    users: dict[str, list[str]] = {}
    for term, variables in spec.term_variables.items():
        for variable in variables:
            users.setdefault(_restore(str(variable), used), []).append(_restore(str(term), used))
    for variable, using in users.items():
        if len(using) == 1 and variable in used and ":" not in using[0]:
            terms.setdefault(variable, terms[using[0]])
    return terms
