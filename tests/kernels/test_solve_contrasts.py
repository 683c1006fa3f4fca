"""Coefficients and contrasts, against statsmodels voxel by voxel."""

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from daskglm.kernels.basis import is_estimable, orthonormal_basis
from daskglm.kernels.contrasts import coefficients, f_contrast, t_contrast
from daskglm.kernels.moments import block_moments
from daskglm.kernels.solve import solve


def fitted(design, data, weights=None, min_count=1):
    basis = orthonormal_basis(design)
    columns = design @ basis.to_basis
    halves = [slice(0, 11), slice(11, None)]
    parts = [
        block_moments(data[h], columns[h], basis.constant, None if weights is None else weights[h]) for h in halves
    ]
    return basis, solve(parts[0] + parts[1], min_count)


def random_problem(seed, n=31, missing=0.2):
    rng = np.random.default_rng(seed)
    site = np.eye(3)[rng.integers(0, 3, n)]
    design = np.column_stack([rng.standard_normal(n) * 1e3, rng.standard_normal(n), site])
    data = rng.standard_normal((n, 12)) + 3
    data[:, 6:][rng.random((n, 6)) < missing] = np.nan
    return design, data


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["none", "sample", "voxel"]))
def test_equals_statsmodels(seed, kind):
    design, data = random_problem(seed)
    rng = np.random.default_rng(seed)
    weights = {"none": None, "sample": 0.5 + rng.random(31), "voxel": 0.5 + rng.random(data.shape)}[kind]
    basis, fit = fitted(design, data, weights)
    single, several = np.array([0, 1, 0, 0, 0.0]), np.array([[0, 0, 1, -1, 0], [0, 0, 0, 1, -1.0]])
    t, f = t_contrast(fit, single @ basis.to_basis), f_contrast(fit, several, basis)
    beta = coefficients(fit, basis.to_basis)
    full = np.broadcast_to(1.0 if weights is None else weights.reshape(31, -1), data.shape)
    for voxel in range(data.shape[1]):
        seen = np.isfinite(data[:, voxel])
        if np.linalg.matrix_rank(design[seen]) < 5:
            continue
        reference = sm.WLS(data[seen, voxel], design[seen], weights=full[seen, voxel]).fit()
        t_reference, f_reference = reference.t_test(single), reference.f_test(several)
        assert np.allclose(beta[:, voxel], reference.params, rtol=1e-8, atol=1e-10)
        assert np.isclose(fit.residual_variance[voxel], reference.scale, rtol=1e-10)
        assert fit.degrees_of_freedom[voxel] == reference.df_resid
        assert np.isclose(t.stat[voxel], t_reference.tvalue.item(), rtol=1e-8, atol=1e-9)
        assert np.isclose(t.effect_variance[voxel], t_reference.sd.item() ** 2, rtol=1e-8)
        assert np.isclose(f.stat[voxel], f_reference.fvalue, rtol=1e-8, atol=1e-9)
        assert np.isclose(f.p_value[voxel], f_reference.pvalue, rtol=1e-7)


def test_ill_conditioned_design_keeps_its_digits():
    """Condition 7e9: year and year squared, uncentred, beside a tiny regressor."""
    rng = np.random.default_rng(0)
    year = np.linspace(1950, 2020, 71)
    design = np.column_stack([np.ones(71), year, year**2, rng.standard_normal(71) * 1e-6])
    centred = np.column_stack([np.ones(71), year - 1985, (year - 1985) ** 2, design[:, 3] * 1e6])
    data = rng.standard_normal((71, 4))
    basis, fit = fitted(design, data)
    beta = coefficients(fit, basis.to_basis)
    truth = np.linalg.lstsq(centred, data, rcond=None)[0]
    assert np.allclose(beta[3] * 1e-6, truth[3], rtol=1e-8)
    assert np.allclose(beta[2], truth[2], rtol=1e-5)


def test_rank_deficient_design():
    """Group indicators beside the intercept: differences of groups are determined, the groups are not."""
    rng = np.random.default_rng(3)
    group = np.eye(3)[np.arange(31) % 3]
    design = np.column_stack([np.ones(31), group, rng.standard_normal(31)])
    data = rng.standard_normal((31, 5)) + 4
    basis, fit = fitted(design, data)
    assert basis.rank == 4
    difference, level = np.array([[0, 1.0, -1, 0, 0]]), np.array([[0, 1.0, 0, 0, 0]])
    assert is_estimable(difference, basis)
    assert not is_estimable(level, basis)
    maps = t_contrast(fit, (difference @ basis.to_basis)[0])
    for voxel in range(5):
        one = sm.OLS(data[:, voxel], design[:, 1:]).fit().t_test([1, -1, 0, 0])
        assert np.isclose(maps.stat[voxel], one.tvalue.item(), rtol=1e-10)
        assert fit.degrees_of_freedom[voxel] == 27
    # The minimum-norm solution, as a pseudo-inverse gives it.
    assert np.allclose(coefficients(fit, basis.to_basis), np.linalg.pinv(design) @ data, atol=1e-10)


