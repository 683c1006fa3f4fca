"""A BIDS cohort from files to maps and stores."""

import json
import os
import re
import shutil
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskglm import FirstLevelModel, SecondLevelModel, first_level_analysis, first_level_from_bids, open_images
from daskglm.cli.main import main
from daskglm.errors import ContrastError, ImageError, ParameterError

SHAPE, N_VOLUMES, T_R = (5, 6, 4), 80, 2.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture
def dataset(tmp_path):
    """Three subjects of two runs; "a" raises one corner; the masks of the two runs differ by one voxel."""
    rng = np.random.default_rng(3)
    root = tmp_path / "bids"
    onsets = np.arange(4, 140, 12.0)
    events = pd.DataFrame({"onset": onsets, "duration": 6.0, "trial_type": ["a", "b"] * 6})
    for subject in ("sub-01", "sub-02", "sub-03"):
        raw, derived = root / subject / "func", root / "derivatives" / "prep" / subject / "func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        for run in (1, 2):
            name = f"{subject}_task-x_run-{run}"
            events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
            for onset in onsets[::2]:
                data[:2, :2, :2, int(onset / T_R) + 2 : int(onset / T_R) + 5] += 15
            bold = derived / f"{name}_space-T1w_desc-preproc_bold.nii.gz"
            nib.save(nib.Nifti1Image(data, AFFINE), bold)
            mask = np.ones(SHAPE, np.uint8)
            mask[-1, -1, -run] = 0
            nib.save(nib.Nifti1Image(mask, AFFINE), derived / f"{name}_space-T1w_desc-brain_mask.nii.gz")
            (derived / f"{name}_space-T1w_desc-preproc_bold.json").write_text(
                json.dumps({"RepetitionTime": T_R, "StartTime": 0.0})
            )
            motion = rng.standard_normal((N_VOLUMES, 6)).cumsum(axis=0)
            table = pd.DataFrame(motion, columns=[f"{k}_{x}" for k in ("trans", "rot") for x in "xyz"])
            table.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-03"], "age": [20, 30, 40]}).to_csv(
        root / "participants.tsv", sep="\t", index=False
    )
    return root


def bold_of(dataset, subject, run):
    return dataset / f"derivatives/prep/{subject}/func/{subject}_task-x_run-{run}_space-T1w_desc-preproc_bold.nii.gz"


def run_cohort(dataset, output, **options):
    return first_level_analysis(str(dataset), str(output), {"a - b": "a - b"}, confounds=["motion"], **options)


def statmap(folder, name, stat):
    return nib.load(os.path.join(folder, f"{name}_contrast-aMinusB_stat-{stat}_statmap.nii.gz")).get_fdata()


