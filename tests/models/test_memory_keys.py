"""What is kept between fits and runs answers the same question only: whatever differs, as where nothing is kept."""

import inspect
import os
import warnings
from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import AFFINE, Cohort

import daskglm
from daskglm import FirstLevelModel, SecondLevelModel
from daskglm.errors import OutputError
from daskglm.graph import permutation as permutation_graph
from daskglm.graph.runs import NoiseModel
from daskglm.inference import permutation as permutation_module
from daskglm.io.checkpoints import save_checkpoint
from daskglm.kernels.scaling import Scaling
from daskglm.models.cohort_units import Plan

TR, N, SHAPE = 2.0, 60, (6, 5, 4)
SHIFTED = AFFINE + np.array([0.3, 0.3, 0.3, 0])[:, None] * [0, 0, 0, 1]


def others(cohort):
    """Other images of the same names."""
    folder = cohort.folder / "others"
    folder.mkdir(exist_ok=True)
    paths = [folder / os.path.basename(path) for path in cohort.paths]
    for path, values in zip(paths, cohort.data[::-1], strict=True):
        nib.Nifti1Image(np.roll(values, 1, axis=1), AFFINE).to_filename(path)
    return [str(path) for path in paths]


GROUP = {
    "plain": {},
    "other images": {"images": others},
    "other design": {"design": {"male": np.arange(12.0) % 2}},
    "other mask of as many voxels": {"mask": 1},
    "smoothed": {"smoothing_fwhm": 6},
    "smoothed more": {"smoothing_fwhm": 9},
    "other grid": {"target_affine": np.diag([6.0, 6.0, 8.0])},
    "other grid, given": {"target_affine": AFFINE, "target_shape": (6, 7, 4)},
    "no mask, other grid": {"mask_img": None, "target_affine": np.diag([6.0, 6.0, 8.0]), "min_coverage": 0.9},
    "no mask, more coverage": {"mask_img": None, "min_coverage": 0.9},
    "no mask, more coverage, other images": {"mask_img": None, "min_coverage": 0.9, "images": others},
}

# Rows that are alike, whichever stretch of an even beginning is analysed.
EVEN = pd.DataFrame({"a": [1.0, 0] * 30, "b": [0.0, 1] * 30, "drift": [0.0, 1, 2, 3] * 15})

RUN = {
    "plain": {},
    "other run": {"run": 1},
    "other mask of as many voxels": {"mask": 1},
    "the first volumes": {"design": EVEN, "kept": np.arange(48)},
    "as many later volumes": {"design": EVEN, "kept": np.arange(4, 52)},
    "three slices, smoothed": {"target_affine": SHIFTED, "target_shape": (6, 5, 3), "smoothing_fwhm": 6},
    "four slices, smoothed": {"target_affine": SHIFTED, "target_shape": (6, 5, 4), "smoothing_fwhm": 6},
    "smoothed": {"smoothing_fwhm": 6},
    "other grid": {"target_affine": np.diag([6.0, 6.0, 8.0])},
    "its own grid": {"target_affine": AFFINE, "target_shape": (6, 5, 3)},
    "a shifted grid": {"target_affine": SHIFTED, "target_shape": (6, 5, 3)},
    "lags over gaps": {"contiguous": True},
    "ols": {"noise_model": "ols"},
    "ar2": {"noise_model": "ar2"},
    "no scaling": {"signal_scaling": False},
    "percent of each volume": {"signal_scaling": 1},
    "percent of each volume and voxel": {"signal_scaling": (0, 1)},
    "hrf": {"hrf_model": "spm"},
    "drift": {"drift_model": "polynomial", "drift_order": 3},
    "slice time": {"slice_time_ref": 0.5},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("cohort"), 12, holes=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(5)
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 1:4, 1:3] = True
    paths = []
    for name in ("one", "two"):
        noise = rng.standard_normal((*mask.shape, N))
        for t in range(1, N):
            noise[..., t] += 0.4 * noise[..., t - 1]
        paths.append(str(tmp_path_factory.mktemp(name) / "bold.nii.gz"))
        nib.Nifti1Image(100 + noise, AFFINE).to_filename(paths[-1])
    events = pd.DataFrame({"onset": np.arange(4, 100, 12.0), "duration": 3.0, "trial_type": ["a", "b"] * 4})
    return paths, events, mask


