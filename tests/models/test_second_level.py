"""SecondLevelModel against nilearn and statsmodels, over inputs and chunkings."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr
from click.testing import CliRunner
from cohorts import Cohort
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.glm.second_level import make_second_level_design_matrix as nilearn_design
from nilearn.image import resample_img, smooth_img
from nilearn.maskers import NiftiMasker
from sklearn.base import clone

import daskglm
from daskglm import SecondLevelModel
from daskglm.cli.main import main
from daskglm.errors import ContrastError, ImageError
from daskglm.io import nifti
from daskglm.schema.space import VolumeSpace

OUTPUTS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")


def designs(n: int) -> dict[str, tuple[pd.DataFrame, list]]:
    """The four designs of the textbook, with contrasts of each."""
    rng = np.random.default_rng(0)
    group = (np.arange(n) % 2).astype(float)
    pairs = {f"subject{k}": (np.arange(n) // 2 == k).astype(float) for k in range(n // 2)}
    return {
        "one sample": (pd.DataFrame({"intercept": np.ones(n)}), [None, "intercept"]),
        "two samples": (pd.DataFrame({"a": group, "b": 1 - group}), ["a - b", np.eye(2), [0.5, 0.5]]),
        "paired": (pd.DataFrame({"condition": 2 * group - 1, **pairs}), ["condition"]),
        "covariates": (
            pd.DataFrame({"age": rng.uniform(20, 80, n), "iq": rng.normal(100, 15, n), "intercept": 1.0}),
            ["age", "iq - age / 2", np.eye(3)[:2], "intercept"],
        ),
    }


def assert_same(ours, theirs, mask, name):
    x, y = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    assert x.shape == y.shape, name
    assert np.allclose(x[mask], y[mask], rtol=1e-8, atol=1e-8), (name, np.abs(x[mask] - y[mask]).max())
    assert np.allclose(ours.affine, theirs.affine)


@pytest.mark.parametrize("kind", designs(12))
def test_equals_nilearn(cohort, kind):
    design, contrasts = designs(12)[kind]
    ours = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=design)
    theirs = NilearnModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=design)
    for contrast in contrasts:
        for name in OUTPUTS:
            options = {"output_type": name}
            assert_same(
                ours.compute_contrast(contrast, **options),
                theirs.compute_contrast(contrast, **options),
                cohort.mask,
                (contrast, name),
            )
    everything = ours.compute_contrast(contrasts[-1], output_type="all")
    assert sorted(everything) == sorted(OUTPUTS)


@given(
    samples=st.sampled_from([1, 3, 5, 12]), voxels=st.sampled_from([1, 7, 40, 90]), kind=st.sampled_from([*designs(12)])
)
def test_any_chunking_equals_nilearn(tmp_path_factory, samples, voxels, kind):
    cohort = Cohort(tmp_path_factory.mktemp("chunks"), 12)
    design, contrasts = designs(12)[kind]
    space = daskglm.VolumeSpace.from_image(cohort.mask_img, cohort.mask)
    names = [f"image-{k}" for k in range(12)]
    images = daskglm.images_dataset(cohort.vectors, names, space).chunk(sample=samples, voxel=voxels)
    ours = SecondLevelModel(mask_img=cohort.mask_img).fit(images, design_matrix=design)
    theirs = NilearnModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=design)
    for contrast in contrasts:
        pairs = zip(
            ours.compute_contrast(contrast, output_type="all").items(),
            theirs.compute_contrast(contrast, output_type="all").items(),
            strict=True,
        )
        for (name, mine), (_, other) in pairs:
            assert_same(mine, other, cohort.mask, (contrast, name))


def test_missing_subjects_equal_statsmodels(gappy):
    model = SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.1).fit(gappy.paths, design_matrix=gappy.design)
    maps = model.compute_contrast("age", output_type="all")
    joint = model.compute_contrast("age, male", output_type="stat")
    count = model.fits_[None]["n"].values
    assert set(count) == {8, 11, 12}
    values = {name: np.asarray(image.dataobj)[gappy.mask] for name, image in maps.items()}
    f_values = np.asarray(joint.dataobj)[gappy.mask]
    data = gappy.data[:, gappy.mask].astype(float)
    for voxel in range(data.shape[1]):
        seen = np.isfinite(data[:, voxel])
        reference = sm.OLS(data[seen, voxel], gappy.design[seen].to_numpy()).fit()
        t = reference.t_test([1, 0, 0])
        assert np.isclose(values["stat"][voxel], t.tvalue.item(), rtol=1e-9)
        assert np.isclose(values["effect_size"][voxel], t.effect.item(), rtol=1e-9)
        assert np.isclose(2 * min(values["p_value"][voxel], 1 - values["p_value"][voxel]), t.pvalue, rtol=1e-8)
        assert np.isclose(f_values[voxel], reference.f_test(np.eye(3)[:2]).fvalue, rtol=1e-8)


def test_thin_voxels_are_nan_and_counted(gappy):
    model = SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.9).fit(gappy.paths, design_matrix=gappy.design)
    z = np.asarray(model.compute_contrast("age").dataobj)[gappy.mask]
    count = np.isfinite(gappy.data[:, gappy.mask]).sum(axis=0)
    assert np.array_equal(np.isnan(z), count < 0.9 * 12)


def test_zero_is_missing_on_request(cohort):
    data = cohort.data.copy()
    data[:4, 2, 2, 2] = 0
    images = [nib.Nifti1Image(volume, cohort.mask_img.affine) for volume in data]
    counts = {}
    for missing in ("nan", "zero"):
        model = SecondLevelModel(mask_img=cohort.mask_img, missing=missing).fit(images, design_matrix=cohort.design)
        counts[missing] = sorted(set(model.fits_[None]["n"].values.tolist()))
    assert counts == {"nan": [12], "zero": [8, 12]}


def inputs(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, store, mask=cohort.mask_img)
    images = [nib.load(path) for path in cohort.paths]
    four = nib.Nifti1Image(np.stack(list(cohort.data), axis=-1), images[0].affine)
    four_path, plain_path = str(tmp_path / "all.nii.gz"), str(tmp_path / "all.nii")
    four.to_filename(four_path)
    four.to_filename(plain_path)
    return {
        "paths": cohort.paths,
        "tuple": tuple(cohort.paths),
        "glob": str(cohort.folder / "sub-*.nii.gz"),
        "images": images,
        "one 4-D image": four,
        "one 4-D file": four_path,
        "one plain 4-D file": plain_path,
        "Series": pd.Series(cohort.paths),
        "store": store,
        "Dataset": xr.open_zarr(store),
        "loaded Dataset": xr.open_zarr(store).load(),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "paths",
        "tuple",
        "glob",
        "images",
        "one 4-D image",
        "one 4-D file",
        "one plain 4-D file",
        "Series",
        "store",
        "Dataset",
        "loaded Dataset",
    ],
)
def test_every_input_gives_the_same(cohort, tmp_path, kind):
    given_input = inputs(cohort, tmp_path)[kind]
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(given_input, design_matrix=cohort.design)
    reference = NilearnModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    z, expected = (np.asarray(m.compute_contrast("age").dataobj)[cohort.mask] for m in (model, reference))
    single = kind in ("store", "Dataset", "loaded Dataset")  # float32 at rest
    assert np.allclose(z, expected, atol=1e-5 if single else 1e-9)


@pytest.mark.filterwarnings("ignore:Attention. Design matrix is singular")  # nilearn's odd criterion
def test_dataframe_is_sorted_as_in_nilearn(cohort):
    order = np.random.default_rng(1).permutation(12)
    houses = []
    for index, path in enumerate(reversed(cohort.paths)):
        houses.append(str(cohort.folder / f"house_{index}.nii.gz"))
        nib.load(path).to_filename(houses[-1])
    table = pd.DataFrame(
        {
            "subject_label": [cohort.names[k] for k in order] * 2,
            "map_name": ["faces"] * 12 + ["houses"] * 12,
            "effects_map_path": [cohort.paths[k] for k in order] + [houses[k] for k in order],
        }
    )
    confounds = pd.DataFrame({"subject_label": cohort.names, "age": cohort.table["age"]}).sample(frac=1, random_state=0)
    ours = SecondLevelModel(mask_img=cohort.mask_img).fit(table, confounds=confounds)
    for name in ("faces", "houses"):
        # nilearn makes a design of twice the rows where a table has two maps a subject.
        theirs = NilearnModel(mask_img=cohort.mask_img).fit(table[table["map_name"] == name], confounds=confounds)
        assert np.array_equal(ours.design_matrix_.to_numpy(), theirs.design_matrix_.to_numpy())
        options = {"first_level_contrast": name, "output_type": "stat"}
        assert_same(
            ours.compute_contrast("age", **options), theirs.compute_contrast("age", **options), cohort.mask, name
        )
    with pytest.raises(ContrastError, match="faces, houses"):
        ours.compute_contrast("age", first_level_contrast="chairs")
    with pytest.raises(ContrastError, match="name one"):
        ours.compute_contrast("age")


@pytest.mark.parametrize("fwhm", [6.0, (4, 0, 8), None])
def test_smoothing_equals_nilearn(cohort, fwhm):
    ours = SecondLevelModel(mask_img=cohort.mask_img, smoothing_fwhm=fwhm).fit(
        cohort.paths, design_matrix=cohort.design
    )
    if isinstance(fwhm, tuple):  # nilearn's function takes three values, its model does not
        smoothed = [smooth_img(path, list(fwhm)) for path in cohort.paths]
        theirs = NilearnModel(mask_img=cohort.mask_img).fit(smoothed, design_matrix=cohort.design)
    else:
        options = {"mask_img": cohort.mask_img, "smoothing_fwhm": fwhm}
        theirs = NilearnModel(**options).fit(cohort.paths, design_matrix=cohort.design)
    assert_same(ours.compute_contrast("age"), theirs.compute_contrast("age"), cohort.mask, fwhm)


TREATMENTS = {
    "none": {},
    "smoothed": {"smoothing_fwhm": 8},
    "resampled": {"target_affine": np.diag([3.0, 3, 3])},
    "resampled and smoothed": {"target_affine": np.diag([3.0, 3, 3]), "smoothing_fwhm": 8},
}


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Maps that are 0 outside an ellipsoid of 2,973 voxels, in files."""
    folder, rng = tmp_path_factory.mktemp("brains"), np.random.default_rng(0)
    centre, radius = (np.array(axes).reshape(3, 1, 1, 1) for axes in ([12, 13, 11], [9, 10, 8]))
    inside = (((np.indices((24, 26, 22)) - centre) / radius) ** 2).sum(axis=0) < 1
    paths = [str(folder / f"sub-{k:02}_con.nii.gz") for k in range(8)]
    for path in paths:
        values = np.where(inside, 3 + rng.standard_normal(inside.shape), 0)
        nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])).to_filename(path)
    return paths, inside


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_mask_is_found_before_images_are_treated(brains, treatment, in_memory):
    """Smoothing fills what surrounds the brain: a mask of smoothed maps had twice the voxels of nilearn's."""
    paths, _ = brains
    images, options = [nib.load(path) for path in paths] if in_memory else paths, TREATMENTS[treatment]
    ours = SecondLevelModel(**options).fit(images, design_matrix=pd.DataFrame({"intercept": np.ones(8)}))
    theirs = NilearnModel(**options).fit(paths, design_matrix=pd.DataFrame({"intercept": np.ones(8)}))
    np.testing.assert_array_equal(np.asarray(ours.mask_img_.dataobj), np.asarray(theirs.masker_.mask_img_.dataobj))