def test_maps_equal_the_model(dataset, tmp_path):
    result = run_cohort(dataset, tmp_path / "out")
    assert result.failures.empty
    assert not os.path.exists(tmp_path / "out" / "failures.tsv")
    found = first_level_from_bids(
        dataset, "x", "T1w", mask_img="derivatives", confounds_strategy=["motion"], confounds_motion="basic"
    )
    for model, images, events, confounds, receipt in zip(*found, result.subjects, strict=True):
        model.fit(images, events, confounds)
        inside = model.mask_img_.get_fdata() > 0
        assert inside.sum() == np.prod(SHAPE) - 2
        for stat, kind in (("effect", "effect_size"), ("variance", "effect_variance"), ("z", "z_score"), ("t", "stat")):
            ours = statmap(receipt.folder, receipt.name, stat)
            expected = model.compute_contrast("a - b", output_type=kind).get_fdata()
            np.testing.assert_allclose(ours[inside], expected[inside], rtol=1e-9, atol=1e-12)
            assert (ours[~inside] == 0).all()
        for run, image, table, event in zip(receipt.runs, images, confounds, events, strict=True):
            one = FirstLevelModel(t_r=T_R, mask_img=model.mask_img).fit(image, event, table)
            z = statmap(run.folder, run.name, "z")
            np.testing.assert_allclose(z[inside], one.compute_contrast("a - b").get_fdata()[inside], rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("definition", ["a, b", "a + b, a - b, a"])
def test_f_over_runs_equals_the_joint_test_of_the_model(dataset, tmp_path, weighted, definition):
    options = {"task": "x", "space": "T1w", "subjects": ["01"], "precision_weighted": weighted}
    result = first_level_analysis(str(dataset), str(tmp_path / "out"), {}, f_contrasts={"any": definition}, **options)
    found = first_level_from_bids(
        dataset, "x", "T1w", sub_labels=["01"], mask_img="derivatives", confounds_strategy=None
    )
    model, images, events = (item[0] for item in found[:3])
    model.fit(images, events)
    inside = model.mask_img_.get_fdata() > 0
    (receipt,) = result.subjects
    for stat, kind in (("F", "stat"), ("p", "p_value"), ("z", "z_score")):
        ours = nib.load(f"{receipt.folder}/{receipt.name}_contrast-any_stat-{stat}_statmap.nii.gz").get_fdata()
        expected = model.compute_contrast("a, b", output_type=kind, precision_weighted=weighted).get_fdata()
        np.testing.assert_allclose(ours[inside], expected[inside], rtol=1e-7)


def test_several_rows_are_no_t_contrast(dataset, tmp_path):
    with pytest.raises(ContrastError, match="'any' has 2, of a, b"):
        first_level_analysis(str(dataset), str(tmp_path / "out"), {"any": "a, b"}, task="x", space="T1w")


def test_one_failure_does_not_stop_the_others(dataset, tmp_path):
    path = bold_of(dataset, "sub-02", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    result = run_cohort(dataset, output)
    table = pd.read_csv(output / "failures.tsv", sep="\t")
    assert table["run"].tolist() == ["sub-02_task-x_run-1_space-T1w"]
    assert table["error_type"].tolist() == ["CorruptImageError"]
    assert "sub-02_task-x_run-1" in table["error"][0]
    assert sum(not run.error for subject in result.subjects for run in subject.runs) == 5
    # Restored, only what was missing is done, and the subject is combined again.
    path.write_bytes(whole)
    again = run_cohort(dataset, output)
    runs = {run.name: run.reused for subject in again.subjects for run in subject.runs}
    assert [name for name, reused in runs.items() if not reused] == ["sub-02_task-x_run-1_space-T1w"]
    assert [subject.reused for subject in again.subjects] == [True, False, True]
    assert not (output / "failures.tsv").exists()
    fresh = run_cohort(dataset, tmp_path / "fresh")
    for mended, whole_subject in zip(again.subjects, fresh.subjects, strict=True):
        first, second = (statmap(item.folder, item.name, "z") for item in (mended, whole_subject))
        np.testing.assert_array_equal(first, second)


def test_a_run_with_an_empty_volume_fails_with_its_number(dataset, tmp_path):
    path = bold_of(dataset, "sub-02", 1)
    data = nib.load(path).get_fdata()
    data[..., 33] = 0
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    result = run_cohort(dataset, tmp_path / "out")
    (error,) = result.failures["error"]
    assert re.search(r"volume 33 of .*sub-02_task-x_run-1.* is 0 in all", error)


def test_other_parameters_do_the_work_again(dataset, tmp_path):
    first = run_cohort(dataset, tmp_path)
    before = open_images(first.stores["a - b"])["data"].values
    again = run_cohort(dataset, tmp_path, noise_model="ols")
    assert not any(run.reused for subject in again.subjects for run in subject.runs)
    assert not np.array_equal(before, open_images(again.stores["a - b"])["data"].values)
    # The maps of a contrast that is no longer asked for do not stay beside those of another analysis.
    other = first_level_analysis(str(dataset), str(tmp_path), {"a": "a"}, confounds=["motion"])
    for receipt in (*other.subjects, *(run for subject in other.subjects for run in subject.runs)):
        assert {name.split("_contrast-")[1][:2] for name in os.listdir(receipt.folder) if "contrast" in name} == {"a_"}


def test_a_store_that_was_not_made_in_time_is_made_later(dataset, tmp_path, monkeypatch):
    store = run_cohort(dataset, tmp_path).stores["a - b"]
    old = open_images(store)["data"].values
    with monkeypatch.context() as broken:
        broken.setattr("daskglm.models.cohort.store_effects", lambda *_: ({}, []))
        run_cohort(dataset, tmp_path, noise_model="ols")
    assert not os.path.exists(store)  # it was of another analysis
    again = run_cohort(dataset, tmp_path, noise_model="ols")
    assert all(subject.reused for subject in again.subjects)
    new = open_images(store)["data"].values
    assert not np.array_equal(old, new)
    some = run_cohort(dataset, tmp_path, noise_model="ols", subjects=["02"])
    assert not some.stores
    np.testing.assert_array_equal(open_images(store)["data"].values, new)


def test_group_store_is_the_input_of_group(dataset, tmp_path):
    output = tmp_path / "out"
    result = run_cohort(dataset, output)
    images = open_images(result.stores["a - b"])
    assert [str(name) for name in images["sample"].values] == ["sub-01", "sub-02", "sub-03"]
    arguments = ["group", str(output), "--contrast", "aMinusB", "--output", str(tmp_path / "g"), "--quiet"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    effects = [nib.Nifti1Image(statmap(item.folder, item.name, "effect"), AFFINE) for item in result.subjects]
    expected = SecondLevelModel(mask_img=False).fit(effects, design_matrix=pd.DataFrame({"i": np.ones(3)}))
    z = nib.load(tmp_path / "g" / "contrast-aMinusB_stat-z_statmap.nii.gz").get_fdata()
    inside = nib.load(tmp_path / "g" / "mask.nii.gz").get_fdata() > 0
    assert inside.sum() == np.prod(SHAPE) - 2
    np.testing.assert_allclose(z[inside], expected.compute_contrast("i").get_fdata()[inside], atol=1e-4)
    arguments = ["group", str(output), "--contrast", "aMinusB", "--contrast", "age", "--formula", "~ age"]
    done = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "age"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "age" / "contrast-age_stat-z_statmap.nii.gz").exists()


def test_a_column_of_nothing_among_the_participants_goes_with_the_store(dataset, tmp_path):
    path, output = dataset / "participants.tsv", tmp_path / "out"
    table = pd.read_csv(path, sep="\t").assign(score=np.nan, hand=[np.nan, "left", np.nan])
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    result = run_cohort(dataset, output)
    arguments = ["group", str(output), "--contrast", "aMinusB", "--contrast", "age", "--quiet", "--output"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "age"), "--formula", "~ age"])
    assert done.exit_code == 0, done.output
    values = [statmap(item.folder, item.name, "effect")[1, 1, 1] for item in result.subjects]
    slope = np.polyfit([20, 30, 40], values, 1)[0]
    found = nib.load(tmp_path / "age" / "contrast-age_stat-effect_statmap.nii.gz").get_fdata()[1, 1, 1]
    assert found == pytest.approx(slope, rel=1e-4)
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "score"), "--formula", "~ age + score"])
    assert done.exit_code == 2
    assert "score" in done.output


