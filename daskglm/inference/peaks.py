"""Where the extremes of a map are."""

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.kernels.peaks import local_maxima
from daskglm.schema.datasets import space_of


def find_peaks(maps: xr.Dataset, count: int = 3, min_distance: float = 8.0) -> pd.DataFrame:
    """List the highest and lowest local extremes of each contrast's z map.

    Parameters
    ----------
    maps : xarray.Dataset
        Computed maps.
    count : int
        Peaks of each sign and contrast, at most.
    min_distance : float
        Smallest distance between two of one sign, in mm.

    Returns
    -------
    DataFrame
        Columns contrast, x, y, z (mm), stat_type, stat and z_score. F contrasts have positive peaks only.
        These describe the map; they are no test.
    """
    space = space_of(maps)
    position = np.full(int(np.prod(space.shape)), -1)
    position[space.voxels] = np.arange(space.voxels.size)
    rows = []
    for name in maps["contrast"].values:
        chosen = maps.sel(contrast=name)
        kind = str(chosen["stat_type"].values)
        for sign in (1.0, -1.0) if kind == "t" else (1.0,):
            grid = np.asanyarray(space.to_image(sign * chosen["z_score"].values).dataobj)
            for index in local_maxima(grid, count, min_distance, space.affine):
                voxel = position[np.ravel_multi_index(tuple(index), space.shape, order="F")]
                x, y, z = space.coordinates(np.array([voxel]))[0]
                z_score = float(chosen["z_score"].values[voxel])
                if sign * z_score > 0:
                    stat = float(chosen["stat"].values[voxel])
                    rows.append((str(name), x, y, z, kind, stat, z_score))
    return pd.DataFrame(rows, columns=["contrast", "x", "y", "z", "stat_type", "stat", "z_score"])
