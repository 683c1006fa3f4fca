"""permuted_ols and non_parametric_inference against nilearn's functions of these names, statsmodels and bad input."""

import os
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.glm.second_level import non_parametric_inference as nilearn_inference
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols as nilearn_ols
from scipy import ndimage, stats

import daskglm
from daskglm import FirstLevelModel, SecondLevelModel, non_parametric_inference, permuted_ols
from daskglm.errors import (
    ContrastError,
    CorruptImageError,
    DaskGLMError,
    DesignError,
    ImageError,
    ParameterError,
    SpaceError,
)

N, SHAPE = 20, (9, 8, 7)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
MASK = np.ones(SHAPE, np.uint8)
MASK[:2, :2] = 0
MASK[7:, 3, 2:5] = 0
OBSERVED = {"t": {"atol": 1e-8}, "size": {"atol": 0}, "mass": {"atol": 1e-8}, "tfce": {"rtol": 1e-6, "atol": 1e-3}}
MAPS = ("t", "logp_max_t", "size", "logp_max_size", "mass", "logp_max_mass", "tfce", "logp_max_tfce")


def quiet(function, *arguments, **named):
    """A function of nilearn, whose warnings are its own; or ours where few rearrangements exist."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


@pytest.fixture(scope="module")
def masker():
    return NiftiMasker(nib.Nifti1Image(MASK, AFFINE), standardize=None).fit()


def smooth_data(seed=0, effect=0.9):
    """Smooth noise in the masker's order of voxels, with an effect of x, and of z; x; z."""
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal(N), rng.standard_normal(N)
    volumes = np.stack([ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1) for _ in range(N)])
    volumes /= volumes.std()
    volumes[:, 5:8, 4:7, 2:5] += effect * x[:, None, None, None] + 1
    volumes[:, 2:5, 0:3, 4:6] += 0.7 * z[:, None, None, None] - effect * x[:, None, None, None]
    return volumes[:, MASK.astype(bool)], x, z


def problem(name):
    _, x, z = smooth_data()
    return {
        "regressor": (x, None),
        "with nuisance": (x, np.c_[z, z**2]),
        "group": ((x > 0) * 1.0, z[:, None]),
        "mean": (np.ones(N), None),
        "mean with nuisance": (np.ones(N), z[:, None] - z.mean()),
    }[name]


TESTED = ("regressor", "with nuisance", "group", "mean", "mean with nuisance")


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", TESTED)
def test_observed_maps_equal_nilearn(masker, name, two_sided):
    data, _, _ = smooth_data()
    x, nuisance = problem(name)
    named = {"masker": masker, "two_sided_test": two_sided, "threshold": 0.02, "n_perm": 2, "random_state": 0}
    theirs = quiet(nilearn_ols, x[:, None], data, nuisance, n_jobs=1, tfce=True, **named)
    found = permuted_ols(x, data, nuisance, tfce="stepwise", **named)
    assert theirs["size"].max() > 5
    for key, within in OBSERVED.items():
        np.testing.assert_allclose(found[key], theirs[key], **{"rtol": 0, **within}, err_msg=key)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", ["with nuisance", "mean"])
def test_nulls_agree_with_nilearn(masker, name, two_sided):
    data, _, _ = smooth_data()
    x, nuisance = problem(name)
    named = {"masker": masker, "two_sided_test": two_sided, "threshold": 0.02, "n_perm": 250}
    theirs = quiet(nilearn_ols, x[:, None], data, nuisance, n_jobs=1, tfce=True, random_state=1, **named)
    found = permuted_ols(x, data, nuisance, tfce="stepwise", random_state=2, **named)
    assert set(theirs) <= set(found)
    for key in theirs:
        assert found[key].shape == theirs[key].shape, key
    for key in ("h0_max_t", "h0_max_size", "h0_max_mass", "h0_max_tfce"):
        assert stats.ks_2samp(found[key][0], theirs[key][0], method="asymp").pvalue > 1e-4, key
    # Corrected p are proportions of two independent sets of 250: five standard errors of their difference.
    p, q = 10 ** -found["logp_max_t"], 10 ** -theirs["logp_max_t"]
    error = np.sqrt(2 * (p + q) / 2 * (1 - (p + q) / 2) / 250)
    assert (np.abs(p - q) <= 5 * error + 2 / 251).all()


