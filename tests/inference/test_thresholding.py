"""Thresholded maps and all-resolutions inference, against nilearn and against known truth."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn import glm as oracle
from nilearn.maskers import NiftiMasker
from scipy import ndimage
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from daskglm.errors import CorruptImageError, ImageError, ParameterError, SpaceError
from daskglm.inference.thresholding import cluster_level_inference, fdr_threshold, threshold_stats_img

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3.0, 0, -20], [0, 0, 4.0, -10], [0, 0, 0, 1]])
SHAPE = (13, 12, 10)
seeds = st.integers(0, 2**32 - 1)
controls = st.sampled_from(["fpr", "fdr", "bonferroni", None])


def smooth_map(seed: int, effect: float = 3.0, dtype: type = np.float64) -> tuple[Any, Any]:
    """A smooth z map with a few foci of both signs, and a mask."""
    rng = np.random.default_rng(seed)
    z = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
    z /= z.std()
    centres = tuple(rng.integers(2, size - 2, 4) for size in SHAPE)
    foci = np.zeros(SHAPE)
    foci[centres] = effect * rng.choice([-1, 1], 4)
    z += ndimage.gaussian_filter(foci, 1.2) / ndimage.gaussian_filter(np.eye(9)[4], 1.2)[4] ** 3
    mask = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.0) > -0.1
    mask[0] = mask[-1] = False
    return nib.Nifti1Image(z.astype(dtype), AFFINE), nib.Nifti1Image(mask.astype(np.uint8), AFFINE)


def values(image: Any) -> np.ndarray:
    return np.asarray(image.dataobj)


def image_of(grid: np.ndarray) -> Any:
    return nib.Nifti1Image(grid, AFFINE)


def ones() -> Any:
    return image_of(np.ones(SHAPE, dtype=np.uint8))


def nilearn(function: str, *args: Any, **kwargs: Any) -> Any:
    """nilearn's answer, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(oracle, function)(*args, **kwargs)


@given(
    seeds,
    controls,
    st.sampled_from([0, 1, 3, 8]),
    st.booleans(),
    st.sampled_from([0.001, 0.01, 0.05, 0.3]),
    st.sampled_from([np.float64, np.float32]),
)
def test_equals_nilearn(
    seed: int, control: Any, cluster_threshold: int, two_sided: bool, alpha: float, dtype: type
) -> None:
    stat_img, mask_img = smooth_map(seed, dtype=dtype)
    threshold = 2.3 if control is None else None
    how = (alpha, threshold, control, cluster_threshold, two_sided)
    found, level = threshold_stats_img(stat_img, mask_img, *how)
    expected, expected_level = nilearn("threshold_stats_img", stat_img, mask_img, *how)
    assert level == pytest.approx(expected_level, abs=1e-8)
    np.testing.assert_allclose(values(found), values(expected), rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found.affine, AFFINE)


@pytest.mark.parametrize("threshold", [-3, -1, 0, 1, 3])
@pytest.mark.parametrize("cluster_threshold", [0, 1, 4])
def test_voxels_at_the_threshold_are_those_of_nilearn(threshold: int, cluster_threshold: int) -> None:
    how = {"threshold": threshold, "height_control": None, "two_sided": False, "cluster_threshold": cluster_threshold}
    stat_img, mask_img = smooth_map(5)
    rounded = nib.Nifti1Image(np.round(values(stat_img)), stat_img.affine)
    assert (values(rounded) == threshold).any()
    expected = nilearn("threshold_stats_img", rounded, mask_img, **how)[0]
    np.testing.assert_array_equal(values(threshold_stats_img(rounded, mask_img, **how)[0]), values(expected))


@given(seeds, st.floats(-3, -0.1), st.sampled_from([0, 4]))
def test_equals_nilearn_for_a_negative_threshold(seed: int, threshold: float, cluster_threshold: int) -> None:
    how = {"threshold": threshold, "height_control": None, "two_sided": False, "cluster_threshold": cluster_threshold}
    stat_img, mask_img = smooth_map(seed)
    expected = nilearn("threshold_stats_img", stat_img, mask_img, **how)[0]
    np.testing.assert_array_equal(values(threshold_stats_img(stat_img, mask_img, **how)[0]), values(expected))


