"""permutation_test against full enumeration, SciPy's permutation test, known truth, and itself in pieces."""

import os
import warnings
from itertools import combinations, product

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import Nifti1Image
from scipy import ndimage, stats

from daskglm.design.rearrangements import plan_rearrangements
from daskglm.errors import ContrastError, DesignError, ImageError, MissingDependencyError, ParameterError
from daskglm.graph import permutation as graph
from daskglm.inference.permutation import _settled, permutation_test
from daskglm.io.permutations import count_units, save_unit
from daskglm.schema.datasets import images_dataset
from daskglm.schema.space import VolumeSpace

SHAPE = (6, 5, 4)
SPACE = VolumeSpace.from_image(Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)))


def images(values, chunks=None):
    data = np.asarray(values, dtype=np.float32)
    lazy = data if chunks is None else da.from_array(data, chunks=chunks)
    return images_dataset(lazy, [f"s{k}" for k in range(len(data))], SPACE)


def noise(n, seed=0, voxels=120):
    return np.random.default_rng(seed).standard_normal((n, voxels))


def quiet(*arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return permutation_test(*arguments, **named)


def t_one_sample(values):
    return values.mean(axis=0) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("scheme", ["freedman-lane", "smith", "dekker", "draper-stoneman", "ter-braak"])
def test_every_scheme_of_the_manual_is_one(scheme):
    values, design = noise(8), pd.DataFrame({"age": noise(8, 1)[:, 0], "mean": np.ones(8)})
    found = quiet(images(values), design, {"age": "age"}, n_perm=50, scheme=scheme)
    r = stats.pearsonr(np.tile(design[["age"]], 120), values.astype(np.float32).astype(float)).statistic
    np.testing.assert_allclose(found["stat"].values[0], r * np.sqrt(6 / (1 - r**2)), rtol=1e-5, atol=1e-6)
    assert found["logp_max_stat"].values.max() > 0


@pytest.mark.parametrize("two_sided", [False, True])
def test_sign_flips_equal_full_enumeration(two_sided):
    values = noise(6) + 0.5
    found = quiet(images(values), pd.DataFrame({"mean": np.ones(6)}), {"mean": "mean"}, two_sided=two_sided)
    values = values.astype(np.float32).astype(float)
    every = np.array([t_one_sample(values * np.array(sign)[:, None]) for sign in product((1, -1), repeat=6)])
    observed = t_one_sample(values)
    np.testing.assert_allclose(found["stat"].values[0], observed, rtol=1e-6)
    every, observed = (np.abs(every), np.abs(observed)) if two_sided else (every, observed)
    close = observed - 1e-4 * np.abs(observed)
    expected = (every.max(axis=1)[:, None] >= close).mean(axis=0)
    np.testing.assert_allclose(10 ** -found["logp_max_stat"].values[0], expected, rtol=1e-9)
    np.testing.assert_allclose(10 ** -found["logp_stat"].values[0], (every >= close).mean(axis=0), rtol=1e-9)
    assert found.attrs["exhaustive"]
    assert found.attrs["n_perm"] == 63


def test_two_groups_equal_full_enumeration_and_scipy():
    values = noise(8, 3)
    group = np.repeat([0.0, 1.0], 4)
    design = pd.DataFrame({"group": group, "mean": np.ones(8)})
    found = quiet(images(values), design, {"group": "group"}, n_perm=1000, two_sided=False)
    values = values.astype(np.float32).astype(float)
    every = []
    for chosen in combinations(range(8), 4):
        there = np.isin(np.arange(8), chosen)
        every.append(stats.ttest_ind(values[there], values[~there]).statistic)
    observed = stats.ttest_ind(values[4:], values[:4]).statistic
    expected = (np.max(every, axis=1)[:, None] >= observed - 1e-4 * np.abs(observed)).mean(axis=0)
    np.testing.assert_allclose(10 ** -found["logp_max_stat"].values[0], expected, rtol=1e-9)

    def statistic(x, y, axis):
        return stats.ttest_ind(x, y, axis=axis).statistic

    for voxel in (0, 5, 17):
        theirs = stats.permutation_test(
            (values[4:, voxel], values[:4, voxel]), statistic, alternative="greater", vectorized=True, n_resamples=1000
        )
        np.testing.assert_allclose(10 ** -found["logp_stat"].values[0, voxel], theirs.pvalue, rtol=1e-9)


def measures(t, height, sign):
    """TFCE (E = 0.5, H = 2), sizes and masses of clusters of one sign, of faces that touch, by SciPy's labels."""
    grid = np.maximum(sign * t, 0).reshape(SHAPE, order="F")
    tfce, size, mass, below = np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE), 0.0
    for level in np.unique(grid[grid > 0]):
        labels = ndimage.label(grid >= level)[0]
        extent = np.bincount(labels.ravel())[labels]
        tfce += np.where(labels > 0, np.sqrt(extent) * (level**3 - below**3) / 3, 0)
        below = level
    labels = ndimage.label(grid > height)[0]
    for label in range(1, labels.max() + 1):
        size[labels == label] = (labels == label).sum()
        mass[labels == label] = (grid - height)[labels == label].sum()
    return np.stack([part.ravel(order="F") for part in (tfce, size, mass)])