def test_voxel_that_lost_a_site():
    """Where one site has no coverage its mean is not determined; other contrasts still are."""
    design, data = random_problem(5, missing=0.0)
    gone = design[:, 4] == 1
    data[gone, 7] = np.nan
    basis, fit = fitted(design, data)
    slope, lost = np.array([0, 1.0, 0, 0, 0]), np.array([0, 0, 1.0, 0, -1])
    reference = sm.OLS(data[~gone, 7], design[~gone][:, :4]).fit().t_test([0, 1, 0, 0])
    maps = t_contrast(fit, slope @ basis.to_basis)
    assert np.isclose(maps.stat[7], reference.tvalue.item(), rtol=1e-9)
    assert fit.degrees_of_freedom[7] == (~gone).sum() - 4
    other = t_contrast(fit, lost @ basis.to_basis)
    assert np.isnan([other.stat[7], other.effect_variance[7], other.effect_size[0, 7]]).all()
    assert np.isfinite(other.stat[:7]).all()
    joint = f_contrast(fit, np.array([slope, lost]), basis)
    assert np.isnan(joint.stat[7])
    assert np.isfinite(joint.stat[:7]).all()


def test_constant_and_unfitted_voxels_are_nan():
    design, data = random_problem(6, missing=0.0)
    data[:, 0] = 7.0  # constant
    data[:, 1] = design @ np.array([1e-3, 2, 3, 4, 5])  # explained to rounding
    data[3:, 2] = np.nan  # three observations of five coefficients
    data[:, 3] = np.nan
    basis, fit = fitted(design, data)
    for maps in (t_contrast(fit, basis.to_basis[1]), f_contrast(fit, np.eye(len(basis.to_basis))[:2], basis)):
        assert np.isnan(maps.stat[:4]).all()
        assert np.isnan(maps.p_value[:4]).all()
        assert np.isnan(maps.z_score[:4]).all()
        assert np.isfinite(maps.stat[4:]).all()


def test_min_count_blanks_thin_voxels():
    design, data = random_problem(7, missing=0.0)
    data[:10, 4] = np.nan
    basis, fit = fitted(design, data, min_count=25)
    maps = t_contrast(fit, basis.to_basis[1])
    assert np.isnan(maps.stat[4])
    assert np.isfinite(np.delete(maps.stat, 4)).all()


def test_dependent_rows_of_an_f_contrast():
    """All pairwise differences of three groups test the same as two of them."""
    design, data = random_problem(8, missing=0.0)
    basis, fit = fitted(design, data)
    pairwise = np.array([[0, 0, 1, -1, 0], [0, 0, 0, 1, -1], [0, 0, 1, 0, -1.0]])
    all_three, two = (
        f_contrast(fit, pairwise, basis),
        f_contrast(fit, pairwise[:2], basis),
    )
    assert np.allclose(all_three.stat, two.stat)
    assert np.allclose(all_three.p_value, two.p_value)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_rank_does_not_depend_on_units(scale):
    design, _ = random_problem(9)
    design[:, 1] *= scale
    assert orthonormal_basis(design).rank == 5
    assert orthonormal_basis(design).constant is not None
    assert orthonormal_basis(design[:, :4]).constant is None


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_f_does_not_depend_on_units(scale):
    """Sex beside intracranial volume in cubic millimetres: their variances differ by a factor of 1e11."""
    rng = np.random.default_rng(10)
    icv = rng.normal(1.5e6, 4e5, 40)
    design = np.column_stack([np.arange(40) % 2, icv * scale, np.ones(40)])
    data = rng.standard_normal((40, 6)) + 2 * design[:, :1] + icv[:, None] * 1e-6
    data[:5, 4:] = np.nan
    basis, fit = fitted(design, data)
    maps = f_contrast(fit, np.eye(3)[:2], basis)
    for voxel in range(6):
        seen = np.isfinite(data[:, voxel])
        unitless = np.column_stack([design[seen, 0], (icv[seen] - 1.5e6) / 4e5, np.ones(seen.sum())])
        reference = sm.OLS(data[seen, voxel], unitless).fit().f_test(np.eye(3)[:2])
        assert np.isclose(maps.stat[voxel], reference.fvalue, rtol=1e-7)


@pytest.mark.parametrize("n", [9, 23, 53, 91])
def test_constant_voxels_of_any_value_and_block(n):
    """The rounding of a constant about its own mean is no variance."""
    rng = np.random.default_rng(11)
    data = np.tile(rng.standard_normal(4000) * 10.0 ** rng.integers(-3, 6, 4000), (n, 1))
    basis = orthonormal_basis(np.ones((n, 1)))
    columns = np.ones((n, 1)) @ basis.to_basis
    for size in (1, 4, n):
        moments = None
        for start in range(0, n, size):
            block = block_moments(data[start : start + size], columns[start : start + size], basis.constant)
            moments = block if moments is None else moments + block
        assert np.isnan(t_contrast(solve(moments), basis.to_basis[0]).stat).all()