def test_the_comparison_of_nulls_sees_another_null():
    data, x, _ = smooth_data()
    one, two = (permuted_ols(x, data, two_sided_test=side, n_perm=250, random_state=0) for side in (False, True))
    assert stats.ks_2samp(one["h0_max_t"][0], two["h0_max_t"][0], method="asymp").pvalue < 1e-4


def test_p_values_follow_from_the_nulls(masker):
    data, x, _ = smooth_data()
    found = permuted_ols(x, data, masker=masker, threshold=0.02, tfce=True, n_perm=99, random_state=3)
    for name in ("t", "size", "mass", "tfce"):
        null = found[f"h0_max_{name}"][0]
        level = np.abs(found[name][0])
        inside = level > 0
        expected = (1 + (null[:, None] >= level * (1 - 1e-5)).sum(axis=0)) / 100
        np.testing.assert_allclose(10 ** -found[f"logp_max_{name}"][0][inside], expected[inside], rtol=1e-9)


def test_each_of_several_variables_is_tested_by_itself(masker):
    data, x, z = smooth_data()
    both = np.c_[x, z]
    theirs = quiet(nilearn_ols, both, data, n_perm=150, n_jobs=1, random_state=0, two_sided_test=True)
    found = permuted_ols(both, data, n_perm=150, random_state=0)
    np.testing.assert_allclose(found["t"], theirs["t"], atol=1e-8)
    assert found["h0_max_t"].shape == (2, 150)
    for row in range(2):
        assert stats.ks_2samp(found["h0_max_t"][row], theirs["h0_max_t"][row], method="asymp").pvalue > 1e-4
        alone = permuted_ols(both[:, row], data, n_perm=150, random_state=0)
        np.testing.assert_array_equal(found["logp_max_t"][row], alone["logp_max_t"][0])


def test_voxels_stay_where_the_masker_has_them(masker):
    data, x, _ = smooth_data()
    found = permuted_ols(x, data, masker=masker, threshold=0.02, n_perm=20, random_state=0)
    volume = masker.inverse_transform(found["size"][0]).get_fdata()
    t = masker.inverse_transform(found["t"][0]).get_fdata()
    cut = stats.t.isf(0.01, N - 2)
    expected = np.zeros(SHAPE)
    for side in (t > cut, t < -cut):
        labels, count = ndimage.label(side)
        for label in range(1, count + 1):
            expected[labels == label] = (labels == label).sum()
    assert expected.max() > 5
    np.testing.assert_array_equal(volume, expected)
    # The same voxels in the order of a file.
    space = daskglm.VolumeSpace.from_image(masker.mask_img_, MASK.astype(bool))
    order = np.argsort(np.ravel_multi_index(np.nonzero(MASK), SHAPE, order="F"))
    in_file = permuted_ols(x, data[:, order], masker=space, threshold=0.02, n_perm=20, random_state=0)
    for key in ("t", "size", "mass", "logp_max_mass", "logp_t"):
        np.testing.assert_array_equal(in_file[key], found[key][:, order], err_msg=key)


def test_model_intercept():
    data, x, z = smooth_data()
    full = np.c_[x, z, np.ones(N)]

    def t(design, row=0):
        return np.array([sm.OLS(column, design).fit().tvalues[row] for column in data[:, :40].T])

    named = {"n_perm": 10, "random_state": 0}
    nuisance = z[:, None] + 2
    np.testing.assert_allclose(permuted_ols(x, data[:, :40], nuisance, **named)["t"][0], t(full), atol=1e-8)
    without = permuted_ols(x, data[:, :40], nuisance, model_intercept=False, **named)
    np.testing.assert_allclose(without["t"][0], t(np.c_[x, nuisance]), atol=1e-8)
    # A constant that is there already, or is what is tested, is not added again.
    given = permuted_ols(x, data[:, :40], np.c_[nuisance, np.ones(N)], **named)
    np.testing.assert_allclose(given["t"][0], t(full), atol=1e-8)
    mean = permuted_ols(np.ones(N), data[:, :40], nuisance, **named)
    np.testing.assert_allclose(mean["t"][0], t(np.c_[np.ones(N), nuisance]), atol=1e-8)


