"""Images and a design -> the fit of a group, its moments kept on disk: in a cache, or until the results are whole."""

from typing import Any

import dask.array as da
import joblib
import numpy as np
import pandas as pd
import xarray as xr

from daskglm.design.matrix import design_array
from daskglm.graph.checkpoints import sum_in_units, units_of
from daskglm.graph.compute import compute
from daskglm.graph.glm import solve_moments, sum_moments
from daskglm.graph.images import lazy_array
from daskglm.graph.progress import Work
from daskglm.io.cache import kept, load_moments, save_moments
from daskglm.io.checkpoints import checkpoint_folder, finished, forget_checkpoints
from daskglm.io.journal import Run
from daskglm.io.provenance import software
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.moments import Moments
from daskglm.models.functional import label_fit
from daskglm.models.inputs import Loaded, fingerprint
from daskglm.schema.datasets import space_of


def lazy_fit(
    loaded: Loaded, design: pd.DataFrame, min_count: int, folder: str | None, treatment: Any, n_jobs: int | None,
    progress: str | None,
) -> xr.Dataset:  # fmt: skip
    """Fit a design to images, lazily; the moments come from the cache where they are in it.

    Parameters
    ----------
    loaded : Loaded
        Images of n samples.
    design : (n, p) DataFrame
        Design in their order.
    min_count : int
        Samples that a voxel must have.
    folder : str or None
        Cache.
    treatment : object
        What was done to the images, for the key of the cache.
    n_jobs : int or None
        Threads, where moments are made for the cache.
    progress : str or None
        Show a progress bar under this name then.

    Returns
    -------
    xarray.Dataset
        A fit dataset.
    """
    matrix = design_array(design)
    basis = orthonormal_basis(matrix)
    images = loaded.images
    data = lazy_array(images["data"])
    moments, chunks = sum_moments(data, basis, matrix), data.chunks[1]
    if folder is not None:
        space = space_of(images)
        key = [fingerprint(loaded), matrix, [space.shape, space.affine, space.voxels, chunks, treatment]]

        def make() -> list[Moments]:
            (computed,) = compute(moments, n_jobs=n_jobs, progress=images_read(progress, len(images["sample"])))
            return list(computed)

        items = kept(folder, "moments", key, make, save_moments, load_moments)
        objects = np.empty(len(items), dtype=object)
        objects[:] = items
        moments = da.from_array(objects, chunks=1, name=False)
    solution = solve_moments(moments, min_count, data.dtype)
    return label_fit(solution, chunks, basis, design, images["voxel"], images.attrs["space"])


def fit_in_units(
    loaded: Loaded, design: pd.DataFrame, min_count: int, run: Run, treatment: Any, n_jobs: int | None,
    progress: str | None,
) -> xr.Dataset:  # fmt: skip
    """Fit a design to images; an interrupted pass over them goes on from its checkpoints beside the output.

    Parameters
    ----------
    loaded : Loaded
        Images of n samples.
    design : (n, p) DataFrame
        Design in their order.
    min_count : int
        Samples that a voxel must have.
    run : Run
        Of the output; told how many units there are.
    treatment : object
        What was done to the images.
    n_jobs : int or None
        Threads, where no cluster is active.
    progress : str or None
        Show progress under this name.

    Returns
    -------
    xarray.Dataset
        A fit dataset, computed. Checkpoints of other images, designs or treatments are removed.
    """
    matrix = design_array(design)
    basis, data = orthonormal_basis(matrix), lazy_array(loaded.images["data"])
    from_disk = loaded.sources is not None and loaded.images["data"].chunks is not None
    units = units_of(data, basis.rank) if from_disk else None
    if units is None:
        forget_checkpoints(run.output)
        run.begin(1)
        moments = sum_moments(data, basis, matrix)
    else:
        space = space_of(loaded.images)
        what = [fingerprint(loaded), matrix, data.chunks, str(data.dtype), units.levels, treatment,
                space.shape, space.affine, space.voxels, software()["daskglm"]]  # fmt: skip
        key = str(joblib.hash(what))
        folder = checkpoint_folder(run.output, key)
        forget_checkpoints(run.output, but=key)
        run.begin(units.names.size, lambda: len(finished(folder)))
        moments = sum_in_units(data, basis, matrix, units, folder, n_jobs, progress)
        progress = None
    solution = solve_moments(moments, min_count, data.dtype)
    lazy = label_fit(solution, data.chunks[1], basis, design, loaded.images["voxel"], loaded.images.attrs["space"])
    (fit,) = compute(lazy, n_jobs=n_jobs, progress=images_read(progress, data.shape[0]))
    return fit


def images_read(progress: str | None, n_images: int) -> Work | None:
    """Progress of a pass over images, told in images.

    Parameters
    ----------
    progress : str or None
        Its name; None: nothing is shown.
    n_images : int
        How many images there are.

    Returns
    -------
    Work or None
    """
    return None if progress is None else Work(progress, n_images, "sum-moments")
