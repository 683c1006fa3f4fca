"""Nodes of level Dataset of a BIDS Stats Model -> group analyses."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from daskglm.design.formula import design_from_formula
from daskglm.errors import DaskGLMError, ParameterError, listing, nearest
from daskglm.models.stats_contrasts import as_list, instructions_of, node_contrasts, passed_on, refuse

_QUOTED = re.compile("`([^`]*)`")


@dataclass(frozen=True)
class GroupNode:
    """A node of level Dataset.

    Attributes
    ----------
    name : str
        Of the node.
    of : tuple of str
        First-level contrasts that it is fitted to, each on its own.
    formula : str
        Design from the participants.
    contrasts, f_contrasts : dict of str to str
        Name to expression.
    where : str
        Condition on the participants; empty: all.
    """

    name: str
    of: tuple[str, ...]
    formula: str
    contrasts: dict[str, str]
    f_contrasts: dict[str, str]
    where: str = ""


def group_nodes(
    node: Mapping[str, Any], only: list[str] | None, passed: list[str], people: pd.DataFrame | None
) -> list[GroupNode]:
    """Group analyses of a node: one, or one for each group of participants.

    Parameters
    ----------
    node : mapping
        Of level Dataset.
    only : list of str or None
        Contrasts that its edge lets through; None: all.
    passed : list of str
        Contrasts that come.
    people : DataFrame or None
        Participants who have runs, by id.

    Returns
    -------
    list of GroupNode

    Raises
    ------
    ParameterError
        Naming what has no counterpart in daskglm.
    """
    table = people if people is not None else pd.DataFrame()
    by = [str(text) for text in as_list(node["GroupBy"]) if str(text).lower() != "contrast"]
    if not by:
        return [_group_node(node, only, passed, table)]
    if len(by) > 1 or by[0] not in table:
        raise ParameterError(
            f"node {node['Name']!r} of level Dataset is grouped by contrast, and by one column of the participants at "
            f"most, but here by {listing(by)}{nearest(by[0], table.columns) or f'; there are {listing(table.columns)}'}"
        )
    found = []
    for level in sorted(table[by[0]].dropna().unique(), key=str):
        quote = '"' if "'" in str(level) else "'"
        text = f"{quote}{level}{quote}" if isinstance(level, str) else f"{level}"
        part = _group_node(node, only, passed, table[table[by[0]] == level])
        found.append(replace(part, name=f"{part.name} {by[0]} {level}", where=f"`{by[0]}` == {text}"))
    return found


def _group_node(node: Mapping[str, Any], only: list[str] | None, passed: list[str], table: pd.DataFrame) -> GroupNode:
    """A group analysis of each contrast that comes in."""
    where, model = f"node {node['Name']!r}", node["Model"]
    if str(model.get("Type", "glm")).lower() != "glm" or {"HRF", "Options"} & set(model):
        raise ParameterError(f'{where} of level Dataset is fitted by "Type": "glm" without HRF and Options')
    of = [name for name in passed if only is None or name in only]
    for name in only or []:
        if name not in passed:
            raise ParameterError(
                f"the edge to {where} filters {name!r}; there is {listing(passed)}{nearest(name, passed)}"
            )
    given = ["intercept" if str(item) == "1" else str(item) for item in as_list(model["X"])]
    # In the standard's own examples a one-sample test names the contrasts that come in, not its intercept.
    if given == ["intercept"] and any(
        item.get("ConditionList") == [item.get("Name")] for item in as_list(node.get("Contrasts"))
    ):
        return GroupNode(node["Name"], tuple(passed_on(node, of)), "~ 1", {"intercept": "intercept"}, {})
    if model.get("Formula") is None:
        formula, columns = _formula(node, given, table, where)
    else:
        formula = f"~ {str(model['Formula']).strip().removeprefix('~')}"
        columns = _columns(formula, table, where)

    def term(text: str) -> str:
        text = "intercept" if text == "1" else text
        if text not in columns:
            raise ParameterError(
                f"a contrast of {where} weighs {text!r}, but X is {listing(columns, 20)}{nearest(text, columns)}"
            )
        return columns[text]

    everything = given if model.get("Formula") is None else list(dict.fromkeys(columns.values()))
    t, f = node_contrasts(node, term, everything)
    if not t and not f:
        raise ParameterError(f"{where} has no contrasts; give Contrasts or DummyContrasts")
    names = {"1": "intercept"}
    return GroupNode(node["Name"], tuple(of), formula, {names.get(k, k): v for k, v in t.items()}, f)


def _columns(formula: str, people: pd.DataFrame, where: str) -> dict[str, str]:
    """Columns of a formula's design, by their names there and as treatment coding would call them."""
    if formula.replace(" ", "") == "~1":
        return {"intercept": "intercept"}
    try:
        columns = [str(name) for name in design_from_formula(formula, people).columns]
    except DaskGLMError as error:
        raise ParameterError(f"the design of {where}: {error}") from error
    return {**{name.replace("[", "[T."): name for name in columns if "[" in name}, **{name: name for name in columns}}


