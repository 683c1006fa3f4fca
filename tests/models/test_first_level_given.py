"""What users hand to FirstLevelModel in unusual forms: used as it stands, or refused; never something else."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.maskers import NiftiMasker
from scipy import linalg
from sklearn.base import clone
from test_first_level import AFFINE, TR, Subject, assert_same, models, quiet, values

from daskglm import FirstLevelModel
from daskglm.errors import ContrastError, DesignError, ImageError, NullRegressorError, ParameterError
from daskglm.kernels.noise import _yule_walker


@pytest.fixture
def subject(tmp_path):
    return Subject(tmp_path)


@pytest.fixture
def single(tmp_path):
    return Subject(tmp_path, 1)


@pytest.mark.parametrize("settings", [{"smoothing_fwhm": 6.0}, {"smoothing_fwhm": 5.0, "standardize": "zscore_sample"}])
def test_a_masker_smooths_as_in_nilearn(single, settings):
    ours = NiftiMasker(mask_img=single.mask_img, **settings).fit()
    theirs = NiftiMasker(mask_img=single.mask_img, **settings).fit()
    mine = FirstLevelModel(t_r=TR, mask_img=ours).fit(single.paths, single.events)
    other = quiet(NilearnModel(t_r=TR, mask_img=theirs).fit, single.paths, single.events)
    assert_same(mine, other, [("a - b", "t")], single.mask)


@pytest.mark.parametrize("settings", [{"detrend": True}, {"high_pass": 0.02, "t_r": TR}])
def test_a_masker_that_filters_is_refused(single, settings):
    masker = NiftiMasker(mask_img=single.mask_img, **settings).fit()
    with pytest.raises(ParameterError, match=next(iter(settings))):
        FirstLevelModel(t_r=TR, mask_img=masker).fit(single.paths, single.events)


def test_model_and_masker_that_smooth_differently_are_refused(single):
    masker = NiftiMasker(mask_img=single.mask_img, smoothing_fwhm=6).fit()
    FirstLevelModel(t_r=TR, mask_img=masker, smoothing_fwhm=6).fit(single.paths, single.events)
    with pytest.raises(ParameterError, match="masker"):
        FirstLevelModel(t_r=TR, mask_img=masker, smoothing_fwhm=4).fit(single.paths, single.events)


@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2", "ar3"])
def test_one_voxel_beyond_reason_touches_no_other(single, noise_model):
    mine, _ = models(single, ours={"noise_model": noise_model, "signal_scaling": False})
    data = single.data[0].copy()
    data[1, 0, 1] *= 1e160
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img, noise_model=noise_model, signal_scaling=False)
    found = model.fit(nib.Nifti1Image(data, AFFINE), single.events).compute_contrast("a").get_fdata()
    assert np.isnan(found[1, 0, 1])
    expected = mine.compute_contrast("a").get_fdata()
    expected[1, 0, 1] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_levinson_equals_scipy_and_the_pseudo_inverse_where_it_must_stop():
    rng = np.random.default_rng(0)
    for order in (1, 2, 3, 5):
        covariances = 0.6 ** np.arange(order + 1)[:, None] * rng.uniform(0.5, 2, (order + 1, 40))
        expected = [linalg.solve_toeplitz(r[:-1], r[1:]) for r in covariances.T]
        np.testing.assert_allclose(_yule_walker(covariances), np.array(expected).T, rtol=1e-7)
    stopped = np.array([[1.0, 1.0, 0.5, 0.25], [2.0, -2.0, 2.0, -2.0]]).T
    expected = [np.linalg.pinv(linalg.toeplitz(r[:-1])) @ r[1:] for r in stopped.T]
    np.testing.assert_allclose(_yule_walker(stopped), np.array(expected).T, atol=1e-12)


def test_a_model_holds_the_volumes_of_its_runs(subject):
    keep = np.ones(70, bool)
    keep[[3, 4, 40]] = False
    arguments = {"t_r": TR, "mask_img": subject.mask_img}
    explicit = FirstLevelModel(**arguments).fit(
        subject.paths, subject.events, subject.confounds, sample_masks=[keep, None]
    )
    expected = explicit.compute_contrast("a - b").get_fdata()
    held = FirstLevelModel(**arguments, sample_masks=dict(zip(subject.paths, (keep, None), strict=True)))
    for runs in (subject.paths, [nib.load(path) for path in subject.paths]):
        model = clone(held).fit(runs, subject.events, subject.confounds)
        np.testing.assert_array_equal(model.compute_contrast("a - b").get_fdata(), expected)
    # By the run, not by its place.
    backwards = held.fit(subject.paths[::-1], subject.events[::-1], subject.confounds[::-1])
    assert [len(design) for design in backwards.design_matrices_] == [70, 67]
    assert len(held.fit(subject.paths[0], subject.events[0]).design_matrices_[0]) == 67
    assert len(held.fit(subject.paths[0], subject.events[0], sample_masks=[None]).design_matrices_[0]) == 70
    other = nib.Nifti1Image(subject.data[0], np.eye(4))
    with pytest.raises(ParameterError, match="run 1 is an image in memory; give fit sample_masks"):
        held.fit(other, subject.events[0])
    with pytest.raises(ParameterError, match="has 60 for 70"):
        held.set_params(sample_masks={subject.paths[0]: keep[:60]}).fit(subject.paths[0], subject.events[0])
    with pytest.raises(ParameterError, match="1 for 2 runs"):
        held.set_params(sample_masks=[keep]).fit(subject.paths, subject.events)


def test_tables_of_the_kept_volumes_alone_are_refused(single):
    kept = np.r_[0:3, 5:70]
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img)
    with pytest.raises(DesignError, match=r"68 rows for 70 volumes.*keep the rows"):
        model.fit(single.paths, single.events, single.confounds[0].iloc[kept], [kept])
    design = model.fit(single.paths, single.events).design_matrices_[0]
    with pytest.raises(DesignError, match=r"68 for 70; keep the rows"):
        FirstLevelModel(mask_img=single.mask_img).fit(
            single.paths, sample_masks=[kept], design_matrices=design.iloc[kept]
        )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.r_[np.zeros(9, int), np.ones(61, int)], "make it bool"),
        (np.ones((70, 1), bool), r"shape \(70, 1\)"),
        ([], r"shape \(0,\)"),
        (np.ones(69, bool), "69 for 70"),
    ],
)
def test_sample_masks_that_are_none(single, mask, message):
    with pytest.raises(ParameterError, match=message):
        FirstLevelModel(t_r=TR, mask_img=single.mask_img).fit(single.paths, single.events, sample_masks=[mask])


def test_tables_of_volumes_that_were_sorted_are_refused(single):
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img)
    table = single.confounds[0]
    with pytest.raises(DesignError, match=r"confounds of run 1 .* does not ascend; sort them \(sort_index\)"):
        model.fit(single.paths, single.events, [table.sort_values(table.columns[0])])
    z = model.fit(single.paths, single.events, [table]).compute_contrast("a").get_fdata()
    design = model.design_matrices_[0]
    with pytest.raises(DesignError, match=r"the design matrix .* does not ascend"):
        FirstLevelModel(mask_img=single.mask_img).fit(single.paths, design_matrices=[design.sort_values("a")])
    # Two tables, one under the other, have each number twice.
    halves = pd.concat([table.iloc[:10].reset_index(drop=True), table.iloc[10:].reset_index(drop=True)])
    np.testing.assert_array_equal(model.fit(single.paths, single.events, [halves]).compute_contrast("a").get_fdata(), z)


def test_weights_with_names_belong_to_the_names(single):
    mine, _ = models(single)
    expected = mine.compute_contrast("b - a").get_fdata()
    for named in (pd.Series({"b": 1.0, "a": -1.0}), pd.DataFrame([[-1.0, 1.0]], columns=["a", "b"])):
        assert np.array_equal(mine.compute_contrast(named).get_fdata(), expected)
    row = np.zeros(mine.design_matrices_[0].shape[1])
    row[:2] = -1, 1
    assert np.array_equal(mine.compute_contrast(pd.Series(row)).get_fdata(), expected)
    with pytest.raises(ContrastError, match="name d;"):
        mine.compute_contrast(pd.Series({"d": 1.0}))
    for nothing in (None, 5):
        with pytest.raises(ContrastError, match="expression or an array"):
            mine.compute_contrast(nothing)


def test_a_condition_outside_a_run_leaves_that_run_out(subject):
    late = subject.events[1].copy()
    late.loc[late["trial_type"] == "b", "onset"] += 5000
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img)
    mine = quiet(model.fit, subject.paths, [subject.events[0], late])
    with pytest.warns(UserWarning, match="runs 2, which are left out: .*b is zero throughout"):
        found = mine.compute_contrast("a - b")
    alone = FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(subject.paths[0], subject.events[0])
    assert np.array_equal(found.get_fdata(), alone.compute_contrast("a - b").get_fdata())
    one = quiet(FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit, subject.paths[1], late)
    with pytest.raises(NullRegressorError, match="b is zero throughout"):
        one.compute_contrast("a - b")


def test_a_misspelt_expression_in_a_list_is_an_error(subject):
    mine, _ = models(subject)
    with pytest.raises(ContrastError, match=r"run 2: .*zzz"):
        mine.compute_contrast(["a - b", "zzz"])


def test_an_affine_changed_in_memory_is_the_one_that_counts(single):
    image = nib.load(single.paths[0])
    image.set_sform(np.diag([2.0, 2, 2, 1]))
    model = FirstLevelModel(t_r=TR, mask_img=False, smoothing_fwhm=5).fit(image, single.events)
    found = model.compute_contrast("a")
    other = quiet(NilearnModel(t_r=TR, mask_img=False, smoothing_fwhm=5).fit, image, single.events)
    expected = quiet(other.compute_contrast, "a")
    assert np.array_equal(found.affine, expected.affine)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=1e-7)


def test_a_pattern_gives_runs_in_the_order_of_their_numbers(tmp_path):
    subject = Subject(tmp_path, 11)
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, noise_model="ols")
    found = model.fit(str(tmp_path / "run-*_bold.nii.gz"), subject.events).compute_contrast("a").get_fdata()
    expected = model.fit(subject.paths, subject.events).compute_contrast("a").get_fdata()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("value", "told"), [(np.nan, "no finite value"), (0.0, "is 0 in all"), (812.5, "is 812.5 in")])
@pytest.mark.parametrize("smoothing_fwhm", [None, 4.0])
def test_a_volume_without_values_can_be_left_out(single, value, told, smoothing_fwhm):
    data = single.data[0].copy()
    data[..., 7] = value
    path = single.paths[0]
    nib.Nifti1Image(data, AFFINE).to_filename(path)
    keep = np.setdiff1d(np.arange(70), [7])
    for mask in (single.mask_img, False):
        model = FirstLevelModel(t_r=TR, mask_img=mask, smoothing_fwhm=smoothing_fwhm)
        for run in (path, nib.Nifti1Image(data, AFFINE)):
            with pytest.raises(ImageError, match=rf"volume 7 of .*{told}.*sample_masks"):
                model.fit(run, single.events)
        model.fit(path, single.events, sample_masks=[keep])


def test_a_run_that_was_cut_short_is_refused_with_all_its_volumes(single):
    data = single.data[0].copy()
    data[..., 66:] = 0
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img)
    with pytest.raises(ImageError, match=r"volume 66 .* is 0 in all .*\(and so are volumes 67, 68, 69\)"):
        model.fit(nib.Nifti1Image(data, AFFINE), single.events)


def test_a_volume_that_lacks_slices_is_told(single):
    data = single.data[0].copy()
    data[..., 2:, 69] = 0  # the acquisition stopped within the last volume
    data[1, 0, 1] = 0  # a voxel that no volume has
    told = rf"volumes 69 of an image in memory are exactly 0 at up to {single.mask[..., 2:].sum()} of 60 voxels"
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img)
    with pytest.warns(UserWarning, match=told):
        model.fit(nib.Nifti1Image(data, AFFINE), single.events)
    model.fit(nib.Nifti1Image(data, AFFINE), single.events, sample_masks=[np.arange(69)])


def test_the_mask_is_computed_from_the_finite_volumes():
    rng = np.random.default_rng(0)
    grid = np.indices((20, 20, 20)) - 9.5
    brain = (grid**2).sum(axis=0) < 64
    data = np.where(brain, 1000.0, 5.0)[..., None] + rng.standard_normal((20, 20, 20, 20))
    keep = np.setdiff1d(np.arange(20), [7])
    events = pd.DataFrame({"onset": [5.0, 21.0], "duration": [4.0, 4.0], "trial_type": ["a", "a"]})
    expected = FirstLevelModel(t_r=TR).fit(nib.Nifti1Image(data, AFFINE), events, sample_masks=[keep])
    data[..., 7] = np.nan
    found = FirstLevelModel(t_r=TR).fit(nib.Nifti1Image(data, AFFINE), events, sample_masks=[keep])
    assert 0.9 * brain.sum() < found.n_elements_ < 1.1 * brain.sum()
    a, b = (model.compute_contrast("a").get_fdata() for model in (found, expected))
    assert np.array_equal(a, b)


def test_parameters_that_change_nothing_are_told(single):
    design = models(single)[0].design_matrices_[0]
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img, hrf_model="fir", fir_delays=[1, 2], high_pass=0.1)
    with pytest.warns(UserWarning, match="do not depend on t_r, hrf_model, high_pass, fir_delays"):
        model.fit(single.paths, design_matrices=design)
    with pytest.warns(UserWarning, match="standardize"):
        FirstLevelModel(t_r=TR, mask_img=single.mask_img, standardize=True).fit(single.paths, single.events)


def test_the_repetition_time_of_a_file_is_compared(single):
    image = nib.load(single.paths[0])
    image = nib.Nifti1Image(single.data[0], AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 3.0
    image.to_filename(single.paths[0])
    with pytest.warns(UserWarning, match="says 3 s"):
        FirstLevelModel(t_r=TR, mask_img=single.mask_img).fit(single.paths, single.events)


def test_shapes_of_maps_are_those_of_nilearn(single):
    mine, other = models(single)
    for contrast, kind in (("a - b", "t"), ("a - b", "F"), ("a, b", "F")):
        given = contrast if kind == "t" or "," not in contrast else np.eye(mine.design_matrices_[0].shape[1])[:2]
        ours, theirs = (model.compute_contrast(given, kind, "effect_size") for model in (mine, other))
        assert ours.shape == theirs.shape
        assert values(ours, single.mask).shape == values(theirs, single.mask).shape


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_a_run_in_which_nothing_varies_is_nan_and_told(noise_model):
    """nilearn fits it; a contrast is over the runs that vary."""
    rng = np.random.default_rng(0)
    varies = nib.Nifti1Image(100 + rng.standard_normal((3, 3, 2, 30)), AFFINE)
    still = nib.Nifti1Image(np.repeat(varies.slicer[..., :1].get_fdata(), 30, axis=3), AFFINE)
    design = pd.DataFrame({"a": rng.standard_normal(30), "constant": 1.0})
    how = {"mask_img": False, "noise_model": noise_model, "signal_scaling": False}
    with pytest.warns(UserWarning, match="all maps of the run are NaN: no voxel of run 1 varies"):
        alone = FirstLevelModel(**how).fit(still, design_matrices=design)
    assert all(np.isnan(item.get_fdata()[..., 0]).all() for item in (alone.predicted_[0], alone.residuals_[0]))
    for image in alone.compute_contrast("a", output_type="all").values():
        assert np.isnan(image.get_fdata()).all()
    with pytest.warns(UserWarning, match="no voxel of run 2 varies"):
        both = FirstLevelModel(**how).fit([varies, still], design_matrices=[design] * 2)
    one = FirstLevelModel(**how).fit(varies, design_matrices=design)
    np.testing.assert_array_equal(*(model.compute_contrast("a").get_fdata() for model in (both, one)))
    # Nothing to be told of, but a fault of the file.
    broken = varies.get_fdata().copy()
    broken[..., 3] = np.nan
    with pytest.raises(ImageError, match=r"volume 3|finite throughout"):
        FirstLevelModel(**how).fit(nib.Nifti1Image(broken, AFFINE), design_matrices=design)
    with pytest.raises(ImageError, match="is 6 in all 18 voxels"):
        FirstLevelModel(**how).fit(nib.Nifti1Image(np.full(broken.shape, 6.0), AFFINE), design_matrices=design)
    broken = varies.get_fdata().copy()
    broken[::2, ..., 3], broken[1::2, ..., 4] = np.nan, np.inf
    with pytest.raises(ImageError, match="no voxel of run 1 is finite throughout"):
        FirstLevelModel(**how).fit(nib.Nifti1Image(broken, AFFINE), design_matrices=design)