def test_commands_and_stores_find_the_mask_before_smoothing(brains, tmp_path):
    paths, inside = brains
    outputs = [tmp_path / name for name in ("group", "permute", "store.zarr", "of_store")]
    smoothed = ["--smoothing-fwhm", "8"]
    model = ["--formula", "~ 1", "--contrast", "intercept", "--quiet", "--no-report", "--output"]
    for arguments in (
        ["group", *paths, *smoothed, *model, outputs[0]],
        ["permute", *paths, *smoothed, "--n-perm", "20", *model, outputs[1]],
        ["convert", *paths, *smoothed, "--quiet", "--output", outputs[2]],
        ["group", outputs[2], *model, outputs[3]],
    ):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    for output in (outputs[0], outputs[1], outputs[3]):
        np.testing.assert_array_equal(nib.load(output / "mask.nii.gz").get_fdata() > 0, inside)
    stored, fitted = (
        nib.load(output / "contrast-intercept_stat-t_statmap.nii.gz") for output in (outputs[3], outputs[0])
    )
    np.testing.assert_allclose(stored.get_fdata(), fitted.get_fdata(), rtol=1e-4)


def test_an_image_of_one_value_is_refused_although_smoothing_makes_it_vary(brains, tmp_path):
    paths, inside = brains
    path = str(tmp_path / "sub-99_con.nii.gz")
    nib.Nifti1Image(np.where(inside, 3.0, 0), nib.load(paths[0]).affine).to_filename(path)
    model = SecondLevelModel(nib.Nifti1Image(inside.astype(np.uint8), np.diag([4.0, 4, 4, 1])), smoothing_fwhm=8)
    with pytest.raises(ImageError, match=r"sub-99_con.nii.gz is 3 in all 2,973 voxels"):
        model.fit([*paths, path], design_matrix=pd.DataFrame({"intercept": np.ones(9)}))