@pytest.mark.parametrize("two_sided", [False, True])
def test_tfce_and_clusters_equal_full_enumeration(two_sided):
    values = (noise(5, 2) + 0.8).astype(np.float32)
    named = {"threshold": 0.1, "tfce": True, "two_sided": two_sided}
    found = quiet(images(values), pd.DataFrame({"mean": np.ones(5)}), {"mean": "mean"}, **named)
    height = stats.t.isf(0.05 if two_sided else 0.1, 4)
    flips = [t_one_sample(values.astype(float) * np.array(sign)[:, None]) for sign in product((1, -1), repeat=5)]
    sides = (1, -1) if two_sided else (1,)
    every = np.array([np.sum([measures(t, height, sign) for sign in sides], axis=0) for t in flips])
    sign = np.sign(flips[0]) if two_sided else 1.0
    np.testing.assert_allclose(found["tfce"].values[0], every[0, 0] * sign, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["size"].values[0], every[0, 1])
    np.testing.assert_allclose(found["mass"].values[0], every[0, 2], rtol=1e-5, atol=1e-9)
    for k, name in enumerate(("tfce", "size", "mass")):
        top, level = every[:, k].max(axis=1), every[0, k] * (1 - 1e-3)
        expected = (top[:, None] >= level).mean(axis=0)
        expected = np.where(every[0, k] > 0, expected, 1.0)
        np.testing.assert_allclose(10 ** -found[f"logp_max_{name}"].values[0], expected, rtol=1e-9, err_msg=name)
    expected = (every[:, 0] >= every[0, 0] * (1 - 1e-3)).mean(axis=0)
    np.testing.assert_allclose(10 ** -found["logp_tfce"].values[0], expected, rtol=1e-9)


@settings(max_examples=8)
@given(rows=st.integers(1, 20), columns=st.integers(1, 120), n_jobs=st.sampled_from([1, 2, 3]), seed=st.integers(0, 3))
def test_results_do_not_depend_on_chunks_or_threads(rows, columns, n_jobs, seed):
    values = noise(20, seed)
    values[:4, 30:60] = np.nan
    design = pd.DataFrame({"x": noise(20, 9)[:, 0], "z": noise(20, 8)[:, 0], "mean": np.ones(20)})
    named = {"n_perm": 80, "threshold": 0.05, "tfce": True, "random_state": 5}
    whole = permutation_test(images(values), design, {"x": "x", "both": "x, z"}, n_jobs=1, **named)
    chunked = images(values, (rows, columns))
    found = permutation_test(chunked, design, {"x": "x", "both": "x, z"}, n_jobs=n_jobs, **named)
    assert set(found) == set(whole)
    for name in whole:
        assert np.array_equal(found[name].values, whole[name].values, equal_nan=True), name