def test_sites_that_span_the_constant_are_fitted():
    data, x, _ = smooth_data()
    sites = (np.arange(N)[:, None] % 3 == np.arange(3)) * 1.0
    found = permuted_ols(x, data[:, :40], sites, n_perm=10, random_state=0)
    expected = [sm.OLS(column, np.c_[x, sites]).fit().tvalues[0] for column in data[:, :40].T]
    np.testing.assert_allclose(found["t"][0], expected, atol=1e-8)


def test_missing_values_leave_the_subjects_that_have_them():
    data, x, z = smooth_data()
    rng = np.random.default_rng(5)
    data = data[:, :60].copy()
    data[:, 20:][rng.random((N, 40)) < 0.25] = np.nan
    data[3, 25] = np.inf
    found = permuted_ols(x, data, z[:, None], n_perm=50, random_state=0)
    design = sm.add_constant(np.c_[x, z])
    for voxel in range(60):
        seen = np.isfinite(data[:, voxel])
        expected = sm.OLS(data[seen, voxel], design[seen]).fit().tvalues[1]
        np.testing.assert_allclose(found["t"][0, voxel], expected, atol=1e-8)
    p = 10 ** -found["logp_max_t"]
    assert ((p >= 1 / 51 - 1e-12) & (p <= 1)).all()


def test_voxels_that_no_one_has_are_not_tested():
    data, x, _ = smooth_data()
    data = data[:, :30].copy()
    data[:, 7] = np.nan
    data[:, 8] = 4.0
    with pytest.warns(UserWarning, match="1 of 30 columns of target_vars do not vary"):
        found = permuted_ols(x, data, n_perm=20, random_state=0)
    rest = np.setdiff1d(np.arange(30), [7, 8])
    assert np.isnan(found["t"][0, [7, 8]]).all()
    assert np.isfinite(found["t"][0, rest]).all()
    alone = permuted_ols(x, data[:, rest], n_perm=20, random_state=0)
    np.testing.assert_allclose(found["t"][:, rest], alone["t"], atol=1e-8)
    np.testing.assert_allclose(found["h0_max_t"], alone["h0_max_t"], rtol=1e-5)


def test_several_constants_in_the_nuisance_are_warned_of():
    data, x, _ = smooth_data()
    with pytest.warns(UserWarning, match="2 columns of confounding_vars are constant"):
        twice = permuted_ols(x, data[:, :30], np.ones((len(x), 2)), n_perm=0)
    np.testing.assert_allclose(twice["t"], permuted_ols(x, data[:, :30], n_perm=0)["t"])


def test_first_level_models_are_permuted_as_their_maps():
    rng = np.random.default_rng(2)
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    design = pd.DataFrame({"task": rng.standard_normal(20), "constant": 1.0})
    models = [
        FirstLevelModel(mask_img=image, noise_model="ols", signal_scaling=False).fit(
            nib.Nifti1Image(rng.standard_normal((4, 4, 4, 20)), np.eye(4)), design_matrices=design
        )
        for _ in range(6)
    ]
    group = pd.DataFrame({"intercept": np.ones(6)})
    how = {"design_matrix": group, "n_perm": 40, "random_state": 0, "mask": image}
    found = non_parametric_inference(models, first_level_contrast="task", **how)
    maps = [model.compute_contrast("task", output_type="effect_size") for model in models]
    np.testing.assert_array_equal(found.get_fdata(), non_parametric_inference(maps, **how).get_fdata())
    with pytest.raises(ContrastError, match="name first_level_contrast"):
        non_parametric_inference(models, **how)
    with pytest.warns(UserWarning, match="saturates 2 images"):
        nothing = non_parametric_inference(maps[:2], **how | {"design_matrix": pd.DataFrame({"a": [1.0, 2.0]})})
    assert np.isnan(nothing.get_fdata()).all()
    with pytest.warns(UserWarning, match="all maps are NaN: no voxel can be tested"):
        nothing = non_parametric_inference([maps[0].slicer[:] for _ in range(6)], **how)
    assert np.isnan(nothing.get_fdata()).all()


