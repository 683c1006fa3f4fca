"""Both sides of the limits by which designs, contrasts and voxels are told apart: a little inside, a little outside."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from daskglm.design.rearrangements import plan_rearrangements
from daskglm.kernels.basis import is_estimable, orthonormal_basis, with_constant
from daskglm.kernels.contrasts import f_contrast, t_contrast
from daskglm.kernels.lagged import plan_lags, sum_lagged
from daskglm.kernels.moments import block_moments
from daskglm.kernels.noise import fit_run
from daskglm.kernels.permutation import partition
from daskglm.kernels.permutation_blocks import Test, make_tiles, observe, permute
from daskglm.kernels.solve import solve
from daskglm.kernels.trials import span
from daskglm.kernels.variance_groups import variance_groups

Test.__test__ = False
RNG = np.random.default_rng(1)
N = 30
X, Z, E = RNG.standard_normal((3, N))
ONES = np.ones(N)


def fitted(design, data, dtype=np.float64):
    basis = orthonormal_basis(design)
    columns = design @ basis.to_basis
    parts = [block_moments(data[rows], columns[rows], basis.constant) for rows in (slice(0, 11), slice(11, None))]
    return basis, solve(parts[0] + parts[1], 1, dtype)


def observed_t(design, data, weights):
    tiles = make_tiles(data, Test(partition(design, np.atleast_2d(weights)), True, True, "freedman-lane"))
    return observe(tiles).stat


# Rank


@pytest.mark.parametrize("times", [0.1, 10.0])
@pytest.mark.parametrize("rank_of", [lambda x: orthonormal_basis(x).rank, lambda x: span(x)[0].shape[1]])
def test_the_rank_of_a_design_is_that_of_numpy_for_columns_of_unit_length(rank_of, times):
    rng = np.random.default_rng(0)
    x, other = np.linalg.qr(rng.standard_normal((400, 2)))[0].T
    apart = times * 2 * 400 * np.finfo(float).eps
    design = np.column_stack([np.full(400, 1e-6), 1e9 * x, x + apart * other])
    assert rank_of(design) == np.linalg.matrix_rank(design / np.linalg.norm(design, axis=0)) == (2 if times < 1 else 3)


@pytest.mark.parametrize(("apart", "rank"), [(1e-10, 2), (1e-14, 1)])
def test_rows_of_an_f_contrast_that_hardly_differ_are_one(apart, rank):
    design = np.column_stack([X, Z, ONES])
    data = RNG.standard_normal((N, 5))
    basis, fit = fitted(design, data)
    found = f_contrast(fit, np.array([[1.0, 1, 0], [1, 1 + apart, 0]]), basis).stat
    rows = np.eye(3)[:2] if rank == 2 else np.array([[1.0, 1, 0]])
    expected = [sm.OLS(y, design).fit().f_test(rows).fvalue for y in data.T]
    np.testing.assert_allclose(found, expected, rtol=1e-6 if rank == 1 else 1e-4)
    assert partition(design, np.array([[1.0, 1, 0], [1, 1 + apart, 0]])).tested.shape[1] == rank


@pytest.mark.parametrize(("far", "known"), [(1e6, True), (1e7, False)])
def test_a_regressor_of_which_a_voxel_keeps_a_millionth_is_fitted(far, known):
    """A value far away is missing at the voxel: what is left of the column there is 1 / far of it."""
    design = np.column_stack([X, ONES])
    design[4, 0] = far
    data = (0.3 * X + E)[:, None].copy()
    data[4] = np.nan
    there = np.arange(N) != 4
    basis, fit = fitted(design, data)
    t = t_contrast(fit, basis.to_basis[0]).stat[0]
    reference = sm.OLS(data[there, 0], design[there]).fit()
    if known:
        np.testing.assert_allclose(t, reference.tvalues[0], rtol=1e-5)
    else:
        assert np.isnan(t)
    assert fit.degrees_of_freedom[0] == N - 1 - (2 if known else 1)


@pytest.mark.parametrize("weight", [1e-5, 1e-7])
def test_a_contrast_leaves_out_what_a_voxel_lacks_but_for_a_millionth(weight):
    site = np.repeat(np.eye(3), 10, axis=0)
    design = np.column_stack([X, site])
    data = E[:, None].copy()
    data[20:] = np.nan
    basis, fit = fitted(design, data)
    t = t_contrast(fit, np.array([1, 0, 0, weight]) @ basis.to_basis).stat[0]
    expected = sm.OLS(data[:20, 0], design[:20, :3]).fit().tvalues[0]
    np.testing.assert_allclose(t, np.nan if weight > 1e-6 else expected, rtol=1e-5)


@pytest.mark.parametrize(("apart", "known"), [(1e-9, True), (1e-7, False)])
def test_a_contrast_is_estimable_in_the_row_space_but_for_rounding(apart, known):
    basis = orthonormal_basis(np.column_stack([X, Z, X + Z]))
    contrast = np.array([[1.0, -1, 0]]) + apart * np.array([[1.0, 1, -1]])
    assert is_estimable(1e6 * contrast, basis) is known


# The constant


@pytest.mark.parametrize(("apart", "known"), [(1e-9, True), (1e-7, False)])
def test_a_design_spans_the_constant_but_for_rounding(apart, known):
    column = 1 + apart * X
    assert (orthonormal_basis(column[:, None]).constant is not None) is known
    assert with_constant(column[:, None] / np.linalg.norm(column))[0].shape[1] == (1 if known else 2)


def test_what_spans_the_constant_nearly_is_fitted_as_it_is():
    """Images of 1000 without noise but a millionth's: what the column does not share with the constant shows."""
    column = 1 + 1e-6 * X
    data = (1000 * column + 1e-4 * E)[:, None]
    _, fit = fitted(column[:, None], data)
    residual = data[:, 0] - column * (column @ data[:, 0]) / (column @ column)
    np.testing.assert_allclose(fit.residual_variance[0], residual @ residual / (N - 1), rtol=1e-4)


