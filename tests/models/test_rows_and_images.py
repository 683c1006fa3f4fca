"""Each row with its own image, whatever names and orders both come in; statsmodels has the values."""

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import daskglm
from daskglm import SecondLevelModel, non_parametric_inference, permutation_test
from daskglm.errors import DesignError, ImageError
from daskglm.schema.datasets import space_of

N = 12
AFFINE = np.diag([2.0, 2, 2, 1])
RNG = np.random.default_rng(7)
AGE = RNG.uniform(20, 60, N).round(1)
DATA = RNG.standard_normal((N, 3, 4, 2)) + 0.05 * AGE[:, None, None, None]
DESIGN = pd.DataFrame({"age": AGE, "intercept": 1.0})
ORDER = RNG.permutation(N)
NUMBERS = np.arange(101, 101 + N)
TEXTS = [f"P{k:03d}" for k in range(1, N + 1)]
T = sm.OLS(DATA[:, 1, 1, 1], DESIGN).fit().tvalues["age"]


def files(folder, names):
    paths = []
    for values, name in zip(DATA, names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(values, AFFINE).to_filename(path)
        paths.append(str(path))
    return paths


def t_of(images, design, **given):
    model = SecondLevelModel(mask_img=False).fit(images, design_matrix=design, **given)
    return float(np.asarray(model.compute_contrast("age", output_type="stat").dataobj)[1, 1, 1])


def shuffled(labels, name=None):
    return DESIGN.set_axis(pd.Index(labels, name=name)).iloc[ORDER]


DESIGNS = {
    "numbers under a name": lambda: shuffled(NUMBERS, "participant_id"),
    "numbers": lambda: shuffled(NUMBERS),
    "floats": lambda: shuffled(NUMBERS.astype(float), "participant_id"),
    "floats without a name": lambda: shuffled(NUMBERS.astype(float)),
    "text": lambda: shuffled([f"sub-{k}" for k in NUMBERS]),
    "a column of numbers": lambda: DESIGN.assign(participant_id=NUMBERS).iloc[ORDER].reset_index(drop=True),
    "a column of text": lambda: DESIGN.assign(subject_label=[f"0{k}" for k in NUMBERS]).iloc[ORDER],
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_ids_of_the_design_in_any_form(tmp_path, kind):
    paths = files(tmp_path, [f"sub-{k}_con.nii" for k in NUMBERS])
    design = DESIGNS[kind]()
    assert t_of(paths, design) == pytest.approx(T, abs=1e-10)
    assert t_of(str(tmp_path / "*.nii"), design) == pytest.approx(T, abs=1e-10)
    store = str(tmp_path / "all.zarr")
    daskglm.convert(paths, store, mask=False)
    assert t_of(store, design) == pytest.approx(T, abs=1e-5)
    image = non_parametric_inference(
        paths, design_matrix=design, second_level_contrast="age", mask=False, n_perm=2, threshold=0.1
    )["t"]
    assert np.asarray(image.dataobj)[1, 1, 1] == pytest.approx(T, abs=1e-5)


@pytest.mark.parametrize("names", ["{}_con.nii", "{}/con_0001.nii", "{}/stats/con_0001.nii"])
def test_ids_in_names_of_files_and_folders(tmp_path, names):
    paths = files(tmp_path, [names.format(text) for text in TEXTS])
    assert t_of(paths, shuffled(TEXTS)) == pytest.approx(T, abs=1e-10)
    assert t_of([nib.load(path) for path in paths], shuffled(TEXTS)) == pytest.approx(T, abs=1e-10)


def test_a_series_has_its_own_ids(tmp_path):
    paths = files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    for images in (paths, [nib.Nifti1Image(values, AFFINE) for values in DATA]):
        assert t_of(pd.Series(images, index=NUMBERS), shuffled(NUMBERS)) == pytest.approx(T, abs=1e-10)
        assert t_of(pd.Series(images).iloc[ORDER], DESIGN) == pytest.approx(T, abs=1e-10)
        assert t_of(pd.Series(images).iloc[ORDER], DESIGN.iloc[::-1]) == pytest.approx(T, abs=1e-10)


def test_a_series_whose_ids_are_not_those_of_its_files(tmp_path):
    paths = files(tmp_path, [f"sub-{k}.nii" for k in NUMBERS])
    with pytest.raises(ImageError, match=r"pairs 101: .*sub-112"):
        t_of(pd.Series(paths[::-1], index=[str(k) for k in NUMBERS]), DESIGN)


def test_a_table_of_images_is_sorted_but_its_design_is_not(tmp_path):
    paths = files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    labels = [f"s{k}" for k in range(1, N + 1)]
    table = pd.DataFrame({"subject_label": labels, "map_name": "m", "effects_map_path": paths})
    assert t_of(table, shuffled(labels)) == pytest.approx(T, abs=1e-10)
    confounds = pd.DataFrame({"subject_label": labels, "age": AGE}).iloc[ORDER]
    assert t_of(table, None, confounds=confounds) == pytest.approx(T, abs=1e-10)
    with pytest.raises(DesignError, match=r"\(0, 1, 2, 3 and 8 more\) have no ids.*\(s1, s10, s11, s12 and 8 more\)"):
        t_of(table, DESIGN)
    # Where sorting changes nothing nilearn's habit is unambiguous.
    assert t_of(table.assign(subject_label=TEXTS), DESIGN) == pytest.approx(T, abs=1e-10)


def test_a_glob_whose_order_is_by_number(tmp_path):
    files(tmp_path, [f"sub-{k}.nii" for k in range(1, N + 1)])
    pattern = str(tmp_path / "*.nii")
    assert t_of(pattern, shuffled(range(1, N + 1), "participant_id")) == pytest.approx(T, abs=1e-10)
    with pytest.raises(DesignError, match=r"have no ids.*\(sub-1, sub-2, sub-3, sub-4 and 8 more\)"):
        t_of(pattern, DESIGN)


def test_ids_that_no_image_has_are_refused(tmp_path):
    paths = files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    with pytest.raises(DesignError, match=r"none of its 12 ids \(P001, .*\) is that of one of the 12 images \(map_a, "):
        t_of(paths, DESIGN.set_axis(TEXTS))
    with pytest.raises(DesignError, match=r"none of its 6 ids \(0, 2, .*reset_index\(drop=True\)"):
        t_of(files(tmp_path, [f"sub-{k}.nii" for k in NUMBERS])[::2], DESIGN.iloc[::2])


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["sub-101", np.nan, *[f"sub-{k}" for k in NUMBERS[2:]]], "nan"),
        ([f"sub-{k}".encode() for k in NUMBERS], "b'sub-1"),
        (pd.date_range("2020-01-01", periods=N), "2020-01-"),
        (NUMBERS > 106, "True|False"),
        ([f"sub-{k}" for k in NUMBERS[:-1]] + [1.5], "1.5"),
    ],
)
def test_labels_that_are_no_ids_are_no_order_either(tmp_path, labels, shown):
    paths = files(tmp_path, [f"sub-{k}.nii" for k in NUMBERS])
    with pytest.raises(DesignError, match=f"the labels of some are .*({shown}).*reset_index"):
        t_of(paths, shuffled(labels))
    assert t_of(paths, DESIGN.set_axis(labels).reset_index(drop=True)) == pytest.approx(T, abs=1e-10)


