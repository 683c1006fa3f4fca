"""Instructions of BIDS Stats Models for events, as pybids (``pybids-transforms-v1``) does them, one run at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from daskglm.errors import DesignError, ParameterError, listing, nearest

# A variable is a table of onset, duration and amplitude, whose index is the row of the events.
Variables = dict[str, pd.DataFrame]
_ATTRIBUTES = ("onset", "duration", "amplitude")


def transform_events(events: pd.DataFrame, instructions: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make variables of the columns of events, as instructions say; each that is left becomes a condition.

    Parameters
    ----------
    events : DataFrame
        Columns onset and duration, in seconds, and any others; a missing value is no event of that column.
    instructions : sequence of mapping
        ``{"Name": "Scale", "Input": ["rt"], "Output": ["rt_z"]}`` and the like, in their order.

    Returns
    -------
    DataFrame
        Columns trial_type (the name of the variable), onset, duration and modulation (its amplitude); events of
        amplitude 0 are none.

    Raises
    ------
    DesignError
        Where a variable is not there, or what is left is no number.
    ParameterError
        Where an instruction is unknown or lacks what it needs.

    Examples
    --------
    >>> table = pd.DataFrame({"onset": [0.0, 4.0], "duration": 1.0, "trial_type": ["go", "stop"], "rt": [0.5, 0.75]})
    >>> steps = [{"Name": "Demean", "Input": ["rt"]}, {"Name": "Select", "Input": ["rt"]}]
    >>> transform_events(table, steps).to_numpy().tolist()
    [['rt', 0.0, 1.0, -0.125], ['rt', 4.0, 1.0, 0.125]]
    """
    tables = []
    for name, table in _transformed(events, instructions).items():
        amplitude = _numbers(table, name)
        kept = table[["onset", "duration"]].assign(trial_type=name, modulation=amplitude)[amplitude != 0]
        tables.append(kept)
    columns = ["trial_type", "onset", "duration", "modulation"]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns, dtype=np.float64)
    return found[columns]


def check_instruction(instruction: Any) -> tuple[str, list[str], list[str], dict[str, Any]]:
    """Take an instruction apart.

    Parameters
    ----------
    instruction : mapping
        With Name, Input, Output and what else it takes.

    Returns
    -------
    name : str
        In lower case.
    inputs, outputs : list of str
        Variables.
    options : dict
        The others, by their names in lower case.

    Raises
    ------
    ParameterError
        Naming what is unknown or lacks.
    """
    if not isinstance(instruction, Mapping) or not isinstance(instruction.get("Name"), str):
        raise ParameterError(f"a transformation must be a mapping with a Name, got {instruction!r:.80}")
    shown, name = instruction["Name"], instruction["Name"].lower().rstrip("_")
    if name not in _STEPS:
        hint = nearest(shown, _NAMES) or f"; there are {listing(_NAMES, 20)}"
        raise ParameterError(f"the transformation {shown!r} has no counterpart in daskglm{hint}")
    known = {key.lower(): key for key in ("Name", "Input", "Output", "Description", *_STEPS[name][1])}
    given = {str(key).lower().replace("_", ""): value for key, value in instruction.items()}
    for key in given:
        if key not in known:
            raise ParameterError(
                f"{shown} has {key!r}, but it takes {listing(known.values(), 20)}{nearest(key, known)}"
            )
    inputs, outputs = (_texts(given.pop(key, None)) for key in ("input", "output"))
    if not inputs:
        raise ParameterError(f"{shown} has no Input; name its variables")
    options = {key: value for key, value in given.items() if key not in ("name", "description")}
    return name, inputs, outputs, options


