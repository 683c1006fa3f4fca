"""Threshold-free cluster enhancement (TFCE) of maps over a neighbourhood.

The value of a voxel is the integral over heights h, from 0 to the voxel's own, of extent(h)^E h^H dh, where extent(h)
is the number of voxels of the cluster around it at that height: Smith & Nichols (2009), NeuroImage 44:83-98.
`enhance` computes the integral itself, by the package tfce. `enhance_stepwise` computes nilearn's sum.
"""

import importlib.util
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from daskglm.errors import MissingDependencyError, ParameterError, check_choice

# Heights at which nilearn, as fslmaths, labels a map.
_STEPS = 100


class Grid(NamedTuple):
    """Where the voxels of a volume lie, for what is faster on a grid than on a list of neighbours.

    Attributes
    ----------
    shape : tuple of 3 int
        Size of the grid, in voxels.
    voxels : (V,) int64
        Flat indices of the analysed voxels, in Fortran order.
    connectivity : int
        6, 18 or 26.
    """

    shape: tuple[int, int, int]
    voxels: npt.NDArray[np.int64]
    connectivity: int = 6


def check_enhancement(tfce: bool | str, extent: float, height: float) -> None:
    """Raise where maps cannot be enhanced: to be known before the work.

    Parameters
    ----------
    tfce : bool or "stepwise"
        How; only the exact integral needs the package.
    extent, height : float
        Exponents E and H.

    Raises
    ------
    MissingDependencyError
        Where the package tfce is needed and not installed.
    ParameterError
        Where there is no such way, or an exponent is negative.
    """
    check_choice("tfce", tfce, (True, False, "stepwise"))
    if tfce is True and importlib.util.find_spec("tfce") is None:
        raise MissingDependencyError(
            "TFCE is computed by the package tfce, which is not installed; pip install 'daskglm[tfce]'"
        )
    # The negation of what is allowed, for NaN.
    if not (extent >= 0 and height >= 0):
        raise ParameterError(f"the exponents of TFCE have to be at least 0, but extent={extent}, height={height}")


def enhance(
    maps: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_] | Grid, *, extent: float = 0.5,
    height: float = 2.0, two_sided: bool = True,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """Exact TFCE of some maps: the integral of extent(h)^E h^H dh.

    The values are on one scale over maps and resolutions of the height. Those of nilearn and fslmaths are sums
    without dh, see `enhance_stepwise`. One thread computes all maps, with the GIL released.

    Parameters
    ----------
    maps : (m, V) float
        Maps, used as float32; NaN where there is no value.
    adjacency : (V, V) csr_array of bool, or Grid
        Neighbours of each voxel, symmetric. A `Grid` gives the same values, sooner where its connectivity is 18 or 26.
    extent, height : float
        Exponents E and H: 0.5 and 2 for volumes; 1 and 2 are usual for surfaces.
    two_sided : bool
        Whether negative values are enhanced too, into negative ones; they become 0 otherwise.

    Returns
    -------
    (m, V) float32
        In the unit of the map, to the power H + 1.

    Raises
    ------
    MissingDependencyError
        Where the package tfce is not installed.
    ParameterError
        Where the maps and the neighbourhood are not of the same voxels, the connectivity is unknown, or an exponent is
        negative.
    """
    check_enhancement(True, extent, height)
    import tfce

    maps = np.asarray(maps, dtype=np.float32)
    size = adjacency.voxels.size if isinstance(adjacency, Grid) else adjacency.shape[0]
    if maps.ndim != 2 or maps.shape[1] != size:
        raise ParameterError(f"maps has to be (m, {size}), for the {size} voxels of the adjacency, not {maps.shape}")
    if not maps.size:
        return np.zeros(maps.shape, dtype=np.float32)
    options = {"E": float(extent), "H": float(height), "two_sided": two_sided, "n_jobs": 1}
    if not isinstance(adjacency, Grid):
        return tfce.tfce(maps.T, adjacency=adjacency, **options).T
    if adjacency.connectivity not in tfce.core.VALID_CONNECTIVITY:
        raise ParameterError(f"connectivity has to be 6, 18 or 26, not {adjacency.connectivity}")
    volumes = np.zeros((int(np.prod(adjacency.shape)), len(maps)), dtype=np.float32, order="F")
    volumes[adjacency.voxels] = maps.T
    volumes = volumes.reshape((*adjacency.shape, len(maps)), order="F")
    enhanced = tfce.tfce(volumes, connectivity=adjacency.connectivity, **options)
    return np.ascontiguousarray(enhanced.reshape((-1, len(maps)), order="F")[adjacency.voxels].T)


