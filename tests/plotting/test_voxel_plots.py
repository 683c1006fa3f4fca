"""One voxel and the carpet: points, lines and bands against statsmodels and nilearn."""

import warnings

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from cohorts import AFFINE
from nilearn.glm.first_level import FirstLevelModel as NilearnModel

import daskglm
from daskglm.errors import ContrastError, ParameterError, StoreError
from daskglm.io import store as store_reading
from daskglm.io import store_writing
from daskglm.models.voxels import images_at, run_at, voxel_at
from daskglm.plotting import plot_residuals_carpet, plot_voxel

GAP = (1, 3, 2)  # a third of the images lack this voxel
TR = 2.0


def mm(index):
    return AFFINE[:3, :3] @ index + AFFINE[:3, 3]


def labelled(axes, start):
    return next(line for line in axes.lines if start in str(line.get_label()))


@pytest.fixture
def model(gappy):
    return daskglm.SecondLevelModel(mask_img=gappy.mask_img).fit(gappy.paths, design_matrix=gappy.design)


def at_gap(cohort):
    """Values, design and ordinary least squares of the voxel, of the images that have it."""
    values = cohort.data[(slice(None), *GAP)].astype(np.float64)
    seen = np.isfinite(values)
    return values[seen], cohort.design[seen], sm.OLS(values[seen], cohort.design[seen]).fit()


def test_line_band_and_points_of_a_regressor_equal_statsmodels(model, gappy):
    values, design, fit = at_gap(gappy)
    axes = plot_voxel(model, "age", mm(GAP))
    points, line = labelled(axes, "images"), labelled(axes, "fitted")
    np.testing.assert_allclose(points.get_xdata(), design["age"])
    mean = design.mean()
    adjusted = values - fit.params["male"] * (design["male"] - mean["male"])
    np.testing.assert_allclose(points.get_ydata(), adjusted, rtol=1e-6)
    rows = pd.DataFrame({"age": line.get_xdata(), "male": mean["male"], "intercept": 1.0})
    expected = fit.get_prediction(rows).summary_frame(alpha=0.05)
    np.testing.assert_allclose(line.get_ydata(), expected["mean"], rtol=1e-6)
    vertices = axes.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == pytest.approx(expected["mean_ci_lower"].min(), rel=1e-6)
    assert vertices[:, 1].max() == pytest.approx(expected["mean_ci_upper"].max(), rel=1e-6)
    assert points.get_label() == "8 images; 4 left out, without a value here"
    assert f"t(5) = {fit.tvalues['age']:.2f}" in axes.get_title()
    assert "(27, -11, -2) mm" in axes.get_title()


def test_difference_of_groups(gappy):
    design = pd.DataFrame({"f": 1 - gappy.design["male"], "m": gappy.design["male"]})
    model = daskglm.SecondLevelModel(mask_img=gappy.mask_img).fit(gappy.paths, design_matrix=design)
    values, rows, _ = at_gap(gappy)
    axes = plot_voxel(model, "m - f", mm(GAP))
    points, line = labelled(axes, "images"), labelled(axes, "fitted")
    male = rows["male"].to_numpy() == 1
    # Groups are half a unit on either side of zero, moved apart by up to a tenth.
    assert (np.abs(points.get_xdata() - np.where(male, 0.5, -0.5)) <= 0.1 + 1e-9).all()
    np.testing.assert_allclose(points.get_ydata(), values, rtol=1e-6)
    assert line.get_ydata()[[0, -1]] == pytest.approx([values[~male].mean(), values[male].mean()])


def test_a_mean_is_drawn_over_the_images(gappy):
    design = pd.DataFrame({"mean": np.ones(12)})
    model = daskglm.SecondLevelModel(mask_img=gappy.mask_img).fit(gappy.paths, design_matrix=design)
    values, _, _ = at_gap(gappy)
    axes = plot_voxel(model, coords=mm(GAP), contrast="mean")
    points = labelled(axes, "images")
    np.testing.assert_array_equal(points.get_xdata(), np.arange(1, 9))
    np.testing.assert_allclose(points.get_ydata(), values)
    np.testing.assert_allclose(labelled(axes, "fitted").get_ydata(), values.mean())
    assert "order" in axes.get_xlabel()


@pytest.mark.parametrize("contrast", [None, ["age", "male"]])
def test_without_one_regressor_observed_is_drawn_against_fitted(model, gappy, contrast):
    values, _, fit = at_gap(gappy)
    axes = plot_voxel(model, contrast, mm(GAP))
    points = labelled(axes, "images")
    np.testing.assert_allclose(points.get_xdata(), fit.fittedvalues, rtol=1e-6)
    np.testing.assert_allclose(points.get_ydata(), values)


