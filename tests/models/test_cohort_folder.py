"""What stays in the result folder of a cohort: nothing of another time, whatever changes or breaks."""

import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskglm import first_level_analysis, open_images
from daskglm.cli.main import main
from daskglm.errors import ContrastError, DesignError, OutputError, ParameterError
from daskglm.io.files import PARTIAL
from daskglm.io.locks import lock_folder

SHAPE, N_VOLUMES, T_R = (4, 4, 3), 40, 2.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
CONTRAST = {"a - b": "a - b"}


def add_runs(root, subjects=("01", "02"), sessions=("",), task="x", runs=(1, 2), more=""):
    for subject in subjects:
        for session in sessions:
            folder = Path(f"sub-{subject}", f"ses-{session}" if session else "", "func")
            raw, derived = root / folder, root / "derivatives" / "prep" / folder
            raw.mkdir(parents=True, exist_ok=True)
            derived.mkdir(parents=True, exist_ok=True)
            for run in runs:
                name = f"sub-{subject}{f'_ses-{session}' if session else ''}_task-{task}_run-{run}"
                onsets = np.arange(4, 70, 10.0)
                events = pd.DataFrame(
                    {"onset": onsets, "duration": 3.0, "trial_type": ["a", "b", "a", "b", "a", "b", "a"]}
                )
                events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
                # Runs that are added later are no copies of the first ones.
                rng = np.random.default_rng(list(f"{name}{more}".encode()))
                data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
                nib.save(nib.Nifti1Image(data, AFFINE), derived / f"{name}_space-T1w{more}_desc-preproc_bold.nii.gz")
                mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
                nib.save(mask, derived / f"{name}_space-T1w{more}_desc-brain_mask.nii.gz")
                side = derived / f"{name}_space-T1w{more}_desc-preproc_bold.json"
                side.write_text(json.dumps({"RepetitionTime": T_R, "StartTime": 0.0}))
                table = pd.DataFrame(
                    rng.standard_normal((N_VOLUMES, 3)), columns=[f"a_comp_cor_0{k}" for k in range(3)]
                )
                table["cosine00"] = np.cos(np.arange(N_VOLUMES) / N_VOLUMES * np.pi)
                table.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)
                about = {
                    f"a_comp_cor_0{k}": {"Mask": "combined", "Retained": True, "Method": "aCompCor"} for k in range(3)
                }
                (derived / f"{name}_desc-confounds_timeseries.json").write_text(json.dumps(about))


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "bids"
    add_runs(root)
    return root


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def analyse(dataset, output, contrasts=CONTRAST, **options):
    return first_level_analysis(str(dataset), str(output), contrasts, **options)


def bold(dataset, subject, run, kind="desc-preproc_bold.nii.gz"):
    return dataset / f"derivatives/prep/sub-{subject}/func/sub-{subject}_task-x_run-{run}_space-T1w_{kind}"


def events(dataset, subject, run):
    return dataset / f"sub-{subject}/func/sub-{subject}_task-x_run-{run}_events.tsv"


def left(output, pattern):
    return sorted(path.name for path in output.rglob(pattern))


def refitted(result):
    return [run.name for subject in result.subjects for run in subject.runs if not run.reused]


def write_participants(dataset, ids):
    table = pd.DataFrame({"participant_id": ids, "age": [20.0 + k for k in range(len(ids))]})
    table.to_csv(dataset / "participants.tsv", sep="\t", index=False)


def test_what_fails_leaves_nothing(dataset, output):
    store = analyse(dataset, output).stores["a - b"]
    bold(dataset, "02", 1).write_bytes(b"x" * 500)
    analyse(dataset, output)
    assert left(output, "sub-02*run-1*") == []
    bold(dataset, "02", 2).write_bytes(b"x" * 500)
    analyse(dataset, output)
    assert left(output, "sub-02*") == ["sub-02"]
    assert open_images(store)["sample"].values.tolist() == ["sub-01"]
    for run in (1, 2):
        bold(dataset, "01", run).write_bytes(b"x" * 500)
    result = analyse(dataset, output)
    assert not result.stores
    assert any("no store" in note for note in result.notes)
    assert left(output, "*.zarr*") == left(output, "*.nii.gz") == left(output, "*_glm.json") == []


