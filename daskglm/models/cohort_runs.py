"""One run, and one subject, of a cohort: from files to maps on disk, as tasks that keep to themselves."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import joblib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskglm.errors import ContrastError, DesignError
from daskglm.graph.compute import compute_here
from daskglm.graph.runs import NoiseModel, RunImages
from daskglm.io.bids import Run
from daskglm.io.cache import file_states
from daskglm.io.confounds import load_confounds, read_events
from daskglm.io.nifti import read_header, read_values
from daskglm.io.results import read_receipt, write_unit
from daskglm.kernels.contrasts import ContrastMaps, fixed_effects
from daskglm.kernels.scaling import Scaling
from daskglm.models.fixed_effects import contrast_over_runs
from daskglm.models.functional import OUTPUT_TYPES, map_image
from daskglm.models.options import Options, checked, header_image
from daskglm.models.run_fits import label_run, lazy_solution
from daskglm.models.runs import RunDesign, check_repetition_times, run_designs, run_preparation, run_sources
from daskglm.schema.space import VolumeSpace

STAT_NAMES = {"z_score": "z", "p_value": "p", "effect_size": "effect", "effect_variance": "variance"}
_RUN_MAPS = ("effect_size", "effect_variance", "z_score")


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
        Confounds, as of :func:`~daskglm.io.confounds.parse_strategies`; empty: none.
    design : dict
        Arguments of :func:`~daskglm.design.first_level.make_first_level_design_matrix`.
    noise, scaling, by_volume, smoothing_fwhm, precision_weighted
        As in :class:`~daskglm.models.first_level.FirstLevelModel`.
    t_r, slice_time_ref : float or None
        In place of what the dataset says.
    version : str
        Of the software.
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
        Contrasts that a run is left out of, and why.
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
    error: str = ""
    error_type: str = ""
    seconds: float = 0.0
    reused: bool = False
    runs: list["Receipt"] = field(default_factory=list)


def fit_run_files(run: Run, plan: Plan) -> Receipt:
    """Fit one run and write its maps, unless that was done before.

    Parameters
    ----------
    run : Run
        The run.
    plan : Plan
        What is done to it.

    Returns
    -------
    Receipt
        With the error where it failed: nothing is raised, the other runs go on.
    """
    session = run.entities.get("ses")
    folder = os.path.join(plan.output, run.subject, *([f"ses-{session}"] if session else []), "func")
    receipt, started = Receipt(run.name, run.subject, folder), time.time()
    try:
        paths = [path for path in (run.bold, run.mask, run.confounds, run.events) if path is not None]
        what = {name: value for name, value in asdict(plan).items() if name != "output"}
        receipt.key = joblib.hash([file_states(paths), run.t_r, run.start_time, what])
        done = read_receipt(folder, f"{run.name}_glm.json", receipt.key)
        if done is not None:
            return Receipt(**{**done, "folder": folder, "runs": [], "reused": True})
        design, fit = _fit(run, plan)
        images = _run_images(run.name, fit, plan, receipt)
        table = {f"{run.name}_design.tsv": design.design}
        receipt.files = [*images, *table]
        receipt.seconds = round(time.time() - started, 3)
        write_unit(folder, images, table, f"{run.name}_glm.json", asdict(receipt))
    except Exception as error:
        receipt.error, receipt.error_type = " ".join(str(error).split()), type(error).__name__
    return receipt


def combine_files(subject: str, runs: Sequence[Receipt], plan: Plan) -> Receipt:
    """Combine the maps of a subject's runs and write them, unless that was done before.

    Parameters
    ----------
    subject : str
        The subject.
    runs : sequence of Receipt
        Its runs; those that failed are left out.
    plan : Plan
        What is done.

    Returns
    -------
    Receipt
        With the error where it failed.
    """
    usable = [item for item in runs if not item.error]
    name = _common_name([item.name for item in runs])
    folder = os.path.join(plan.output, subject)
    receipt = Receipt(name, subject, folder, runs=list(runs))
    if not usable:
        receipt.error, receipt.error_type = f"none of the {len(runs)} runs of {subject} could be fitted", "DesignError"
        return receipt
    try:
        receipt.key = joblib.hash([sorted(item.key for item in usable), plan.precision_weighted])
        done = read_receipt(folder, f"{name}_glm.json", receipt.key)
        if done is not None:
            return Receipt(**{**done, "folder": folder, "runs": list(runs), "reused": True})
        images: dict[str, Any] = {}
        space = _common_space(usable)
        for contrast in plan.contrasts:
            chosen = [item for item in usable if contrast in item.contrasts]
            if chosen:
                images |= _combined(name, contrast, chosen, space, plan)
                receipt.contrasts.append(contrast)
        images[f"{name}_desc-brain_mask.nii.gz"] = space.mask_image()
        receipt.files = list(images)
        write_unit(folder, images, {}, f"{name}_glm.json", {**asdict(receipt), "runs": [item.name for item in usable]})
    except Exception as error:
        receipt.error, receipt.error_type = " ".join(str(error).split()), type(error).__name__
    return receipt


def design_of_run(run: Run, plan: Plan) -> RunDesign:
    """The design of a run from its files.

    Parameters
    ----------
    run : Run
        The run.
    plan : Plan
        Confounds and parameters of the design.

    Returns
    -------
    RunDesign

    Raises
    ------
    DesignError, ParameterError, ImageError
        Where the tables are missing or do not fit the image.
    """
    if run.events is None:
        raise DesignError(f"a run has a table of events, but there is none for {run.bold}; add ..._events.tsv")
    shape = read_header(run.bold).shape
    table, kept = None, None
    if plan.strategies:
        table, kept = load_confounds(run.bold, run.confounds, plan.strategies, shape[3] if len(shape) > 3 else 1)
    t_r = plan.t_r or run.t_r
    start = plan.slice_time_ref
    if start is None:
        start = 0.0 if run.start_time is None or not t_r else run.start_time / t_r
    check_repetition_times(run_sources([run.bold]), t_r)
    (design,) = run_designs([shape], [read_events(run.events)], [table], [kept], None, t_r, start, dict(plan.design))
    return design


def _fit(run: Run, plan: Plan) -> tuple[RunDesign, xr.Dataset]:
    """Design and fit of a run."""
    design = design_of_run(run, plan)
    how = run_preparation([run.bold], checked(Options(mask_img=run.mask, smoothing_fwhm=plan.smoothing_fwhm)))
    images = RunImages(run.bold, how, design.volumes, plan.by_volume)
    (found,) = compute_here(lazy_solution(images, design, plan.noise, plan.scaling))
    return design, label_run(found, images, design, run.name)


def _run_images(name: str, fit: xr.Dataset, plan: Plan, receipt: Receipt) -> dict[str, Any]:
    """File name -> map of each contrast that the run has; what it has and its freedom go into the receipt."""
    images: dict[str, Any] = {}
    for contrast, definition in plan.contrasts.items():
        try:
            lazy = contrast_over_runs([fit], definition, plan.kinds.get(contrast), compute=compute_here)
        except ContrastError as error:
            receipt.warnings.append(f"{name} is left out of contrast {contrast!r}: {error}")
            continue
        receipt.contrasts.append(contrast)
        for kind in _RUN_MAPS:
            file = f"{name}_contrast-{plan.labels[contrast]}_stat-{STAT_NAMES[kind]}_statmap.nii.gz"
            images[file] = map_image(lazy, str(lazy["contrast"].values[0]), kind)
    solution = fit["solution"].values
    receipt.degrees_of_freedom = float(solution[0].degrees_of_freedom[0])
    space = VolumeSpace.from_attributes(fit.attrs["space"], fit["voxel"].values)
    images[f"{name}_desc-brain_mask.nii.gz"] = space.mask_image()
    if not receipt.contrasts:
        raise ContrastError(f"{name} has none of the contrasts {', '.join(plan.contrasts)}")
    return images


def _common_name(names: Sequence[str]) -> str:
    """The entities that the names of all runs share."""
    shared = [part for part in names[0].split("_") if all(part in name.split("_") for name in names)]
    return "_".join(part for part in shared if not part.startswith("run-"))


def _common_space(runs: Sequence[Receipt]) -> VolumeSpace:
    """The voxels that the masks of all runs have."""
    paths = [os.path.join(item.folder, f"{item.name}_desc-brain_mask.nii.gz") for item in runs]
    first = header_image(paths[0])
    space = VolumeSpace.from_image(first)
    keep = np.ones(space.voxels.size, dtype=bool)
    for path in paths:
        header, values = read_values(path)
        space.check_same_grid(header.shape, header.affine, path)
        keep &= values[0] != 0
    return VolumeSpace.from_image(first, keep.reshape(space.shape, order="F"))


def _combined(name: str, contrast: str, runs: Sequence[Receipt], space: VolumeSpace, plan: Plan) -> dict[str, Any]:
    """File name -> map of one contrast over runs."""
    label, kind = plan.labels[contrast], plan.kinds.get(contrast, "t")
    effects = np.stack([_map_of(item, label, "effect", space) for item in runs])
    variances = np.stack([_map_of(item, label, "variance", space)[0] for item in runs])
    freedom = np.array([item.degrees_of_freedom for item in runs])[:, None] + np.zeros(variances.shape)
    dimension = None if kind == "t" else effects.shape[1]
    maps = fixed_effects(effects, variances, freedom, dimension, plan.precision_weighted)
    return {
        f"{name}_contrast-{label}_stat-{STAT_NAMES.get(output, kind)}_statmap.nii.gz": space.to_image(
            _one_row(maps, output), outside=1 if output == "p_value" else 0
        )
        for output in OUTPUT_TYPES
    }


def _map_of(run: Receipt, label: str, stat: str, space: VolumeSpace) -> NDArray[np.float64]:
    """Values (m, V) of a map of a run."""
    _, values = read_values(os.path.join(run.folder, f"{run.name}_contrast-{label}_stat-{stat}_statmap.nii.gz"))
    return values[:, space.voxels].astype(np.float64)


def _one_row(maps: ContrastMaps, output: str) -> NDArray[np.float64]:
    """Values of a map: (V,), or (q, V) for the effects of an F contrast."""
    values: NDArray[np.float64] = getattr(maps, output)
    return values[0] if values.ndim == 2 and len(values) == 1 else values
