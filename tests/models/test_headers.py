"""Headers of what is made: what the values are, of how many degrees of freedom, and when."""

import contextlib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import daskglm
from daskglm import FirstLevelModel, SecondLevelModel

SHAPE, N = (3, 4, 2), 40
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def run_and_design():
    """A run of TR 2 s whose header claims things of its values, and a design of 3 regressors."""
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(100 + rng.standard_normal((*SHAPE, N)), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.0
    image.header["slice_duration"], image.header["descrip"] = 0.1, b"of the scanner"
    design = pd.DataFrame({"a": rng.standard_normal(N), "b": rng.standard_normal(N), "constant": 1.0})
    return image, design


@pytest.mark.parametrize("given", ["t_r", "header"])
def test_images_of_a_run_have_its_repetition_time(run_and_design, given):
    image, design = run_and_design
    t_r = 2.0 if given == "t_r" else None
    model = FirstLevelModel(t_r=t_r, mask_img=False, signal_scaling=False, noise_model="ols")
    with pytest.warns(UserWarning, match="do not depend on t_r") if t_r else contextlib.nullcontext():
        model.fit(image, design_matrices=design)
    for made, text in ((model.residuals_[0], b"residuals: run 1"), (model.predicted_[0], b"fitted values: run 1")):
        assert made.header.get_zooms() == (3.0, 3.0, 3.0, 2.0)
        assert made.header.get_xyzt_units() == ("mm", "sec")
        assert made.header["descrip"].item() == text
        assert made.header["slice_duration"] == 0


def _intent(image):
    code, parameters, name = image.header.get_intent()
    return code, tuple(parameters), name


def test_statistics_of_a_run(run_and_design, tmp_path):
    image, design = run_and_design
    model = FirstLevelModel(mask_img=False, signal_scaling=False, noise_model="ols")
    other = nib.Nifti1Image(image.get_fdata() + 1, image.affine, image.header)
    model.fit([image, other], design_matrices=[design, design.iloc[:, [0, 1, 2]]])
    maps = model.compute_contrast("a", output_type="all")
    # 40 - 3 of each of two runs.
    assert _intent(maps["stat"]) == ("t test", (74.0,), "a")
    assert maps["stat"].header["descrip"].item() == b"t, df 74: a"
    assert _intent(maps["z_score"]) == ("z score", (), "a")
    assert _intent(maps["p_value"]) == ("p value", (), "a")
    assert _intent(maps["effect_size"]) == ("estimate", (), "a")
    assert _intent(model.compute_contrast("a, b", output_type="stat")) == ("f test", (2.0, 74.0), "a, b")
    maps["stat"].to_filename(tmp_path / "t.nii.gz")
    assert _intent(nib.load(tmp_path / "t.nii.gz")) == ("t test", (74.0,), "a")


def test_statistics_of_a_group_in_memory_and_in_files(tmp_path):
    rng = np.random.default_rng(1)
    images = []
    for k in range(8):
        image = nib.Nifti1Image(rng.standard_normal(SHAPE).astype(np.float32), AFFINE)
        image.header.set_intent("z score", (), "of a subject")
        images.append(image)
        nib.save(image, tmp_path / f"sub-{k}.nii")
    table = pd.DataFrame({"participant_id": [f"sub-{k}" for k in range(8)], "age": rng.standard_normal(8)})
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    design = table[["age"]].assign(intercept=1.0)
    model = SecondLevelModel(mask_img=False, minimize_memory=False).fit(images, design_matrix=design)
    daskglm.group_analysis(
        sorted(map(str, tmp_path.glob("sub-*.nii"))), tmp_path / "out", "~ age", {"alter": "age"},
        f_contrasts={"both": "age, intercept"}, participants=tmp_path / "t.tsv", mask=False,
    )  # fmt: skip
    files = {path.name.removesuffix("_statmap.nii.gz"): nib.load(path) for path in (tmp_path / "out").glob("*.nii.gz")}
    for found in (model.compute_contrast("age", output_type="stat"), files["contrast-alter_stat-t"]):
        assert _intent(found)[:2] == ("t test", (6.0,))
        assert found.get_data_dtype() == np.float64
    assert _intent(files["contrast-both_stat-F"])[:2] == ("f test", (2.0, 6.0))
    assert _intent(files["contrast-alter_stat-z"])[:2] == ("z score", ())
    assert _intent(files["n.nii.gz"])[0] == "none"
    assert _intent(model.residuals_)[0] == "none"
    assert model.residuals_.header["descrip"].item() == b"residuals"


def test_voxels_with_other_degrees_of_freedom_are_not_given_those_of_one():
    rng = np.random.default_rng(2)
    data = rng.standard_normal((8, *SHAPE))
    data[:2, 0] = np.nan
    model = SecondLevelModel(mask_img=False).fit(
        [nib.Nifti1Image(values, AFFINE) for values in data], design_matrix=pd.DataFrame({"one": np.ones(8)})
    )
    t = model.compute_contrast("one", output_type="stat")
    assert _intent(t) == ("none", (), "one")
    assert t.header["descrip"].item() == b"t, df 5 to 7: one"


def test_permutation_maps():
    rng = np.random.default_rng(3)
    images = [nib.Nifti1Image(values, AFFINE) for values in rng.standard_normal((8, *SHAPE))]
    design = pd.DataFrame({"x": rng.standard_normal(8), "one": np.ones(8)})
    maps = daskglm.non_parametric_inference(
        images, design_matrix=design, second_level_contrast="x", mask=False, n_perm=10, random_state=0, threshold=0.05
    )
    assert _intent(maps["t"])[:2] == ("t test", (6.0,))
    assert _intent(maps["logp_max_t"])[0] == "log10 p value"
    assert _intent(maps["cor_z_score"])[0] == "z score"
    assert _intent(maps["size"])[0] == "none"
    assert maps["size"].header["descrip"].item() == b"size: contrast"


def test_float32_stays_float32():
    images = daskglm.images_dataset(
        np.ones((2, 24), np.float32), ["a", "b"],
        daskglm.schema.space.VolumeSpace.from_image(nib.Nifti1Image(np.ones(SHAPE), AFFINE)),
    )  # fmt: skip
    made = images.glm.to_nifti("data", sample="a")
    assert made.get_data_dtype() == np.float32


def test_long_names_are_cut_between_letters():
    rng = np.random.default_rng(4)
    images = [nib.Nifti1Image(values, AFFINE) for values in rng.standard_normal((6, *SHAPE))]
    name = "面孔" * 40
    model = SecondLevelModel(mask_img=False).fit(images, design_matrix=pd.DataFrame({name: np.ones(6)}))
    header = model.compute_contrast(name, output_type="stat").header
    assert header["descrip"].item().decode().startswith("t, df 5: 面孔")
    assert header["intent_name"].item().decode() == "面孔面孔面"
