"""What permutation tests count: ties, voxels that cannot be tested, voxels with gaps, and groups' own variances."""

import warnings
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nibabel import Nifti1Image
from scipy import ndimage, stats

from daskglm import SecondLevelModel, VolumeSpace, compute_contrasts, fit_glm, images_dataset, permutation_test
from daskglm.errors import DesignError

SHAPE = (6, 5, 4)
SPACE = VolumeSpace.from_image(Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)))
P_MAPS = ("logp_stat", "logp_max_stat", "logp_tfce", "logp_max_tfce", "logp_max_mass", "logp_max_size")
WHOLE = {"tfce": True, "threshold": 0.05}


def images(values):
    return images_dataset(np.asarray(values), [f"s{k}" for k in range(len(values))], SPACE)


def noise(n, seed=0, voxels=120):
    return np.random.default_rng(seed).standard_normal((n, voxels))


def run(values, design, contrast, n_perm=1000, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few distinct rearrangements
        return permutation_test(images(values), design, {"c": contrast}, n_perm=n_perm, n_jobs=1, **named)


def p_of(maps, name):
    return 10 ** -maps[name].values[0]


def group_stat(values, design, contrast, stat_type=None):
    model = SecondLevelModel(min_coverage=0.0).fit(images(values), design_matrix=design)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.compute_contrast(contrast, second_level_stat_type=stat_type, output_type="stat")
    return np.asarray(found.dataobj).reshape(-1, order="F")


# Voxels that cannot be tested

GROUP = pd.DataFrame({"x": np.repeat([0.0, 1.0], 4), "mean": 1.0})
AGE = pd.DataFrame({"x": np.random.default_rng(3).standard_normal(8), "mean": 1.0})
ONES = pd.DataFrame({"mean": np.ones(8)})


@pytest.mark.parametrize(
    ("design", "contrast", "bad"),
    [
        (ONES, "mean", np.ones(8)),
        (ONES, "mean", np.full(8, -2.7e6)),
        (AGE, "x", 3 - 2 * AGE["x"].to_numpy()),
        (AGE, "x", np.full(8, 0.1)),
        (GROUP, "x", GROUP["x"].to_numpy()),
        (GROUP, "x", 1e5 + 0.3 * GROUP["x"].to_numpy()),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_voxel_that_the_design_explains_is_nan_and_counts_nowhere(design, contrast, bad, dtype):
    values = noise(8, 1).astype(dtype)
    values[:, [37, 38]] = bad[:, None]
    found = run(values, design, contrast, **WHOLE)
    missing = values.copy()
    missing[:, [37, 38]] = np.nan
    expected = run(missing, design, contrast, **WHOLE)
    assert set(found.data_vars) == set(expected.data_vars)
    for name in set(found.data_vars) - {"n"}:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-5, atol=1e-9, err_msg=name)
    assert np.isnan(found["stat"].values[0, [37, 38]]).all()
    assert np.isnan(group_stat(values, design, contrast)[[37, 38]]).all()
    # A p is never under that of one rearrangement, nor a corrected one under the uncorrected.
    tested = np.isfinite(found["stat"].values[0])
    assert (p_of(found, "logp_max_stat") >= p_of(found, "logp_stat") - 1e-12)[tested].all()


def test_a_group_without_variance_of_its_own_is_nan():
    values = noise(8, 2)
    values[:4, 5] = 1.0  # all alike in one of the groups
    flips = {"rearrangement": "sign_flip", "variance_groups": GROUP["x"]}
    found = run(values, GROUP, "x", **flips)
    assert np.flatnonzero(np.isnan(found["stat"].values[0])).tolist() == [5]
    assert np.isnan(found["logp_max_stat"].values[0, 5])


# Ties


@pytest.mark.parametrize("scheme", ["freedman-lane", "smith", "draper-stoneman"])
def test_no_p_is_smaller_than_the_number_of_rearrangements_allows(scheme):
    for seed in range(6):
        # Statistics are the same with all signs changed, or the groups' names exchanged; |t| is up to 50 and more.
        flips = run(noise(5, seed) + 3 * (seed % 2), ONES[:5], "mean", scheme=scheme, **WHOLE)
        values = noise(8, seed)
        values[4:, :60] += 25 * (seed % 2)
        groups = run(values, GROUP, "x", scheme=scheme, **WHOLE)
        for name in P_MAPS:
            assert np.nanmin(p_of(flips, name)) >= 2 / 32 - 1e-12, name
            assert np.nanmin(p_of(groups, name)) >= 2 / 70 - 1e-12, name
        for maps in (flips, groups):
            assert (p_of(maps, "logp_max_stat") >= p_of(maps, "logp_stat") - 1e-12).all()


def test_one_sided_p_of_binary_images_is_that_of_fisher():
    n, first = 12, 5
    design = pd.DataFrame({"x": (np.arange(n) < first) * 1.0, "mean": 1.0})
    values = (np.random.default_rng(0).random((n, 120)) < np.linspace(0.2, 0.8, 120)) * 1.0
    found = run(values, design, "x", two_sided=False)
    inside, total = values[:first].sum(axis=0), values.sum(axis=0)
    expected = stats.hypergeom.sf(inside - 1, n, total, first)
    tested = np.isfinite(found["stat"].values[0])
    assert tested.sum() > 100
    assert (np.abs(inside / first - total / n) < 1e-12)[tested].sum() == 0
    np.testing.assert_allclose(p_of(found, "logp_stat")[tested], expected[tested], rtol=1e-12)
    # An effect of exactly zero ties with itself: four of eight with the mark, two in each group, are 53 of 70.
    values = np.tile([1.0, 1, 0, 0, 1, 1, 0, 0], (120, 1)).T
    zero = run(values, GROUP, "x", two_sided=False)
    np.testing.assert_allclose(p_of(zero, "logp_stat"), stats.hypergeom.sf(1, 8, 4, 4), rtol=1e-12)
    np.testing.assert_allclose(p_of(zero, "logp_max_stat"), stats.hypergeom.sf(1, 8, 4, 4), rtol=1e-12)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_exhaustive_p_equal_brute_force_in_double_precision(two_sided, binary):
    values = noise(10, 5) + 0.3
    values = np.sign(values) * 1.5 if binary else values
    found = run(values, pd.DataFrame({"mean": np.ones(10)}), "mean", n_perm=2000, two_sided=two_sided)
    signs = np.array(list(product((1.0, -1.0), repeat=10)))
    # t of flips grows with the mean, for the sum of squares stays: sums, and so ties, are exact enough.
    r = signs @ values / np.sqrt(10 * np.sum(values**2, axis=0))
    r = np.abs(r) if two_sided else r
    tested = np.abs(r[0]) < 1 - 1e-12
    assert tested.sum() > 90
    level = r[0] - 1e-11
    np.testing.assert_allclose(p_of(found, "logp_stat")[tested], (r >= level).mean(axis=0)[tested], rtol=1e-12)
    top = r[:, tested].max(axis=1)
    expected = (top[:, None] >= level).mean(axis=0)
    np.testing.assert_allclose(p_of(found, "logp_max_stat")[tested], expected[tested], rtol=1e-12)


# Voxels with gaps


def test_a_part_of_f_that_is_lost_at_a_voxel_leaves_nan_as_a_fit_does():
    rng = np.random.default_rng(0)
    site = np.repeat(np.arange(4), 6)
    design = pd.DataFrame({f"site{k}": (site == k) * 1.0 for k in range(4)})
    contrast = "site0 - site3, site1 - site3, site2 - site3"
    values = noise(24, 1) + rng.standard_normal(4)[site][:, None]
    values[np.ix_(site == 1, range(60))] = np.nan
    values[0, 60:80] = np.nan
    found = run(values, design, contrast, n_perm=50)
    expected = group_stat(values, design, contrast, "F")
    assert np.isnan(expected[:60]).all()
    np.testing.assert_allclose(found["stat"].values[0], expected, rtol=1e-9)
    for name in ("logp_stat", "logp_max_stat", "degrees_of_freedom"):
        assert np.isnan(found[name].values[0, :60]).all()


@pytest.mark.parametrize("scheme", ["freedman-lane", "draper-stoneman"])
def test_a_voxel_without_any_patient_is_nan(scheme):
    patient = np.arange(30) < 8
    design = pd.DataFrame({"patient": patient * 1.0, "mean": 1.0})
    values = noise(30, 2)
    values[np.ix_(patient, [3, 4])] = np.nan
    found = run(values, design, "patient", n_perm=50, scheme=scheme)
    assert np.flatnonzero(np.isnan(found["stat"].values[0])).tolist() == [3, 4]
    assert np.flatnonzero(np.isnan(found["logp_max_stat"].values[0])).tolist() == [3, 4]
    assert np.isnan(group_stat(values, design, "patient")[[3, 4]]).all()


@pytest.mark.parametrize("far", [30.0, 9999.0, 2e5])
def test_a_voxel_without_any_patient_is_nan_also_where_an_outlier_of_a_covariate_is_missing(far):
    rng = np.random.default_rng(5)
    patient = np.arange(20) >= 10
    design = pd.DataFrame({"patient": patient * 1.0, "age": rng.standard_normal(20), "mean": 1.0})
    design.loc[3, "age"] = far
    values = noise(20, 3)
    values[10:, :60] = np.nan
    values[3, :60] = np.nan
    found = run(values, design, "patient", n_perm=20, min_coverage=0.3)
    assert np.flatnonzero(np.isnan(found["stat"].values[0])).tolist() == list(range(60))


@pytest.mark.parametrize("far", [30.0, 2e3, 9999.0, 1e6])
@pytest.mark.parametrize("tested", ["x", "z"])
def test_a_covariate_with_an_outlier_is_tested_where_the_outlier_is_missing(far, tested):
    rng = np.random.default_rng(4)
    design = pd.DataFrame({"x": rng.standard_normal(30), "z": rng.standard_normal(30), "mean": 1.0})
    design.loc[7, "x"] = far
    values = noise(30, 6) + 2 * np.where(np.arange(30) == 7, 0.0, design["x"])[:, None]
    values[7, :40] = np.nan
    found = run(values, design, tested, n_perm=20)
    for voxel in (0, 39, 60):
        there = np.isfinite(values[:, voxel])
        fit = sm.OLS(values[there, voxel], design[there]).fit()
        np.testing.assert_allclose(found["stat"].values[0, voxel], fit.tvalues[tested], rtol=1e-7)
        assert found["degrees_of_freedom"].values[0, voxel] == there.sum() - 3


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["x", "year", "year and its square", "nearly collinear", "no mean"])
def test_fits_in_any_blocks_and_permutations_agree_on_what_the_design_explains(name, dtype, missing):
    rng = np.random.default_rng(0)
    x, year = rng.standard_normal(20), rng.integers(2005, 2016, 20) * 1.0
    columns = {
        "x": {"x": x, "mean": 1.0},
        "year": {"x": year, "mean": 1.0},
        "year and its square": {"x": year, "square": year**2, "mean": 1.0},
        "nearly collinear": {"x": x, "z": x + 1e-4 * rng.standard_normal(20), "mean": 1.0},
        "no mean": {"x": x + 1, "z": rng.standard_normal(20)},
    }
    design = pd.DataFrame(columns[name])
    weights = rng.standard_normal((design.shape[1], 3))
    values = noise(20, 7)
    values[:, :3] = design.to_numpy() @ weights  # explained to the rounding of the type
    values[:, 3] = 1e-8 * design["x"]
    values[:, 4] = 1e6 * (design["x"] - design["x"].mean() * ("mean" in design))
    values = values.astype(dtype)
    if missing:
        values[4] = np.nan
    for rows in (3, 20):
        fit = fit_glm(images(values).chunk(sample=rows), design)
        t = compute_contrasts(fit, {"x": "x"})["stat"].values[0]
        assert np.flatnonzero(np.isnan(t)).tolist() == [0, 1, 2, 3, 4], rows
    found = run(values, design, "x", n_perm=5, rearrangement="permutation")["stat"].values[0]
    assert np.flatnonzero(np.isnan(found)).tolist() == [0, 1, 2, 3, 4]


# What permutations do not change


def flipped_f(design, rows, values):
    """F of Freedman and Lane under every flip, by least squares."""

    def rss(columns, y):
        return np.sum((y - columns @ np.linalg.pinv(columns) @ y) ** 2, axis=0)

    nuisance = design @ np.linalg.svd(rows)[2][len(rows) :].T
    left = values - nuisance @ np.linalg.pinv(nuisance) @ values if nuisance.size else values
    found = []
    for sign in product((1.0, -1.0), repeat=len(values)):
        moved = left * np.array(sign)[:, None]
        full = rss(design, moved)
        without = rss(nuisance, moved) if nuisance.size else np.sum(moved**2, axis=0)
        found.append((without - full) / len(rows) / (full / (len(values) - design.shape[1])))
    return np.array(found)


@pytest.mark.parametrize(
    ("rows", "is_f"),
    [
        ([[1.0, 0, 0], [0, 0, 1]], True),  # a mean and a regressor
        ([[1.0, 0, 0], [0, 1, 0]], True),  # both means
        ([[1.0, 0, 0]], False),  # the mean of one of two groups
        ([[1.0, 1, 0]], False),
    ],
)
def test_what_contains_a_mean_is_tested_by_sign_flips(rows, is_f):
    rng = np.random.default_rng(2)
    design = np.column_stack([np.arange(9) < 4, np.arange(9) >= 4, rng.standard_normal(9)]).astype(float)
    values = noise(9, 4) + 1.5
    rows = np.array(rows)
    found = run(values, pd.DataFrame(design, columns=list("abc")), rows if is_f else rows[0])
    assert found.attrs["n_perm"] == 511
    every = flipped_f(design, rows, values)
    level = every[0] * (1 - 1e-9)
    np.testing.assert_allclose(found["stat"].values[0] ** (1 if is_f else 2), every[0], rtol=1e-8)
    np.testing.assert_allclose(p_of(found, "logp_stat"), (every >= level).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(
        p_of(found, "logp_max_stat"), (every.max(axis=1)[:, None] >= level).mean(axis=0), rtol=1e-9
    )


@pytest.mark.parametrize("contrast", ["a - b", "c", "a - b, c"])
def test_differences_and_regressors_are_permuted(contrast):
    design = pd.DataFrame({"a": np.arange(9) < 4, "b": np.arange(9) >= 4, "c": noise(9)[:, 0]}).astype(float)
    auto, asked = (run(noise(9, 1), design, contrast, 30, rearrangement=kind) for kind in ("auto", "permutation"))
    assert np.array_equal(auto["h0_max_stat"].values, asked["h0_max_stat"].values)


def test_permutations_of_a_mean_that_are_asked_for_are_warned_of():
    design = pd.DataFrame({"mean": 1.0, "x": noise(9)[:, 0]})
    with pytest.warns(UserWarning, match="test a mean"):
        permutation_test(images(noise(9, 1)), design, {"c": "mean, x"}, n_perm=5, rearrangement="permutation")
    site = np.repeat([0.0, 1, 2], 3)
    by_site = pd.DataFrame({"a": site == 0, "b": site == 1, "c": site == 2, "x": noise(9)[:, 0]}).astype(float)
    with pytest.warns(UserWarning, match="rows of a block share"):
        permutation_test(images(noise(9, 1)), by_site, {"c": "a - b"}, n_perm=5, within=site)


# Groups with variances of their own


def test_voxels_that_groups_variances_leave_out_are_counted():
    values = noise(8, 3)
    values[0, :30] = np.nan
    flips = {"rearrangement": "sign_flip", "variance_groups": GROUP["x"], "n_perm": 5}
    with pytest.warns(UserWarning, match="30 of 120 voxels lack images"):
        found = permutation_test(images(values), GROUP, {"c": "x"}, **flips)
    assert np.isnan(found["stat"].values[0, :30]).all()
    assert np.isfinite(found["stat"].values[0, 30:]).all()


def palm(values, design, contrast, groups, rearrangements):
    """PALM's statistic and z under each rearrangement, by the definitions (palm_core: fastv, fastg; palm_gtoz)."""
    n, s = len(design), len(contrast)
    inverse = np.linalg.pinv(design)
    left = np.eye(n) - design @ inverse
    full = np.linalg.svd(contrast)[2]
    nuisance = design @ full[s:].T
    rz = np.eye(n) - nuisance @ np.linalg.pinv(nuisance)
    stat, z = [], []
    for index, sign in rearrangements:
        moved = nuisance @ np.linalg.pinv(nuisance) @ values + sign[:, None] * (rz @ values)[index]
        psi, residual = inverse @ moved, left @ moved
        of_voxel = []
        for voxel in range(values.shape[1]):
            total, weights, traces = np.zeros((design.shape[1],) * 2), [], []
            for group in np.unique(groups):
                rows = groups == group
                trace = np.diag(left)[rows].sum()
                w = trace / np.sum(residual[rows, voxel] ** 2)
                total += w * design[rows].T @ design[rows]
                weights.append(w * rows.sum())
                traces.append(trace)
            spread = np.sum((1 - np.array(weights) / np.sum(weights)) ** 2 / np.array(traces))
            effect = contrast @ psi[:, voxel]
            covariance = contrast @ np.linalg.inv(total) @ contrast.T
            if s == 1:
                v = effect[0] / np.sqrt(covariance[0, 0])
                of_voxel.append((v, stats.norm.isf(stats.t.sf(v, 1 / (3 * spread)))))
            else:
                spread = spread / s / (s + 2)
                g = effect @ np.linalg.solve(covariance, effect) / s / (1 + 2 * (s - 1) * spread)
                of_voxel.append((g, stats.norm.isf(stats.f.sf(g, s, 1 / (3 * spread)))))
        stat.append([one for one, _ in of_voxel])
        z.append([one for _, one in of_voxel])
    return np.array(stat), np.array(z)


def every_order_within(groups):
    """All orders of rows within groups."""
    from itertools import permutations

    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for orders in product(*[list(permutations(rows)) for rows in members]):
        index = np.empty(len(groups), dtype=int)
        for rows, order in zip(members, orders, strict=True):
            index[rows] = order
        yield index, np.ones(len(groups))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("kind", ["sign_flip", "permutation"])
@pytest.mark.parametrize("is_f", [False, True])
def test_groups_with_variances_of_their_own_equal_palm(kind, is_f, two_sided):
    if is_f and not two_sided:
        pytest.skip("F has no sides")
    rng = np.random.default_rng(8)
    groups = np.repeat([0, 1], [3, 4] if kind == "permutation" else [3, 5])
    n, voxels = len(groups), 120
    values = rng.standard_normal((n, voxels)) * np.where(groups == 0, 4, 1)[:, None]
    if kind == "permutation":
        design = np.column_stack([rng.standard_normal(n), groups == 0, groups == 1]).astype(float)
        rows = np.eye(3)[:2] if is_f else np.eye(3)[:1]
        every = list(every_order_within(groups))
    else:
        design = np.column_stack([groups == 0, groups == 1, rng.standard_normal(n)]).astype(float)
        rows = np.array([[1.0, -1, 0], [0, 0, 1]]) if is_f else np.array([[1.0, -1, 0]])
        every = [(np.arange(n), np.array(sign)) for sign in product((1.0, -1.0), repeat=n)]
    within = groups if kind == "permutation" else None
    named = {"rearrangement": kind, "variance_groups": groups, "within": within, "two_sided": two_sided}
    table = pd.DataFrame(design, columns=["a", "b", "c"])
    found = run(values, table, rows if is_f else rows[0], n_perm=len(every), **named)
    stat, z = palm(values, design, rows, groups, every)
    np.testing.assert_allclose(found["stat"].values[0], stat[0], rtol=1e-9)
    np.testing.assert_allclose(found["scaled_stat"].values[0], z[0], rtol=1e-7, atol=1e-9)
    z = np.abs(z) if two_sided and not is_f else z
    level = z[0] - 1e-8 * np.abs(z[0])
    np.testing.assert_allclose(p_of(found, "logp_stat"), (z >= level).mean(axis=0), rtol=1e-12)
    expected = (z.max(axis=1)[:, None] >= level).mean(axis=0)
    np.testing.assert_allclose(p_of(found, "logp_max_stat"), expected, rtol=1e-12)
    np.testing.assert_allclose(np.sort(found["h0_max_stat"].values[0]), np.sort(z[1:].max(axis=1)), rtol=1e-7)


def test_a_group_with_next_to_no_residuals_is_kept_and_one_with_none_refused():
    """The first row is a group of its own, and a regressor explains all of it but a millionth."""
    rng, groups = np.random.default_rng(3), np.repeat([0, 1], [1, 9])
    leverage = np.where(groups == 0, 1, 5e-4 * rng.standard_normal(10) * (np.arange(10) > 6))
    design, values = np.column_stack([leverage, np.ones(10)]), rng.standard_normal((10, 120))
    flips = {"rearrangement": "sign_flip", "variance_groups": groups, "n_perm": 5}
    left = 1 - np.diag(design @ np.linalg.pinv(design))[0]
    assert 1e-8 < left < 1e-5
    found = run(values, pd.DataFrame(design, columns=["a", "b"]), "b", **flips)
    stat, _ = palm(values, design, np.array([[0, 1.0]]), groups, [(np.arange(10), np.ones(10))])
    np.testing.assert_allclose(found["stat"].values[0], stat[0], rtol=1e-6)
    design[:, 0] = groups == 0
    with pytest.raises(DesignError, match="contrast 'c' leaves one without"):
        run(values, pd.DataFrame(design, columns=["a", "b"]), "b", **flips)


@pytest.mark.parametrize(("contrast", "two_sided"), [("a - b", True), ("a - b", False), ("a - b, c", True)])
def test_clusters_with_variance_groups_are_of_z_above_that_of_p(contrast, two_sided):
    """Labelled by SciPy: v is compared as z of t, on both sides, and G as z of the upper tail of F."""
    rng = np.random.default_rng(8)
    groups = np.repeat([0, 1], [4, 5])
    design = pd.DataFrame({"a": groups == 0, "b": groups == 1, "c": rng.standard_normal(9)}).astype(float)
    values = noise(9, 2) * np.where(groups == 0, 4, 1)[:, None]
    flips = {"rearrangement": "sign_flip", "variance_groups": groups, "n_perm": 20, "two_sided": two_sided}
    found = run(values, design, contrast, threshold=0.4, **flips)
    z = found["scaled_stat"].values[0].reshape(SHAPE, order="F")
    both = two_sided and "," not in contrast
    height, expected = stats.norm.isf(0.2 if both else 0.4), np.zeros(SHAPE)
    for sign in (1, -1) if both else (1,):
        labels, count = ndimage.label(sign * z > height)
        for label in range(1, count + 1):
            expected[labels == label] = (labels == label).sum()
    assert len(np.unique(expected)) > 3  # clusters of several sizes
    np.testing.assert_array_equal(found["size"].values[0], expected.ravel(order="F"))


def test_contrasts_with_variance_groups_are_corrected_together_by_their_p():
    rng = np.random.default_rng(8)
    groups = np.repeat([0, 1], [4, 5])
    design = pd.DataFrame({"a": groups == 0, "b": groups == 1, "c": rng.standard_normal(9)}).astype(float)
    values = noise(9, 2) * np.where(groups == 0, 4, 1)[:, None] + 0.7 * groups[:, None]
    contrasts = {"v": "a - b", "G": "a - b, c"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = permutation_test(
            images(values), design, contrasts, n_perm=300, rearrangement="sign_flip", variance_groups=groups, n_jobs=1
        )
    # z of v has two sides, z of G is that of its upper tail.
    z, null = (
        [stats.norm.isf(2 * stats.norm.sf(np.abs(found[name].values[0]))), found[name].values[1]]
        for name in ("scaled_stat", "h0_max_stat")
    )
    top = np.maximum(*null)
    for number in range(2):
        expected = (1 + (top[:, None] >= z[number] - 1e-7 * (1 + np.abs(z[number]))).sum(axis=0)) / 301
        np.testing.assert_allclose(10 ** -found["logp_across_stat"].values[number], expected, rtol=1e-9)


def test_groups_of_four_of_every_exchange_are_found():
    values = noise(8, 3)
    found = run(values, GROUP, "x", two_sided=False)
    every = []
    for chosen in combinations(range(8), 4):
        there = np.isin(np.arange(8), chosen)
        every.append(stats.ttest_ind(values[there], values[~there]).statistic)
    observed = stats.ttest_ind(values[4:], values[:4]).statistic
    np.testing.assert_allclose(found["stat"].values[0], observed, rtol=1e-10)
    expected = (np.max(every, axis=1)[:, None] >= observed - 1e-10 * np.abs(observed)).mean(axis=0)
    np.testing.assert_allclose(p_of(found, "logp_max_stat"), expected, rtol=1e-12)


# Both sides of limits


@pytest.mark.parametrize(("apart", "known"), [(1e-3, True), (1e-5, False)])
def test_a_variance_group_has_residuals_but_for_rounding(apart, known):
    """The first subject is a group of its own; a column is of it alone, but for a small part of another one."""
    own = np.r_[1.0, np.zeros(6), apart]
    design = pd.DataFrame({"own": own, "x": AGE["x"], "mean": 1.0})
    flips = {"rearrangement": "sign_flip", "variance_groups": ["a", *"bbbbbbb"], "n_perm": 5}
    if known:
        assert np.isfinite(run(noise(8), design, "x", **flips)["degrees_of_freedom"].values).all()
    else:
        with pytest.raises(DesignError, match="leaves one without"):
            run(noise(8), design, "x", **flips)


@pytest.mark.parametrize(
    ("design", "contrast", "kind"),
    [
        ({"column": 1 + 1e-6 * AGE["x"]}, [1.0], "sign_flip"),
        ({"column": 1 + 1e-4 * AGE["x"]}, [1.0], "permutation"),
        ({"x": AGE["x"] - AGE["x"].mean(), "mean": 1.0}, [1.0, 1e-5], "sign_flip"),
        ({"x": AGE["x"] - AGE["x"].mean(), "mean": 1.0}, [1.0, 3e-8], "permutation"),
    ],
)
def test_a_mean_is_tested_if_more_than_rounding_of_it_is(design, contrast, kind):
    found = run(noise(8), pd.DataFrame(design), np.array(contrast), n_perm=5)
    assert found.attrs["rearrangement"] == kind


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_a_design_of_dependent_columns_in_very_different_units(degree, mean):
    """All sites beside the constant, and powers of the year; statsmodels fits the same model of centred years."""
    rng = np.random.default_rng(0)
    site, year = np.repeat([0, 1, 2], [13, 13, 14]), rng.integers(2005, 2016, 40).astype(float)
    sites = pd.DataFrame({f"s{k}": (site == k).astype(float) for k in range(3)})
    powers, centred = ({f"y{k}": (year - at) ** k for k in range(1, degree + 1)} for at in (0, 2010))
    values = mean + noise(40) + (site == 0)[:, None]
    fits = [sm.OLS(y, sites.assign(**centred)).fit() for y in values.T]
    expected = np.array([fit.t_test("s0 - s1 = 0").tvalue.item() for fit in fits])
    design = sites.assign(mean=1.0, **powers)
    found = run(values, design, "s0 - s1", n_perm=5, allow_rank_deficient=True)["stat"].values[0]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    fitted = fit_glm(images(values), design, allow_rank_deficient=True)
    maps = compute_contrasts(fitted, {"c": "s0 - s1", "seen": "mean + s0"})
    np.testing.assert_allclose(maps["stat"].values[0], expected, rtol=1e-6, atol=1e-6)