def test_a_test_goes_on_where_it_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_UNIT", (64, 64))
    values, design = noise(15), pd.DataFrame({"x": noise(15, 4)[:, 0], "mean": np.ones(15)})
    named = {"threshold": 0.05, "tfce": True, "fingerprint": "these images"}
    whole = permutation_test(images(values), design, {"x": "x"}, n_perm=400, **named)
    folder = str(tmp_path / "kept")
    permutation_test(images(values), design, {"x": "x"}, n_perm=200, folder=folder, **named)
    first = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    assert len(first) == 4
    calls = []
    original = graph._permute_block
    monkeypatch.setattr(graph, "_permute_block", lambda *given: calls.append(len(given[2][0])) or original(*given))
    more = permutation_test(images(values), design, {"x": "x"}, n_perm=400, folder=folder, **named)
    # Three whole units of 64 were kept; the stretch from 192 to 200 is done again within a whole one.
    assert sum(calls) == 400 - 192
    for name in whole:
        assert np.array_equal(more[name].values, whole[name].values, equal_nan=True), name
    kept = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    assert sum(kept.get(name) == stamp for name, stamp in first.items()) == 3
    calls.clear()
    again = permutation_test(images(values), design, {"x": "x"}, n_perm=384, folder=folder, **named)
    assert not calls
    assert again.attrs["n_perm"] == 384
    # Other images, contrasts, thresholds or seeds are another test.
    for other in ({"fingerprint": "others"}, {"threshold": 0.01}, {"random_state": 1}, {"two_sided": False}):
        calls.clear()
        permutation_test(images(values), design, {"x": "x"}, n_perm=64, folder=folder, **{**named, **other})
        assert sum(calls) == 64, other


def test_an_interrupted_test_keeps_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_UNIT", (64, 64))
    values, design = noise(15), pd.DataFrame({"x": noise(15, 4)[:, 0], "mean": np.ones(15)})
    whole = permutation_test(images(values), design, {"x": "x"}, n_perm=1024)
    original = graph._permute_block

    def stops(*given):
        if np.array_equal(given[2][0][0], stops.at):
            raise KeyboardInterrupt
        return original(*given)

    plan = plan_rearrangements(design.to_numpy(), 1024)
    stops.at = plan.take(960, 961)[0][0]
    with monkeypatch.context() as context:
        context.setattr(graph, "_permute_block", stops)
        with pytest.raises(KeyboardInterrupt):
            permutation_test(images(values), design, {"x": "x"}, n_perm=1024, folder=str(tmp_path), fingerprint=1)
    assert len(os.listdir(tmp_path)) >= 4
    for path in sorted(tmp_path.iterdir())[:1]:
        path.write_bytes(path.read_bytes()[:100])  # a damaged unit is done again, with those after it
    found = permutation_test(images(values), design, {"x": "x"}, n_perm=1024, folder=str(tmp_path), fingerprint=1)
    for name in whole:
        assert np.array_equal(found[name].values, whole[name].values, equal_nan=True), name


@pytest.mark.parametrize("two_sided", [True, False])
def test_several_contrasts_are_corrected_together(two_sided):
    values, rng = noise(30), np.random.default_rng(3)
    design = pd.DataFrame({"a": rng.standard_normal(30), "b": rng.standard_normal(30), "mean": np.ones(30)})
    values[:, :10] += 1.2 * design["a"].to_numpy()[:, None]
    found = permutation_test(images(values), design, {"a": "a", "b": "b"}, n_perm=300, two_sided=two_sided)
    null = np.maximum(*found["h0_max_stat"].values)  # of one kind and freedom: z and t have one order
    size = np.abs(found["stat"].values[0]) if two_sided else found["stat"].values[0]
    expected = (1 + (null[:, None] >= size).sum(axis=0)) / 301
    np.testing.assert_allclose(10 ** -found["logp_across_stat"].values[0], expected, rtol=1e-6)
    assert (found["logp_across_stat"].values <= found["logp_max_stat"].values + 1e-12).all()
    alone = permutation_test(images(values), design, {"b": "b"}, n_perm=300, two_sided=two_sided)
    assert np.array_equal(alone["h0_max_stat"].values[0], found["h0_max_stat"].values[1])
    assert "logp_across_stat" not in alone


