"""What users give for runs -> sources, designs and masks."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.design.events import warn_of_differing_durations
from daskglm.design.first_level import (
    check_design_matrix,
    check_in_order,
    frame_times,
    make_first_level_design_matrix,
)
from daskglm.errors import (
    DesignError,
    ImageError,
    ImageTypeError,
    MissingDependencyError,
    ParameterError,
    SpaceError,
    listing,
    option,
)
from daskglm.graph.compute import compute
from daskglm.graph.images import Preparation
from daskglm.graph.runs import mean_of_run
from daskglm.io.confounds import read_events
from daskglm.io.nifti import read_header
from daskglm.io.tables import as_table
from daskglm.models.inputs import expand
from daskglm.models.options import Options, header_image, preparation
from daskglm.schema.headers import repetition_time
from daskglm.schema.space import VolumeSpace

# In the attributes of confounds: volumes that are left out. pandas may lose it; it is a reminder only.
LEFT_OUT = "left_out"


@dataclass(frozen=True)
class RunDesign:
    """The design of a run.

    Attributes
    ----------
    design : (n, p) DataFrame
        Rows of the analysed volumes.
    volumes : (n,) int64
        Their numbers.
    """

    design: pd.DataFrame
    volumes: NDArray[np.int64]


def run_sources(run_imgs: Any) -> list[Any]:
    """One source a run: a path where there is a file, else an image in memory.

    Parameters
    ----------
    run_imgs : path, glob, image, or list or tuple of them
        4-D images.

    Returns
    -------
    list of str or nibabel image

    Raises
    ------
    ImageError, SpaceError
        Where something is no 4-D image of two or more volumes, or the grids differ.
    """
    if isinstance(run_imgs, (str, os.PathLike)):
        run_imgs = expand(os.fspath(run_imgs))
    items = list(run_imgs) if isinstance(run_imgs, (list, tuple)) else [run_imgs]
    if not items:
        raise ImageError("a model needs a run, but the list of runs is empty")
    sources = [_source(item) for item in items]
    first = header_image(sources[0]) if isinstance(sources[0], str) else sources[0]
    for index, source in enumerate(sources):
        shape, affine = run_shape(source)
        name = _run_name(source, index)
        if len(shape) != 4 or shape[3] < 2:
            raise ImageError(f"a run is a 4-D image of at least 2 volumes, but {name} has shape {shape}")
        VolumeSpace.from_image(first).check_same_grid(shape, affine, name)
    return sources


def run_shape(source: Any) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of a source.

    Parameters
    ----------
    source : str or nibabel image
        A run.

    Returns
    -------
    shape : tuple of int
    affine : (4, 4) float64
    """
    if isinstance(source, str):
        header = read_header(source)
        return header.shape, header.affine
    return tuple(source.shape), source.affine


def run_repetition_time(source: Any) -> float | None:
    """Repetition time of a source, by its header.

    Parameters
    ----------
    source : str or nibabel image
        A run.

    Returns
    -------
    float or None
        In seconds; None where the header says none.
    """
    header = nib.Nifti1Header(read_header(source).raw, check=False) if isinstance(source, str) else source.header
    header = nib.Nifti1Header.from_header(header, check=False)
    return repetition_time(header)


def check_repetition_times(sources: Sequence[Any], t_r: float | None) -> None:
    """Warn where the header of a run says another repetition time than the one given.

    Parameters
    ----------
    sources : sequence of str or nibabel image
        Runs.
    t_r : float or None
        Repetition time in seconds; None: nothing to compare.

    Notes
    -----
    A header without a unit of time says nothing, nor does one second: programs write it that do not know.
    """
    for index, source in enumerate(sources if t_r is not None else []):
        found = run_repetition_time(source)
        if found is not None and found != 1.0 and abs(found - float(t_r or 0)) > 1e-3 * found:
            warnings.warn(
                f"t_r is {t_r} s, but the header of {_run_name(source, index)} says {found:g} s; correct the one that "
                "is wrong: events and volumes are matched by t_r",
                stacklevel=3,
            )