def enhance_stepwise(
    stat: npt.NDArray[np.floating], adjacency: sparse.csr_array[np.bool_], two_sided: bool = True
) -> npt.NDArray[np.float64]:
    """TFCE as nilearn discretises it.

    sum_k extent(h_k)^0.5 h_k^2 over the heights linspace(0, max, 101)[1:] up to the voxel's own, where max is the
    largest value of this map (of its magnitude, two-sided). The sum is not multiplied by the step, as in fslmaths, so
    the scale of the values depends on the maximum of each map. It equals
    nilearn.mass_univariate._utils.calculate_tfce(dh="auto").

    Parameters
    ----------
    stat : (V,) float
        A map; NaN where there is none.
    adjacency : (V, V) csr_array of bool
        Neighbours of each voxel; symmetric.
    two_sided : bool
        Whether negative values are enhanced too, into negative ones; they become 0 otherwise.

    Returns
    -------
    (V,) float64

    Raises
    ------
    ParameterError
        Where the map and the neighbourhood are not of the same voxels, or a value is infinite.
    """
    if adjacency.shape != (stat.size, stat.size):
        raise ParameterError(f"adjacency is {adjacency.shape} but the map has {stat.size} voxels; give those of one")
    values = np.where(np.isnan(stat), 0.0, stat.astype(np.float64))
    peak = float(np.max(np.abs(values) if two_sided else values, initial=0.0))
    if not np.isfinite(peak):
        raise ParameterError("a map with infinite values cannot be cut into steps; give them a finite value or NaN")
    if peak == 0.0:
        return np.zeros(stat.size)
    heights = np.linspace(0.0, peak, _STEPS + 1)[1:]
    enhanced = _sum_steps(np.searchsorted(heights, values, side="right"), adjacency, heights)
    if two_sided:
        enhanced -= _sum_steps(np.searchsorted(heights, -values, side="right"), adjacency, heights)
    return enhanced


def _sum_steps(
    levels: npt.NDArray[np.intp], adjacency: sparse.csr_array[np.bool_], heights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Sum of extent^0.5 height^2 over the steps that each voxel reaches; levels (V,) says how many these are.

    From the highest step down, the clusters of the step above and the voxels that join are the nodes of a small
    graph, whose edges are those pairs of neighbours that are both in for the first time.
    """
    # In order of descending level, the voxels of any step are the first so many.
    order = np.argsort(-levels.astype(np.int16), kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(order.size)
    reached = order.size - np.searchsorted(levels[order][::-1], np.arange(heights.size + 2))
    first, second, starts = _edges_by_level(levels, adjacency, position, heights.size)
    node = np.zeros(reached[1], dtype=np.int32)
    total = np.zeros(reached[1])
    count = 0
    for level in range(heights.size, 0, -1):
        old, new = reached[level + 1], reached[level]
        node[old:new] = np.arange(count, count + new - old)
        count += int(new - old)
        edges = slice(starts[level], starts[level + 1])
        if edges.stop > edges.start:
            pairs = (node[first[edges]], node[second[edges]])
            graph = sparse.csr_array((np.ones(pairs[0].size), pairs), shape=(count, count))
            count, merged = connected_components(graph, directed=False)
            node[:new] = merged[node[:new]]
        sizes = np.bincount(node[:new], minlength=count)
        total[:new] += (np.sqrt(sizes) * heights[level - 1] ** 2)[node[:new]]
    enhanced = np.zeros(levels.size)
    enhanced[order[: reached[1]]] = total
    return enhanced


def _edges_by_level(
    levels: npt.NDArray[np.intp], adjacency: sparse.csr_array[np.bool_], position: npt.NDArray[np.intp], top: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of neighbours by the level from which on both are in, and where those of each level start."""
    rows = np.repeat(np.arange(levels.size), np.diff(adjacency.indptr))
    columns = adjacency.indices
    joint = np.where(rows < columns, np.minimum(levels[rows], levels[columns]), 0).astype(np.int16)
    kept = np.flatnonzero(joint)
    kept = kept[np.argsort(joint[kept], kind="stable")]
    starts = np.searchsorted(joint[kept], np.arange(top + 2))
    return position[rows[kept]], position[columns[kept]], starts
