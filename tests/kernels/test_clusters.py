"""Clusters against scipy.ndimage and nilearn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nilearn.mass_univariate._utils import calculate_cluster_measures
from scipy import sparse
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as nd_label

from daskglm.errors import ParameterError
from daskglm.kernels.adjacency import grid_adjacency
from daskglm.kernels.clusters import cluster_maps, cluster_statistics, label_clusters, largest_cluster

ORDERS = {6: 1, 18: 2, 26: 3}
CONNECTIVITIES = st.sampled_from([6, 18, 26])
# Halves, so that there are ties, and values at the threshold itself; NaN is no value.
VALUES = st.one_of(st.integers(-8, 8).map(lambda k: k / 2), st.just(float("nan")))
MAPS = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.float64, shape, elements=VALUES), hnp.arrays(bool, shape))
)
THRESHOLDS = st.sampled_from([0.0, 0.5, 1.0, 1.25, 3.0])


def analysed(volume, mask, connectivity):
    """Volume with zeros outside of the mask, its vector, its neighbourhood."""
    voxels = np.flatnonzero(mask.ravel(order="F"))
    vector = volume.ravel(order="F")[voxels]
    return np.where(mask, volume, 0.0), vector, voxels, grid_adjacency(volume.shape, voxels, connectivity)


@given(drawn=MAPS, connectivity=CONNECTIVITIES, threshold=st.sampled_from([-1.0, 0.0, 1.0, 1.25]))
def test_labels_equal_scipy(drawn, connectivity, threshold):
    volume, mask = drawn
    _, vector, voxels, adjacency = analysed(volume, mask, connectivity)
    found = label_clusters(vector, adjacency, threshold)
    above = mask & (volume > threshold)
    # Transposed, SciPy scans in Fortran order, and so numbers by first voxel as label_clusters does.
    expected, _ = nd_label(above.T, generate_binary_structure(3, ORDERS[connectivity]))
    expected = expected.T.ravel(order="F")[voxels]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True)) - {(0, 0)}
    assert len(pairs) == found.max(initial=0) == expected.max(initial=0)
    firsts = [np.flatnonzero(found == k)[0] for k in range(1, found.max(initial=0) + 1)]
    assert firsts == sorted(firsts)


@given(drawn=MAPS, connectivity=CONNECTIVITIES, threshold=THRESHOLDS, two_sided=st.booleans())
def test_largest_equals_nilearn(drawn, connectivity, threshold, two_sided):
    volume, mask = drawn
    filled, vector, _, adjacency = analysed(volume, mask, connectivity)
    # A full grid in clusters, without background, trips an assertion of nilearn's: a margin of zeros.
    structure = generate_binary_structure(3, ORDERS[connectivity])
    sizes, masses = calculate_cluster_measures(np.pad(filled, 1)[..., None], threshold, structure, two_sided)
    size, mass = largest_cluster(vector, adjacency, threshold, two_sided)
    assert type(size) is int
    assert type(mass) is float
    assert size == sizes[0]
    assert mass == pytest.approx(masses[0], abs=1e-12)


@given(drawn=MAPS, connectivity=CONNECTIVITIES, threshold=THRESHOLDS, two_sided=st.booleans())
def test_statistics_and_maps_agree(drawn, connectivity, threshold, two_sided):
    volume, mask = drawn
    _, vector, _, adjacency = analysed(volume, mask, connectivity)
    labels, sizes, masses = cluster_statistics(vector, adjacency, threshold, two_sided)
    size_map, mass_map = cluster_maps(vector, adjacency, threshold, two_sided)
    assert labels.dtype == sizes.dtype == size_map.dtype == np.int64
    assert masses.dtype == mass_map.dtype == np.float64
    assert labels.max(initial=0) == sizes.size == masses.size
    for k in range(1, sizes.size + 1):
        inside = labels == k
        assert np.unique(np.sign(vector[inside])).size == 1
        assert sizes[k - 1] == inside.sum()
        assert masses[k - 1] == pytest.approx((np.abs(vector[inside]) - threshold).sum())
        assert (size_map[inside] == sizes[k - 1]).all()
        assert (mass_map[inside] == masses[k - 1]).all()
    assert not size_map[labels == 0].any()
    assert not mass_map[labels == 0].any()
    positive = label_clusters(vector, adjacency, threshold)
    np.testing.assert_array_equal(labels[positive > 0], positive[positive > 0])
    outside = np.abs(vector) > threshold if two_sided else vector > threshold
    np.testing.assert_array_equal(labels > 0, outside)
    assert largest_cluster(vector, adjacency, threshold, two_sided) == (sizes.max(initial=0), masses.max(initial=0.0))


def test_a_threshold_below_zero_is_as_nilearn():
    """One-sided p above 0.5: the clusters are of positive values, the excess is over the threshold."""
    volume = np.random.default_rng(0).standard_normal((5, 6, 7))
    volume[0, 0, 0] = 0.0
    _, vector, _, adjacency = analysed(volume, np.ones(volume.shape, bool), 6)
    sizes, masses = calculate_cluster_measures(volume[..., None], -0.5, generate_binary_structure(3, 1), False)
    size, mass = largest_cluster(vector, adjacency, -0.5, False)
    assert size == sizes[0]
    assert mass == pytest.approx(masses[0])


def test_float32_is_compared_with_the_threshold_itself():
    single = np.array([np.float32(0.1)])
    assert label_clusters(single, sparse.csr_array((1, 1), dtype=bool), 0.1).tolist() == [1]
    assert float(single[0]) > 0.1


def test_nothing():
    empty = sparse.csr_array((0, 0), dtype=bool)
    assert label_clusters(np.zeros(0), empty, 1.0).shape == (0,)
    assert largest_cluster(np.zeros(0), empty, 1.0, True) == (0, 0.0)
    labels, sizes, masses = cluster_statistics(np.zeros(1), sparse.csr_array((1, 1), dtype=bool), 1.0, True)
    assert (labels.tolist(), sizes.size, masses.size) == ([0], 0, 0)


@pytest.mark.parametrize("call", [label_clusters, cluster_statistics, largest_cluster, cluster_maps])
def test_other_voxels_are_refused(call):
    rest = () if call is label_clusters else (True,)
    with pytest.raises(ParameterError, match="3 voxels"):
        call(np.zeros(3), sparse.csr_array((2, 2), dtype=bool), 1.0, *rest)


def test_labels_on_a_ring_of_vertices():
    ring = np.zeros((6, 6), dtype=bool)
    ring[np.arange(6), (np.arange(6) + 1) % 6] = True
    labels = label_clusters(np.array([1.0, 1, 0, 1, 0, 1]), sparse.csr_array(ring | ring.T), 0.0)
    assert labels.tolist() == [1, 1, 0, 2, 0, 1]
