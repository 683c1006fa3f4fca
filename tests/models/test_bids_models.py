"""Models of a BIDS dataset: what the runs of a subject have to share, and nilearn's maps where runs are scrubbed."""

import contextlib
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

from daskglm import FirstLevelModel, beta_series, first_level_analysis, first_level_from_bids
from daskglm.cli.main import main
from daskglm.errors import DesignError, ImageError, ParameterError, ParameterTypeError

SHAPE, N_VOLUMES = (4, 4, 3), 60
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def write_run(root, name, suffix=".nii.gz", t_r=2.0, start=0.0, seed=0):
    """A run on disk."""
    rng = np.random.default_rng(seed)
    subject = name.split("_")[0]
    raw, derived = root / subject / "func", root / "derivatives" / "prep" / subject / "func"
    raw.mkdir(parents=True, exist_ok=True)
    derived.mkdir(parents=True, exist_ok=True)
    onsets = np.arange(4, N_VOLUMES * t_r - 8, 10.0) + rng.uniform(0, 1)
    kinds = ["a" if k % 2 else "b" for k in range(len(onsets))]
    events = pd.DataFrame({"onset": onsets, "duration": 3.0, "trial_type": kinds})
    events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
    data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
    nib.save(nib.Nifti1Image(data, AFFINE), derived / f"{name}_space-T1w_desc-preproc_bold{suffix}")
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    nib.save(mask, derived / f"{name}_space-T1w_desc-brain_mask{suffix}")
    times = {"RepetitionTime": t_r, "StartTime": start}
    (derived / f"{name}_space-T1w_desc-preproc_bold.json").write_text(json.dumps(times))
    table = pd.DataFrame(
        rng.standard_normal((N_VOLUMES, 6)), columns=[f"{k}_{x}" for k in ("trans", "rot") for x in "xyz"]
    )
    table["framewise_displacement"] = np.r_[np.nan, np.abs(rng.standard_normal(N_VOLUMES - 1)) * 0.2]
    table["std_dvars"] = np.r_[np.nan, 1 + 0.1 * rng.standard_normal(N_VOLUMES - 1)]
    table.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")


def found(root, **options):
    return first_level_from_bids(root, "x", mask_img="derivatives", confounds_strategy=None, **options)


def test_runs_of_one_subject_have_one_repetition_time(tmp_path):
    write_run(tmp_path, "sub-01_task-x_run-1")
    write_run(tmp_path, "sub-01_task-x_run-2", t_r=1.5)
    write_run(tmp_path, "sub-02_task-x_run-1", t_r=1.0)
    with pytest.raises(ImageError, match=r"x_run-1_space-T1w 2, sub-01_task-x_run-2_space-T1w 1.5; .* give t_r"):
        found(tmp_path)
    # Each way out of the message, and subjects that differ.
    assert [model.t_r for model in found(tmp_path, img_filters=[("run", "1")])[0]] == [2.0, 1.0]
    with pytest.warns(UserWarning, match="RepetitionTime says otherwise"):
        assert [model.t_r for model in found(tmp_path, t_r=1.8)[0]] == [1.8, 1.8]


def test_a_run_without_a_repetition_time_beside_one_with_it(tmp_path):
    for run in (1, 2):
        write_run(tmp_path, f"sub-01_task-x_run-{run}")
    (tmp_path / "derivatives/prep/sub-01/func/sub-01_task-x_run-2_space-T1w_desc-preproc_bold.json").unlink()
    with pytest.raises(ImageError, match=r"run-1_space-T1w 2, sub-01_task-x_run-2_space-T1w none; "):
        found(tmp_path)


def test_runs_of_one_subject_have_one_reference_slice(tmp_path):
    write_run(tmp_path, "sub-01_task-x_run-1")
    write_run(tmp_path, "sub-01_task-x_run-2", start=1.0)
    with pytest.raises(ImageError, match=r"run-1_space-T1w 0, .*run-2_space-T1w 0.5; .*give slice_time_ref"):
        found(tmp_path)
    with pytest.warns(UserWarning, match="StartTime / RepetitionTime says otherwise"):
        assert found(tmp_path, slice_time_ref=0.25)[0][0].slice_time_ref == 0.25
    assert found(tmp_path, img_filters={"run": 2})[0][0].slice_time_ref == 0.5


