"""Contrasts over the runs of a subject: which they are, and the joint test of F, against statsmodels and nilearn."""

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from scipy import linalg, stats

from daskglm import FirstLevelModel, SecondLevelModel
from daskglm.errors import ContrastError
from daskglm.models.fixed_effects import contrast_over_runs, independent_rows

SHAPE, TR = (4, 3, 2), 2.0
N_VOXELS = int(np.prod(SHAPE))
MASK = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))


def a_run(rng, n, sd, trial_types=("face", "house", "tool")):
    """Image and events of a run; the noise has standard deviation sd."""
    onsets = np.sort(rng.uniform(0, (n - 10) * TR, 12)).round(1)
    events = pd.DataFrame({"onset": onsets, "duration": 3.0, "trial_type": np.resize(trial_types, 12)})
    data = 100 + sd * rng.standard_normal((*SHAPE, n))
    return nib.Nifti1Image(data, np.eye(4)), events


def fitted(runs, noise_model="ols"):
    model = FirstLevelModel(t_r=TR, mask_img=MASK, noise_model=noise_model, signal_scaling=False)
    return model.fit([image for image, _ in runs], [events for _, events in runs])


@pytest.fixture
def unequal():
    """Three runs: the second is short and noisy, the third quiet."""
    rng = np.random.default_rng(5)
    return [a_run(rng, n, sd) for n, sd in ((60, 1.0), (40, 6.0), (90, 0.3))]


def values(model, contrast, kind="stat", **how):
    image = np.asarray(model.compute_contrast(contrast, output_type=kind, **how).dataobj)
    return image.reshape(N_VOXELS, -1, order="F").squeeze()


def whitened(model, run, data, v):
    """Design and data of a voxel, whitened as nilearn's AR(1), and the residual variance."""
    x, y = model.design_matrices_[run].to_numpy(), data[v]
    if model.noise_model == "ar1":
        e = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        rho = np.trunc((e[1:] @ e[:-1] / (len(y) - 1)) / (e @ e / len(y)) * 100) / 100
        w = np.eye(len(y)) - rho * np.eye(len(y), k=-1)
        x, y = w @ x, w @ y
    return x, y, np.linalg.lstsq(x, y, rcond=None)[1][0] / (len(y) - x.shape[1])


def stacked_gls(model, runs, rows, v):
    """statsmodels' F of the mean over runs of the first three regressors' combinations, all runs in one model."""
    parts = [
        whitened(model, k, np.asarray(image.dataobj).reshape(N_VOXELS, -1, order="F"), v)
        for k, (image, _) in enumerate(runs)
    ]
    sigma = np.concatenate([np.full(len(y), variance) for _, y, variance in parts])
    result = sm.GLS(np.concatenate([y for _, y, _ in parts]), linalg.block_diag(*[x for x, _, _ in parts]), sigma).fit()
    contrast = np.hstack([np.pad(rows, ((0, 0), (0, x.shape[1] - 3))) / len(parts) for x, _, _ in parts])
    return result.f_test(contrast)


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
@pytest.mark.parametrize(
    ("contrast", "rows"),
    [
        ("face, house", [[1, 0, 0], [0, 1, 0]]),
        ("face - house, house - tool", [[1, -1, 0], [0, 1, -1]]),
        ("face, house, tool", np.eye(3)),
    ],
)
def test_f_over_runs_is_the_joint_test_of_one_stacked_model(unequal, noise_model, contrast, rows):
    model = fitted(unequal, noise_model)
    maps = {kind: values(model, contrast, kind) for kind in ("stat", "p_value", "effect_size", "effect_variance")}
    for v in (0, 7, 23):
        expected = stacked_gls(model, unequal, np.array(rows, float), v)
        np.testing.assert_allclose(maps["stat"][v], expected.fvalue, rtol=1e-9)
        np.testing.assert_allclose(maps["p_value"][v], expected.pvalue, rtol=1e-7)
    assert maps["effect_size"].shape == (N_VOXELS, len(rows))
    again = (maps["effect_size"] ** 2).sum(axis=1) / len(rows) / maps["effect_variance"]
    np.testing.assert_allclose(maps["stat"], again, rtol=1e-9)


