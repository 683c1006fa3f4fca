"""first_level_from_bids: one model a subject, and what to fit it with."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import ImageError, ParameterError, ParameterTypeError, UnknownParameterError, listing, nearest
from daskglm.io.bids import Run, find_runs
from daskglm.io.confounds import load_confounds, read_events
from daskglm.io.nifti import read_header, read_mask
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.options import header_image
from daskglm.models.run_times import slice_time_of, warn_of_drifts, warn_of_times
from daskglm.models.runs import LEFT_OUT
from daskglm.schema.space import VolumeSpace

_REFINEMENTS = (
    "motion", "scrub", "fd_threshold", "std_dvars_threshold", "wm_csf", "global_signal", "compcor", "n_compcor",
    "ica_aroma", "tedana", "demean",
)  # fmt: skip
# What nilearn's load_confounds does where no more is said.
_NILEARN_DEFAULTS = {"motion": "full"}


def first_level_from_bids(
    dataset_path: str | os.PathLike[str],
    task_label: str | None,
    space_label: str | None = None,
    sub_labels: Sequence[str] | None = None,
    exclude_subjects: Sequence[str] | None = None,
    img_filters: Any = None,
    t_r: float | None = None,
    slice_time_ref: float | None = None,
    *,
    mask_img: Any = None,
    derivatives_folder: str = "derivatives",
    sessions: Sequence[str] | None = None,
    **parameters: Any,
) -> tuple[list[FirstLevelModel], list[list[str]], list[list[pd.DataFrame]], list[list[pd.DataFrame] | None]]:
    """Find the runs of a BIDS dataset: a model a subject, its images, events and confounds.

    ``models[k].fit(images[k], events[k], confounds[k])`` fits subject k. nilearn's function, with its defects
    mended: "derivatives" gives every subject the mask of its own runs, and volumes that are scrubbed are left
    out by `fit`: the model holds which are kept of each run in ``model.sample_masks``, one bool a volume by the path of
    the image, whatever becomes of the tables.

    Parameters
    ----------
    dataset_path : path
        BIDS dataset.
    task_label, space_label : str or None
        Task and space; None where there is one (nilearn takes MNI152NLin2009cAsym for None).
    sub_labels, exclude_subjects : sequence of str, optional
        Subjects, with or without "sub-".
    img_filters : list of (entity, value), optional
        Further entities of the images, as the `filters` of :func:`~daskglm.io.bids.find_runs`.
    t_r, slice_time_ref : float, optional
        In place of what the dataset says: RepetitionTime, and StartTime / RepetitionTime; without a StartTime 0.5
        where SliceTimingCorrected is true, else 0, with a warning. All runs of a subject
        have the same.
    mask_img : object
        As in :class:`FirstLevelModel`; "derivatives": the voxels that the brain masks of all runs of the subject
        have.
    derivatives_folder : str
        Where the preprocessed images are.
    sessions : sequence of str, optional
        Only these; a model has all sessions of its subject.
    **parameters
        Parameters of :class:`FirstLevelModel`, and those of nilearn's ``load_confounds`` with the prefix
        ``confounds_``, as in ``confounds_strategy=("motion", "scrub")``. Without any of these all columns of
        the tables are confounds; with ``confounds_strategy=None`` none is. With ``verbose=1`` the files that are
        found are printed, as nilearn does.

    Returns
    -------
    models : list of FirstLevelModel
        With ``sample_masks`` where volumes are scrubbed or not in a steady state; functions that fit without a
        model, such as :func:`beta_series`, take ``sample_mask=model.sample_masks[image]``.
    images : list of list of str
    events : list of list of DataFrame
    confounds : list of list of DataFrame, or of None
        None for a subject whose runs have no confounds, and for all with ``confounds_strategy=None``.

    Raises
    ------
    ImageError, DesignError, ParameterError
        Where runs, events, masks or confounds are missing or wrong, or the runs of a subject differ in their times;
        each is named.
    """
    options = {name: parameters.pop(name) for name in list(parameters) if name.startswith("confounds_")}
    unknown = sorted(set(parameters) - set(FirstLevelModel().get_params()))
    if unknown:
        names = [*FirstLevelModel().get_params(), *(f"confounds_{name}" for name in ("strategy", *_REFINEMENTS))]
        raise UnknownParameterError(
            f"parameters are those of FirstLevelModel, and confounds_..., but got {listing(unknown)}"
            f"{nearest(unknown[0], names) or '; correct them'}"
        )
    _check_types(task_label, space_label, sub_labels, img_filters, t_r, slice_time_ref)
    runs = find_runs(
        dataset_path, task_label, space_label, subjects=sub_labels, exclude_subjects=exclude_subjects,
        sessions=sessions, filters=img_filters, derivatives=derivatives_folder,
    )  # fmt: skip
    strategies = _strategies(options)
    _check_usable(runs)
    if "desc" not in dict(img_filters or []):
        _check_one_description(runs)
    if strategies is not None:
        _check_confounds(runs)
        warn_of_drifts(strategies, parameters.get("drift_model", "cosine"))
    subjects: dict[str, list[Run]] = {}
    for run in runs:
        subjects.setdefault(run.subject, []).append(run)
    models, images, events, confounds = [], [], [], []
    for subject, own in subjects.items():
        times = _times(own, t_r, slice_time_ref)
        mask = _common_mask(own) if isinstance(mask_img, str) and mask_img == "derivatives" else mask_img
        label = subject.removeprefix("sub-")
        known = strategies is not None and own[0].confounds is not None
        tables = [_confounds(run, strategies or {}) for run in own] if known else []
        masks = {run.bold: mask for run, (_, mask) in zip(own, tables, strict=bool(tables))}
        held = masks if any(mask is not None for mask in masks.values()) else None
        told = {**times, "mask_img": mask, "subject_label": label}
        models.append(FirstLevelModel(**{"sample_masks": held, **parameters, **told}))
        images.append([run.bold for run in own])
        events.append([read_events(str(run.events)) for run in own])
        confounds.append([table for table, _ in tables] if known else None)
    if parameters.get("verbose"):
        _print_found(subjects)
    warn_of_times(runs, t_r, slice_time_ref)
    return models, images, events, confounds


def _check_types(
    task_label: Any, space_label: Any, sub_labels: Any, img_filters: Any, t_r: Any, slice_time_ref: Any
) -> None:
    """Raise where a parameter is of another type, or a time is out of its range."""
    texts = {"task_label": task_label, "space_label": space_label}
    if isinstance(sub_labels, str) or not isinstance(sub_labels, (NoneType, Sequence, np.ndarray, pd.Series)):
        raise ParameterTypeError(f"sub_labels must be a list of text, got {sub_labels!r}")
    texts |= {f"sub_labels[{k}]": label for k, label in enumerate([] if sub_labels is None else sub_labels)}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ParameterTypeError(f"{name} must be text, got {value!r}; give '{value}'")
    if isinstance(img_filters, str):
        raise ParameterTypeError(f"img_filters must be pairs of entity and value, got {img_filters!r}")
    for pair in img_filters or []:
        if isinstance(pair, tuple) and pair and not isinstance(pair[0], str):
            raise ParameterTypeError(f"a filter must be an entity and its value, got {pair!r}; give ('run', '01')")
    for name, time, low, high in (("t_r", t_r, 0, np.inf), ("slice_time_ref", slice_time_ref, 0, 1)):
        if time is None:
            continue
        if isinstance(time, bool) or not isinstance(time, Real):
            raise ParameterTypeError(f"{name} must be a number, got {time!r}")
        value = float(time)
        if not low <= value <= high or (name == "t_r" and (value == 0 or not math.isfinite(value))):
            rule = "a positive number of seconds" if name == "t_r" else "a fraction of t_r from 0 to 1"
            raise ParameterError(f"{name} must be {rule}, got {time!r}")


def _check_one_description(runs: Sequence[Run]) -> None:
    """Raise where a run is there under several descriptions, of which none was named."""
    for run in runs:
        folder, name = os.path.split(run.bold)
        pattern = re.sub(r"_desc-[^_]+_", r"_desc-[^_]+_", re.escape(name).replace(r"\-", "-"))
        same = sorted(other for other in os.listdir(folder) if re.fullmatch(pattern, other))
        if len(same) > 1:
            raise ImageError(
                f"a run is one image, but {run.name} has {listing(same)}; name one, as in "
                "img_filters=[('desc', 'preproc')]"
            )


def _check_confounds(runs: Sequence[Run]) -> None:
    """Raise where some runs have confounds and others have none."""
    missing = [run.name for run in runs if run.confounds is None]
    if missing and len(missing) < len(runs):
        raise ImageError(
            f"every run has a table of confounds, or none, but {len(missing)} of {len(runs)} lack one: "
            f"{listing(missing)}; add ..._desc-confounds_timeseries.tsv, leave the runs out by img_filters, or give "
            "confounds_strategy=None"
        )


def _check_usable(runs: Sequence[Run]) -> None:
    """Raise where a run has a fault or no events."""
    faults = [f"{run.name}: {run.fault}" for run in runs if run.fault is not None]
    if faults:
        raise ImageError(
            f"every run can be analysed, but {len(faults)} of {len(runs)} cannot; repair them, or leave them out by "
            f"img_filters or exclude_subjects: {' | '.join(faults[:3])}{' | ...' if len(faults) > 3 else ''}"
        )
    missing = [run.name for run in runs if run.events is None]
    if missing:
        raise ImageError(f"every run has a table of events, but {listing(missing)} lack one; add ..._events.tsv")


def _print_found(subjects: Mapping[str, Sequence[Run]]) -> None:
    """Print the files of each subject."""
    for subject, runs in subjects.items():
        print(f"{subject}: {len(runs)} run{'s' if len(runs) > 1 else ''}")  # noqa: T201
        for run in runs:
            files = {"image": run.bold, "events": run.events, "confounds": run.confounds, "mask": run.mask}
            for what, path in files.items():
                print(f"  {what:<9} {path or 'none'}")  # noqa: T201


def _times(runs: Sequence[Run], t_r: float | None, slice_time_ref: float | None) -> dict[str, float | None]:
    """Repetition time and reference slice of the model of some runs, which are the same for all of them."""
    t_rs = [t_r or run.t_r for run in runs]
    _check_same(runs, t_rs, "t_r", "repetition time")
    if slice_time_ref is not None:
        return {"t_r": t_rs[0], "slice_time_ref": slice_time_ref}
    references = [slice_time_of(run, value) for run, value in zip(runs, t_rs, strict=True)]
    _check_same(runs, references, "slice_time_ref", "StartTime / RepetitionTime")
    return {"t_r": t_rs[0], "slice_time_ref": references[0]}


def _check_same(runs: Sequence[Run], values: Sequence[float | None], parameter: str, what: str) -> None:
    """Raise where the runs of a subject differ in a value that its model has once."""
    first = values[0]
    if all(value == first or (value and first and math.isclose(value, first, rel_tol=1e-4)) for value in values):
        return
    shown = [
        f"{run.name} {'none' if value is None else format(value, 'g')}" for run, value in zip(runs, values, strict=True)
    ]
    raise ImageError(
        f"the model of a subject has one {what}, but its runs have several: {listing(shown)}; choose runs by "
        f"img_filters or sessions, or give {parameter} (`daskglm first-level` uses that of each run)"
    )


def _strategies(options: dict[str, Any]) -> dict[str, Any] | None:
    """Strategies of :func:`load_confounds` from nilearn's parameters; empty: all columns; None: no confounds."""
    if not options:
        return {}
    given = {name.removeprefix("confounds_"): value for name, value in options.items()}
    names = given.pop("strategy", ("motion", "high_pass", "wm_csf"))
    unknown = sorted(set(given) - set(_REFINEMENTS))
    if unknown:
        hint = nearest(unknown[0], ["strategy", *_REFINEMENTS])
        raise UnknownParameterError(
            f"confounds_ takes strategy, {listing(_REFINEMENTS)}, but got {listing(unknown)}{hint}"
        )
    if names is None:
        return None
    strategies: dict[str, Any] = {
        name: given.pop(name, _NILEARN_DEFAULTS.get(name)) for name in names if name != "non_steady_state"
    }
    return {**strategies, **given}


