"""Contrasts over runs against their definitions, voxel by voxel, with SciPy's tails."""

import numpy as np
import pytest
from scipy import linalg, stats

from daskglm.kernels import fixed_effects as module
from daskglm.kernels.fixed_effects import fixed_effects, joint_f

RUNS, VOXELS = 4, 13
RNG = np.random.default_rng(3)
FREEDOM = np.array([20.0, 31, 44, 57])[:, None] + np.zeros(VOXELS)


def variances_with_gaps():
    """Voxels that runs do not have: as NaN, or without variance; the last one has no run."""
    found = RNG.uniform(0.5, 4, (RUNS, VOXELS))
    found[1, :3], found[2, 2], found[0, 4:6], found[:, -1] = np.nan, np.nan, 0.0, np.nan
    return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "dimension"), [(1, None), (1, 1), (3, 3), (3, 2)])
def test_effects_are_averaged_over_the_runs_that_have_a_voxel(rows, dimension, weighted):
    effects, variances = RNG.standard_normal((RUNS, rows, VOXELS)), variances_with_gaps()
    effects[np.broadcast_to(np.isnan(variances)[:, None], effects.shape)] = np.nan
    found = fixed_effects(effects, variances, FREEDOM, dimension, weighted)
    for v in range(VOXELS - 1):
        there = variances[:, v] > 0
        e, var = effects[there, :, v], variances[there, v]
        w = 1 / var if weighted else np.ones(len(var))
        effect, variance, freedom = w @ e / w.sum(), np.sum(w**2 * var) / w.sum() ** 2, FREEDOM[there, v].sum()
        np.testing.assert_allclose(found.effect_size[:, v], effect, rtol=1e-12)
        np.testing.assert_allclose(found.effect_variance[v], variance, rtol=1e-12)
        if dimension is None:
            stat, p = effect[0] / np.sqrt(variance), stats.t.sf(effect[0] / np.sqrt(variance), freedom)
        else:
            stat = effect @ effect / dimension / variance
            p = stats.f.sf(stat, dimension, freedom)
        np.testing.assert_allclose(found.stat[v], stat, rtol=1e-12)
        np.testing.assert_allclose(found.p_value[v], p, rtol=1e-9)
        np.testing.assert_allclose(found.z_score[v], stats.norm.isf(p), rtol=1e-7, atol=1e-9)
    for name in ("effect_size", "effect_variance", "stat", "p_value", "z_score"):
        assert np.isnan(getattr(found, name)[..., -1]).all()


@pytest.mark.parametrize("together", [2**13, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_joint_test_is_walds(rows, weighted, together, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", together)
    effects, variances = RNG.standard_normal((RUNS, rows, VOXELS)), variances_with_gaps()
    factors = np.tril(RNG.standard_normal((RUNS, VOXELS, rows, rows))) + 2 * np.eye(rows)
    factors[3, 7, -1, 0] = np.nan  # a run that does not determine the contrast there
    found = joint_f(effects, np.moveaxis(factors, 1, 3), variances, FREEDOM, weighted)
    for v in range(VOXELS - 1):
        there = (variances[:, v] > 0) & np.isfinite(factors[:, v]).all(axis=(1, 2))
        e, spread = effects[there, :, v], np.array([half @ half.T for half in factors[there, v]])
        var, freedom = variances[there, v], FREEDOM[there, v].sum()
        if weighted:
            precise = np.linalg.inv(spread)
            whole = np.linalg.inv(precise.sum(axis=0))
            effect = whole @ np.einsum("kij,kj->i", precise, e)
            variance = 1 / np.sum(1 / var)
        else:
            whole, effect, variance = spread.sum(axis=0) / len(e) ** 2, e.mean(axis=0), var.sum() / len(e) ** 2
        stat = effect @ np.linalg.solve(whole, effect) / rows
        white = np.real(np.linalg.inv(linalg.sqrtm(whole))) @ effect
        np.testing.assert_allclose(found.stat[v], stat, rtol=1e-9)
        np.testing.assert_allclose(found.p_value[v], stats.f.sf(stat, rows, freedom), rtol=1e-9)
        np.testing.assert_allclose(
            found.z_score[v], stats.norm.isf(stats.f.sf(stat, rows, freedom)), rtol=1e-7, atol=1e-9
        )
        np.testing.assert_allclose(found.effect_variance[v], variance, rtol=1e-12)
        np.testing.assert_allclose(found.effect_size[:, v], white * np.sqrt(variance), rtol=1e-8)
    for name in ("effect_size", "effect_variance", "stat", "p_value", "z_score"):
        assert np.isnan(getattr(found, name)[..., -1]).all()
