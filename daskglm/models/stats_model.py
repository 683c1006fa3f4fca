"""BIDS Stats Models: the part of them that is a first-level analysis with group analyses after it.

The document is a dictionary, as in https://bids-standard.github.io/stats-models; what has no counterpart here is
refused by its name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from daskglm.errors import ParameterError, listing, nearest
from daskglm.io.bids import FILTER_ENTITIES, Run, find_runs
from daskglm.io.bids_tree import passes
from daskglm.io.confound_strategies import parse_strategies
from daskglm.io.confounds import read_events
from daskglm.models.cohort_checks import check_confounds
from daskglm.models.cohort_stores import read_participants
from daskglm.models.stats_contrasts import as_list, passed_on, refuse
from daskglm.models.stats_groups import GroupNode, group_nodes
from daskglm.models.stats_runs import run_node

_LONG_NAMES = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "reconstruction": "rec", "direction": "dir",
    "resolution": "res", "density": "den", "hemisphere": "hemi", "description": "desc",
}  # fmt: skip
_LEVELS = ("run", "session", "subject", "dataset")


@dataclass(frozen=True)
class StatsModel:
    """A BIDS Stats Model in terms of daskglm.

    Attributes
    ----------
    name : str
        Of the model.
    first_level : dict
        Options of ``daskglm first-level``, by their names there.
    groups : tuple of GroupNode
        What follows.
    """

    name: str
    first_level: dict[str, Any]
    groups: tuple[GroupNode, ...]


def is_stats_model(document: Any) -> bool:
    """Tell whether a document is a BIDS Stats Model.

    Parameters
    ----------
    document : object
        Content of a file.

    Returns
    -------
    bool
    """
    return isinstance(document, Mapping) and bool({"Nodes", "BIDSModelVersion"} & set(document))


def read_stats_model(document: Mapping[str, Any], dataset: str) -> StatsModel:
    """Read a BIDS Stats Model for a dataset.

    Parameters
    ----------
    document : mapping
        Content of the file.
    dataset : str
        BIDS dataset with its derivatives: its events have the conditions, its participants the columns of the group.

    Returns
    -------
    StatsModel

    Raises
    ------
    ParameterError
        Naming the node and what in it has no counterpart here.
    """
    refuse("the model", document, ("Name", "BIDSModelVersion", "Description", "Input", "Nodes", "Edges"), ("Nodes",))
    nodes = [_checked_node(node) for node in as_list(document["Nodes"])]
    levels = [node["Level"] for node in nodes]
    ordered = levels == sorted(levels, key=_LEVELS.index)
    if levels[:1] != ["run"] or not ordered or any(levels.count(name) > 1 for name in _LEVELS[:3]):
        raise ParameterError(
            "a model has one node of level Run, at most one of Session and of Subject after it, and then those of "
            f"level Dataset, but the levels here are {listing(levels)}; split the model"
        )
    options = _input(document.get("Input") or {})
    runs = find_runs(dataset, options.get("task"), options.get("space"), filters=_pairs(options.get("filter", ())))
    _check_input(options, runs)
    _check_grouping(nodes[0], runs)
    tables = [read_events(run.events) for run in runs if run.events is not None]
    first, contrasts = run_node(nodes[0], tables)
    try:
        check_confounds(runs, parse_strategies(first.get("confounds", ())))
    except ParameterError as error:
        raise ParameterError(f"X of node {nodes[0]['Name']!r}: {error}") from error
    edges = _edges(document.get("Edges"), nodes)
    passed = list(contrasts)
    for node in nodes[1:]:
        if node["Level"] != "dataset":
            passed = _combining_node(node, edges[node["Name"]], passed)
    _check_weights(levels, runs)
    people = _people(dataset, runs) if "dataset" in levels else None
    groups = [
        group
        for node in nodes
        if node["Level"] == "dataset"
        for group in group_nodes(node, edges[node["Name"]], passed, people)
    ]
    return StatsModel(str(document.get("Name", "model")), {**options, **first}, tuple(groups))


def _checked_node(node: Any) -> dict[str, Any]:
    """A node with keys that are known, its level in lower case."""
    name = node.get("Name", node.get("Level")) if isinstance(node, Mapping) else None
    where = f"node {name!r}"
    known = ("Level", "Name", "Description", "GroupBy", "Transformations", "Model", "Contrasts", "DummyContrasts")
    refuse(where, node, known, ("Level", "Model", "GroupBy"))
    level, grouped = str(node["Level"]).lower(), {str(text).lower() for text in as_list(node["GroupBy"])}
    if level not in _LEVELS:
        raise ParameterError(f"{where} is of level {node['Level']!r}; there are Run, Session, Subject and Dataset")
    # Software is for other programs, by its name.
    keys = ("X", "Type", "HRF", "Options", "Software", "Description", *(["Formula"] if level == "dataset" else []))
    refuse(f"Model of {where}", node["Model"], keys, ("X",))
    by = {
        "session": {"subject", "session", "contrast"},
        "subject": {"subject", "contrast"},
    }  # fmt: skip
    if level == "dataset" and "contrast" not in grouped:
        raise ParameterError(
            f"{where} of level Dataset is grouped by contrast, but here by {listing(sorted(grouped)) or 'nothing'}: a "
            "test of several contrasts has no counterpart in daskglm; leave the node out"
        )
    # Without contrast: one contrast comes in, which is checked where it does.
    if level in by and grouped | {"contrast"} != by[level]:
        raise ParameterError(
            f"{where} of level {level} is grouped by {listing(sorted(by[level]))}, but here by "
            f"{listing(sorted(grouped)) or 'nothing'}, which has no counterpart in daskglm"
        )
    return {**node, "Level": level, "Name": str(name)}


def _check_input(options: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Raise where nothing is of a value that Input names: the others would do without it."""
    for key, value in _pairs(options.get("filter", ())) or ():
        if not any(passes(run.entities, [(key, {value})]) for run in runs):
            there = sorted({run.entities.get(key, "") for run in runs})
            raise ParameterError(f"Input has {key} {value!r}, but no run is of it{nearest(value, there)}")


