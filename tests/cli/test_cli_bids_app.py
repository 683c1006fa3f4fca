"""daskglm-bids: the calls of a BIDS App, and what they give beside the commands of daskglm."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import run
from test_cli_first_level import cohort as bids  # noqa: F401 (a fixture)
from test_cli_model_file import QUIET, TWO_LEVEL, maps, same

MODEL = ["--task", "x", "--filter", "res=2", "--contrast", "a-b=a - b", "--noise", "ols"]


@pytest.fixture(scope="module")
def dataset(bids):  # noqa: F811
    people = {"participant_id": [f"sub-0{k}" for k in range(1, 5)], "age": [30, 41, 25, 38]}
    pd.DataFrame(people).to_csv(bids / "participants.tsv", sep="\t", index=False)
    return bids


def app(*arguments):
    return run("bids", *arguments)


def test_the_console_script():
    (script,) = (item for item in entry_points(group="console_scripts") if item.name == "daskglm-bids")
    assert script.value == "daskglm.cli.bids_app:main"


def test_it_runs_as_a_program(dataset, tmp_path):
    code = "from daskglm.cli.bids_app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"daskglm {version('daskglm')}\n"
    done = subprocess.run([sys.executable, "-c", code, "nowhere", tmp_path / "out", "participant"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, "needs a contrast" in done.stderr) == (2, True)


def test_participants_one_by_one_and_then_the_group(dataset, tmp_path):
    """The stores are made at the group level, of what each call at the participant level left."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for labels in (["01"], ["02", "sub-03"], ["04"]):
        status, text = app(dataset, parts, "participant", "--participant_label", *labels, *MODEL, *QUIET,
                           "--skip_bids_validator", "--n_cpus", "1", "--mem_mb", "4000")  # fmt: skip
        assert status == 0, text
        assert {f"sub-{label.removeprefix('sub-')}" for label in labels} <= set(os.listdir(parts))
        assert not list(parts.glob("group/*.zarr"))
    status, text = app(dataset, parts, "group", "--dry-run")
    assert (status, "memory" in text, list(parts.glob("group*"))) == (0, True, [])
    status, text = app(dataset, parts, "group", "--formula", "~ age", "--contrast", "age", *QUIET)
    assert status == 0, text
    assert "0 fitted, 8 kept from before" in text
    assert run("first-level", dataset, whole, *MODEL, *QUIET)[0] == 0
    label = next(whole.glob("group/*.zarr")).stem.rpartition("contrast-")[2]
    output = whole / "group-level" / f"contrast-{label}"
    given = ["--formula", "~ age", "--contrast", "age", *QUIET]
    assert run("group", next(whole.glob("group/*.zarr")), *given, "--output", output)[0] == 0
    same(parts, whole)


def people(folder):
    """Subjects of the group store."""
    (store,) = folder.glob("group/*.zarr")
    return json.loads(run("info", store, "--json")[1])["samples"]


def test_labels_hold_for_the_group(dataset, tmp_path):
    """The group is of those that the participant level was asked for, and never fits another."""
    out = tmp_path / "out"
    for label in ("01", "02"):
        assert app(dataset, out, "participant", "--participant-label", label, *MODEL, *QUIET)[0] == 0
    status, text = app(dataset, out, "group", "--contrast", "intercept", *QUIET)
    assert status == 0, text
    assert people(out) == ["sub-01", "sub-02"]
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-01", "sub-02"]
    first = maps(out / "group-level")
    # Again: nothing is made anew; with another participant the stores are.
    status, text = app(dataset, out, "group", "--contrast", "intercept", "--overwrite", *QUIET)
    assert (status, "first-level" in text) == (0, False), text
    assert app(dataset, out, "participant", "--participant-label", "04", *MODEL, *QUIET)[0] == 0
    assert app(dataset, out, "group", "--contrast", "intercept", "--overwrite", *QUIET)[0] == 0
    assert people(out) == ["sub-01", "sub-02", "sub-04"]
    # Fewer at the group level than at the participant level.
    for fewer in (["--participant-label", "sub-01", "02"], ["--exclude", "04"]):
        assert app(dataset, out, "group", *fewer, "--contrast", "intercept", "--overwrite", *QUIET)[0] == 0
        assert people(out) == ["sub-01", "sub-02"]
        again = maps(out / "group-level")
        assert all(np.array_equal(again[name], first[name], equal_nan=True) for name in first)
    status, text = app(dataset, out, "group", "--participant-label", "03", *QUIET)
    assert (status, "was not run for 03" in text) == (2, True), text


