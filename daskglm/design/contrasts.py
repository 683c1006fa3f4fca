"""Contrasts from expressions, by a parser of its own: names, numbers and + - * /, nothing that runs."""

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.design.readings import Token, is_number, readings, unknown_name, written
from daskglm.errors import ContrastError, NullRegressorError, listing, nearest, option

Array = NDArray[np.float64]
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
        Regressors combined by + - * / with numbers, each by its name as it is printed; where a text can be read in
        two ways, a name stands in backquotes. Parts separated by commas are rows. A formula term alone stands for all
        its columns. Or weights as text: "0 1", "[0, 1]".
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
        Naming what is not understood, and the names there are; or the ways in which the text can be read.

    Examples
    --------
    >>> parse_contrast("(a + b) / 2 - c[T.d]", ["a", "b", "c[T.d]"])
    array([[ 0.5,  0.5, -1. ]])
    >>> parse_contrast("a, b", ["a", "b"])
    array([[1., 0.],
           [0., 1.]])
    >>> parse_contrast("1 -1", ["a", "b"])
    array([[ 1., -1.]])
    """
    if len(expression) > _MAX_LENGTH:
        raise ContrastError(f"a contrast has up to {_MAX_LENGTH} characters, but this one has {len(expression)}")
    if len(set(columns)) < len(columns):
        raise ContrastError(f"the regressors of a contrast have different names, but these are {listing(columns, 30)}")
    units = dict(zip(columns, np.eye(len(columns)), strict=True))
    found: dict[str, Array] = {}
    wrong: list[ContrastError] = []
    for reading in _readings(expression, [*columns, *(terms or {})]):
        try:
            rows = _rows(reading, expression, units, terms or {})
        except ContrastError as error:
            wrong.append(error)
            continue
        if not any(np.array_equal(rows, other) for other in found.values()):
            found[written(reading)] = rows
    weights = _weights_of_text(expression)
    if weights is not None and not found:
        return _weights(weights, len(columns))
    if weights is not None:
        found[f"the weights {weights}"] = np.empty(0)
    if len(found) > 1:
        raise ContrastError(
            f"contrast {_short(expression)} can be read as {' or as '.join(list(found)[:3])}; write the names in "
            "backquotes, as here, and all of it in single quotes for the shell"
        )
    if not found:
        raise wrong[0] if wrong else _unreadable(expression, units, terms or {})
    return next(iter(found.values()))


def is_text(definition: Any) -> bool:
    """Whether a contrast names its regressors in an expression, or several.

    Parameters
    ----------
    definition : contrast
        As for :func:`contrast_matrix`.

    Returns
    -------
    bool
        False of weights, also as text: they belong to columns by position.

    Examples
    --------
    >>> is_text("a - b"), is_text(["a", "b"]), is_text("1 -1"), is_text([1, -1])
    (True, True, False, False)
    """
    if isinstance(definition, str):
        return _weights_of_text(definition) is None
    return isinstance(definition, (list, tuple)) and bool(definition) and all(map(is_text, definition))


def by_name(definition: Any, columns: Sequence[str]) -> Any:
    """A contrast as an expression of names, so that it means the same in designs of other columns.

    Parameters
    ----------
    definition : contrast
        As for :func:`contrast_matrix`.
    columns : sequence of p str
        Regressors of the design that it is of.

    Returns
    -------
    contrast
        Weights as an expression; an expression as it is.

    Examples
    --------
    >>> by_name("1 -1", ["a", "b"])
    '1.0 * `a` + -1.0 * `b`'
    """
    if is_text(definition):
        return definition
    rows = contrast_matrix(definition, columns).tolist()
    terms = ([f"{weight!r} * `{name}`" for name, weight in zip(columns, row, strict=True) if weight] for row in rows)
    return ", ".join(" + ".join(row) for row in terms)


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
        verb, it = ("is", "it") if len(names) == 1 else ("are", "them")
        raise NullRegressorError(
            f"a contrast is of regressors that occur, but {listing(names)} {verb} zero throughout: no event of {it} "
            f"lies within the volumes that are analysed; leave {it} out of the contrast"
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


def _readings(expression: str, names: Sequence[str]) -> list[list[Token]]:
    """Ways to read an expression; names that are numbers are read only where they stand alone, between commas."""
    alone = [part.strip() for part in expression.split(",")]
    if any(is_number(part) for part in alone) and all(part in names for part in alone):
        tokens = [token for part in alone for token in (Token("sign", ","), Token("name", part))]
        return [tokens[1:]]
    return readings(expression, names)


def _weights_of_text(text: str) -> list[Any] | None:
    """Weights that a text lists, as in "0 1" or "[0, 1]"; None where it lists none."""
    if re.search(r"[^\d\s.,eE+\-\[\]()]", text) or not re.search(r"\d", text):
        return None
    inner = text.strip()
    if inner[0] in "[(":
        with suppress(SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            found = ast.literal_eval(inner)
            return list(found) if isinstance(found, (list, tuple)) else None
        inner = inner.removeprefix("[").removesuffix("]").strip()  # as NumPy prints them
    with suppress(ValueError):
        found = [float(part) for part in re.split(r"\s*,\s*|\s+", inner)]
        return found if len(found) > 1 or inner != text.strip() else None
    return None


def _rows(reading: list[Token], expression: str, units: Mapping[str, Array], terms: Mapping[str, Any]) -> Array:
    """Rows of a reading: its parts between commas that are in no parentheses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in reading:
        depth += (token == ("sign", "(")) - (token == ("sign", ")"))
        if token == ("sign", ",") and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    rows: list[Array] = []
    for part in parts:
        name = part[0].text if len(part) == 1 and part[0].kind == "name" else ""
        if name in terms and name not in units:
            rows += [units[column] for column in terms[name]]
        else:
            rows.append(_row(part, expression, units, terms))
    return np.array(rows)


