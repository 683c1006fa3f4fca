"""Contrasts from expressions, by a parser of its own: names, numbers and + - * /, nothing that runs."""

import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import ContrastError, NullRegressorError, listing, nearest

Array = NDArray[np.float64]
# Numbers are matched so that the e of 1e5 is no name; text in backquotes is a name whatever it holds.
_NAME = re.compile(r"`(?P<quoted>[^`]*)`|\d[\w.]*|(?P<bare>[^\W\d]\w*)")
_MAX_LENGTH = 10_000
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def contrast_matrix(definition: Any, columns: Sequence[str], terms: Mapping[str, Sequence[str]] | None = None) -> Array:
    """Weights of a contrast.

    Parameters
    ----------
    definition : str, list of str, (p,) or (q, p) array, Series or DataFrame
        An expression, several of them, or weights; short weights are filled up with zeros, as in nilearn. Weights
        with names (the index of a Series, the columns of a DataFrame) belong to the regressors of these names.
    columns : sequence of p str
        Regressors of the design.
    terms : mapping of str to sequence of str, optional
        Terms of a formula and their columns.

    Returns
    -------
    (q, p) float64
        One row a linear combination of regressors.

    Raises
    ------
    ContrastError
        Where the contrast is malformed, names what the design has not, or has a null row.
    """
    if isinstance(definition, (pd.Series, pd.DataFrame)):
        definition = _by_name(definition, columns)
    if isinstance(definition, (np.ndarray, pd.Index)):
        definition = definition.tolist()
    if isinstance(definition, str):
        matrix = parse_contrast(definition, columns, terms)
    elif isinstance(definition, (list, tuple)) and definition and all(isinstance(row, str) for row in definition):
        matrix = np.concatenate([parse_contrast(row, columns, terms) for row in definition])
    else:
        matrix = _weights(definition, len(columns))
    null = [index for index, row in enumerate(matrix) if not row.any()]
    if null or not len(matrix):
        raise ContrastError(f"a contrast compares something, but {_short(definition)} is null in row {listing(null)}")
    return matrix


def parse_contrast(expression: str, columns: Sequence[str], terms: Mapping[str, Sequence[str]] | None = None) -> Array:
    """Weights of a contrast's expression.

    Parameters
    ----------
    expression : str
        Regressors combined by + - * / with numbers; a name with other signs in it stands in backquotes, or
        alone. Parts separated by commas are rows. A formula term alone stands for all its columns.
    columns : sequence of p str
        Regressors of the design.
    terms : mapping of str to sequence of str, optional
        Terms of a formula and their columns.

    Returns
    -------
    (q, p) float64

    Raises
    ------
    ContrastError
        Naming what is not understood, and the names there are.

    Examples
    --------
    >>> parse_contrast("(a + b) / 2 - `c d`", ["a", "b", "c d"])
    array([[ 0.5,  0.5, -1. ]])
    >>> parse_contrast("a, b", ["a", "b"])
    array([[1., 0.],
           [0., 1.]])
    """
    if len(expression) > _MAX_LENGTH:
        raise ContrastError(f"a contrast has up to {_MAX_LENGTH} characters, but this one has {len(expression)}")
    if len(set(columns)) < len(columns):
        raise ContrastError(f"the regressors of a contrast have different names, but these are {listing(columns, 30)}")
    units = dict(zip(columns, np.eye(len(columns)), strict=True))
    whole = expression.strip()
    if whole in units:
        return units[whole][None]
    rows: list[Array] = []
    for part in _split(whole):
        name = part[1:-1] if re.fullmatch(r"`[^`]*`", part) else part
        if name in units:
            rows.append(units[name])
        elif terms and name in terms:
            rows += [units[column] for column in terms[name]]
        else:
            rows.append(_parse_row(part, units, terms or {}))
    return np.array(rows)


def check_one_row(name: str, matrix: Array, columns: Sequence[str]) -> None:
    """Raise unless a t contrast is one combination of regressors.

    Parameters
    ----------
    name : str
        Of the contrast.
    matrix : (q, p) float64
        Its weights.
    columns : sequence of p str
        Regressors.

    Raises
    ------
    ContrastError
        With the regressors that it has.
    """
    if len(matrix) > 1:
        used = [column for column, weights in zip(columns, matrix.T, strict=True) if weights.any()]
        raise ContrastError(
            f"a t contrast has one row, but {name!r} has {len(matrix)}, of {listing(used)}; name one of them (in "
            "backquotes), or ask for F, which tests them together (--f-contrast; f_contrasts or stat_type in Python)"
        )


def check_t_contrasts(contrasts: Mapping[str, Any], design: pd.DataFrame) -> None:
    """Raise unless each contrast is one combination of the regressors of a design.

    Parameters
    ----------
    contrasts : mapping of str to contrast
        Name to definition, of t contrasts.
    design : DataFrame
        Design, with the terms of its formula.

    Raises
    ------
    ContrastError
        Naming the first that is not.
    """
    columns = [str(name) for name in design.columns]
    for name, definition in contrasts.items():
        check_one_row(name, contrast_matrix(definition, columns, design.attrs.get("terms", {})), columns)


def check_occurs(matrix: Array, columns: Sequence[str], row_space: Array) -> None:
    """Raise where a contrast weighs a regressor that is zero throughout.

    Parameters
    ----------
    matrix : (q, p) float64
        Contrast.
    columns : sequence of p str
        Regressors.
    row_space : (p, r) float64
        Orthonormal basis of the row space of the design.

    Raises
    ------
    NullRegressorError
        Naming them.
    """
    null = np.sum(row_space**2, axis=1) < 1e-16
    at_fault = np.flatnonzero(null & (matrix != 0).any(axis=0))
    if at_fault.size:
        names = [columns[index] for index in at_fault.tolist()]
        raise NullRegressorError(
            f"a contrast is of regressors that occur, but {listing(names)} is zero throughout: no event of it lies "
            "within the volumes that are analysed; leave it out of the contrast"
        )


