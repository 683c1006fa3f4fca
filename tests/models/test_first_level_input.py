"""Fitted first-level models as the input of a second level."""

import copy
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel as TheirFirst
from nilearn.glm.second_level import SecondLevelModel as TheirSecond
from sklearn.exceptions import NotFittedError

from daskglm import FirstLevelModel, SecondLevelModel
from daskglm.errors import ContrastError, ImageError, SpaceError

SHAPE, N_VOLUMES = (4, 4, 3), 60


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    design = pd.DataFrame(
        {"a": rng.standard_normal(N_VOLUMES), "b": rng.standard_normal(N_VOLUMES), "constant": np.ones(N_VOLUMES)}
    )
    data = [100 + rng.standard_normal((*SHAPE, N_VOLUMES)) for _ in range(6)]
    return [nib.Nifti1Image(values, np.eye(4)) for values in data], design


def fitted(model, runs, **options):
    images, design = runs
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    return [
        model(mask_img=mask, subject_label=f"{k:02d}", **options).fit(image, design_matrices=design)
        for k, image in enumerate(images)
    ]


def test_equals_nilearn(runs):
    ours = SecondLevelModel(mask_img=False).fit(fitted(FirstLevelModel, runs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
        theirs = TheirSecond(mask_img=mask).fit(fitted(TheirFirst, runs))
        for contrast in ("a - b", "a"):
            for kind in ("z_score", "effect_size", "effect_variance"):
                expected = theirs.compute_contrast(first_level_contrast=contrast, output_type=kind).get_fdata()
                found = ours.compute_contrast(first_level_contrast=contrast, output_type=kind).get_fdata()
                np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_confounds_by_subject(runs):
    models = fitted(FirstLevelModel, runs)
    table = pd.DataFrame({"subject_label": [f"{k:02d}" for k in range(6)], "age": np.arange(6.0) ** 2})
    forward = SecondLevelModel(mask_img=False).fit(models, confounds=table.iloc[::-1])
    z = forward.compute_contrast("age", first_level_contrast="a").get_fdata()
    effects = [model.compute_contrast("a", output_type="effect_size") for model in models]
    design = pd.DataFrame({"age": table["age"], "intercept": 1.0})
    expected = SecondLevelModel(mask_img=False).fit(effects, design_matrix=design).compute_contrast("age").get_fdata()
    np.testing.assert_allclose(z, expected, rtol=1e-12)


def test_bad_models(runs):
    models = fitted(FirstLevelModel, runs)
    with pytest.raises(ImageError, match="at least two"):
        SecondLevelModel().fit(models[:1])
    with pytest.raises(NotFittedError):
        SecondLevelModel().fit([models[0], FirstLevelModel()])
    with pytest.warns(UserWarning, match="1 of 2 first-level models are given more than once"):
        SecondLevelModel().fit([models[0], models[0]])
    with pytest.raises(ImageError, match="00"):
        SecondLevelModel().fit([models[0], copy.copy(models[0])])
    with pytest.raises(ContrastError, match="first_level_contrast"):
        SecondLevelModel(mask_img=False).fit(models).compute_contrast()
    images, design = runs
    other = nib.Nifti1Image(images[0].get_fdata()[1:], np.eye(4))
    small = FirstLevelModel(mask_img=False, subject_label="small").fit(other, design_matrices=design)
    with pytest.raises(SpaceError, match="small"):
        SecondLevelModel().fit([*models, small])


def test_a_subject_that_lacks_the_first_level_contrast_is_named(runs):
    images, design = runs
    models = []
    for index, image in enumerate(images):
        own = design.rename(columns={"a": "other"}) if index in (1, 3) else design
        models.append(FirstLevelModel(mask_img=False, subject_label=f"p{index}").fit(image, design_matrices=own))
    second = SecondLevelModel(mask_img=False).fit(models)
    with pytest.raises(ContrastError, match=rf"'a' cannot be made for p1, p3 \(2 of {len(models)}\); of p1: .*'a'"):
        second.compute_contrast(first_level_contrast="a")


def test_another_repetition_time_in_the_header_is_told(runs):
    (image, *_), _ = runs
    image = nib.Nifti1Image(image.get_fdata(), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    events = pd.DataFrame({"onset": [5.0, 40.0], "duration": [4.0, 4.0], "trial_type": ["a", "a"]})
    with pytest.warns(UserWarning, match=r"t_r is 2\.0 s, but the header of run 1 says 2\.5 s"):
        FirstLevelModel(t_r=2.0, mask_img=False).fit(image, events)
    FirstLevelModel(t_r=2.5, mask_img=False).fit(image, events)


def test_a_rank_deficient_design_is_told_and_contrasts_it_leaves_open_refused(runs):
    (image, *_), design = runs
    model = FirstLevelModel(mask_img=False, noise_model="ols")
    with pytest.warns(UserWarning, match="design of 4 columns has rank 3"):
        model.fit(image, design_matrices=design.assign(c=design["a"] + design["b"]))
    with pytest.raises(ContrastError, match="not estimable"):
        model.compute_contrast("a")
    whole = FirstLevelModel(mask_img=False, noise_model="ols").fit(image, design_matrices=design)
    z = model.compute_contrast("a - b").get_fdata()
    np.testing.assert_allclose(z, whole.compute_contrast("a - b").get_fdata(), rtol=1e-9)