@pytest.mark.parametrize("kind", ["in memory", "names without ids"])
def test_a_design_that_was_sorted_beside_images_without_ids_is_told(tmp_path, kind):
    images = [nib.Nifti1Image(values, AFFINE) for values in DATA]
    images = images if kind == "in memory" else files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    model = SecondLevelModel(mask_img=False)
    with pytest.warns(UserWarning, match="rows of the design .* are taken in the order of the images; check"):
        model.fit([images[k] for k in ORDER], design_matrix=DESIGN.iloc[ORDER])
    t = np.asarray(model.compute_contrast("age", output_type="stat").dataobj)[1, 1, 1]
    assert t == pytest.approx(T, abs=1e-10)


def test_ids_of_several_types_in_one_index(tmp_path):
    paths = files(tmp_path, [f"sub-{k}.nii" for k in NUMBERS])
    labels = [[f"sub-{k}", int(k), float(k)][k % 3] for k in NUMBERS]
    assert t_of(paths, shuffled(labels)) == pytest.approx(T, abs=1e-10)


@pytest.mark.parametrize("name", ["subject", "Subject_ID", "id", "Participant ID"])
def test_ids_under_another_name_are_no_regressor(tmp_path, name):
    paths = files(tmp_path, [f"sub-{k}.nii" for k in NUMBERS])
    with pytest.raises(DesignError, match=f"column '{name}' of the design looks like ids.*call it participant_id"):
        t_of(paths, DESIGN.assign(**{name: NUMBERS}))
    with pytest.raises(DesignError, match=f"column '{name}' of the design looks like ids"):
        t_of(paths, DESIGN.assign(**{name: np.repeat(NUMBERS[:6], 2)}))
    t_of(paths, DESIGN.assign(**{name: [0.0, 1.0] * 6, "sub-1": [1.0, 0.0, -1.0] * 4}))