def with_times(root, name, **times):
    """The metadata of a run, replaced."""
    side = root / "derivatives" / "prep" / name.split("_")[0] / "func" / f"{name}_space-T1w_desc-preproc_bold.json"
    side.write_text(json.dumps(times))


@pytest.mark.parametrize(
    ("times", "start", "told"),
    [
        ({"SliceTimingCorrected": True}, 0.5, r"SliceTimingCorrected.*no StartTime.*run-1.*taken for 0\.5"),
        ({"SliceTimingCorrected": False}, 0.0, r"cannot be inferred.*no StartTime.*run-1.*taken for 0;"),
        ({}, 0.0, r"cannot be inferred.*no StartTime.*run-1.*taken for 0;"),
        ({"SliceTimingCorrected": True, "StartTime": 0.5}, 0.25, None),
    ],
)
@pytest.mark.filterwarnings("always:.*no StartTime")
def test_slice_times_that_the_metadata_do_not_say(tmp_path, times, start, told):
    from nilearn.glm.first_level import make_first_level_design_matrix

    name = "sub-01_task-x_run-1"
    write_run(tmp_path, name)
    with_times(tmp_path, name, RepetitionTime=2.0, **times)
    with contextlib.nullcontext() if told is None else pytest.warns(UserWarning, match=told):
        (model,), (images,), (events,), _ = found(tmp_path)
    assert model.slice_time_ref == start
    expected = make_first_level_design_matrix((np.arange(N_VOLUMES) + start) * 2.0, events[0])
    np.testing.assert_allclose(model.fit(images, events).design_matrices_[0], expected, atol=1e-10)
    done = CliRunner().invoke(
        main, ["first-level", str(tmp_path), str(tmp_path / "out"), "--contrast", "a", "--json", "--space", "T1w"]
    )
    assert done.exit_code == 0, done.output
    shown = re.findall(f"warning: .*{told}", done.output)
    assert len(shown) == (told is not None)
    (table,) = (tmp_path / "out" / "sub-01" / "func").glob("*_design.tsv")
    np.testing.assert_allclose(pd.read_csv(table, sep="\t")[list(expected)], expected, atol=1e-8)


def test_times_that_differ_from_the_metadata_are_told(tmp_path):
    write_run(tmp_path, "sub-01_task-x_run-1", start=1.0)
    with pytest.warns(UserWarning, match=r"slice_time_ref is 0\.25, but StartTime / RepetitionTime says otherwise"):
        found(tmp_path, slice_time_ref=0.25)
    with pytest.warns(UserWarning, match=r"t_r is 2\.5 s, but RepetitionTime says otherwise.*run-1"):
        found(tmp_path, t_r=2.5, slice_time_ref=0.4)
    (model,), *_ = found(tmp_path, slice_time_ref=0.5)
    assert model.slice_time_ref == 0.5
    with_times(tmp_path, "sub-01_task-x_run-1", RepetitionTime=2000, StartTime=0.0)
    with pytest.raises(ImageError, match=r"RepetitionTime must be in seconds, got 2000 in .*; .*milliseconds, write 2"):
        found(tmp_path)


def test_faults_are_raised(tmp_path):
    write_run(tmp_path, "sub-01_task-x_run-1")
    write_run(tmp_path, "sub-02_task-x_run-1")
    bold = tmp_path / "derivatives/prep/sub-02/func/sub-02_task-x_run-1_space-T1w_desc-preproc_bold.nii.gz"
    bold.unlink()
    bold.symlink_to("nowhere")
    with pytest.raises(ImageError, match=r"1 of 2 cannot; .* sub-02_task-x_run-1_space-T1w: the image .* broken link"):
        found(tmp_path)
    assert len(found(tmp_path, exclude_subjects=["02"])[0]) == 1


def test_broken_links_to_confounds_are_named_where_these_are_asked_for(tmp_path):
    write_run(tmp_path, "sub-01_task-x_run-1")
    table = tmp_path / "derivatives/prep/sub-01/func/sub-01_task-x_run-1_desc-confounds_timeseries.tsv"
    table.unlink()
    table.symlink_to("nowhere")
    assert len(found(tmp_path)[0]) == 1
    for options in ({}, {"confounds_strategy": ("motion",)}):
        with pytest.raises(DesignError, match=re.escape(str(table))):
            first_level_from_bids(tmp_path, "x", **options)


