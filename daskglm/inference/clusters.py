"""The clusters of a statistical image as a table, with nilearn's interface."""

import warnings
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import ParameterError
from daskglm.inference.thresholding import check_number, clusters_of, read_map
from daskglm.kernels.clusters_table import cluster_peaks, large, rank_clusters
from daskglm.schema.space import VolumeSpace

_COLUMNS = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
# The peak of a cluster and up to three more, as in nilearn.
_PEAKS = 4


def get_clusters_table(
    stat_img: Any,
    stat_threshold: float,
    cluster_threshold: int = 0,
    two_sided: bool = False,
    min_distance: float = 8.0,
    return_label_maps: bool = False,
) -> Any:
    """List the clusters of a map and the peaks in them.

    Parameters
    ----------
    stat_img : image or path
        A 3-D map, thresholded or not. NaN and infinity are in no cluster.
    stat_threshold : float
        Clusters are voxels with values above it that share faces; for a negative one, with values under it.
    cluster_threshold : int
        Clusters with fewer voxels are left out.
    two_sided : bool
        List the clusters under -stat_threshold too, after the others.
    min_distance : float
        Peaks of one cluster are further apart than this, in mm.
    return_label_maps : bool
        Return the clusters as images too.

    Returns
    -------
    table : DataFrame
        Columns Cluster ID, X, Y, Z (mm), Peak Stat, Cluster Size (mm3). IDs are consecutive, for each sign from
        the highest |peak| down; up to three more peaks of cluster 1 follow it as 1a, 1b and 1c, without a size.
        Sizes are in whole mm3, rounded down.
    label_maps : list of Nifti1Image
        Only with return_label_maps: int32, the ID of each voxel's cluster or 0. Two-sided, one map for the
        positive and one for the negative clusters, also where there is none.

    Raises
    ------
    ParameterError
        Where a parameter has a value that it cannot have.
    ImageError
        Where the map cannot be used.

    Warns
    -----
    UserWarning
        For each sign without a cluster.

    Notes
    -----
    A peak is a voxel under none of its 26 neighbours in the cluster.
    """
    check_number("stat_threshold", stat_threshold)
    check_number("cluster_threshold", cluster_threshold, 0)
    if check_number("min_distance", min_distance, 0) == 0:
        raise ParameterError("min_distance is above 0 mm, but it is 0; give 8.0, say")
    if two_sided and stat_threshold < 0:
        raise ParameterError(f"a two-sided threshold must not be negative, got {stat_threshold}; give its absolute")
    space, values = read_map(stat_img)
    missing = int((~np.isfinite(values)).sum())
    if missing:
        warnings.warn(f"{missing:,} values that are not finite belong to no cluster", stacklevel=2)
    values[~np.isfinite(values)] = 0.0
    signs = (1, -1) if two_sided else (-1 if stat_threshold < 0 else 1,)
    rows: list[tuple[Any, ...]] = []
    label_maps = []
    n_clusters = 0
    for sign in signs:
        above = sign * values > abs(stat_threshold)
        part, heights = space.select(above), sign * values[above]
        labels = _ranked_clusters(part, heights, cluster_threshold)
        if not labels.any():
            side = "higher" if sign > 0 else "lower"
            message = f"No clusters found with stat {side} than {sign * abs(stat_threshold)}"
            warnings.warn(message, UserWarning, stacklevel=2)
        rows += _rows(part, heights, labels, sign, n_clusters, min_distance)
        label_maps.append(part.to_image(np.where(labels > 0, labels + n_clusters, 0).astype(np.int32)))
        n_clusters += int(labels.max(initial=0))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return (table, label_maps) if return_label_maps else table


def _ranked_clusters(space: VolumeSpace, heights: NDArray[np.float64], cluster_threshold: int) -> NDArray[np.int32]:
    """Clusters (V,) of all voxels of a space that are large enough, 1 the one with the highest value; 0: none."""
    labels = clusters_of(space, np.ones(heights.size, dtype=bool))
    keep = large(labels, cluster_threshold)
    labels = np.where(keep, labels, 0)
    numbers = np.cumsum(np.bincount(labels[keep], minlength=1) > 0)
    return rank_clusters(np.where(keep, numbers[labels], 0).astype(np.int32), np.where(keep, heights, -np.inf))


def _rows(
    space: VolumeSpace,
    heights: NDArray[np.float64],
    labels: NDArray[np.int32],
    sign: int,
    offset: int,
    min_distance: float,
) -> list[tuple[Any, ...]]:
    """Rows of the table for the clusters of one sign; IDs begin after `offset`."""
    if not labels.any():
        return []
    grids = [np.asanyarray(space.to_image(values, outside=0.0).dataobj) for values in (heights, labels)]
    volume = abs(np.linalg.det(space.affine[:3, :3]))
    sizes = np.bincount(labels)[1:] * volume
    rows: list[tuple[Any, ...]] = []
    peaks = cluster_peaks(grids[0], grids[1], space.affine, min_distance, _PEAKS)
    for number, (size, (indices, values)) in enumerate(zip(sizes, peaks, strict=True), start=offset + 1):
        positions = indices @ space.affine[:3, :3].T + space.affine[:3, 3]
        for rank, ((x, y, z), value) in enumerate(zip(positions, values, strict=True)):
            # Rounding first: 26.999999999 mm3 are 27.
            name, extent = (number, int(round(size, 3))) if rank == 0 else (f"{number}{ascii_lowercase[rank - 1]}", "")
            rows.append((name, x, y, z, sign * value, extent))
    return rows
