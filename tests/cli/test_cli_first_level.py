"""The first-level command: its filters, warnings and errors, and what group says of its output."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskglm.cli.main import main

SHAPE, N_VOLUMES = (3, 3, 3), 40
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four subjects of two runs; the images are there in two resolutions."""
    root = tmp_path_factory.mktemp("bids")
    rng = np.random.default_rng(0)
    for sub in ("01", "02", "03", "04"):
        raw, derived = root / f"sub-{sub}/func", root / f"derivatives/prep/sub-{sub}/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        for index in ("1", "2"):
            name = f"sub-{sub}_task-x_run-{index}"
            onsets = np.arange(2, 70, 8.0)
            events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": (["a", "b"] * 9)[: len(onsets)]})
            events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            for res in ("", "_res-2"):
                stem = derived / f"{name}_space-T1w{res}_desc-"
                data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
                nib.save(nib.Nifti1Image(data, AFFINE), f"{stem}preproc_bold.nii.gz")
                nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
                with open(f"{stem}preproc_bold.json", "w") as file:
                    json.dump({"RepetitionTime": 2.0, "StartTime": 0.0}, file)
    return root


@pytest.fixture(scope="module")
def results(cohort, tmp_path_factory):
    """Output of the command for one contrast."""
    output = tmp_path_factory.mktemp("first") / "out"
    status, text = run("first-level", cohort, output, "--contrast", "a - b", "--filter", "res=2", "--quiet")
    assert status == 0, text
    return output


def test_filters(cohort, results, tmp_path):
    status, text = run("first-level", cohort, tmp_path, "--contrast", "a")
    assert (status, "filter by res: 2, none, as in --filter res= or filters={'res': ''}" in text) == (2, True)
    assert sorted(path.name for path in results.glob("sub-*")) == [f"sub-{k:02d}" for k in range(1, 5)]
    assert len(list(results.rglob("*_res-2_*stat-z_statmap.nii.gz"))) == 4 * 3
    assert len(list(results.rglob("*stat-z_statmap.nii.gz"))) == 4 * 3
    # Several values of a key are alternatives, and an empty one is its absence.
    more = ["--filter", "res=", "--filter", "sub=01", "--filter", "sub=02", "--filter", "run=2"]
    assert run("first-level", cohort, tmp_path, "--contrast", "a", "--quiet", *more)[0] == 0
    maps = sorted(path.name.split("_contrast")[0] for path in tmp_path.glob("sub-*/func/*stat-z_statmap.nii.gz"))
    assert maps == [f"sub-{k}_task-x_run-2_space-T1w" for k in ("01", "02")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("res", "a filter is KEY=VALUE, as in run=1 (res= for files without res), but this is 'res'"),
        ("resolution=2", "but one is of 'resolution'"),
        ("res=3", "no BOLD image with task-x, res-3"),
    ],
)
def test_wrong_filters(cohort, tmp_path, given, message):
    status, text = run("first-level", cohort, tmp_path, "--task", "x", "--contrast", "a", "--filter", given)
    assert (status, message in text) == (2, True)
    assert len(text.strip().splitlines()) == 1


def test_a_first_level_analysis_needs_a_contrast(cohort, tmp_path):
    status, text = run("first-level", cohort, tmp_path / "out")
    assert (status, text) == (
        2,
        "daskglm: a first-level analysis needs a contrast; give --contrast or --f-contrast\n",
    )


@pytest.mark.filterwarnings("default::UserWarning")
def test_warnings_are_one_line(cohort, tmp_path):
    folder = cohort / "derivatives/prep/sub-01/func"
    bad = folder / "sub-01_task-x_run-2_extra_space-T1w_res-2_desc-preproc_bold.nii.gz"
    bad.touch()
    try:
        more = ["--filter", "res=2", "--participant-label", "01", "--quiet"]
        status, text = run("first-level", cohort, tmp_path, "--contrast", "a", *more)
    finally:
        bad.unlink()
    lines = [line for line in text.splitlines() if "warning:" in line.lower()]
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith("daskglm: warning: BOLD images are named as in ")
    assert str(bad) in lines[0]