def test_weights_that_take_away_a_group():
    """Zero weights by sample and by sample and voxel say the same: the difference is not determined."""
    rng = np.random.default_rng(12)
    design = np.repeat(np.eye(2), 8, axis=0)
    data = rng.standard_normal((16, 3))
    for weights in (design[:, 0], np.repeat(design[:, :1], 3, axis=1)):
        basis = orthonormal_basis(design)
        fit = solve(block_moments(data, design @ basis.to_basis, basis.constant, weights))
        assert np.isnan(t_contrast(fit, np.array([-1.0, 1]) @ basis.to_basis).stat).all()
        level = t_contrast(fit, np.array([1.0, 0]) @ basis.to_basis)
        assert np.allclose(level.effect_size[0], data[:8].mean(axis=0))
        assert (fit.degrees_of_freedom == 7).all()


def test_one_voxel_alone_equals_one_among_others():
    """A slab one voxel wide, with gaps, about a mean of a million."""
    rng = np.random.default_rng(13)
    design = np.column_stack([np.ones(200), rng.standard_normal(200)])
    data = 1e6 + rng.standard_normal((200, 3))
    data[::2, 0] = np.nan
    basis = orthonormal_basis(design)
    columns = design @ basis.to_basis
    alone = solve(block_moments(data[:, :1], columns, basis.constant)).residual_variance[0]
    among = solve(block_moments(data, columns, basis.constant)).residual_variance[0]
    assert np.isclose(alone, among, rtol=1e-13)


def exact_f(design, values, contrast):
    """F of a contrast in arithmetic of 60 digits, from its formula."""
    with mpmath.workdps(60):
        x, y, c = mpmath.matrix(design.tolist()), mpmath.matrix(values.tolist()), mpmath.matrix(contrast.tolist())
        inverse = (x.T * x) ** -1
        beta = inverse * (x.T * y)
        residual = y - x * beta
        variance = (residual.T * residual)[0] / (len(values) - design.shape[1])
        effect = c * beta
        return float((effect.T * (c * inverse * c.T) ** -1 * effect)[0] / len(contrast) / variance)


def near_collinear(kind):
    """Designs whose tested regressors nearly say the same, and their contrasts; an effect of the difference."""
    rng = np.random.default_rng(20)
    x = rng.standard_normal(44)
    year = np.arange(44) % 11 + 2005.0
    if kind == "raw cubic of the year":
        design = np.column_stack([year, year**2, year**3, x, np.ones(44)])
        return design, np.eye(5)[:3], 0.05 * (year - 2010) ** 2
    if kind == "a regressor and the same with noise":
        design = np.column_stack([x, x + 1e-5 * rng.standard_normal(44), np.ones(44)])
        return design, np.eye(3)[:2], (design[:, 1] - x) * 3e5
    design = np.column_stack([x, x + 1e-5 * rng.standard_normal(44), x**2, 1e6 * x**3, np.ones(44)])
    # Differences of three of them: rows that depend on each other, and units that differ.
    return design, np.array([[1, -1, 0, 0, 0], [0, 0, 1, 1e-6, 0.0]]), x**2


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", ["raw cubic of the year", "a regressor and the same with noise", "differences"])
def test_f_of_nearly_collinear_regressors_equals_exact_arithmetic(kind, gaps):
    design, contrast, effect = near_collinear(kind)
    data = np.random.default_rng(21).standard_normal((44, 3)) + effect[:, None]
    if gaps:
        data[[3, 17], 1:] = np.nan
    basis, fit = fitted(design, data)
    maps = f_contrast(fit, contrast, basis)
    for voxel in range(3):
        seen = np.isfinite(data[:, voxel])
        exact = exact_f(design[seen], data[seen, voxel], contrast)
        assert np.isclose(maps.stat[voxel], exact, rtol=1e-6)
        assert np.isclose(np.sum(maps.effect_size[:, voxel] ** 2) / len(contrast), exact * fit.residual_variance[voxel])


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_f_of_sums_and_differences_is_that_of_the_regressors_in_any_unit(unit):
    """(a + b, a - b) and (a, b) are the same hypothesis."""
    rng = np.random.default_rng(22)
    design = np.column_stack([rng.standard_normal((40, 2)), rng.standard_normal(40) * 1e3, np.ones(40)])
    data = rng.standard_normal((40, 4)) + design[:, :2].sum(axis=1, keepdims=True)
    reference = [sm.OLS(values, design).fit().f_test(np.eye(4)[:2]).fvalue for values in data.T]
    design[:, 1] *= unit
    basis, fit = fitted(design, data)
    for contrast in ([[1, 1, 0, 0], [1, -1, 0, 0.0]], [[1, unit, 0, 0], [1, -unit, 0, 0], [2, 0, 0, 0]]):
        maps = f_contrast(fit, np.array(contrast), basis)
        assert np.allclose(maps.stat, reference, rtol=1e-9)