def test_what_is_no_longer_in_the_dataset_is_removed(dataset, output):
    add_runs(dataset, ["03"])
    add_runs(dataset, ["01"], task="y")
    analyse(dataset, output, task="x")
    analyse(dataset, output, task="y")
    other = left(output, "*task-y*")
    shutil.rmtree(dataset / "derivatives/prep/sub-03")
    for path in (dataset / "derivatives/prep/sub-02/func").glob("*run-2*"):
        path.unlink()
    result = analyse(dataset, output, task="x", subjects=["01"])
    assert left(output, "sub-03*")  # other subjects are no part of such a call
    result = analyse(dataset, output, task="x")
    assert refitted(result) == []
    assert left(output, "sub-03*") == left(output, "sub-02*run-2*") == []
    assert left(output, "sub-02_task-x_space-T1w*")
    assert left(output, "*task-y*") == other


def test_a_session_added_renames(dataset, output):
    shutil.rmtree(dataset)
    add_runs(dataset, sessions=["p"])
    analyse(dataset, output)
    add_runs(dataset, sessions=["q"])
    result = analyse(dataset, output)
    names = {path.name.split("_contrast")[0] for path in (output / "sub-01").glob("*statmap*")}
    assert names == {result.subjects[0].name} == {"sub-01_task-x_space-T1w"}
    assert left(output, "*.zarr") == ["task-x_space-T1w_contrast-aMinusB.zarr"]


def test_stores_and_pictures_of_another_analysis_are_removed(dataset, output):
    arguments = ["first-level", str(dataset), str(output), "--quiet", "--contrast"]
    assert CliRunner().invoke(main, [*arguments, "a"]).exit_code == 0
    assert left(output, "*.png") == ["contrast-a_stat-z.png"]
    analyse(dataset, output, {"b": "b"})
    assert left(output, "*.png") == []
    assert left(output, "*.zarr") == ["task-x_space-T1w_contrast-b.zarr"]
    assert left(output, "*contrast-a_*") == []


def test_grids_that_differ_leave_no_store(dataset, output):
    analyse(dataset, output)
    moved = AFFINE.copy()
    moved[0, 3] = 7
    for run in (1, 2):
        for path in (bold(dataset, "02", run), bold(dataset, "02", run, "desc-brain_mask.nii.gz")):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)
    result = analyse(dataset, output)
    assert result.failures.empty
    assert not result.stores
    assert left(output, "*.zarr*") == []


def _killed(dataset, output, where, options):
    """Run an analysis that ends by SIGKILL within a function."""
    import importlib

    module, name = where.rsplit(".", 1)
    original, calls = getattr(importlib.import_module(module), name), []

    def end(*arguments, **named):
        calls.append(1)
        if len(calls) > 2 or "convert" in name or "finish" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(importlib.import_module(module), name, end)
    analyse(dataset, output, n_jobs=1, **options)


def kill_within(dataset, output, where, **options):
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(dataset, output, where, options))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL


def test_an_unfinished_store_is_not_taken(dataset, output):
    before = open_images(analyse(dataset, output).stores["a - b"])["data"].values
    kill_within(dataset, output, "daskglm.models.convert.finish_store", noise_model="ols")
    np.testing.assert_array_equal(open_images(analyse(dataset, output).stores["a - b"])["data"].values, before)