@pytest.mark.parametrize("n_perm", [0, 30])
def test_arrays_that_the_design_explains_are_nan_and_told(n_perm):
    """All voxels of one tested variable, as of one voxel; the other variables have their maps."""
    _, x, _ = smooth_data()
    other = np.random.default_rng(1).standard_normal(len(x))
    how = {"n_perm": n_perm, "random_state": 0, "threshold": 0.05, "tfce": True}
    explained = np.outer(x, [1.0, -2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]) + 5
    masker = daskglm.VolumeSpace.from_image(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)))
    alone = permuted_ols(other, explained, masker=masker, **how)
    with pytest.warns(UserWarning, match="all maps of tested variable 0 are NaN: no voxel can be tested"):
        found = permuted_ols(np.column_stack([x, other]), explained, masker=masker, **how)
    assert found.keys() == alone.keys()
    for name, values in found.items():
        assert np.isnan(values[0]).all(), name
        np.testing.assert_array_equal(values[1], alone[name][0])


def test_a_legacy_tuple_is_that_of_the_dictionary():
    data, x, _ = smooth_data()
    how = {"n_perm": 20, "random_state": 0}
    expected = permuted_ols(x, data[:, :30], **how)
    with pytest.warns(FutureWarning, match="take the dictionary"):
        logp, t, null = permuted_ols(x, data[:, :30], output_type="legacy", **how)
    for found, name in ((logp, "logp_max_t"), (t, "t"), (null, "h0_max_t")):
        np.testing.assert_array_equal(found, expected[name])


def test_random_states():
    data, x, _ = smooth_data()

    def null(state):
        return permuted_ols(x, data[:, :30], n_perm=30, random_state=state)["h0_max_t"]

    assert np.array_equal(null(4), null(np.int64(4)))
    assert not np.array_equal(null(4), null(5))
    assert not np.array_equal(null(None), null(None))
    for make in (np.random.RandomState, np.random.default_rng):
        state = make(0)
        first, second = null(state), null(state)
        assert np.array_equal(first, null(make(0)))
        assert not np.array_equal(first, second)


def test_more_rearrangements_begin_with_the_same_ones():
    data, x, _ = smooth_data()
    few, more = (permuted_ols(x, data[:, :30], n_perm=count, random_state=1)["h0_max_t"] for count in (40, 90))
    assert few.shape == (1, 40)
    np.testing.assert_array_equal(few, more[:, :40])


def test_all_distinct_ones_are_done_with_a_warning():
    data, _, _ = smooth_data()
    with pytest.warns(UserWarning, match="all 31 others"):
        found = permuted_ols(np.ones(5), data[:5, :30], n_perm=1000)
    assert found["h0_max_t"].shape == (1, 31)
    assert 10 ** -found["logp_max_t"].max() >= 1 / 32 - 1e-12


DESIGNS = {
    "age": (["age", "male", "intercept"], "age"),
    "weights": (["age", "male", "intercept"], [0, 1, 0]),
    "mean": (["intercept"], None),
    "no constant": (["age", "male"], "male"),
}


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("name", DESIGNS)
def test_images_equal_nilearn(cohort, name, two_sided):
    columns, contrast = DESIGNS[name]
    design = cohort.design[columns]
    named = {
        "design_matrix": design, "second_level_contrast": contrast, "mask": cohort.mask_img, "n_perm": 20,
        "two_sided_test": two_sided, "random_state": 0, "threshold": 0.1,
    }  # fmt: skip
    theirs = quiet(nilearn_inference, cohort.paths, n_jobs=1, tfce=True, **named)
    found = non_parametric_inference(cohort.paths, tfce="stepwise", **named)
    assert set(MAPS) == set(theirs) <= set(found)
    for key in MAPS:
        assert found[key].shape == theirs[key].shape
        np.testing.assert_array_equal(found[key].affine, theirs[key].affine)
        assert not found[key].get_fdata()[~cohort.mask].any()
    for key, within in OBSERVED.items():
        ours, expected = found[key].get_fdata(), theirs[key].get_fdata()
        np.testing.assert_allclose(ours, expected, **{"rtol": 1e-8, **within}, err_msg=key)
    assert found["h0_max_t"].shape == found["h0_max_size"].shape == found["h0_max_tfce"].shape == (20,)