@pytest.mark.parametrize("missing", ["nan", "zero"])
def test_smoothing_is_among_the_voxels_that_an_image_has(brains, missing):
    """By hand: the sum of weight x value over those there, by the sum of their weights."""
    paths, inside = brains
    grids = np.stack([nib.load(path).get_fdata() for path in paths])
    gap = np.zeros(inside.shape, bool)
    gap[11:13, 12:15, 10] = True
    lost = {"nan": np.nan, "zero": 0.0}[missing]
    grids[0][gap] = lost
    images = [nib.Nifti1Image(grid, np.diag([4.0, 4, 4, 1])) for grid in grids]
    mask = nib.Nifti1Image(inside.astype(np.uint8), images[0].affine)
    model = SecondLevelModel(mask, missing=missing, smoothing_fwhm=8)
    model.fit(images, design_matrix=pd.DataFrame({"intercept": np.ones(8)}))
    found = model.compute_contrast(output_type="effect_size").get_fdata()
    fit = model.fits_[None]
    assert (fit["n"].values < 8).sum() == gap.sum()
    seen = np.isfinite(grids) if missing == "nan" else grids != 0
    pieces = (np.where(seen, grids, 0.0), seen.astype(float))
    affine = images[0].affine
    blurred, weights = (
        np.stack([smooth_img(nib.Nifti1Image(x, affine), 8).get_fdata() for x in piece]) for piece in pieces
    )
    expected = np.where(seen, blurred / np.where(seen, weights, 1), np.nan)
    mean = np.nanmean(expected[:, inside], axis=0)
    np.testing.assert_allclose(found[inside], mean, rtol=1e-9)


