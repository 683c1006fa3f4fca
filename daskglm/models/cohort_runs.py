"""One run, and one subject, of a cohort: from files to maps on disk, as tasks that keep to themselves."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from glob import escape, glob
from typing import Any

import joblib
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import by_name, check_one_row, contrast_matrix
from daskglm.design.hrf import regressor_names
from daskglm.design.matrix import design_array
from daskglm.errors import ContrastError, DaskGLMError, DesignError, ImageError
from daskglm.graph.compute import compute_here
from daskglm.graph.runs import RunImages
from daskglm.io.bids import Run
from daskglm.io.cache import file_states
from daskglm.io.confounds import load_confounds, read_events
from daskglm.io.nifti import read_header, read_values
from daskglm.io.provenance import own_warnings_heard
from daskglm.io.receipts import read_receipt, remove_unit, write_unit
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.contrasts import ContrastMaps
from daskglm.kernels.fixed_effects import fixed_effects, joint_f
from daskglm.models.cohort_events import events_of_run
from daskglm.models.cohort_units import Plan, Receipt, common_name, map_path, run_receipt, subject_receipt
from daskglm.models.contrasts import Contrasts, check_any, definitions_in, named, named_once, t_and_f
from daskglm.models.fixed_effects import contrast_over_runs, run_estimates
from daskglm.models.functional import OUTPUT_TYPES, contrast_weights, map_image
from daskglm.models.options import Options, checked, header_image
from daskglm.models.parameters import affordable_noise
from daskglm.models.run_fits import check_any_varies, label_run, lazy_solution
from daskglm.models.run_times import slice_time_of
from daskglm.models.runs import RunDesign, check_repetition_times, run_designs, run_preparation, run_sources
from daskglm.schema.headers import describe
from daskglm.schema.names import bids_labels
from daskglm.schema.space import VolumeSpace

STAT_NAMES = {"z_score": "z", "p_value": "p", "effect_size": "effect", "effect_variance": "variance"}
_RUN_MAPS = ("effect_size", "effect_variance", "z_score")


def with_contrasts(runs: Sequence[Run], plan: Plan, contrasts: Contrasts, f_contrasts: Contrasts | None) -> Plan:
    """A plan with contrasts, named and read by the regressors of the runs.

    Parameters
    ----------
    runs : sequence of Run
        Runs.
    plan : Plan
        What is done to each, without contrasts.
    contrasts, f_contrasts : mapping of str to contrast, or sequence of str
        Of t and F; a text is "name=expression", or an expression, which is its own name.

    Returns
    -------
    Plan

    Raises
    ------
    ContrastError, DesignError
        Where no run has or determines a contrast (a condition may occur in some only) or has a design, or a response
        is unknown.
    """
    check_any(contrasts, f_contrasts, "first-level")
    # Without it each run would fail, one by one.
    regressor_names("condition", plan.design.get("hrf_model", "glover"), plan.design.get("fir_delays"))
    t, f = _items(contrasts), _items(f_contrasts or {})
    pairs = _read(t + f, len(t), runs, plan)
    definitions, kinds = t_and_f(named_once(pairs[: len(t)]), named_once(pairs[len(t) :]))
    return replace(plan, contrasts=definitions, labels=bids_labels(definitions), kinds=kinds)


def _read(given: Sequence[Contrasts], n_t: int, runs: Sequence[Run], plan: Plan) -> list[tuple[str, Any]]:
    """Name and definition of each contrast, t contrasts first, by the regressors of the first run that has it."""
    found: dict[int, tuple[str, Any]] = {}
    wrong: dict[int, ContrastError] = {}
    faults: list[DaskGLMError] = []
    n_designs = 0
    for run in _new_conditions_first(runs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told when the run is fitted
                design = design_of_run(run, plan).design
                basis, columns = orthonormal_basis(design_array(design)), [str(name) for name in design.columns]
                affordable_noise(plan.noise, len(design), basis.rank)
        except DaskGLMError as error:
            faults.append(error)
            continue  # it will be in the list of failures
        n_designs += 1
        for index in set(range(len(given))) - set(found):
            try:
                name, definition = next(iter(named(given[index], columns, {}).items()))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # this too
                    matrix, _ = contrast_weights(name, definition, columns, basis, {}, "F")
                    definition = by_name(definition, columns)
                found[index] = (name, definition)
            except ContrastError as error:
                wrong.setdefault(index, error)
                continue
            if index < n_t:
                check_one_row(name, matrix, columns)
        if len(found) == len(given):
            break
    # Files are damaged one by one; tables that nobody has are asked for in vain.
    if not n_designs and faults and not any(isinstance(error, ImageError) for error in faults):
        raise type(faults[0])(f"no run can be fitted; of the first one: {faults[0]}") from faults[0]
    if n_designs and len(found) < len(given):
        raise wrong[min(set(range(len(given))) - set(found))]
    # Where no run has a design, all will be in the list of failures.
    return [found.get(index) or _as_given(item) for index, item in enumerate(given)]


def _items(contrasts: Contrasts) -> list[Contrasts]:
    """Contrasts one by one, each as it was given."""
    if isinstance(contrasts, Mapping):
        return [{name: definition} for name, definition in contrasts.items()]
    return [[text] for text in contrasts]


def _as_given(contrast: Contrasts) -> tuple[str, Any]:
    """Name and definition of one contrast, as if no regressor had an "=" in its name."""
    return next(iter(contrast.items())) if isinstance(contrast, Mapping) else definitions_in(contrast[0])[:2][-1]


def _new_conditions_first(runs: Sequence[Run]) -> Iterator[Run]:
    """Runs in their order, but those whose conditions were all seen together before come last."""
    seen: set[frozenset[str]] = set()
    later = []
    for run in runs:
        try:
            events = read_events(run.events) if run.events is not None else pd.DataFrame()
        except DaskGLMError:
            continue
        conditions = frozenset(events["trial_type"].dropna()) if "trial_type" in events else frozenset()
        if conditions in seen:
            later.append(run)
            continue
        seen.add(conditions)
        yield run
    yield from later


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
    path, started = run_receipt(run, plan.output), time.time()
    receipt = Receipt(run.name, run.subject, os.path.dirname(path))
    try:
        _check_fault(run)
        receipt.key = joblib.hash(
            [file_states(run_inputs(run, plan)), run.t_r, run.start_time, run.slice_timing_corrected, plan.analysis]
        )
        done = read_receipt(path, receipt.key)
        if done is not None:
            return _restored(done, receipt.folder, [])
        # Removed before the work: a run that fails now leaves nothing of another time.
        remove_unit(path)
        with own_warnings_heard(receipt.hear):
            design, fit = _fit(run, plan)
            receipt.warnings += events_of_run(run, plan.bad_events, plan.transform)[1]
            images = _run_images(run.name, fit, plan, receipt)
        table = {f"{run.name}_design.tsv": design.design}
        receipt.files = [*images, *table]
        receipt.seconds = round(time.time() - started, 3)
        write_unit(path, images, table, {**asdict(receipt), **plan.stamp})
    except Exception as error:
        _give_up(receipt, path, error)
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
    name, path = common_name([item.name for item in runs]), subject_receipt(subject, runs, plan.output)
    receipt = Receipt(name, subject, os.path.dirname(path), runs=list(runs))
    try:
        _check_usable(usable, runs, subject)
        receipt.key = joblib.hash([sorted(item.key for item in usable), plan.precision_weighted])
        done = read_receipt(path, receipt.key)
        if done is not None:
            return _restored(done, receipt.folder, runs)
        remove_unit(path)
        images: dict[str, Any] = {}
        space = _common_space(usable)
        for contrast in plan.contrasts:
            chosen = [item for item in usable if contrast in item.contrasts]
            if chosen:
                images |= _combined(name, contrast, chosen, space, plan)
                receipt.contrasts.append(contrast)
        images[f"{name}_desc-brain_mask.nii.gz"] = space.mask_image()
        receipt.files = list(images)
        write_unit(path, images, {}, {**asdict(receipt), "runs": [item.name for item in usable], **plan.stamp})
    except Exception as error:
        _give_up(receipt, path, error)
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
    _check_fault(run)
    events, _ = events_of_run(run, plan.bad_events, plan.transform)
    shape = read_header(run.bold).shape
    table, kept = None, None
    if plan.strategies:
        table, kept = load_confounds(run.bold, run.confounds, plan.strategies, shape[3] if len(shape) > 3 else 1)
    t_r = plan.t_r or run.t_r
    start = slice_time_of(run, t_r) if plan.slice_time_ref is None else plan.slice_time_ref
    check_repetition_times(run_sources([run.bold]), t_r)
    (design,) = run_designs([shape], [events], [table], [kept], None, t_r, start, dict(plan.design))
    return design


def _check_fault(run: Run) -> None:
    """Raise where something of a run is damaged."""
    if run.fault:
        raise ImageError(run.fault)


def _check_usable(usable: Sequence[Receipt], runs: Sequence[Receipt], subject: str) -> None:
    """Raise where no run is left."""
    if not usable:
        raise DesignError(f"none of the {len(runs)} runs of {subject} could be fitted")


def run_inputs(run: Run, plan: Plan) -> list[str]:
    """Every file that a run is fitted from.

    Parameters
    ----------
    run : Run
        The run.
    plan : Plan
        What is done to it.

    Returns
    -------
    list of str
        Paths.
    """
    paths = [path for path in (run.bold, run.mask, run.events) if path is not None]
    if plan.strategies and run.confounds is not None:
        # CompCor's components are chosen by what the JSON file says of them.
        sides = [run.confounds, f"{os.path.splitext(run.confounds)[0]}.json"]
        paths += [path for path in sides if os.path.isfile(path)]
    if "tedana" in plan.strategies:
        folder = escape(os.path.dirname(run.bold))
        paths += sorted(glob(f"{folder}/*_mixing.tsv") + glob(f"{folder}/*_metrics.tsv"))
    return paths


def _restored(done: Mapping[str, Any], folder: str, runs: Sequence[Receipt]) -> Receipt:
    """What an earlier call did."""
    known = {item.name: done[item.name] for item in fields(Receipt) if item.name in done}
    return Receipt(**{**known, "folder": folder, "files": list(done["files"]), "runs": list(runs), "reused": True})


def _give_up(receipt: Receipt, path: str, error: Exception) -> None:
    """Say why a unit failed; nothing of it stays."""
    receipt.error, receipt.error_type = " ".join(str(error).split()), type(error).__name__
    with suppress(OSError):
        remove_unit(path)


def _fit(run: Run, plan: Plan) -> tuple[RunDesign, xr.Dataset]:
    """Design and fit of a run."""
    design = design_of_run(run, plan)
    how = run_preparation([run.bold], checked(Options(mask_img=run.mask, smoothing_fwhm=plan.smoothing_fwhm)))
    images = RunImages(run.bold, how, design.volumes, plan.by_volume)
    (found,) = compute_here(lazy_solution(images, design, plan.noise, plan.scaling))
    check_any_varies(found, run.name)
    return design, label_run(found, images, design, run.name)


def _run_images(name: str, fit: xr.Dataset, plan: Plan, receipt: Receipt) -> dict[str, Any]:
    """File name -> map of each contrast that the run has; what it has and its freedom go into the receipt."""
    images: dict[str, Any] = {}
    space = VolumeSpace.from_attributes(fit.attrs["space"], fit["voxel"].values)
    for contrast, definition in plan.contrasts.items():
        try:
            lazy = contrast_over_runs([fit], definition, plan.kinds[contrast], compute=compute_here)
        except ContrastError as error:
            receipt.warnings.append(f"{name} is left out of contrast {contrast!r}: {error}")
            continue
        receipt.contrasts.append(contrast)
        for kind in _RUN_MAPS:
            file = f"{name}_contrast-{plan.labels[contrast]}_stat-{STAT_NAMES[kind]}_statmap.nii.gz"
            images[file] = map_image(lazy, str(lazy["contrast"].values[0]), kind)
        if plan.kinds[contrast] == "F":
            images |= _joint_images(fit, definition, f"{name}_contrast-{plan.labels[contrast]}", space)
    solution = fit["solution"].values
    receipt.degrees_of_freedom = float(solution[0].degrees_of_freedom[0])
    images[f"{name}_desc-brain_mask.nii.gz"] = space.mask_image()
    return images


def _joint_images(fit: xr.Dataset, definition: str, start: str, space: VolumeSpace) -> dict[str, Any]:
    """File name -> what the joint test of an F contrast over runs needs of a run."""
    columns = [str(column) for column in fit["regressor"].values]
    effects, factors = run_estimates(fit, contrast_matrix(definition, columns))
    return {
        f"{start}_stat-estimates_statmap.nii.gz": space.to_image(effects, outside=0),
        # The lower triangles, row by row.
        f"{start}_stat-cholesky_statmap.nii.gz": space.to_image(factors[np.tril_indices(len(effects))], outside=0),
    }


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
    label, kind = plan.labels[contrast], plan.kinds[contrast]
    variances = np.stack([_map_of(item, label, "variance", space)[0] for item in runs])
    freedom = np.array([item.degrees_of_freedom for item in runs])[:, None] + np.zeros(variances.shape)
    if kind == "F":
        effects = np.stack([_map_of(item, label, "estimates", space) for item in runs])
        size = effects.shape[1]
        factors = np.zeros((len(runs), size, size, space.voxels.size))
        for index, item in enumerate(runs):
            factors[(index, *np.tril_indices(size))] = _map_of(item, label, "cholesky", space)
        maps = joint_f(effects, factors, variances, freedom, plan.precision_weighted)
    else:
        effects = np.stack([_map_of(item, label, "effect", space) for item in runs])
        maps = fixed_effects(effects, variances, freedom, precision_weighted=plan.precision_weighted)
    seen = np.isfinite(maps.stat)
    total = np.where(np.isfinite(variances), freedom, 0.0).sum(axis=0)[seen]
    return {
        f"{name}_contrast-{label}_stat-{STAT_NAMES.get(output, kind)}_statmap.nii.gz": describe(
            space.to_image(_one_row(maps, output), outside=1 if output == "p_value" else 0),
            kind if output == "stat" else output, contrast, total, len(maps.effect_size),
        )
        for output in OUTPUT_TYPES
    }  # fmt: skip


def _map_of(run: Receipt, label: str, stat: str, space: VolumeSpace) -> NDArray[np.float64]:
    """Values (m, V) of a map of a run."""
    _, values = read_values(map_path(run, label, stat))
    return values[:, space.voxels].astype(np.float64)


def _one_row(maps: ContrastMaps, output: str) -> NDArray[np.float64]:
    """Values of a map: (V,), or (q, V) for the effects of an F contrast."""
    values: NDArray[np.float64] = getattr(maps, output)
    return values[0] if values.ndim == 2 and len(values) == 1 else values
