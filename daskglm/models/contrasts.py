"""Contrasts as users name them -> definitions by name, once the regressors are known."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from daskglm.design.contrasts import check_t_contrasts, contrast_matrix, parse_contrast
from daskglm.errors import ContrastError, listing, option
from daskglm.schema.names import bids_labels

# By name, or texts as on the command line.
Contrasts = Mapping[str, Any] | Sequence[str]


def contrasts_of_design(
    contrasts: Contrasts, f_contrasts: Contrasts | None, design: pd.DataFrame
) -> tuple[dict[str, Any], dict[str, str]]:
    """Definitions of all contrasts of a design and their types, by name.

    Parameters
    ----------
    contrasts, f_contrasts : mapping of str to contrast, or sequence of str
        Of t and F. A mapping is taken as it is; a text is "name=expression", or an expression, which is its own name.
        Without any it is each regressor, of which :func:`check_any` allows one.
    design : (n, p) DataFrame
        Design.

    Returns
    -------
    definitions, kinds : dict

    Raises
    ------
    ContrastError
        Where a text cannot be read, a t contrast has several rows, or a name or its label in file names is there twice.
    """
    columns, terms = [str(name) for name in design.columns], design.attrs.get("terms", {})
    t = named(contrasts if contrasts or f_contrasts else columns, columns, terms)
    check_t_contrasts(t, design)
    definitions, kinds = t_and_f(t, named(f_contrasts or {}, columns, terms))
    # Records hold texts and lists.
    arrays = {name: item for name, item in definitions.items() if hasattr(item, "to_numpy") or hasattr(item, "tolist")}
    return definitions | {name: contrast_matrix(item, columns, terms).tolist() for name, item in arrays.items()}, kinds


def t_and_f(t: Mapping[str, Any], f: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """T and F contrasts in one mapping, and the types of those that are F.

    Parameters
    ----------
    t, f : mapping of str to contrast
        By name.

    Returns
    -------
    definitions, kinds : dict

    Raises
    ------
    ContrastError
        Where a name, or its label in file names, is there twice.
    """
    both = sorted(set(t) & set(f))
    if both:
        raise ContrastError(f"{listing(both)} is both a t and an F contrast; name one, as in new_name=definition")
    bids_labels([*t, *f])
    return {**t, **f}, {**dict.fromkeys(t, "t"), **dict.fromkeys(f, "F")}


def check_any(contrasts: Contrasts, f_contrasts: Contrasts | None, kind: str, formula: str = "") -> None:
    """Raise where no contrast was given, unless the model is the mean.

    Parameters
    ----------
    contrasts, f_contrasts : mapping of str to contrast, or sequence of str
        Of t and F.
    kind : str
        Of analysis, for the message.
    formula : str
        Of the design of a group.

    Raises
    ------
    ContrastError
        Where there is none.
    """
    if not contrasts and not f_contrasts and not is_mean(formula):
        unless = ", unless it is of the mean, '~ 1'" if formula else ""
        how = option("contrasts or f_contrasts", "--contrast or --f-contrast")
        raise ContrastError(f"a {kind} analysis needs a contrast{unless}; give {how}")


def is_mean(formula: str) -> bool:
    """Whether a formula is of the mean alone: its intercept is tested where no contrast is named.

    Parameters
    ----------
    formula : str
        Formula.

    Returns
    -------
    bool
    """
    return "".join(formula.split()).removeprefix("~") == "1"


def named(contrasts: Contrasts, columns: Sequence[str], terms: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Contrasts by name.

    Parameters
    ----------
    contrasts : mapping of str to contrast, or sequence of str
        Regressors may have "=" in their names: a text is split where an expression of regressors follows.
    columns : sequence of p str
        Regressors of the design.
    terms : mapping of str to sequence of str
        Terms of a formula and their columns.

    Returns
    -------
    dict of str to contrast

    Raises
    ------
    ContrastError
        Where a text holds no expression of the regressors, or can be split in two ways; or two have one name.

    Examples
    --------
    >>> named(["load=2", "high=load=2"], ["load=1", "load=2"], {})
    {'load=2': 'load=2', 'high': 'load=2'}
    """
    if isinstance(contrasts, Mapping):
        return dict(contrasts)
    return named_once(_split(text, columns, terms) for text in contrasts)


def named_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of names and definitions.

    Parameters
    ----------
    pairs : iterable of (name, definition)
        Contrasts.

    Returns
    -------
    dict of str to contrast

    Raises
    ------
    ContrastError
        Where two have one name.
    """
    found: dict[str, Any] = {}
    for name, definition in pairs:
        if name in found:
            raise ContrastError(f"two contrasts are called {name!r}; name one of them: new_name=definition")
        found[name] = definition
    return found


def definitions_in(text: str) -> list[tuple[str, str]]:
    """Names and definitions that a text may hold: itself, and what is before and after each "=" outside backquotes.

    Parameters
    ----------
    text : str
        "name=definition", or a definition.

    Returns
    -------
    list of (name, definition)

    Examples
    --------
    >>> definitions_in("high=load=2")
    [('high=load=2', 'high=load=2'), ('high', 'load=2'), ('high=load', '2')]
    """
    whole = text.strip()
    is_name = re.fullmatch(r"`[^`]*`", whole)
    splits = [index for index, sign in enumerate(whole) if sign == "=" and whole.count("`", 0, index) % 2 == 0]
    return [
        (whole.strip("`") if is_name else whole, whole),
        *((whole[:index].strip(), whole[index + 1 :].strip()) for index in splits),
    ]


def _split(text: str, columns: Sequence[str], terms: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The name and the expression of a text."""
    found: list[tuple[str, str]] = []
    wrong: list[ContrastError] = []
    for name, expression in definitions_in(text):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told when the contrast is made
                parse_contrast(expression, columns, terms)
            found.append((name, expression))
        except ContrastError as error:
            wrong.append(error)
    if len(found) > 1:
        ways = [f"{expression!r}, called {name!r}" for name, expression in found]
        raise ContrastError(
            f"contrast {text!r:.200} can be read as {' or as '.join(ways)}; write the name of a regressor that holds "
            "'=' in backquotes, and all of it in single quotes for the shell"
        )
    if not found and len(wrong) > 1:
        raise ContrastError(f"contrast {text!r:.200} is neither a regressor nor name=expression: {wrong[1]}")
    if not found:
        raise wrong[0]
    return found[0]