def test_order_alone_is_told_in_the_report(tmp_path):
    pytest.importorskip("matplotlib")
    paths = files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    for design, told in ((DESIGN, "by order"), (DESIGN.set_axis([f"map_{chr(97 + k)}" for k in range(N)]), "by id")):
        assert t_of(paths, design) == pytest.approx(T, abs=1e-10)
        model = SecondLevelModel(mask_img=False).fit(paths, design_matrix=design)
        assert model.design_matrix_.attrs["rows"] == told
    with pytest.warns(UserWarning, match=r"have no ids: rows of the design \(P001, .*taken in the order"):
        assert t_of([nib.Nifti1Image(values, AFFINE) for values in DATA], DESIGN.set_axis(TEXTS)) == pytest.approx(T)


def test_beta_series_match_by_trial(tmp_path):
    trials = [f"face_{k}" for k in range(1, N + 1)]
    space = space_of(SecondLevelModel(mask_img=False).fit([nib.Nifti1Image(x, AFFINE) for x in DATA], None, DESIGN)
                     .fits_[None])  # fmt: skip
    images = daskglm.images_dataset(np.stack([x.ravel(order="F") for x in DATA]), trials, space)
    maps = daskglm.compute_contrasts(daskglm.fit_glm(images, shuffled(trials)), {"age": "age"})
    assert np.asarray(space.to_image(maps["stat"].values[0]).dataobj)[1, 1, 1] == pytest.approx(T, abs=1e-10)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    daskglm.convert(files(folder, [f"sub-{k}.nii" for k in NUMBERS]), str(folder / "all.zarr"), mask=False)
    return daskglm.open_images(str(folder / "all.zarr"))


TABLE = DESIGN.assign(
    site=np.repeat(["a", "b", "c"], 4),
    family=np.repeat(list("uvwxyz"), 2),
    w=RNG.uniform(0.2, 3, N),
    sex=[0.0, 1.0] * 6,
    participant_id=NUMBERS,
).set_index("participant_id")


@pytest.mark.parametrize("order", ["of the design", "another"])
def test_weights_follow_the_rows(images, order):
    table = TABLE.iloc[ORDER]
    design, weights = table[["age", "intercept"]], table["w"]
    expected = sm.WLS(DATA[:, 1, 1, 1], DESIGN, weights=TABLE["w"].to_numpy()).fit().tvalues["age"]
    weights = weights if order == "of the design" else weights.iloc[::-1]
    for given in (weights, weights.to_frame(), weights.reset_index()):
        maps = daskglm.compute_contrasts(daskglm.fit_glm(images, design, weights=given), {"age": "age"})
        t = np.asarray(space_of(images).to_image(maps["stat"].values[0]).dataobj)[1, 1, 1]
        assert t == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DesignError, match="values of weights have no ids"):
        daskglm.fit_glm(images, design, weights=weights.to_numpy())


@pytest.mark.parametrize("blocks", ["within", "whole", "variance_groups"])
def test_blocks_follow_the_rows(images, blocks):
    """The same test, given in the order of the images as arrays: an order nobody can confuse."""
    options = {"n_perm": 30, "rearrangement": "sign_flip" if blocks == "variance_groups" else "permutation"}
    plain, column = TABLE.reset_index(drop=True), "family" if blocks == "whole" else "site"
    expected = permutation_test(
        images, plain[["age", "intercept"]], {"age": "age"}, **{blocks: plain[column].to_numpy()}, **options
    )
    table = TABLE.iloc[ORDER]
    for values in (table[column], table[column].iloc[::-1], TABLE[column]):
        found = permutation_test(images, table[["age", "intercept"]], {"age": "age"}, **{blocks: values}, **options)
        np.testing.assert_array_equal(found["h0_max_stat"], expected["h0_max_stat"])
        np.testing.assert_array_equal(found["stat"], expected["stat"])
    with pytest.raises(DesignError, match=f"values of {blocks} have no ids"):
        permutation_test(
            images, table[["age", "intercept"]], {"age": "age"}, **{blocks: table[column].to_numpy()}, **options
        )