def test_corrected_z_and_false_discovery_rates():
    values = noise(30) + 0.4
    found = permutation_test(images(values), pd.DataFrame({"mean": np.ones(30)}), {"mean": "mean"}, n_perm=200)
    p = 10 ** -found["logp_max_stat"].values[0]
    expected = np.sign(found["stat"].values[0]) * np.maximum(stats.norm.isf(p / 2), 0)
    np.testing.assert_allclose(found["z_max_stat"].values[0], expected, atol=1e-12)
    q = stats.false_discovery_control(10 ** -found["logp_stat"].values[0])
    np.testing.assert_allclose(10 ** -found["logq_stat"].values[0], q, rtol=1e-9)


def test_the_stop_rule_stops_when_it_is_settled():
    design = pd.DataFrame({"mean": np.ones(30)})
    clear = permutation_test(images(noise(30) + 3), design, {"mean": "mean"}, n_perm=5000, stop_at=0.05)
    assert clear.attrs["n_perm"] < 5000
    assert clear["h0_max_stat"].shape == (1, clear.attrs["n_perm"])


@pytest.mark.parametrize("n_perm", [20, 150])
def test_the_stop_rule_is_the_exact_interval_of_clopper_and_pearson(n_perm):
    maxima = np.arange(1.0, n_perm + 1)[None]
    for reached in range(n_perm + 1):
        top = np.array([n_perm - reached + 0.5])
        low, high = stats.binomtest(reached, n_perm).proportion_ci(0.99, "exact")
        edges = [edge * (1 + step) for edge in (low, high) for step in (-1e-6, 1e-6)]
        for alpha in (0.0, 0.001, 0.05, 0.5, 1.0, *edges):
            if 0 <= alpha <= 1:
                assert _settled(top, maxima, alpha) == (not low <= alpha <= high), (reached, alpha)
    # Of several tests each one.
    both = np.concatenate([maxima, maxima])
    assert _settled(np.array([0.5, 0.5]), both, 0.05)
    assert not _settled(np.array([0.5, n_perm - 0.05 * n_perm + 0.5]), both, 0.05)


def test_done_rearrangements_are_counted_by_their_files(tmp_path):
    for start, stop in ((0, 64), (64, 100)):
        save_unit(str(tmp_path), "0" * 16, start, stop, {"stat": np.zeros((1, stop - start))}, {})
    (tmp_path / "notes.txt").touch()
    assert count_units(str(tmp_path)) == 100


def test_a_tail_gives_small_p_from_few_rearrangements():
    rng = np.random.default_rng(0)
    from daskglm.kernels.null import corrected_p

    for distribution in (stats.gumbel_r(4, 0.4), stats.expon(3, 0.5)):
        maxima = distribution.rvs(500, random_state=rng)
        level = distribution.isf([0.5, 0.05, 1e-3, 1e-4])
        p = corrected_p(level, maxima, tail=True)
        np.testing.assert_allclose(np.log10(p), np.log10(distribution.sf(level)), atol=0.45)
        assert np.array_equal(corrected_p(level[:1], maxima, tail=True), corrected_p(level[:1], maxima))
        assert (np.diff(corrected_p(np.linspace(2, 40, 500), maxima, tail=True)) <= 0).all()
        assert (corrected_p(np.array([1e3]), maxima, tail=True) >= 0).all()


