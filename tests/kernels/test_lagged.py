"""Lagged moments against whitening matrices written out by NumPy."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.kernels.basis import with_constant
from daskglm.kernels.lagged import LaggedMoments, plan_lags, project, rebase, scale, select, sum_lagged
from daskglm.kernels.noise import pair_weights


def shift(numbers, lag):
    """L^lag of volumes with these numbers: one row back, only within a stretch of consecutive volumes."""
    n = len(numbers)
    matrix = np.zeros((n, n))
    for row in range(lag, n):
        if numbers[row] - numbers[row - lag] == lag:
            matrix[row, row - lag] = 1.0
    return matrix


def whitener(numbers, rho):
    """W = I - sum rho_k L^k."""
    return np.eye(len(numbers)) - sum((r * shift(numbers, k + 1) for k, r in enumerate(rho)), 0.0)


def kernel(numbers, i, j):
    one = shift(numbers, i).T @ shift(numbers, j)
    return one if i == j else one + one.T


def problem(seed, n, rank, voxels, level=50.0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, rank - 1))]))[0]
    return rng, basis, level + rng.standard_normal((n, voxels))


def assert_equals_matrices(moments, basis, values, numbers):
    """Each pair against Z'K_ij Z with K_ij an explicit matrix."""
    moved = values - moments.reference
    for pair, (i, j) in enumerate(moments.lags.pairs):
        k = kernel(numbers, i, j)
        np.testing.assert_allclose(moments.lags.gram[pair], basis.T @ k @ basis, atol=1e-12)
        only = np.eye(len(moments.lags.pairs))[:, [pair]]
        np.testing.assert_allclose(moments.weighted_cross(only, slice(None)), basis.T @ k @ moved, atol=1e-10)
        np.testing.assert_allclose(moments.power[pair], np.sum(moved * (k @ moved), axis=0), atol=1e-9)


@st.composite
def runs(draw):
    """Order, kept volumes, voxels, and where slabs and stretches end."""
    order, length = draw(st.integers(0, 3)), draw(st.integers(4, 24))
    kept = draw(st.sets(st.integers(0, length - 1), min_size=4, max_size=length))
    kept = np.arange(length) if draw(st.booleans()) else np.array(sorted(kept))
    cuts = st.lists(st.integers(1, kept.size - 1), unique=True).map(sorted)
    return order, kept, draw(st.integers(1, 5)), draw(cuts), draw(cuts), draw(st.integers(0, 1000))


