"""What is asked of a cohort's runs, and what can be known of them before any is fitted, besides their contrasts."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from daskglm.design.events import warn_of_differing_durations
from daskglm.design.hrf import is_fir
from daskglm.errors import (
    DaskGLMError,
    MissingDependencyError,
    ParameterError,
    UnknownParameterError,
    check_choice,
    listing,
    nearest,
    option,
)
from daskglm.io.bids import Run
from daskglm.io.confound_columns import absent, is_pattern
from daskglm.io.confound_strategies import (
    CONFOUND_STRATEGIES,
    column_names,
    missing_nilearn,
    need_nilearn,
    parse_strategies,
)
from daskglm.io.confounds import read_events, table_columns
from daskglm.models.cohort_events import check_transform
from daskglm.models.cohort_units import Plan
from daskglm.models.first_level import DESIGN_PARAMETERS
from daskglm.models.options import Options, checked
from daskglm.models.parameters import parse_noise_model, parse_scaling


def treatment_of(
    output: str, version: str, design: Mapping[str, Any], *, confounds: Any, smoothing_fwhm: Any, noise_model: str,
    bins: int | str | None, signal_scaling: Any, standardize: bool, bad_events: str, transform: Any, **unchecked: Any,
) -> Plan:  # fmt: skip
    """What is done to each run, of parameters that are checked; contrasts come when the runs are known.

    Parameters
    ----------
    output, version
        As of :class:`~daskglm.models.cohort_units.Plan`.
    design : mapping
        Parameters of the design.
    confounds, smoothing_fwhm, noise_model, bins, signal_scaling, standardize, bad_events, transform
        As of :func:`~daskglm.models.cohort.first_level_analysis`.
    **unchecked
        ``precision_weighted``, ``t_r`` and ``slice_time_ref``.

    Returns
    -------
    Plan

    Raises
    ------
    ParameterError
        Where a parameter is unknown, or has a value that it cannot have.
    """
    unknown = sorted(set(design) - set(DESIGN_PARAMETERS))
    if unknown:
        raise UnknownParameterError(
            f"parameters of the design are {listing(DESIGN_PARAMETERS)}, but got {listing(unknown)}"
            f"{nearest(unknown[0], DESIGN_PARAMETERS)}"
        )
    check_response(design)
    check_choice("bad_events", bad_events, ("stop", "drop"))
    checked(Options(smoothing_fwhm=smoothing_fwhm))
    scaling, by_volume = parse_scaling(signal_scaling, standardize)
    return Plan(
        output=output,
        contrasts={},
        labels={},
        kinds={},
        strategies=parse_strategies(confounds),
        design=design,
        noise=parse_noise_model(noise_model, bins, 0),
        scaling=scaling,
        by_volume=by_volume,
        smoothing_fwhm=smoothing_fwhm,
        version=version,
        bad_events=bad_events,
        transform=check_transform(transform),
        **unchecked,
    )


def check_response(design: Mapping[str, Any]) -> None:
    """Raise where "fir" has no delays, or another response has some.

    Parameters
    ----------
    design : mapping
        Parameters of the design.

    Raises
    ------
    ParameterError
        With what to give.
    """
    delays, fir = design.get("fir_delays"), is_fir(design.get("hrf_model", "glover"))
    if fir and delays is None:
        raise ParameterError(
            "a response of 'fir' needs the delays after an event, in volumes; give "
            f"{option('fir_delays=[0, 1, 2, 3, 4, 5]', '--fir-delays 0,1,2,3,4,5')}"
        )
    if delays is not None and not fir:
        give = option("hrf_model='fir'", "--hrf fir")
        raise ParameterError(
            f"delays are used by the response 'fir' only, got {design.get('hrf_model', 'glover')!r}; give {give}, or "
            "leave the delays out"
        )


def check_extras(runs: Sequence[Run], plan: Plan) -> None:
    """Raise where runs need a package that is not installed: each of them would fail.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    plan : Plan
        What is done to each.

    Raises
    ------
    MissingDependencyError
        With what to install.
    """
    if find_spec("nilearn") is not None:
        return
    strategies = need_nilearn(plan.strategies)
    if strategies:
        raise MissingDependencyError(missing_nilearn(strategies))
    bare = [run.name for run in runs if run.mask is None and not run.fault]
    if bare:
        raise MissingDependencyError(
            f"a run without a brain mask gets one from nilearn, which is not installed: {listing(bare, 3)} have none "
            "in the derivatives; pip install 'daskglm[nilearn]', or add desc-brain_mask images"
        )


def check_confounds(runs: Sequence[Run], strategies: Mapping[str, Any]) -> list[str]:
    """Raise where no run has a confound that is asked for by its column.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    strategies : mapping
        Confounds, as of :func:`~daskglm.io.confound_strategies.parse_strategies`.

    Returns
    -------
    list of str
        Notes of the patterns that some runs have no column of.

    Raises
    ------
    ParameterError
        Naming the nearest column or strategy.
    """
    names = column_names(strategies)
    tables = _columns(runs) if names else {}
    if names and not tables:
        near = [hint for name in names if (hint := nearest(name, CONFOUND_STRATEGIES))]
        raise ParameterError(
            f"{listing(names)} must be columns of the tables of confounds, for they are no strategies "
            f"({', '.join(CONFOUND_STRATEGIES)}), but no run has a table that can be read; add "
            f"desc-confounds_timeseries.tsv beside the images{near[0] if near else ''}"
        )
    lacking = {name: [run for run, columns in tables.items() if absent(columns, [name])] for name in names}
    for name, without in lacking.items():
        if len(without) == len(tables):
            known = [*CONFOUND_STRATEGIES, *dict.fromkeys(text for columns in tables.values() for text in columns)]
            raise ParameterError(
                f"confounds are strategies ({', '.join(CONFOUND_STRATEGIES)}) or columns of the tables, but no table "
                f"of confounds has a column {name!r}{nearest(name, known) or '; correct the name'}"
            )
    return [
        f"no column {name!r} is in the confounds of {listing(without, 3)} ({len(without)} of {len(tables)} runs): "
        "nothing of it is in their designs"
        for name, without in lacking.items()
        if without and is_pattern(name)
    ]


def warn_of_durations(runs: Sequence[Run], plan: Plan) -> None:
    """Warn where a condition is without duration in some runs and lasts in others.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    plan : Plan
        What is done to each.
    """
    if plan.transform or plan.design.get("impulse", "sample") != "sample":
        return
    tables = {}
    for run in runs:
        if run.events is not None and not run.fault:
            try:
                tables[run.name] = read_events(run.events)
            except DaskGLMError:  # it will be in the list of failures
                continue
    warn_of_differing_durations(tables, stacklevel=4)


def _columns(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Columns of each run's confounds; what cannot be read will be in the list of failures."""
    found = {}
    for run in runs:
        if run.confounds is not None and not run.fault:
            try:
                found[run.name] = table_columns(run.confounds)
            except DaskGLMError:
                continue
    return found