def _row(part: list[Token], expression: str, units: Mapping[str, Array], terms: Mapping[str, Any]) -> Array:
    """One row: the syntax tree of its tokens, walked."""

    def unit(key: str) -> Array:
        return _unit(part[int(key[1:])].text, units, terms, expression)

    try:
        # Every name becomes a placeholder: keywords, accents and signs in names are then all alike to Python.
        code = " ".join(f"_{index}" if token.kind == "name" else token.text for index, token in enumerate(part))
        with np.errstate(over="ignore", invalid="ignore"):
            value = _value(ast.parse(code, mode="eval").body, expression, unit)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, ContrastError):
            raise ContrastError(f"{error}{_of_numbers(units)}") from error
        raise _no_expression(expression, units) from error
    if isinstance(value, float):
        raise ContrastError(
            f"contrast {_short(expression)} is a number; name a regressor: {listing(units)}{_of_numbers(units)}"
        )
    if not np.isfinite(value).all():
        raise ContrastError(f"weights of a contrast are finite, but those of {_short(expression)} overflow")
    return value


def _of_numbers(units: Iterable[str]) -> str:
    """How regressors are written whose names are numbers, as conditions 1 and 2; nothing where there are none."""
    example = " - ".join([f"`{name}`" for name in units if is_number(name)][:2])
    quoted = option(example, f"'{example}'")
    return f"; write names that are numbers in backquotes, as in {quoted}" if example else ""


def _no_expression(expression: str, units: Iterable[str]) -> ContrastError:
    """The error of a text that is no expression."""
    return ContrastError(
        f"contrast {_short(expression)} is no expression of regressors; combine the names {listing(units)} with "
        "+ - * / and numbers, or give weights, as in '1 -1'"
    )


def _unreadable(expression: str, units: Mapping[str, Array], terms: Mapping[str, Any]) -> ContrastError:
    """The error of a text in which something is no name, number or sign."""
    name = unknown_name(expression, [*units, *terms])
    if name is None:
        return _no_expression(expression, units)
    hint = nearest(name, [*units, *terms]) or "."
    return ContrastError(
        f"no regressor {name!r} for contrast {_short(expression)}{hint} The design has {listing(units, 30)}"
    )


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
    if len(terms[name]) == 1:
        return units[terms[name][0]]
    raise ContrastError(
        f"{name!r} in contrast {_short(part)} is a term of several columns {listing(terms[name])}; name one of "
        "them, or give the term alone as an F contrast"
    )


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
