"""The clusters that a permutation test formed, with their corrected p."""

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.kernels.adjacency import grid_adjacency
from daskglm.kernels.clusters import cluster_statistics
from daskglm.schema.datasets import space_of

_COLUMNS = (
    "contrast", "cluster", "sign", "x", "y", "z", "peak", "voxels", "mm3", "p_size", "mass", "p_mass", "p_voxel",
    "p_tfce",
)  # fmt: skip


def permutation_clusters(maps: xr.Dataset, connectivity: int = 6) -> pd.DataFrame:
    """List the clusters of each contrast, largest first, whether or not they are significant.

    Parameters
    ----------
    maps : xarray.Dataset
        Of :func:`~daskglm.permutation_test` with a cluster-forming threshold, computed.
    connectivity : int
        Neighbours of a voxel, as of the test.

    Returns
    -------
    DataFrame
        A row a cluster: contrast, cluster (1 is the largest), sign, x, y, z (mm) and statistic of its peak, voxels,
        mm3, mass; ``p_size`` and ``p_mass``, its corrected p; ``p_voxel`` and ``p_tfce``, the smallest corrected p of
        its voxels by their statistic and, where that was tested, by TFCE.
    """
    space, found = space_of(maps), []
    adjacency = grid_adjacency(space.shape, space.voxels, connectivity)
    volume = abs(float(np.linalg.det(space.affine[:3, :3])))
    for contrast in maps["contrast"].values:
        chosen = maps.sel(contrast=contrast)
        level = chosen["scaled_stat" if "scaled_stat" in chosen else "stat"].values
        # The voxels of clusters are known: those of one sign that touch are one cluster again.
        inside = np.where(chosen["size"].values > 0, np.sign(level), 0.0)
        labels = cluster_statistics(inside, adjacency, 0.0, True).labels
        members = [np.flatnonzero(labels == label) for label in range(1, labels.max(initial=0) + 1)]
        p = {name: 10 ** -chosen[f"logp_max_{name}"].values for name in ("size", "mass", "stat", "tfce")
             if f"logp_max_{name}" in chosen}  # fmt: skip
        rows = []
        for voxels in members:
            peak = voxels[np.abs(level[voxels]).argmax()]
            (x, y, z) = space.coordinates(np.array([peak]))[0]
            rows.append(
                (
                    str(contrast), 0, "+" if level[peak] > 0 else "-", x, y, z, chosen["stat"].values[peak],
                    voxels.size, voxels.size * volume, p["size"][peak], chosen["mass"].values[peak], p["mass"][peak],
                    np.nanmin(p["stat"][voxels]), np.nanmin(p["tfce"][voxels]) if "tfce" in p else np.nan,
                )
            )  # fmt: skip
        rows.sort(key=lambda row: (-row[7], -row[10]))
        found += [(row[0], number, *row[2:]) for number, row in enumerate(rows, start=1)]
    table = pd.DataFrame(found, columns=list(_COLUMNS))
    return table if "logp_max_tfce" in maps else table.drop(columns="p_tfce")