def test_the_constant_is_found_between_columns_that_nearly_agree():
    """Their difference is the constant: a large mean costs no digits."""
    design = np.column_stack([X, X + 1e-5])
    data = (1e7 + E)[:, None]
    _, fit = fitted(design, data)
    expected = sm.OLS(data[:, 0] - 1e7, np.column_stack([X, ONES])).fit().mse_resid
    np.testing.assert_allclose(fit.residual_variance[0], expected, rtol=1e-6)


def test_a_nuisance_that_spans_the_constant_nearly_is_taken_out_as_it_is():
    column = 1 + 1e-8 * Z
    data = (1e6 * column + E)[:, None]
    residual = E - column * (column @ E) / (column @ column)
    expected = sm.OLS(residual, np.column_stack([X, column])).fit().tvalues[0]
    np.testing.assert_allclose(observed_t(np.column_stack([X, column]), data, [1.0, 0]), [expected], rtol=1e-6)


def test_a_nuisance_whose_columns_differ_by_the_constant_costs_no_digits():
    design = np.column_stack([X, Z, Z + 1e-5])
    expected = sm.OLS(E, np.column_stack([X, Z, ONES])).fit().tvalues[0]
    np.testing.assert_allclose(observed_t(design, (1e9 + E)[:, None], [1.0, 0, 0]), [expected], rtol=1e-5)


def test_a_nuisance_that_permutations_hardly_change_is_permuted():
    """By an angle of 4e-4: its square is left of it in the statistic."""
    column = 1 + 4e-4 * (Z - Z.mean()) / Z.std()
    plan = plan_rearrangements(np.column_stack([X, column]), 40, seed=1)
    parts = partition(np.column_stack([X, column]), np.array([[1.0, 0]]), plan.invariant)
    test = Test(parts, True, True, "freedman-lane")
    data = np.random.default_rng(5).standard_normal((N, 1))
    index, sign = plan.take(0, 40)
    found, _ = permute(make_tiles(data, test), test, index, sign)
    left = data[:, 0] - column * (column @ data[:, 0]) / (column @ column)
    orders = np.argsort(index, axis=1)
    expected = [abs(sm.OLS(left[order], np.column_stack([X, column])).fit().tvalues[0]) for order in orders]
    np.testing.assert_allclose(found, expected, rtol=5e-10, atol=1e-10)