def run_preparation(sources: Sequence[Any], options: Options) -> Preparation:
    """Grid, mask and smoothing of runs; nilearn's EPI mask of all of them where no mask is given.

    Parameters
    ----------
    sources : sequence of str or nibabel image
        Runs on one grid.
    options : Options
        Mask, smoothing, resampling.

    Returns
    -------
    Preparation

    Raises
    ------
    MissingDependencyError
        Where a mask has to be computed and nilearn is not installed.
    SpaceError
        Where the mask is empty or on another grid.
    """
    reference = header_image(sources[0]) if isinstance(sources[0], str) else sources[0].slicer[..., 0]
    if options.mask_img is None:
        options = _with_mask(options, _epi_mask(sources, reference, options))
    return preparation(reference, options)


def run_designs(
    shapes: Sequence[tuple[int, ...]],
    events: Any,
    confounds: Any,
    sample_masks: Any,
    design_matrices: Any,
    t_r: float | None,
    slice_time_ref: float,
    parameters: dict[str, Any],
) -> list[RunDesign]:
    """The design of each run, at the volumes that are analysed.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Shapes of the runs.
    events, confounds, design_matrices : table or list of tables, or None
        One a run: DataFrame, path, or array for confounds.
    sample_masks : array, list of arrays or None
        Numbers of the volumes that are kept, or one bool a volume; None in a list keeps all.
    t_r : float or None
        Repetition time in seconds.
    slice_time_ref : float
        Fraction of it to which the volumes are aligned.
    parameters : dict
        Further arguments of :func:`make_first_level_design_matrix`.

    Returns
    -------
    list of RunDesign

    Raises
    ------
    DesignError, ParameterError
        With the run, the rule and the values.
    """
    n_runs = len(shapes)
    masks = _one_a_run(sample_masks, n_runs, "sample_masks", is_mask=True)
    tables = _one_a_run(design_matrices, n_runs, "design_matrices")
    all_events, all_confounds = _one_a_run(events, n_runs, "events"), _one_a_run(confounds, n_runs, "confounds")
    if design_matrices is None and events is None and confounds is None:
        raise DesignError("a model needs events, confounds or design_matrices, but none of them was given")
    if design_matrices is not None:
        _warn_of_unused(events, confounds, {"t_r": t_r, "slice_time_ref": slice_time_ref, **parameters})
    if design_matrices is None and t_r is None:
        raise ParameterError("a design from events needs the repetition time; give t_r in seconds")
    all_events = [
        read_events(os.fspath(table)) if isinstance(table, (str, os.PathLike)) else table for table in all_events
    ]
    if design_matrices is None and n_runs > 1 and parameters.get("impulse", "sample") == "sample":
        named = {f"run {k + 1}": table for k, table in enumerate(all_events) if isinstance(table, pd.DataFrame)}
        warn_of_differing_durations(named, stacklevel=4)
    designs = []
    for index, shape in enumerate(shapes):
        run, n_volumes = f"run {index + 1}", shape[3]
        if design_matrices is not None:
            design = check_design_table(tables[index], run)
        else:
            regressors = _confounds(all_confounds[index], n_volumes, run)
            if sample_masks is None and regressors is not None:
                _check_none_left_out(regressors, run)
            times = frame_times(n_volumes, float(t_r or 0), slice_time_ref)
            extra = _columns(regressors)
            design = make_first_level_design_matrix(times, all_events[index], add_regs=extra, **parameters)
        if len(design) != n_volumes:
            raise DesignError(
                f"a design has a row a volume, but that of {run} has {len(design)} for {n_volumes}; keep the rows of "
                "volumes that sample_masks leaves out"
            )
        volumes = _volumes(masks[index], n_volumes, run)
        designs.append(RunDesign(design.iloc[volumes], volumes))
    return designs