@given(seeds, controls, st.sampled_from([0.0, np.nan]))
@pytest.mark.filterwarnings("ignore:height_control=None takes threshold:FutureWarning")
def test_equals_nilearn_without_a_mask(seed: int, control: Any, outside: float) -> None:
    stat_img, mask_img = smooth_map(seed)
    inside = values(mask_img) > 0
    if outside == 0:
        inside[:2] = False
    stat_img = image_of(np.where(inside, values(stat_img), outside))
    found, level = threshold_stats_img(stat_img, alpha=0.05, height_control=control)
    expected, expected_level = nilearn("threshold_stats_img", stat_img, alpha=0.05, height_control=control)
    assert level == pytest.approx(expected_level, abs=1e-8)
    np.testing.assert_allclose(values(found), np.nan_to_num(values(expected)), rtol=0, atol=1e-8)


@given(seeds, st.sampled_from([0.01, 0.05, 0.2]), st.booleans())
def test_fdr_and_bonferroni_are_those_of_statsmodels(seed: int, alpha: float, two_sided: bool) -> None:
    stat_img, mask_img = smooth_map(seed)
    inside = values(mask_img) > 0
    z = values(stat_img)[inside]
    p = 2 * norm.sf(np.abs(z)) if two_sided else norm.sf(z)
    for control, method in (("fdr", "fdr_bh"), ("bonferroni", "bonferroni")):
        found, _ = threshold_stats_img(stat_img, mask_img, alpha, height_control=control, two_sided=two_sided)
        np.testing.assert_array_equal(values(found)[inside] != 0, multipletests(p, alpha, method)[0])
        assert not values(found)[~inside].any()


def test_fdr_threshold_equals_nilearn() -> None:
    z = np.random.default_rng(3).standard_normal(500) * 2
    assert fdr_threshold(z, 0.05) == nilearn("fdr_threshold", z, 0.05)
    with pytest.raises(ParameterError, match=r"alpha must be a number from 0 to 1, got 1\.5"):
        fdr_threshold(z, 1.5)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("control", ["fdr", "bonferroni"])
def test_what_is_no_value_is_no_test(control: str, nothing: float) -> None:
    stat_img, mask_img = smooth_map(5)
    holes = np.random.default_rng(1).random(SHAPE) < 0.3
    gappy = image_of(np.where(holes, nothing, values(stat_img)))
    less = image_of(((values(mask_img) > 0) & ~holes).astype(np.uint8))
    found, level = threshold_stats_img(gappy, mask_img, 0.05, height_control=control)
    expected, expected_level = threshold_stats_img(stat_img, less, 0.05, height_control=control)
    assert level == expected_level
    np.testing.assert_array_equal(values(found), values(expected))
    # nilearn counts the holes as tests, with z = 0.
    if control == "bonferroni":
        assert level < nilearn("threshold_stats_img", gappy, mask_img, 0.05, height_control=control)[1]
    z = np.append(values(stat_img)[values(less) > 0], [nothing] * 50)
    assert fdr_threshold(z, 0.05) == fdr_threshold(z[:-50], 0.05)


def test_a_computed_threshold_is_one_of_the_upper_tail() -> None:
    stat_img, mask_img = smooth_map(2)
    found, level = threshold_stats_img(stat_img, mask_img, 0.6, two_sided=False)
    assert level == pytest.approx(norm.isf(0.6))
    inside = values(mask_img) > 0
    z = values(stat_img)
    np.testing.assert_array_equal(values(found), np.where(inside & (z >= level), z, 0))
    # nilearn takes the sign of the threshold for the side that is meant and keeps the lower tail.
    assert (values(nilearn("threshold_stats_img", stat_img, mask_img, 0.6, two_sided=False)[0]) <= 0).all()


def test_the_voxel_at_the_median_of_the_border_is_no_background() -> None:
    grid = np.random.default_rng(0).standard_normal((5, 5, 5))
    level = threshold_stats_img(image_of(grid), alpha=0.05, height_control="bonferroni", two_sided=False)[1]
    assert level == pytest.approx(norm.isf(0.05 / 125), abs=1e-12)