def _formula(
    node: Mapping[str, Any], given: Sequence[str], people: pd.DataFrame, where: str
) -> tuple[str, dict[str, str]]:
    """Formula of X, and the column of the design that each name of X is."""
    terms, factors = _transformed(node, people, where)
    parts: dict[str, None] = {}
    columns: dict[str, str] = {}
    for name in given:
        owner = next((column for column in factors if name.startswith(f"{column}.")), None)
        if name == "intercept":
            columns[name] = name
        elif owner is not None:
            part, column = _level(name, owner, given, people, where)
            parts[part] = None
            columns[name] = column
        elif name in terms:
            parts[terms[name]] = None
            columns[name] = _QUOTED.sub(lambda match: match[1] if match[1].isidentifier() else match[0], terms[name])
            columns[name] = columns[name].strip("`")
        else:
            hint = nearest(name, terms) or f"; there are {listing(terms, 20) or 'none'}"
            raise ParameterError(f"X of {where} has {name!r}, but participants.tsv has no such column of numbers{hint}")
    formula = f"~ {' + '.join(['1' if 'intercept' in given else '0', *parts])}"
    made = _columns(formula, people, where)
    for name, column in columns.items():
        if column not in made:
            raise ParameterError(
                f"X of {where} has {name!r}, which with the others is no design of full rank, {formula}; "
                "leave out a level"
            )
    return formula, columns


def _level(name: str, owner: str, given: Sequence[str], people: pd.DataFrame, where: str) -> tuple[str, str]:
    """Term and column of a level of a factor: all levels without an intercept, or all but one with it."""
    levels = sorted({str(value) for value in people[owner].dropna()})
    listed = [text.removeprefix(f"{owner}.") for text in given if text.startswith(f"{owner}.")]
    level = name.removeprefix(f"{owner}.")
    if level not in levels:
        raise ParameterError(
            f"X of {where} has {name!r}, but {owner} has the levels {listing(levels, 20)}{nearest(level, levels)}"
        )
    rest = [text for text in levels if text not in listed]
    if "intercept" not in given and not rest:
        return f"C(`{owner}`)", f"C({_called(owner)})[{level}]"
    if "intercept" in given and rest == levels[:1]:
        return f"C(`{owner}`)", f"C({_called(owner)})[T.{level}]"
    if "intercept" in given and len(rest) == 1 and '"' not in rest[0]:
        term = f'C(`{owner}`, contr.treatment("{rest[0]}"))'
        return term, f"C({_called(owner)}, contr.treatment({rest[0]!r}))[T.{level}]"
    raise ParameterError(
        f"X of {where} has all levels of a factor and no 1, or all but one and 1, but of {owner} it has "
        f"{listing(listed)} of {listing(levels, 20)}"
    )


def _called(name: str) -> str:
    """A column as it is printed within a call."""
    return name if name.isidentifier() else f"`{name}`"


def _transformed(node: Mapping[str, Any], people: pd.DataFrame, where: str) -> tuple[dict[str, str], list[str]]:
    """Formula of each variable of numbers, and columns that are factors."""
    terms = {str(name): f"`{name}`" for name in people.columns if people[name].dtype.kind in "iuf"}
    factors: list[str] = []
    for item in instructions_of(node, where):
        name = str(item.get("Name", "")) if isinstance(item, Mapping) else str(item)
        what = f"{name} of {where}"
        if name not in _TERMS and name != "Factor":
            raise ParameterError(
                f"transformation {name!r} of {where} has no counterpart in daskglm; there are {listing(_TERMS)} "
                "and Factor"
            )
        refuse(what, item, ("Name", "Input", "Output", "Demean", "Rescale", "Description"), ("Input",))
        inputs, outputs = ([str(text) for text in as_list(item.get(key))] for key in ("Input", "Output"))
        known = list(map(str, people.columns)) if name == "Factor" else list(terms)
        for text in inputs:
            if text not in known:
                raise ParameterError(f"{what} takes {text!r}; there is {listing(known, 20)}{nearest(text, known)}")
        if name == "Factor":
            factors += inputs
            continue
        if outputs and len(outputs) != len(inputs):
            raise ParameterError(f"{what} has an Output for each Input, but {len(outputs)} for {len(inputs)}")
        terms |= {new: _TERMS[name](terms[old], item) for old, new in zip(inputs, outputs or inputs, strict=True)}
    return terms, factors


def _scale(term: str, item: Mapping[str, Any]) -> str:
    """Scale: by formulaic's functions of the same arithmetic."""
    demean, rescale = (str(item.get(key, True)).lower() in ("true", "1") for key in ("Demean", "Rescale"))
    if demean and rescale:
        return f"scale({term})"
    if rescale:
        raise ParameterError("Scale without Demean has no counterpart in a group analysis of daskglm; demean too")
    return f"center({term})" if demean else term


_TERMS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "Demean": lambda term, _: f"center({term})",
    "Scale": _scale,
    "Rename": lambda term, _: term,
    "Copy": lambda term, _: term,
}