def values_of(model, contrast):
    maps = model.compute_contrast(contrast, output_type="all")
    return np.stack([np.asarray(maps[kind].dataobj) for kind in ("effect_size", "stat")])


def group_map(cohort, memory, settings):
    mask = np.roll(cohort.mask, settings.get("mask", 0), axis=0).astype(np.uint8)
    given = {"mask_img": nib.Nifti1Image(mask, AFFINE), **settings}
    given.pop("mask", None)
    design = cohort.design.assign(**given.pop("design", {}))
    images = given.pop("images", lambda cohort: cohort.paths)(cohort)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SecondLevelModel(memory=memory, **given).fit(images, design_matrix=design)
    return values_of(model, "age")


def run_map(run, memory, settings):
    paths, events, mask = run
    given = dict(settings)
    kept = given.pop("kept", np.setdiff1d(np.arange(N), [10, 11, 12, 30, 31, 45]))
    mask_img = nib.Nifti1Image(np.roll(mask, given.pop("mask", 0), axis=0).astype(np.uint8), AFFINE)
    path, design = paths[given.pop("run", 0)], given.pop("design", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(t_r=TR, memory=memory, mask_img=mask_img, **given)
        if design is None:
            model.fit(path, events, sample_masks=kept)
        else:
            model.fit(path, design_matrices=design, sample_masks=kept)
    return values_of(model, "a - b")


@pytest.mark.parametrize(("make", "settings"), [(group_map, GROUP), (run_map, RUN)], ids=["group", "run"])
def test_memory_answers_as_no_memory_does(make, settings, cohort, run, tmp_path):
    given = cohort if make is group_map else run
    without = {name: make(given, None, values) for name, values in settings.items()}
    for name in settings:
        same = [key for key, other in without.items() if np.array_equal(without[name], other, equal_nan=True)]
        assert same == [name], "settings that make no difference test nothing"
    for _ in range(2):
        for name, values in settings.items():
            kept = make(given, str(tmp_path / "memory"), values)
            np.testing.assert_array_equal(kept, without[name], err_msg=name)


# What a test may differ in: the one that it is like but for that, and what is other.
TFCE = {"tfce": True}
TESTS = {
    "random_state": ({}, {"random_state": 1}),
    "scheme": ({}, {"scheme": "smith"}),
    "two_sided": ({}, {"two_sided": False}),
    "threshold": ({"threshold": 0.01}, {"threshold": 0.05}),
    "threshold, none": ({}, {"threshold": 0.05}),
    "contrasts": ({}, {"contrasts": {"age": "age - male"}}),
    "contrasts, several": ({}, {"contrasts": {"age": "age", "male": "male"}}),
    "f_contrasts": ({}, {"f_contrasts": ["age"]}),
    "within": ({}, {"within": np.repeat([0, 1, 2], 4)}),
    "within, others": ({"within": np.repeat([0, 1, 2], 4)}, {"within": np.repeat([0, 1], 6)}),
    "whole": ({}, {"whole": np.repeat(np.arange(6), 2)}),
    "whole, of flips": ({"rearrangement": "sign_flip"}, {"whole": np.r_[0, np.arange(11)]}),
    "rearrangement": ({}, {"rearrangement": "sign_flip"}),
    "rearrangement, both": ({"rearrangement": "sign_flip"}, {"rearrangement": "both"}),
    "variance_groups": ({"rearrangement": "sign_flip"}, {"variance_groups": np.repeat([0, 1], 6)}),
    "variance_groups, others": (
        {"rearrangement": "sign_flip", "variance_groups": np.repeat([0, 1], 6)}, {"variance_groups": np.arange(12) % 2}
    ),
    "tfce": ({}, TFCE),
    "tfce, in steps": (TFCE, {"tfce": "stepwise"}),
    "extent": (TFCE, {"extent": 1.0}),
    "height": (TFCE, {"height": 1.0}),
    "connectivity": (TFCE, {"connectivity": 18}),
    "connectivity, of clusters": ({"threshold": 0.05}, {"connectivity": 26}),
    "min_coverage": ({}, {"min_coverage": 0.9}),
    "design": ({}, {"design": "another"}),
    "images": ({"fingerprint": None}, {"images": "others"}),
    "fingerprint": ({}, {"images": "others", "fingerprint": "others"}),
}  # fmt: skip
# What changes how many rearrangements are done, how they are reported, or how fast: not what each of them gives.
NOT_IN_A_REARRANGEMENT = {"n_perm", "stop_at", "tail", "allow_rank_deficient", "folder", "n_jobs", "progress"}


def test_every_parameter_of_a_permutation_test_is_tried():
    tried = {name.split(",")[0] for name in TESTS}
    assert tried | NOT_IN_A_REARRANGEMENT == set(inspect.signature(daskglm.permutation_test).parameters)


@pytest.fixture(scope="module")
def stored(cohort, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("store") / "a.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    return daskglm.open_images(path).load()


@pytest.mark.parametrize("name", TESTS)
def test_a_folder_of_rearrangements_answers_as_none_does(name, cohort, stored, tmp_path, monkeypatch):
    """The folder holds finished rearrangements: of another seed or question they are not counted."""
    monkeypatch.setattr(permutation_graph, "_UNIT", (64, 64))
    like, other = TESTS[name]

    def nulls(settings, folder):
        given = {"contrasts": {"age": "age"}, "n_perm": 70, "random_state": 0, "fingerprint": "these", **settings}
        design, images = cohort.design.copy(), stored
        if given.pop("design", None):
            design["male"] = np.arange(12.0) % 2
        if given.pop("images", None):
            images = images.assign(data=images["data"] ** 2)
        if "variance_groups" in given:
            images = images.isel(voxel=np.flatnonzero(np.isfinite(images["data"].to_numpy()).all(axis=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = daskglm.permutation_test(images, design, folder=folder, n_jobs=1, **given)
        return {key: np.asarray(value) for key, value in result.items()}

    settings = [like, {**like, **other}]
    without = [nulls(item, None) for item in settings]
    assert set(without[0]) != set(without[1]) or any(
        not np.array_equal(without[0][key], without[1][key], equal_nan=True) for key in without[0] if "h0" in key
    ), "settings that make no difference test nothing"
    for item, expected in zip([*settings, settings[0]], [*without, without[0]], strict=True):
        kept = nulls(item, str(tmp_path / "kept"))
        assert set(kept) == set(expected)
        for key in expected:
            np.testing.assert_array_equal(kept[key], expected[key], err_msg=key)


@pytest.mark.parametrize("make", [group_map, run_map])
def test_what_cannot_be_read_or_is_of_another_version_is_made_anew(make, cohort, run, tmp_path, monkeypatch):
    given, memory = (cohort if make is group_map else run), str(tmp_path / "memory")
    expected = make(given, memory, {})
    kept = sorted((tmp_path / "memory").rglob("*.npz"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(make(given, memory, {}), expected)
    for path in kept:
        np.load(path, allow_pickle=False).close()
    monkeypatch.setattr("daskglm.io.cache.version", lambda _: "0.0.0")
    for path in kept:
        path.write_bytes(b"of another version, which is not looked at")
    np.testing.assert_array_equal(make(given, memory, {}), expected)
    assert all(path.read_bytes().startswith(b"of another version") for path in kept)


def test_rearrangements_that_were_counted_in_another_way_are_done_again(cohort, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(permutation_graph, "_UNIT", (64, 64))

    def keys():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            daskglm.permutation_test(stored, cohort.design, {"age": "age"}, n_perm=64, folder=str(tmp_path), n_jobs=1)
        return {path.name.split("_")[0] for path in tmp_path.iterdir()}

    assert len(keys()) == len(keys()) == 1
    monkeypatch.setattr(permutation_module, "_COUNTING", permutation_module._COUNTING + 1)
    assert len(keys()) == 2


# What an analysis in a folder is told from others by


ANALYSIS = {
    "images": {"images": "fewer"},
    "images, of the same names": {"images": "others"},
    "formula": {"formula": "~ age + sex"},
    "contrasts": {"contrasts": {"age": "2 * age"}},
    "contrasts, names": {"contrasts": {"years": "age"}},
    "f_contrasts": {"f_contrasts": {"both": "age"}},
    "f_contrasts, of the same name": {"contrasts": {}, "f_contrasts": {"age": "age"}},
    "participants": {"participants": "corrected"},
    "exclude": {"exclude": ["sub-03"]},
    "where": {"where": "age > 25"},
    "na": {"participants": "lacking", "na": "drop"},
    "mask": {"mask": "smaller"},
    "missing": {"missing": "zero"},
    "min_coverage": {"min_coverage": 0.9},
    "smoothing_fwhm": {"smoothing_fwhm": 5.0},
    "within": {"within": "block"},
    "whole": {"whole": "block"},
    "variance_groups": {"rearrangement": "sign_flip", "variance_groups": "block"},
    "two_sided": {"two_sided": False},
    "scheme": {"scheme": "smith"},
    "rearrangement": {"rearrangement": "both"},
    "threshold": {"threshold": 0.05},
    "tfce": {"tfce": True},
    "connectivity": {"connectivity": 18},
    "extent": {"extent": 1.0},
    "height": {"height": 1.0},
    "allow_rank_deficient": {"allow_rank_deficient": True},
    "random_state": {"random_state": 1},
}
SAME_ANALYSIS = {"n_perm": 66, "stop_at": 0.05, "tail": True, "n_jobs": 2, "progress": False}


def test_every_parameter_of_a_permutation_analysis_is_tried():
    own = set(inspect.signature(daskglm.permutation_analysis).parameters) - {"output", "overwrite", "test"}
    passed = set(inspect.signature(daskglm.permutation_test).parameters)
    passed -= {"images", "design", "folder", "fingerprint"}  # the analysis gives them
    assert {name.split(",")[0] for name in ANALYSIS} | set(SAME_ANALYSIS) == own | passed


@pytest.fixture(scope="module")
def analysed(cohort, tmp_path_factory):
    """A folder of results, and how the analysis is made with other parameters."""
    output = str(tmp_path_factory.mktemp("analysis") / "out")
    table = cohort.table.assign(block=np.repeat(["x", "y"], 6))
    smaller = cohort.mask.copy()
    smaller[tuple(np.argwhere(smaller)[0])] = False
    meant = {
        "fewer": cohort.paths[:-1], "others": others(cohort),
        "corrected": table.assign(age=table["age"] + 1.0 * (table.index == 3)),
        "lacking": table.assign(age=table["age"].where(table.index != 3)),
        "smaller": nib.Nifti1Image(smaller.astype(np.uint8), AFFINE),
    }  # fmt: skip

    def analyse(settings):
        given = {"images": cohort.paths, "formula": "~ age", "contrasts": {"age": "age"}, "participants": table,
                 "mask": cohort.mask_img, "n_perm": 65, **settings}  # fmt: skip
        given = {key: meant.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return daskglm.permutation_analysis(output=output, **given)

    analyse({})
    return analyse


@pytest.mark.parametrize("name", ANALYSIS)
def test_results_of_another_analysis_are_not_gone_on_from(name, analysed):
    with pytest.raises(OutputError, match="overwrite"):
        analysed(ANALYSIS[name])


def test_the_same_analysis_goes_on(analysed):
    for name, value in SAME_ANALYSIS.items():
        assert analysed({name: value}).maps.attrs["n_perm"] >= 64


# Sums of a group analysis that was interrupted


INTERRUPTED = {
    "images": {"images": "others"},
    "images, in place": {"in_place": True},
    "design": {"formula": "~ sex"},
    "design, of the same names": {"participants": "corrected"},
    "names alone": {"participants": "renamed", "formula": "~ years"},
    "mask": {"mask": "as many"},
    "missing": {"missing": "zero"},
    "smoothing_fwhm": {"smoothing_fwhm": 6.0},
    "no mask": {"mask": None},
    "no mask, min_coverage": {"mask": None, "min_coverage": 0.9},
    "blocks": {"daskglm.graph.images._BLOCK_SAMPLES": (2, 2)},
    "units": {"daskglm.graph.checkpoints._READ_TO_WRITTEN": 0.3},
}


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """How groups are analysed in units; what was interrupted after the pass over the images has kept all of these."""
    tmp_path = tmp_path_factory.mktemp("grouped")
    (tmp_path / "maps").mkdir()
    cohort = Cohort(tmp_path / "maps", 6, holes=True)
    table = cohort.table
    meant = {
        "others": others(cohort),
        "corrected": table.assign(age=table["age"] + 1.0 * (table.index == 3)),
        "renamed": table.rename(columns={"age": "years"}),
        "as many": nib.Nifti1Image(np.roll(cohort.mask, 1, axis=0).astype(np.uint8), AFFINE),
    }  # fmt: skip

    def analyse(output, settings, interrupted=False):
        given = {"images": cohort.paths, "participants": table, "mask": cohort.mask_img, "formula": "~ age",
                 "contrasts": {"x": [0, 1]}, **settings}  # fmt: skip
        given = {key: meant.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
        if given.pop("in_place", False):
            values = nib.load(cohort.paths[2]).get_fdata() + 1
            nib.Nifti1Image(values, AFFINE).to_filename(cohort.paths[2])
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            small = {"daskglm.graph.checkpoints._WORTH_BYTES": 0, "daskglm.graph.checkpoints._READ_TO_WRITTEN": 1e-3,
                     "daskglm.graph.images._BLOCK_SAMPLES": (1, 1)}  # fmt: skip
            for name, value in small.items():
                patch.setattr(name, given.pop(name, value))
            done = []
            patch.setattr(
                "daskglm.graph.checkpoints.save_checkpoint", lambda *item: done.append(save_checkpoint(*item))
            )
            if interrupted:
                patch.setattr("daskglm.models.group.find_peaks", stop)
                with pytest.raises(KeyboardInterrupt):
                    daskglm.group_analysis(output=str(tmp_path / output), n_jobs=1, **given)
                return None, len(done)
            result = daskglm.group_analysis(output=str(tmp_path / output), n_jobs=1, **given)
        return result, len(done)

    return analyse


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_group_goes_on_as_if_from_the_start(name, grouped):
    assert grouped(f"{name}, kept", {}, True)[1] > 1
    kept, _ = grouped(f"{name}, kept", INTERRUPTED[name])
    fresh, n_units = grouped(f"{name}, fresh", {**INTERRUPTED[name], "in_place": False})
    assert n_units > 1
    assert list(kept.design.columns) == list(fresh.design.columns)
    np.testing.assert_array_equal(kept.fit["voxel"], fresh.fit["voxel"])
    assert set(kept.maps) == set(fresh.maps)
    for kind in ("effect_size", "effect_variance", "stat"):
        np.testing.assert_array_equal(kept.maps[kind], fresh.maps[kind])


def test_an_interrupted_group_goes_on(grouped, monkeypatch):
    expected, n_units = grouped("fresh", {})
    assert grouped("out", {}, True)[1] == n_units
    kept, n_done = grouped("out", {})
    assert n_done == 0
    np.testing.assert_array_equal(kept.maps["stat"], expected.maps["stat"])
    grouped("other", {}, True)
    monkeypatch.setattr("daskglm.models.group_fit.software", lambda: {"daskglm": "another"})
    assert grouped("other", {})[1] == n_units, "sums of another version of the software"


# A cohort's plan


def test_every_part_of_a_plan_tells_it_from_others():
    values = {field.name: f"{field.name}, one" for field in fields(Plan)}
    plan = Plan(**values)
    for field in fields(Plan):
        other = replace(plan, **{field.name: f"{field.name}, another"})
        kept = field.name in ("output", "selection", "analysis")
        assert (other.hash() == plan.hash()) == kept, field.name
    for name in ("noise", "scaling"):
        parts = {field.name: 1.0 for field in fields({"noise": NoiseModel, "scaling": Scaling}[name])}
        kind = {"noise": NoiseModel, "scaling": Scaling}[name]
        for part in parts:
            one, other = (replace(plan, **{name: kind(**{**parts, part: value})}) for value in (1.0, 2.0))
            assert one.hash() != other.hash(), part
