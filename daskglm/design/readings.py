"""Texts of contrasts -> names, numbers and signs: every way in which a text can be read with the names there are."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r"`([^`]*)`")
# What looks like a name, for messages: words with dots, calls and levels, joined by colons.
_LIKE_A_NAME = re.compile(r"[^\W\d][\w.]*(\([^()]*\))?(\[[^\]]*\])?(:[^\W\d][\w.]*(\([^()]*\))?(\[[^\]]*\])?)*")
_SIGNS = "+-*/(),"
# More ways than these to read a text are as ambiguous as two.
_MOST = 16


class Token(NamedTuple):
    """A piece of a contrast: its kind ("name", "number" or "sign"), and its text."""

    kind: str
    text: str


def readings(text: str, names: Sequence[str]) -> list[list[Token]]:
    """Every way to read a text as names, numbers and signs; the one of the longest names comes first.

    Parameters
    ----------
    text : str
        As in "C(group)[patient] - age / 2"; what stands in backquotes is a name.
    names : sequence of str
        Names there are, whatever signs they hold.

    Returns
    -------
    list of list of Token
        Empty where the text holds anything else.

    Examples
    --------
    >>> [[token.text for token in reading] for reading in readings("a-b", ["a", "b", "a-b"])]
    [['a-b'], ['a', '-', 'b']]
    """
    by_start = _by_start(names)
    steps: dict[int, list[tuple[Token, int]]] = {}
    to_see = [_skip(text, 0)]
    while to_see:
        position = to_see.pop()
        if position < len(text) and position not in steps:
            steps[position] = list(_tokens_at(text, position, by_start))
            to_see += [end for _, end in steps[position]]
    whole = {len(text)}
    for position in sorted(steps, reverse=True):  # what leads nowhere is left out
        steps[position] = [step for step in steps[position] if step[1] in whole]
        whole |= {position} if steps[position] else set()
    return _paths(steps, _skip(text, 0), len(text))


def unknown_name(text: str, names: Sequence[str]) -> str | None:
    """The first thing in a text that looks like a name and is none, where the text cannot be read.

    Parameters
    ----------
    text : str
        Text.
    names : sequence of str
        Names there are.

    Returns
    -------
    str or None

    Examples
    --------
    >>> unknown_name("a - C(b)[x]", ["a"]), unknown_name("a - ?", ["a"])
    ('C(b)[x]', None)
    """
    by_start = _by_start(names)
    position = _skip(text, 0)
    while position < len(text):
        found = next(_tokens_at(text, position, by_start), None)
        if found is None:
            match = _QUOTED.match(text, position) or _LIKE_A_NAME.match(text, position)
            return None if match is None else match.group().strip("`")
        position = found[1]
    return None


def is_number(text: str) -> bool:
    """Whether a text is a number without a sign.

    Parameters
    ----------
    text : str
        Text.

    Returns
    -------
    bool
    """
    return _NUMBER.fullmatch(text) is not None


def written(reading: Sequence[Token]) -> str:
    """A reading as a text that can be read in this way only: each name is in backquotes.

    Parameters
    ----------
    reading : sequence of Token
        Of :func:`readings`.

    Returns
    -------
    str

    Examples
    --------
    >>> [written(reading) for reading in readings("a-b", ["a", "b", "a-b"])]
    ['`a-b`', '`a` - `b`']
    """
    return " ".join(f"`{token.text}`" if token.kind == "name" else token.text for token in reading)


def _by_start(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by their first character, the longest first."""
    found: dict[str, list[str]] = {}
    for name in sorted(filter(None, dict.fromkeys(names)), key=len, reverse=True):
        found.setdefault(name[0], []).append(name)
    return found


def _tokens_at(text: str, position: int, by_start: dict[str, list[str]]) -> Iterator[tuple[Token, int]]:
    """Tokens that can stand at a position, the longest name first, each with the position after it."""
    quoted = _QUOTED.match(text, position)
    names = by_start.get(text[position], [])
    if quoted is not None and quoted[1] in by_start.get(quoted[1][:1], []):
        yield Token("name", quoted[1]), _skip(text, quoted.end())
    for name in names:
        end = _end_of(name, text, position, names)
        # A number in an expression is a number, whatever regressors are called.
        if end is not None and _ends_there(text, end) and not is_number(name):
            yield Token("name", name), end
    number = _NUMBER.match(text, position)
    if number is not None and _ends_there(text, _skip(text, number.end())):
        yield Token("number", number.group()), _skip(text, number.end())
    if text[position] in _SIGNS:
        yield Token("sign", text[position]), _skip(text, position + 1)


def _end_of(name: str, text: str, position: int, names: Sequence[str]) -> int | None:
    """Where a name at a position ends; blanks beside signs within its parentheses are free: I(age**2), I(age ** 2)."""
    if text.startswith(name, position):
        return _skip(text, position + len(name))
    found = _loosely(name).match(text, position) if "(" in name else None
    return None if found is None or found.group() in names else _skip(text, found.end())


@cache
def _loosely(name: str) -> re.Pattern[str]:
    """A name with any blanks beside the signs within its parentheses."""
    pattern, depth = "", 0
    for piece in re.findall(r"\s*[^\w\s]\s*|\w+|\s+", name):
        sign = piece.strip()
        depth += sign == "("
        free = depth > 0 and re.fullmatch(r"[^\w\s]", sign) is not None
        before, after = r"\s*" if free and sign != "(" else "", r"\s*" if free and (sign != ")" or depth > 1) else ""
        pattern += before + re.escape(sign if free else piece) + after
        depth -= sign == ")"
    return re.compile(pattern)


def _ends_there(text: str, end: int) -> bool:
    """Whether a name or number can end before a position: a sign follows, or nothing."""
    return end == len(text) or text[end] in "+-*/),"


def _skip(text: str, position: int) -> int:
    """The position of the next character that is no blank."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _paths(steps: dict[int, list[tuple[Token, int]]], start: int, end: int) -> list[list[Token]]:
    """Sequences of tokens from the start to the end, up to a limit."""
    found: list[list[Token]] = []
    tokens: list[Token] = []
    to_try = [iter(steps.get(start, []))]
    while to_try and len(found) < _MOST:
        step = next(to_try[-1], None)
        if step is None:
            to_try.pop()
            if tokens:
                tokens.pop()
            continue
        tokens.append(step[0])
        if step[1] == end:
            found.append(list(tokens))
            tokens.pop()
        else:
            to_try.append(iter(steps[step[1]]))
    return found
