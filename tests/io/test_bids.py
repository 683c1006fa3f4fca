"""Runs of a BIDS dataset: names alone decide, and what is ambiguous is an error."""

import json
import re
import time
from pathlib import Path

import pytest

from daskglm.errors import ImageError, ParameterError
from daskglm.io import bids_tree
from daskglm.io.bids import FILTER_ENTITIES, find_runs


def touch(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def add_run(folder, stem, space="T1w", desc="preproc", suffix=".nii.gz", confounds="timeseries"):
    """The files of one preprocessed run."""
    full = f"{stem}_space-{space}" if space else stem
    touch(folder / f"{full}_desc-{desc}_bold{suffix}")
    touch(folder / f"{full}_desc-brain_mask.nii.gz")
    if confounds:
        touch(folder / f"{stem}_desc-confounds_{confounds}.tsv")
    touch(folder / f"{full}_desc-preproc_bold.json", {"RepetitionTime": 2.0, "StartTime": 0.5})


@pytest.fixture
def dataset(tmp_path):
    """Two subjects, two runs of one task, one space."""
    for sub in ("01", "02"):
        for run in ("1", "2"):
            add_run(tmp_path / f"derivatives/fmriprep/sub-{sub}/func", f"sub-{sub}_task-x_run-{run}")
            touch(tmp_path / f"sub-{sub}/func/sub-{sub}_task-x_run-{run}_events.tsv")
    return tmp_path


@pytest.fixture(scope="module")
def haxby():
    folder = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"
    if not folder.is_dir():
        pytest.skip(f"the haxby2001 data are not at {folder}")
    return folder


def names(runs):
    return [run.name for run in runs]


def test_real_dataset(haxby):
    runs = find_runs(haxby, "objectviewing", "T1w")
    assert names(runs) == [f"sub-001_task-objectviewing_run-{k:02d}_space-T1w" for k in range(1, 13)]
    for run in runs:
        assert (run.subject, run.t_r, run.start_time) == ("sub-001", 2.5, 0.0)
        for path, end in ((run.mask, "desc-brain_mask.nii.gz"), (run.confounds, "timeseries.tsv")):
            assert Path(path).is_file()
            assert path.endswith(end)
            assert f"run-{run.entities['run']}" in path
        assert run.events == str(
            haxby / f"sub-001/func/sub-001_task-objectviewing_run-{run.entities['run']}_events.tsv"
        )
    assert find_runs(haxby, None) == runs
    assert len(set(runs)) == 12


def test_a_run(dataset):
    run = find_runs(dataset, "x")[0]
    folder = dataset / "derivatives/fmriprep/sub-01/func"
    assert run.entities == {"sub": "01", "task": "x", "run": "1", "space": "T1w", "desc": "preproc"}
    assert run.bold == str(folder / "sub-01_task-x_run-1_space-T1w_desc-preproc_bold.nii.gz")
    assert run.mask == str(folder / "sub-01_task-x_run-1_space-T1w_desc-brain_mask.nii.gz")
    assert run.confounds == str(folder / "sub-01_task-x_run-1_desc-confounds_timeseries.tsv")
    assert (run.t_r, run.start_time) == (2.0, 0.5)


@pytest.mark.parametrize("derivatives", ["derivatives", "derivatives/fmriprep", "absolute"])
def test_places_of_derivatives(dataset, derivatives):
    place = dataset / "derivatives" / "fmriprep" if derivatives == "absolute" else derivatives
    assert len(find_runs(str(dataset), "task-x", "space-T1w", derivatives=place)) == 4


def test_sorted_naturally_with_sessions(tmp_path):
    for sub in ("10", "9"):
        for ses in ("a10", "a9"):
            for run in ("10", "9"):
                stem = f"sub-{sub}_ses-{ses}_task-x_run-{run}"
                add_run(tmp_path / f"derivatives/sub-{sub}/ses-{ses}/func", stem, None)
    runs = find_runs(tmp_path, "x")
    expected = [f"sub-{s}_ses-{e}_task-x_run-{r}" for s in (9, 10) for e in ("a9", "a10") for r in (9, 10)]
    assert names(runs) == expected
    assert all(run.mask and run.confounds for run in runs)
    assert names(find_runs(tmp_path, "x", sessions="ses-a9")) == [name for name in expected if "a9" in name]
    with pytest.raises(ParameterError, match=r"no session 'a8'.*a9"):
        find_runs(tmp_path, "x", sessions=["a8"])


def test_subjects(dataset):
    def subjects(**how):
        return sorted({run.subject for run in find_runs(dataset, "x", **how)})

    assert subjects(subjects="02") == subjects(subjects=["sub-02"]) == subjects(exclude_subjects=["01"]) == ["sub-02"]
    assert subjects(subjects=["02", "sub-01", "01"]) == ["sub-01", "sub-02"]
    with pytest.raises(ParameterError, match=r"no subject '03' is.*nearest that exist: 0[12], 0[12]"):
        subjects(subjects=["01", "03"])
    with pytest.raises(ParameterError, match="those that exist: 01, 02"):
        subjects(subjects=["control"])
    with pytest.raises(ParameterError, match="no subject '7'"):
        subjects(exclude_subjects="7")
    with pytest.raises(ParameterError, match="every one is excluded"):
        subjects(exclude_subjects=["01", "02"])
    # A subject that was never preprocessed may be excluded, one asked for must have runs.
    (dataset / "sub-07").mkdir()
    assert subjects(exclude_subjects="sub-07") == ["sub-01", "sub-02"]
    (dataset / "derivatives/fmriprep/sub-04").mkdir()
    assert subjects() == ["sub-01", "sub-02"]
    with pytest.raises(ImageError, match="no BOLD image of sub-04"):
        subjects(subjects=["01", "04"])


def test_task_and_space(dataset):
    folder = dataset / "derivatives/fmriprep/sub-01/func"
    add_run(folder, "sub-01_task-rest", "MNI")
    with pytest.raises(ParameterError, match="several tasks needs task=; this one has: rest, x"):
        find_runs(dataset, None)
    assert names(find_runs(dataset, "rest")) == ["sub-01_task-rest_space-MNI"]
    add_run(folder, "sub-01_task-rest", None)
    with pytest.raises(ParameterError, match=r"'rest' are in several: MNI, none \(files without"):
        find_runs(dataset, "rest")
    native = find_runs(dataset, "rest", filters={"space": ""})[0]
    assert native.name == "sub-01_task-rest"
    assert native.mask == str(folder / "sub-01_task-rest_desc-brain_mask.nii.gz")
    assert find_runs(dataset, "rest", "MNI")[0].mask.endswith("space-MNI_desc-brain_mask.nii.gz")
    with pytest.raises(
        ImageError, match=r"with task-x, space-MNI .*tasks: rest, x, spaces: MNI, T1w.*subjects: 01, 02"
    ):
        find_runs(dataset, "x", "MNI")


def test_tasks_are_taken_together_only_where_filters_name_them(dataset):
    add_run(dataset / "derivatives/fmriprep/sub-01/func", "sub-01_task-rest_run-1")
    assert len(find_runs(dataset, None, filters={"task": ["x", "rest"]})) == 5
    assert names(find_runs(dataset, None, filters={"task": "rest"})) == ["sub-01_task-rest_run-1_space-T1w"]
    with pytest.raises(ParameterError, match="several tasks needs task=; this one has: rest, x"):
        find_runs(dataset, None, filters={"run": "1"})
    assert len(find_runs(dataset, None, filters={"run": "2"})) == 2  # of one task


def test_filters(dataset):
    assert names(find_runs(dataset, "x", filters={"run": "02", "sub": "01"})) == ["sub-01_task-x_run-2_space-T1w"]
    assert len(find_runs(dataset, "x", filters=[("run", 1)])) == 2
    assert len(find_runs(dataset, "x", filters=[("run", "1"), ("run", "2")])) == 4
    assert len(find_runs(dataset, "x", filters={"run": ["1", "2"], "acq": None})) == 4
    with pytest.raises(ParameterError, match=f"{', '.join(FILTER_ENTITIES)}, but one is of 'runs'"):
        find_runs(dataset, "x", filters={"runs": "1"})
    with pytest.raises(ParameterError, match="pairs of entity and value, but one is 'run=1'"):
        find_runs(dataset, "x", filters=["run=1"])


def test_several_files_of_a_run(tmp_path):
    folder = tmp_path / "derivatives/fmriprep/sub-01/func"
    for extra in ("_res-1", "_res-2"):
        touch(folder / f"sub-01_task-x_space-MNI{extra}_desc-preproc_bold.nii")
        touch(folder / f"sub-01_task-x_space-MNI{extra}_desc-brain_mask.nii.gz")
    touch(folder / "sub-01_task-x_space-MNI_res-2_desc-smoothed_bold.nii")
    with pytest.raises(ImageError, match=r"filter by res: 1, 2, as in --filter res=1 or filters=\{'res': '1'\}"):
        find_runs(tmp_path, "x")
    run = find_runs(tmp_path, "x", filters={"res": "2"})[0]
    assert run.entities["desc"] == "preproc"
    assert run.mask.endswith("res-2_desc-brain_mask.nii.gz")
    assert find_runs(tmp_path, "x", filters={"desc": "smoothed"})[0].bold.endswith("smoothed_bold.nii")
    touch(folder / "sub-01_task-x_space-MNI_res-1_desc-preproc_bold.nii.gz")
    with pytest.raises(ImageError, match="differ in no entity"):
        find_runs(tmp_path, "x", filters={"res": "1"})


def test_without_preproc(tmp_path):
    folder = tmp_path / "derivatives/tedana/sub-01/func"
    for desc in ("optcom", "denoised"):
        touch(folder / f"sub-01_task-x_desc-{desc}_bold.nii.gz")
    with pytest.raises(ImageError, match="filter by desc: denoised, optcom"):
        find_runs(tmp_path, "x")
    assert find_runs(tmp_path, "x", filters={"desc": "optcom"})[0].entities["desc"] == "optcom"


def test_echoes(tmp_path):
    folder = tmp_path / "derivatives/fmriprep/sub-01/func"
    for echo in ("_echo-1", "_echo-2", ""):
        touch(folder / f"sub-01_task-x{echo}_desc-preproc_bold.nii.gz")
    table = touch(folder / "sub-01_task-x_desc-confounds_regressors.tsv")
    mask = touch(folder / "sub-01_task-x_desc-brain_mask.nii.gz")
    # The example is the combination of the echoes.
    with pytest.raises(ImageError, match=r"filter by echo: 1, 2, none, as in --filter echo= or filters=\{'echo': ''\}"):
        find_runs(tmp_path, "x")
    assert find_runs(tmp_path, "x", filters={"echo": ""})[0].name == "sub-01_task-x"
    run = find_runs(tmp_path, "x", filters={"echo": "2"})[0]
    assert (run.name, run.confounds, run.mask) == ("sub-01_task-x_echo-2", table, mask)
    own = touch(folder / "sub-01_task-x_echo-2_desc-confounds_timeseries.tsv")
    assert find_runs(tmp_path, "x", filters={"echo": "2"})[0].confounds == own


def test_two_pipelines(dataset):
    add_run(dataset / "derivatives/other/sub-01/func", "sub-01_task-x_run-01")
    with pytest.raises(ImageError, match=r"several hold sub-01_task-x_run-\S+: \S+fmriprep, \S+other; give one"):
        find_runs(dataset, "x")
    assert len(find_runs(dataset, "x", derivatives="derivatives/other")) == 1
    # Runs of different subjects are one dataset.
    assert len(find_runs(dataset, "x", exclude_subjects="01")) == 2


def test_what_may_be_missing(tmp_path):
    touch(tmp_path / "derivatives/sub-01/func/sub-01_task-x_bold.nii.gz")
    run = find_runs(tmp_path, "x")[0]
    assert [run.mask, run.confounds, run.events, run.t_r, run.start_time] == [None] * 5


def test_confounds_are_of_the_run(dataset):
    folder = dataset / "derivatives/fmriprep/sub-01/func"
    (folder / "sub-01_task-x_run-1_desc-confounds_timeseries.tsv").unlink()
    # Neither another run's nor one of another acquisition.
    touch(folder / "sub-01_task-x_acq-a_run-1_desc-confounds_timeseries.tsv")
    run = find_runs(dataset, "x")[0]
    assert run.confounds is None
    older = touch(folder / "sub-01_task-x_run-1_desc-confounds_regressors.tsv")
    assert find_runs(dataset, "x")[0].confounds == older


def test_inheritance_of_events(tmp_path):
    stem = "sub-01_ses-a_task-x_run-1"
    add_run(tmp_path / "derivatives/fmriprep/sub-01/ses-a/func", stem)
    raw = tmp_path / "sub-01"
    touch(tmp_path / "task-other_events.tsv")
    touch(raw / "ses-a/func/sub-01_ses-a_task-x_run-2_events.tsv")
    assert find_runs(tmp_path, "x")[0].events is None
    for path in (
        tmp_path / "task-x_events.tsv",
        raw / "sub-01_task-x_events.tsv",
        raw / "ses-a/sub-01_ses-a_task-x_events.tsv",
        raw / "ses-a/func/sub-01_ses-a_task-x_events.tsv",
        # fMRIPrep may drop the zeros of an index; the file with more entities is nearer.
        raw / "ses-a/func/sub-01_ses-a_task-x_run-01_events.tsv",
    ):
        table = touch(path)
        assert find_runs(tmp_path, "x")[0].events == table
    touch(raw / "ses-a/func/sub-01_ses-a_task-x_run-1_events.tsv")
    run = find_runs(tmp_path, "x")[0]
    assert run.events is None
    assert re.search(r"two do: \S+run-01_events.tsv and \S+run-1_events.tsv; keep one", run.fault)


def test_inheritance_of_times(tmp_path):
    folder = tmp_path / "derivatives/fmriprep/sub-01/func"
    touch(folder / "sub-01_task-x_run-1_bold.nii.gz")
    for path, t_r in (
        (tmp_path / "task-x_bold.json", 4.0),
        (tmp_path / "sub-01/sub-01_task-x_bold.json", 3.5),
        (tmp_path / "sub-01/func/sub-01_task-x_run-1_bold.json", 3),
        (tmp_path / "derivatives/fmriprep/task-x_bold.json", 2.5),
        (folder / "sub-01_task-x_run-1_bold.json", 2.0),
    ):
        touch(path, {"RepetitionTime": t_r, "StartTime": 0.25})
        run = find_runs(tmp_path, "x")[0]
        assert run.t_r == t_r
        assert run.start_time == (0.25 if "derivatives" in str(path) else None)
    # What the nearest file does not say, a farther one does.
    touch(folder / "sub-01_task-x_run-1_bold.json", {"StartTime": 0})
    run = find_runs(tmp_path, "x")[0]
    assert (run.t_r, run.start_time) == (2.5, 0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the metadata"),
        ("[2]", r"holds an object, but \S+ holds \[2\]"),
        ('{"RepetitionTime": "2 s"}', "RepetitionTime is a number of seconds, but it is '2 s'"),
        ('{"RepetitionTime": 0}', "but it is 0"),
        ('{"RepetitionTime": NaN}', "but it is nan"),
        ('{"StartTime": -1}', "StartTime .* it is -1"),
        ('{"StartTime": true}', "it is True"),
    ],
)
def test_bad_metadata(dataset, content, message):
    touch(dataset / "derivatives/fmriprep/sub-02/func/sub-02_task-x_run-2_space-T1w_desc-preproc_bold.json", content)
    *others, bad = find_runs(dataset, "x")
    assert re.search(message, bad.fault)
    # The same file gives two values: it is named once.
    assert "also" not in bad.fault
    assert [run.fault for run in others] == [None] * 3