def _warn_of_unused(events: Any, confounds: Any, parameters: dict[str, Any]) -> None:
    """Tell what a given design makes meaningless."""
    if events is not None or confounds is not None:
        warnings.warn("design_matrices were given, so events and confounds are not used", stacklevel=5)
    of_design = signature(make_first_level_design_matrix).parameters
    defaults = {"t_r": None, "slice_time_ref": 0.0} | {name: item.default for name, item in of_design.items()}
    changed = [name for name, value in parameters.items() if not _same(value, defaults[name])]
    if changed:
        warnings.warn(f"design_matrices were given, which do not depend on {listing(changed)}", stacklevel=5)


def _same(value: Any, default: Any) -> bool:
    """Whether a parameter has its default value."""
    return value is default or (not callable(value) and bool(np.all(np.asarray(value == default))))


def check_design_table(given: Any, run: str) -> pd.DataFrame:
    """A design matrix that was given.

    Parameters
    ----------
    given : DataFrame or path
        Design matrix.
    run : str
        Which run it is of, for messages.

    Returns
    -------
    DataFrame

    Raises
    ------
    DesignError
        Where it is missing, empty or not finite numbers.
    """
    design = as_table(given)
    if design is None:
        raise DesignError(f"every run has a design matrix, but that of {run} is None; give one a run")
    if not np.isfinite(check_design_matrix(design)[1]).all():
        raise DesignError(f"a design matrix is finite numbers, but that of {run} has NaN or infinity; replace them")
    return design


def _run_name(source: Any, index: int) -> str:
    """What a run is called in messages."""
    return source if isinstance(source, str) else f"run {index + 1}"


def _source(item: Any) -> Any:
    """A path, or an image whose values are in memory."""
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    if not hasattr(item, "dataobj") or not hasattr(item, "affine"):
        raise ImageTypeError(f"runs are paths or nibabel images, but got {type(item).__name__}")
    path = item.get_filename()
    if not nib.is_proxy(item.dataobj) or path is None or not os.path.isfile(path):
        return item
    # An affine that was changed in memory belongs to the image, not to the file.
    return path if np.array_equal(item.affine, read_header(path).affine) else item


def _with_mask(options: Options, mask: Any) -> Options:
    """Options with a mask."""
    return Options(**{**options.__dict__, "mask_img": mask})


def _epi_mask(sources: Sequence[Any], reference: Any, options: Options) -> Any:
    """Nilearn's EPI mask of each run's mean, and the voxels that at least half of the runs have."""
    try:
        from nilearn.masking import compute_epi_mask, intersect_masks
    except ImportError as error:
        raise MissingDependencyError(
            f"without a mask nilearn's EPI mask is computed, and nilearn is not installed; {_a_mask()}, or pip install "
            "'daskglm[nilearn]'"
        ) from error
    space = VolumeSpace.from_image(reference)
    means = compute(*(mean_of_run(source, Preparation(space)) for source in sources), n_jobs=options.n_jobs)
    try:
        masks = [compute_epi_mask(space.to_image(mean)) for mean in means]
        return intersect_masks(masks, threshold=0.5, connected=True)
    except (ValueError, IndexError) as error:
        raise SpaceError(
            f"no mask can be computed from these runs ({error}); {_a_mask()}{option(', or False for all voxels', '')}"
        ) from error


def _a_mask() -> str:
    """How a run comes by a mask."""
    return option("give mask_img", "add desc-brain_mask images to the derivatives")


def _one_a_run(given: Any, n_runs: int, name: str, is_mask: bool = False) -> list[Any]:
    """A list of one item a run."""
    if given is None:
        return [None] * n_runs
    single = not isinstance(given, (list, tuple))
    if is_mask and not single and len(given) and all(np.ndim(item) == 0 and item is not None for item in given):
        single = True
    items = [given] if single else list(given)
    if len(items) != n_runs:
        raise ParameterError(f"{name} has one item a run, but there are {len(items)} for {n_runs} runs")
    return items


