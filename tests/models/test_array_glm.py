"""nilearn's functions on arrays, and its names on models: equal to nilearn's own."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.contrasts import compute_contrast as nilearn_contrast
from nilearn.glm.contrasts import expression_to_contrast_vector as nilearn_vector
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.glm.first_level import glover_dispersion_derivative as nilearn_derivative
from nilearn.glm.first_level import mean_scaling as nilearn_scaling
from nilearn.glm.first_level import run_glm as nilearn_glm
from nilearn.glm.second_level import SecondLevelModel as NilearnSecondLevel
from nilearn.maskers import NiftiMasker
from numpy.testing import assert_allclose

import daskglm
from daskglm.errors import ContrastError, DesignError, DesignTypeError, ImageTypeError, ParameterError

N, V, P = 80, 40, 5


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    design = np.column_stack([rng.standard_normal((N, P - 1)), np.ones(N)])
    noise = rng.standard_normal((N, V))
    for row in range(1, N):
        noise[row] += 0.4 * noise[row - 1]
    return 100 + noise, design


@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2"])
def test_run_glm_is_nilearns(arrays, noise_model):
    data, design = arrays
    labels, results = daskglm.run_glm(data, design, noise_model, bins=10, random_state=0)
    theirs, of_labels = nilearn_glm(data, design, noise_model, bins=10, random_state=0)
    assert [str(a)[:6] for a in labels] == [str(a)[:6] for a in theirs] or noise_model == "ar2"
    for weights in (np.eye(P)[1], np.eye(P)[:3], np.eye(P)[0] - np.eye(P)[1]):
        ours = daskglm.compute_contrast(labels, results, weights)
        expected = nilearn_contrast(theirs, of_labels, weights)
        for name in ("effect_size", "effect_variance", "stat", "p_value", "one_minus_pvalue", "z_score"):
            assert_allclose(getattr(ours, name)(), getattr(expected, name)(), rtol=1e-7, atol=1e-9, err_msg=name)
    label, expected = labels[0], of_labels[theirs[0]]
    t, f = results[label].Tcontrast(np.eye(P)[1]), results[label].Fcontrast(np.eye(P)[:3])
    np.testing.assert_allclose(t.t, expected.Tcontrast(np.eye(P)[1]).t.ravel(), rtol=1e-7)
    np.testing.assert_allclose(f.F, expected.Fcontrast(np.eye(P)[:3]).F.ravel(), rtol=1e-7)
    assert_allclose(results[label].theta, expected.theta, rtol=1e-8)
    assert_allclose(results[label].dispersion, expected.dispersion, rtol=1e-8)
    assert_allclose(results[label].cov, expected.cov, rtol=1e-8, atol=1e-12)
    assert results[label].df_residuals == expected.df_residuals == N - P
    assert results[label].model.order == (0 if noise_model == "ols" else int(noise_model[2]))


def test_contrasts_add_up_as_nilearns(arrays):
    data, design = arrays
    ours = daskglm.compute_contrast(*daskglm.run_glm(data, design, "ols"), np.eye(P)[0])
    theirs = nilearn_contrast(*nilearn_glm(data, design, "ols"), np.eye(P)[0])
    both, expected = (ours + ours * 2) / 3, (theirs + theirs * 2) * (1 / 3)
    assert_allclose(both.z_score(), expected.z_score(), rtol=1e-8)
    assert both.dof == 2 * (N - P)
    with pytest.raises(ContrastError, match="add up have one type"):
        ours + daskglm.compute_contrast(*daskglm.run_glm(data, design, "ols"), np.eye(P)[:2])
    assert np.isnan(daskglm.Contrast(np.ones(2), np.array([0.0, 1.0])).stat()).tolist() == [True, False]


def test_what_cannot_be_fitted_or_tested_is_refused(arrays):
    data, design = arrays
    with pytest.raises(DesignError, match=r"\(79, 5\) and \(80, 40\)"):
        daskglm.run_glm(data, design[1:])
    with pytest.raises(DesignError, match=r"\(80, 5\) and \(80,\)"):
        daskglm.run_glm(data[:, 0], design)
    with pytest.raises(ParameterError, match="arfoo"):
        daskglm.run_glm(data, design, "arfoo")
    twice = np.column_stack([design, design[:, 0]])
    with pytest.raises(ContrastError, match="not estimable"):
        daskglm.compute_contrast(*daskglm.run_glm(data, twice, "ols"), np.eye(P + 1)[0])
    with pytest.raises(ContrastError, match="2 rows"):
        daskglm.expression_to_contrast_vector("a, b", ["a", "b"])
    with pytest.warns(UserWarning, match="saturates 5 volumes"):
        _, results = daskglm.run_glm(data[:5], design[:5], "ar1")
    assert np.isnan(results[0.0].dispersion).all()
    with pytest.warns(UserWarning, match="ar1 is estimated from 1 degrees of freedom"):
        labels, results = daskglm.run_glm(data[:6], design[:6], "ar1", bins=None)
    assert_allclose(
        [results[label].dispersion[0] for label in labels[:3]],
        [
            nilearn_glm(data[:6, k : k + 1], design[:6], "ar1", bins=10**6)[1].popitem()[1].dispersion[0]
            for k in range(3)
        ],
        rtol=1e-4,
    )


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_mean_scaling_is_nilearns(arrays, axis):
    data, _ = arrays
    scaled, mean = daskglm.mean_scaling(data, axis)
    if axis == 1:  # nilearn's does not broadcast
        expected, of_rows = nilearn_scaling(data.T, 0)
        assert_allclose(scaled, expected.T)
        assert_allclose(mean, of_rows)
    else:
        expected, of_them = nilearn_scaling(data, axis)
        assert_allclose(scaled, expected)
        assert_allclose(mean, of_them)
    with pytest.warns(UserWarning, match="means are under 1"):
        daskglm.mean_scaling(data - data.mean(), axis)


def test_expressions_and_responses_are_nilearns():
    columns = ["a", "face", "house", "window"]
    for expression in ("face / 10 + (window - face) * 2 - house", "face"):
        expected = nilearn_vector(expression, columns)
        assert_allclose(daskglm.expression_to_contrast_vector(expression, columns), expected)
    # A whole name comes first, as in nilearn.
    assert_allclose(daskglm.expression_to_contrast_vector("a - b", ["a", "b", "a - b"]), [0, 0, 1])
    assert_allclose(daskglm.glover_dispersion_derivative(2.0), nilearn_derivative(2.0), rtol=1e-12, atol=1e-15)


@pytest.fixture
def images():
    rng = np.random.default_rng(5)
    inside = np.zeros((5, 6, 7), np.uint8)
    inside[1:4, 1:5, 2:6] = 1
    runs = [nib.Nifti1Image(100 + rng.standard_normal((5, 6, 7, n)), np.eye(4)) for n in (30, 32)]
    designs = [pd.DataFrame(rng.standard_normal((n, 3)), columns=list("abc")) for n in (30, 32)]
    return nib.Nifti1Image(inside, np.eye(4)), runs, designs


def theta_image(model, labels, results):
    """The coefficients of the second regressor, on the grid: voxels are in Fortran's order here, in C's in nilearn."""
    values = np.empty(len(labels))
    for label, result in results.items():
        values[np.asarray(labels) == label] = result.theta[1]
    if isinstance(model, daskglm.FirstLevelModel):
        return model.space_.to_image(values, outside=0).get_fdata()
    return model.masker_.inverse_transform(values).get_fdata()


@pytest.mark.filterwarnings("ignore:.*Generation of a mask has been requested:RuntimeWarning")
def test_a_first_level_model_has_nilearns_attributes(images):
    mask, runs, designs = images
    ours = daskglm.FirstLevelModel(mask_img=mask, noise_model="ols").fit(runs, design_matrices=designs)
    theirs = NilearnModel(mask_img=mask, noise_model="ols", standardize=None).fit(runs, design_matrices=designs)
    for k in range(2):
        found = theta_image(ours, ours.labels_[k], ours.results_[k])
        assert_allclose(found, theta_image(theirs, theirs.labels_[k], theirs.results_[k]), rtol=1e-8, atol=1e-10)
    assert_allclose(ours.masker_.transform(ours.predicted_[0]), theirs.masker_.transform(ours.predicted_[0]))
    with pytest.warns(FutureWarning, match="use residuals_"):
        assert len(ours.residuals) == 2
    labels = daskglm.FirstLevelModel(mask_img=mask).fit(runs, design_matrices=designs).labels_[0]
    assert len(set(labels)) > 1
    given = NiftiMasker(mask, standardize=None).fit()
    assert daskglm.FirstLevelModel(mask_img=given).fit(runs, design_matrices=designs).masker_ is given


def test_a_second_level_model_has_nilearns_attributes(images):
    mask, runs, _ = images
    maps = [run.slicer[..., k] for run in runs for k in range(4)]
    design = pd.DataFrame({"x": np.arange(8.0), "intercept": 1.0})
    ours = daskglm.SecondLevelModel(mask_img=mask).fit(maps, design_matrix=design)
    theirs = NilearnSecondLevel(mask_img=mask).fit(maps, design_matrix=design)
    theirs.compute_contrast("x")
    assert ours.labels_.tolist() == theirs.labels_.tolist()
    assert_allclose(
        np.sort(ours.results_[0.0].theta, axis=1), np.sort(theirs.results_[0.0].theta, axis=1), rtol=1e-3, atol=1e-4
    )
    with pytest.warns(FutureWarning, match="use predicted_"), pytest.raises(AttributeError):
        _ = ours.predicted


def test_the_same_image_in_memory_several_times_is_warned_of(images):
    mask, runs, _ = images
    design = pd.DataFrame({"intercept": np.ones(3)})
    image = runs[0].slicer[..., 0]
    with pytest.warns(UserWarning, match="2 of 3 images in memory are given more than once"):
        daskglm.SecondLevelModel(mask_img=mask).fit([image] * 3, design_matrix=design)
    with pytest.warns(UserWarning, match="rank 3 saturates 3 images"):
        model = daskglm.SecondLevelModel(mask_img=mask).fit(
            [run.slicer[..., k] for k, run in enumerate([*runs, runs[0]])],
            design_matrix=pd.DataFrame(np.eye(3), columns=list("abc")),
        )
    assert np.isnan(model.compute_contrast("a").get_fdata()[np.asarray(mask.dataobj, bool)]).all()


def test_inputs_of_a_wrong_type_are_type_errors(images):
    _, runs, _ = images
    with pytest.raises(ImageTypeError, match="but got int"):
        daskglm.SecondLevelModel().fit([1, 2])
    with pytest.raises(DesignTypeError, match="a table is a DataFrame or a path"):
        daskglm.SecondLevelModel().fit([image.slicer[..., 0] for image in runs], design_matrix=["foo"])
    with pytest.raises(ImageTypeError, match="paths or nibabel images"):
        daskglm.FirstLevelModel(t_r=2.0).fit([3, 4])
    for wrong in (ImageTypeError, DesignTypeError):
        assert issubclass(wrong, TypeError)
        assert issubclass(wrong, ValueError)


def test_events_as_a_path(tmp_path):
    events = pd.DataFrame({"trial_type": ["go", "stop"], "onset": [1.0, 9.0], "duration": [2.0, 2.0]})
    events.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    events.to_csv(tmp_path / "events.csv", index=False)
    times = np.arange(20.0)
    expected = daskglm.make_first_level_design_matrix(times, events)
    for name in ("events.tsv", "events.csv"):
        pd.testing.assert_frame_equal(daskglm.make_first_level_design_matrix(times, tmp_path / name), expected)
    with pytest.raises(DesignError, match=r"cannot read the table of events .*absent\.tsv"):
        daskglm.make_first_level_design_matrix(times, tmp_path / "absent.tsv")
    fir = {"hrf_model": "fir", "drift_model": None}
    whole = daskglm.make_first_level_design_matrix(times, events, fir_delays=[0, 1], oversampling=50, **fir)
    floats = daskglm.make_first_level_design_matrix(times, events, fir_delays=[0.0, 1.0], oversampling=50.0, **fir)
    pd.testing.assert_frame_equal(whole, floats)
    extra = pd.DataFrame(np.random.default_rng(0).standard_normal((20, 2)))
    assert daskglm.make_first_level_design_matrix(times, add_regs=extra).columns.tolist()[:2] == [0, 1]