@given(run=runs())
def test_any_slabs_and_stretches_equal_matrices(run):
    order, kept, voxels, slabs, stretches, seed = run
    _, basis, values = problem(seed, kept.size, min(3, kept.size), voxels)
    lags = plan_lags(basis, order, kept)
    assert lags.n_samples == kept.size
    parts = []
    bounds = [0, *stretches, kept.size]
    for start, stop in pairwise(bounds):
        inner = [start, *(cut for cut in slabs if start < cut < stop), stop]
        pieces = [values[a:b] for a, b in pairwise(inner)]
        parts.append(sum_lagged(iter(pieces), lags, values[0], start))
    whole = reduce(LaggedMoments.__add__, parts)
    assert (whole.start, whole.stop) == (0, kept.size)
    assert_equals_matrices(whole, basis, values, kept)
    # Sums associate: from the right as from the left.
    other = reduce(lambda later, earlier: earlier + later, reversed(parts))
    np.testing.assert_allclose(other.power, whole.power, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(other.sums, whole.sums, rtol=1e-12, atol=1e-10)


@given(run=runs(), rho=st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3))
def test_weighted_pairs_are_whitened_products(run, rho):
    order, kept, voxels, slabs, _, seed = run
    _, basis, values = problem(seed, kept.size, min(3, kept.size), voxels)
    bounds = [0, *slabs, kept.size]
    pieces = [values[a:b] for a, b in pairwise(bounds)]
    moments = sum_lagged(pieces, plan_lags(basis, order, kept))
    weights = pair_weights(np.array(rho[:order]).reshape(order, 1), moments.lags.pairs)[:, 0]
    w = whitener(kept, rho[:order])
    moved = values - values[0]
    np.testing.assert_allclose(np.tensordot(weights, moments.lags.gram, 1), (w @ basis).T @ w @ basis, atol=1e-11)
    cross = moments.weighted_cross(weights[:, None], slice(None))
    np.testing.assert_allclose(cross, (w @ basis).T @ w @ moved, atol=1e-10)
    np.testing.assert_allclose(weights @ moments.power, np.sum((w @ moved) ** 2, axis=0), atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_lags_never_bridge_a_gap(order):
    """A run with a gap is the sum of two runs: what stands before the gap is nothing to what stands after."""
    _, basis, values = problem(1, 20, 3, 4)
    kept = np.array([*range(8), *range(11, 23)])
    reference = np.zeros(4)
    gapped = sum_lagged([values], plan_lags(basis, order, kept), reference)
    apart = [sum_lagged([values[a:b]], plan_lags(basis[a:b], order), reference) for a, b in ((0, 8), (8, 20))]
    np.testing.assert_allclose(gapped.power, apart[0].power + apart[1].power, rtol=1e-12)
    for only in np.eye(len(gapped.lags.pairs))[:, :, None]:
        whole, *halves = (item.weighted_cross(only, slice(None)) for item in (gapped, *apart))
        np.testing.assert_allclose(whole, sum(halves), rtol=1e-10, atol=1e-10)
    joined = sum_lagged([values], plan_lags(basis, order), reference)
    assert np.abs(joined.power[1] - gapped.power[1]).min() > 1000  # 2 * 50 * 50 a pair


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("spanned", [True, False])
def test_rebase_scale_and_select(order, spanned):
    rng, basis, values = problem(2, 17, 3, 6)
    basis, constant = with_constant(basis if spanned else np.linalg.qr(rng.standard_normal((17, 3)))[0])
    assert basis.shape[1] == (3 if spanned else 4)
    kept = np.array([*range(5), *range(7, 19)])
    moments = sum_lagged([values[:4], values[4:]], plan_lags(basis, order, kept))
    at_zero = rebase(moments, constant)
    assert not at_zero.reference.any()
    assert_equals_matrices(at_zero, basis, values, kept)
    factor, offset = rng.uniform(0.5, 2, 6), rng.uniform(-5, 5, 6)
    scaled = scale(moments, factor, offset)
    np.testing.assert_allclose(scaled.reference, values[0] * factor + offset)
    assert_equals_matrices(scaled, basis, values * factor + offset, kept)
    assert_equals_matrices(rebase(scaled, constant), basis, values * factor + offset, kept)
    assert_equals_matrices(select(scaled, slice(2, 5)), basis, (values * factor + offset)[:, 2:5], kept)


def test_rebased_or_scaled_stretches_still_add():
    """What stands at the ends of a stretch is moved with its sums."""
    rng, basis, values = problem(3, 16, 2, 3)
    constant = basis.T @ np.ones(16)
    lags = plan_lags(basis, 2)
    factor, offset = rng.uniform(0.5, 2, 3), rng.uniform(-5, 5, 3)
    parts = [sum_lagged([values[a:b]], lags, values[0], a) for a, b in ((0, 7), (7, 16))]
    first, second = (scale(part, factor, offset) for part in parts)
    assert_equals_matrices(rebase(first + second, constant), basis, values * factor + offset, np.arange(16))


@pytest.mark.parametrize("order", [0, 2])
def test_project_is_the_other_design(order):
    rng, basis, values = problem(4, 18, 4, 5)
    columns = rng.standard_normal((4, 2))
    moments = sum_lagged([values], plan_lags(basis, order))
    projected = project(moments, columns)
    assert_equals_matrices(projected, basis @ columns, values, np.arange(18))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 6, 19])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_non_finite_voxel_breaks_itself_only(bad, row, order):
    _, basis, values = problem(5, 20, 3, 5)
    spoilt = values.copy()
    spoilt[row, 2] = bad
    lags, others = plan_lags(basis, order), [0, 1, 3, 4]
    bounds = [0, 3, 9, 20]
    pieces = [spoilt[a:b] for a, b in pairwise(bounds)]
    found = sum_lagged(pieces, lags)
    halves = sum_lagged([spoilt[:11]], lags, spoilt[0]) + sum_lagged([spoilt[11:]], lags, spoilt[0], 11)
    for moments in (found, halves):
        assert moments.broken.tolist() == [False, False, True, False, False]
        assert np.isfinite(moments.power).all()
        clean = sum_lagged([values[:, others]], lags)
        np.testing.assert_allclose(moments.power[:, others], clean.power, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(moments.cross[:, :, others], clean.cross, rtol=1e-12, atol=1e-10)


def test_float32_and_integers_are_summed_in_float64():
    rng, basis, _ = problem(6, 30, 3, 4)
    values = rng.integers(9000, 11000, (30, 4))
    exact = sum_lagged([values.astype(np.float64)], plan_lags(basis, 1))
    single = sum_lagged([values.astype(np.float32)], plan_lags(basis, 1))
    assert np.array_equal(exact.power, single.power)
    assert np.array_equal(exact.cross, single.cross)


@pytest.mark.parametrize("what", ["signalling NaN", "huge", "infinity after infinity"])
def test_broken_values_are_no_warning(what):
    """What a damaged file decodes to before its checksum is seen; the voxel is broken, and that is all."""
    _, basis, values = problem(9, 10, 2, 3)
    single = values.astype(np.float32)
    if what == "signalling NaN":
        single[3, 1] = np.array([0x7F800001], np.uint32).view(np.float32)[0]
    elif what == "huge":
        single = single.astype(np.float64)
        single[3:6, 1] = 1.7e308
    else:
        single[[3, 5], 1] = np.inf, -np.inf
    moments = sum_lagged([single[:2], single[2:]], plan_lags(basis, 1))
    assert moments.broken.tolist() == [False, True, False]


def test_many_voxels_go_in_tiles():
    """More values than one tile holds."""
    rng, basis, _ = problem(7, 40, 3, 1)
    values = 10 + rng.standard_normal((40, 9000))
    moments = sum_lagged([values[:25], values[25:]], plan_lags(basis, 1))
    assert_equals_matrices(moments, basis, values, np.arange(40))


def test_stretches_out_of_order_and_nothing():
    _, basis, values = problem(8, 10, 2, 2)
    lags = plan_lags(basis, 1)
    first, second = sum_lagged([values[:4]], lags, values[0]), sum_lagged([values[4:]], lags, values[0], 4)
    with pytest.raises(ValueError, match="in order"):
        second + first
    with pytest.raises(ValueError, match="at least one volume"):
        sum_lagged([], lags)