def test_the_peak_is_the_largest_z(model, gappy):
    z = np.abs(model.compute_contrast("age").get_fdata())
    z[~gappy.mask] = 0
    at = mm(np.array(np.unravel_index(np.nanargmax(z), z.shape)))
    title = plot_voxel(model, "age").get_title()
    assert "(" + ", ".join(f"{value:g}" for value in at) + ") mm" in title


@pytest.mark.parametrize("kind", ["glob", "store", "images", "dataset", "table", "kept"])
def test_every_input_gives_the_same_values(gappy, tmp_path, kind):
    given, first_level, options = gappy.paths, None, {}
    if kind == "glob":
        given = str(gappy.folder / "*_statmap.nii.gz")
    elif kind in ("store", "dataset"):
        given = str(tmp_path / "cohort.zarr")
        daskglm.convert(gappy.paths, given, mask=gappy.mask_img)
        given = daskglm.open_images(given) if kind == "dataset" else given
    elif kind == "images":
        given = [nib.load(path) for path in gappy.paths]
    elif kind == "table":
        first_level = "a"
        given = pd.DataFrame({"subject_label": gappy.names, "map_name": "a", "effects_map_path": gappy.paths})
        given = pd.concat([given, given.assign(map_name="b", effects_map_path=gappy.paths)])
    else:
        options = {"minimize_memory": False}
    model = daskglm.SecondLevelModel(mask_img=gappy.mask_img, **options).fit(given, design_matrix=gappy.design)
    voxels = np.array([3, 50])
    np.testing.assert_array_equal(images_at(model, voxels, first_level), gappy.vectors[:, voxels])


def test_of_a_store_only_the_blocks_of_the_voxel_are_read(gappy, tmp_path, monkeypatch):
    monkeypatch.setattr(store_writing, "VOXELS_PER_CHUNK", 20)
    monkeypatch.setattr(store_reading, "_BLOCK_BYTES", 1)
    store = tmp_path / "cohort.zarr"
    daskglm.convert(gappy.paths, str(store), mask=gappy.mask_img)
    model = daskglm.SecondLevelModel().fit(str(store), design_matrix=gappy.design)
    chunks = [path for path in store.glob("**/data/c/*/*") if path.is_file()]
    assert len(chunks) > 4
    for path in chunks:
        if path.name != "0":
            path.write_bytes(b"spoilt")
    np.testing.assert_array_equal(images_at(model, np.array([3])), gappy.vectors[:, [3]])
    with pytest.raises(StoreError):
        images_at(model, np.array([50]))


def test_zeros_that_are_missing_are_left_out(cohort):
    cohort.data[:2, 2, 2, 2] = 0
    for path, values in zip(cohort.paths, cohort.data, strict=True):
        nib.Nifti1Image(values, AFFINE).to_filename(path)
    model = daskglm.SecondLevelModel(mask_img=cohort.mask_img, missing="zero").fit(
        cohort.paths, design_matrix=cohort.design
    )
    assert labelled(plot_voxel(model, "age", mm((2, 2, 2))), "images").get_label().startswith("10 images; 2 left out")


def test_wrong_places_and_contrasts_are_refused(model, gappy):
    with pytest.raises(ParameterError, match="outside the mask; the nearest voxel is at"):
        plot_voxel(model, "age", (500, 0, 0))
    with pytest.raises(ParameterError, match="three numbers"):
        plot_voxel(model, "age", (1, 2))
    with pytest.raises(ContrastError, match="contrast is needed"):
        plot_voxel(model)
    with pytest.raises(ContrastError, match="agee"):
        plot_voxel(model, "agee", mm(GAP))
    thin = daskglm.SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.9).fit(
        gappy.paths, design_matrix=gappy.design
    )
    with pytest.raises(ParameterError, match="too few values"):
        plot_voxel(thin, "age", mm(GAP))
    assert plt.get_fignums() == []


def test_a_point_is_in_the_voxel_around_it(model, gappy):
    space = model.space_
    for index in (0, 7, space.voxels.size - 1):
        at = space.coordinates(np.array([index]))[0]
        assert voxel_at(space, at + np.array([1.4, -1.4, 1.9])) == index


