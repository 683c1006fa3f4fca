"""BIDS Stats Models: the part of them that is a first-level analysis with group analyses after it.

The document is a dictionary, as in https://bids-standard.github.io/stats-models; what has no counterpart here is
refused by its name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskglm.errors import ParameterError, listing, nearest
from daskglm.io.bids import FILTER_ENTITIES, find_runs
from daskglm.io.confound_strategies import parse_strategies
from daskglm.io.confounds import read_events
from daskglm.models.cohort_checks import check_confounds
from daskglm.models.cohort_stores import read_participants
from daskglm.models.stats_columns import confound_names
from daskglm.models.stats_contrasts import as_list, node_contrasts, passed_on, refuse

_LONG_NAMES = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "reconstruction": "rec", "direction": "dir",
    "resolution": "res", "density": "den", "hemisphere": "hemi", "description": "desc",
}  # fmt: skip
_CONDITION = "trial_type."
_HRF_MODELS = ("spm", "glover")


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
    """

    name: str
    of: tuple[str, ...]
    formula: str
    contrasts: dict[str, str]
    f_contrasts: dict[str, str]


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
    if levels[:1] != ["run"] or levels.count("run") > 1 or levels.count("subject") > 1:
        raise ParameterError(
            f"a model has one node of level Run, at most one of level Subject, and then those of level Dataset, but "
            f"the levels here are {listing(levels)}; split the model"
        )
    options = _input(document.get("Input") or {})
    runs = find_runs(dataset, options.get("task"), options.get("space"), filters=_pairs(options.get("filter", ())))
    tables = [read_events(run.events) for run in runs if run.events is not None]
    types = sorted({str(name) for table in tables if "trial_type" in table for name in table["trial_type"].dropna()})
    first, contrasts = _run_node(nodes[0], types)
    try:
        check_confounds(runs, parse_strategies(first.get("confounds", ())))
    except ParameterError as error:
        raise ParameterError(f"X of node {nodes[0]['Name']!r}: {error}") from error
    passed = list(contrasts)
    edges = _edges(document.get("Edges"), nodes)
    if "subject" in levels:
        passed = _subject_node(nodes[levels.index("subject")], passed)
    elif "dataset" in levels:
        raise ParameterError(
            "a node of level Dataset takes what a node of level Subject gives, but there is none; add one with "
            '"Model": {"X": [1], "Type": "Meta"}, also where each subject has one run'
        )
    columns = _numeric_columns(dataset) if "dataset" in levels else []
    groups = [_dataset_node(node, edges[node["Name"]], passed, columns) for node in nodes if node["Level"] == "dataset"]
    return StatsModel(str(document.get("Name", "model")), {**options, **first}, tuple(groups))


def _checked_node(node: Any) -> dict[str, Any]:
    """A node with keys that are known, its level in lower case."""
    name = node.get("Name", node.get("Level")) if isinstance(node, Mapping) else None
    where = f"node {name!r}"
    known = ("Level", "Name", "Description", "GroupBy", "Transformations", "Model", "Contrasts", "DummyContrasts")
    refuse(where, node, known, ("Level", "Model", "GroupBy"))
    refuse(f"Model of {where}", node["Model"], ("X", "Type", "HRF", "Options", "Description"), ("X",))
    level, grouped = str(node["Level"]).lower(), {str(text).lower() for text in as_list(node["GroupBy"])}
    by = {
        "run": [{"run", "subject"}, {"run", "session", "subject"}, {"run", "task", "subject"},
                {"run", "session", "task", "subject"}],
        "subject": [{"subject", "contrast"}],
        "dataset": [{"contrast"}],
    }  # fmt: skip
    if level not in by:
        raise ParameterError(f"{where} is of level {node['Level']!r}; there are Run, Subject and Dataset")
    if grouped not in by[level]:
        raise ParameterError(
            f"{where} of level {level} is grouped by {listing(sorted(by[level][0]))}, but here by "
            f"{listing(sorted(grouped)) or 'nothing'}, which has no counterpart in daskglm"
        )
    return {**node, "Level": level, "Name": str(name)}


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
        elif name in FILTER_ENTITIES and name != "task":
            filters += [f"{name}={text}" for text in texts]
        else:
            hint = "; name one task" if name == "task" else nearest(name, [*FILTER_ENTITIES, *_LONG_NAMES])
            raise ParameterError(f"Input has {key!r}: {listing(texts)}, which has no counterpart in daskglm{hint}")
    return {**options, "filter": filters} if filters else options


def _pairs(filters: Sequence[str]) -> list[tuple[str, str]] | None:
    """Filters as entity and value."""
    parts = [text.partition("=") for text in filters]
    return [(key, value) for key, _, value in parts] or None


