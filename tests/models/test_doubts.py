"""What can be analysed but is hardly meant is said: equal images, and zeros where others have values."""

import shutil
import warnings

import nibabel as nib
import numpy as np
import pytest
from cohorts import AFFINE

import daskglm
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis


def analyses(cohort, folder, images=None, **options):
    """Everything that reads images of subjects."""
    images, common = cohort.paths if images is None else images, {"mask": cohort.mask_img, **options}
    design, missing, fwhm = cohort.design, common.get("missing", "nan"), common.get("smoothing_fwhm")
    return {
        "group": lambda: group_analysis(images, f"{folder}/group", "~ 1", {"mean": "intercept"}, **common),
        "permute": lambda: permutation_analysis(
            images, f"{folder}/permuted", "~ 1", {"mean": "intercept"}, n_perm=20, **common
        ),
        "convert": lambda: daskglm.convert(images, f"{folder}/all.zarr", **common),
        "fit": lambda: daskglm.SecondLevelModel(mask_img=common["mask"], missing=missing, smoothing_fwhm=fwhm).fit(
            images, design_matrix=design
        ),
        "infer": lambda: daskglm.non_parametric_inference(
            images, design_matrix=design, second_level_contrast="age", n_perm=20, **common
        ),
    }


ALL = ["group", "permute", "convert", "fit", "infer"]


@pytest.mark.parametrize("name", ALL)
def test_equal_images_of_two_subjects(cohort, tmp_path, name):
    shutil.copy(cohort.paths[2], cohort.paths[7])
    with pytest.warns(UserWarning, match=r"have the same bytes: \S*sub-03\S* and \S*sub-08\S*; check that each"):
        analyses(cohort, tmp_path)[name]()


def test_equal_images_added_later(cohort, tmp_path):
    daskglm.convert(cohort.paths[:6], str(tmp_path / "all.zarr"), mask=cohort.mask_img)
    shutil.copy(cohort.paths[2], cohort.paths[7])
    with pytest.warns(UserWarning, match="same bytes: sub-03 and sub-08"):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("mask", "fwhm"), [(True, None), (False, None), (True, 6.0)])
def test_zeros_in_a_third_of_the_images(cohort, tmp_path, name, mask, fwhm):
    """Images whose field of view ends: zeros are counted, and it is said; with --missing zero they are not."""
    for path, data in zip(cohort.paths[::3], cohort.data[::3], strict=True):
        cut = data.copy()
        cut[:, :, 3] = 0
        nib.Nifti1Image(cut, AFFINE).to_filename(path)
    options = {"smoothing_fwhm": fwhm} | ({} if mask else {"mask": None})
    told = r"zeros count as data, but \d of the \d+ images looked at .*sub-01.*; give missing=.zero."
    with pytest.warns(UserWarning, match=told):
        analyses(cohort, tmp_path, **options)[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyses(cohort, tmp_path / "zero", missing="zero", **options)[name]()


@pytest.mark.parametrize("fwhm", [None, 6.0])
def test_zeros_of_images_in_memory(cohort, tmp_path, fwhm):
    images = [nib.Nifti1Image(data.copy(), AFFINE) for data in cohort.data]
    np.asanyarray(images[0].dataobj)[1:4, 1:7, 3] = 0
    with pytest.warns(UserWarning, match=r"but 1 of the 8 images looked at .*image-1"):
        analyses(cohort, tmp_path, images, smoothing_fwhm=fwhm)["fit"]()


@pytest.mark.parametrize("kind", ["labels", "same zeros"])
def test_zeros_that_are_meant(cohort, tmp_path, kind):
    """Counts and labels are 0 where there is nothing; a background of all images is no field of view."""
    rng = np.random.default_rng(0)
    for path, data in zip(cohort.paths, cohort.data, strict=True):
        if kind == "labels":
            data = rng.integers(0, 3, data.shape).astype(float)
        else:
            data[:, :, 3] = 0
        nib.Nifti1Image(data, AFFINE).to_filename(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyses(cohort, tmp_path)["group"]()
