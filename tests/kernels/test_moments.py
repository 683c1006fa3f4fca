"""Moments, whatever the blocks, against sums written out."""

import io
import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.io.cache import load_moments, save_moments
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.contrasts import t_contrast
from daskglm.kernels.moments import Moments, block_moments, gram_at, pack, rebase, unpack
from daskglm.kernels.solve import solve


def problem(seed: int, missing: float, mean: float = 0.0, rank: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    design = np.column_stack([np.ones(23), rng.standard_normal((23, rank - 1))])
    data = mean + rng.standard_normal((23, 17))
    data[rng.random(data.shape) < missing] = np.nan
    return design, data


def written_out(design: np.ndarray, data: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """X'WX, X'Wy and y'Wy of each voxel, one by one."""
    gram, cross, power = [], [], []
    for voxel in range(data.shape[1]):
        seen = np.isfinite(data[:, voxel])
        x, y, w = design[seen], data[seen, voxel], weights[seen, voxel]
        gram.append(x.T @ (w[:, None] * x))
        cross.append(x.T @ (w * y))
        power.append(w @ y**2)
    return np.array(gram), np.array(cross).T, np.array(power)


def summed(design, data, constant, weights, cuts) -> Moments:
    edges = [0, *sorted(set(cuts)), len(data)]
    blocks = [
        block_moments(data[a:b], design[a:b], constant, None if weights is None else weights[a:b])
        for a, b in itertools.pairwise(edges)
        if b > a
    ]
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total


@given(
    seed=st.integers(0, 1000),
    missing=st.sampled_from([0.0, 0.1, 0.7]),
    kind=st.sampled_from(["none", "sample", "voxel"]),
    centred=st.booleans(),
    cuts=st.lists(st.integers(1, 22), max_size=6),
    rank=st.integers(1, 7),
)
def test_any_blocks_give_the_sums(seed, missing, kind, centred, cuts, rank):
    design, data = problem(seed, missing, 5.0, rank)
    rng = np.random.default_rng(seed + 1)
    weights = {"none": None, "sample": rng.random(23), "voxel": rng.random(data.shape)}[kind]
    constant = np.eye(rank)[0] if centred else None
    moments = rebase(summed(design, data, constant, weights, cuts), np.zeros(data.shape[1]))
    full = np.broadcast_to(1.0 if weights is None else weights.reshape(23, -1), data.shape)
    gram, cross, power = written_out(design, data, full)
    assert np.allclose(unpack(gram_at(moments, np.arange(17))), gram, atol=1e-10)
    assert np.allclose(moments.cross, cross, atol=1e-10)
    assert np.allclose(moments.power, power, atol=1e-9)
    assert np.array_equal(moments.count, np.isfinite(data).sum(axis=0))
    assert moments.n_samples == 23


def test_complete_voxels_share_one_gram():
    design, data = problem(0, 0.0)
    data[3, 5] = np.nan
    data[4, 6] = np.inf
    moments = block_moments(data, design)
    assert moments.incomplete.tolist() == [5, 6]
    assert moments.gram_incomplete.shape == (2, 10)


def test_weight_zero_is_missing():
    design, data = problem(1, 0.0)
    weights = np.ones(23)
    weights[:5] = 0
    weighted, dropped = block_moments(data, design, None, weights), block_moments(data[5:], design[5:])
    for name in ("gram", "cross", "power", "count"):
        assert np.allclose(getattr(weighted, name), getattr(dropped, name))


def test_a_large_mean_costs_no_digits():
    """Residual sum of squares with mean 1e6 and sd 1, against the same data without the mean."""
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(500), rng.standard_normal(500)])
    basis = orthonormal_basis(design)
    columns = design @ basis.to_basis
    noise = rng.integers(-(2**20), 2**20, (500, 8)) / 2**19  # exact in float64 also after adding 1e6

    def residual(data, constant):
        moments = summed(columns, data, constant, None, [100, 333])
        return moments.power - (moments.cross**2).sum(axis=0)

    truth = residual(noise, None)
    assert np.abs(residual(noise + 1e6, basis.constant) / truth - 1).max() < 1e-12
    assert np.abs(residual(noise + 1e6, None) / truth - 1).max() < 1e-10  # where a design has no constant