def _confounds(given: Any, n_volumes: int, run: str) -> pd.DataFrame | None:
    """Confounds as a table of a row a volume."""
    if isinstance(given, np.ndarray):
        columns = given.reshape(len(given), -1)
        given = pd.DataFrame(columns, columns=[f"confound_{k}" for k in range(columns.shape[1])])
    table = as_table(given.to_frame() if isinstance(given, pd.Series) else given)
    if table is None:
        return None
    if len(table) != n_volumes:
        raise DesignError(
            f"confounds have a row a volume, but those of {run} have {len(table)} rows for {n_volumes} volumes; "
            "check that they belong to this run, and keep the rows of volumes that sample_masks leaves out"
        )
    check_in_order(table, f"confounds of {run}")
    return table


def _check_none_left_out(table: pd.DataFrame, run: str) -> None:
    """Raise where a table is of a run of which volumes are left out, and nothing says which."""
    left_out = table.attrs.get(LEFT_OUT)
    if left_out:
        raise ParameterError(
            f"volumes {listing(left_out)} of {run} are left out by scrubbing, but no sample mask was given with its "
            "confounds; give those of the model, model.sample_masks[path of the run], or [None] to keep all volumes"
        )


def masks_of_runs(sources: Sequence[Any], masks: Mapping[str, Any] | Sequence[Any] | None) -> list[Any] | None:
    """The sample masks that a model holds, of the runs that it is fitted to.

    Parameters
    ----------
    sources : sequence of str or nibabel image
        From :func:`run_sources`.
    masks : mapping of path to mask, sequence of masks, or None
        By path of the run, or one a run.

    Returns
    -------
    list of masks, or None

    Raises
    ------
    ParameterError
        Where a run is none of those that the masks are of.
    """
    if not isinstance(masks, Mapping):
        return None if masks is None else list(masks)
    known = {os.path.realpath(path): mask for path, mask in masks.items()}
    found = []
    for index, source in enumerate(sources):
        path = source if isinstance(source, str) else source.get_filename()
        if path is None or os.path.realpath(path) not in known:
            raise ParameterError(
                f"sample_masks of the model say which volumes are kept of {listing(masks)}, but "
                f"{_run_name(source, index)} is {'an image in memory' if path is None else 'none of these'}; give fit "
                "sample_masks, one a run, or [None] to keep all volumes"
            )
        found.append(known[os.path.realpath(path)])
    return found


def _columns(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """A table, or None where it has no columns."""
    return None if table is None or table.columns.empty else table


def _volumes(mask: Any, n_volumes: int, run: str) -> NDArray[np.int64]:
    """Numbers of the volumes that a sample mask keeps."""
    if mask is None:
        return np.arange(n_volumes)
    array = np.asarray(mask)
    if array.ndim != 1 or not array.size:
        raise ParameterError(f"a sample mask is a list of volumes to keep, but that of {run} has shape {array.shape}")
    if array.dtype == bool:
        if array.size != n_volumes:
            raise ParameterError(f"a mask of bool has one a volume, but that of {run} has {array.size} for {n_volumes}")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu":
        raise ParameterError(f"a sample mask holds numbers of volumes or one bool each; that of {run} is {array.dtype}")
    if array.size == n_volumes > 2 and set(array.tolist()) == {0, 1}:
        raise ParameterError(
            f"a sample mask holds numbers of volumes or one bool each, but that of {run} is 0 and 1; make it bool"
        )
    wrong = array[(array < 0) | (array >= n_volumes)]
    if wrong.size or np.unique(array).size < array.size:
        raise ParameterError(
            f"a sample mask names each volume from 0 to {n_volumes - 1} once, but that of {run} has "
            + (listing(map(str, wrong)) if wrong.size else "repetitions")
        )
    return np.sort(array).astype(np.int64)