def test_smoothed_voxels_that_were_missing_stay_missing(gappy):
    model = SecondLevelModel(mask_img=gappy.mask_img, smoothing_fwhm=6).fit(gappy.paths, design_matrix=gappy.design)
    assert set(model.fits_[None]["n"].values) == {8, 11, 12}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_resampling_equals_nilearn(cohort):
    """Each image as nilearn resamples it alone; its model clips values to the range of all images together."""
    grid = {
        "target_affine": np.array([[-2.0, 0, 0, 28], [0, 2.0, 0, -18], [0, 0, 3.0, -8], [0, 0, 0, 1]]),
        "target_shape": (9, 10, 6),
    }
    ours = SecondLevelModel(mask_img=cohort.mask_img, **grid).fit(cohort.paths, design_matrix=cohort.design)
    mask_img = NiftiMasker(mask_img=cohort.mask_img, **grid).fit().mask_img_
    mask = np.asarray(mask_img.dataobj) != 0
    images = [resample_img(path, interpolation="continuous", **grid) for path in cohort.paths]
    theirs = NilearnModel(mask_img=mask_img).fit(images, design_matrix=cohort.design)
    assert np.array_equal(np.asarray(ours.mask_img_.dataobj) != 0, mask)
    assert_same(ours.compute_contrast("age"), theirs.compute_contrast("age"), mask, "resampled")


