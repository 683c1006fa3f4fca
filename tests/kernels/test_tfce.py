"""TFCE against direct integration and nilearn."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.mass_univariate._utils import calculate_tfce
from scipy import sparse
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as nd_label
from scipy.sparse.csgraph import connected_components

from daskglm.errors import MissingDependencyError, ParameterError
from daskglm.kernels.adjacency import grid_adjacency
from daskglm.kernels.tfce import Grid, enhance, enhance_stepwise

ORDERS = {6: 1, 18: 2, 26: 3}


def integral(vector, labelled, extent, height):
    """Sum over all distinct heights of size^E (h^(H+1) - below^(H+1)) / (H+1)."""
    total, below = np.zeros(vector.size), 0.0
    for h in np.unique(vector[vector > 0]):
        labels = labelled(vector >= h)
        sizes = np.bincount(labels)[labels].astype(float)
        step = (h ** (height + 1) - below ** (height + 1)) / (height + 1)
        total += np.where(labels > 0, sizes**extent * step, 0)
        below = h
    return total


def in_volume(shape, voxels, connectivity):
    def labelled(above):
        grid = np.zeros(np.prod(shape), bool)
        grid[voxels] = above
        structure = generate_binary_structure(3, ORDERS[connectivity])
        return nd_label(grid.reshape(shape, order="F"), structure)[0].ravel(order="F")[voxels]

    return labelled


def case(seed, connectivity):
    """Map with holes, ties and NaN in a random mask."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    voxels = np.flatnonzero(rng.random(np.prod(shape)) < 0.8)
    vector = np.round(2 * rng.standard_normal(voxels.size), rng.integers(0, 3)) - (4.0 if seed % 7 == 0 else 0.0)
    vector[rng.random(voxels.size) < 0.05] = np.nan
    return shape, voxels, vector, grid_adjacency(shape, voxels, connectivity)


CASES = {"seed": st.integers(0, 10_000), "connectivity": st.sampled_from([6, 18, 26]), "two_sided": st.booleans()}


@settings(deadline=None)
@given(**CASES, exponents=st.sampled_from([(0.5, 2.0), (1.0, 2.0), (0.0, 0.0)]))
def test_enhance_is_the_integral(seed, connectivity, two_sided, exponents):
    shape, voxels, vector, adjacency = case(seed, connectivity)
    single = vector.astype(np.float32)
    labelled = in_volume(shape, voxels, connectivity)
    expected = integral(single.astype(float), labelled, *exponents)
    if two_sided:
        expected -= integral(-single.astype(float), labelled, *exponents)
    options = {"extent": exponents[0], "height": exponents[1], "two_sided": two_sided}
    maps = np.stack([single, 2 * single])
    found = enhance(maps, adjacency, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(found, enhance(maps, Grid(shape, voxels, connectivity), **options))


@settings(deadline=None, max_examples=40)
@given(**CASES)
def test_stepwise_equals_nilearn(seed, connectivity, two_sided):
    shape, voxels, vector, adjacency = case(seed, connectivity)
    grid = np.zeros(np.prod(shape))
    grid[voxels] = np.nan_to_num(vector)
    # A margin of zeros: a brain does not fill its grid, and nilearn's heights would be negative without any.
    volume = np.pad(grid.reshape(shape, order="F"), 1)[..., None]
    expected = calculate_tfce(volume, generate_binary_structure(3, ORDERS[connectivity]), two_sided_test=two_sided)
    expected = expected[1:-1, 1:-1, 1:-1, 0].ravel(order="F")[voxels]
    np.testing.assert_allclose(enhance_stepwise(vector, adjacency, two_sided), expected, rtol=1e-9, atol=1e-12)


def test_exponents_are_those_of_smith_and_nichols_unless_others_are_given():
    shape, voxels, vector, adjacency = case(3, 6)
    expected = integral(np.nan_to_num(vector), in_volume(shape, voxels, 6), 0.5, 2.0)
    np.testing.assert_allclose(enhance(vector[None], adjacency, two_sided=False)[0], expected, rtol=1e-5, atol=1e-6)
    negative = integral(np.nan_to_num(-vector), in_volume(shape, voxels, 6), 0.5, 2.0)
    assert negative.max() > 0
    np.testing.assert_allclose(enhance(vector[None], Grid(shape, voxels))[0], expected - negative, rtol=1e-5, atol=1e-6)


def test_enhance_on_a_mesh():
    """An octahedron whose faces are its edges' triangles."""
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [0, 2, 5], [2, 1, 5], [1, 3, 5], [3, 0, 5]])
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.concatenate([edges, edges[:, ::-1]]).T
    adjacency = sparse.csr_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(6, 6))
    vector = np.array([3.0, 2.0, -1.0, -2.0, 0.5, 1.0])

    def labelled(above):
        labels = np.zeros(6, int)
        labels[above] = connected_components(adjacency[above][:, above], directed=False)[1] + 1
        return labels

    expected = integral(vector, labelled, 1.0, 2.0) - integral(-vector, labelled, 1.0, 2.0)
    found = enhance(vector[None], adjacency, extent=1.0, height=2.0)
    np.testing.assert_allclose(found[0], expected, rtol=2e-6)


def test_nothing_and_refusals(monkeypatch):
    one = sparse.csr_array((1, 1), dtype=bool)
    assert enhance(np.zeros((0, 1)), one).shape == (0, 1)
    assert enhance_stepwise(np.array([np.nan]), one).tolist() == [0.0]
    for maps, options, message in [
        (np.zeros((1, 2)), {}, "maps has to be"), (np.zeros((1, 1)), {"extent": -1.0}, "exponents"),
    ]:  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            enhance(maps, one, **options)
    with pytest.raises(ParameterError, match="6, 18 or 26"):
        enhance(np.zeros((1, 1)), Grid((1, 1, 1), np.array([0]), 8))
    with pytest.raises(ParameterError, match="infinite"):
        enhance_stepwise(np.array([np.inf]), one)
    with pytest.raises(ParameterError, match="2 voxels"):
        enhance_stepwise(np.zeros(2), one)
    monkeypatch.setitem(sys.modules, "tfce", None)
    with pytest.raises(MissingDependencyError, match=r"daskglm\[tfce\]"):
        enhance(np.zeros((1, 1)), one)
