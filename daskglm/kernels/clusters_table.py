"""Clusters of a map and the peaks in them."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]


def large(labels: NDArray[np.int32], size: float) -> NDArray[np.bool_]:
    """The voxels in clusters of `size` voxels and more.

    Parameters
    ----------
    labels : (V,) int32
        Cluster of each voxel, from 1; 0: none.
    size : float
        Number of voxels.

    Returns
    -------
    (V,) bool
    """
    enough = np.bincount(labels, minlength=1) >= size
    enough[0] = False
    return enough[labels]


def rank_clusters(labels: NDArray[np.int32], values: Array) -> NDArray[np.int32]:
    """Number clusters by their highest value.

    Parameters
    ----------
    labels : (V,) int32
        Cluster of each voxel, from 1 without gaps; 0: none.
    values : (V,) float64
        A map.

    Returns
    -------
    (V,) int32
        The same clusters, the highest one 1; of equal ones, the one with the lower label first.
    """
    peaks = np.full(int(labels.max(initial=0)) + 1, -np.inf)
    np.maximum.at(peaks, labels, values)
    new = np.zeros(peaks.size, dtype=np.int32)
    new[1 + np.argsort(-peaks[1:], kind="stable")] = np.arange(1, peaks.size)
    return new[labels]


def cluster_peaks(
    grid: Array, labels: NDArray[np.int32], affine: Array, min_distance: float, count: int
) -> list[tuple[NDArray[np.int64], Array]]:
    """The highest local maxima of each cluster of a volume, some distance apart.

    Parameters
    ----------
    grid : (X, Y, Z) float64
        A map, above 0 in clusters; elsewhere it does not matter.
    labels : (X, Y, Z) int32
        Cluster of each voxel, from 1 without gaps; 0: none.
    affine : (4, 4) float64
        Voxel indices to mm.
    min_distance : float
        Peaks of a cluster are further apart than this, in mm.
    count : int
        Peaks of a cluster, at most.

    Returns
    -------
    list of ((m, 3) int64, (m,) float64)
        Voxel indices and values of the peaks of each cluster, highest first.
    """
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        # One voxel more on each side, if the grid has it: neighbours outside the cluster count as 0.
        wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        cluster = np.where(labels[wide] == number, grid[wide], 0.0)
        indices = _summits(cluster, np.array([side.start for side in wide]))
        values = grid[tuple(indices.T)]
        order = np.argsort(-values, kind="stable")
        chosen = order[_apart(indices[order] @ affine[:3, :3].T, min_distance, count)]
        found.append((indices[chosen], values[chosen]))
    return found


def _summits(cluster: Array, corner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxel indices (k, 3) of the local maxima of a cluster, a box at `corner` that is 0 outside it.

    nilearn's rule: no neighbour of 26 is higher; of maxima that touch, which are equal, the voxel nearest to their
    centre.
    """
    highest = ndimage.maximum_filter(cluster, 3)
    maxima = (cluster > 0) & (cluster == highest)
    inside = cluster[cluster > 0]
    if not np.isclose(inside.max(), inside.min()):
        # The inside of a flat region is no maximum, unless the whole cluster is flat.
        maxima &= highest > ndimage.minimum_filter(cluster, 3)
    labels, n_labels = ndimage.label(maxima)
    voxels = np.argwhere(maxima)
    which = labels[maxima]
    if n_labels == len(voxels):
        return np.asarray(voxels + corner)
    chosen = []
    for label in range(1, n_labels + 1):
        plateau = voxels[which == label] + corner
        centre = np.round(plateau.mean(axis=0))
        chosen.append(plateau[np.argmin(((plateau - centre) ** 2).sum(axis=1))])
    return np.array(chosen)


def _apart(positions: Array, min_distance: float, count: int) -> list[int]:
    """Positions (k, 3) to keep, `count` at most: each further than `min_distance` from all kept before it."""
    chosen: list[int] = []
    for index, position in enumerate(positions):
        if len(chosen) == count:
            break
        if (np.linalg.norm(positions[chosen] - position, axis=1) > min_distance).all():
            chosen.append(index)
    return chosen