# What is left of a voxel


@pytest.mark.parametrize(
    ("part", "dtype", "varies"),
    [(1e-14, np.float64, True), (1e-15, np.float64, False), (2e-7, np.float32, True), (4e-8, np.float32, False)],
)
@pytest.mark.parametrize("gap", [False, True])
def test_a_voxel_varies_if_by_more_than_its_last_digits(part, dtype, varies, gap):
    design = np.column_stack([np.arange(N) % 3, ONES]).astype(float)
    data = (1 + part * np.sign(X))[:, None].astype(dtype)
    there = ~np.isin(np.arange(N), [3, 8] if gap else [])
    data[~there] = np.nan
    basis, fit = fitted(design, data, dtype)
    expected = sm.OLS(np.sign(X)[there], design[there]).fit().tvalues[0] if varies else np.nan
    for t in (t_contrast(fit, basis.to_basis[0]).stat, observed_t(design, data, [1.0, 0])):
        np.testing.assert_allclose(t, [expected], rtol=0.05)


def nearly_explained(part):
    """What the design explains, but for this part of its length, and t."""
    rest = E - np.column_stack([X, ONES]) @ np.linalg.lstsq(np.column_stack([X, ONES]), E, rcond=None)[0]
    lengths = np.linalg.norm(X - X.mean()) / np.linalg.norm(rest)
    return (3 * X + part * 3 * rest * lengths)[:, None], np.sqrt(N - 2) / part


@pytest.mark.parametrize(
    ("part", "fit_knows", "permutation_knows"),
    [(3e-7, True, True), (3e-8, True, False), (3e-9, True, False), (1e-9, False, False)],
)
def test_a_voxel_is_explained_but_for_rounding(part, fit_knows, permutation_knows):
    data, t = nearly_explained(part)
    design = np.column_stack([X, ONES])
    basis, fit = fitted(design, data)
    np.testing.assert_allclose(t_contrast(fit, basis.to_basis[0]).stat, [t if fit_knows else np.nan], rtol=1e-5)
    np.testing.assert_allclose(observed_t(design, data, [1.0, 0]), [t if permutation_knows else np.nan], rtol=1e-3)


# Rearranged regressors


def refitted(tested, nuisance, y):
    full = np.column_stack([tested, nuisance])
    left = y - nuisance @ np.linalg.lstsq(nuisance, y, rcond=None)[0]
    rest = y - full @ np.linalg.lstsq(full, y, rcond=None)[0]
    ratio = (left @ left - rest @ rest) / (rest @ rest) * (len(y) - full.shape[1])
    return ratio / (full.shape[1] - nuisance.shape[1])


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("n_tested", [1, 2])
@pytest.mark.parametrize(("apart", "known"), [(1e-4, True), (1e-6, "without gaps"), (1e-14, False)])
def test_a_rearranged_regressor_that_lies_in_the_nuisance_tests_nothing(apart, known, n_tested, gap):
    rng = np.random.default_rng(3)
    order = rng.permutation(N)
    nuisance = np.column_stack([Z, ONES])
    moved = np.column_stack([Z + apart * X, E])[:, :n_tested]
    tested = np.empty_like(moved)
    tested[order] = moved  # so that this order takes it onto the nuisance
    data = rng.standard_normal((N, 3))
    if gap:
        data[[3, 8]] = np.nan
    test = Test(partition(np.column_stack([tested, nuisance]), np.eye(n_tested + 2)[:n_tested]),
                n_tested == 1, True, "draper-stoneman")  # fmt: skip
    maps = np.empty((1, 3), dtype=np.float32)
    index = order[None]
    permute(make_tiles(data, test), test, index, np.ones((1, N)), maps)
    there = np.isfinite(data[:, 0])
    known = not gap if known == "without gaps" else known
    expected = [refitted(tested[order][there], nuisance[there], y[there]) if known else 0.0 for y in data.T]
    np.testing.assert_allclose(maps[0] ** (2 if n_tested == 1 else 1), expected, rtol=2e-3)