def _confounds(run: Run, strategies: dict[str, Any]) -> tuple[pd.DataFrame, NDArray[np.bool_] | None]:
    """Confounds of a run, and which volumes are kept; None: all."""
    shape = read_header(run.bold).shape
    n_volumes = shape[3] if len(shape) > 3 else 1
    table, kept = load_confounds(run.bold, run.confounds, strategies, n_volumes)
    table = pd.DataFrame(index=range(n_volumes)) if table is None else table
    if kept is None:
        return table, None
    mask = np.isin(np.arange(n_volumes), kept)
    table.attrs[LEFT_OUT] = np.flatnonzero(~mask).tolist()
    return table, mask


def _common_mask(runs: Sequence[Run]) -> Any:
    """The voxels that the masks of all runs have, as an image."""
    missing = [run.name for run in runs if run.mask is None]
    if missing:
        raise ImageError(f"mask_img='derivatives' needs a brain mask a run, but {listing(missing)} lack one")
    space = VolumeSpace.from_image(header_image(str(runs[0].mask)))
    keep = np.ones(space.shape, dtype=bool)
    for run in runs:
        header, mask = read_mask(str(run.mask))
        space.check_same_grid(header.shape, header.affine, str(run.mask))
        keep &= mask
    return space.select(keep.ravel(order="F")).mask_image()