def _check_grouping(node: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Raise where several runs would be one design."""
    grouped = [str(text).lower() for text in as_list(node["GroupBy"])]
    entities = [_LONG_NAMES.get(text, text) for text in grouped]
    for text, entity in zip(grouped, entities, strict=True):
        if entity not in FILTER_ENTITIES:
            raise ParameterError(
                f"node {node['Name']!r} is grouped by {text!r}, which is no entity of runs"
                f"{nearest(text, [*FILTER_ENTITIES, *_LONG_NAMES, 'run', 'task'])}"
            )
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        groups.setdefault(tuple(run.entities.get(entity, "") for entity in entities), []).append(run.name)
    for names in groups.values():
        if len(names) > 1:
            raise ParameterError(
                f"each run has a design of its own, but node {node['Name']!r} is grouped by "
                f"{listing(grouped) or 'nothing'}, which makes one of {listing(names, 3)}; add to GroupBy what tells "
                'them apart, as in ["run", "subject"]'
            )


def _check_weights(levels: Sequence[str], runs: Sequence[Run]) -> None:
    """Raise where nodes would combine runs in another way than all runs of a subject, equally."""
    of = Counter((run.subject, run.entities.get("ses", "")) for run in runs)
    per_subject: dict[str, list[int]] = {}
    for (subject, _), count in of.items():
        per_subject.setdefault(subject, []).append(count)
    if "session" in levels and "subject" in levels:
        uneven = [subject for subject, counts in per_subject.items() if len(set(counts)) > 1]
        if uneven:
            raise ParameterError(
                f"a subject's runs weigh equally, but {listing(uneven, 3)} have sessions of different numbers of runs, "
                "which a node of level Session weighs equally; leave that node out"
            )
    elif "session" in levels:
        several = [subject for subject, counts in per_subject.items() if len(counts) > 1]
        if several:
            raise ParameterError(
                f"the group has one map a subject, but {listing(several, 3)} have several sessions; add a node of "
                'level Subject with "Model": {"X": [1], "Type": "meta"}'
            )
    elif "subject" not in levels and "dataset" in levels:
        several = [subject for subject, counts in per_subject.items() if sum(counts) > 1]
        if several:
            raise ParameterError(
                f"the group has one map a subject, but {listing(several, 3)} have several runs; add a node of "
                'level Subject with "Model": {"X": [1], "Type": "meta"}'
            )


def _input(given: Mapping[str, Any]) -> dict[str, Any]:
    """Task, space and filters of the images."""
    options: dict[str, Any] = {}
    filters: list[str] = []
    if not isinstance(given, Mapping):
        raise ParameterError(f"Input is keys and values, but it is {given!r:.80}")
    for key, value in given.items():
        name = _LONG_NAMES.get(str(key).lower(), str(key).lower())
        texts = [str(item) for item in as_list(value)]
        if name in ("task", "space") and len(texts) == 1:
            options[name] = texts[0]
        elif name in FILTER_ENTITIES:
            filters += [f"{name}={text}" for text in texts]
        else:
            hint = nearest(name, [*FILTER_ENTITIES, *_LONG_NAMES])
            raise ParameterError(f"Input has {key!r}: {listing(texts)}, which has no counterpart in daskglm{hint}")
    return {**options, "filter": filters} if filters else options


def _pairs(filters: Sequence[str]) -> list[tuple[str, str]] | None:
    """Filters as entity and value."""
    parts = [text.partition("=") for text in filters]
    return [(key, value) for key, _, value in parts] or None


def _edges(given: Any, nodes: Sequence[Mapping[str, Any]]) -> dict[str, list[str] | None]:
    """For each node the contrasts that its edge lets through; None: all."""
    kept: dict[str, list[str] | None] = {str(node["Name"]): None for node in nodes}
    levels = {str(node["Name"]): node["Level"] for node in nodes}
    for edge in as_list(given):
        refuse("an edge", edge, ("Source", "Destination", "Filter"), ("Source", "Destination"))
        source, destination = str(edge["Source"]), str(edge["Destination"])
        for name in (source, destination):
            if name not in levels:
                raise ParameterError(f"an edge names {name!r}, but no node is called so{nearest(name, levels)}")
        before = [name for name in _LEVELS[: _LEVELS.index(levels[destination])] if name in levels.values()]
        if not before or levels[source] != before[-1]:
            raise ParameterError(
                f"an edge goes from a level to the next, {listing(_LEVELS)}, but one goes from {source!r} to "
                f"{destination!r}, which has no counterpart in daskglm"
            )
        only = edge.get("Filter") or {}
        refuse(f"Filter of the edge to {destination!r}", only, ("contrast",))
        kept[destination] = [str(text) for text in as_list(only["contrast"])] if only else None
    return kept


def _combining_node(node: Mapping[str, Any], only: list[str] | None, passed: list[str]) -> list[str]:
    """The contrasts that a node of level Session or Subject gives on."""
    where, model, level = f"node {node['Name']!r}", node["Model"], node["Level"].title()
    if [str(item) for item in as_list(model["X"])] not in (["1"], ["intercept"]) or node.get("Transformations"):
        raise ParameterError(f"{where} of level {level} combines runs by X: [1] without Transformations")
    if str(model.get("Type", "glm")).lower() != "meta" or "HRF" in model:
        raise ParameterError(
            f'{where} of level {level} combines runs by fixed effects, "Type": "meta", but it has '
            f"{model.get('Type', 'glm')!r}; runs as a random effect have no counterpart in daskglm"
        )
    for name in only or []:
        if name not in passed:
            raise ParameterError(
                f"the edge to {where} filters {name!r}; there is {listing(passed)}{nearest(name, passed)}"
            )
    kept = [name for name in passed if only is None or name in only]
    if len(kept) > 1 and "contrast" not in [str(text).lower() for text in as_list(node["GroupBy"])]:
        raise ParameterError(
            f"{where} of level {level} is grouped by contrast too where several come in, here {listing(kept)}; add it "
            "to GroupBy"
        )
    return passed_on(node, kept) if node.get("Contrasts") or node.get("DummyContrasts") else []


def _people(dataset: str, runs: Sequence[Run]) -> pd.DataFrame | None:
    """Rows of the participants who have runs."""
    table, _ = read_participants(dataset)
    if table is None:
        return None
    there = dict.fromkeys(run.subject for run in runs)
    return table[[name in there for name in table.index]]