def test_f_weighted_by_precision(unequal):
    model = fitted(unequal)
    found = values(model, "face, house", precision_weighted=True)
    for v in (0, 11):
        information, weighted, freedom = np.zeros((2, 2)), np.zeros(2), 0
        for k, (image, _) in enumerate(unequal):
            x, y, variance = whitened(model, k, np.asarray(image.dataobj).reshape(N_VOXELS, -1, order="F"), v)
            precision = np.linalg.inv(variance * np.linalg.inv(x.T @ x)[:2, :2])
            information += precision
            weighted += precision @ np.linalg.lstsq(x, y, rcond=None)[0][:2]
            freedom += len(y) - x.shape[1]
        expected = weighted @ np.linalg.solve(information, weighted) / 2
        np.testing.assert_allclose(found[v], expected, rtol=1e-9)
        p = values(model, "face, house", "p_value", precision_weighted=True)[v]
        np.testing.assert_allclose(p, stats.f.sf(expected, 2, freedom), rtol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_f_of_one_row_is_the_square_of_t(unequal, weighted):
    model = fitted(unequal)
    f = values(model, "face - house", stat_type="F", precision_weighted=weighted)
    np.testing.assert_allclose(f, values(model, "face - house", precision_weighted=weighted) ** 2, rtol=1e-9)


def test_f_over_runs_depends_on_what_is_tested_not_how_it_is_written(unequal):
    model = fitted(unequal)
    expected = values(model, "face, house")
    for same in ("face + house, face - house", "1e6 * face, face + house", "face, house, face - house"):
        np.testing.assert_allclose(values(model, same), expected, rtol=1e-8)


def test_f_over_the_runs_that_have_a_voxel(unequal):
    image = np.asarray(unequal[1][0].dataobj).copy()
    image[0, 0, 0] = 5.0
    unequal[1] = (nib.Nifti1Image(image, np.eye(4)), unequal[1][1])
    found = values(fitted(unequal), "face, house")
    without = [unequal[0], unequal[2]]
    expected = values(fitted(without), "face, house")
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    assert abs(found[1] / expected[1] - 1) > 0.01


@pytest.mark.parametrize("contrast", ["face - house", "face, house"])
def test_degrees_of_freedom_are_those_of_the_runs_that_have_a_voxel(unequal, contrast):
    image = np.asarray(unequal[1][0].dataobj).copy()
    image[0, 0, 0] = 5.0
    unequal[1] = (nib.Nifti1Image(image, np.eye(4)), unequal[1][1])
    model = fitted(unequal)
    by_run = [design.shape[0] - design.shape[1] for design in model.design_matrices_]
    stat, p = (values(model, contrast, kind) for kind in ("stat", "p_value"))
    for voxel, freedom in ((0, by_run[0] + by_run[2]), (1, sum(by_run))):
        tail = stats.f.sf(stat[voxel], 2, freedom) if "," in contrast else stats.t.sf(stat[voxel], freedom)
        np.testing.assert_allclose(p[voxel], tail, rtol=1e-8)
        maps = contrast_over_runs(model.fits_, contrast)
        assert maps["degrees_of_freedom"].values[voxel] == freedom


@pytest.mark.parametrize("approximate", [False, True])
def test_dependent_rows_are_no_degrees_of_freedom(unequal, approximate):
    model = fitted(unequal)
    written = "face - house, house - tool, face - tool"  # two independent ones
    stat, p = (values(model, written, kind, approximate_f=approximate) for kind in ("stat", "p_value"))
    freedom = sum(design.shape[0] - design.shape[1] for design in model.design_matrices_)
    np.testing.assert_allclose(p, stats.f.sf(stat, 2, freedom), rtol=1e-8)


def test_rows_are_independent_whatever_their_units():
    assert independent_rows(np.array([[1e18, 0, 0], [0, 1, 0], [1e18, 1, 0], [0, 0, 1e-18]])) == [0, 1, 3]


@pytest.mark.parametrize(
    "contrast",
    [["face, house", "face, house, face - house", "face, house"], ["face, house", "face, 2 * face", "face, house"]],
)
def test_a_contrast_has_the_same_rows_in_every_run(unequal, contrast):
    with pytest.raises(ContrastError, match="as many rows in every run, and as many that are independent"):
        fitted(unequal).compute_contrast(contrast)


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_nilearns_mean_of_f_is_there_for_comparison(unequal, noise_model):
    ours = fitted(unequal, noise_model)
    theirs = NilearnModel(t_r=TR, mask_img=MASK, noise_model=noise_model, signal_scaling=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit([image for image, _ in unequal], [events for _, events in unequal])
        rows = [np.eye(len(design.columns))[:2] for design in theirs.design_matrices_]
        expected = np.asarray(theirs.compute_contrast(rows, output_type="stat").dataobj).ravel(order="F")
    found = values(ours, "face, house", approximate_f=True)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    ratio = values(ours, "face, house") / expected
    assert np.ptp(ratio) > 0.1


@pytest.fixture
def other_names():
    """Two runs: the second column is of houses in one, of tools in the other."""
    rng = np.random.default_rng(2)
    return [a_run(rng, 60, 1.0, ("face", "house")), a_run(rng, 60, 1.0, ("face", "tool"))]


@pytest.mark.parametrize(
    "contrast", [np.array([1.0, -1]), [1, -1], np.eye(2), [np.array([1.0, -1])], np.array([0.0, 1]), "1 -1", "[0, 1]"]
)
@pytest.mark.filterwarnings("ignore:the contrast has")
def test_weights_by_position_are_refused_where_they_mean_other_regressors(other_names, contrast):
    model = fitted(other_names)
    with pytest.raises(ContrastError, match=r"house in run 1 and of .*tool in run 2; give an expression"):
        model.compute_contrast(contrast)


def test_weights_by_position_where_the_names_with_weight_agree(other_names):
    model = fitted(other_names)
    width = len(model.design_matrices_[0].columns)
    first = np.eye(width)[0]
    expected = values(model, "face")
    np.testing.assert_array_equal(values(model, first), expected)
    # One a run says what each means.
    apart = values(model, [np.eye(width)[1]] * 2, "effect_size")
    each = [
        values(fitted([run]), name, "effect_size") for run, name in zip(other_names, ("house", "tool"), strict=True)
    ]
    np.testing.assert_allclose(apart, np.mean(each, axis=0), rtol=1e-8, atol=1e-10)


def test_the_same_columns_in_another_order_are_others(other_names):
    image, table = other_names[0]
    runs = [(image, table), (nib.Nifti1Image(image.get_fdata() + 1, image.affine), table)]
    model = fitted(runs)
    designs = [
        model.design_matrices_[0],
        model.design_matrices_[1][["house", "face", *model.design_matrices_[0].columns[2:]]],
    ]
    swapped = FirstLevelModel(mask_img=MASK, noise_model="ols", signal_scaling=False)
    swapped.fit([image for image, _ in runs], design_matrices=designs)
    with pytest.raises(ContrastError, match="same regressors in every design"):
        swapped.compute_contrast(np.array([1.0, -1] + [0.0] * (len(designs[0].columns) - 2)))
    named = pd.Series({"face": 1.0, "house": -1.0})
    np.testing.assert_allclose(values(swapped, named), values(model, "face - house"), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:.*Generation of a mask has been requested:RuntimeWarning")
def test_designs_with_other_columns_are_told(unequal):
    """nilearn warns of any contrast that serves several runs: here of designs that were given and differ."""
    rng = np.random.default_rng(2)
    images = [image for image, _ in unequal[:2]]
    designs = [
        pd.DataFrame({"a": rng.standard_normal(n), "b": rng.standard_normal(n), "constant": 1.0}) for n in (60, 40)
    ]
    wider = [designs[0], designs[1].assign(new=rng.standard_normal(40))]
    how = {"mask_img": MASK, "noise_model": "ols", "signal_scaling": False}
    model = FirstLevelModel(**how).fit(images, design_matrices=wider)
    theirs = NilearnModel(**how, standardize=None).fit(images, design_matrices=wider)
    with pytest.warns(RuntimeWarning, match="The same contrast will be used for all 2 runs"):
        expected = theirs.compute_contrast("a - b", output_type="stat")
    with pytest.warns(RuntimeWarning, match="serves 2 runs, but not all of their designs have new: .* found by name"):
        found = values(model, "a - b")
    np.testing.assert_allclose(found, expected.get_fdata().ravel(order="F"), rtol=1e-6)
    values(model, [[1, -1, 0], [1, -1, 0, 0]])  # one a run is what was meant
    values(FirstLevelModel(**how).fit(images, design_matrices=designs), "a - b")
    fitted(unequal)  # designs that are made here differ in their drifts
    assert len({len(item.columns) for item in fitted(unequal).design_matrices_}) > 1
    values(fitted(unequal), "face - house")


def test_a_list_holds_contrasts_whatever_the_number_of_runs(unequal):
    one, three = fitted(unequal[:1]), fitted(unequal)
    for model in (one, three):
        np.testing.assert_array_equal(values(model, ["face - house"]), values(model, "face - house"))
        np.testing.assert_array_equal(values(model, ("face, house",)), values(model, "face, house"))
        np.testing.assert_array_equal(values(model, [["face", "house"]]), values(model, "face, house"))
        with pytest.raises(
            ContrastError, match=r"one contrast a run, or one for all runs, but there are 2 .*'face, house'"
        ):
            model.compute_contrast(["face", "house"])
    two = fitted(unequal[:2])
    by_run = values(two, ["face", "house"], "effect_size")
    halves = [values(fitted([run]), name, "effect_size") for run, name in zip(unequal, ("face", "house"), strict=False)]
    np.testing.assert_allclose(by_run, np.mean(halves, axis=0), rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("ignore:the contrast has")
def test_first_level_weights_mean_the_same_in_every_subject(other_names):
    models = []
    for label, run in zip(("01", "02"), other_names, strict=True):
        model = fitted([run])
        model.subject_label = label
        models.append(model)
    second = SecondLevelModel(mask_img=MASK).fit(models, design_matrix=pd.DataFrame({"intercept": [1.0, 1.0]}))
    with pytest.raises(ContrastError, match=r"house in .*01.* and of .*tool in .*02"):
        second.compute_contrast("intercept", first_level_contrast=np.array([1.0, -1.0, 0.0]))
    with pytest.raises(ContrastError, match=r"house in .*01.* and of .*tool in .*02"):
        second.compute_contrast("intercept", first_level_contrast="1 -1 0")
    found = second.compute_contrast("intercept", first_level_contrast=np.array([1.0]), output_type="effect_size")
    for same in ("face", pd.Series({"face": 1.0, "constant": 0.0})):
        again = second.compute_contrast("intercept", first_level_contrast=same, output_type="effect_size")
        np.testing.assert_allclose(found.dataobj, again.dataobj, rtol=1e-12)
