"""Which voxels are neighbours, as a sparse matrix: what clusters are formed over."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from daskglm.errors import ParameterError, check_choice

# Neighbours share a face, an edge or a corner: offsets of at most 1, 2 or 3 steps along the axes.
_STEPS = {6: 1, 18: 2, 26: 3}
CONNECTIVITIES = tuple(_STEPS)


def grid_adjacency(
    shape: tuple[int, int, int], voxels: npt.NDArray[np.int64], connectivity: int = 6
) -> sparse.csr_array[np.bool_]:
    """Neighbourhood of the analysed voxels of a volume.

    Parameters
    ----------
    shape : tuple of 3 int
        Size of the grid, in voxels.
    voxels : (V,) int64
        Flat indices of the analysed voxels, in Fortran order (the first axis runs fastest). No voxel twice.
    connectivity : int
        6 (a shared face), 18 (or an edge) or 26 (or a corner).

    Returns
    -------
    (V, V) csr_array of bool
        Row i has True at the neighbours of voxel i among `voxels`. It is symmetric, its diagonal is empty, the
        columns of a row ascend, and its indices are int32.

    Raises
    ------
    ParameterError
        Where the connectivity is another, or a voxel lies outside of the grid or is given twice.

    Examples
    --------
    >>> import numpy as np
    >>> grid_adjacency((3, 1, 1), np.array([0, 1, 2])).toarray().astype(int)
    array([[0, 1, 0],
           [1, 0, 1],
           [0, 1, 0]])
    """
    check_choice("connectivity", connectivity, CONNECTIVITIES)
    voxels = np.asarray(voxels, dtype=np.int64)
    if voxels.size and not 0 <= voxels.min() <= voxels.max() < np.prod(shape, dtype=np.int64):
        raise ParameterError(f"voxels run from {voxels.min()} to {voxels.max()}, outside of a grid of {shape}")
    # A margin of one voxel all around, so that no neighbour wraps around an edge of the grid.
    wide = (shape[0] + 2, shape[1] + 2, shape[2] + 2)
    places = np.ravel_multi_index(
        tuple(index + 1 for index in np.unravel_index(voxels, shape, order="F")), wide, order="F"
    )
    position = np.full(wide[0] * wide[1] * wide[2], -1, dtype=np.int32)
    position[places] = np.arange(voxels.size, dtype=np.int32)
    if np.count_nonzero(position >= 0) != voxels.size:
        raise ParameterError("voxels holds a voxel twice; give each once")
    neighbours = position[places[:, None] + _offsets(wide, connectivity)]
    present = neighbours >= 0
    indptr = np.zeros(voxels.size + 1, dtype=np.int32)
    np.cumsum(present.sum(axis=1), out=indptr[1:])
    indices = neighbours[present]
    matrix = sparse.csr_array((np.ones(indices.size, dtype=bool), indices, indptr), shape=(voxels.size, voxels.size))
    matrix.sort_indices()
    return matrix


def _offsets(wide: tuple[int, int, int], connectivity: int) -> npt.NDArray[np.int64]:
    """Steps from a voxel to its neighbours in the flat Fortran order of a grid, ascending."""
    steps = np.indices((3, 3, 3)).reshape(3, -1) - 1
    distance = np.abs(steps).sum(axis=0)
    chosen = steps[:, (distance > 0) & (distance <= _STEPS[connectivity])]
    return np.sort(np.array([1, wide[0], wide[0] * wide[1]]) @ chosen)
