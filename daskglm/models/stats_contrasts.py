"""Contrasts of the nodes of a BIDS Stats Model."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from daskglm.errors import ParameterError, listing, nearest

_TRANSFORMER = "pybids-transforms-v1"


def refuse(where: str, given: Any, known: Sequence[str], required: Sequence[str] = ()) -> None:
    """Raise where a mapping has a key that is not known, or lacks one.

    Parameters
    ----------
    where : str
        What it is, for the message.
    given : object
        What should be a mapping.
    known, required : sequence of str
        Its keys.

    Raises
    ------
    ParameterError
        Naming the key, and the nearest that is known.
    """
    if not isinstance(given, Mapping):
        raise ParameterError(f"{where} is keys and values, but it is {given!r:.80}")
    for key in given:
        if key not in known:
            hint = nearest(key, known) or f"; there are {listing(known, 20)}"
            raise ParameterError(f"{where} has {key!r}, which has no counterpart in daskglm{hint}")
    for key in required:
        if key not in given:
            raise ParameterError(f"{where} has no {key!r}; add it")


def as_list(value: Any) -> list[Any]:
    """A value that may be a list, one item or None, as a list.

    Parameters
    ----------
    value : object
        Of a document.

    Returns
    -------
    list
    """
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def instructions_of(node: Mapping[str, Any], where: str) -> list[Any]:
    """The instructions of a node's transformations.

    Parameters
    ----------
    node : mapping
        With Transformations, or without.
    where : str
        What it is, for messages.

    Returns
    -------
    list

    Raises
    ------
    ParameterError
        Where they are of no form that is known.
    """
    given = node.get("Transformations") or []
    if isinstance(given, Mapping):
        refuse(f"Transformations of {where}", given, ("Transformer", "Instructions", "Description"), ("Instructions",))
        if given.get("Transformer", _TRANSFORMER) != _TRANSFORMER:
            raise ParameterError(
                f"Transformations of {where} are of {_TRANSFORMER}, but the Transformer is {given['Transformer']!r}, "
                "which has no counterpart in daskglm"
            )
        given = given["Instructions"]
    return as_list(given)


def node_contrasts(
    node: Mapping[str, Any], term: Callable[[str], str], everything: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Contrasts of a node, t and F.

    Parameters
    ----------
    node : mapping
        With Contrasts, DummyContrasts or neither.
    term : callable
        Takes the name of a condition to that of its regressor, and raises where there is none.
    everything : sequence of str
        What DummyContrasts are of that list none.

    Returns
    -------
    t, f : dict of str to str
        Name to expression.

    Raises
    ------
    ParameterError
        Naming the contrast that has no counterpart here.
    """
    where = f"node {node['Name']!r}"
    found: dict[str, dict[str, str]] = {"t": {}, "F": {}}
    for item in as_list(node.get("Contrasts")):
        keys = ("Name", "ConditionList", "Weights", "Test", "Description")
        refuse(f"a contrast of {where}", item, keys, ("Name", "ConditionList", "Weights", "Test"))
        names, weights, test = list(map(str, as_list(item["ConditionList"]))), as_list(item["Weights"]), item["Test"]
        rows = weights if weights and isinstance(weights[0], list | tuple) else [weights]
        test = "t" if test == "pass" else test  # the statistic is made all the same
        if test not in list(found) or (test == "t" and len(rows) > 1):
            raise ParameterError(f"contrast {item['Name']!r} of {where} is a t or an F test, but it is {test!r}")
        if any(len(row) != len(names) for row in rows):
            raise ParameterError(f"contrast {item['Name']!r} of {where} has a weight for each of {listing(names)}")
        found[test][_name(item["Name"])] = ", ".join(_expression(names, row, term) for row in rows)
    dummy = node.get("DummyContrasts")
    if dummy is not None:
        refuse(f"DummyContrasts of {where}", dummy, ("Test", "Contrasts", "Conditions", "Description"), ("Test",))
        if dummy["Test"] not in ("t", "pass"):
            raise ParameterError(f"DummyContrasts of {where} have Test 't', but it is {dummy['Test']!r}")
        named = dummy.get("Contrasts", dummy.get("Conditions", everything))
        for text in [str(item) for item in as_list(named)]:
            found["t"].setdefault(_name(text), f"`{term(text)}`")
    return found["t"], found["F"]


def _name(text: Any) -> str:
    """The name of a contrast."""
    if not str(text).strip():
        raise ParameterError(f"a contrast has a name, but this is {text!r}")
    return str(text).strip()


def _expression(names: Sequence[str], weights: Sequence[Any], term: Callable[[str], str]) -> str:
    """Weights of conditions as an expression."""
    try:
        numbers = [float(Fraction(str(weight))) for weight in weights]
    except (ValueError, ZeroDivisionError) as error:
        raise ParameterError(f"weights of a contrast are numbers, but these are {listing(weights)}") from error
    terms = [f"{number!r} * `{term(name)}`" for number, name in zip(numbers, names, strict=True)]
    return " + ".join(terms).replace("+ -", "- ")


def passed_on(node: Mapping[str, Any], passed: list[str]) -> list[str]:
    """Those of the contrasts that come in which a node passes on as they are.

    Parameters
    ----------
    node : mapping
        With Contrasts or DummyContrasts.
    passed : list of str
        Contrasts that come in.

    Returns
    -------
    list of str

    Raises
    ------
    ParameterError
        Where the node combines contrasts, or names one that does not come in.
    """

    def term(text: str) -> str:
        if text not in passed:
            raise ParameterError(
                f"node {node['Name']!r} names the contrast {text!r}, but those that come in are "
                f"{listing(passed)}{nearest(text, passed)}"
            )
        return text

    t, f = node_contrasts(node, term, passed)
    changed = [name for name, text in t.items() if text not in (f"`{name}`", f"1.0 * `{name}`")]
    if f or changed:
        raise ParameterError(
            f"node {node['Name']!r} combines contrasts in {listing([*f, *changed])}, which has no counterpart in "
            "daskglm; combine conditions at level Run"
        )
    return list(t)