def test_threshold_is_inclusive_and_cluster_threshold_exclusive() -> None:
    grid = np.zeros(SHAPE)
    grid[3:6, 3, 3], grid[8, 8, 4:6], grid[3:6, 8, 3] = 3.0, 3.0, -3.0
    found, level = threshold_stats_img(image_of(grid), ones(), threshold=3.0, height_control=None, cluster_threshold=3)
    assert level == 3.0
    grid[8, 8] = 0
    np.testing.assert_array_equal(values(found), grid)


def test_clusters_have_one_sign_and_touch_by_faces() -> None:
    grid = np.zeros(SHAPE)
    grid[3:5, 3, 3], grid[5:7, 3, 3], grid[8, 8, 4], grid[9, 9, 4] = 4.0, -4.0, 4.0, 4.0
    found = threshold_stats_img(image_of(grid), ones(), threshold=3.0, height_control=None, cluster_threshold=2)[0]
    assert np.count_nonzero(values(found)) == 4
    assert not threshold_stats_img(image_of(grid), ones(), threshold=3.0, height_control=None, cluster_threshold=3)[
        0
    ].dataobj.any()


def test_nothing_is_significant() -> None:
    found, level = threshold_stats_img(image_of(np.zeros(SHAPE)), ones(), height_control="fdr", cluster_threshold=3)
    assert level == np.inf
    assert not values(found).any()


def test_without_a_map() -> None:
    assert threshold_stats_img(alpha=0.01) == (None, pytest.approx(norm.isf(0.005)))
    with pytest.warns(FutureWarning, match=r"threshold, which is not given: 3\.0 is used"):
        assert threshold_stats_img(height_control=None) == (None, 3.0)
    assert threshold_stats_img(height_control=None, threshold=2) == (None, 2.0)
    for control in ("fdr", "bonferroni"):
        with pytest.raises(ParameterError, match="needs stat_img"):
            threshold_stats_img(height_control=control)


