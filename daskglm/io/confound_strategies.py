"""Names of confounds that a user gives: strategies, what refines them, and columns of the table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daskglm.errors import ParameterError, check_choice, nearest
from daskglm.io.confound_columns import BY_COLUMN

CONFOUND_STRATEGIES = ("motion", "wm_csf", "global_signal", "compcor", "scrub", "high_pass", "ica_aroma", "tedana")

_MODELS = ("basic", "power2", "derivatives", "full")
_COMPCOR = ("anat_combined", "anat_separated", "temporal", "temporal_anat_combined", "temporal_anat_separated")
# Values of each key, that of a bare name first.
_CHOICES: dict[str, tuple[str, ...]] = {
    "motion": _MODELS,
    "wm_csf": _MODELS,
    "global_signal": _MODELS,
    "compcor": _COMPCOR,
    "ica_aroma": ("full", "basic"),
    "tedana": ("aggressive", "non-aggressive"),
}
# Keys that refine a strategy ("" is any), and what they take where they are not given.
_REFINED = {"fd_threshold": "scrub", "std_dvars_threshold": "scrub", "n_compcor": "compcor", "demean": ""}
DEFAULTS: dict[str, dict[str, Any]] = {
    "scrub": {"fd_threshold": 0.5, "std_dvars_threshold": 1.5},
    "compcor": {"n_compcor": "all"},
}
Strategy = str | float | int | None


def parse_strategies(texts: Sequence[str]) -> dict[str, Strategy]:
    """Strategies for confounds from texts such as ``motion=full`` or ``motion,wm_csf,scrub=5``.

    Parameters
    ----------
    texts : sequence of str
        Each a name, ``name=value`` or several of these with commas between them. Names are those of
        ``CONFOUND_STRATEGIES`` and, with a value, fd_threshold, std_dvars_threshold, n_compcor and demean; any
        other is a column of the table, or with * and ? a pattern of columns.

    Returns
    -------
    dict
        Name to value; a bare name takes "basic", but ica_aroma "full", compcor "anat_combined",
        tedana "aggressive", scrub 5; high_pass and columns have no value, which is None.

    Raises
    ------
    ParameterError
        Where a value is unknown, a name has two values, or strategies do not go together.

    Examples
    --------
    >>> parse_strategies(["motion,wm_csf=full", "scrub=3"])
    {'motion': 'basic', 'wm_csf': 'full', 'scrub': 3}
    >>> parse_strategies(["framewise_displacement,a_comp_cor_0?"])
    {'framewise_displacement': None, 'a_comp_cor_0?': None}
    """
    parsed: dict[str, Strategy] = {}
    for item in ",".join([texts] if isinstance(texts, str) else texts).split(",") if texts else []:
        name, equals, text = (part.strip() for part in item.partition("="))
        if equals and not text:
            raise ParameterError(f"a confound strategy is a name or name=value, but this is {item.strip()!r}; add it")
        value = _value(name, text or None)
        if parsed.setdefault(name, value) != value:
            raise ParameterError(f"a confound strategy has one value, but {name} has {parsed[name]} and {value}")
    return check_strategies(parsed)


def column_names(strategies: Mapping[str, Strategy]) -> list[str]:
    """Those of some strategies that are columns, or patterns of columns.

    Parameters
    ----------
    strategies : mapping
        As :func:`parse_strategies` gives.

    Returns
    -------
    list of str
    """
    return [name for name in strategies if name not in CONFOUND_STRATEGIES and name not in _REFINED]


def need_nilearn(strategies: Mapping[str, Strategy]) -> list[str]:
    """Those of some strategies that are taken by nilearn, which then has to be installed.

    Parameters
    ----------
    strategies : mapping
        As :func:`parse_strategies` gives.

    Returns
    -------
    list of str
    """
    return [name for name in strategies if name in CONFOUND_STRATEGIES and name not in BY_COLUMN]


def missing_nilearn(strategies: Sequence[str]) -> str:
    """What to say where nilearn is not installed.

    Parameters
    ----------
    strategies : sequence of str
        Those that need it.

    Returns
    -------
    str
    """
    return (
        f"the confounds {', '.join(strategies)} are taken by nilearn, which is not installed; "
        "pip install 'daskglm[nilearn]'"
    )


def _value(name: str, value: Any) -> Strategy:
    """A checked value of a strategy or refinement: from text, or as given in Python."""
    if name in _CHOICES:
        value = _CHOICES[name][0] if value is None else value
        check_choice(name, value, _CHOICES[name])
        return str(value)
    if name == "high_pass":
        if value not in (None, True):
            raise ParameterError(f"high_pass takes no value, but this is {value!r}; give the name alone")
        return None
    if name == "scrub":
        return _number(name, 5 if value is None else value, int, 0)
    if name not in _REFINED:
        if value is None and name:
            return None  # a column of the table
        known = (*CONFOUND_STRATEGIES, *_REFINED)
        hint = nearest(name, known) or "."
        raise ParameterError(f"no confound strategy is named {name!r}{hint} There are {', '.join(known)}")
    if value is None:
        raise ParameterError(f"{name} needs a value; give {name}=...")
    if name == "demean":
        truth = {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
        if truth is None:
            raise ParameterError(f"demean is true or false, but this is {value!r}; choose one")
        return truth
    if name == "n_compcor":
        return "all" if value == "all" else _number(name, value, int, 1)
    return _number(name, value, float, 0.0)


def _number(name: str, value: Any, kind: Callable[[Any], Any], least: float) -> Any:
    try:
        number = kind(value)
        good = math.isfinite(number) and number >= least and (isinstance(value, str) or number == value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good or isinstance(value, bool):
        what = "a whole number" if kind is int else "a number"
        raise ParameterError(f"{name} is {what} of at least {least:g}, but this is {value!r}; correct it")
    return number


def check_strategies(given: Mapping[str, Any]) -> dict[str, Strategy]:
    """Strategies with checked values, that go together.

    Parameters
    ----------
    given : mapping
        Name to value, as text or as it is in Python.

    Returns
    -------
    dict

    Raises
    ------
    ParameterError
        As :func:`parse_strategies`.
    """
    strategies = {name: _value(name, value) for name, value in given.items()}
    chosen = [name for name in strategies if name not in _REFINED]
    for name in strategies:
        if name in _REFINED and (_REFINED[name] not in chosen if _REFINED[name] else not chosen):
            raise ParameterError(
                f"{name} has no effect without {_REFINED[name] or 'a strategy'}; add it or drop {name}"
            )
    if "compcor" in chosen and "high_pass" not in chosen:
        raise ParameterError("CompCor's components are of high-pass filtered data, so compcor needs high_pass; add it")
    others = ", ".join(name for name in chosen if name in CONFOUND_STRATEGIES and name != "tedana")
    if "tedana" in chosen and others:
        raise ParameterError(f"tedana has tables of its own and goes with no other strategy; drop it or {others}")
    return strategies
