"""What is wrong with some runs of a BIDS dataset is said, and stops no other run."""

import json
import os
import warnings

import pytest

from daskglm.errors import ImageError, ParameterError
from daskglm.io.bids import find_runs


def touch(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def add_run(root, stem, pipeline="derivatives/prep", suffix=".nii.gz"):
    """The files of one run; those of its derivatives by suffix."""
    raw = root / stem.split("_")[0] / "func" / f"{stem}_events.tsv"
    folder = root / pipeline / stem.split("_")[0] / "func"
    return {
        "events": touch(raw),
        "bold": touch(folder / f"{stem}_space-T1w_desc-preproc_bold{suffix}"),
        "mask": touch(folder / f"{stem}_space-T1w_desc-brain_mask{suffix}"),
        "json": touch(folder / f"{stem}_space-T1w_desc-preproc_bold.json", {"RepetitionTime": 2.0}),
        "confounds": touch(folder / f"{stem}_desc-confounds_timeseries.tsv"),
    }


@pytest.fixture
def dataset(tmp_path):
    """Two subjects of two runs."""
    return {(sub, run): add_run(tmp_path, f"sub-{sub}_task-x_run-{run}") for sub in ("01", "02") for run in ("1", "2")}


def names(runs):
    return [run.name for run in runs]


def break_link(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "annex" / "absent")


@pytest.mark.parametrize(("file", "what"), [("bold", "image"), ("mask", "mask"), ("events", "table of events")])
def test_broken_links(tmp_path, dataset, file, what):
    break_link(dataset["02", "1"][file])
    runs = find_runs(tmp_path, "x")
    assert [run.fault is None for run in runs] == [True, True, False, True]
    assert f"the {what} of a run is a file, but {dataset['02', '1'][file]} is a broken link; fetch" in runs[2].fault


def test_a_link_that_is_whole_is_a_file(tmp_path, dataset):
    bold = dataset["02", "1"]["bold"]
    bold.rename(tmp_path / "content")
    bold.symlink_to(tmp_path / "content")
    assert [run.fault for run in find_runs(tmp_path, "x")] == [None] * 4


def test_a_broken_link_to_confounds_is_no_fault(tmp_path, dataset):
    """They may not be asked for."""
    break_link(dataset["01", "1"]["confounds"])
    run = find_runs(tmp_path, "x")[0]
    assert (run.fault, run.confounds) == (None, str(dataset["01", "1"]["confounds"]))


def test_several_faults(tmp_path, dataset):
    dataset["01", "2"]["json"].write_text("{")
    break_link(dataset["01", "2"]["bold"])
    fault = find_runs(tmp_path, "x")[1].fault
    assert "cannot read the metadata" in fault
    assert "; also, the image of a run is a file" in fault


def test_damaged_metadata_of_all_are_a_fault_of_each(tmp_path, dataset):
    touch(tmp_path / "derivatives/prep/task-x_bold.json", "[]")
    # Each run has a file of its own that says all but StartTime.
    assert all("holds an object" in run.fault and run.t_r == 2.0 for run in find_runs(tmp_path, "x"))


@pytest.mark.parametrize("name", ["sub-02_task-x_run-2_extra", "sub-02_task-my_task_run-2", "sub-03_task-x_run-2"])
def test_misnamed_images_are_named(tmp_path, dataset, name):
    dataset["02", "2"]["bold"].rename(bad := dataset["02", "2"]["bold"].parent / f"{name}_space-T1w_bold.nii.gz")
    with pytest.warns(UserWarning, match="but 1 are not and are left out: .*rename them") as caught:
        assert len(find_runs(tmp_path, None)) == 3
    assert str(bad) in str(caught[0].message)
    assert len(caught) == 1


def test_misnamed_subjects_are_named_once(tmp_path, dataset):
    for run in range(5):
        add_run(tmp_path, f"sub-é2_task-x_run-{run}")
    with pytest.warns(
        UserWarning, match=r"5 are not and are left out: \S*sub-é2_task-x.* and 2 more; rename"
    ) as caught:
        assert len(find_runs(tmp_path, "x")) == 4
    assert len(caught) == 1


def test_misnamed_images_that_are_not_asked_for(tmp_path, dataset):
    folder = tmp_path / "derivatives/prep/sub-02/func"
    for name in ("task-y_run-2_extra_bold.nii.gz", "task-x_run-2_extra_space-MNI_bold.nii.gz",
                 "task-x_run-2_extra_desc-other_bold.nii.gz", "task-x_run-2_extra_events.tsv"):  # fmt: skip
        touch(folder / f"sub-02_{name}")
    touch(tmp_path / "sub-02/func/sub-02_task-x_run_2_bold.nii.gz")
    touch(folder / "sub-02_task-x_run-3_extra_space-T1w_bold.nii.gz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        find_runs(tmp_path, "x", "T1w")
        find_runs(tmp_path, "x", "T1w", subjects=["01"])
    (warning,) = caught
    assert "1 are not" in str(warning.message)
    assert "run-3_extra" in str(warning.message)


@pytest.mark.parametrize("other", ["bold-less", "other task", "none"])
def test_runs_in_folders_below_are_hinted_at(tmp_path, monkeypatch, other):
    add_run(tmp_path, "sub-01_task-x", "derivatives/nest/deep/prep")
    if other == "bold-less":
        (tmp_path / "derivatives/freesurfer/sub-01/func").mkdir(parents=True)
    elif other == "other task":
        add_run(tmp_path, "sub-01_task-y", "derivatives/rest")
    monkeypatch.chdir(tmp_path.parent)
    root = tmp_path.name
    place = tmp_path / "derivatives" / "nest" / "deep" / "prep"
    with pytest.raises(ImageError, match=f"--derivatives {place} ") as caught:
        find_runs(root, "x")
    assert "(none)" not in str(caught.value)
    # What the message says works.
    assert names(find_runs(root, "x", derivatives=str(place))) == ["sub-01_task-x_space-T1w"]


def test_folders_below_without_what_is_wanted_are_not(tmp_path, dataset):
    add_run(tmp_path, "sub-01_task-y", "derivatives/nest/prep")
    with pytest.raises(ImageError, match="name what exists") as caught:
        find_runs(tmp_path, "z")
    assert "nest" not in str(caught.value)


def test_a_filter_may_choose_the_task(tmp_path, dataset):
    add_run(tmp_path, "sub-01_task-y")
    with pytest.raises(ParameterError, match=r"has: x, y; name one \(--task x\)"):
        find_runs(tmp_path, None)
    assert names(find_runs(tmp_path, None, filters=[("task", "y")])) == ["sub-01_task-y_space-T1w"]


def test_the_folder_of_one_pipeline_as_the_message_says(tmp_path, dataset, monkeypatch):
    add_run(tmp_path, "sub-01_task-x_run-1", "derivatives/other")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ImageError, match=f"--derivatives {tmp_path}/derivatives/other "):
        find_runs(tmp_path.name, "x")


def test_mixed_suffixes_and_runs_without_the_entity(tmp_path):
    add_run(tmp_path, "sub-01_task-x", suffix=".nii")
    for run in ("1", "2"):
        add_run(tmp_path, f"sub-02_task-x_run-{run}", suffix=".nii" if run == "2" else ".nii.gz")
    runs = find_runs(tmp_path, "x")
    assert names(runs) == [f"sub-{name}_space-T1w" for name in ("01_task-x", "02_task-x_run-1", "02_task-x_run-2")]
    for run in runs:
        stem = run.name.removesuffix("_space-T1w")
        assert [os.path.basename(path).split("_desc")[0] for path in (run.mask, run.bold)] == [run.name] * 2
        assert os.path.basename(run.confounds) == f"{stem}_desc-confounds_timeseries.tsv"
        assert os.path.basename(run.events) == f"{stem}_events.tsv"
