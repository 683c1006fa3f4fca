"""Local maxima of a map."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter


def local_maxima(
    grid: NDArray[np.float64], count: int, min_distance: float, affine: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The highest local maxima of a volume, some distance apart.

    Parameters
    ----------
    grid : (X, Y, Z) float64
        A map; NaN where there is none.
    count : int
        How many to find, at most.
    min_distance : float
        Smallest distance between two of them, in mm.
    affine : (4, 4) float64
        Voxel indices to mm.

    Returns
    -------
    (k, 3) int64
        Voxel indices, highest first: voxels not under any of their 26 neighbours, pruned greedily.
    """
    filled = np.where(np.isfinite(grid), grid, -np.inf)
    summits = np.isfinite(grid) & (filled == maximum_filter(filled, size=3, mode="constant", cval=-np.inf))
    indices = np.argwhere(summits)
    indices = indices[np.argsort(-filled[summits], kind="stable")]
    positions = indices @ affine[:3, :3].T
    chosen: list[int] = []
    for index, position in enumerate(positions):
        if len(chosen) == count:
            break
        if all(np.linalg.norm(position - positions[other]) >= min_distance for other in chosen):
            chosen.append(index)
    return indices[chosen].astype(np.int64)