def _by_name(definition: pd.Series | pd.DataFrame, columns: Sequence[str]) -> Array:
    """Weights with names, in the order of the regressors; as they are where the names are only numbers."""
    table = definition.to_frame().T if isinstance(definition, pd.Series) else definition
    if all(isinstance(name, (int, np.integer)) for name in table.columns):
        return np.asarray(definition)
    names = [str(name) for name in table.columns]
    unknown = [name for name in names if name not in columns]
    if unknown or len(set(names)) < len(names):
        raise ContrastError(
            f"weights of a contrast name each regressor once, but these name {listing(unknown or names)}"
            f"{nearest(unknown[0], columns) if unknown else ''}; there are {listing(columns)}"
        )
    matrix = pd.DataFrame(table.to_numpy(), columns=names).reindex(columns=list(columns), fill_value=0.0)
    return matrix.to_numpy()


def _split(expression: str) -> list[str]:
    """Parts between the commas that are in no brackets and no backquotes."""
    parts, depth, quoted = [""], 0, False
    for character in expression:
        quoted ^= character == "`"
        depth += 0 if quoted else (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _parse_row(part: str, units: Mapping[str, Array], terms: Mapping[str, Sequence[str]]) -> Array:
    """One row: the expression's syntax tree, walked."""
    names: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        name = match["quoted"] if match["bare"] is None else match["bare"]
        if name is None:
            return match.group()
        names.append(name)
        return f"_{len(names) - 1}"

    def unit(key: str) -> Array:
        return _unit(names[int(key[1:])], units, terms, part)

    try:
        # Every name becomes a placeholder: keywords, accents and quoted text are then all alike to Python.
        code = _NAME.sub(placeholder, part)
        if "#" in code:
            raise SyntaxError("a comment")
        with np.errstate(over="ignore", invalid="ignore"):
            value = _value(ast.parse(code, mode="eval").body, part, unit)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, ContrastError):
            raise
        raise ContrastError(
            f"contrast {_short(part)} is no expression of regressors; combine the names {listing(units)} with + - * / "
            "and numbers, and put backquotes around a name with other signs in it"
        ) from error
    if isinstance(value, float):
        raise ContrastError(f"contrast {_short(part)} is a number; name a regressor: {listing(units)}")
    if not np.isfinite(value).all():
        raise ContrastError(f"weights of a contrast are finite, but those of {_short(part)} overflow")
    return value


def _short(definition: Any) -> str:
    """A definition for a message, cut where it is long."""
    text = repr(definition)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _value(node: ast.expr, part: str, unit: Callable[[str], Array]) -> Array | float:
    """Value of a node of the tree: weights, or a number."""
    match node:
        case ast.Name(id=name):
            return np.array(unit(name))
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, part, unit)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, part, unit)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            symbol = _OPERATORS[type(operator)]
            return _combine(_value(left, part, unit), symbol, _value(right, part, unit), part)
    raise ContrastError(
        f"contrast {_short(part)} has something other than names, numbers, parentheses and + - * / in it"
    )


def _combine(left: Array | float, symbol: str, right: Array | float, part: str) -> Array | float:
    """Apply an operator; what would not be linear is refused."""
    numbers = (isinstance(left, float), isinstance(right, float))
    if symbol in "+-" and numbers[0] == numbers[1]:
        return left + right if symbol == "+" else left - right
    if symbol == "*" and any(numbers):
        return left * right
    if symbol == "/" and numbers[1]:
        if right == 0:
            raise ContrastError(f"contrast {_short(part)} divides by zero")
        return left / right
    what = "a regressor and a number" if symbol in "+-" else "what is not a number"
    raise ContrastError(f"contrast {_short(part)} is not linear in the regressors: it has {symbol!r} between {what}")


def _unit(name: str, units: Mapping[str, Array], terms: Mapping[str, Sequence[str]], part: str) -> Array:
    """Weights of one regressor, by its name or that of a term with one column."""
    if name in units:
        return units[name]
    if name in terms:
        if len(terms[name]) == 1:
            return units[terms[name][0]]
        raise ContrastError(
            f"{name!r} in contrast {_short(part)} is a term of several columns {listing(terms[name])}; name one of "
            "them in backquotes, or give the term alone as an F contrast"
        )
    hint = nearest(name, [*units, *terms]) or "."
    raise ContrastError(f"no regressor {name!r} for contrast {_short(part)}{hint} The design has {listing(units, 30)}")


def _weights(definition: Any, n_columns: int) -> Array:
    """Numeric weights as a matrix of the design's width."""
    if np.ndim(definition) == 0:
        raise ContrastError(f"a contrast is an expression or an array of weights, but this is {_short(definition)}")
    try:
        matrix = np.atleast_2d(np.array(definition, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ContrastError(
            f"a contrast is an expression, a list of them, or weights (q, {n_columns}), but this is "
            f"{_short(definition)}"
        ) from error
    if matrix.ndim != 2 or not 0 < matrix.shape[1] <= n_columns:
        raise ContrastError(f"weights of a contrast have shape (q, {n_columns}), but these have {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ContrastError(f"weights of a contrast are finite, but these are {_short(definition)}")
    if matrix.shape[1] < n_columns:
        warnings.warn(
            f"the contrast has {matrix.shape[1]} weights and the design {n_columns} columns; the others get 0",
            UserWarning,
            stacklevel=3,
        )
        matrix = np.pad(matrix, ((0, 0), (0, n_columns - matrix.shape[1])))
    return matrix
