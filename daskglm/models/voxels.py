"""Single voxels of fitted models: where they are, and the values that were fitted there, read again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from daskglm.errors import ParameterError
from daskglm.graph.compute import compute
from daskglm.graph.images import lazy_array
from daskglm.graph.runs import read_run
from daskglm.kernels.scaling import scale_values
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.permutation import images_of
from daskglm.models.second_level import SecondLevelModel
from daskglm.schema.space import VolumeSpace


def voxel_at(space: VolumeSpace, coords: Sequence[float]) -> int:
    """Position, in the vector of analysed voxels, of the voxel that holds a point.

    Parameters
    ----------
    space : VolumeSpace
        Of the model.
    coords : 3 float
        Point, in mm.

    Returns
    -------
    int

    Raises
    ------
    ParameterError
        Where the point lies in no analysed voxel; the nearest is named.
    """
    point = np.asarray(coords, dtype=np.float64)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ParameterError(f"coordinates are three numbers, x, y and z in mm, but these are {coords!r}")
    at = np.rint(np.linalg.solve(space.affine[:3, :3], point - space.affine[:3, 3])).astype(np.int64)
    if ((at >= 0) & (at < space.shape)).all():
        flat = np.ravel_multi_index(tuple(at), space.shape, order="F")
        found = int(np.searchsorted(space.voxels, flat))
        if found < space.voxels.size and space.voxels[found] == flat:
            return found
    places = space.coordinates(np.arange(space.voxels.size))
    nearest = places[np.argmin(((places - point) ** 2).sum(axis=1))]
    raise ParameterError(
        f"coordinates are those of an analysed voxel, but {_place(point)} mm is outside the mask; the nearest voxel is "
        f"at {_place(nearest)} mm"
    )


def peak_of(z_map: Any, space: VolumeSpace) -> int:
    """Position of the voxel with the largest absolute z.

    Parameters
    ----------
    z_map : Nifti1Image
        A map of the model.
    space : VolumeSpace
        Of the model.

    Returns
    -------
    int

    Raises
    ------
    ParameterError
        Where no voxel has a z.
    """
    values = np.abs(np.asanyarray(z_map.dataobj).ravel(order="F")[space.voxels])
    if not np.isfinite(values).any():
        raise ParameterError("a peak is the largest z of a map, but this map has none; give coords")
    return int(np.nanargmax(values))


def images_at(
    model: SecondLevelModel, voxels: NDArray[np.int64], first_level_contrast: str | None = None
) -> NDArray[np.float64]:
    """Values of all images in some voxels, as they were fitted.

    Parameters
    ----------
    model : SecondLevelModel
        Fitted.
    voxels : (k,) int64
        Positions in the vector of analysed voxels.
    first_level_contrast : str, optional
        Which maps, where the input named several.

    Returns
    -------
    (n, k) float64
        In image units; NaN is missing. Of a store only the blocks with these voxels are read, up to 32 MB at a time;
        files are read one by one, and nothing else of them is kept.
    """
    check_is_fitted(model)
    options = replace(model._options(), mask_img=model.mask_img_)
    if model._images is not None and len(model.fits_) == 1:
        images = model._images
    else:
        images = images_of(model.second_level_input_, first_level_contrast, options).images
    (values,) = compute(lazy_array(images["data"].transpose("sample", "voxel"))[:, voxels], n_jobs=model.n_jobs)
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def run_at(model: FirstLevelModel, voxels: NDArray[np.int64], run: int = 0) -> NDArray[np.float64]:
    """Values of a run in some voxels, scaled as they were fitted.

    Parameters
    ----------
    model : FirstLevelModel
        Fitted.
    voxels : (k,) int64
        Positions in the vector of analysed voxels.
    run : int
        Which run, from 0.

    Returns
    -------
    (n, k) float64
        A row an analysed volume. The run is read through; only percent of the run's mean keeps all of its voxels.
    """
    check_run(model, run)
    if model._scaled.percent_of == "run":
        return scale_values(read_run(model._runs[run]), model._scaled)[:, voxels]
    return scale_values(read_run(model._runs[run], voxels), model._scaled)


def check_run(model: FirstLevelModel, run: int) -> None:
    """Raise unless a fitted model has a run of this number.

    Parameters
    ----------
    model : FirstLevelModel
        Fitted.
    run : int
        From 0.

    Raises
    ------
    ParameterError
        Where there is no such run.
    NotFittedError
        Where the model was not fitted.
    """
    check_is_fitted(model)
    if isinstance(run, bool) or run not in range(len(model.fits_)):
        raise ParameterError(f"runs are numbered from 0 to {len(model.fits_) - 1}, but run {run!r} was asked for")


def _place(point: NDArray[np.float64]) -> str:
    """Coordinates as text."""
    return "(" + ", ".join(f"{value:g}" for value in point.round(2)) + ")"