@pytest.mark.parametrize(("far", "rtol"), [(2e4, 1e-9), (1e6, 1e-7), (1e8, 1e-5), (1e10, 1e-3)])
def test_a_nuisance_of_which_a_voxel_keeps_little_is_taken_out(far, rtol):
    design = np.column_stack([X, Z, ONES])
    design[4, 1] = far
    data = E[:, None].copy()
    data[4] = np.nan
    there = np.arange(N) != 4
    expected = sm.OLS(data[there, 0], np.column_stack([X, Z, ONES])[there]).fit().tvalues[0]
    np.testing.assert_allclose(observed_t(design, data, [1.0, 0, 0]), [expected], rtol=rtol)


@pytest.mark.parametrize("seed", range(8))
def test_a_nuisance_that_a_voxel_lacks_altogether_costs_it_no_freedom(seed):
    rng = np.random.default_rng(seed)
    site = np.eye(5)[rng.permutation(np.arange(N) % 5)]
    design = np.column_stack([X, Z, site @ rng.standard_normal((5, 5))])
    data = E[:, None].copy()
    data[site[:, 2] == 1] = np.nan
    there = np.isfinite(data[:, 0])
    tiles = make_tiles(data, Test(partition(design, np.eye(7)[:1]), True, True, "smith"))
    assert observe(tiles).freedom.tolist() == [there.sum() - np.linalg.matrix_rank(design[there])]


@pytest.mark.parametrize(("apart", "known"), [(1e-6, True), (1e-10, False)])
def test_parts_of_f_that_agree_at_a_voxel_are_not_tested_there(apart, known):
    """Elsewhere they differ by the image that is missing."""
    other = X + apart * Z
    other[4] += 5
    design = np.column_stack([X, other, ONES])
    data = E[:, None].copy()
    data[4] = np.nan
    test = Test(partition(design, np.eye(3)[:2]), False, False, "smith")
    found = observe(make_tiles(data, test)).stat[0]
    there = np.arange(N) != 4
    expected = refitted(np.column_stack([X, Z])[there], ONES[there, None], E[there]) if known else np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("spread", "known"), [(1e-5, True), (3e-7, False)])
def test_a_group_has_a_variance_if_its_values_differ(spread, known):
    groups = np.repeat([0, 1], [12, 18])
    design = np.column_stack([groups == 0, groups == 1]).astype(float)
    data = np.where(groups == 0, 5 + spread * E, X)[:, None]
    parts = partition(design, np.array([[1.0, -1]]))
    test = Test(parts, True, True, "freedman-lane", groups=variance_groups(parts, groups))
    found = observe(make_tiles(data, test)).stat
    expected = stats.ttest_ind(data[:12, 0], data[12:, 0], equal_var=False).statistic if known else np.nan
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


# Runs


def summed_run(design, values, order):
    basis = orthonormal_basis(design)
    regressors, constant = with_constant(design @ basis.to_basis)
    return basis, sum_lagged([values[:7], values[7:]], plan_lags(regressors, order, None)), constant


@pytest.mark.parametrize(("part", "left"), [(1e-6, True), (3e-8, False)])
@pytest.mark.parametrize("order", [0, 1])
def test_a_run_is_explained_but_for_rounding(order, part, left):
    data, _ = nearly_explained(part)
    basis, moments, ones = summed_run(np.column_stack([X, ONES]), data, order)
    found = fit_run(moments, ones, basis.rank).residual_variance[0]
    assert np.isfinite(found) == left


@pytest.mark.parametrize(("part", "varies"), [(1e-14, True), (1e-15, False)])
def test_a_run_varies_if_by_more_than_its_last_digits(part, varies):
    basis, moments, ones = summed_run(np.column_stack([X, ONES]), (1 + part * np.sign(E))[:, None], 1)
    assert np.isfinite(fit_run(moments, ones, basis.rank).residual_variance[0]) == varies