def test_a_threshold_beside_a_height_control_warns() -> None:
    with pytest.warns(UserWarning, match="threshold=2 is not used with height_control='fpr'"):
        assert threshold_stats_img(threshold=2)[1] == pytest.approx(norm.isf(0.0005))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"alpha": -0.1}, "alpha must be a number from 0 to 1, got -0.1"),
        ({"alpha": np.nan}, "alpha must be a number from 0 to 1, got nan"),
        ({"height_control": "fwe"}, "height_control must be 'fpr'"),
        ({"cluster_threshold": -1}, "cluster_threshold must be a number from 0"),
        ({"height_control": None, "threshold": -2}, "give two_sided=False"),
        ({"height_control": None, "threshold": "95%"}, "threshold must be a number"),
        ({"height_control": None, "threshold": True}, "threshold must be a number"),
        ({"height_control": None, "threshold": np.nan}, "threshold must be a number"),
    ],
)
def test_wrong_parameters(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        threshold_stats_img(smooth_map(0)[0], **how)


def test_images_are_images_paths_and_maskers(tmp_path: Path) -> None:
    stat_img, mask_img = smooth_map(8)
    expected = values(threshold_stats_img(stat_img, mask_img, 0.05)[0])
    stat_img.to_filename(tmp_path / "z.nii.gz")
    mask_img.to_filename(tmp_path / "mask.nii")
    masker = NiftiMasker(mask_img=mask_img, standardize=None)
    maps = (stat_img, tmp_path / "z.nii.gz", str(tmp_path / "z.nii.gz"), image_of(values(stat_img)[..., None]))
    for given_map in maps:
        for given_mask in (mask_img, tmp_path / "mask.nii", masker):
            if given_mask is masker:
                masker.fit()
            np.testing.assert_array_equal(values(threshold_stats_img(given_map, given_mask, 0.05)[0]), expected)
    np.testing.assert_array_equal(values(stat_img), values(smooth_map(8)[0]))


def test_wrong_images(tmp_path: Path) -> None:
    stat_img, mask_img = smooth_map(8)
    with pytest.raises(ParameterError, match="a nibabel image or a path, got ndarray"):
        threshold_stats_img(values(stat_img))
    with pytest.raises(ImageError, match="one 3-D map"):
        threshold_stats_img(image_of(np.zeros((*SHAPE, 2))))
    with pytest.raises(CorruptImageError, match="no such file"):
        threshold_stats_img(tmp_path / "none.nii")
    with pytest.raises(ParameterError, match="mask_img must be an image"):
        threshold_stats_img(stat_img, 3)
    with pytest.raises(ImageError, match="call its fit first"):
        threshold_stats_img(stat_img, NiftiMasker(mask_img=mask_img, standardize=None))
    with pytest.raises(SpaceError, match="resample the mask to the map"):
        threshold_stats_img(stat_img, nib.Nifti1Image(values(mask_img), np.eye(4)))
    with pytest.raises(SpaceError, match="resample the mask to the map"):
        threshold_stats_img(stat_img, image_of(values(mask_img)[1:]))
    with pytest.raises(SpaceError, match="mask_img is empty"):
        threshold_stats_img(stat_img, image_of(np.zeros(SHAPE)))
    with pytest.raises(ImageError, match="none is finite"):
        threshold_stats_img(image_of(np.full(SHAPE, np.nan)), mask_img)


@given(
    seeds,
    st.sampled_from([3.0, 2.0, 0.0, [2.0, 3.0], [3.5, 1.5, 2.5]]),
    st.sampled_from([0.01, 0.05, 0.3]),
    st.sampled_from([np.float64, np.float32]),
)
def test_cluster_level_inference_equals_nilearn(seed: int, threshold: Any, alpha: float, dtype: type) -> None:
    stat_img, mask_img = smooth_map(seed, effect=5.0, dtype=dtype)
    found = cluster_level_inference(stat_img, mask_img, threshold, alpha)
    expected = nilearn("cluster_level_inference", stat_img, mask_img, threshold, alpha)
    np.testing.assert_allclose(values(found), values(expected), rtol=0, atol=1e-8 if dtype is np.float64 else 1e-7)


def test_proportions_are_of_one_at_most() -> None:
    grid = np.random.default_rng(0).uniform(4, 6, SHAPE)
    found = cluster_level_inference(image_of(grid), ones())
    assert (values(found) == 1).all()
    assert values(nilearn("cluster_level_inference", image_of(grid), ones())).max() > 1


def test_proportion_with_known_truth() -> None:
    # Eleven null voxels: h = 11, and the cluster of 89 has all but those of them.
    grid = np.full((10, 10, 1), 10.0)
    grid.ravel()[:11] = -1.0
    found = cluster_level_inference(image_of(grid), image_of(np.ones(grid.shape)))
    assert np.unique(values(found)).tolist() == [0, 1]
    grid = np.full((10, 10, 1), 10.0)
    grid[:, :2] = -1.0
    grid[:, 2, 0] = norm.isf(0.04)
    found = cluster_level_inference(image_of(grid), image_of(np.ones(grid.shape)), threshold=1.0)
    # No voxel of p = 0.04 is proven, beside 20 null ones.
    assert np.unique(values(found)).tolist() == [0, pytest.approx(70 / 80)]


def test_cluster_level_inference_without_values() -> None:
    stat_img, mask_img = smooth_map(4, effect=6.0)
    holes = np.random.default_rng(1).random(SHAPE) < 0.3
    gappy = image_of(np.where(holes, np.nan, values(stat_img)))
    less = image_of(((values(mask_img) > 0) & ~holes).astype(np.uint8))
    expected = values(cluster_level_inference(stat_img, less, 2.0))
    assert expected.any()
    np.testing.assert_array_equal(values(cluster_level_inference(gappy, mask_img, 2.0)), expected)
    assert not values(cluster_level_inference(gappy, mask_img, 40.0)).any()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"threshold": -1}, "threshold must be a number from 0"),
        ({"threshold": [2, -1.0]}, "threshold must be a number from 0"),
        ({"threshold": "3"}, "threshold must be a number from 0"),
        ({"alpha": 0}, "alpha must be above 0"),
        ({"alpha": 2}, "alpha must be a number from 0 to 1"),
    ],
)
def test_cluster_level_inference_refuses(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        cluster_level_inference(smooth_map(0)[0], **how)
