"""Images and a design -> the lazy fit of a group, with its moments kept on disk where that is asked for."""

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from daskglm.design.matrix import design_array
from daskglm.graph.compute import compute
from daskglm.graph.glm import solve_moments, sum_moments
from daskglm.graph.images import lazy_array
from daskglm.io.cache import kept, load_moments, save_moments
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
    moments = sum_moments(lazy_array(images["data"]), basis, matrix)
    chunks = lazy_array(images["data"]).chunks[1]
    if folder is not None:
        space = space_of(images)
        key = [fingerprint(loaded), matrix, [space.shape, space.affine, space.voxels, chunks, treatment]]

        def make() -> list[Moments]:
            (computed,) = compute(moments, n_jobs=n_jobs, progress=progress)
            return list(computed)

        items = kept(folder, "moments", key, make, save_moments, load_moments)
        objects = np.empty(len(items), dtype=object)
        objects[:] = items
        moments = da.from_array(objects, chunks=1, name=False)
    solution = solve_moments(moments, min_count)
    return label_fit(solution, chunks, basis, design, images["voxel"], images.attrs["space"])