def test_command(dataset, tmp_path):
    bold_of(dataset, "sub-03", 2).write_bytes(b"")
    arguments = ["first-level", str(dataset), str(tmp_path / "out"), "--contrast", "a - b", "--confounds", "motion"]
    done = CliRunner().invoke(main, [*arguments, "--quiet"])
    assert done.exit_code == 1, done.output
    assert "5 fitted" in done.output
    assert "1 failed" in done.output
    assert "the file is empty" in done.output
    assert (tmp_path / "out" / "figures" / "contrast-aMinusB_stat-z.png").stat().st_size > 1000
    done = CliRunner().invoke(main, [*arguments[:-4], "--contrast", "a - house"])
    assert done.exit_code == 2
    assert "house" in done.output


def test_what_can_be_known_is_refused_before_the_work(dataset, tmp_path):
    output = str(tmp_path / "out")
    with pytest.raises(ContrastError, match="house"):
        first_level_analysis(str(dataset), output, {"h": "house"})
    with pytest.raises(ImageError, match="task"):
        first_level_analysis(str(dataset), output, {"a": "a"}, task="rest")
    with pytest.raises(ParameterError, match="noise_model"):
        first_level_analysis(str(dataset), output, {"a": "a"}, noise_model="arma")
    with pytest.raises(ParameterError, match="hrf"):
        first_level_analysis(str(dataset), output, {"a": "a"}, hrf="glover")
    assert not os.path.exists(output)