def test_float32_is_summed_in_float64():
    design, data = problem(2, 0.0, mean=1e4)
    single = data.astype(np.float32)
    moments = rebase(block_moments(single, design), np.zeros(17))
    assert np.allclose(moments.cross, design.T @ single.astype(np.float64), rtol=1e-14)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_pack_and_unpack(rank):
    matrix = np.random.default_rng(0).standard_normal((3, rank, rank))
    symmetric = matrix + matrix.transpose(0, 2, 1)
    assert np.array_equal(unpack(pack(symmetric)), symmetric)


def exact_t(design, values, column):
    """T of a regressor in arithmetic of 50 digits, from its formula."""
    with mpmath.workdps(50):
        x, y = mpmath.matrix(design.tolist()), mpmath.matrix(values.tolist())
        inverse = (x.T * x) ** -1
        residual = y - x * (beta := inverse * (x.T * y))
        variance = (residual.T * residual)[0] / (len(values) - design.shape[1])
        return float(beta[column] / mpmath.sqrt(variance * inverse[column, column]))


@pytest.mark.parametrize("apart", [1e3, 1e5, 1e7, 1e8])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_sites_far_apart_cost_no_digits_but_their_own(apart, mixed, missing):
    """Means `apart` standard deviations from each other lose apart x eps, as of the values themselves, not its square.

    In any blocks, of one site each or of all, of few rows or all; with a checkpoint between.
    """
    rng = np.random.default_rng(0)
    site = np.eye(3)[np.arange(60) % 3 if mixed else np.repeat([0, 1, 2], 20)]
    design = np.column_stack([np.ones(60), rng.standard_normal(60), site[:, 1:]])
    data = rng.standard_normal((60, 4)) + site @ (apart * np.array([[0], [1], [-2]])) + 0.3 * design[:, 1:2]
    data[rng.random(data.shape) < missing] = np.nan
    basis = orthonormal_basis(design)
    columns = design @ basis.to_basis
    seen = np.isfinite(data)
    truth = [exact_t(design[seen[:, v]], data[seen[:, v], v], 1) for v in range(4)]
    for constant in (basis.constant, None):
        for cuts in ([], [20, 40], [13, 30, 47], range(1, 60), range(2, 60, 2)):
            total, buffer = summed(columns, data, constant, None, cuts), io.BytesIO()
            save_moments(buffer, [total])
            buffer.seek(0)
            found = t_contrast(solve(load_moments(buffer)[0]), basis.to_basis[1]).stat
            np.testing.assert_allclose(found, truth, rtol=max(2e-14 * apart, 2e-9))


@pytest.mark.parametrize("spread", [1e-2, 1e-4])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_sites_far_apart_along_a_covariate_that_hardly_varies_in_each(spread, missing):
    """A block in which a regressor is nearly constant knows little of it, and that little counts."""
    rng = np.random.default_rng(1)
    age = np.array([0.0, 1, -2])[np.repeat([0, 1, 2], 8)] + spread * rng.standard_normal(24)
    design = np.column_stack([np.ones(24), age])
    data = rng.standard_normal((24, 6)) + 1e5 * age[:, None]
    data[rng.random(data.shape) < missing] = np.nan
    basis, seen = orthonormal_basis(design), np.isfinite(data)
    total = summed(design @ basis.to_basis, data, basis.constant, None, [8, 16])
    truth = [exact_t(design[seen[:, v]], data[seen[:, v], v], 1) for v in range(6)]
    np.testing.assert_allclose(t_contrast(solve(total), basis.to_basis[1]).stat, truth, rtol=1e-4)


@pytest.mark.parametrize("together", [1, 2, 3, 20])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_blocks_of_few_images_cost_no_digits_of_a_large_mean(together, missing):
    """Also of blocks of no more images than regressors, which their own fits explain."""
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(20), rng.standard_normal(20), np.repeat([0.0, 1.0], 10)])
    data = 0.1 * rng.standard_normal((20, 6)) + 1e5
    data[rng.random(data.shape) < missing] = np.nan
    basis = orthonormal_basis(design)
    seen = np.isfinite(data)
    total = summed(design @ basis.to_basis, data, basis.constant, None, range(together, 20, together))
    for column in (1, 2):
        truth = [exact_t(design[seen[:, v]], data[seen[:, v], v], column) for v in range(6)]
        np.testing.assert_allclose(t_contrast(solve(total), basis.to_basis[column]).stat, truth, rtol=0, atol=2e-8)


def test_ordinary_voxels_keep_nothing_besides():
    design, data = problem(0, 0.1, mean=100.0)
    moments = summed(design, data, np.eye(4)[0], None, [9, 15])
    assert moments.anchored.size == moments.anchor.size == 0