def test_metadata_are_read_once(dataset, monkeypatch):
    for path in (dataset / "derivatives").rglob("*_bold.json"):
        path.unlink()
    touch(dataset / "task-x_bold.json", {"RepetitionTime": 1.5})
    loads = []
    real = json.load
    monkeypatch.setattr(bids_tree.json, "load", lambda file: loads.append(file.name) or real(file))
    assert [run.t_r for run in find_runs(dataset, "x")] == [1.5] * 4
    assert len(loads) == 1


def test_no_folders(tmp_path):
    with pytest.raises(ImageError, match="no folder of dataset at"):
        find_runs(tmp_path / "absent", "x")
    with pytest.raises(ImageError, match="no folder of derivatives at"):
        find_runs(tmp_path, "x")
    (tmp_path / "derivatives/fmriprep").mkdir(parents=True)
    with pytest.raises(ImageError, match="folders sub-<label>, but neither"):
        find_runs(tmp_path, "x")


def test_nothing_found(dataset):
    with pytest.raises(ImageError, match=r"task-y .*fmriprep; found there: tasks: x, spaces: T1w, desc: preproc"):
        find_runs(dataset, "y")


def test_names_that_are_not_bids(tmp_path):
    folder = tmp_path / "derivatives/sub-01/func"
    touch(folder / "sub-01_task-my_task_bold.nii.gz")
    touch(folder / "sub-02_task-x_bold.nii.gz")
    with pytest.raises(ImageError, match=r"not named as BIDS says: .*(my_task|sub-02)") as caught:
        find_runs(tmp_path, None)
    assert "tasks: none" in str(caught.value)
    assert "(none)" not in str(caught.value)


def test_fast(tmp_path):
    for k in range(200):
        folder = tmp_path / f"derivatives/fmriprep/sub-{k:04d}/func"
        for run in range(1, 5):
            add_run(folder, f"sub-{k:04d}_task-x_run-{run}")
    touch(tmp_path / "task-x_events.tsv")
    start = time.process_time()
    assert len(find_runs(tmp_path, "x")) == 800
    # 0.06 s where this was written; the limit is for slow machines.
    assert time.process_time() - start < 2
