"""Noise models against explicit whitening, statsmodels and nilearn."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm import compute_contrast
from nilearn.glm.first_level import run_glm
from scipy import linalg, stats

from daskglm.kernels.basis import orthonormal_basis, with_constant
from daskglm.kernels.contrasts import coefficients, f_contrast, t_contrast
from daskglm.kernels.lagged import plan_lags, sum_lagged
from daskglm.kernels.noise import autoregression, fit_run, of_design, quantise, solve_whitened


def design_of(n, columns=4, seed=0, constant=True):
    x = np.random.default_rng(seed).standard_normal((n, columns))
    if constant:
        x[:, -1] = 1.0
    return x


def noisy(design, voxels, seed=1, level=100.0, rho=(0.0, 0.6)):
    """Data with autoregressive noise of different strength."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(design), voxels))
    strength = rng.uniform(*rho, voxels)
    for row in range(1, len(design)):
        noise[row] += strength * noise[row - 1]
    return level + design @ rng.standard_normal((design.shape[1], voxels)) + noise


def summed(design, values, order, volumes=None):
    """Basis, its moments and the coefficients of the constant."""
    basis = orthonormal_basis(design)
    regressors, constant = with_constant(design @ basis.to_basis)
    return basis, sum_lagged([values[:7], values[7:]], plan_lags(regressors, order, volumes)), constant


def whitener(n, rho):
    """I - sum rho_k L^k."""
    return np.eye(n) - sum((r * np.eye(n, k=-k - 1) for k, r in enumerate(rho)), 0.0)


def yule_walker(design, values, order):
    """Coefficients of the residuals, lag by lag."""
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    n = len(residual)
    r = np.stack([np.sum(residual[k:] * residual[: n - k], axis=0) / (n - k) for k in range(order + 1)])
    return np.stack([linalg.solve(linalg.toeplitz(r[:-1, v]), r[1:, v]) for v in range(values.shape[1])], axis=1)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_autoregression_from_first_principles(order, constant):
    design = design_of(60, constant=constant)
    values = noisy(design, 30)
    basis, moments, ones = summed(design, values, order)
    rho = autoregression(of_design(moments, ones, basis.rank))
    assert rho.shape == (order, 30)
    np.testing.assert_allclose(rho, yule_walker(design, values, order), atol=1e-10)


