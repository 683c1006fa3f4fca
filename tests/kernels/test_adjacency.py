"""Neighbourhoods against SciPy's structuring elements."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import generate_binary_structure

from daskglm.errors import ParameterError
from daskglm.kernels.adjacency import grid_adjacency

ORDERS = {6: 1, 18: 2, 26: 3}
MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))


def by_hand(shape, voxels, connectivity):
    """Every pair of voxels, looked up in the structuring element."""
    structure = generate_binary_structure(3, ORDERS[connectivity])
    places = np.array(np.unravel_index(voxels, shape, order="F")).T
    dense = np.zeros((len(voxels), len(voxels)), dtype=bool)
    for i, j in itertools.permutations(range(len(voxels)), 2):
        step = places[j] - places[i]
        dense[i, j] = np.abs(step).max() <= 1 and structure[tuple(step + 1)]
    return dense


@given(mask=MASKS, connectivity=st.sampled_from([6, 18, 26]), seed=st.integers(0, 99), shuffled=st.booleans())
def test_equals_the_structuring_element(mask, connectivity, seed, shuffled):
    voxels = np.flatnonzero(mask.ravel(order="F"))
    if shuffled:
        voxels = np.random.default_rng(seed).permutation(voxels)
    found = grid_adjacency(mask.shape, voxels, connectivity)
    np.testing.assert_array_equal(found.toarray(), by_hand(mask.shape, voxels, connectivity))
    assert found.dtype == bool
    assert found.data.all()
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert all((np.diff(found.indices[a:b]) > 0).all() for a, b in itertools.pairwise(found.indptr))


@pytest.mark.parametrize(("connectivity", "inner"), [(6, 6), (18, 18), (26, 26)])
def test_counts_of_a_full_grid(connectivity, inner):
    found = grid_adjacency((3, 3, 3), np.arange(27), connectivity)
    assert np.diff(found.indptr)[13] == inner


def test_6_is_the_default():
    assert grid_adjacency((3, 3, 3), np.arange(27)).nnz == grid_adjacency((3, 3, 3), np.arange(27), 6).nnz


@pytest.mark.parametrize(
    ("voxels", "connectivity", "message"),
    [([0, 1], 8, "6, 18 or 26"), ([0, 8], 6, "outside"), ([-1, 0], 6, "outside"), ([3, 3], 6, "twice")],
)
def test_refused(voxels, connectivity, message):
    with pytest.raises(ParameterError, match=message):
        grid_adjacency((2, 2, 2), np.array(voxels), connectivity)
