"""Permuted statistics against refits by least squares, one by one, and nilearn's null distributions."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.mass_univariate import permuted_ols
from scipy import stats

from daskglm.design.rearrangements import plan_rearrangements
from daskglm.kernels.permutation import SCHEMES, even_scale, partition, residuals
from daskglm.kernels.permutation_blocks import TILE, Test, make_tiles, observe, on_scale, permute

Test.__test__ = False


def problem(n=24, voxels=30, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.standard_normal((n, 2)), np.ones(n), rng.standard_normal(n)])
    values = 50 + rng.standard_normal((n, voxels)) + design[:, :1] * (np.arange(voxels) % 3 == 0)
    values[rng.random(values.shape) < missing] = np.nan
    return design, values


def rss(design, values):
    return np.sum((values - design @ np.linalg.lstsq(design, values, rcond=None)[0]) ** 2, axis=0)


def t_of(design, values):
    beta = np.linalg.lstsq(design, values, rcond=None)[0]
    variance = rss(design, values) / (len(design) - design.shape[1]) * np.linalg.inv(design.T @ design)[0, 0]
    return beta[0] / np.sqrt(variance)


def f_of(nuisance, tested, values):
    full = np.column_stack([tested, nuisance])
    inside = rss(full, values)
    freedom = len(full) - full.shape[1]
    return (rss(nuisance, values) - inside) / tested.shape[1] / (inside / freedom)


def without(columns, values):
    return values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]


def make_test(design, contrast, scheme, plan=None, **named):
    parts = partition(design, np.atleast_2d(contrast), None if plan is None else plan.invariant)
    return Test(parts, np.ndim(contrast) == 1, False, scheme, **named)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["permutation", "sign_flip", "both"])
@pytest.mark.parametrize("is_f", [False, True])
def test_every_scheme_equals_refits(scheme, kind, is_f):
    design, values = problem()
    tested = [0, 1] if is_f else [0]
    rest = [k for k in range(4) if k not in tested]
    x, z = design[:, tested], design[:, rest]
    contrast = np.eye(4)[:2] if is_f else np.eye(4)[0]
    plan = plan_rearrangements(design, 12, kind, seed=4)
    index, sign = plan.take(0, 12)
    maps = np.empty((12, 30), dtype=np.float32)
    test = make_test(design, contrast, scheme, plan)
    permute(make_tiles(values, test), test, index, sign, maps)
    for k in range(12):
        place = np.argsort(index[k])
        residual = without(z, values) if scheme == "freedman-lane" else without(design, values)
        moved_values = sign[k][place][:, None] * residual[place]
        if scheme in ("freedman-lane", "ter-braak"):
            new_x, new_values = x, moved_values
        else:
            base = x if scheme == "draper-stoneman" else without(z, x)
            new_x, new_values = base[index[k]] * sign[k][:, None], values
        full = np.column_stack([new_x, z])
        expected = f_of(z, new_x, new_values) if is_f else t_of(full, new_values)
        np.testing.assert_allclose(maps[k], expected, rtol=2e-5, atol=2e-5)


def test_null_distribution_equals_nilearn_with_its_permutations():
    design, values = problem(20, 40)
    rng = np.random.RandomState(7)
    chunk = np.random.RandomState(rng.randint(1, np.iinfo(np.int32).max - 1))
    order, index = np.arange(20), []
    for _ in range(60):  # nilearn permutes what it permuted before
        order = order[chunk.permutation(20)]
        index.append(order)
    theirs = permuted_ols(design[:, :1], values, design[:, [1, 3]], n_perm=60, random_state=7, n_jobs=1, verbose=0)
    test = Test(partition(design, np.eye(4)[:1]), True, True, "freedman-lane")
    tiles = make_tiles(values, test)
    ours, _ = permute(tiles, test, np.array(index), np.ones((60, 20)))
    np.testing.assert_allclose(ours, theirs["h0_max_t"][0], rtol=1e-8)
    np.testing.assert_allclose(observe(tiles).stat, theirs["t"][0], rtol=1e-8)


@pytest.mark.parametrize("is_f", [False, True])
def test_voxels_with_gaps_equal_refits_of_the_images_they_have(is_f):
    design, values = problem(30, 25, missing=0.2)
    values[:, 3] = np.where(np.arange(30) < 6, values[:, 3], np.nan)
    tested = [0, 1] if is_f else [0]
    z = np.delete(design, tested, axis=1)
    contrast = np.eye(4)[:2] if is_f else np.eye(4)[0]
    index, sign = plan_rearrangements(design, 9, "both", seed=1).take(0, 9)
    test = make_test(design, contrast, "smith", min_count=8)
    maps = np.empty((9, 25), dtype=np.float32)
    permute(make_tiles(values, test), test, index, sign, maps)
    seen = observe(make_tiles(values, test))
    assert np.isnan(maps[:, 3]).all()
    assert np.isnan(seen.stat[3])
    for voxel in np.setdiff1d(np.arange(25), [3]):
        there = np.isfinite(values[:, voxel])
        assert seen.count[voxel] == there.sum()
        assert seen.freedom[voxel] == there.sum() - 4
        y = values[there, voxel][:, None]

        def refit(x, y=y, there=there):
            return (f_of(z[there], x[there], y) if is_f else t_of(np.column_stack([x, z])[there], y))[0]

        np.testing.assert_allclose(seen.stat[voxel], refit(design[:, tested]), rtol=1e-8)
        for k in range(9):
            moved = without(z, design[:, tested])[index[k]] * sign[k][:, None]
            np.testing.assert_allclose(maps[k, voxel], refit(moved), rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("n_lost", [10, 60])
def test_a_group_without_images_at_a_voxel_leaves_nothing_to_test_there(n_lost):
    n = 200
    rng = np.random.default_rng(0)
    design = np.column_stack([np.arange(n) < 8, np.ones(n)]).astype(float)
    values = rng.standard_normal((n, 2))
    values[:n_lost, 1] = np.nan
    maps = np.empty((5, 2), dtype=np.float32)
    index = np.array([np.r_[rng.permutation(8), 8 + rng.permutation(n - 8)] for _ in range(5)])
    test = make_test(design, np.eye(2)[0], "smith")
    permute(make_tiles(values, test), test, index, np.ones((5, n)), maps)
    assert (np.abs(maps[:, 0]) > 1e-3).all()
    # Only the images of one group are left.
    assert np.isnan(maps[:, 1]).all()


def test_a_site_without_images_at_a_voxel_costs_no_freedom_there():
    rng = np.random.default_rng(0)
    site = np.repeat(np.eye(3), 10, axis=0)
    design = np.column_stack([rng.standard_normal(30), site])
    values = rng.standard_normal((30, 2))
    values[20:, 1] = np.nan
    seen = observe(make_tiles(values, make_test(design, np.eye(4)[0], "smith")))
    assert seen.freedom.tolist() == [26.0, 17.0]
    np.testing.assert_allclose(seen.stat[1:], t_of(design[:20, :3], values[:20, 1:]), rtol=1e-9)


@given(seed=st.integers(0, 50), cuts=st.sets(st.integers(1, 3)), scheme=st.sampled_from(SCHEMES[:2]))
def test_blocks_give_the_same_bits(seed, cuts, scheme):
    n, voxels = 12, 3 * TILE + 100
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.standard_normal(n), np.ones(n)])
    values = rng.standard_normal((n, voxels)).astype(np.float32)
    values[:3, TILE + 5 : TILE + 300] = np.nan
    plan = plan_rearrangements(design, 150, seed=seed)
    index, sign = plan.take(0, 150)
    test = make_test(design, np.eye(2)[0], scheme, plan, uneven=True)
    whole = np.empty((150, voxels), dtype=np.float32)
    maxima, counts = permute(make_tiles(values, test), test, index, sign, whole)
    edges = [0, *(cut * TILE for cut in sorted(cuts)), voxels]
    found, counted, tops = [], [], []
    for a, b in pairwise(edges):
        part = np.empty((150, b - a), dtype=np.float32)
        top, count = permute(make_tiles(values[:, a:b], test), test, index, sign, part)
        found.append(part)
        counted.append(count)
        tops.append(top)
    assert np.array_equal(np.concatenate(found, axis=1), whole)
    assert np.array_equal(np.concatenate(counted), counts)
    assert np.array_equal(np.maximum.reduce(tops), maxima)
    # A stretch that begins with a batch gives what the whole gave.
    some = np.empty((22, voxels), dtype=np.float32)
    permute(make_tiles(values, test), test, index[128:], sign[128:], some)
    assert np.array_equal(some, whole[128:])


def test_counts_and_maxima_are_those_of_the_maps():
    design, values = problem(20, 500)
    plan = plan_rearrangements(design, 300, seed=2)
    index, sign = plan.take(0, 300)
    for two_sided in (False, True):
        parts = partition(design, np.eye(4)[:1], plan.invariant)
        test = Test(parts, True, two_sided, "freedman-lane")
        tiles = make_tiles(values, test)
        seen = observe(tiles)
        level = on_scale(seen.share, test, seen.freedom)
        maps = np.empty((300, 500), dtype=np.float32)
        maxima, counts = permute(tiles, test, index, sign, maps)
        signed = np.abs(maps) if two_sided else maps
        np.testing.assert_allclose(maxima, signed.max(axis=1), rtol=1e-5)
        exact = (signed >= (np.abs(level) if two_sided else level)).sum(axis=0)
        assert np.abs(counts - exact).max() <= 1
        assert 0 < counts.mean() < 300


def test_voxels_that_do_not_vary_are_not_tested():
    design, values = problem(20, 4)
    values[:, 1] = 7.25
    values[:, 2] = design[:, 2:] @ np.array([1e6, 3.0])
    values[:, 3] = 0.0
    test = make_test(design, np.eye(4)[0], "freedman-lane")
    seen = observe(make_tiles(values, test))
    assert np.isfinite(seen.stat).tolist() == [True, False, False, False]
    assert np.isfinite(seen.freedom).tolist() == [True, False, False, False]


@pytest.mark.parametrize("freedom", [8, 20, 200])
def test_the_even_scale_is_nearly_normal_or_chi_squared(freedom):
    p = np.array([0.2, 0.05, 0.01, 1e-3, 1e-4])
    t = stats.t.isf(p, freedom)
    z = even_scale(t / np.sqrt(freedom + t**2), 1, freedom, True)
    np.testing.assert_allclose(z, stats.norm.isf(p), rtol=0.6 / freedom)
    f = stats.f.isf(p, 3, freedom)
    share = 3 * f / (3 * f + freedom)
    np.testing.assert_allclose(even_scale(share, 3, freedom, False), stats.chi2.isf(p, 3), rtol=1.2 / freedom)


def test_partition_of_any_contrast_spans_the_design():
    design, _ = problem()
    contrast = np.array([[1.0, -1, 0, 0], [0, 1, 0, -1]])
    parts = partition(design, contrast)
    together = np.column_stack([parts.tested, parts.nuisance])
    np.testing.assert_allclose(together.T @ together, np.eye(4), atol=1e-12)
    assert rss(together, design).max() < 1e-20
    beta = np.linalg.lstsq(np.column_stack([parts.raw, parts.nuisance]), design @ [3.0, 1, 0, 0], rcond=None)[0]
    np.testing.assert_allclose(beta[:2], contrast @ [3.0, 1, 0, 0], atol=1e-10)
    assert parts.degrees_of_freedom == 20


def test_sign_flips_of_a_mean_with_gaps_equal_refits():
    rng = np.random.default_rng(0)
    values = 0.3 + rng.standard_normal((12, 9))
    values[rng.random(values.shape) < 0.2] = np.nan
    design = np.ones((12, 1))
    test = make_test(design, np.ones(1), "freedman-lane", min_count=4)
    index, sign = plan_rearrangements(design, 20, "sign_flip", seed=1).take(0, 20)
    maps = np.empty((20, 9), dtype=np.float32)
    permute(make_tiles(values, test), test, index, sign, maps)
    for k in range(20):
        expected = stats.ttest_1samp(values * sign[k][:, None], 0, nan_policy="omit").statistic
        np.testing.assert_allclose(maps[k], expected, rtol=2e-5)
    expected = stats.ttest_1samp(values, 0, nan_policy="omit").statistic
    np.testing.assert_allclose(observe(make_tiles(values, test)).stat, expected, rtol=1e-9)


@pytest.mark.parametrize("unit", [1.0, 1e-18])
def test_a_joint_hypothesis_has_the_same_dimension_in_any_unit(unit):
    """(a + b, a - b) with b in another unit: two regressors, orthogonal to the others of the design."""
    rng = np.random.default_rng(30)
    design = np.column_stack([rng.standard_normal((30, 2)), np.ones(30), rng.normal(1e6, 1e3, 30)])
    whole = partition(design, np.eye(4)[:2])
    design[:, 1] /= unit
    parts = partition(design, np.array([[1, unit, 0, 0], [1, -unit, 0, 0]]))
    assert parts.tested.shape == (30, 2)
    np.testing.assert_allclose(parts.tested @ parts.tested.T, whole.tested @ whole.tested.T, atol=1e-9)
    np.testing.assert_allclose(parts.nuisance @ (parts.nuisance.T @ design[:, 2:]), design[:, 2:], rtol=1e-9)
    np.testing.assert_allclose(parts.nuisance.T @ parts.tested, 0, atol=1e-12)


def test_tiles_of_all_tests_show_the_images_and_hold_none():
    design, values = problem(20, 50)
    values[:3, 7] = np.nan
    for contrast in np.eye(4)[:2]:
        for tile in make_tiles(values, make_test(design, contrast, "freedman-lane", min_count=5)):
            assert np.shares_memory(tile.values, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_are_exact_where_the_nuisance_explains_nearly_all(dtype):
    """All orders of seven rows, against Freedman and Lane in double precision."""
    rng = np.random.default_rng(1)
    design = np.column_stack([rng.standard_normal((7, 2)), np.ones(7)])
    values = (1e4 + 3e3 * design[:, 1:2] + rng.standard_normal((7, 60))).astype(dtype)
    index = np.array(list(permutations(range(7))))
    test = Test(partition(design, np.eye(3)[:1]), True, True, "freedman-lane")
    maxima, counts = permute(make_tiles(values, test), test, index, np.ones(index.shape))
    nuisance = np.linalg.qr(design[:, 1:])[0]
    x = without(nuisance, design[:, 0])
    moved = without(nuisance, values.astype(np.float64))[index]
    moved -= nuisance @ (nuisance.T @ moved)
    r = np.abs(x @ moved) / np.linalg.norm(x) / np.sqrt(np.square(moved).sum(axis=1))
    assert np.array_equal(counts, (r >= r[0] - 1e-10).sum(axis=0))
    top = r.max(axis=1)
    np.testing.assert_allclose(np.sort(maxima), np.sort(top * np.sqrt(4 / (1 - top**2))), rtol=1e-7)


@pytest.mark.parametrize("n", [20, 4000])
def test_what_a_large_mean_takes_from_images_is_within_their_noise(n):
    """Numbers just above a power of two lose most when they are stored; the noise is no more than this needs."""
    rng = np.random.default_rng(n)
    parts = partition(np.column_stack([rng.standard_normal(n), np.ones(n)]), np.eye(2)[:1])
    small = np.abs(rng.standard_normal((n, 5)))
    large = 2.0 ** np.arange(26, 36, 2) + small
    found, fit = residuals(parts, large)
    lost = np.linalg.norm(found - residuals(parts, small)[0], axis=0)
    assert (lost < fit.noise).all()
    assert (fit.noise < 100 * lost).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [6, 8])
def test_maps_of_few_images_equal_refits(n, scheme):
    """Next to no freedom: rearranged regressors are nearly in the nuisance, and explain nearly everything."""
    design, values = problem(n, 300, seed=n)
    x, z = design[:, :1], design[:, 1:]
    index, sign = plan_rearrangements(design, 40, "both", seed=3).take(0, 40)
    test = Test(partition(design, np.eye(4)[:1]), True, True, scheme)
    maps = np.empty((40, 300), dtype=np.float32)
    maxima, counts = permute(make_tiles(values, test), test, index, sign, maps)
    base = x if scheme == "draper-stoneman" else without(z, x)
    left = without(z, values) if scheme == "freedman-lane" else without(design, values)
    expected = np.empty(maps.shape)
    for k in range(40):
        place = np.argsort(index[k])
        if scheme in ("freedman-lane", "ter-braak"):
            new_x, new_values = x, sign[k][place][:, None] * left[place]
        else:
            new_x, new_values = base[index[k]] * sign[k][:, None], values
        expected[k] = t_of(np.column_stack([new_x, z]), new_values)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4)
    size, seen = np.abs(expected), np.abs(t_of(design, values))
    np.testing.assert_allclose(maxima, size.max(axis=1), rtol=1e-6)
    tied = np.abs(size - seen) < 1e-6 * size
    least, most = np.sum((size > seen) & ~tied, axis=0), np.sum((size > seen) | tied, axis=0)
    assert ((least <= counts) & (counts <= most)).all()
    assert (least == most).mean() > 0.5


@pytest.mark.parametrize("is_f", [False, True])
@pytest.mark.parametrize(("kept", "there"), [(0.0, False), (1e-6, False), (1e-4, True), (3e-3, True)])
def test_a_regressor_that_is_rearranged_into_the_nuisance_of_the_images_a_voxel_has(kept, there, is_f):
    """Of whose length a fraction is left there: the first 16 images; over all 24 it is one like any other."""
    rng = np.random.default_rng(8)
    index = np.roll(np.arange(24), 3)[None]
    x = rng.standard_normal((24, 2))
    x -= x.mean(axis=0)
    x = np.linalg.qr(x)[0]
    z = rng.standard_normal(24)
    own = rng.standard_normal(16) / 4
    z[:16] = x[index[0], 0][:16] + kept * own
    # Orthogonal to the regressors, so that these are what is rearranged.
    tail = np.column_stack([x[16:], np.ones(8)])
    z[16:] -= tail @ np.linalg.lstsq(tail.T @ tail, tail.T @ z[16:] + np.append(x[:16].T @ z[:16], 0), rcond=None)[0]
    np.testing.assert_allclose(x.T @ z, 0, atol=1e-12)
    columns = np.column_stack([z, np.ones(24)])
    design = np.column_stack([x if is_f else x[:, :1], columns])
    values = 5 + rng.standard_normal((24, 30))
    values[16:] = np.nan
    test = make_test(design, np.eye(4)[:2] if is_f else np.eye(3)[0], "smith", min_count=10)
    maps = np.empty((1, 30), dtype=np.float32)
    permute(make_tiles(values, test), test, index, np.ones((1, 24)), maps)
    if not there:
        assert (maps == 0).all()
        return
    moved = x[index[0]][:16, : 1 + is_f].copy()
    moved[:, 0] = own
    full = np.column_stack([moved, columns[:16]])
    expected = f_of(columns[:16], moved, values[:16]) if is_f else -t_of(full, values[:16])
    np.testing.assert_allclose(maps[0], expected, rtol=1e-4, atol=1e-4)