@given(order=st.integers(0, 3), n=st.integers(12, 60), columns=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_whitened_least_squares_of_any_coefficients(order, n, columns, seed):
    rng = np.random.default_rng(seed)
    design = design_of(n, columns, seed)
    values = noisy(design, 6, seed)
    rho = rng.uniform(-0.6, 0.6, (order, 6)) / max(order, 1)
    basis, moments, constant = summed(design, values, order)
    fit = solve_whitened(moments, rho, constant)
    beta = coefficients(fit, basis.to_basis)
    for voxel in range(6):
        w = whitener(n, rho[:, voxel])
        expected, rss, _, _ = np.linalg.lstsq(w @ design, w @ values[:, voxel], rcond=None)
        np.testing.assert_allclose(beta[:, voxel], expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(fit.residual_variance[voxel], rss[0] / (n - columns), rtol=1e-9)
    assert (fit.degrees_of_freedom == n - columns).all()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_own_coefficients_equal_statsmodels(order, constant):
    """GLS with covariance inv(W'W), fifty voxels."""
    design = design_of(80, 5, constant=constant)
    values = noisy(design, 50)
    basis, moments, ones = summed(design, values, order)
    fit = fit_run(moments, ones, basis.rank)
    beta = coefficients(fit, basis.to_basis)
    rows = np.array([[1.0, -1, 0, 0, 0], [0, 1, 0, 2, 0]])
    t = t_contrast(fit, rows[0] @ basis.to_basis)
    f = f_contrast(fit, rows, basis)
    rho = yule_walker(design, values, order)
    for voxel in range(50):
        w = whitener(80, rho[:, voxel])
        reference = sm.GLS(values[:, voxel], design, sigma=np.linalg.inv(w.T @ w)).fit()
        np.testing.assert_allclose(beta[:, voxel], reference.params, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(fit.residual_variance[voxel], reference.scale, rtol=1e-8)
        assert fit.degrees_of_freedom[voxel] == reference.df_resid
        test = reference.t_test(rows[0])
        np.testing.assert_allclose(t.effect_size[0, voxel], test.effect.item(), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(t.stat[voxel], test.tvalue.item(), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(t.p_value[voxel], stats.t.sf(test.tvalue.item(), reference.df_resid), rtol=1e-7)
        joint = reference.f_test(rows)
        np.testing.assert_allclose(f.stat[voxel], joint.fvalue, rtol=1e-8)
        np.testing.assert_allclose(f.p_value[voxel], joint.pvalue, rtol=1e-7)


@given(
    rho=st.lists(st.floats(-1.2, 1.2, allow_nan=False), min_size=1, max_size=30), bins=st.sampled_from([1, 10, 100, 7])
)
def test_quantise_is_nilearns_truncation(rho, bins):
    values = np.array([rho])
    found = quantise(values, bins)
    assert np.array_equal(found[0], (np.array(rho) * bins).astype(int) * 1.0 / bins)
    assert not np.signbit(found[found == 0]).any()
    assert (np.abs(found) <= np.abs(values)).all()


def test_quantise_keeps_nan():
    assert np.isnan(quantise(np.array([[np.nan, 0.5]]), 10)[0, 0])


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("bad", "constant"),
    [("constant", True), *[(bad, c) for bad in ("zero", "in the design", "nan", "inf") for c in (True, False)]],
)
def test_a_voxel_that_does_not_vary_is_nan_and_touches_nothing(order, bad, constant):
    design = design_of(50, constant=constant)
    values = noisy(design, 12)
    basis, moments, ones = summed(design, values, order)
    before = fit_run(moments, ones, basis.rank)
    spoilt = values.copy()
    spoilt[:, 5] = {
        "constant": np.full(50, 7.3), "zero": np.zeros(50), "in the design": design @ [3.0, -2, 1, 40],
        "nan": np.full(50, np.nan), "inf": np.where(np.arange(50) == 9, np.inf, 1.0),
    }[bad]  # fmt: skip
    after = fit_run(summed(design, spoilt, order)[1], ones, basis.rank)
    assert np.isnan(after.residual_variance[5])
    assert np.isnan(t_contrast(after, basis.to_basis[0]).z_score[5])
    assert np.isnan(f_contrast(after, np.eye(len(basis.to_basis))[:2], basis).stat[5])
    assert np.isnan(coefficients(after, basis.to_basis)[:, 5]).all()
    others = np.arange(12) != 5
    for field in ("residual_variance", "theta", "r_square"):
        np.testing.assert_allclose(
            getattr(after, field)[..., others], getattr(before, field)[..., others], rtol=1e-11, atol=1e-11
        )
    assert np.array_equal(np.isnan(after.residual_variance), ~others)


def nilearn_maps(values, design, contrast, noise_model, kind=None, bins=100):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels, results = run_glm(values, design, noise_model, bins=bins)
        found = compute_contrast(labels, results, contrast, kind)
    return found, labels


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_contrasts_equal_nilearn(noise_model, constant):
    design = design_of(70, 5, constant=constant)
    values = noisy(design, 200)
    if not constant:
        # nilearn subtracts the mean residual of all voxels from each; of these it is zero.
        values = np.hstack([values, -values])
    order = int(noise_model == "ar1")
    basis, moments, ones = summed(design, values, order)
    fit = fit_run(moments, ones, basis.rank, (lambda rho: quantise(rho, 100)) if order else None)
    raw = yule_walker(design, values, 1)[0] * 100
    settled = np.abs(raw - raw.round()) > 1e-9
    assert settled.sum() >= settled.size - 2
    for contrast, kind in (([1.0, -1, 0, 0, 0], "t"), (np.eye(5)[:3], "F"), (np.eye(5)[1:2], "F")):
        theirs, _ = nilearn_maps(values, design, np.array(contrast), noise_model, kind)
        ours = t_contrast(fit, np.array(contrast) @ basis.to_basis) if kind == "t" else f_contrast(fit, contrast, basis)
        pairs = {
            "effect": (ours.effect_size, np.atleast_2d(theirs.effect)),
            "variance": (ours.effect_variance, theirs.variance),
            "stat": (ours.stat, theirs.stat()),
            "p": (ours.p_value, theirs.p_value()),
            "z": (ours.z_score, theirs.z_score()),
        }
        for name, (mine, other) in pairs.items():
            scale = np.abs(np.asarray(other)).max()
            np.testing.assert_allclose(
                mine[..., settled], np.asarray(other)[..., settled], rtol=1e-7, atol=1e-8 * scale, err_msg=name
            )


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_rank_deficient_design(noise_model):
    """Effects equal nilearn's; its variance divides by n - columns, ours by n - rank."""
    n = 60
    design = design_of(n, 4)
    design = np.column_stack([design, design[:, 0] + design[:, 1], 2 * design[:, 3]])
    values = noisy(design, 40)
    basis, moments, ones = summed(design, values, int(noise_model == "ar1"))
    assert basis.rank == 4
    fit = fit_run(moments, ones, basis.rank, (lambda rho: quantise(rho, 100)) if noise_model == "ar1" else None)
    assert (fit.degrees_of_freedom == n - 4).all()
    # In the row space: x0 + its part of the sum, and so on.
    estimable = np.linalg.pinv(design) @ design
    for row in (estimable[0], estimable[2], estimable[0] - estimable[1]):
        ours = t_contrast(fit, row @ basis.to_basis)
        theirs, _ = nilearn_maps(values, design, row, noise_model)
        np.testing.assert_allclose(ours.effect_size[0], np.ravel(theirs.effect), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(ours.effect_variance, theirs.variance * (n - 6) / (n - 4), rtol=1e-8)
        if noise_model == "ols":
            # The same as the four independent columns give.
            same = row @ np.linalg.pinv(design) @ design[:, :4]
            full = sm.OLS(values[:, 0], design[:, :4]).fit()
            np.testing.assert_allclose(ours.stat[0], full.t_test(same).tvalue.item(), rtol=1e-8)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_far_tails(order, sign):
    """|t| > 40: finite, of the right sign, and equal to SciPy's logarithm of the tail."""
    design = design_of(120, 3)
    rng = np.random.default_rng(3)
    values = 10 + sign * np.outer(design[:, 0], [5.0, 10.0, 50.0, 1e4]) + 0.5 * rng.standard_normal((120, 4))
    basis, moments, ones = summed(design, values, order)
    fit = fit_run(moments, ones, basis.rank)
    maps = t_contrast(fit, basis.to_basis[0])
    assert (sign * maps.stat > 40).all()
    assert np.isfinite(maps.z_score).all()
    assert (np.diff(sign * maps.z_score) > 0).all()
    log_tail = stats.t.logsf(np.abs(maps.stat), 117)
    representable = log_tail > np.log(1e-300)
    assert representable[0]
    np.testing.assert_allclose(
        stats.norm.logsf(np.abs(maps.z_score[representable])), log_tail[representable], rtol=1e-9
    )
    f = f_contrast(fit, np.eye(len(basis.to_basis))[:1], basis)
    np.testing.assert_allclose(f.stat, maps.stat**2, rtol=1e-9)
    assert np.isfinite(f.z_score).all()


def test_r_square_is_that_of_the_unwhitened_fit():
    design = design_of(60, 4)
    values = noisy(design, 10)
    basis, moments, ones = summed(design, values, 1)
    fit = fit_run(moments, ones, basis.rank)
    predicted = design @ coefficients(fit, basis.to_basis)
    np.testing.assert_allclose(fit.r_square, predicted.var(axis=0) / values.var(axis=0), rtol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_gaps_are_whitened_by_an_explicit_matrix(order):
    kept = np.array([*range(20), *range(23, 50), 52, *range(55, 70)])
    design = design_of(70, 4)[kept]
    values = noisy(design, 8)
    basis, moments, ones = summed(design, values, order, kept)
    fit = fit_run(moments, ones, basis.rank)
    near = {k: np.equal.outer(kept - k, kept).astype(float) for k in range(1, order + 1)}
    # L^k reaches k volumes back within a stretch only.
    stretch = np.cumsum(np.diff(kept, prepend=kept[0]) > 1)
    near = {k: matrix * np.equal.outer(stretch, stretch) for k, matrix in near.items()}
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    r = [np.mean(residual**2, axis=0)]
    r += [np.sum(residual * (near[k] @ residual), axis=0) / near[k].sum() for k in near]
    for voxel in range(8):
        toeplitz = linalg.toeplitz([item[voxel] for item in r[:-1]])
        rho = np.linalg.solve(toeplitz, [item[voxel] for item in r[1:]])
        w = np.eye(kept.size) - sum(rho[k - 1] * near[k] for k in near)
        beta, rss, _, _ = np.linalg.lstsq(w @ design, w @ values[:, voxel], rcond=None)
        np.testing.assert_allclose(coefficients(fit, basis.to_basis)[:, voxel], beta, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(fit.residual_variance[voxel], rss[0] / (kept.size - 4), rtol=1e-9)


@pytest.mark.parametrize("voxels", [1, 3, 5000])
def test_shared_and_own_coefficients_are_solved_alike(voxels):
    """Coefficients that many voxels share go by a table; the result does not depend on it."""
    design = design_of(40, 3)
    values = noisy(design, voxels)
    basis, moments, ones = summed(design, values, 1)
    rho = np.full((1, voxels), 0.3)
    shared = solve_whitened(moments, rho, ones)
    rho[0] += np.linspace(0, 1e-13, voxels)
    own = solve_whitened(moments, rho, ones)
    np.testing.assert_allclose(shared.theta, own.theta, rtol=1e-8, atol=1e-9)
    w = whitener(40, [0.3])
    rss = np.linalg.lstsq(w @ design, w @ values, rcond=None)[1]
    np.testing.assert_allclose(shared.residual_variance, rss / 37, rtol=1e-9)
    maps = [t_contrast(fit, basis.to_basis[0]).stat for fit in (shared, own)]
    np.testing.assert_allclose(*maps, rtol=1e-7)