@pytest.fixture
def scrubbed(tmp_path):
    """One subject, one run each of .nii and .nii.gz."""
    write_run(tmp_path, "sub-01_task-x_run-1", seed=1)
    write_run(tmp_path, "sub-01_task-x_run-2", suffix=".nii", seed=2)
    return tmp_path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scrub", [0, 5])
def test_scrubbing_equals_nilearn(scrubbed, tmp_path, scrub):
    from nilearn.glm.first_level import FirstLevelModel
    from nilearn.interfaces.fmriprep import load_confounds

    how = {"scrub": scrub, "fd_threshold": 0.35, "std_dvars_threshold": 1.15}
    (model,), (images,), (events,), (confounds,) = first_level_from_bids(
        scrubbed, "x", mask_img="derivatives", noise_model="ols", confounds_strategy=("motion", "scrub"),
        confounds_motion="basic", **{f"confounds_{name}": value for name, value in how.items()},
    )  # fmt: skip
    model.fit(images, events, confounds)
    kept = []
    expected_confounds = []
    for image in images:
        # nilearn finds the table by names that end in .nii.gz.
        table, mask = load_confounds(
            re.sub(r"\.nii$", ".nii.gz", image), strategy=("motion", "scrub"), motion="basic", **how
        )
        kept.append(mask)
        expected_confounds.append(table)
    assert all(0.5 * N_VOLUMES < len(mask) < N_VOLUMES for mask in kept)
    nilearn = FirstLevelModel(t_r=2.0, mask_img=model.mask_img, noise_model="ols", minimize_memory=False)
    nilearn.fit(images, events, expected_confounds, sample_masks=kept)
    result = first_level_analysis(
        str(scrubbed), str(tmp_path / "out"), {"a - b": "a - b"}, noise_model="ols",
        confounds=["motion", *(f"{name}={value}" for name, value in how.items())],
    )  # fmt: skip
    assert result.failures.empty
    (receipt,) = result.subjects
    outputs = {"effect": "effect_size", "variance": "effect_variance", "t": "stat", "z": "z_score", "p": "p_value"}
    for stat, kind in outputs.items():
        theirs = nilearn.compute_contrast("a - b", output_type=kind).get_fdata()
        ours = model.compute_contrast("a - b", output_type=kind).get_fdata()
        path = os.path.join(receipt.folder, f"{receipt.name}_contrast-aMinusB_stat-{stat}_statmap.nii.gz")
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9, err_msg=kind)
        np.testing.assert_allclose(nib.load(path).get_fdata(), theirs, rtol=1e-7, atol=1e-9, err_msg=kind)