class Run:
    """A run in a file, with its events and mask."""

    def __init__(self, folder, n=60):
        rng = np.random.default_rng(5)
        self.mask = np.zeros((5, 4, 3), bool)
        self.mask[1:, :3, 1:] = True
        self.events = pd.DataFrame({"onset": np.arange(10) * 11.0, "duration": 3.0, "trial_type": ["a", "b"] * 5})
        self.data = 100 + rng.standard_normal((5, 4, 3, n)).cumsum(axis=-1) * 0.3 + rng.standard_normal((5, 4, 3, n))
        self.path = str(folder / "sub-1_bold.nii.gz")
        image = nib.Nifti1Image(self.data, AFFINE)
        image.header.set_zooms((3, 3, 4, TR))
        image.to_filename(self.path)
        self.mask_img = nib.Nifti1Image(self.mask.astype(np.uint8), AFFINE)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_series_and_fit_equal_nilearn(run):
    # nilearn whitens the fitted values of an autoregression; those of "ols" are X beta.
    model = daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img, noise_model="ols").fit(run.path, run.events)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = NilearnModel(t_r=TR, mask_img=run.mask_img, noise_model="ols", minimize_memory=False)
        predicted = oracle.fit(run.path, run.events).predicted[0].get_fdata()
    axes = plot_voxel(model, coords=mm((2, 1, 1)))
    observed, fitted = labelled(axes, "observed"), labelled(axes, "fitted")
    values = run.data[2, 1, 1]
    np.testing.assert_allclose(observed.get_ydata(), 100 * (values / values.mean() - 1), atol=1e-9)
    np.testing.assert_allclose(fitted.get_ydata(), predicted[2, 1, 1], atol=1e-6)
    np.testing.assert_allclose(observed.get_xdata(), TR * np.arange(60))
    assert axes.get_ylabel() == "Signal (% of the mean of the voxel)"
    assert axes.get_xlabel() == "Time (s)"


def test_volumes_that_were_left_out_break_the_line(run):
    keep = np.r_[2:20, 25:58]
    model = daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img, signal_scaling=False).fit(
        run.path, run.events, sample_masks=keep
    )
    axes = plot_voxel(model, "a - b")
    observed = labelled(axes, "observed")
    assert observed.get_label() == "observed, 51 volumes; 9 left out"
    y = observed.get_ydata()
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(y)), keep)
    np.testing.assert_allclose(observed.get_xdata(), TR * np.arange(60))
    assert axes.get_ylabel() == "Signal (image units)"


@pytest.mark.parametrize("scaling", [0, 1, (0, 1), False])
def test_values_of_a_run_are_those_of_its_residuals(run, scaling):
    model = daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img, signal_scaling=scaling).fit(run.path, run.events)
    voxels = np.array([0, 5, 20])
    flat = model.residuals_[0].get_fdata().reshape(-1, 60, order="F")[model.space_.voxels[voxels]].T
    predicted = model.design_matrices_[0].to_numpy() @ model.fits_[0]["beta"].values[:, voxels]
    np.testing.assert_allclose(run_at(model, voxels) - predicted, flat, atol=1e-9)


def test_carpet_shows_the_residuals(run):
    keep = np.r_[0:20, 25:60]
    model = daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img).fit(run.path, run.events, sample_masks=keep)
    figure = plot_residuals_carpet(model)
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (run.mask.sum(), 60)
    left = model.residuals_[0].get_fdata().reshape(-1, 55, order="F")[model.space_.voxels]
    expected = left / left.std(axis=1, keepdims=True)
    np.testing.assert_allclose(np.sort(shown[:, keep], axis=0), np.sort(expected, axis=0), atol=1e-5)
    assert not np.asarray(shown[:, 20:25]).any()
    assert axes.images[0].get_clim() == (-2, 2)
    assert axes.get_xlabel() == "Time (s)"
    labels = [float(item.get_text()) for item in axes.get_xticklabels()]
    np.testing.assert_allclose(labels, TR * axes.get_xticks())
    assert axes.get_ylabel() == f"{run.mask.sum()} of {run.mask.sum()} voxels"


def test_runs_that_are_not_there_are_refused(run):
    model = daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img).fit(run.path, run.events)
    for draw in (lambda: plot_residuals_carpet(model, 1), lambda: plot_voxel(model, "a", run=-1)):
        with pytest.raises(ParameterError, match="numbered from 0 to 0"):
            draw()
    with pytest.raises(ParameterError, match="coords, or the peak"):
        plot_voxel(model)


def test_first_level_models_as_input(run):
    models = [
        daskglm.FirstLevelModel(t_r=TR, mask_img=run.mask_img, subject_label=f"{k}").fit(
            nib.Nifti1Image(run.data + np.random.default_rng(k).standard_normal(run.data.shape), AFFINE), run.events
        )
        for k in range(4)
    ]
    model = daskglm.SecondLevelModel().fit(models, design_matrix=pd.DataFrame({"mean": np.ones(4)}))
    axes = plot_voxel(model, "mean", first_level_contrast="a - b")
    z = np.abs(model.compute_contrast("mean", "a - b").get_fdata())
    peak = np.unravel_index(np.nanargmax(z), z.shape)
    effects = [item.compute_contrast("a - b", output_type="effect_size").get_fdata()[peak] for item in models]
    np.testing.assert_allclose(labelled(axes, "images").get_ydata(), effects, rtol=1e-5)
