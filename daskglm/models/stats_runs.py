"""The node of runs of a BIDS Stats Model -> options of ``daskglm first-level``."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from daskglm.design.events import incomplete
from daskglm.design.hrf import regressor_names
from daskglm.design.transformations import check_instruction, variables_after
from daskglm.errors import DaskGLMError, ParameterError, listing, nearest
from daskglm.io.confound_columns import is_pattern
from daskglm.io.confound_strategies import CONFOUND_STRATEGIES
from daskglm.models.stats_contrasts import as_list, instructions_of, node_contrasts, refuse

_HRF_MODELS = ("spm", "glover", "fir")
_FACTOR = {"Name": "Factor", "Input": ["trial_type"]}
_TRIAL_TYPE = "trial_type."
# What may follow a convolution: names alone change.
_NAMING = ("rename", "copy", "select", "delete")


def run_node(node: Mapping[str, Any], tables: Sequence[pd.DataFrame]) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of the first level, and its t contrasts.

    Parameters
    ----------
    node : mapping
        Of level Run.
    tables : sequence of DataFrame
        Events of all runs.

    Returns
    -------
    options : dict
        By their names on the command line.
    contrasts : dict of str to str
        Name to expression.

    Raises
    ------
    ParameterError
        Naming what has no counterpart in daskglm.
    """
    where, model = f"node {node['Name']!r}", node["Model"]
    if str(model.get("Type", "glm")).lower() != "glm":
        raise ParameterError(f"{where} has a model of type {model['Type']!r}; runs are fitted by 'glm'")
    names = [str(item) for item in as_list(model["X"]) if str(item) not in ("1", "intercept")]
    steps, convolved, (hrf, delays) = _convolution(node, names, tables, where)
    variables, confounds = _split(names, convolved, _known(tables, steps, where), (hrf, delays), where)
    plain = _is_plain(steps, variables, tables)
    regressors = {
        text: text.removeprefix(_TRIAL_TYPE) if plain else text
        for name in variables
        for text in regressor_names(name, hrf, delays)
    }

    def term(text: str) -> str:
        if text in regressors:
            return regressors[text]
        if any(fnmatchcase(text, name) for name in confounds):
            return text
        raise ParameterError(
            f"a contrast of {where} weighs {text!r}, but X has no such condition{nearest(text, regressors)}"
        )

    mains = [name for name in variables if name in regressors] if hrf != "fir" else list(regressors)
    t, f = node_contrasts(node, term, [] if any(map(is_pattern, confounds)) else [*mains, *confounds])
    if not t and not f:
        raise ParameterError(f"{where} has no contrasts; give Contrasts, or DummyContrasts that lists its Contrasts")
    transform = [] if plain else [*steps, {"Name": "Select", "Input": variables}]
    options = {
        "hrf": hrf,
        "fir-delays": [str(delay) for delay in delays or ()],
        **_drift(model, confounds, where),
        "transform": [json.dumps(item) for item in transform],
        "contrast": t,
        "f-contrast": f,
        "confounds": [_as_column(name) for name in confounds],
    }
    return {key: value for key, value in options.items() if value}, t


