"""Twelve real runs of one person against nilearn."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nilearn.glm.first_level import FirstLevelModel as NilearnModel

from daskglm import FirstLevelModel
from daskglm.cli.main import main
from daskglm.io.bids import find_runs
from daskglm.io.confounds import read_events

OUTPUTS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")


def quiet(function, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


@pytest.fixture(scope="module")
def haxby():
    """Images, events, confounds, mask and repetition time."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"
    if not folder.is_dir():
        pytest.skip(f"the haxby2001 data are not at {folder}")
    runs = find_runs(folder, "objectviewing")
    assert len(runs) == 12
    assert {run.t_r for run in runs} == {2.5}
    masks = [nib.load(run.mask) for run in runs]
    mask = np.all([np.asarray(image.dataobj) != 0 for image in masks], axis=0)
    return {
        "images": [run.bold for run in runs],
        "events": [read_events(run.events) for run in runs],
        "confounds": [pd.read_csv(run.confounds, sep="\t") for run in runs],
        "mask": mask,
        "mask_img": nib.Nifti1Image(mask.astype(np.uint8), masks[0].affine),
    }


@pytest.fixture(scope="module")
def fitted(haxby):
    """Both models of all runs."""
    arguments = {"t_r": 2.5, "mask_img": haxby["mask_img"], "hrf_model": "glover", "noise_model": "ar1"}
    given = [haxby[name] for name in ("images", "events", "confounds")]
    return FirstLevelModel(**arguments).fit(*given), quiet(NilearnModel(**arguments).fit, *given)


def bins_of(model, run):
    """The coefficient of each voxel."""
    parts = model.fits_[run]["solution"].values
    return np.concatenate([part.coefficients[part.labels, 0] for part in parts])


def test_published_numbers(haxby, fitted):
    assert haxby["mask"].sum() == 474
    z = np.asarray(fitted[0].compute_contrast("face - house").dataobj)[haxby["mask"]]
    assert round(float(z.min()), 2) == -9.26
    assert round(float(z.max()), 2) == 5.02
    assert (np.abs(z) > 3.1).sum() == 78


@pytest.mark.parametrize("contrast", ["face - house", "face + house + cat + bottle - 4 * scissors"])
def test_over_runs_equals_nilearn(haxby, fitted, contrast):
    ours = fitted[0].compute_contrast(contrast, output_type="all")
    theirs = quiet(fitted[1].compute_contrast, contrast, output_type="all")
    for kind in OUTPUTS:
        x, y = (np.asarray(maps[kind].dataobj)[haxby["mask"]] for maps in (ours, theirs))
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max(), err_msg=kind)
        assert np.ptp(y) > 0


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_run_by_run_equals_nilearn(haxby, noise_model):
    """A voxel whose coefficient is at the edge of a bin may fall to the other side: nilearn scales in float32."""
    apart = 0
    for run in range(12):
        arguments = {"t_r": 2.5, "mask_img": haxby["mask_img"], "noise_model": noise_model}
        given = [haxby[name][run] for name in ("images", "events", "confounds")]
        mine = FirstLevelModel(**arguments).fit(*given)
        other = quiet(NilearnModel(**arguments).fit, *given)
        np.testing.assert_allclose(mine.design_matrices_[0], other.design_matrices_[0], rtol=1e-8, atol=1e-9)
        order = np.argsort(np.ravel_multi_index(np.nonzero(haxby["mask"]), haxby["mask"].shape, order="F"))
        same = np.ones(474, bool)
        if noise_model == "ar1":
            same[order] = np.abs(bins_of(mine, 0) - other.labels_[0].astype(float)[order]) < 1e-9
        apart += (~same).sum()
        ours, theirs = (model.compute_contrast("face - house", output_type="all") for model in (mine, other))
        for kind in OUTPUTS:
            x, y = (np.asarray(maps[kind].dataobj)[haxby["mask"]][same] for maps in (ours, theirs))
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max(), err_msg=f"run {run + 1} {kind}")
    assert apart <= 5


def test_run_by_run_of_all_runs_is_that_of_each(haxby, fitted):
    """A contrast that is null in all runs but one is that run's."""
    columns = list(fitted[0].design_matrices_[3].columns)
    weights = np.zeros(len(columns))
    weights[columns.index("face")], weights[columns.index("house")] = 1, -1
    given = [np.zeros(len(table.columns)) for table in fitted[0].design_matrices_]
    given[3] = weights
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        z = np.asarray(fitted[0].compute_contrast(given).dataobj)
    assert [str(item.message) for item in caught if "null in run" in str(item.message)] == [
        f"the contrast is null in run {k}, which is left out" for k in (1, 2, 3, *range(5, 13))
    ]
    arguments = {"t_r": 2.5, "mask_img": haxby["mask_img"]}
    alone = quiet(NilearnModel(**arguments).fit, *(haxby[name][3] for name in ("images", "events", "confounds")))
    expected = np.asarray(alone.compute_contrast("face - house").dataobj)
    np.testing.assert_allclose(z[haxby["mask"]], expected[haxby["mask"]], rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_command_equals_nilearn(haxby, fitted, tmp_path):
    """The command of the README on the real dataset: over runs, and the picture and extremes in its summary."""
    folder = Path(haxby["images"][0]).parents[4]
    arguments = ["--task", "objectviewing", "--space", "T1w", "--hrf", "glover", "--confounds", "motion"]
    done = CliRunner().invoke(
        main, ["first-level", str(folder), str(tmp_path), *arguments, "--contrast", "face - house", "--quiet"]
    )
    assert done.exit_code == 0, done.output
    for shown in ("12 fitted", "-9.26", "5.02", "78", "contrast-faceMinusHouse_stat-z.png"):
        assert shown in done.output
    name = "sub-001/sub-001_task-objectviewing_space-T1w_contrast-faceMinusHouse_stat-{}_statmap.nii.gz"
    for stat, kind in (("z", "z_score"), ("effect", "effect_size"), ("variance", "effect_variance")):
        found = nib.load(tmp_path / name.format(stat)).get_fdata()[haxby["mask"]]
        expected = quiet(fitted[1].compute_contrast, "face - house", output_type=kind).get_fdata()[haxby["mask"]]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
