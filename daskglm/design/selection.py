"""Subjects chosen by a condition on their table: a parser of comparisons, for pandas' own runs any Python."""

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.design.matching import label_text
from daskglm.errors import DesignError, listing, nearest

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<quoted>`[^`]+`)|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)|(?P<sign>==|!=|<=|>=|[<>()\[\],=&|~]))"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_MAX_LENGTH = 10_000

Mask = NDArray[np.bool_]


def rows_where(condition: str, table: pd.DataFrame) -> tuple[Mask, Mask]:
    """Rows of a table that meet a condition.

    Parameters
    ----------
    condition : str
        Comparisons of columns with values (== != < <= > >= in, not in), joined by and, or, not and parentheses:
        "site != 'x' and 18 <= age < 65". Texts stand in quotes, columns with other signs in backquotes.
    table : (n, k) DataFrame
        Table.

    Returns
    -------
    met, missing : (n,) bool
        Rows that meet it; rows where a value that it names is missing, which meet nothing.

    Raises
    ------
    DesignError
        Where it cannot be read, names a column that is not there, or compares text with a number.

    Examples
    --------
    >>> table = pd.DataFrame({"site": ["x", "y", "z"], "age": [30, 40, 50]})
    >>> rows_where("site != 'x' and age < 45", table)[0].tolist()
    [False, True, False]
    """
    parser = _Parser(condition, table)
    met = parser.any_of()
    if parser.kind != "end":
        raise parser.fault()
    missing = np.zeros(len(table), dtype=bool)
    for name in parser.used:
        missing |= table[name].isna().to_numpy()
    return met & ~missing, missing


class _Parser:
    """Recursive descent over the tokens of a condition; each rule gives the rows that meet it."""

    def __init__(self, condition: str, table: pd.DataFrame) -> None:
        self.condition, self.table = condition, table
        self.used: dict[str, None] = {}
        self.position = 0
        if len(condition) > _MAX_LENGTH or condition.count("(") > 50 or len(re.findall(r"\bnot\b", condition)) > 50:
            raise DesignError(f"a condition must have at most {_MAX_LENGTH:,} characters, 50 parentheses and 50 nots")
        self.advance()

    def advance(self) -> tuple[str, str]:
        """Take the token at hand, and read the next."""
        taken = (getattr(self, "kind", ""), getattr(self, "value", ""))
        rest = self.condition[self.position :]
        match = _TOKEN.match(rest)
        if match is None:
            self.kind, self.value = ("end", "") if not rest.strip() else ("other", rest.strip()[0])
            return taken
        self.position += match.end()
        self.kind, self.value = str(match.lastgroup), match[str(match.lastgroup)]
        return taken

    def fault(self) -> DesignError:
        """What cannot be read, and how it is written."""
        hints = {"=": "; equality is ==", "&": "; write and", "|": "; write or", "~": "; write not"}
        at = "its end" if self.kind == "end" else repr(self.value)
        return DesignError(
            f"the condition {self.condition!r} cannot be read at {at}{hints.get(self.value, '')}: it compares columns "
            "with numbers or quoted texts, as in \"site != 'x' and age >= 18\""
        )

    def is_word(self, word: str) -> bool:
        """Whether the token at hand is a keyword."""
        return self.kind == "name" and self.value == word

    def any_of(self) -> Mask:
        """Conditions joined by or."""
        met = self.all_of()
        while self.is_word("or"):
            self.advance()
            met = met | self.all_of()
        return met

    def all_of(self) -> Mask:
        """Conditions joined by and."""
        met = self.one()
        while self.is_word("and"):
            self.advance()
            met = met & self.one()
        return met

    def one(self) -> Mask:
        """A comparison, a chain of them, a negation, or parentheses."""
        if self.is_word("not"):
            self.advance()
            return ~self.one()
        if self.value == "(" and self.kind == "sign":
            self.advance()
            met = self.any_of()
            self.take(")")
            return met
        left, met = self.operand(), np.ones(len(self.table), dtype=bool)
        compared = False
        while self.value in _COMPARE or self.is_word("in") or self.is_word("not"):
            met, left, compared = self.comparison(left, met), self.last, True
        if not compared:
            raise self.fault()
        return met

    def comparison(self, left: Any, met: Mask) -> Mask:
        """What follows an operand, and meets what came before."""
        _, sign = self.advance()
        if sign in _COMPARE:
            self.last = self.operand()
            return met & self.compare(sign, left, self.last)
        if sign == "not":
            if not self.is_word("in"):
                raise self.fault()
            self.advance()
        self.last = None
        closing = {"[": "]", "(": ")"}.get(self.value)
        if closing is None:
            raise self.fault()
        self.advance()
        found = np.zeros(len(self.table), dtype=bool)
        while True:
            found |= self.compare("==", left, self.operand())
            if self.value != ",":
                break
            self.advance()
        self.take(closing)
        return met & (~found if sign == "not" else found)

    def take(self, sign: str) -> None:
        """Take a sign that has to be there."""
        if self.value != sign or self.kind != "sign":
            raise self.fault()
        self.advance()

    def operand(self) -> Any:
        """A column, a number or a text."""
        kind, value = self.kind, self.value
        if kind == "number":
            self.advance()
            return float(value)
        if kind == "text":
            self.advance()
            return value[1:-1]
        if kind not in ("name", "quoted"):
            raise self.fault()
        name, columns = value.strip("`"), [str(column) for column in self.table.columns]
        if columns.count(name) != 1:
            if name in columns:
                raise DesignError(f"the table has several columns {name!r}; rename them, or leave the condition out")
            hint = nearest(name, columns) or f"; it has {listing(columns, 30)}, and texts stand in quotes"
            raise DesignError(f"the condition {self.condition!r} names {name!r}, which the table does not have{hint}")
        self.used[name] = None
        self.advance()
        return self.table.iloc[:, columns.index(name)].rename(name)

    def compare(self, sign: str, left: Any, right: Any) -> Mask:
        """Rows where a comparison of a column with a value, or another column, holds."""
        if not isinstance(left, pd.Series):
            if not isinstance(right, pd.Series):
                raise DesignError(f"the condition {self.condition!r} compares {left!r} with {right!r}; name a column")
            return self.compare(_MIRRORED.get(sign, sign), right, left)
        numeric = pd.api.types.is_numeric_dtype(left) and not pd.api.types.is_bool_dtype(left)
        if isinstance(right, pd.Series):
            other = pd.api.types.is_numeric_dtype(right) and not pd.api.types.is_bool_dtype(right)
            if numeric != other:
                raise DesignError(
                    f"{left.name!r} and {right.name!r} cannot be compared: one holds numbers, the other text"
                )
            right = (
                right.to_numpy(dtype=float, na_value=np.nan) if numeric else right.map(label_text).to_numpy(dtype=str)
            )
        elif numeric:
            try:
                right = float(right)
            except ValueError:
                raise DesignError(
                    f"{left.name!r} holds numbers, but the condition compares it with {right!r}"
                ) from None
        elif isinstance(right, float) and sign in _MIRRORED:
            cells = dict.fromkeys(left.dropna().map(label_text))
            raise DesignError(
                f"{left.name!r} holds text ({listing(cells, 4)}), which cannot be compared with {right:g}; make "
                "its column numbers"
            )
        else:
            right = label_text(right)
        values = left.to_numpy(dtype=float, na_value=np.nan) if numeric else left.map(label_text).to_numpy(dtype=str)
        return np.asarray(_COMPARE[sign](values, right), dtype=bool)