def test_a_run_without_the_condition_is_left_out(dataset, tmp_path):
    path = dataset / "sub-01" / "func" / "sub-01_task-x_run-2_events.tsv"
    events = pd.read_csv(path, sep="\t")
    events[events["trial_type"] == "a"].to_csv(path, sep="\t", index=False)
    result = run_cohort(dataset, tmp_path, subjects=["01"])
    assert any("run-2" in note and "a - b" in note for note in result.notes)
    assert result.failures.empty
    assert result.peaks["runs"].tolist() == [1]
    (subject,) = result.subjects
    np.testing.assert_allclose(
        statmap(subject.folder, subject.name, "effect")[:-1],
        statmap(subject.runs[0].folder, subject.runs[0].name, "effect")[:-1],
    )


def test_a_subject_that_no_run_gives_the_condition_is_named(dataset, tmp_path):
    for path in (dataset / "sub-02" / "func").glob("*_events.tsv"):
        table = pd.read_csv(path, sep="\t")
        table[table["trial_type"] == "b"].to_csv(path, sep="\t", index=False)
    result = run_cohort(dataset, tmp_path / "out", task="x", space="T1w")
    assert "'a - b' is without sub-02, of whom no run has it" in result.notes
    assert open_images(result.stores["a - b"]).sizes["sample"] == 2


def test_weights_by_position_are_of_the_regressors_of_the_first_run(dataset, tmp_path):
    """In the second run "b" is "c": the weights are not of it."""
    for path in dataset.glob("sub-*/func/*_run-2_events.tsv"):
        pd.read_csv(path, sep="\t").replace({"trial_type": {"b": "c"}}).to_csv(path, sep="\t", index=False)
    weights = "1 -1 " + "0 " * 4
    result = first_level_analysis(
        str(dataset), str(tmp_path / "out"), {"weights": weights, "names": "a - b"}, task="x", space="T1w"
    )
    assert result.failures.empty
    for item in result.subjects:
        by_position, by_names = (
            nib.load(f"{item.folder}/{item.name}_contrast-{name}_stat-effect_statmap.nii.gz").get_fdata()
            for name in ("weights", "names")
        )
        np.testing.assert_allclose(by_position, by_names, rtol=1e-12, atol=1e-14)
    assert sum("run-2" in note and "weights" in note and "'b'" in note for note in result.notes) == 3


def test_durations_that_differ_over_runs_are_told(dataset, tmp_path):
    path = dataset / "sub-02" / "func" / "sub-02_task-x_run-1_events.tsv"
    pd.read_csv(path, sep="\t").assign(duration=0.0).to_csv(path, sep="\t", index=False)
    told = r"Events of a, b .* 0 s in sub-02_task-x_run-1\S*, longer in sub-01"
    with pytest.warns(UserWarning, match="null duration"), pytest.warns(UserWarning, match=told):
        run_cohort(dataset, tmp_path / "out")
    events = [pd.read_csv(path.with_name(f"sub-02_task-x_run-{run}_events.tsv"), sep="\t") for run in (1, 2)]
    runs, mask = [str(bold_of(dataset, "sub-02", run)) for run in (1, 2)], nib.Nifti1Image(np.ones(SHAPE), AFFINE)
    told = "0 s in run 1, longer in run 2"
    with pytest.warns(UserWarning, match="null duration"), pytest.warns(UserWarning, match=told):
        FirstLevelModel(t_r=T_R, mask_img=mask).fit(runs, events)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        FirstLevelModel(t_r=T_R, mask_img=mask, impulse="unit").fit(runs, events)
        run_cohort(dataset, tmp_path / "unit", impulse="unit")
    assert not [item for item in met if "longer in" in str(item.message)]