def test_what_cannot_be_tested_is_refused():
    values = noise(10)
    design = pd.DataFrame({"x": noise(10, 1)[:, 0], "mean": np.ones(10)})
    with pytest.raises(ParameterError, match="apart"):
        permutation_test(images(values), design, {"x": "x", "mean": "mean"})
    with pytest.raises(ParameterError, match="'friedman'"):
        permutation_test(images(values), design, {"x": "x"}, scheme="friedman")
    with pytest.raises(ParameterError, match=r"between 0 and 1.* 3.1"):
        permutation_test(images(values), design, {"x": "x"}, threshold=3.1, n_perm=10)
    with pytest.raises(ContrastError, match="at least one"):
        permutation_test(images(values), design, {})
    dependent = design.assign(y=2 * design["x"])
    with pytest.raises(DesignError, match="linearly dependent"):
        permutation_test(images(values), dependent, {"x": "x"})
    with pytest.raises(ContrastError, match="not estimable"):
        permutation_test(images(values), dependent, {"x": "x"}, allow_rank_deficient=True)
    with pytest.raises(ImageError, match="no voxel"):
        permutation_test(images(np.full((10, 120), np.nan)), design, {"x": "x"}, n_perm=10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"random_state": None}, "random_state is a whole number from 0, but it is None"),
        ({"random_state": -1}, "but it is -1"),
        ({"random_state": 1.5}, "but it is 1.5"),
        ({"min_coverage": 2}, "min_coverage must be a number from 0 to 1, got 2"),
        ({"stop_at": 5}, "stop_at must be a number from 0 to 1, got 5"),
        ({"f_contrasts": ["y"]}, "no contrast 'y' among x, xy"),
        ({"f_contrasts": "y"}, "no contrast 'y' among x, xy"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(given, message):
    design = pd.DataFrame({"x": noise(10, 1)[:, 0], "mean": np.ones(10)})
    with pytest.raises((ParameterError, ContrastError), match=message):
        permutation_test(images(noise(10)), design, {"x": "x", "xy": "2 * x"}, n_perm=10, **given)


def test_the_name_of_one_f_contrast_is_that_of_no_part_of_it():
    design = pd.DataFrame({"x": noise(10, 1)[:, 0], "mean": np.ones(10)})
    maps = permutation_test(images(noise(10)), design, {"x": "x", "xy": "2 * x"}, n_perm=10, f_contrasts="xy")
    assert maps["stat_type"].values.tolist() == ["t", "F"]


def rejections(simulate, n_simulations, names=("logp_max_stat",), **named):
    counts = dict.fromkeys(names, 0)
    for seed in range(n_simulations):
        values, design, contrast = simulate(np.random.default_rng(seed))
        found = quiet(images(values), design, {"c": contrast}, n_perm=99, random_state=seed, n_jobs=1, **named)
        for name in names:
            counts[name] += bool(np.nanmax(found[name].values) >= -np.log10(0.05) - 1e-9)
    return counts


def assert_calibrated(counts, n_simulations):
    low, high = stats.binom.ppf([0.0005, 0.9995], n_simulations, 0.05)
    for name, count in counts.items():
        assert low <= count <= high, (name, count, n_simulations)


MAPS = ("logp_max_stat", "logp_max_mass", "logp_max_tfce")


@pytest.mark.parametrize("scheme", ["freedman-lane", "smith"])
def test_families_are_wrong_as_often_as_promised_with_nuisance(scheme):
    def simulate(rng):
        z = rng.standard_exponential(16)
        design = pd.DataFrame({"x": rng.standard_normal(16) + 0.5 * z, "z": z, "mean": 1.0})
        return rng.standard_normal((16, 120)) + 2 * z[:, None], design, "x"

    assert_calibrated(rejections(simulate, 150, MAPS, scheme=scheme, threshold=0.05, tfce=True), 150)


def test_families_are_wrong_as_often_as_promised_within_blocks():
    site = np.repeat([0, 1, 2, 3], 5)

    def simulate(rng):
        values = rng.standard_normal((20, 120)) * np.array([1.0, 2, 0.5, 4])[site][:, None] + 10 * site[:, None]
        design = pd.DataFrame({"x": rng.standard_normal(20), **{f"site{k}": (site == k) * 1.0 for k in range(4)}})
        return values, design, "x"

    assert_calibrated(rejections(simulate, 150, within=site), 150)


@pytest.mark.parametrize("at_random", [True, False])
def test_families_are_wrong_as_often_as_promised_with_missing_voxels(at_random):
    def simulate(rng):
        z = rng.standard_normal(20)
        values = rng.standard_normal((20, 120)) + z[:, None]
        if at_random:
            values[rng.random(values.shape) < 0.15] = np.nan
        else:  # what is low, and subjects with high z, are missed at the first half of the voxels
            values[:, :60][(values[:, :60] < -1) | ((z > 1)[:, None] & (rng.random((20, 60)) < 0.5))] = np.nan
        return values, pd.DataFrame({"x": rng.standard_normal(20), "z": z, "mean": 1.0}), "x"

    assert_calibrated(rejections(simulate, 150), 150)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 3.1}, {"tfce": "steps"}, {"height": -1.0, "tfce": True}, {"connectivity": 8}, {"n_perm": 0}]
)
def test_what_is_wrong_is_told_before_anything_is_read(wrong):
    def refuse(*given, **named):
        raise AssertionError("read too early")

    lazy, design = images(noise(10), (5, 60)), pd.DataFrame({"x": noise(10)[:, 0], "mean": 1.0})
    with dask.config.set(scheduler=refuse), pytest.raises(ParameterError):
        permutation_test(lazy, design, {"x": "x"}, **wrong)
    with dask.config.set(scheduler=refuse), pytest.raises(ContrastError):
        permutation_test(lazy, design, {"x": "y"})


