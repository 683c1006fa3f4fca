"""--dry-run writes nothing; --json is one object and nothing else."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_1samp
from test_cli_first_level import cohort as dataset  # noqa: F401 (a fixture)

from daskglm.cli.main import main


def listed(folder):
    return {path: os.stat(path).st_mtime_ns for base, _, names in os.walk(folder) for path in
            (os.path.join(base, name) for name in names)}  # fmt: skip


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def commands(cohort, output):
    model = ["--participants", cohort.table_path, "--formula", "~ age", "--contrast", "age"]
    return {
        "convert": ["convert", *cohort.paths, "--output", f"{output}.zarr"],
        "group": ["group", *cohort.paths, *model, "--no-report", "--output", output],
        "permute": ["permute", *cohort.paths, *model, "--no-report", "--n-perm", "50", "--output", output],
    }


@pytest.mark.parametrize("name", ["convert", "group", "permute"])
def test_a_dry_run_says_the_plan_and_writes_nothing(cohort, tmp_path, name):
    before = listed(tmp_path)
    status, out, err = run(*commands(cohort, tmp_path / "out")[name], "--dry-run")
    assert (status, err) == (0, "nothing was written: --dry-run\n")
    assert "12 images of at most 280 voxels" in out
    assert "memory" in out
    assert listed(tmp_path) == before
    assert not (tmp_path / "out").exists()
    status, out, err = run(*commands(cohort, tmp_path / "out")[name], "--dry-run", "--json")
    assert (status, err, json.loads(out)["command"]) == (0, "", name)


def test_a_dry_run_refuses_what_the_command_would(cohort, tmp_path):
    output = tmp_path / "out"
    given = commands(cohort, output)["group"]
    wrong = [*given, "--contrast", "agee"]
    status, out, err = run(*wrong, "--dry-run")
    assert (status, out) == (2, "")
    assert (status, out, err) == run(*wrong)
    assert run(*given)[0] == 0
    before = listed(tmp_path)
    status, _, err = run(*given, "--dry-run")
    assert (status, "already holds results" in err) == (2, True)
    assert run(*given, "--dry-run", "--overwrite")[0] == 0
    (tmp_path / "file").write_text("")
    status, _, err = run(*commands(cohort, tmp_path / "file" / "below")["group"], "--dry-run")
    assert (status, "cannot write to" in err) == (2, True)
    (tmp_path / "file").unlink()
    assert listed(tmp_path) == before


def test_first_level(dataset, tmp_path):  # noqa: F811
    output = tmp_path / "out"
    given = ["first-level", dataset, output, "--contrast", "a - b", "--filter", "res=2", "--quiet", "--no-report"]
    status, out, _ = run(*given, "--dry-run")
    assert status == 0
    assert "8 runs of 4 subjects" in out or "8 runs" in out
    assert not output.exists()
    status, _, err = run(*given, "--contrast", "c", "--dry-run")
    assert (status, "'c'" in err, output.exists()) == (2, True, False)
    status, out, _ = run(*given, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["n"], found["runs"]) == (4, {"fitted": 8, "kept": 0, "failed": 0})
    assert found["contrasts"] == ["a - b"]
    assert all(os.path.exists(path) for path in found["files"])
    written = {os.path.join(base, name) for base, _, names in os.walk(output) for name in names}
    assert {path for path in written if path.endswith("_statmap.nii.gz")} <= set(found["files"])
    assert {peak["participant_id"] for peak in found["peaks"]} == {f"sub-0{k}" for k in range(1, 5)}


def test_results_as_json(cohort, tmp_path):
    given = commands(cohort, tmp_path / "out")
    status, out, _ = run(*given["convert"], "--json")
    found = json.loads(out)
    assert (status, found["n"], found["written"], found["left_out"]) == (0, 12, cohort.names, {})
    status, out, _ = run("info", tmp_path / "out.zarr", "--json")
    held = json.loads(out)
    assert (status, held["samples"], held["voxels"]) == (0, cohort.names, found["voxels"])
    assert held["affine"] == cohort.mask_img.affine.tolist()
    status, out, _ = run("status", tmp_path / "out.zarr", "--json")
    assert (status, json.loads(out)["state"]) == (0, "complete")

    mean = ["--formula", "~ 1", "--contrast", "intercept", "--quiet", "--no-report", "--json"]
    status, out, _ = run("group", *cohort.paths, *mean, "--output", tmp_path / "mean")
    found = json.loads(out)
    assert (status, found["n"], found["contrasts"]) == (0, 12, ["intercept"])
    assert sorted(found["files"]) == sorted(str(path) for path in (tmp_path / "mean").iterdir() if path.is_file())
    t = ttest_1samp(cohort.data, 0, axis=0).statistic[cohort.mask]
    assert max(peak["stat"] for peak in found["peaks"]) == pytest.approx(np.nanmax(t), rel=1e-5)

    status, out, _ = run(*given["permute"], "--quiet", "--json")
    found = json.loads(out)
    assert (status, found["rearrangements"], found["exhaustive"]) == (0, 50, False)
    logp = nib.load(tmp_path / "out" / "contrast-age_stat-tlogpmax_statmap.nii.gz").get_fdata()
    assert found["thresholds"][0]["smallest_p"] == pytest.approx(10 ** -np.nanmax(logp), rel=1e-5)
