"""Clusters of a map above a threshold, and their sizes and masses.

The map is a vector and the neighbourhood a sparse matrix, so volumes and surfaces are served alike. The definitions
are those of nilearn.mass_univariate._utils.calculate_cluster_measures: strictly above the threshold, positive and
negative clusters apart, mass the sum of the excess over the threshold. A NaN has no value and is in no cluster.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from daskglm.errors import ParameterError


class Clusters(NamedTuple):
    """The clusters of a map.

    Attributes
    ----------
    labels : (V,) int64
        Number of the cluster of each voxel, 1 to k; 0 outside of clusters. Those above zero come first.
    sizes : (k,) int64
        Voxels of each cluster.
    masses : (k,) float64
        Sum of |t| - threshold over each cluster, in units of the statistic.
    """

    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    masses: npt.NDArray[np.float64]


def label_clusters(
    values: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float
) -> npt.NDArray[np.int64]:
    """Connected components of the voxels above a threshold.

    Parameters
    ----------
    values : (V,) float
        A map; NaN where there is none.
    adjacency : (V, V) csr_array of bool
        Neighbours of each voxel; symmetric.
    threshold : float
        Voxels with a value strictly above it are in clusters.

    Returns
    -------
    (V,) int64
        1 to k, in order of the first voxel of each cluster; 0 elsewhere.

    Raises
    ------
    ParameterError
        Where the map and the neighbourhood are not of the same voxels.

    Examples
    --------
    >>> import numpy as np
    >>> from daskglm.kernels.adjacency import grid_adjacency
    >>> line = grid_adjacency((5, 1, 1), np.arange(5))
    >>> label_clusters(np.array([3.0, 0.0, 2.0, 4.0, 0.0]), line, 1.0)
    array([1, 0, 2, 2, 0])
    """
    voxels, numbers, _ = _components(values, adjacency, threshold)
    labels = np.zeros(values.size, dtype=np.int64)
    labels[voxels] = numbers + 1
    return labels


def cluster_statistics(
    stat: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float, two_sided: bool
) -> Clusters:
    """Clusters of a statistical map with their sizes and masses.

    Parameters
    ----------
    stat : (V,) float
        A map; NaN where there is none.
    adjacency : (V, V) csr_array of bool
        Neighbours of each voxel; symmetric.
    threshold : float
        Clusters are formed of t > threshold; a threshold below zero admits no negative t, as in nilearn.
    two_sided : bool
        Whether voxels with t < -threshold form clusters too, apart from the positive ones.

    Returns
    -------
    Clusters
        labels (V,), sizes (k,) and masses (k,).

    Raises
    ------
    ParameterError
        Where the map and the neighbourhood are not of the same voxels.
    """
    voxels, numbers, masses = _signed_components(stat, adjacency, threshold, two_sided)
    labels = np.zeros(stat.size, dtype=np.int64)
    labels[voxels] = numbers + 1
    return Clusters(labels, np.bincount(numbers), masses)


def largest_cluster(
    stat: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float, two_sided: bool
) -> tuple[int, float]:
    """Largest size and largest mass of the clusters of a map.

    Parameters
    ----------
    stat : (V,) float
        A map; NaN where there is none.
    adjacency, threshold, two_sided
        As for `cluster_statistics`.

    Returns
    -------
    size : int
        Voxels of the largest cluster, of either sign; 0 where there is no cluster.
    mass : float
        Mass of the heaviest cluster, perhaps another one; 0 where there is none.

    Raises
    ------
    ParameterError
        Where the map and the neighbourhood are not of the same voxels.
    """
    _, numbers, masses = _signed_components(stat, adjacency, threshold, two_sided)
    if not numbers.size:
        return 0, 0.0
    return int(np.bincount(numbers).max()), float(masses.max())


def cluster_maps(
    stat: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float, two_sided: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Size and mass of the cluster of each voxel.

    Parameters
    ----------
    stat, adjacency, threshold, two_sided
        As for `cluster_statistics`.

    Returns
    -------
    sizes : (V,) int64
        Voxels of the voxel's cluster; 0 outside of clusters. Negative clusters have positive sizes and masses too.
    masses : (V,) float64
        Mass of the voxel's cluster; 0 outside of clusters.

    Raises
    ------
    ParameterError
        Where the map and the neighbourhood are not of the same voxels.
    """
    voxels, numbers, masses = _signed_components(stat, adjacency, threshold, two_sided)
    size_map, mass_map = np.zeros(stat.size, dtype=np.int64), np.zeros(stat.size)
    size_map[voxels] = np.bincount(numbers)[numbers]
    mass_map[voxels] = masses[numbers]
    return size_map, mass_map


def _signed_components(
    stat: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float, two_sided: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Voxels of clusters of one or both signs, numbers 0 to k - 1 of their clusters, and the masses of these."""
    height = max(float(threshold), 0.0)
    voxels, numbers, count = _components(stat, adjacency, height)
    if two_sided:
        below, further, _ = _components(-stat, adjacency, height)
        voxels, numbers = np.concatenate([voxels, below]), np.concatenate([numbers, further + count])
    excess = np.abs(stat[voxels].astype(np.float64)) - threshold
    return voxels, numbers, np.bincount(numbers, weights=excess).astype(np.float64, copy=False)


def _components(
    values: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Voxels above the threshold, ascending, the numbers 0 to k - 1 of their clusters, and k."""
    if adjacency.shape != (values.size, values.size):
        raise ParameterError(f"adjacency is {adjacency.shape} but the map has {values.size} voxels; give those of one")
    # A NumPy scalar, so that a float32 map is compared with the threshold itself, not with its float32.
    voxels = np.flatnonzero(values > np.float64(threshold))
    # The rows of these voxels alone: slicing the matrix would touch all of it.
    starts = adjacency.indptr[voxels].astype(np.int64)
    counts = adjacency.indptr[voxels + 1] - starts
    rows = np.repeat(np.arange(voxels.size), counts)
    ends = np.cumsum(counts)
    columns = adjacency.indices[np.arange(rows.size) + np.repeat(starts - ends + counts, counts)]
    position = np.full(values.size, -1, dtype=np.int64)
    position[voxels] = np.arange(voxels.size)
    columns = position[columns]
    inside = columns >= 0
    # Only pairs that rise: the components of an undirected graph need each edge once.
    inside &= columns > rows
    rows, columns = rows[inside], columns[inside]
    graph = sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(voxels.size, voxels.size))
    count, numbers = connected_components(graph, directed=False) if voxels.size else (0, np.zeros(0, dtype=np.int32))
    return voxels, numbers.astype(np.int64), int(count)