def test_one_image_without_clusters_or_tfce(cohort):
    named = {"design_matrix": cohort.design, "second_level_contrast": "age", "n_perm": 200, "mask": cohort.mask_img}
    theirs = quiet(nilearn_inference, cohort.paths, random_state=0, n_jobs=1, **named)
    found = non_parametric_inference(cohort.paths, random_state=0, **named)
    assert isinstance(found, nib.Nifti1Image)
    assert found.shape == theirs.shape
    p, q = 10 ** -found.get_fdata(), 10 ** -theirs.get_fdata()
    error = np.sqrt((p + q) / 2 * (1 - (p + q) / 2) * 2 / 200)
    assert (np.abs(p - q) <= 5 * error + 2 / 201).all()


def test_f_contrasts_equal_statsmodels(cohort):
    found = non_parametric_inference(
        cohort.paths, None, cohort.design, np.eye(3)[:2], mask=cohort.mask_img, threshold=0.1, n_perm=20, random_state=0
    )
    at = np.argwhere(cohort.mask)[::7]
    for voxel in map(tuple, at):
        fit = sm.OLS(cohort.data[(slice(None), *voxel)], cohort.design.to_numpy()).fit()
        expected = fit.f_test(np.eye(3)[:2]).fvalue
        np.testing.assert_allclose(found["t"].get_fdata()[voxel], expected, rtol=1e-8)