def test_equal_runs_are_told(dataset, tmp_path):
    shutil.copy(bold_of(dataset, "sub-01", 2), bold_of(dataset, "sub-02", 1))
    with pytest.warns(UserWarning, match=r"same bytes: \S*sub-01_task-x_run-2\S* and \S*sub-02_task-x_run-1"):
        run_cohort(dataset, tmp_path / "out")
    events = pd.read_csv(dataset / "sub-01" / "func" / "sub-01_task-x_run-1_events.tsv", sep="\t")
    model = FirstLevelModel(t_r=T_R, mask_img=nib.Nifti1Image(np.ones(SHAPE), AFFINE))
    paths = [str(bold_of(dataset, *key)) for key in (("sub-01", 1), ("sub-01", 2))]
    model.fit(paths, [events] * 2)
    shutil.copy(*paths)
    image = nib.Nifti1Image(nib.load(paths[0]).get_fdata(), AFFINE)
    for runs in (paths, [paths[0], paths[0]], [image, image]):
        with pytest.warns(UserWarning, match="have the same bytes"):
            model.fit(runs, [events] * 2)


def test_each_subject_has_its_own_mask(dataset):
    path = str(bold_of(dataset, "sub-02", 1)).replace("preproc_bold", "brain_mask")
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    nib.save(nib.Nifti1Image(mask, AFFINE), path)
    models, *_ = first_level_from_bids(dataset, "x", mask_img="derivatives")
    sizes = [int(model.mask_img.get_fdata().sum()) for model in models]
    assert sizes == [118, 5 * 6 * 4 - 24 - 1, 118]


def test_scrubbing_is_kept(dataset):
    for run in (1, 2):
        path = dataset / f"derivatives/prep/sub-01/func/sub-01_task-x_run-{run}_desc-confounds_timeseries.tsv"
        table = pd.read_csv(path, sep="\t")
        table["framewise_displacement"] = 0.1
        table["std_dvars"] = 1.0
        table.loc[[10, 40], "framewise_displacement"] = 3.0
        table.to_csv(path, sep="\t", index=False)
    (model,), (images,), (events,), (confounds,) = first_level_from_bids(
        dataset, "x", sub_labels=["01"], mask_img="derivatives", confounds_strategy=("motion", "scrub"),
        confounds_motion="basic", confounds_scrub=0,
    )  # fmt: skip
    model.fit(images, events, confounds)
    assert [len(design) for design in model.design_matrices_] == [78, 78]


def test_design_tables_of_runs_are_designs_again(dataset, tmp_path):
    result = first_level_analysis(
        str(dataset), str(tmp_path / "out"), {"a": "a"}, task="x", space="T1w", subjects=["01"]
    )
    (receipt,) = result.subjects
    run = receipt.runs[0]
    (table,) = (tmp_path / "out").rglob(f"{run.name}_design.tsv")
    (bold,) = dataset.rglob(f"{run.name}_desc-preproc_bold.nii.gz")
    mask_img = nib.load(next((tmp_path / "out").rglob(f"{run.name}_desc-brain_mask.nii.gz")))
    model = FirstLevelModel(mask_img=mask_img).fit(str(bold), design_matrices=str(table))
    found = model.compute_contrast("a", output_type="effect_size").get_fdata()
    (effect,) = (tmp_path / "out").rglob(f"{run.name}_contrast-a_stat-effect_statmap.nii.gz")
    inside = mask_img.get_fdata() > 0
    np.testing.assert_allclose(found[inside], nib.load(effect).get_fdata()[inside], rtol=1e-5, atol=1e-6)