def test_excluded_participants(dataset, tmp_path):
    out = tmp_path / "out"
    assert app(dataset, out, "participant", "--exclude", "sub-03", *MODEL, *QUIET)[0] == 0
    assert app(dataset, out, "group", "--contrast", "intercept", *QUIET)[0] == 0
    assert people(out) == ["sub-01", "sub-02", "sub-04"]
    assert not (out / "sub-03").exists()
    status, text = app(dataset, out, "group", "--participant-label", "03", *QUIET)
    assert (status, "was not run for 03" in text) == (2, True), text
    assert app(dataset, out, "group", "--exclude", "01", "--contrast", "intercept", "--overwrite", *QUIET)[0] == 0
    assert people(out) == ["sub-02", "sub-04"]
    # The earlier choice of the group is not that of the participant level.
    assert app(dataset, out, "group", "--contrast", "intercept", "--overwrite", *QUIET)[0] == 0
    assert people(out) == ["sub-01", "sub-02", "sub-04"]
    (tmp_path / "left_out.txt").write_text("sub-01\n")
    given = ["--exclude", tmp_path / "left_out.txt", "--contrast", "intercept", "--overwrite", *QUIET]
    assert app(dataset, out, "group", *given)[0] == 0
    assert people(out) == ["sub-02", "sub-04"]
    status, text = app(dataset, out, "group", "--exclude", "05", *QUIET)
    assert (status, "no subject '05'" in text) == (2, True), text


def test_a_model_at_both_levels(dataset, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(TWO_LEVEL))
    status, text = app(dataset, tmp_path / "app", "participant", "--model", path, *QUIET)
    assert status == 0, text
    assert app(dataset, tmp_path / "app", "group", "--model", path, *QUIET)[0] == 0
    assert run("run", path, dataset, tmp_path / "run", *QUIET)[0] == 0
    same(tmp_path / "app", tmp_path / "run")


def test_a_model_for_some_participants(dataset, tmp_path):
    path, out = tmp_path / "model.json", tmp_path / "app"
    path.write_text(json.dumps(TWO_LEVEL))
    given = ["--model", path, *QUIET]
    assert app(dataset, out, "participant", "--participant-label", "01", "02", "03", *given)[0] == 0
    status, text = app(dataset, out, "group", *given)
    assert status == 0, text
    for store in out.glob("group/*.zarr"):
        assert json.loads(run("info", store, "--json")[1])["samples"] == ["sub-01", "sub-02", "sub-03"]
    assert not (out / "sub-04").exists()
    assert list(out.glob("node-oneSample/contrast-mean/*stat-t_statmap.nii.gz"))


WRONG = {
    "level": (["partcipant"], "did you mean 'participant'?"),
    "option": (["participant", "--participants-label", "01"], "did you mean '--participant-label'?"),
    "label": (["participant", "--participant-label", "05", *MODEL], "no subject '05'"),
    "group option": (["participant", *MODEL, "--formula", "~ age"], "--formula is not an option of the participant"),
    "first option": (["group", "--task", "x"], "--task is not an option of the group level"),
    "label of group": (["group", "--participant-label", "01"], "the participant level was not run there"),
    "no participants": (["group"], "the participant level was not run there"),
    "number": (["participant", "--n_cpus", "two"], "invalid int value: 'two'"),
    "model and options": (["participant", "--model", "x.json", "--task", "x"], "--task was given too"),
    "memory": (["participant", *MODEL, "--mem_mb", "10"], "a worker may have 10 MB"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(dataset, tmp_path, case):
    words, message = WRONG[case]
    status, text = app(dataset, tmp_path / "out", *words)
    assert (status, message in text) == (2, True), text
    assert not list(Path(tmp_path).rglob("*.nii.gz"))


def test_dry_run(dataset, tmp_path):
    status, text = app(dataset, tmp_path / "out", "participant", *MODEL, "--dry-run")
    assert (status, "memory" in text, (tmp_path / "out").exists()) == (0, True, False)
    assert np.all([not name.startswith("out") for name in os.listdir(tmp_path)])