@pytest.mark.parametrize("absent", [np.nan, 0.0])
def test_resampling_beside_missing_voxels(absent):
    """Voxels beside a gap have nearly the value that nilearn gives them in the whole image, not one nearer to 0."""
    rng, grid = np.random.default_rng(0), {"target_affine": np.diag([3.0, 3, 3, 1]), "target_shape": (8, 8, 8)}
    whole = 100 + rng.standard_normal((3, 12, 12, 12))
    values = whole.copy()
    values[1, 4:9, 4:9, 4:9] = absent
    images, complete = ([nib.Nifti1Image(y, np.diag([2.0, 2, 2, 1])) for y in ys] for ys in (values, whole))
    model = SecondLevelModel(mask_img=False, missing="zero", min_coverage=0.9, **grid)
    found = model.fit(images, design_matrix=pd.DataFrame({"intercept": np.ones(3)})).compute_contrast(
        "intercept", output_type="effect_size"
    )
    expected = np.mean([resample_img(image, **grid, force_resample=True).get_fdata() for image in complete], axis=0)
    inside = np.zeros((8, 8, 8), dtype=bool)
    inside[1:7, 1:7, 1:7] = True  # the grid of the images, less a voxel
    error = (found.get_fdata() - expected)[inside]
    assert np.isnan(error).sum() == 27
    assert np.nanmax(np.abs(error)) < 0.05


def test_masks(cohort, tmp_path):
    path = str(tmp_path / "mask.nii.gz")
    cohort.mask_img.to_filename(path)
    masker = NiftiMasker(mask_img=cohort.mask_img).fit()
    for mask in (cohort.mask_img, path, masker):
        model = SecondLevelModel(mask_img=mask).fit(cohort.paths, design_matrix=cohort.design)
        assert np.array_equal(np.asarray(model.mask_img_.dataobj) != 0, cohort.mask)
    # None: zeros outside the brain are no data.
    model = SecondLevelModel().fit(cohort.paths, design_matrix=cohort.design)
    assert np.array_equal(np.asarray(model.mask_img_.dataobj) != 0, cohort.mask)
    everything = SecondLevelModel(mask_img=False).fit(cohort.paths, design_matrix=cohort.design)
    assert everything.n_elements_ == cohort.mask.size
    z = np.asarray(everything.compute_contrast("age").dataobj)
    assert np.array_equal(np.isnan(z), ~cohort.mask)  # constant zero: no statistic
    with pytest.raises(ImageError, match="fitted"):
        SecondLevelModel(mask_img=NiftiMasker()).fit(cohort.paths, design_matrix=cohort.design)


def test_rows_are_matched_by_subject(cohort):
    truth = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    named = cohort.design.set_index(pd.Index(cohort.names)).sample(frac=1, random_state=3)
    shuffled = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths[::-1], design_matrix=named)
    bare = named.rename(index=lambda name: name.removeprefix("sub-"))
    without_prefix = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=bare)
    expected = np.asarray(truth.compute_contrast("age").dataobj)
    for model in (shuffled, without_prefix):
        assert np.allclose(np.asarray(model.compute_contrast("age").dataobj), expected, atol=1e-12)


def test_paired_images_of_one_subject(cohort):
    """Two files a subject are told apart by their names, and rows are then taken by order."""
    renamed = []
    for index, path in enumerate(cohort.paths):
        target = cohort.folder / f"sub-{index // 2:02d}_cond-{'AB'[index % 2]}_map.nii.gz"
        nib.load(path).to_filename(target)
        renamed.append(str(target))
    design, (contrast,) = designs(12)["paired"]
    ours = SecondLevelModel(mask_img=cohort.mask_img).fit(renamed, design_matrix=design).compute_contrast(contrast)
    theirs = NilearnModel(mask_img=cohort.mask_img).fit(renamed, design_matrix=design).compute_contrast(contrast)
    assert_same(ours, theirs, cohort.mask, "paired")


