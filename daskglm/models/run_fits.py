"""Runs -> fits, lazily: shared by the estimator and the cohort."""

import warnings
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.matrix import design_array
from daskglm.errors import ImageError, NothingToTestError
from daskglm.graph.runs import NoiseModel, RunImages, solve_run, sum_run
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.scaling import Scaling
from daskglm.models.functional import label_fit
from daskglm.models.parameters import affordable_noise
from daskglm.models.runs import RunDesign

# Voxels that are solved by one task.
_VOXELS_TOGETHER = 2**14


def lazy_solution(
    run: RunImages, design: RunDesign, noise: NoiseModel, scaling: Scaling, *, contiguous: bool = False,
    parts: int = 1, ahead: bool = False,
) -> da.Array:  # fmt: skip
    """The fit of a run, lazily: it is read once.

    Parameters
    ----------
    run : RunImages
        Images.
    design : RunDesign
        Design at the analysed volumes.
    noise : NoiseModel
        Noise model.
    scaling : Scaling
        What is done to the values.
    contiguous : bool
        Lags reach across volumes that are left out.
    parts, ahead
        As for :func:`~daskglm.graph.runs.sum_run`.

    Returns
    -------
    (v,) dask array of WhitenedFit
        One a chunk of voxels.

    Raises
    ------
    ParameterError
        Where the order of the autoregression is that of the volumes.
    """
    matrix = design_array(design.design)
    n_rows, n_columns = matrix.shape
    basis = orthonormal_basis(matrix)
    noise = affordable_noise(noise, n_rows, basis.rank)
    if basis.rank < n_columns:
        warnings.warn(
            f"a design of {n_columns} columns has rank {basis.rank}: contrasts that it does not determine will be "
            "refused; leave out columns that others explain",
            stacklevel=4,
        )
    regressors = matrix @ basis.to_basis
    space = run.how.space
    moments = sum_run(run, regressors, noise.order, parts, ahead, contiguous)
    return solve_run(moments, regressors, noise, scaling, _chunks(space.voxels.size), space.c_order)


def check_any_varies(found: NDArray[Any], name: str) -> None:
    """Raise where no voxel of a run could be fitted.

    Parameters
    ----------
    found : (v,) array of WhitenedFit
        What :func:`lazy_solution` gave.
    name : str
        The run, for messages.

    Raises
    ------
    ImageError
        Where each voxel has a value that is not finite; NothingToTestError where those that have none do not vary.
    """
    if any(np.isfinite(part.residual_variance).any() for part in found) or not found[0].degrees_of_freedom.any():
        return
    if not any(part.count.any() for part in found):
        raise ImageError(f"no voxel of {name} is finite throughout; check the image and the mask")
    raise NothingToTestError(f"no voxel of {name} varies beyond what its design explains; check the image and the mask")


def label_run(found: NDArray[Any], run: RunImages, design: RunDesign, name: str) -> xr.Dataset:
    """Label the computed fit of a run.

    Parameters
    ----------
    found : (v,) array of WhitenedFit
        What :func:`lazy_solution` gave.
    run : RunImages
        Images.
    design : RunDesign
        Design.
    name : str
        The run, for messages.

    Returns
    -------
    xarray.Dataset
        Fit dataset: ``solution`` in memory, the rest made from it when it is asked for.

    """
    fitted = sum(int(np.isfinite(part.residual_variance).sum()) for part in found)
    below = sum(int((part.below_one & np.isfinite(part.residual_variance)).sum()) for part in found)
    warn_of_means(below, fitted, name, stacklevel=6)
    space = run.how.space
    basis = orthonormal_basis(design_array(design.design))
    lazy = da.from_array(found, chunks=1, name=False)
    fit = label_fit(lazy, _chunks(space.voxels.size), basis, design.design, space.voxels, space.attributes())
    return fit.assign(solution=("block", found))


def warn_of_means(below: int, n_voxels: int, run: str, stacklevel: int) -> None:
    """Warn where values became percent of means that are below one.

    Parameters
    ----------
    below, n_voxels : int
        Voxels of such a mean, and all that are fitted.
    run : str
        Which run.
    stacklevel : int
        As of :func:`warnings.warn`, from here.
    """
    if below:
        warnings.warn(
            f"signal_scaling makes values percent of their mean, but in {run} it is below 1 for {below:,} of "
            f"{n_voxels:,} voxels and counts as 1, as in nilearn: there effects are no percent; give images that were "
            "not demeaned, or signal_scaling=False (--signal-scaling none)",
            UserWarning,
            stacklevel=stacklevel,
        )


def _chunks(n_voxels: int) -> tuple[int, ...]:
    """Sizes of the chunks of voxels that are solved together."""
    return tuple(min(_VOXELS_TOGETHER, n_voxels - start) for start in range(0, n_voxels, _VOXELS_TOGETHER))