def _known(tables: Sequence[pd.DataFrame], steps: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """Variables that the transformations leave in any run."""
    try:
        return variables_after(tables, steps)
    except DaskGLMError as error:
        raise ParameterError(f"Transformations of {where}: {error}") from error


def _convolution(
    node: Mapping[str, Any], names: Sequence[str], tables: Sequence[pd.DataFrame], where: str
) -> tuple[list[dict[str, Any]], list[str], tuple[str, list[int] | None]]:
    """Instructions but for convolutions, what is convolved, and the response."""
    steps: list[dict[str, Any]] = []
    convolved: list[str] = []
    responses = []
    hrf = node["Model"].get("HRF")
    given = [*instructions_of(node, where)]
    if hrf is not None:
        keys = ("Variables", "Model", "Parameters", "Derivative", "Dispersion", "Description")
        refuse(f"HRF of {where}", hrf, keys, ("Variables",))
        given.append({"Name": "Convolve", "Input": hrf["Variables"], **{k: hrf[k] for k in keys[1:] if k in hrf}})
    columns = {str(column) for table in tables for column in table.columns}
    for item in given:
        name = str(item.get("Name", "")) if isinstance(item, Mapping) else str(item)
        if name == "Convolve":
            inputs = [str(text) for text in as_list(item.get("Input"))]
            # Levels of a column that nobody made a factor.
            named = {text.rpartition(".")[0] for text in [*inputs, *names] if "." in text}
            made = {column for step in steps if step["Name"] == "Factor" for column in map(str, as_list(step["Input"]))}
            steps += [{"Name": "Factor", "Input": [column]} for column in sorted((named & columns) - made)]
            found, renames = _convolved(item, inputs, _known(tables, steps, where), where)
            convolved += found
            steps += renames
            responses.append(_response(item, where))
            continue
        try:
            kind, inputs, outputs, _ = check_instruction(item)
        except ParameterError as error:
            raise ParameterError(f"Transformations of {where}: {error}") from error
        late = [text for text in inputs if text in convolved]
        if late and kind not in _NAMING:
            raise ParameterError(
                f"{name} of {where} is of {listing(late)}, which are convolved by then; that has no counterpart in "
                "daskglm: transform events first"
            )
        if kind == "rename":
            moved = dict(zip(inputs, outputs, strict=False))
            convolved = [moved.get(text, text) for text in convolved]
        elif kind == "copy":
            convolved += [other for text, other in zip(inputs, outputs, strict=False) if text in convolved]
        steps.append(dict(item))
    different = {(response, str(delays)) for response, delays in responses}
    if len(different) != 1:
        shown = listing(sorted({response for response, _ in different})) or "none, and a run without events is no model"
        raise ParameterError(f"{where} convolves with one response, but there is {shown}")
    return steps, list(dict.fromkeys(convolved)), responses[0]


def _convolved(
    item: Mapping[str, Any], inputs: list[str], known: Sequence[str], where: str
) -> tuple[list[str], list[dict[str, Any]]]:
    """Variables of a convolution, and the instruction that gives them other names."""
    keys = ("Name", "Input", "Output", "Model", "Parameters", "Derivative", "Dispersion", "FirDelays", "Description")
    refuse(f"Convolve of {where}", item, keys, ("Input",))
    found = []
    for name in inputs:
        matches = [text for text in known if fnmatchcase(text, name)] if is_pattern(name) else [name]
        missing = [text for text in matches or [name] if text not in known]
        if missing:
            hint = nearest(missing[0], known) or f"; there are {listing(known, 20)}"
            raise ParameterError(f"{where} convolves {missing[0]!r}, but no event is of it{hint}")
        found += matches
    outputs = [str(text) for text in as_list(item.get("Output"))]
    if not outputs:
        return found, []
    if len(outputs) != len(found):
        raise ParameterError(f"Convolve of {where} needs an Output for each Input, got {len(outputs)} for {len(found)}")
    return outputs, [{"Name": "Copy", "Input": found, "Output": outputs}]


def _response(item: Mapping[str, Any], where: str) -> tuple[str, list[int] | None]:
    """Name of the response, with its derivatives, or the delays of "fir"."""
    words = [word.strip() for word in str(item.get("Model", "spm")).lower().split("+")]
    parts = [part for part in ("derivative", "dispersion") if str(item.get(part.title(), False)).lower() == "true"]
    name, parts = words[0], [*words[1:], *parts]
    if name not in _HRF_MODELS or parts not in ([], ["derivative"], ["derivative", "dispersion"]):
        hint = nearest(name, _HRF_MODELS) if name not in _HRF_MODELS else "; Dispersion goes with Derivative"
        raise ParameterError(
            f"the response of {where} is {listing(_HRF_MODELS)}, but it is {' + '.join([name, *parts])!r}{hint}"
        )
    if name != "fir":
        return " + ".join([name, *parts]), None
    parameters = item.get("Parameters") or {}
    refuse(f"Parameters of the response of {where}", parameters, ("fir_delays",))
    delays = as_list(parameters.get("fir_delays", item.get("FirDelays")))
    if parts or not delays or not all(str(delay).isdecimal() for delay in delays):
        raise ParameterError(
            f"the response 'fir' of {where} has delays, whole numbers of volumes, in Parameters as fir_delays, but "
            f"they are {delays!r:.60}"
        )
    return "fir", [int(delay) for delay in delays]


def _split(
    names: Sequence[str], convolved: Sequence[str], known: Sequence[str], response: tuple[str, Any], where: str
) -> tuple[list[str], list[str]]:
    """Convolved variables of X, and what is left: columns of confounds."""
    owners = {text: name for name in convolved for text in regressor_names(name, *response)}
    owners |= {name: name for name in convolved}
    variables: list[str] = []
    confounds: list[str] = []
    for name in names:
        found = [owner for text, owner in owners.items() if fnmatchcase(text, name)]
        raw = [text for text in known if fnmatchcase(text, name) and text not in convolved]
        if raw:
            raise ParameterError(
                f"X of {where} has {listing(raw)}, which {'is' if len(raw) == 1 else 'are'} not convolved: daskglm has "
                "no regressors of events as they are; Convolve them"
            )
        prefix = name.rpartition(".")[0]
        if not found and prefix and any(text.startswith(f"{prefix}.") for text in known):
            text = name.removeprefix(f"{prefix}.")
            hint = nearest(text, [item.removeprefix(f"{prefix}.") for item in known]) or f"; there are {listing(known)}"
            raise ParameterError(f"X of {where} has {name!r}, but no event is of {prefix} {text!r}{hint}")
        if not found and (not name or set(name) & set(",=[]")):
            raise ParameterError(f"X of {where} has {name!r}, which is neither a condition nor a column of confounds")
        variables += found
        confounds += [] if found else [name]
    return list(dict.fromkeys(variables)), confounds


def _is_plain(steps: Sequence[Mapping[str, Any]], variables: Sequence[str], tables: Sequence[pd.DataFrame]) -> bool:
    """Whether the conditions are the trial types as they are, all of them."""
    if list(steps) != [_FACTOR] or any("modulation" in table or len(incomplete(table)) for table in tables):
        return False
    types = {f"{_TRIAL_TYPE}{name}" for table in tables for name in table["trial_type"]}
    return set(variables) == types


def _drift(model: Mapping[str, Any], confounds: Sequence[str], where: str) -> dict[str, Any]:
    """Drifts: those of X, or below a frequency."""
    limits = model.get("Options") or {}
    refuse(f"Options of {where}", limits, ("HighPassFilterCutoffHz", "Description"))
    cutoff = limits.get("HighPassFilterCutoffHz")
    if cutoff is None:
        return {"drift": "none"}
    if any(name.startswith("cosine") for name in confounds):
        raise ParameterError(f"{where} has cosines in X and HighPassFilterCutoffHz; keep one of them")
    return {"drift": "cosine", "high-pass": cutoff}


def _as_column(name: str) -> str:
    """A column for ``--confounds``: a strategy of the same name would leave volumes out."""
    return f"[{name[0]}]{name[1:]}" if name in CONFOUND_STRATEGIES else name