def test_formula_makes_the_design(cohort):
    ours = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, confounds=cohort.table, formula="~ age + sex")
    by_hand = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    for ours_name, by_hand_name in (("age", "age"), ("sex", "male"), ("`sex[T.M]` - age", "male - age")):
        z, expected = ours.compute_contrast(ours_name), by_hand.compute_contrast(by_hand_name)
        assert np.allclose(np.asarray(z.dataobj), np.asarray(expected.dataobj), atol=1e-10)


def test_memory_keeps_the_pass(cohort, tmp_path, monkeypatch):
    arguments = {"memory": str(tmp_path / "cache")}
    first = SecondLevelModel(**arguments).fit(cohort.paths, design_matrix=cohort.design)

    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("daskglm.graph.images.read_values", refuse)
    again = SecondLevelModel(**arguments).fit(cohort.paths, design_matrix=cohort.design)
    z, expected = (np.asarray(model.compute_contrast("age").dataobj) for model in (again, first))
    assert np.array_equal(z, expected)
    with pytest.raises(AssertionError, match="was read"):
        SecondLevelModel(**arguments).fit(cohort.paths, design_matrix=cohort.design[["age", "intercept"]])
    monkeypatch.undo()
    changed = nib.Nifti1Image(cohort.data[0] * 2, cohort.mask_img.affine)
    changed.to_filename(cohort.paths[0])
    other = SecondLevelModel(**arguments).fit(cohort.paths, design_matrix=cohort.design)
    assert not np.allclose(np.asarray(other.compute_contrast("age").dataobj), expected)


def test_a_contrast_reads_nothing(cohort, monkeypatch):
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    before = np.asarray(model.compute_contrast("age").dataobj)
    monkeypatch.setattr(nifti, "open", None, raising=False)
    for path in cohort.paths:
        open(path, "wb").close()
    again = np.asarray(model.compute_contrast("age").dataobj)
    assert np.array_equal(again, before)
    assert np.ptp(again[cohort.mask]) > 1


def test_estimator_conventions(cohort):
    model = SecondLevelModel(mask_img=cohort.mask_img, smoothing_fwhm=2.0)
    parameters = set(NilearnModel().get_params())
    assert parameters <= set(model.get_params())
    assert clone(model).get_params()["smoothing_fwhm"] == 2.0
    assert model.set_params(smoothing_fwhm=None).smoothing_fwhm is None
    with pytest.raises(Exception, match="not fitted"):
        model.compute_contrast("age")
    beta = model.fit_transform(cohort.paths, design_matrix=cohort.design)
    assert beta.shape == (3, cohort.mask.sum())
    assert np.allclose(beta, np.linalg.lstsq(cohort.design, cohort.vectors, rcond=None)[0], atol=1e-9)
    framed = model.set_output(transform="pandas").transform(cohort.paths)
    assert list(framed.index) == ["age", "male", "intercept"]
    assert list(framed.columns) == list(model.get_feature_names_out())
    assert np.array_equal(framed.to_numpy(), beta)


def test_metadata_routing():
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        model = SecondLevelModel().set_fit_request(confounds=True, design_matrix=True)
        requests = model.get_metadata_routing().fit.requests
    assert requests["confounds"] is True
    assert requests["design_matrix"] is True


def test_residuals_and_r_square_equal_nilearn(cohort):
    ours = SecondLevelModel(mask_img=cohort.mask_img, minimize_memory=False)
    theirs = NilearnModel(mask_img=cohort.mask_img, minimize_memory=False)
    for model in (ours, theirs):
        model.fit(cohort.paths, design_matrix=cohort.design)
    theirs.compute_contrast("age")
    for name in ("residuals_", "predicted_", "r_square_"):
        mine, other = np.asarray(getattr(ours, name).dataobj), np.asarray(getattr(theirs, name).dataobj)
        assert np.allclose(mine[cohort.mask], np.squeeze(other[cohort.mask]), atol=1e-9), name
    ours.set_params(minimize_memory=True).fit(cohort.paths, design_matrix=cohort.design)
    with pytest.raises(AttributeError, match="minimize_memory=False"):
        _ = ours.residuals_