def _texts(value: Any) -> list[str]:
    """One name or several."""
    return [] if value is None else [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _variables_of(events: pd.DataFrame) -> Variables:
    """Each column as a variable."""
    found = {}
    for column in events.columns:
        if column not in ("onset", "duration"):
            table = events[["onset", "duration", column]].set_axis(list(_ATTRIBUTES), axis=1)
            found[str(column)] = table[table["amplitude"].notna()]
    return found


def _get(variables: Variables, name: str) -> pd.DataFrame:
    """A variable; of a level that no event has, one without events."""
    if name in variables:
        return variables[name]
    column = name.rpartition(".")[0]
    if column and any(other.startswith(f"{column}.") for other in variables):
        return pd.DataFrame(columns=list(_ATTRIBUTES), dtype=np.float64)
    if column in variables:
        # A level of a column that nobody made a factor.
        return _levels(variables[column]).get(name.removeprefix(f"{column}."), variables[column].iloc[:0])
    raise DesignError(
        f"a transformation takes {name!r}, but the variables are {listing(variables, 20)}{nearest(name, variables)}"
    )


def _numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """Amplitudes as numbers."""
    try:
        return table["amplitude"].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DesignError(
            f"the variable {name!r} is text, but a regressor is made of numbers; make a Factor of it, or Select others"
        ) from error


def _levels(table: pd.DataFrame) -> Variables:
    """A variable a level: 1 at its events, 0 at the others."""
    values = table["amplitude"]
    return {_level(value): table.assign(amplitude=(values == value).astype(np.float64)) for value in pd.unique(values)}


def _level(value: Any) -> str:
    """The name of a level: 2.0 is 2."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _truth(value: Any) -> bool:
    """A flag of a document."""
    return str(value).lower() in ("true", "1")


def _pairs(inputs: Sequence[str], outputs: Sequence[str], what: str) -> list[tuple[str, str]]:
    """Each input with its output, which is the same where none is named."""
    if outputs and len(outputs) != len(inputs):
        raise ParameterError(f"{what} needs an Output for each Input, got {len(outputs)} for {len(inputs)}")
    return list(zip(inputs, outputs or inputs, strict=True))


def _each(change: Callable[[pd.Series, dict[str, Any]], pd.Series], what: str) -> Callable[..., Variables]:
    """A step that changes the amplitudes of each variable on its own."""

    def step(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
        found = dict(variables)
        for name, output in _pairs(inputs, outputs, what):
            table = _get(variables, name)
            found[output] = table.assign(amplitude=change(_numbers(table, name), options))
        return found

    return step


def _together(combine: Callable[[pd.DataFrame, dict[str, Any]], pd.Series], what: str) -> Callable[..., Variables]:
    """A step that makes one variable of several that have the same events."""

    def step(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
        if len(outputs) != 1:
            raise ParameterError(f"{what} needs one Output, got {len(outputs)}; name it")
        tables = {name: _get(variables, name) for name in inputs}
        first = next(iter(tables.values()))
        for name, table in tables.items():
            if not table.index.equals(first.index):
                raise DesignError(
                    f"{what} takes variables of the same events, but {inputs[0]} has {len(first)} of them and {name} "
                    f"{len(table)} or others: values are missing; fill them in"
                )
        values = pd.DataFrame({name: _numbers(table, name) for name, table in tables.items()})
        return {**variables, outputs[0]: first.assign(amplitude=combine(values, options))}

    return step


def _scaled(values: pd.Series, options: dict[str, Any]) -> pd.Series:
    """Scale: the mean removed, divided by the standard deviation (of a sample)."""
    rescale = _truth(options.get("rescale", True))
    if rescale and len(values) and values.nunique() < 2:
        raise DesignError("Scale divides by the standard deviation, but all values are the same; give Rescale: false")
    centred = values - values.mean() if _truth(options.get("demean", True)) else values
    return centred / values.std() if rescale else centred


def _thresholded(values: pd.Series, options: dict[str, Any]) -> pd.Series:
    """Threshold: 0 below (or above) a value; 1 elsewhere, to binarize."""
    limit = float(options.get("threshold", 0))
    compared = values if _truth(options.get("signed", True)) else values.abs()
    limit = limit if _truth(options.get("signed", True)) else abs(limit)
    kept = compared >= limit if _truth(options.get("above", True)) else compared <= limit
    return kept.astype(np.float64) if _truth(options.get("binarize", False)) else compared.where(kept, 0.0)


def _summed(values: pd.DataFrame, options: dict[str, Any]) -> pd.Series:
    """Sum: weighted, where there are weights."""
    weights = options.get("weights")
    numbers = np.ones(values.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if len(numbers) != values.shape[1]:
        raise ParameterError(f"Sum needs a weight for each Input, got {len(numbers)} for {values.shape[1]}")
    return (values * numbers).sum(axis=1)


def _factor(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Factor: column.level for each level, in place of the column."""
    found = dict(variables)
    for name in inputs:
        levels = _levels(_get(variables, name))
        found.pop(name, None)
        found |= {f"{name}.{level}": table for level, table in levels.items()}
    return found


def _renamed(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Rename: other names."""
    if not outputs:
        raise ParameterError("Rename needs an Output for each Input, got none; name them")
    pairs = _pairs(inputs, outputs, "Rename")
    rest = {name: table for name, table in variables.items() if name not in inputs}
    return {**rest, **{output: _get(variables, name) for name, output in pairs}}


def _copied(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Copy: a second name."""
    if not outputs:
        raise ParameterError("Copy needs an Output for each Input, got none; name them")
    return {**variables, **{output: _get(variables, name) for name, output in _pairs(inputs, outputs, "Copy")}}


def _selected(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Select: these alone."""
    return {name: _get(variables, name) for name in inputs}


def _deleted(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Delete: all but these."""
    return {name: table for name, table in variables.items() if name not in inputs}


def _assigned(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Assign: onsets, durations or amplitudes of one variable become those of another."""
    targets = _texts(options.get("target"))
    source, goal = (str(options.get(key, "amplitude")).lower() for key in ("inputattr", "targetattr"))
    if not len(inputs) == len(targets) == len(outputs) == 1 or not {source, goal} <= set(_ATTRIBUTES):
        raise ParameterError(
            "Assign has one Input, one Target and one Output, and InputAttr and TargetAttr of "
            f"{listing(_ATTRIBUTES)}, but it is Input {inputs}, Target {targets}, Output {outputs}, {source} and {goal}"
        )
    given, target = _get(variables, inputs[0]), _get(variables, targets[0])
    if len(given) != len(target):
        raise DesignError(
            f"Assign takes variables of as many events, but {inputs[0]} has {len(given)} and {targets[0]} {len(target)}"
        )
    return {**variables, outputs[0]: target.assign(**{goal: given[source].to_numpy()})}


def _replaced(variables: Variables, inputs: list[str], outputs: list[str], options: dict[str, Any]) -> Variables:
    """Replace: other values, as they are written in the table."""
    change, attribute = options.get("replace"), str(options.get("attribute", "value")).lower()
    attribute = "amplitude" if attribute == "value" else attribute
    if not isinstance(change, Mapping) or attribute not in _ATTRIBUTES:
        raise ParameterError(
            f"an old name has a new one, and the Attribute is value, onset or duration, but of {inputs[0]} these are "
            f"{change!r:.60} and {attribute!r}"
        )
    texts = {str(old): new for old, new in change.items()}
    found = dict(variables)
    for name, output in _pairs(inputs, outputs, "Replace"):
        table = _get(variables, name)
        found[output] = table.assign(**{attribute: [texts.get(_level(value), value) for value in table[attribute]]})
    return found


_STEPS: dict[str, tuple[Callable[..., Variables], tuple[str, ...]]] = {
    "factor": (_factor, ()),
    "rename": (_renamed, ()),
    "copy": (_copied, ()),
    "select": (_selected, ()),
    "delete": (_deleted, ()),
    "replace": (_replaced, ("Replace", "Attribute")),
    "assign": (_assigned, ("Target", "InputAttr", "TargetAttr")),
    "scale": (_each(_scaled, "Scale"), ("Demean", "Rescale")),
    "demean": (_each(lambda values, _: values - values.mean(), "Demean"), ()),
    "threshold": (_each(_thresholded, "Threshold"), ("Threshold", "Binarize", "Above", "Signed")),
    "not": (_each(lambda values, _: (values == 0).astype(np.float64), "Not"), ()),
    "product": (_together(lambda values, _: values.product(axis=1), "Product"), ()),
    "sum": (_together(_summed, "Sum"), ("Weights",)),
    "and": (_together(lambda values, _: (values != 0).all(axis=1).astype(np.float64), "And"), ()),
    "or": (_together(lambda values, _: (values != 0).any(axis=1).astype(np.float64), "Or"), ()),
}
_NAMES = tuple(name.title() for name in _STEPS)


def variables_after(tables: Sequence[pd.DataFrame], instructions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the variables that instructions leave, in any of some tables.

    Parameters
    ----------
    tables : sequence of DataFrame
        Events of runs.
    instructions : sequence of mapping
        As of :func:`transform_events`.

    Returns
    -------
    list of str

    Raises
    ------
    DesignError, ParameterError
        As of :func:`transform_events`.
    """
    return list(dict.fromkeys(name for table in tables for name in _transformed(table, instructions)))


def _transformed(events: pd.DataFrame, instructions: Sequence[Mapping[str, Any]]) -> Variables:
    """Variables after the instructions."""
    steps = [check_instruction(item) for item in instructions]
    return reduce(lambda variables, step: _STEPS[step[0]][0](variables, *step[1:]), steps, _variables_of(events))
