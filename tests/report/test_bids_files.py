"""Fitted models saved under nilearn's names, and nilearn's old names of reports."""

import json
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import save_glm_to_bids as nilearn_saves
from nilearn.glm.second_level import SecondLevelModel as NilearnModel

import daskglm
from daskglm.errors import ContrastError, ParameterError, ParameterTypeError


@pytest.fixture
def runs():
    rng = np.random.default_rng(7)
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:5, 1:5, 1:5] = 1
    images = [nib.Nifti1Image(100 + rng.standard_normal((6, 6, 6, n)), np.eye(4)) for n in (20, 24)]
    designs = [pd.DataFrame(rng.standard_normal((n, 3)), columns=["AAA", "BBB", "c"]) for n in (20, 24)]
    return nib.Nifti1Image(mask, np.eye(4)), images, designs


def test_the_files_are_nilearns(runs, tmp_path):
    mask, images, _ = runs
    maps = [image.slicer[..., k] for image in images for k in range(6)]
    design = pd.DataFrame({"age": np.arange(12.0), "intercept": 1.0})
    contrasts = {"age - half": "age", "both": "age / 2"}
    theirs = NilearnModel(mask_img=mask, minimize_memory=False).fit(maps, design_matrix=design)
    how = {"height_control": None, "threshold": 1.0, "bg_img": None, "plot_type": "glass"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that change, and a threshold that it applies to variances
        nilearn_saves(theirs, contrasts, out_dir=tmp_path / "theirs", prefix="task-x", **how)
    ours = daskglm.SecondLevelModel(mask_img=mask, minimize_memory=False).fit(maps, design_matrix=design)
    (tmp_path / "ours" / "group").mkdir(parents=True)
    (tmp_path / "ours" / "group" / "thesis.docx").write_text("mine")
    assert daskglm.save_glm_to_bids(ours, contrasts, out_dir=tmp_path / "ours", prefix="task-x", **how) is ours
    names = {path.name for path in (tmp_path / "theirs" / "group").iterdir()}
    assert names <= {path.name for path in (tmp_path / "ours" / "group").iterdir()}
    assert (tmp_path / "ours" / "group" / "thesis.docx").read_text() == "mine"
    for name in sorted(names):
        if name.endswith(".nii.gz") and "stat-p" not in name and "rsquared" not in name:
            pair = [nib.load(tmp_path / which / "group" / name).get_fdata() for which in ("ours", "theirs")]
            np.testing.assert_allclose(*pair, rtol=1e-6, atol=1e-8, err_msg=name)
    z_map = nib.load(tmp_path / "ours" / "group" / "task-x_contrast-both_stat-z_statmap.nii.gz").get_fdata()
    clusters = pd.read_csv(tmp_path / "ours" / "group" / "task-x_contrast-both_clusters.tsv", sep="\t")
    assert clusters["Peak Stat"].max() == pytest.approx(z_map.max())
    about = json.loads((tmp_path / "ours" / "group" / "task-x_contrast-both_clusters.json").read_text())
    assert about["Threshold Z"] == 1.0


def test_runs_have_files_of_their_own(runs, tmp_path):
    mask, images, designs = runs
    paths = [tmp_path / f"sub-01_ses-{k + 1}_task-x_desc-preproc_bold.nii.gz" for k in range(2)]
    for path, image in zip(paths, images, strict=True):
        image.to_filename(path)
    model = daskglm.FirstLevelModel(mask_img=mask).fit(paths, design_matrices=designs)
    drawing = {"plot_type": "glass", "bg_img": None}
    daskglm.save_glm_to_bids(model, "AAA - BBB", out_dir=tmp_path / "out", **drawing)
    names = {path.name for path in (tmp_path / "out" / "sub-01").iterdir()}
    wanted = {f"sub-01_task-x_contrast-aaaMinusBbb_stat-{kind}_statmap.nii.gz" for kind in "tzp"}
    wanted |= {f"sub-01_ses-{k}_task-x_{name}" for k in (1, 2) for name in ("design.tsv", "corrdesign.png")}
    assert wanted | {"sub-01_task-x_mask.nii.gz", "sub-01_task-x_report.html"} <= names
    daskglm.save_glm_to_bids(model, ["AAA"], out_dir=tmp_path / "out", prefix="sub-02", **drawing)
    assert (tmp_path / "out" / "sub-02" / "sub-02_run-2_stat-errorts_statmap.nii.gz").exists()
    made = json.loads((tmp_path / "out" / "dataset_description.json").read_text())["GeneratedBy"]
    assert [item["Name"] for item in made] == ["daskglm", "daskglm"]


def test_what_cannot_be_saved_is_refused_before_a_file_is_written(runs, tmp_path):
    mask, images, designs = runs
    model = daskglm.FirstLevelModel(mask_img=mask).fit(images, design_matrices=designs)
    for wrong, error, message in (
        ({"contrasts": {5: "AAA"}}, ParameterTypeError, "names of contrasts are text"),
        ({"contrasts": {"a": 5}}, ParameterTypeError, "expression or weights"),
        ({"contrasts": None}, ContrastError, "give contrasts"),
        ({"contrasts": "AAA", "foo": 1}, ParameterError, "got foo"),
        ({"contrasts": ["AAA", "aaa"]}, ValueError, "repeat"),
        ({"contrasts": "AAA", "height_control": "x"}, ParameterError, "height_control must be 'fpr'"),
    ):
        with pytest.raises(error, match=message):
            daskglm.save_glm_to_bids(model, out_dir=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_reports_have_nilearns_names_and_tell_what_is_not_used(runs):
    mask, images, designs = runs
    model = daskglm.FirstLevelModel(mask_img=mask).fit(images, design_matrices=designs)
    drawing = {"plot_type": "glass", "bg_img": None}
    with pytest.warns(FutureWarning, match=r"use model\.generate_report"):
        report = daskglm.make_glm_report(model, np.array(["AAA", "BBB"]), **drawing)
    assert isinstance(report, daskglm.HTMLReport)
    assert "AAA" in str(report)
    assert "BBB" in str(report)
    assert report.resize(900, "50%").width == 900
    assert report.body == report._repr_html_()
    with pytest.warns(UserWarning, match="width is pixels"):
        report.width = "foo"
    assert report.width == 800
    for given, message in (
        ({"threshold": 2}, "threshold=2 is not used"),
        ({"cut_coords": [1, 2, 3]}, "cut_coords are not used"),
        ({"first_level_contrast": "AAA"}, "first_level_contrast is ignored"),
    ):
        with pytest.warns(UserWarning, match=message):
            page = model.generate_report("AAA", **drawing, **given)
        assert message in str(page) or "first_level" in message
    with pytest.warns(FutureWarning, match="is not given"):
        model.generate_report("AAA", height_control=None, **drawing)
    for wrong in ({"min_distance": -8}, {"cluster_threshold": -1}, {"height_control": "knights"}):
        with pytest.raises(ParameterError):
            model.generate_report(**wrong)


@pytest.mark.parametrize("kind", [daskglm.FirstLevelModel, daskglm.SecondLevelModel])
def test_a_model_that_is_not_fitted_has_an_empty_report(kind):
    with pytest.warns(UserWarning, match="has not been fit yet"):
        report = kind().generate_report()
    assert kind.__name__ in str(report)
    assert "has not been fit yet" in str(report)


@pytest.mark.filterwarnings("ignore:.*images in memory are given more than once")
def test_a_contrast_that_no_voxel_supports_is_reported_as_such(runs):
    mask, images, _ = runs
    one = images[0].slicer[..., 0]
    model = daskglm.SecondLevelModel(mask_img=mask).fit([one] * 3, design_matrix=pd.DataFrame({"intercept": [1.0] * 3}))
    assert "No voxel could be tested" in str(model.generate_report("intercept", bg_img=None))