def test_residuals_and_r_square_are_of_the_subjects_that_a_voxel_has(gappy):
    model = SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.1, minimize_memory=False)
    model.fit(gappy.paths, design_matrix=gappy.design)
    residuals, predicted, r_square = (
        np.asarray(getattr(model, name).dataobj)[gappy.mask] for name in ("residuals_", "predicted_", "r_square_")
    )
    data = gappy.data[:, gappy.mask].astype(float)
    for voxel in range(0, data.shape[1], 3):
        seen = np.isfinite(data[:, voxel])
        reference = sm.OLS(data[seen, voxel], gappy.design[seen].to_numpy()).fit()
        np.testing.assert_allclose(r_square[voxel], reference.rsquared, rtol=1e-9)
        np.testing.assert_allclose(predicted[voxel], reference.predict(gappy.design.to_numpy()), rtol=1e-9)
        np.testing.assert_allclose(residuals[voxel, seen], reference.resid, rtol=1e-7, atol=1e-9)
        assert np.isnan(residuals[voxel, ~seen]).all()
    assert np.isnan(data).sum() == np.isnan(residuals).sum() > 0


def test_several_contrasts_at_once(cohort):
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    many = model.compute_contrasts({"age": "age", "both": ["age", "male"], "mean": [0, 0, 1]}, output_type="stat")
    for name, definition in (("age", "age"), ("both", np.eye(3)[:2]), ("mean", "intercept")):
        single = model.compute_contrast(definition, output_type="stat")
        assert np.array_equal(np.asarray(many[name].dataobj), np.asarray(single.dataobj))


def test_a_single_row_can_be_an_f_contrast(cohort):
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    f = model.compute_contrast("age", second_level_stat_type="F", output_type="stat")
    t = model.compute_contrast("age", output_type="stat")
    assert np.allclose(np.asarray(f.dataobj), np.asarray(t.dataobj) ** 2)
    with pytest.raises(ContrastError, match="one row"):
        model.compute_contrast("age, male", second_level_stat_type="t")


@pytest.mark.filterwarnings("ignore:Attention. Design matrix is singular")
@pytest.mark.parametrize("confounds", [None, "some"])
def test_design_equals_nilearn(confounds):
    labels = ["c", "a", "b", "d"]
    table = None
    if confounds:
        table = pd.DataFrame({"subject_label": list("abcd"), "age": [1.0, 5, 3, 2], "iq": [9.0, 7, 3, 4]})
    ours, theirs = daskglm.make_second_level_design_matrix(labels, table), nilearn_design(labels, table)
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_series_names_its_images(cohort):
    design = cohort.design.set_index(pd.Index(cohort.names))
    images = pd.Series([nib.load(path) for path in cohort.paths], index=cohort.names)
    truth = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(images.iloc[::-1], design_matrix=design)
    z, expected = (np.asarray(item.compute_contrast("age").dataobj) for item in (model, truth))
    assert np.allclose(z, expected, atol=1e-12)


def test_memory_tells_data_apart(cohort, tmp_path):
    """Two stores of the same files, one smoothed, and a transformed dataset share a cache without sharing results."""
    stores = {fwhm: str(tmp_path / f"{fwhm}.zarr") for fwhm in (None, 6)}
    for fwhm, path in stores.items():
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img, smoothing_fwhm=fwhm)
    opened = xr.open_zarr(stores[None])
    inputs_of = {"plain": stores[None], "smooth": stores[6], "log": opened.assign(data=np.log(opened["data"] + 100))}
    inputs_of["loaded"] = inputs_of["log"].load()
    memory = str(tmp_path / "cache")
    for name, given_input in inputs_of.items():
        with_cache, again, without = (
            np.asarray(
                SecondLevelModel(memory=folder)
                .fit(given_input, design_matrix=cohort.design)
                .compute_contrast("age")
                .dataobj
            )
            for folder in (memory, memory, None)
        )
        assert np.array_equal(with_cache, without), name
        assert np.array_equal(again, without), name