def test_the_same_command_mends_an_unfinished_store(dataset, output, tmp_path):
    analyse(dataset, output)
    kill_within(dataset, output, "daskglm.models.convert.finish_store", noise_model="ols")
    mended = open_images(analyse(dataset, output, noise_model="ols").stores["a - b"])["data"].values
    fresh = analyse(dataset, tmp_path / "ols", noise_model="ols").stores["a - b"]
    np.testing.assert_array_equal(mended, open_images(fresh)["data"].values)


def test_an_interrupted_overwriting_of_the_store_alone(dataset, output, monkeypatch):
    """Same selection, effects of other data: the receipt of before does not stand beside another store."""
    store = analyse(dataset, output).stores["a - b"]
    before, state = open_images(store)["data"].values, bold(dataset, "01", 1).read_bytes()
    stat = os.stat(bold(dataset, "01", 1))
    nib.save(nib.Nifti1Image(nib.load(bold(dataset, "02", 1)).get_fdata() + 1, AFFINE), bold(dataset, "01", 1))

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("daskglm.models.convert.finish_store", interrupt)
        with pytest.raises(KeyboardInterrupt):
            analyse(dataset, output)
    bold(dataset, "01", 1).write_bytes(state)
    os.utime(bold(dataset, "01", 1), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    np.testing.assert_array_equal(open_images(analyse(dataset, output).stores["a - b"])["data"].values, before)


def test_maps_without_a_complete_receipt_are_removed(dataset, output):
    kill_within(dataset, output, "daskglm.io.receipts.write_image")
    assert left(output, "*aMinusB*statmap*")
    folder = output / "sub-01" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{PARTIAL}1-map.nii.gz").touch()
    analyse(dataset, output, {"a": "a"})
    assert left(output, "*aMinusB*") == left(output, f"{PARTIAL}*") == []


def test_a_store_is_made_once(dataset, output):
    write_participants(dataset, ["sub-01", "sub-02"])
    store = Path(analyse(dataset, output).stores["a - b"])
    before = (store / "zarr.json").stat().st_mtime_ns
    analyse(dataset, output)
    assert (store / "zarr.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["[]", "{}", "{", '"x"', '{"complete": true, "files": 3}'])
def test_damaged_receipts(dataset, output, text):
    analyse(dataset, output)
    receipts = [*output.rglob("*_glm.json"), *output.rglob("*.zarr.json")]
    assert len(receipts) == 7
    for path in receipts:
        path.write_text(text)
    result = analyse(dataset, output)
    assert result.failures.empty
    assert len(refitted(result)) == 4
    assert result.stores


def test_a_truncated_map_is_mended(dataset, output):
    analyse(dataset, output)
    (path,) = output.glob("sub-01/func/*run-1*stat-effect*")
    whole = path.read_bytes()
    os.truncate(path, 100)
    next(output.glob("sub-01/*stat-effect*")).unlink()
    result = analyse(dataset, output)
    assert result.failures.empty
    assert refitted(result) == ["sub-01_task-x_run-1_space-T1w"]
    assert len(path.read_bytes()) == len(whole)


def test_stores_of_other_selections_are_kept(dataset, output):
    shutil.rmtree(dataset)
    add_runs(dataset, sessions=["p", "q"])
    stores = [analyse(dataset, output, filters={"ses": label}).stores["a - b"] for label in "pq"]
    assert [os.path.basename(path) for path in stores] == [
        f"ses-{label}_task-x_space-T1w_contrast-aMinusB.zarr" for label in "pq"
    ]
    one, other = (open_images(path)["data"].values for path in stores)
    assert not np.array_equal(one, other)


def test_two_at_once_are_refused(dataset, output):
    with lock_folder(str(output), False, lambda alone: None):
        for options in ({}, {"subjects": ["01"]}):
            with pytest.raises(OutputError, match="another writes"):
                analyse(dataset, output, **options)
    with lock_folder(str(output), True, lambda alone: None):
        with pytest.raises(OutputError, match="another writes"):
            analyse(dataset, output)
        assert analyse(dataset, output, subjects=["01"]).failures.empty
    assert refitted(analyse(dataset, output)) == [f"sub-02_task-x_run-{run}_space-T1w" for run in (1, 2)]


def _for_one(dataset, output, subject):
    analyse(dataset, output, subjects=[subject])


def test_subjects_at_once(dataset, output):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_for_one, args=(dataset, output, label)) for label in ("01", "02")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    assert refitted(analyse(dataset, output)) == []


def test_unreadable_participants_are_refused_before_the_work(dataset, output):
    (dataset / "participants.tsv").write_bytes(b"\xff\xfe\x00participant_id\tage\n")
    with pytest.raises(DesignError, match=r"participants\.tsv"):
        analyse(dataset, output)
    assert not output.exists()
    assert analyse(dataset, output, subjects=["01"]).failures.empty


def test_participants_of_other_spellings_or_missing(dataset, output):
    write_participants(dataset, ["02", "01"])
    images = open_images(analyse(dataset, output).stores["a - b"])
    assert images["age"].values.tolist() == [21.0, 20.0]
    write_participants(dataset, ["sub-02", "sub-07"])
    result = analyse(dataset, output)
    np.testing.assert_array_equal(open_images(result.stores["a - b"])["age"].values, [np.nan, 20.0])
    assert any("lacks sub-01" in note for note in result.notes)
    for ids, why in ((["02", "sub-02"], "several rows of sub-02"), (["x", "y"], "none of the subjects")):
        write_participants(dataset, ids)
        result = analyse(dataset, output)
        assert "age" not in open_images(result.stores["a - b"]).variables
        assert any("no columns of participants" in note and why in note for note in result.notes)


def test_a_condition_of_the_last_run_alone(dataset, output):
    add_runs(dataset, [f"{k:02d}" for k in range(3, 8)])
    table = pd.read_csv(events(dataset, "07", 2), sep="\t")
    table.loc[[0, 3], "trial_type"] = "rare"
    table.to_csv(events(dataset, "07", 2), sep="\t", index=False)
    result = analyse(dataset, output, {"a": "a", "rare": "rare"})
    assert [item.subject for item in result.subjects if "rare" in item.contrasts] == ["sub-07"]
    with pytest.raises(ContrastError, match="rarer"):
        analyse(dataset, output, {"a": "a", "rarer": "rarer"})


def test_a_run_without_the_only_contrast_is_left_out(dataset, output):
    table = pd.read_csv(events(dataset, "01", 2), sep="\t")
    table[table["trial_type"] == "a"].to_csv(events(dataset, "01", 2), sep="\t", index=False)
    result = analyse(dataset, output)
    assert result.failures.empty
    assert any("run-2" in note and "left out" in note for note in result.notes)
    assert result.peaks["runs"].tolist() == [1, 2]
    assert refitted(analyse(dataset, output)) == []


def test_failures_of_other_subjects_stay_listed(dataset, output):
    for subject in ("01", "02"):
        bold(dataset, subject, 1).write_bytes(b"x" * 500)
    analyse(dataset, output)
    result = analyse(dataset, output, subjects=["01"])
    assert len(result.failures) == 1
    listed = pd.read_csv(output / "failures.tsv", sep="\t")["participant_id"]
    assert sorted(listed) == ["sub-01", "sub-02"]


def test_a_run_at_fault_is_listed(dataset, output):
    bold(dataset, "02", 1, "desc-preproc_bold.json").write_text("{")
    result = analyse(dataset, output)
    assert result.failures["run"].tolist() == ["sub-02_task-x_run-1_space-T1w"]
    assert "desc-preproc_bold.json" in result.failures["error"][0]


def test_warnings_are_told_once(dataset, output):
    for run in (1, 2):
        table = pd.read_csv(events(dataset, "01", run), sep="\t")
        table.loc[len(table)] = [500.0, 3.0, "a"]  # after the end
        table.to_csv(events(dataset, "01", run), sep="\t", index=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        analyse(dataset, output, subjects=["01"], n_jobs=1)
    told = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
    assert len(told) == 2, told


@pytest.mark.filterwarnings("always::UserWarning")
def test_warnings_are_kept_with_the_results(dataset, output):
    table = pd.read_csv(events(dataset, "01", 2), sep="\t")
    table.loc[len(table)] = [500.0, 3.0, "a"]
    table.to_csv(events(dataset, "01", 2), sep="\t", index=False)
    for side in (dataset / "derivatives").rglob("sub-02*_bold.json"):
        side.write_text(json.dumps({"RepetitionTime": T_R}))
    for _ in range(2):  # the second time nothing is fitted
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = analyse(dataset, output)
        told = {str(item.message) for item in caught if issubclass(item.category, UserWarning)}
        kept = set(json.loads((output / "first_level.json").read_text())["warnings"])
        assert kept == told
        assert any("after the last scan" in text for text in kept)
        assert any("no StartTime" in text and "sub-02" in text for text in kept)
        heard = {run.name: run.heard for item in result.subjects for run in item.runs}
        assert [name for name, texts in heard.items() if texts] == ["sub-01_task-x_run-2_space-T1w"]


def test_the_json_of_confounds_is_an_input(dataset, output):
    options = {"confounds": ["compcor", "high_pass", "n_compcor=2"], "drift_model": None}
    analyse(dataset, output, **options)
    path = bold(dataset, "01", 1, "").with_name("sub-01_task-x_run-1_desc-confounds_timeseries.json")
    about = json.loads(path.read_text())
    about["a_comp_cor_00"]["Mask"] = "CSF"
    path.write_text(json.dumps(about))
    assert refitted(analyse(dataset, output, **options)) == ["sub-01_task-x_run-1_space-T1w"]
    (table,) = output.rglob("sub-01*run-1*_design.tsv")
    columns = pd.read_csv(table, sep="\t").columns
    assert [name for name in columns if "comp_cor" in name] == ["a_comp_cor_01", "a_comp_cor_02"]


def test_runs_without_a_mask_are_named(dataset, output):
    bold(dataset, "02", 1, "desc-brain_mask.nii.gz").unlink()
    notes = analyse(dataset, output).notes
    assert any("no brain mask" in note and "sub-02_task-x_run-1" in note for note in notes)


@pytest.mark.filterwarnings("ignore:slice_time_ref is 0.5, but StartTime:UserWarning")
def test_how_it_was_made_is_said(dataset, output):
    analyse(dataset, output, subjects=["01"], filters={"run": [1]}, precision_weighted=True, slice_time_ref=0.5)
    made = json.loads((output / "first_level.json").read_text())
    expected = {
        "task": "x", "space": "T1w", "subjects": ["sub-01"], "filters": [["run", ["1"]]], "precision_weighted": True,
        "t_r": None, "slice_time_ref": 0.5,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected


def test_relative_paths_on_workers_elsewhere(dataset, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir("/")
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        monkeypatch.chdir(tmp_path)
        result = analyse("bids", "out", subjects=["01"])
    assert result.failures.empty
    assert result.output == "out"
    assert (tmp_path / "out" / "sub-01").is_dir()


def test_the_lock_goes_with_its_process(output):
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(output,))
    process.start()
    while not (output / "held").exists():
        time.sleep(0.05)
    with pytest.raises(OutputError), lock_folder(str(output), False, lambda alone: None):
        pass
    process.kill()
    process.join()
    with lock_folder(str(output), False, lambda alone: None):
        pass


def _hold(output):
    with lock_folder(str(output), False, lambda alone: None):
        (output / "held").touch()
        time.sleep(60)


def test_what_cannot_be_compared_is_refused(dataset, output):
    with pytest.raises(ParameterError, match="module"):
        analyse(dataset, output, hrf_model=lambda t_r, oversampling: np.ones(4))
    assert not output.exists()