def test_group_of_first_level_names_its_contrasts(results, tmp_path):
    status, text = run("group", results, "--contrast", "nosuch", "--output", tmp_path / "out", "--quiet")
    assert status == 2
    assert f"the first-level contrasts in {results} are: aMinusB" in text
    assert len(text.strip().splitlines()) == 1
    assert run("group", results, "--contrast", "aMinusB", "--output", tmp_path / "out", "--quiet")[0] == 0


def test_help_of_first_level_names_the_filter():
    text = run("first-level", "--help")[1]
    assert "--filter KEY=VALUE" in text


def test_a_t_contrast_of_several_columns_is_refused(cohort, tmp_path):
    """Runs were tested by F, and their whitened effects combined as those of a t contrast."""
    status, text = run("first-level", cohort, tmp_path, "--contrast", "a, b", "--filter", "res=2")
    assert (status, "a t contrast has one row, but 'a, b' has 2, of a, b" in text) == (2, True)
    assert not list(tmp_path.glob("sub-*"))


def test_labels_with_a_plus(tmp_path):
    """BIDS allows it: a template's cohort, a session that is two in one."""
    rng = np.random.default_rng(1)
    root, subjects = tmp_path / "bids", ("a+1", "a+2", "b")
    for sub in subjects:
        raw, derived = root / f"sub-{sub}/ses-1+2/func", root / f"derivatives/prep/sub-{sub}/ses-1+2/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        name = f"sub-{sub}_ses-1+2_task-x+y"
        events = pd.DataFrame({"onset": [4.0, 30.0], "duration": 4.0, "trial_type": ["a", "b"]})
        events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
        data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
        nib.save(nib.Nifti1Image(data, AFFINE), derived / f"{name}_space-MNIPediatricAsym+5_desc-preproc_bold.nii.gz")
        (derived / f"{name}_space-MNIPediatricAsym+5_desc-preproc_bold.json").write_text('{"StartTime": 0.0}')
        mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
        nib.save(mask, derived / f"{name}_space-MNIPediatricAsym+5_desc-brain_mask.nii.gz")
        table = pd.DataFrame(rng.standard_normal((N_VOLUMES, 1)), columns=["trans_x"])
        table.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    pd.DataFrame({"participant_id": [f"sub-{sub}" for sub in subjects], "age": [7, 9, 8]}).to_csv(
        root / "participants.tsv", sep="\t", index=False
    )
    given = ["--task", "x+y", "--space", "MNIPediatricAsym+5", "--filter", "ses=1+2", "--t-r", "2", "--noise", "ols"]
    more = ["--confounds", "trans_x", "--contrast", "a", "--quiet"]
    status, text = run("first-level", root, tmp_path / "out", *given, *more)
    assert status == 0, text
    stem = "sub-a+1_ses-1+2_task-x+y_space-MNIPediatricAsym+5"
    assert (tmp_path / f"out/sub-a+1/ses-1+2/func/{stem}_contrast-a_stat-z_statmap.nii.gz").exists()
    store = tmp_path / "out/group/ses-1+2_task-x+y_space-MNIPediatricAsym+5_contrast-a.zarr"
    assert json.loads(run("info", store, "--json")[1])["samples"] == [f"sub-{sub}" for sub in subjects]
    given = ["--formula", "~ age", "--contrast", "age", "--output", tmp_path / "group", "--quiet"]
    assert run("group", tmp_path / "out", "--contrast", "a", *given)[0] == 0
    maps = sorted((tmp_path / "out").glob("sub-*/*contrast-a_stat-effect_statmap.nii.gz"))
    people = ["--participants", root / "participants.tsv", "--output", tmp_path / "maps.zarr", "--quiet"]
    assert run("convert", *maps, *people)[0] == 0
    assert json.loads(run("info", tmp_path / "maps.zarr", "--json")[1])["samples"] == [f"sub-{sub}" for sub in subjects]
