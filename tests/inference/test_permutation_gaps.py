"""Permutation tests of voxels with different numbers of images: every rearrangement refitted, on Bartlett's scale."""

import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
from nibabel import Nifti1Image
from scipy import ndimage, stats

from daskglm import VolumeSpace, images_dataset, permutation_test
from daskglm.design.rearrangements import plan_rearrangements

SHAPE = (4, 3, 2)
SPACE = VolumeSpace.from_image(Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)))
N = 7
DESIGN = pd.DataFrame({"a": np.arange(N) < 4, "b": np.arange(N) >= 4}).astype(float)
SIGNS = np.array(list(product((1.0, -1.0), repeat=N)))


def run(values, contrasts, **named):
    images = images_dataset(np.asarray(values), [f"s{k}" for k in range(len(values))], SPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few distinct rearrangements
        return permutation_test(images, DESIGN, contrasts, scheme="smith", n_jobs=1, **named)


@pytest.fixture(scope="module")
def values():
    """Voxels with all images, and without one, two or three of them."""
    found = np.random.default_rng(1).standard_normal((N, 24)) + 0.8
    for voxel in range(24):
        found[np.random.default_rng(voxel).permutation(N)[: voxel % 4], voxel] = np.nan
    return found


def rss(columns, y):
    return np.sum((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2, axis=0)


def scaled(values, tested, signed):
    """Every flip of the tested columns by least squares, each voxel on its images: -(v + s / 2 - 1) log(RSS1 / RSS0).

    Bartlett's factor of Wilks' lambda for one variable: v - (1 - s + 1) / 2.
    """
    columns = DESIGN.to_numpy()
    rest = np.delete(columns, tested, axis=1)
    every = np.empty((len(SIGNS), values.shape[1]))
    for voxel in range(values.shape[1]):
        there = np.isfinite(values[:, voxel])
        y, z = values[there, voxel], rest[there]
        without = rss(z, y) if z.size else np.sum(y**2)
        freedom = there.sum() - 2
        for k, sign in enumerate(SIGNS):
            moved = (columns[:, tested] * sign[:, None])[there]
            full = np.column_stack([moved, z])
            wilks = min(rss(full, y) / without, 1.0)
            size = -(freedom - (2 - len(tested)) / 2) * np.log(wilks)
            if signed:
                beta = np.linalg.lstsq(full, y, rcond=None)[0][0]
                size = np.sign(beta) * np.sqrt(size)
            every[k, voxel] = size
    return every


def refitted_f(moved, values, contrast):
    """F, or t squared, of complete voxels, where the tested columns are moved."""
    columns = DESIGN.to_numpy()
    full = moved if contrast == "a, b" else np.column_stack([moved[:, 0], columns[:, 1]])
    without = np.sum(values**2, axis=0) if contrast == "a, b" else rss(columns[:, 1:], values)
    inside = rss(full, values)
    return (without - inside) / (2 if contrast == "a, b" else 1) / (inside / (N - 2))


CASES = {"t": ("a", True), "t above": ("a", False), "F": ("a, b", True)}


@pytest.fixture(scope="module")
def by_hand(values):
    t = scaled(values, [0], True)
    return {"t": t, "t above": t, "F": scaled(values, [0, 1], False)}


def clusters(level, height):
    """Sizes and masses of clusters above a height, of either sign apart, per voxel."""
    grid = level.reshape(SHAPE, order="F")
    size, mass = np.zeros(SHAPE), np.zeros(SHAPE)
    for sign in (1, -1):
        labels, count = ndimage.label(sign * grid > height)
        for label in range(1, count + 1):
            size[labels == label] = (labels == label).sum()
            mass[labels == label] = (sign * grid - height)[labels == label].sum()
    return size.ravel(order="F"), mass.ravel(order="F")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threshold", [0.2, 0.05])
def test_all_flips_are_compared_on_one_scale(values, by_hand, case, threshold):
    (contrast, two_sided), signed = CASES[case], case != "F"
    every = by_hand[case]
    found = run(values, {"c": contrast}, two_sided=two_sided, threshold=threshold)
    assert found.attrs["n_perm"] == 2**N - 1
    np.testing.assert_allclose(found["scaled_stat"].values[0], every[0], rtol=1e-8)
    size = np.abs(every) if two_sided else every
    level = size[0] - 1e-6 * np.abs(size[0])
    np.testing.assert_allclose(10 ** -found["logp_stat"].values[0], (size >= level).mean(axis=0), rtol=1e-9)
    top = size.max(axis=1)
    np.testing.assert_allclose(10 ** -found["logp_max_stat"].values[0], (top[:, None] >= level).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.sort(found["h0_max_stat"].values[0]), np.sort(top[1:]), rtol=1e-6)
    height = stats.chi2.isf(threshold, 2)
    if signed:
        height = stats.norm.isf(threshold / (2 if two_sided else 1))
    shown = every if two_sided else np.maximum(every, 0)
    measures = np.array([clusters(row, height) for row in shown])
    assert measures[0, 0].max() > 0
    np.testing.assert_array_equal(found["size"].values[0], measures[0, 0])
    np.testing.assert_allclose(found["mass"].values[0], measures[0, 1], rtol=1e-7, atol=1e-12)
    for k, name in enumerate(("size", "mass")):
        largest = measures[1:, k].max(axis=1)
        np.testing.assert_allclose(np.sort(found[f"h0_max_{name}"].values[0]), np.sort(largest), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("two_sided", [True, False])
def test_contrasts_are_corrected_together_by_their_p(values, by_hand, two_sided):
    found = run(values, {"both": "a, b", "one": "a"}, two_sided=two_sided)
    z = {}
    for name, case, rank in (("both", "F", 2), ("one", "t", 1)):
        chi_squared = by_hand[case] ** (2 if rank == 1 else 1)
        z[name] = stats.norm.isf(stats.chi2.sf(chi_squared, rank))
    z["one"] = z["one"] if two_sided else by_hand["t"]
    top = np.maximum(*(item.max(axis=1) for item in z.values()))
    for name, item in z.items():
        expected = (top[:, None] >= item[0] - 1e-5 * (1 + np.abs(item[0]))).mean(axis=0)
        across = 10 ** -found["logp_across_stat"].sel(contrast=name).values
        np.testing.assert_allclose(across, expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("contrast", ["a", "a, b"])
def test_voxels_that_all_have_all_images_are_compared_as_t_and_f(contrast):
    """Also where others have a single image, or do not vary, and are not tested."""
    values = np.random.default_rng(1).standard_normal((N, 24)) + 0.8
    values[:, 23] = 0.0
    flat = run(values, {"c": contrast}, threshold=0.05)
    values[1:, 23] = np.nan
    lost = run(values, {"c": contrast}, threshold=0.05)
    every = np.array([refitted_f(DESIGN.to_numpy() * sign[:, None], values[:, :23], contrast) for sign in SIGNS[1:]])
    top = np.sort(every.max(axis=1))
    for found in (flat, lost):
        assert "scaled_stat" not in found
        assert np.isnan(found["stat"].values[0]).tolist() == [False] * 23 + [True]
        np.testing.assert_allclose(
            np.sort(found["h0_max_stat"].values[0]) ** (2 if contrast == "a" else 1), top, rtol=1e-6
        )


@pytest.mark.parametrize("contrast", ["a", "a, b"])
def test_voxels_that_all_lack_one_image_are_on_the_scale(contrast):
    """None has the degrees of freedom of the design."""
    lost = np.random.default_rng(1).standard_normal((N, 24)) + 0.8
    lost[3] = np.nan
    found = run(lost, {"c": contrast}, threshold=0.05)
    freedom, n_tested = N - 1 - 2, 1 if contrast == "a" else 2
    assert (found["degrees_of_freedom"].values == freedom).all()
    stat = found["stat"].values[0]
    ratio = stat**2 if n_tested == 1 else n_tested * stat
    expected = (freedom + n_tested / 2 - 1) * np.log1p(ratio / freedom)
    expected = np.sign(stat) * np.sqrt(expected) if n_tested == 1 else expected
    np.testing.assert_allclose(found["scaled_stat"].values[0], expected, rtol=1e-8)


@pytest.mark.parametrize(("contrast", "two_sided"), [("a", True), ("a", False), ("a, b", True)])
def test_drawn_rearrangements_of_many_voxels_are_compared_on_one_scale(contrast, two_sided):
    """Most values are rounded to single precision first; those that decide are not."""
    n, shape = 30, (16, 12, 8)  # more voxels than are multiplied together
    rng = np.random.default_rng(5)
    design = pd.DataFrame({"a": rng.standard_normal(n), "b": rng.standard_normal(n), "mean": 1.0})
    values = rng.standard_normal((n, 1536))
    lost = [rng.permutation(n)[:count] for count in (0, 1, 9)]
    pattern = np.arange(1536) // 300 % 3
    for number, rows in enumerate(lost):
        values[np.ix_(rows, pattern == number)] = np.nan
    space = VolumeSpace.from_image(Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)))
    images = images_dataset(values, [f"s{k}" for k in range(n)], space)
    found = permutation_test(
        images, design, {"c": contrast}, n_perm=60, scheme="smith", two_sided=two_sided, random_state=3, n_jobs=1
    )
    index, _ = plan_rearrangements(design.to_numpy(), 60, seed=3).take(0, 60)
    columns = design.to_numpy()
    n_tested = 1 if contrast == "a" else 2
    rest = columns[:, n_tested:]
    tested = columns[:, :n_tested] - rest @ np.linalg.lstsq(rest, columns[:, :n_tested], rcond=None)[0]
    every = np.empty((61, 1536))
    for k, order in enumerate([np.arange(n), *index]):
        for number, rows in enumerate(lost):
            there, chosen = np.setdiff1d(np.arange(n), rows), pattern == number
            y, full = values[np.ix_(there, chosen)], np.column_stack([tested[order], rest])[there]
            factor = there.size - 3 + n_tested / 2 - 1
            every[k, chosen] = factor * np.log(rss(rest[there], y) / rss(full, y))
            if n_tested == 1:
                every[k, chosen] = np.sqrt(every[k, chosen]) * np.sign(np.linalg.lstsq(full, y, rcond=None)[0][0])
    size = np.abs(every) if two_sided else every
    np.testing.assert_allclose(found["scaled_stat"].values[0], every[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["h0_max_stat"].values[0], size[1:].max(axis=1), rtol=1e-8)
    expected = (1 + (size[1:] >= size[0] - 1e-9).sum(axis=0)) / 61
    np.testing.assert_allclose(10 ** -found["logp_stat"].values[0], expected, rtol=1e-9)