@pytest.mark.parametrize(
    "changed",
    [
        lambda table: pd.concat([table, pd.DataFrame({"pulse": np.arange(len(table)) / 10})], axis=1),
        lambda table: table.join(pd.DataFrame({"pulse": np.arange(len(table)) / 10})),
        lambda table: table.reset_index().merge(pd.DataFrame({"index": range(len(table)), "pulse": 1.5}), on="index"),
        lambda table: pd.DataFrame({name: table[name].tolist() for name in table}),
        lambda table: table.to_numpy(),
        lambda table: None,
    ],
    ids=["concat", "join", "merge", "DataFrame", "to_numpy", "none"],
)
def test_scrubbing_does_not_depend_on_what_becomes_of_the_tables(scrubbed, changed):
    (model,), (images,), (events,), (confounds,) = first_level_from_bids(
        scrubbed, "x", mask_img="derivatives", noise_model="ols", confounds_strategy=("motion", "scrub"),
        confounds_motion="basic", confounds_scrub=0, confounds_fd_threshold=0.35, confounds_std_dvars_threshold=1.15,
    )  # fmt: skip
    kept = [int(model.sample_masks[image].sum()) for image in images]
    assert all(0.5 * N_VOLUMES < number < N_VOLUMES for number in kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant column may be among these
        model.fit(images, events, [changed(table) for table in confounds])
    assert [len(design) for design in model.design_matrices_] == kept


def test_scrubbed_confounds_with_another_model_need_a_sample_mask(scrubbed):
    (model,), (images,), (events,), (confounds,) = first_level_from_bids(
        scrubbed, "x", mask_img="derivatives", confounds_strategy=("motion", "scrub"), confounds_motion="basic",
        confounds_scrub=0, confounds_fd_threshold=0.35, confounds_std_dvars_threshold=1.15,
    )  # fmt: skip
    with pytest.raises(ParameterError, match="left out by scrubbing, but no sample mask was given"):
        FirstLevelModel(t_r=2.0, mask_img=False).fit(images, events, confounds)
    series = {"t_r": 2.0, "mask_img": model.mask_img, "confounds": confounds[0]}
    with pytest.raises(ParameterError, match=r"model\.sample_masks\[path of the run\]"):
        beta_series(images[0], events[0], **series)
    masked = beta_series(images[0], events[0], **series, sample_mask=model.sample_masks[images[0]])
    assert masked.sizes["sample"] == len(events[0])


def test_nothing_is_written_into_the_dataset(scrubbed, tmp_path_factory):
    def state():
        return {path: path.stat().st_mtime_ns for path in scrubbed.rglob("*")}

    before = state()
    folders = [path for path in [scrubbed, *scrubbed.rglob("*")] if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        first_level_from_bids(scrubbed, "x", confounds_strategy=("motion", "scrub"), confounds_motion="basic")
        output = tmp_path_factory.mktemp("out")
        result = first_level_analysis(str(scrubbed), str(output), {"a": "a"}, confounds=["motion"])
        assert result.failures.empty
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert state() == before


WRONG = {
    "task": ({"task_label": 42}, ParameterTypeError, "task_label must be text"),
    "space": ({"space_label": 42}, ParameterTypeError, "space_label must be text"),
    "subjects": ({"sub_labels": "01"}, ParameterTypeError, "a list of text"),
    "a subject": ({"sub_labels": [1]}, ParameterTypeError, r"sub_labels\[0\] must be text.* give '1'"),
    "filters": ({"img_filters": "run"}, ParameterTypeError, "pairs of entity and value"),
    "a filter": ({"img_filters": [(1, 2)]}, ParameterTypeError, "an entity and its value"),
    "t_r": ({"t_r": "2"}, ParameterTypeError, "t_r must be a number"),
    "no t_r": ({"t_r": -1}, ParameterError, "t_r must be a positive number"),
    "slices": ({"slice_time_ref": "middle"}, ParameterTypeError, "slice_time_ref must be a number"),
    "late slices": ({"slice_time_ref": 2}, ParameterError, "from 0 to 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_parameters_are_checked_before_files_are(tmp_path, what):
    """nilearn's kinds of errors."""
    given, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        first_level_from_bids(**{"dataset_path": tmp_path / "absent", "task_label": "x", **given})


def test_confounds_are_of_all_runs_or_of_none(tmp_path):
    for subject in ("01", "02"):
        write_run(tmp_path, f"sub-{subject}_task-x")
    assert found(tmp_path)[3] == [None, None]
    tables = sorted(tmp_path.rglob("*confounds*.tsv"))
    tables[1].unlink()
    with pytest.raises(ImageError, match="1 of 2 lack one: sub-02_task-x"):
        first_level_from_bids(tmp_path, "x")
    tables[0].unlink()
    assert first_level_from_bids(tmp_path, "x")[3] == [None, None]


def test_a_run_of_several_descriptions_is_ambiguous(tmp_path):
    write_run(tmp_path, "sub-01_task-x")
    (path,) = tmp_path.rglob("*preproc_bold.nii.gz")
    path.with_name(path.name.replace("preproc", "smooth")).write_bytes(path.read_bytes())
    with pytest.raises(ImageError, match=r"desc-preproc_bold.* and .*desc-smooth_bold|desc-preproc.*desc-smooth"):
        found(tmp_path)
    assert len(found(tmp_path, img_filters=[("desc", "preproc")])[0]) == 1


@pytest.mark.parametrize(("drift_model", "told"), [("cosine", "repeat"), ("polynomial", "conflict with"), (None, "")])
def test_cosines_among_confounds_and_drifts_are_told(tmp_path, drift_model, told):
    write_run(tmp_path, "sub-01_task-x")
    (path,) = tmp_path.rglob("*confounds*.tsv")
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    table.assign(cosine00=np.cos(np.arange(N_VOLUMES))).to_csv(path, sep="\t", index=False, na_rep="n/a")
    warned = pytest.warns(UserWarning, match=f"cosines, which {told}") if told else contextlib.nullcontext()
    with warned:
        first_level_from_bids(tmp_path, "x", confounds_strategy=["high_pass"], drift_model=drift_model)


def test_an_unknown_repetition_time_is_told(tmp_path):
    write_run(tmp_path, "sub-01_task-x")
    (path,) = tmp_path.rglob("*bold.json")
    path.unlink()
    with pytest.warns(RuntimeWarning, match="no RepetitionTime is in those of sub-01_task-x"):
        assert found(tmp_path, slice_time_ref=0.5)[0][0].t_r is None


@pytest.mark.parametrize("kept", [{}, {"StartTime": 0.0}])
@pytest.mark.filterwarnings("always:.*raw dataset")
def test_a_repetition_time_of_the_raw_dataset_is_told(tmp_path, kept):
    """nilearn's categories: UserWarning for a file that is not there, RuntimeWarning for one that lacks the key."""
    for seed, subject in enumerate(("01", "02")):
        write_run(tmp_path, f"sub-{subject}_task-x", seed=seed)
    (path,) = tmp_path.rglob("sub-02*bold.json")
    path.write_text(json.dumps(kept)) if kept else path.unlink()
    (tmp_path / "task-x_bold.json").write_text(json.dumps({"RepetitionTime": 2.5}))
    for category in (UserWarning, RuntimeWarning):
        with pytest.warns(category, match="RepetitionTime of sub-02_task-x_space-T1w is that of the raw dataset.*t_r"):
            models, *_ = found(tmp_path, slice_time_ref=0.0)
        assert [model.t_r for model in models] == [2.0, 2.5]
    with pytest.warns(UserWarning, match="t_r is 2.5 s, but RepetitionTime says otherwise in the metadata of sub-01"):
        found(tmp_path, slice_time_ref=0.0, t_r=2.5)  # given: nothing is taken from elsewhere
    done = CliRunner().invoke(
        main, ["first-level", str(tmp_path), str(tmp_path / "out"), "--contrast", "a", "--slice-time-ref", "0"]
    )
    assert done.exit_code == 0, done.output
    assert "raw dataset" in " ".join(done.output.split())
    assert "give --t-r" in " ".join(done.output.split())


def test_verbose_prints_what_is_found(tmp_path, capsys):
    for run in (1, 2):
        write_run(tmp_path, f"sub-01_task-x_run-{run}")
    next(tmp_path.rglob("*run-2*brain_mask.nii.gz")).unlink()
    (images,) = first_level_from_bids(tmp_path, "x", verbose=1)[1]
    shown = capsys.readouterr().out
    assert shown.startswith("sub-01: 2 runs\n")
    assert all(
        path in shown for path in map(str, [*images, *tmp_path.rglob("*_events.tsv"), *tmp_path.rglob("*conf*")])
    )
    assert len(re.findall(r"mask +none", shown)) == 1
    first_level_from_bids(tmp_path, "x")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ParameterError, TypeError, RuntimeError])
def test_an_unknown_parameter_is_named(tmp_path, error):
    """As Python raises it, and as nilearn does."""
    with pytest.raises(error, match="got confound_strategy; did you mean 'confounds_strategy'"):
        found(tmp_path, confound_strategy="motion")


@pytest.mark.parametrize("error", [ImageError, RuntimeError])
def test_a_dataset_without_subjects_or_runs(tmp_path, error):
    """nilearn raises RuntimeError where there is no subject."""
    write_run(tmp_path, "sub-01_task-x")
    with pytest.raises(error, match="no BOLD image"):
        found(tmp_path, space_label="T2w")
    shutil.rmtree(tmp_path / "derivatives" / "prep" / "sub-01")
    with pytest.raises(error, match=r"neither .* nor a folder in it does"):
        found(tmp_path)


def test_a_run_without_a_brain_mask_is_named(tmp_path):
    for subject in ("01", "02"):
        write_run(tmp_path, f"sub-{subject}_task-x")
    (path,) = tmp_path.rglob("sub-02*brain_mask.nii.gz")
    path.unlink()
    with pytest.raises(ImageError, match="needs a brain mask a run, but sub-02_task-x"):
        found(tmp_path)