def test_blocks_follow_rows_that_have_no_image(images):
    several = pd.concat([TABLE, TABLE.iloc[:2].set_axis([900, 901])]).sample(frac=1, random_state=0)
    several.index.name = "participant_id"
    few = images.isel(sample=range(3, N))
    plain = TABLE.iloc[3:].reset_index(drop=True)
    expected = permutation_test(few, plain[["age", "intercept"]], {"age": "age"}, n_perm=20, within=plain["site"])
    with pytest.warns(UserWarning, match="5 rows of the design have no image"):
        found = permutation_test(few, several[["age", "intercept"]], {"age": "age"}, n_perm=20, within=several["site"])
    np.testing.assert_array_equal(found["h0_max_stat"], expected["h0_max_stat"])


def visits(n=20, rho=0.8, seed=0, n_voxels=200):
    """Two visits each of some subjects whose images correlate with rho, and their table."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.standard_normal((n, n_voxels)), 2, axis=0)
    values = np.sqrt(rho) * own + np.sqrt(1 - rho) * rng.standard_normal((2 * n, n_voxels))
    names = [f"sub-{k:02d}_ses-{s}" for k in range(1, n + 1) for s in (1, 2)]
    table = pd.DataFrame(
        {"participant_id": np.repeat(np.arange(1, n + 1), 2), "session_id": [1, 2] * n, "visit": [0.0, 1.0] * n,
         "age": np.repeat(rng.uniform(20, 60, n), 2)}
    )  # fmt: skip
    mask = nib.Nifti1Image(np.ones((n_voxels, 1, 1), np.uint8), AFFINE)
    space = daskglm.schema.space.VolumeSpace.from_image(mask)
    return daskglm.images_dataset(values, names, space), table


def test_rows_of_one_subject_are_not_independent():
    images, table = visits()
    with pytest.warns(UserWarning, match="20 subjects have several images .*independent"):
        made = daskglm.SecondLevelModel().fit(images, confounds=table.sample(frac=1, random_state=1),
                                              formula="~ age + visit")  # fmt: skip
    assert made.design_matrix_["visit"].tolist() == table["visit"].tolist()
    p = np.asarray(made.compute_contrast("age", output_type="p_value").dataobj).ravel()
    reference = sm.OLS(images["data"].values[:, 0], made.design_matrix_).fit()
    assert p[0] == pytest.approx(1 - reference.pvalues["age"] / 2 if reference.tvalues["age"] < 0
                                 else reference.pvalues["age"] / 2)  # fmt: skip


def test_subjects_in_the_model_or_in_the_blocks_are_no_reason_to_warn():
    images, table = visits()
    SecondLevelModel().fit(images, confounds=table, formula="~ visit + C(participant_id)")
    design = table.assign(intercept=1.0)[["participant_id", "session_id", "visit", "intercept"]]
    subjects = table.set_index(["participant_id", "session_id"]).assign(id=table["participant_id"].to_numpy())["id"]
    permutation_test(images, design, {"visit": "visit"}, n_perm=3, within=subjects.iloc[::-1])
    aged = design.assign(visit=table["age"])
    permutation_test(images, aged, {"age": "visit"}, n_perm=3, whole=subjects)
    with pytest.warns(UserWarning, match="20 subjects have several images"):
        permutation_test(images, design, {"visit": "visit"}, n_perm=3)


@pytest.mark.parametrize(("apart", "warns"), [(4e-9, False), (1e-6, True)])
def test_subjects_are_in_the_model_but_for_rounding(apart, warns):
    images, table = visits()
    subjects = pd.get_dummies(table["participant_id"], prefix="is").astype(float)
    subjects.iloc[0, 0] += apart
    design = pd.concat([table[["participant_id", "session_id", "visit"]], subjects], axis=1)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        SecondLevelModel().fit(images, design_matrix=design)
    assert any("several images" in str(item.message) for item in heard) == warns


def test_permutations_of_a_model_take_its_design_as_it_is(tmp_path):
    paths = files(tmp_path, [f"map_{chr(97 + k)}.nii" for k in range(N)])
    labels = [f"s{k}" for k in range(1, N + 1)]
    table = pd.DataFrame({"subject_label": labels, "map_name": "m", "effects_map_path": paths})
    model = SecondLevelModel(mask_img=False).fit(table, confounds=pd.DataFrame({"subject_label": labels, "age": AGE}))
    found = model.compute_contrast_permutations("age", n_perm=2, threshold=0.1, output_type="t")
    assert np.asarray(found.dataobj)[1, 1, 1] == pytest.approx(T, abs=1e-5)


def test_arrays_of_pandas_are_matched_by_index():
    values = pd.DataFrame(DATA.reshape(N, -1), index=TEXTS)
    tested, age = pd.Series(RNG.standard_normal(N), index=TEXTS), DESIGN.set_axis(TEXTS)[["age"]]
    model = pd.concat([tested.rename("x"), age.assign(intercept=1.0)], axis=1)
    expected = sm.OLS(values[0], model).fit().tvalues["x"]
    found = daskglm.permuted_ols(tested.iloc[ORDER], values, age.iloc[::-1], n_perm=5)
    assert found["t"][0, 0] == pytest.approx(expected, abs=1e-6)
    blocks = pd.Series(np.repeat(["a", "b"], 6), index=TEXTS)
    inside = [
        daskglm.permuted_ols(*given, n_perm=20, random_state=0, within=within)["h0_max_t"]
        for given, within in (
            ((tested.to_numpy(), values.to_numpy(), age.to_numpy()), blocks.to_numpy()),
            ((tested.iloc[ORDER], values, age), blocks.iloc[::-1]),
        )
    ]
    np.testing.assert_array_equal(*inside)
    with pytest.raises(DesignError, match="none of its 12 ids"):
        daskglm.permuted_ols(tested.set_axis([f"Q{k}" for k in range(N)]), values, n_perm=5)


@pytest.mark.parametrize("sorted_ones", ["x", "y", "z", "xy", "xz", "yz", "xyz"])
def test_arrays_of_pandas_that_were_sorted_keep_their_rows(sorted_ones):
    given = {"x": pd.Series(RNG.standard_normal(N)), "y": pd.DataFrame(DATA.reshape(N, -1)), "z": DESIGN[["age"]]}
    expected = sm.OLS(given["y"][0], np.c_[given["x"], DESIGN]).fit().tvalues.iloc[0]
    mixed = {name: item.iloc[ORDER] if name in sorted_ones else item for name, item in given.items()}
    arrays = {
        name: item.iloc[ORDER] if name in sorted_ones else item.iloc[ORDER].to_numpy() for name, item in given.items()
    }
    for found in (mixed, arrays):
        t = daskglm.permuted_ols(found["x"], found["y"], found["z"], n_perm=0)["t"][0, 0]
        assert t == pytest.approx(expected, abs=1e-6)


def test_runs_beside_tables_of_other_runs(tmp_path):
    paths = [str(tmp_path / f"sub-01_run-{k}_bold.nii") for k in (1, 2)]
    for path in paths:
        nib.Nifti1Image(np.moveaxis(DATA, 0, -1), AFFINE).to_filename(path)
    events = [str(tmp_path / f"sub-01_run-{k}_events.tsv") for k in (2, 1)]
    with pytest.raises(ImageError, match=r"events and runs are taken one with one.*run-2_events.tsv with .*run-1_bold"):
        daskglm.FirstLevelModel(t_r=2.0, mask_img=False).fit(paths, events)
    with pytest.raises(ImageError, match="effects and variances"):
        daskglm.compute_fixed_effects(paths, paths[::-1])


def test_participants_of_a_dataset_whose_numbers_lack_zeros():
    from daskglm.models.cohort_stores import _rows

    table = pd.DataFrame({"age": [30.0, 20.0]}, index=["sub-2", "sub-1"])
    found, notes = _rows(table, ["sub-01", "sub-02"])
    assert (found["age"].tolist(), notes) == ([20.0, 30.0], [])
