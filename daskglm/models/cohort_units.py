"""What is done to the runs and subjects of a cohort, what became of each, and where its files are."""

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import joblib

from daskglm.errors import ParameterError
from daskglm.graph.runs import NoiseModel
from daskglm.io.bids import Run
from daskglm.io.provenance import redact
from daskglm.kernels.scaling import Scaling


@dataclass(frozen=True)
class Plan:
    """What is done to every run of a cohort.

    Attributes
    ----------
    output : str
        Result folder.
    contrasts : dict of str to str
        Definition of each contrast, by name.
    labels, kinds : dict of str to str
        Its label in file names; "F" where it is an F contrast.
    strategies : dict
        Confounds, as of :func:`~daskglm.io.confound_strategies.parse_strategies`; empty: none.
    design : dict
        Arguments of :func:`~daskglm.design.first_level.make_first_level_design_matrix`.
    noise, scaling, by_volume, smoothing_fwhm, precision_weighted
        As in :class:`~daskglm.models.first_level.FirstLevelModel`.
    t_r, slice_time_ref : float or None
        In place of what the dataset says.
    version : str
        Of the software.
    bad_events : {"stop", "drop"}
        What becomes of events that lack something.
    transform : tuple of mapping
        Instructions for events, of :func:`~daskglm.design.transformations.transform_events`.
    selection, analysis : str
        Tell which files were chosen, and what is done with them, from other choices and analyses.
    """

    output: str
    contrasts: Mapping[str, str]
    labels: Mapping[str, str]
    kinds: Mapping[str, str]
    strategies: Mapping[str, Any]
    design: Mapping[str, Any]
    noise: NoiseModel
    scaling: Scaling
    by_volume: bool
    smoothing_fwhm: Any
    precision_weighted: bool
    t_r: float | None
    slice_time_ref: float | None
    version: str
    bad_events: str = "stop"
    transform: tuple[Mapping[str, Any], ...] = ()
    selection: str = ""
    analysis: str = ""

    @property
    def stamp(self) -> dict[str, str]:
        """What every receipt says of the analysis that it belongs to."""
        return {"selection": self.selection, "analysis": self.analysis}

    def hash(self) -> str:
        """Hash of all that changes a result.

        Returns
        -------
        str

        Raises
        ------
        ParameterError
            Where a parameter has no contents to compare.
        """
        apart = ("output", "selection", "analysis")
        try:
            text: str = joblib.hash({name: value for name, value in asdict(self).items() if name not in apart})
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ParameterError(
                f"an analysis is told from others by its parameters, but one cannot be compared: {error}; give "
                "functions that a module defines, no lambda"
            ) from error
        return text


@dataclass
class Receipt:
    """What became of a run, or of a subject.

    Attributes
    ----------
    name, subject, folder : str
        Names, and where its maps are.
    key : str
        What tells its inputs from others.
    contrasts : list of str
        Contrasts that were mapped.
    degrees_of_freedom : float
        Of a run.
    files : list of str
        Names of the files in the folder.
    warnings : list of str
        Contrasts that a run is left out of, and why; events that were left out of it.
    heard : list of str
        Warnings that were shown while the run was fitted.
    error, error_type : str
        Why it failed; empty where it did not.
    seconds : float
        Time it took.
    reused : bool
        Whether it was done by an earlier run.
    runs : list of Receipt
        Of a subject.
    """

    name: str
    subject: str
    folder: str
    key: str = ""
    contrasts: list[str] = field(default_factory=list)
    degrees_of_freedom: float = 0.0
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    error: str = ""
    error_type: str = ""
    seconds: float = 0.0
    reused: bool = False
    runs: list["Receipt"] = field(default_factory=list)

    def hear(self, category: str, text: str) -> None:
        """Keep a warning, but those about old Python code.

        Parameters
        ----------
        category, text : str
            As :func:`~daskglm.io.provenance.own_warnings_heard` tells them.
        """
        text = redact(text)
        if "Deprecation" not in category and text not in self.heard:
            self.heard.append(text)


def run_receipt(run: Run, output: str) -> str:
    """Path of the receipt of a run; its maps are beside it.

    Parameters
    ----------
    run : Run
        The run.
    output : str
        Result folder.

    Returns
    -------
    str
    """
    session = run.entities.get("ses")
    return os.path.join(output, run.subject, *([f"ses-{session}"] if session else []), "func", f"{run.name}_glm.json")


def subject_receipt(subject: str, runs: Sequence[Run | Receipt], output: str) -> str:
    """Path of the receipt of a subject; its maps are beside it.

    Parameters
    ----------
    subject : str
        The subject.
    runs : sequence of Run or Receipt
        Its runs.
    output : str
        Result folder.

    Returns
    -------
    str
    """
    return os.path.join(output, subject, f"{common_name([run.name for run in runs])}_glm.json")


def common_name(names: Sequence[str]) -> str:
    """The entities that some names share, but for the run.

    Parameters
    ----------
    names : sequence of str
        Names of runs, or of subjects.

    Returns
    -------
    str

    Examples
    --------
    >>> common_name(["sub-01_task-x_run-1_space-T1w", "sub-01_task-x_run-2_space-T1w"])
    'sub-01_task-x_space-T1w'
    """
    parts = [name.split("_") for name in names]
    return "_".join(x for x in parts[0] if all(x in other for other in parts) and not x.startswith("run-"))


def map_path(item: Receipt, label: str, stat: str) -> str:
    """Path of a map of a run, or of a subject over its runs.

    Parameters
    ----------
    item : Receipt
        A run or subject.
    label, stat : str
        Label of the contrast; "effect", "variance", "t", "F", "p" or "z".

    Returns
    -------
    str
    """
    return os.path.join(item.folder, f"{item.name}_contrast-{label}_stat-{stat}_statmap.nii.gz")