def test_without_the_package_of_tfce_it_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"daskglm\[tfce\]"):
        permutation_test(images(noise(10)), pd.DataFrame({"mean": np.ones(10)}), {"mean": "mean"}, tfce=True)


def test_images_beyond_the_memory_give_the_same(monkeypatch):
    values, design = noise(15), pd.DataFrame({"x": noise(15, 4)[:, 0], "z": noise(15, 5)[:, 0], "mean": np.ones(15)})
    named = {"n_perm": 100, "threshold": 0.05, "tfce": True}
    whole = permutation_test(images(values), design, {"x": "x", "both": "x, z"}, **named)
    calls = []
    original = graph._prepare
    monkeypatch.setattr(graph, "_prepare", lambda *given: calls.append(0) or original(*given))
    monkeypatch.setattr(graph, "memory_limit", lambda: 0)
    monkeypatch.setattr(graph, "_UNIT", (25, 25))
    found = permutation_test(images(values, (4, 50)), design, {"x": "x", "both": "x, z"}, **named)
    assert len(calls) == 5  # once to observe and once a unit: nothing is kept
    for name in whole:
        assert np.array_equal(found[name].values, whole[name].values, equal_nan=True), name


def test_variance_groups_that_cannot_be():
    values, group = noise(10), np.repeat([0, 1], 5)
    design = pd.DataFrame({"x": noise(10, 1)[:, 0], "mean": np.ones(10)})
    with pytest.raises(ParameterError, match="variance groups are mixed"):
        permutation_test(images(values), design, {"x": "x"}, variance_groups=group)
    with pytest.raises(ParameterError, match="freedman-lane"):
        permutation_test(images(values), design, {"x": "x"}, variance_groups=group, within=group, scheme="smith")
    permutation_test(images(values), design, {"x": "x"}, variance_groups=group, within=group, n_perm=20)