def test_every_input_gives_the_same(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    pattern = os.path.join(cohort.folder, "*_statmap.nii.gz")
    daskglm.convert(pattern, store, mask=cohort.mask_img)
    pictures = [nib.load(path) for path in cohort.paths]
    table = pd.DataFrame({"subject_label": cohort.names, "map_name": "effect", "effects_map_path": cohort.paths})
    inputs = {
        "paths": cohort.paths,
        "images": pictures,
        "4-D": nib.concat_images(pictures),
        "glob": pattern,
        "store": store,
        "dataset": daskglm.open_images(store),
        "table": table.iloc[::-1],
        "Series": pd.Series(cohort.paths, index=cohort.names),
    }
    named = {"design_matrix": cohort.design, "second_level_contrast": "age", "n_perm": 20, "random_state": 0}
    maps = {}
    for way, given in inputs.items():
        mask = None if way in ("store", "dataset") else cohort.mask_img
        # A table is sorted by subject: rows of the design are then told by their ids.
        design = cohort.design.set_axis(pd.Index(cohort.names)) if way == "table" else cohort.design
        maps[way] = non_parametric_inference(given, mask=mask, threshold=0.1, **named | {"design_matrix": design})
    for way, found in maps.items():
        for key in ("t", "logp_max_t", "mass", "logp_max_mass"):
            np.testing.assert_allclose(
                found[key].get_fdata(), maps["paths"][key].get_fdata(), atol=2e-5, err_msg=f"{way}, {key}"
            )
    both = pd.concat([table.assign(map_name="other"), table])
    chosen = non_parametric_inference(both, first_level_contrast="effect", mask=cohort.mask_img, threshold=0.1, **named)
    np.testing.assert_array_equal(chosen["t"].get_fdata(), maps["paths"]["t"].get_fdata())
    with pytest.raises(ContrastError, match="other, effect"):
        non_parametric_inference(both, **named)
    with pytest.raises(ContrastError, match="'missing'"):
        non_parametric_inference(both, first_level_contrast="missing", **named)


def test_rows_of_the_design_are_matched_by_subject(cohort):
    named = {"mask": cohort.mask_img, "threshold": 0.1, "n_perm": 20, "random_state": 0}
    expected = non_parametric_inference(cohort.paths, None, cohort.design, "age", **named)
    mixed = cohort.design.set_axis(cohort.names).sample(frac=1, random_state=1)
    found = non_parametric_inference(cohort.paths, None, mixed, "age", **named)
    np.testing.assert_array_equal(found["logp_max_mass"].get_fdata(), expected["logp_max_mass"].get_fdata())


def test_confounds_beside_a_design_are_not_used_and_said_not_to_be(cohort):
    """By nilearn's function and its model alike; here the function had appended them, the model had not."""
    z = np.random.default_rng(1).standard_normal(12)
    confounds = pd.DataFrame({"subject_label": cohort.names, "z": z})
    named = {"mask": cohort.mask_img, "n_perm": 20, "random_state": 0, "threshold": 0.1}
    theirs = quiet(nilearn_inference, cohort.paths, confounds, cohort.design, "age", n_jobs=1, **named)
    with pytest.warns(UserWarning, match="confounds are not used beside design_matrix"):
        found = non_parametric_inference(cohort.paths, confounds, cohort.design, "age", **named)
    np.testing.assert_allclose(found["t"].get_fdata(), theirs["t"].get_fdata(), atol=1e-8)
    with pytest.warns(UserWarning, match="confounds are not used beside design_matrix"):
        model = SecondLevelModel(cohort.mask_img).fit(cohort.paths, confounds, cohort.design)
    ours, theirs = model.compute_contrast("age"), NilearnModel(cohort.mask_img)
    theirs = quiet(theirs.fit, cohort.paths, confounds, cohort.design).compute_contrast("age")
    np.testing.assert_allclose(ours.get_fdata()[cohort.mask], theirs.get_fdata()[cohort.mask], rtol=1e-8, atol=1e-8)


def test_smoothing_equals_nilearn(cohort):
    named = {
        "design_matrix": cohort.design, "second_level_contrast": "age", "smoothing_fwhm": 6, "mask": cohort.mask_img,
        "threshold": 0.1, "n_perm": 20, "random_state": 0,
    }  # fmt: skip
    theirs = quiet(nilearn_inference, cohort.paths, n_jobs=1, **named)
    found = non_parametric_inference(cohort.paths, **named)
    np.testing.assert_allclose(found["t"].get_fdata(), theirs["t"].get_fdata(), atol=1e-5)


def test_every_mask_gives_the_same(cohort, tmp_path):
    path = str(tmp_path / "mask.nii.gz")
    cohort.mask_img.to_filename(path)
    masks = [cohort.mask_img, path, NiftiMasker(cohort.mask_img, standardize=None).fit()]
    named = {"design_matrix": cohort.design, "second_level_contrast": "age", "n_perm": 20, "random_state": 0}
    found = [non_parametric_inference(cohort.paths, mask=mask, **named).get_fdata() for mask in masks]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_images_with_gaps_equal_statsmodels(gappy):
    found = non_parametric_inference(
        gappy.paths, None, gappy.design, "age", mask=gappy.mask_img, threshold=0.1, n_perm=20, random_state=0
    )
    t = found["t"].get_fdata()
    for voxel in map(tuple, np.argwhere(gappy.mask)):
        values = gappy.data[(slice(None), *voxel)].astype(float)
        seen = np.isfinite(values)
        expected = sm.OLS(values[seen], gappy.design.to_numpy()[seen]).fit().tvalues[0]
        np.testing.assert_allclose(t[voxel], expected, atol=1e-8)


def test_threads_change_nothing(masker):
    data, x, _ = smooth_data()
    named = {"masker": masker, "threshold": 0.02, "tfce": True, "n_perm": 40, "random_state": 0}
    one, three = (permuted_ols(x, data, n_jobs=n_jobs, **named) for n_jobs in (1, 3))
    for key in one:
        np.testing.assert_array_equal(one[key], three[key], err_msg=key)


ARRAYS = {
    "few rows": (lambda d: permuted_ols(d.x[:5], d.y), DesignError, r"20 of target_vars.*\(5,\)"),
    "one voxel as a vector": (lambda d: permuted_ols(d.x, d.y[:, 0]), DesignError, r"\(n, V\)"),
    "TFCE without a place": (lambda d: permuted_ols(d.x, d.y, tfce=True), ImageError, "give masker"),
    "clusters without a place": (lambda d: permuted_ols(d.x, d.y, threshold=0.01), ImageError, "give masker"),
    "tested is nuisance": (lambda d: permuted_ols(d.x, d.y, d.x[:, None]), ContrastError, "not estimable"),
    "constant is nuisance": (
        lambda d: permuted_ols(np.ones(N), d.y, np.ones((N, 1))), ContrastError, "not estimable",
    ),
    "zero": (lambda d: permuted_ols(d.x * 0, d.y), ContrastError, "not estimable"),
    "two images": (lambda d: permuted_ols(d.x[:2], d.y[:2]), ContrastError, "degree of freedom"),
    "nothing finite": (lambda d: permuted_ols(d.x, d.y * np.nan, n_perm=9), ImageError, "no voxel"),
    "no voxel": (lambda d: permuted_ols(d.x, d.y[:, :0], n_perm=9), SpaceError, "at least one voxel"),
    "half a rearrangement": (lambda d: permuted_ols(d.x, d.y, n_perm=1.5), ParameterError, "1.5"),
    "negative rearrangements": (lambda d: permuted_ols(d.x, d.y, n_perm=-1), ParameterError, "-1"),
    "z as threshold": (
        lambda d: permuted_ols(d.x, d.y, threshold=3.1, masker=d.space), ParameterError, "between 0 and 1.* 3.1",
    ),
    "no threads": (lambda d: permuted_ols(d.x, d.y, n_jobs=0), ParameterError, "n_jobs"),
    "unknown rearrangement": (lambda d: permuted_ols(d.x, d.y, rearrangement="swap"), ParameterError, "'swap'"),
    "unknown scheme": (lambda d: permuted_ols(d.x, d.y, scheme="friedman"), ParameterError, "'friedman'"),
}  # fmt: skip


class Arrays:
    x = np.random.default_rng(0).standard_normal(N)
    y = np.random.default_rng(1).standard_normal((N, 30))
    space = daskglm.VolumeSpace.from_image(nib.Nifti1Image(np.ones((5, 3, 2), np.uint8), np.eye(4)))


@pytest.mark.parametrize("fault", ARRAYS)
def test_arrays_that_cannot_be_tested(fault):
    call, error, message = ARRAYS[fault]
    with pytest.raises(error, match=message):
        call(Arrays)


IMAGES = {
    "no design": ({"design_matrix": None}, DesignError, "give design_matrix"),
    "unknown regressor": ({"second_level_contrast": "agee"}, ContrastError, "did you mean 'age'"),
    "no contrast": ({"second_level_contrast": None}, ContrastError, "age, male, intercept"),
    "null contrast": ({"second_level_contrast": [0, 0, 0]}, ContrastError, "null"),
    "contrast with NaN": ({"second_level_contrast": [np.nan, 0, 0]}, ContrastError, "finite"),
    "long contrast": ({"second_level_contrast": [1, 0, 0, 0]}, ContrastError, r"\(q, 3\)"),
    "threshold": ({"threshold": 3.1}, ParameterError, "between 0 and 1.* 3.1"),
    "no mask": ({"mask": "/nowhere/mask.nii"}, CorruptImageError, "no such file"),
    "no images": ({"second_level_input": []}, ImageError, "empty"),
    "numbers": ({"second_level_input": [1, 2]}, ImageError, "got int"),
    "no rearrangement": ({"n_perm": -3}, ParameterError, "-3"),
}


@pytest.mark.parametrize("fault", IMAGES)
def test_images_that_cannot_be_tested(cohort, monkeypatch, fault):
    changed, error, message = IMAGES[fault]
    given = {
        "second_level_input": cohort.paths, "design_matrix": cohort.design, "second_level_contrast": "age",
        "mask": cohort.mask_img, "n_perm": 20,
    }  # fmt: skip
    if fault != "threshold":
        monkeypatch.setattr("daskglm.graph.images.read_values", None)  # no image is read
    with pytest.raises(error, match=message):
        non_parametric_inference(**{**given, **changed})


DESIGN_FAULTS = {
    "rows": (lambda c: c.design[:5], "5 rows and there are 12 images"),
    "text": (lambda c: c.design.assign(site="a"), "site of the design are not numeric"),
    "NaN": (lambda c: c.design.assign(age=np.nan), "'age'"),
    "array": (lambda c: c.design.to_numpy(), "DataFrame"),
}  # fmt: skip


@pytest.mark.parametrize("fault", DESIGN_FAULTS)
def test_designs_that_do_not_fit(cohort, monkeypatch, fault):
    make, message = DESIGN_FAULTS[fault]
    monkeypatch.setattr("daskglm.graph.images.read_values", None)
    with pytest.raises(DesignError, match=message):
        non_parametric_inference(cohort.paths, None, make(cohort), "age", mask=cohort.mask_img, n_perm=20)


NOT_TOLD = {
    "negative seed": lambda d: permuted_ols(d.x, d.y, random_state=-1, n_perm=9),
    "text as seed": lambda d: permuted_ols(d.x, d.y, random_state="abc", n_perm=9),
    "half a seed": lambda d: permuted_ols(d.x, d.y, random_state=1.5, n_perm=9),
    "no number of rearrangements": lambda d: permuted_ols(d.x, d.y, n_perm=None),
    "NaN tested": lambda d: permuted_ols(np.where(d.x > 1, np.nan, d.x), d.y, n_perm=9),
    "NaN nuisance": lambda d: permuted_ols(d.x, d.y, d.x[:, None] * np.nan, n_perm=9),
    "short nuisance": lambda d: permuted_ols(d.x, d.y, np.ones((5, 1)), n_perm=9),
    "text tested": lambda d: permuted_ols(["a"] * N, d.y, n_perm=9),
    "text data": lambda d: permuted_ols(d.x, d.y.astype(str), n_perm=9),
    "complex data": lambda d: permuted_ols(d.x, d.y + 1j, n_perm=9),
    "masker of other voxels": lambda d: permuted_ols(d.x, d.y[:, :9], masker=d.space, tfce=True, n_perm=9),
    "masker not fitted": lambda d: permuted_ols(d.x, d.y, masker=NiftiMasker(standardize=None), tfce=True, n_perm=9),
    "masker that is none": lambda d: permuted_ols(d.x, d.y, masker="mask.nii", tfce=True, n_perm=9),
    "text as threshold": lambda d: permuted_ols(d.x, d.y, masker=d.space, threshold="0.01", n_perm=9),
    "unknown TFCE": lambda d: permuted_ols(d.x, d.y, masker=d.space, tfce="steps", n_perm=9),
    "unknown output": lambda d: permuted_ols(d.x, d.y, output_type="list", n_perm=9),
}


@pytest.mark.parametrize("fault", NOT_TOLD)
def test_arrays_that_make_no_sense(fault):
    with pytest.raises(DaskGLMError):
        NOT_TOLD[fault](Arrays)


def test_no_rearrangement_gives_t_alone():
    data, x, _ = smooth_data()
    found = permuted_ols(x, data, n_perm=0)
    theirs = quiet(nilearn_ols, x[:, None], data, n_perm=0, n_jobs=1)
    assert set(found) == {"t"}
    np.testing.assert_allclose(found["t"], theirs["t"], atol=1e-8)


@pytest.mark.parametrize("weights", [[1, 0, 0], [1, 0, 0, 0]])
def test_weights_of_a_regressor_that_is_not_there(cohort, weights):
    with pytest.raises(ContrastError):
        non_parametric_inference(cohort.paths, None, cohort.design[["age", "male"]], weights, n_perm=9)


def test_min_coverage_of_arrays():
    data, x, _ = smooth_data()
    data = data[:, :30].copy()
    data[:12, 3] = np.nan
    found = permuted_ols(x, data, n_perm=9, min_coverage=0.5)
    assert np.isnan(found["t"][0, 3])
