"""Bad input: an error that names the rule, the values and the remedy, before the work starts."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import daskglm
from daskglm import SecondLevelModel
from daskglm.errors import (
    ContrastError,
    CorruptImageError,
    DaskGLMError,
    DesignError,
    ImageError,
    ParameterError,
    SpaceError,
)


def fit(cohort, paths=None, design=None, **options):
    options.setdefault("mask_img", cohort.mask_img)
    model = SecondLevelModel(**options)
    return model.fit(
        cohort.paths if paths is None else paths, design_matrix=cohort.design if design is None else design
    )


def with_column(cohort, **columns):
    return cohort.design.assign(**columns)


DESIGNS = {
    "fewer rows": (lambda c: c.design.iloc[:11], "11 rows and there are 12 images"),
    "NaN": (lambda c: with_column(c, age=[np.nan, *range(11)]), "'age' has in rows 0"),
    "infinity": (lambda c: with_column(c, age=[np.inf, *range(11)]), "'age' has in rows 0"),
    "text": (lambda c: with_column(c, site=list("ab" * 6)), "site of the design are not numeric"),
    "zero column": (lambda c: with_column(c, nothing=0.0), "nothing of the design are zero"),
    "two constants": (lambda c: with_column(c, two=2.0), "intercept, two of the design are all constant"),
    "rank deficient": (lambda c: with_column(c, female=1 - c.design["male"]), "male, intercept, female .* dependent"),
    "no column": (lambda c: pd.DataFrame(index=range(12)), "at least one column"),
    "same name twice": (lambda c: pd.concat([c.design, c.design[["age"]]], axis=1), "age occur more than once"),
    "unknown subject": (lambda c: c.design.set_index(pd.Index([*c.names[:11], "sub-99"])), "no row: sub-12.*sub-99"),
    "subject twice": (lambda c: c.design.set_index(pd.Index([*c.names[:11], "sub-01"])), "sub-01 occur"),
    "an array": (lambda c: c.design.to_numpy(), "DataFrame"),
}


@pytest.mark.parametrize("fault", DESIGNS)
def test_designs(cohort, monkeypatch, fault):
    make, message = DESIGNS[fault]
    monkeypatch.setattr("daskglm.graph.images.read_values", None)  # the pass never starts
    with pytest.raises(DesignError, match=message):
        fit(cohort, design=make(cohort))


def test_as_many_columns_as_images(cohort):
    """Both warn, as nilearn runs; a permutation test has nothing to permute."""
    design = pd.DataFrame(np.random.default_rng(0).standard_normal((12, 12))).rename(columns=str)
    with pytest.warns(UserWarning, match="rank 12 saturates 12 images"):
        fit(cohort, design=design)
    with pytest.warns(UserWarning, match="saturates 12 images"):
        p = daskglm.non_parametric_inference(cohort.paths, design_matrix=design, second_level_contrast="0", n_perm=5)
    assert np.isnan(np.asarray(p.dataobj)[cohort.mask]).all()


def test_one_subject(cohort):
    with pytest.raises(DesignError, match="at least two images, but there is 1"):
        fit(cohort, cohort.paths[:1], cohort.design.iloc[:1])


def rewrite(path, change):
    image = nib.load(path)
    data, affine = change(np.asarray(image.dataobj), image.affine.copy())
    nib.Nifti1Image(data, affine).to_filename(path)


def shifted(data, affine):
    affine[0, 3] += 3
    return data, affine


def flipped(data, affine):
    affine[0] *= -1
    return data, affine


IMAGES = {
    "shifted": (shifted, SpaceError, r"sub-05.* affine[\s\S]*33\.0[\s\S]*30\.0"),
    "flipped": (flipped, SpaceError, r"sub-05.* affine[\s\S]*\[3\.0, [\s\S]*\[-3\.0, "),
    "other shape": (lambda d, a: (d[:, :-1], a), SpaceError, r"sub-05.* shape \(7, 7, 5\) where \(7, 8, 5\)"),
    "4-D": (lambda d, a: (np.stack([d, d], -1), a), SpaceError, r"sub-05.*\(7, 8, 5, 2\)"),
}


@pytest.mark.parametrize("fault", IMAGES)
def test_images_on_other_grids(cohort, monkeypatch, fault):
    change, kind, message = IMAGES[fault]
    rewrite(cohort.paths[4], change)
    monkeypatch.setattr("daskglm.graph.images.read_values", None)
    with pytest.raises(kind, match=message):
        fit(cohort)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped bit", "missing"])
def test_damaged_files(cohort, damage):
    path = cohort.paths[4]
    whole = bytearray(Path(path).read_bytes())
    if damage == "missing":
        Path(path).unlink()
    else:
        whole[len(whole) // 2] ^= 1
        whole = {"truncated": whole[:-50], "empty": b"", "flipped bit": whole}[damage]
        Path(path).write_bytes(whole)
    with pytest.raises(CorruptImageError, match=r"sub-05.*restore"):
        fit(cohort)


def test_the_same_image_twice(cohort):
    with pytest.raises(ImageError, match=r"given twice: .*sub-01"):
        fit(cohort, [*cohort.paths[:11], cohort.paths[0]])


@pytest.mark.filterwarnings("ignore:images of different subjects")
def test_nothing_finite_anywhere(cohort):
    for path in cohort.paths:
        rewrite(path, lambda d, a: (np.full_like(d, np.nan), a))
    with (
        pytest.raises(ImageError, match="has no finite value in the mask"),
        pytest.warns(UserWarning, match="have the same bytes"),
    ):
        fit(cohort)
    with pytest.raises(ImageError, match="has no finite value in the mask"):
        fit(cohort, mask_img=None)


def test_one_image_without_a_finite_value_is_named(cohort):
    rewrite(cohort.paths[6], lambda d, a: (np.full_like(d, np.nan), a))
    with pytest.raises(ImageError, match=r"sub-07.*no finite value"):
        fit(cohort)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("stacked", [False, True])
def test_an_image_in_memory_that_is_the_same_everywhere_is_named(cohort, value, stacked):
    images = [nib.load(path) for path in cohort.paths]
    grids = [np.asarray(image.dataobj) for image in images]
    grids[3] = np.full_like(grids[3], value)
    affine = images[0].affine
    given = [nib.Nifti1Image(grid, affine) for grid in grids]
    if stacked:
        given = nib.Nifti1Image(np.stack(grids, axis=-1), affine)
    with pytest.raises(ImageError, match=rf"image 3 is {value:g} in all"):
        fit(cohort, given)


def test_no_voxel_with_enough_images(gappy):
    for index, path in enumerate(gappy.paths):
        rewrite(path, lambda d, a, k=index: (np.where(np.arange(d.size).reshape(d.shape) % 12 == k, d, np.nan), a))
    with pytest.raises(ImageError, match=r"no voxel .*best has 1 of 12"):
        fit(gappy)
    with pytest.raises(ImageError, match="no voxel is finite and non-zero in 50% of the 12 images"):
        fit(gappy, mask_img=None)


def test_masks(cohort, tmp_path):
    empty = nib.Nifti1Image(np.zeros(cohort.mask.shape, np.uint8), cohort.mask_img.affine)
    with pytest.raises(SpaceError, match="at least one voxel"):
        fit(cohort, mask_img=empty)
    labels = cohort.mask * (1 + np.arange(cohort.mask.size).reshape(cohort.mask.shape) % 3)
    for values in (labels, -labels, labels / 7, labels + 1, np.where(cohort.mask, labels, np.nan)):
        several = nib.Nifti1Image(values.astype(np.float32), cohort.mask_img.affine)
        several.to_filename(tmp_path / "several.nii")
        for given in (several, str(tmp_path / "several.nii")):
            with pytest.raises(ImageError, match=r"0 outside and one other value inside, but the mask .*has several"):
                fit(cohort, mask_img=given)
    elsewhere = nib.Nifti1Image(cohort.mask.astype(np.uint8), np.eye(4))
    with pytest.raises(SpaceError, match="the mask has the affine"):
        fit(cohort, mask_img=elsewhere)
    with pytest.raises(CorruptImageError, match=r"nowhere\.nii\.gz: no such file; restore it or give another mask$"):
        fit(cohort, mask_img=str(tmp_path / "nowhere.nii.gz"))


def test_zero_variance_voxel(cohort):
    cohort.data[:, 2, 2, 2] = 5.0
    images = [nib.Nifti1Image(volume, cohort.mask_img.affine) for volume in cohort.data]
    maps = fit(cohort, images).compute_contrast("age", output_type="all")
    for name in ("stat", "z_score", "p_value"):
        values = np.array(maps[name].dataobj)
        assert np.isnan(values[2, 2, 2])
        values[2, 2, 2] = 0
        assert np.isfinite(values).all()


def test_contrasts(cohort):
    model = fit(cohort)
    with pytest.raises(ContrastError, match=r"'agee'.*did you mean 'age'\?.*age, male, intercept"):
        model.compute_contrast("agee")
    with pytest.raises(ContrastError, match="null"):
        model.compute_contrast("age - age")
    with pytest.raises(ContrastError, match="null"):
        model.compute_contrast([0, 0, 0])
    with pytest.raises(ContrastError, match=r"\(q, 3\), but these have \(1, 4\)"):
        model.compute_contrast([1, 0, 0, 0])
    with pytest.raises(ContrastError, match="several columns: age, male, intercept"):
        model.compute_contrast()
    with pytest.raises(ContrastError, match="output_type must be 'z_score'"):
        model.compute_contrast("age", output_type="zscore")
    with pytest.raises(ContrastError, match="'t' or 'F'"):
        model.compute_contrast("age", second_level_stat_type="z")


def test_contrast_that_is_not_estimable(cohort):
    design = cohort.design.assign(female=1 - cohort.design["male"])
    model = fit(cohort, design=design, allow_rank_deficient=True)
    with pytest.raises(ContrastError, match="'male' is not estimable"):
        model.compute_contrast("male")
    z = model.compute_contrast("male - female")
    expected = fit(cohort).compute_contrast("male")
    assert np.allclose(np.asarray(z.dataobj), np.asarray(expected.dataobj), atol=1e-9)


def test_inputs_of_the_wrong_kind(cohort):
    with pytest.raises(ImageError, match="Series or an images dataset, but got int"):
        fit(cohort, 3)
    with pytest.raises(ImageError, match="list is empty"):
        fit(cohort, [])
    with pytest.raises(ImageError, match="no file matches"):
        fit(cohort, str(cohort.folder / "nothing*.nii"))
    with pytest.raises(DesignError, match="need a design"):
        SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths)
    with pytest.raises(ParameterError, match="'nan' or 'zero'"):
        fit(cohort, missing="zeros")
    with pytest.raises(ParameterError, match="from 0 to 1"):
        fit(cohort, min_coverage=10)
    with pytest.raises(SpaceError, match="goes with target_affine"):
        fit(cohort, target_shape=(3, 3, 3))
    for name, value in [
        ("smoothing_fwhm", -4), ("smoothing_fwhm", np.nan), ("smoothing_fwhm", "fast"), ("smoothing_fwhm", (1, 2)),
        ("target_affine", "x"), ("mask_img", 5), ("n_jobs", 0),
    ]:  # fmt: skip
        with pytest.raises(ParameterError, match=name):
            fit(cohort, **{name: value})
    with pytest.raises(ImageError, match="3-D or 4-D"):
        fit(cohort, [nib.Nifti1Image(np.ones((3, 3)), np.eye(4))] * 1)
    image = nib.load(cohort.paths[0])
    with pytest.warns(UserWarning, match="11 of 12 images in memory are given more than once"):
        fit(cohort, [image] * 12)
    with pytest.raises(ImageError, match="twice"):
        fit(
            cohort,
            [
                *cohort.paths[:11],
                str(cohort.folder / "." / ".." / cohort.folder.name / "sub-01_stat-effect_statmap.nii.gz"),
            ],
        )


def test_tables_of_images(cohort):
    table = pd.DataFrame({"subject_label": cohort.names, "map_name": "m", "effects_map_path": cohort.paths})
    with pytest.raises(ImageError, match="lacks map_name"):
        SecondLevelModel().fit(table.drop(columns="map_name"))
    with pytest.raises(ImageError, match="repeats: sub-01"):
        SecondLevelModel().fit(table.assign(subject_label=["sub-01", *cohort.names[:11]]))
    with pytest.raises(ImageError, match="subject_label is text, but it has 0, 1"):
        SecondLevelModel().fit(table.assign(subject_label=range(12)))
    swapped = table.assign(effects_map_path=[cohort.paths[1], cohort.paths[0], *cohort.paths[2:]])
    with pytest.raises(ImageError, match=r"pairs sub-01: .*sub-02"):
        SecondLevelModel(mask_img=cohort.mask_img).fit(swapped)
    more = pd.concat([table, table.iloc[:11].assign(map_name="n")])
    with pytest.raises(ImageError, match="sub-12 lack 'n'"):
        SecondLevelModel(mask_img=cohort.mask_img).fit(more)


def test_stores(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    with pytest.raises(ImageError, match="smoothing_fwhm needs whole images"):
        SecondLevelModel(smoothing_fwhm=4).fit(path, design_matrix=cohort.design)
    with pytest.raises(DesignError, match="participants table"):
        SecondLevelModel().fit(path, formula="~ age")
    with pytest.warns(UserWarning, match="1 row of the participants table has no image and is not used: sub-13"):
        SecondLevelModel().fit(
            path,
            confounds=pd.concat([cohort.table, cohort.table.iloc[:1].assign(participant_id="sub-13")]),
            formula="~ age",
        )


def test_every_error_is_ours_and_a_builtin():
    from daskglm import errors

    raised = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    classes = [item for item in raised if not issubclass(item, Warning)]
    assert len(classes) > 8
    for item in classes:
        assert issubclass(item, DaskGLMError)
        assert item is DaskGLMError or issubclass(item, (ValueError, OSError, ImportError, MemoryError, RuntimeError))