def test_coverage_of_a_round_fraction():
    from daskglm.graph.glm import fewest

    assert [fewest(0.55, 100), fewest(0.5, 5), fewest(0.0, 9), fewest(1.0, 9), fewest(0.07, 100)] == [55, 3, 1, 9, 7]


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_f_of_a_raw_cubic_of_the_year_is_that_of_a_centred_one(noise_model):
    """Group, first level and permutation test the same three dimensions; the centred design is well conditioned."""
    rng = np.random.default_rng(31)
    year = np.repeat(np.arange(2005.0, 2016), 5)
    values = rng.standard_normal((year.size, 4)) + 0.1 * (year[:, None] - 2010) ** 2
    images = xr.Dataset(
        {"data": (("sample", "voxel"), values)},
        coords={"sample": [f"sub-{k:02}" for k in range(year.size)], "voxel": range(4)},
        attrs={"space": VolumeSpace.from_image(nib.Nifti1Image(np.ones((4, 1, 1)), np.eye(4))).attributes()},
    )
    raw = pd.DataFrame({"linear": year, "square": year**2, "cube": year**3, "intercept": 1.0})
    centred = raw.assign(linear=year - 2010, square=(year - 2010) ** 2, cube=(year - 2010) ** 3)
    fits = [daskglm.fit_glm(images.chunk(sample=11), design, noise_model=noise_model) for design in (raw, centred)]
    found, expected = (daskglm.compute_contrasts(fit, {"year": "linear, square, cube"}).stat.values for fit in fits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if noise_model == "ols":
        by_hand = [sm.OLS(voxel, centred).fit().f_test(np.eye(4)[:3]).fvalue for voxel in values.T]
        np.testing.assert_allclose(found[0], by_hand, rtol=1e-5)


@pytest.mark.parametrize("apart", [1e5, 1e8])
def test_sites_in_other_units_keep_nilearns_digits(apart):
    """Two scanners whose values are 1e8 standard deviations apart: t was NaN, with nilearn's 5e-7 it is compared."""
    rng = np.random.default_rng(32)
    site, age = np.arange(40) % 2, rng.uniform(20, 80, 40)
    data = rng.standard_normal((40, 3, 3, 2)) + (apart * site + 0.02 * age)[:, None, None, None]
    design = pd.DataFrame({"age": age, "site": site, "intercept": 1.0})
    centred = data - apart * site[:, None, None, None]
    mask_img = nib.Nifti1Image(np.ones((3, 3, 2), np.uint8), np.eye(4))
    images = [nib.Nifti1Image(grid, np.eye(4)) for grid in data]
    found = SecondLevelModel(mask_img).fit(images, design_matrix=design).compute_contrast("age", output_type="stat")
    exact = [sm.OLS(grid, design).fit().tvalues["age"] for grid in centred.reshape(40, -1).T]
    theirs = NilearnModel(mask_img).fit(images, design_matrix=design).compute_contrast("age", output_type="stat")
    error, other = (np.abs(np.asarray(t.dataobj).ravel() / exact - 1).max() for t in (found, theirs))
    assert error < 10 * other + 1e-9


def test_design_tables_are_designs_again(cohort, tmp_path):
    """As `group` writes them, in any order of the images."""
    out = tmp_path / "out"
    arguments = ["--formula", "~ age + C(sex)", "--contrast", "age", "--output", out, "--quiet", "--no-report"]
    done = CliRunner().invoke(
        main, list(map(str, ["group", *cohort.paths, "--participants", cohort.table_path, *arguments]))
    )
    assert done.exit_code == 0, done.output
    written = nib.load(out / "contrast-age_stat-t_statmap.nii.gz").get_fdata()
    model = SecondLevelModel(cohort.mask_img).fit(cohort.paths[::-1], design_matrix=str(out / "design.tsv"))
    again = model.compute_contrast("age", output_type="stat").get_fdata()
    np.testing.assert_allclose(again[cohort.mask], written[cohort.mask], rtol=1e-6)
