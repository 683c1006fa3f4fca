"""What is kept between fits and runs answers the same question only: whatever differs, as where nothing is kept."""

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import AFFINE, Cohort

import daskglm
from daskglm import FirstLevelModel, SecondLevelModel

TR, N, SHAPE = 2.0, 60, (6, 5, 4)
SHIFTED = AFFINE + np.array([0.3, 0.3, 0.3, 0])[:, None] * [0, 0, 0, 1]

GROUP = {
    "plain": {},
    "smoothed": {"smoothing_fwhm": 6},
    "smoothed more": {"smoothing_fwhm": 9},
    "other grid": {"target_affine": np.diag([6.0, 6.0, 8.0])},
    "other grid, given": {"target_affine": AFFINE, "target_shape": (6, 7, 4)},
    "no mask, other grid": {"mask_img": None, "target_affine": np.diag([6.0, 6.0, 8.0]), "min_coverage": 0.9},
    "no mask, more coverage": {"mask_img": None, "min_coverage": 0.9},
}

RUN = {
    "plain": {},
    "smoothed": {"smoothing_fwhm": 6},
    "other grid": {"target_affine": np.diag([6.0, 6.0, 8.0])},
    "its own grid": {"target_affine": AFFINE, "target_shape": (6, 5, 3)},
    "a shifted grid": {"target_affine": SHIFTED, "target_shape": (6, 5, 3)},
    "lags over gaps": {"contiguous": True},
    "ols": {"noise_model": "ols"},
    "ar2": {"noise_model": "ar2"},
    "no scaling": {"signal_scaling": False},
    "hrf": {"hrf_model": "spm"},
    "drift": {"drift_model": "polynomial", "drift_order": 3},
    "slice time": {"slice_time_ref": 0.5},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("cohort"), 12, holes=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(5)
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 1:4, 1:3] = True
    noise = rng.standard_normal((*mask.shape, N))
    for t in range(1, N):
        noise[..., t] += 0.4 * noise[..., t - 1]
    path = tmp_path_factory.mktemp("run") / "bold.nii.gz"
    nib.Nifti1Image(100 + noise, AFFINE).to_filename(path)
    events = pd.DataFrame({"onset": np.arange(4, 100, 12.0), "duration": 3.0, "trial_type": ["a", "b"] * 4})
    return str(path), events, nib.Nifti1Image(mask.astype(np.uint8), AFFINE)


def values_of(model, contrast):
    maps = model.compute_contrast(contrast, output_type="all")
    return np.stack([np.asarray(maps[kind].dataobj) for kind in ("effect_size", "stat")])


def group_map(cohort, memory, settings):
    given = {"mask_img": cohort.mask_img, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SecondLevelModel(memory=memory, **given).fit(cohort.paths, design_matrix=cohort.design)
    return values_of(model, "age")


def run_map(run, memory, settings):
    path, events, mask_img = run
    kept = np.setdiff1d(np.arange(N), [10, 11, 12, 30, 31, 45])
    given = {"mask_img": mask_img, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(t_r=TR, memory=memory, **given).fit(path, events, sample_masks=kept)
    return values_of(model, "a - b")


@pytest.mark.parametrize(("make", "settings"), [(group_map, GROUP), (run_map, RUN)], ids=["group", "run"])
def test_memory_answers_as_no_memory_does(make, settings, cohort, run, tmp_path):
    given = cohort if make is group_map else run
    without = {name: make(given, None, values) for name, values in settings.items()}
    for name in settings:
        same = [key for key, other in without.items() if np.array_equal(without[name], other, equal_nan=True)]
        assert same == [name], "settings that make no difference test nothing"
    for _ in range(2):
        for name, values in settings.items():
            kept = make(given, str(tmp_path / "memory"), values)
            np.testing.assert_array_equal(kept, without[name], err_msg=name)


TESTS = {
    "plain": {},
    "seed": {"random_state": 1},
    "scheme": {"scheme": "smith"},
    "two-sided": {"two_sided": False},
    "clusters": {"threshold": 0.01},
    "clusters, lower": {"threshold": 0.05},
    "contrast": {"contrasts": {"age": "age - male"}},
    "within": {"within": np.repeat([0, 1, 2], 4)},
    "whole": {"whole": np.repeat(np.arange(6), 2)},
    "flips": {"rearrangement": "sign_flip"},
    "variance groups": {"rearrangement": "sign_flip", "variance_groups": np.repeat([0, 1], 6)},
}


def test_a_folder_of_rearrangements_answers_as_none_does(cohort, tmp_path):
    """The folder holds finished rearrangements: of another seed or question they are not counted."""
    daskglm.convert(cohort.paths, str(tmp_path / "a.zarr"), mask=cohort.mask_img)
    images = daskglm.open_images(str(tmp_path / "a.zarr"))
    complete = images.isel(voxel=np.flatnonzero(np.isfinite(images["data"].to_numpy()).all(axis=0)))

    def nulls(settings, folder):
        given = {"contrasts": {"age": "age"}, "n_perm": 1100, "random_state": 0, **settings}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = daskglm.permutation_test(complete, cohort.design, folder=folder, **given)
        return {name: np.asarray(value) for name, value in result.items()}

    without = {name: nulls(settings, None) for name, settings in TESTS.items()}
    # Each after the one that it differs from in one thing only.
    for name in TESTS:
        for asked in ("flips" if name == "variance groups" else "plain", name):
            kept = nulls(TESTS[asked], str(tmp_path / "kept"))
            for key, expected in without[asked].items():
                np.testing.assert_array_equal(kept[key], expected, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("make", [group_map, run_map])
def test_what_cannot_be_read_or_is_of_another_version_is_made_anew(make, cohort, run, tmp_path, monkeypatch):
    given, memory = (cohort if make is group_map else run), str(tmp_path / "memory")
    expected = make(given, memory, {})
    kept = sorted((tmp_path / "memory").rglob("*.npz"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(make(given, memory, {}), expected)
    for path in kept:
        np.load(path, allow_pickle=False).close()
    monkeypatch.setattr("daskglm.io.cache.version", lambda _: "0.0.0")
    for path in kept:
        path.write_bytes(b"of another version, which is not looked at")
    np.testing.assert_array_equal(make(given, memory, {}), expected)
    assert all(path.read_bytes().startswith(b"of another version") for path in kept)