def _run_node(node: Mapping[str, Any], types: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of the first level, and its contrasts."""
    where, model = f"node {node['Name']!r}", node["Model"]
    if str(model.get("Type", "glm")).lower() != "glm":
        raise ParameterError(f"{where} has a model of type {model['Type']!r}; runs are fitted by 'glm'")
    convolved, hrf = _convolution(node, where)
    names = [str(item) for item in as_list(model["X"]) if str(item) not in ("1", "intercept")]
    conditions = _conditions([name for name in names if name.startswith(_CONDITION)], types, where)
    if set(conditions) != set(types):
        raise ParameterError(
            f"X of {where} has the conditions {listing(conditions) or 'none'}, but the events have {listing(types)}; "
            "events that are not modelled have no counterpart in daskglm: list all, or take the others out of the "
            "events"
        )
    if set(_conditions(convolved, types, where)) != set(conditions):
        raise ParameterError(f"{where} convolves {listing(convolved) or 'nothing'}, but X has {listing(conditions)}")
    confounds = [name for name in names if not name.startswith(_CONDITION)]
    columns, cosines = confound_names(confounds, where)
    limits = model.get("Options") or {}
    refuse(f"Options of {where}", limits, ("HighPassFilterCutoffHz",))
    if cosines and limits:
        raise ParameterError(f"{where} has cosines in X and HighPassFilterCutoffHz; keep one of them")
    drift: dict[str, Any] = {"drift": "none"}
    if limits:
        drift = {"drift": "cosine", "high-pass": limits["HighPassFilterCutoffHz"]}

    def term(text: str) -> str:
        if text not in [_CONDITION + name for name in conditions]:
            hint = nearest(text, [_CONDITION + name for name in conditions])
            raise ParameterError(f"a contrast of {where} weighs {text!r}, but X has no such condition{hint}")
        return text.removeprefix(_CONDITION)

    everything = [] if confounds else [_CONDITION + name for name in conditions]
    t, f = node_contrasts(node, term, everything)
    if not t and not f:
        raise ParameterError(f"{where} has no contrasts; give Contrasts, or DummyContrasts that lists its Contrasts")
    options = {"hrf": hrf, **drift, "contrast": t, "f-contrast": f, "confounds": columns}
    return {key: value for key, value in options.items() if value}, t


def _conditions(names: Iterable[str], types: Sequence[str], where: str) -> list[str]:
    """Trial types of names such as trial_type.face and trial_type.*."""
    found: list[str] = []
    for name in names:
        text = name.removeprefix(_CONDITION)
        if text != "*" and text not in types:
            hint = nearest(text, types) or f"; there are {listing(types)}"
            raise ParameterError(f"{where} has {name!r}, but no event is of trial_type {text!r}{hint}")
        found += types if text == "*" else [text]
    return list(dict.fromkeys(found))


def _convolution(node: Mapping[str, Any], where: str) -> tuple[list[str], str]:
    """What is convolved, and the response: of the transformations, or of the model's HRF."""
    given = node.get("Transformations") or []
    if isinstance(given, Mapping):
        refuse(f"Transformations of {where}", given, ("Transformer", "Instructions"), ("Instructions",))
        given = given["Instructions"]
    convolved, hrfs, factor = [], [], False
    for item in as_list(given):
        kind = str(item.get("Name", "")) if isinstance(item, Mapping) else str(item)
        if kind == "Factor" and as_list(item.get("Input")) == ["trial_type"]:
            refuse(f"Factor of {where}", item, ("Name", "Input"))
            factor = True
        elif kind == "Convolve":
            known = ("Name", "Input", "Model", "Derivative", "Dispersion")
            refuse(f"Convolve of {where}", item, known, ("Input",))
            convolved += as_list(item["Input"])
            hrfs.append(_response(item, where))
        else:
            raise ParameterError(
                f"transformation {kind!r} of {where} has no counterpart in daskglm; there are Factor of trial_type, "
                "and Convolve"
            )
    hrf = node["Model"].get("HRF")
    if hrf is not None:
        refuse(f"HRF of {where}", hrf, ("Variables", "Model", "Derivative", "Dispersion"), ("Variables",))
        convolved += as_list(hrf["Variables"])
        hrfs.append(_response(hrf, where))
    if not factor:
        raise ParameterError(
            f"{where} makes conditions of trial_type by a transformation Factor, which it lacks; add it"
        )
    if len(set(hrfs)) != 1:
        raise ParameterError(f"{where} convolves with one response, but there is {listing(set(hrfs)) or 'none'}")
    other = [name for name in convolved if not str(name).startswith(_CONDITION)]
    if other:
        raise ParameterError(
            f"{where} convolves {listing(other)}; only conditions such as trial_type.face are convolved"
        )
    return [str(name) for name in convolved], hrfs[0]


def _response(item: Mapping[str, Any], where: str) -> str:
    """Name of the response, with its derivatives."""
    name = str(item.get("Model", "spm")).lower()
    parts = [part for part in ("derivative", "dispersion") if str(item.get(part.title(), False)).lower() == "true"]
    if name not in _HRF_MODELS or parts == ["dispersion"]:
        hint = nearest(name, _HRF_MODELS) if name not in _HRF_MODELS else "; Dispersion goes with Derivative"
        raise ParameterError(f"the response of {where} is {listing(_HRF_MODELS)}, but it is {name!r}{hint}")
    return " + ".join([name, *parts])


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
        if (levels[source], levels[destination]) not in (("run", "subject"), ("subject", "dataset")):
            raise ParameterError(
                f"edges go from Run to Subject and from Subject to Dataset, but one goes from {source!r} to "
                f"{destination!r}, which has no counterpart in daskglm"
            )
        only = edge.get("Filter") or {}
        refuse(f"Filter of the edge to {destination!r}", only, ("contrast",))
        if only and levels[destination] == "subject":
            raise ParameterError(f"an edge to level Dataset may filter contrasts, but the one to {destination!r} does")
        kept[destination] = [str(text) for text in as_list(only["contrast"])] if only else None
    return kept


def _subject_node(node: Mapping[str, Any], passed: list[str]) -> list[str]:
    """The contrasts that go on to the group."""
    where, model = f"node {node['Name']!r}", node["Model"]
    if [str(item) for item in as_list(model["X"])] not in (["1"], ["intercept"]) or node.get("Transformations"):
        raise ParameterError(f"{where} of level Subject combines runs by X: [1] without Transformations")
    if str(model.get("Type", "glm")).lower() != "meta" or "HRF" in model:
        raise ParameterError(
            f'{where} of level Subject combines runs by fixed effects, "Type": "Meta", but it has '
            f"{model.get('Type', 'glm')!r}; runs as a random effect have no counterpart in daskglm"
        )
    return passed_on(node, passed) if node.get("Contrasts") or node.get("DummyContrasts") else []


def _numeric_columns(dataset: str) -> list[str]:
    """Columns of numbers of the participants."""
    table, _ = read_participants(dataset)
    return [] if table is None else [str(name) for name in table.columns if table[name].dtype.kind in "iuf"]


def _dataset_node(
    node: Mapping[str, Any], only: list[str] | None, passed: list[str], columns: Sequence[str]
) -> GroupNode:
    """A group analysis of each contrast."""
    where, model = f"node {node['Name']!r}", node["Model"]
    if str(model.get("Type", "glm")).lower() != "glm" or {"HRF", "Options"} & set(model) or node.get("Transformations"):
        raise ParameterError(f'{where} of level Dataset is fitted by "Type": "glm" without Transformations and HRF')
    given = ["intercept" if str(item) == "1" else str(item) for item in as_list(model["X"])]
    for name in given:
        if name != "intercept" and name not in columns:
            hint = nearest(name, columns) or f"; there are {listing(columns) or 'none'}"
            raise ParameterError(f"X of {where} has {name!r}, but participants.tsv has no such column of numbers{hint}")
    for name in only or []:
        if name not in passed:
            raise ParameterError(
                f"the edge to {where} filters {name!r}; there is {listing(passed)}{nearest(name, passed)}"
            )
    of = [name for name in passed if only is None or name in only]
    # In the standard's own examples a one-sample test names the contrasts that come in, not its intercept.
    if given == ["intercept"] and any(
        item.get("ConditionList") == [item.get("Name")] for item in as_list(node.get("Contrasts"))
    ):
        return GroupNode(node["Name"], tuple(passed_on(node, of)), "~ 1", {"intercept": "intercept"}, {})

    def term(text: str) -> str:
        text = "intercept" if text == "1" else text
        if text not in given:
            raise ParameterError(
                f"a contrast of {where} weighs {text!r}, but X is {listing(given)}{nearest(text, given)}"
            )
        return text

    t, f = node_contrasts(node, term, given)
    if not t and not f:
        raise ParameterError(f"{where} has no contrasts; give Contrasts or DummyContrasts")
    terms = ["1" if "intercept" in given else "0", *(f"`{name}`" for name in given if name != "intercept")]
    names = {"1": "intercept"}
    return GroupNode(node["Name"], tuple(of), f"~ {' + '.join(terms)}", {names.get(k, k): v for k, v in t.items()}, f)
