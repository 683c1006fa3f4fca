"""The command plan: the arguments of each command, and nothing written."""

import json
import os
import shutil

import click
import pytest
from test_cli import run

from daskglm.cli import analyses
from daskglm.cli.plan import plan


def listed(folder):
    return sorted(os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)


@pytest.mark.parametrize("name", ["convert", "group", "permute", "first-level"])
def test_a_plan_takes_every_argument_of_its_command(name):
    command = {item.name: item for item in vars(analyses).values() if isinstance(item, click.Command)}[name]
    planned = plan.commands[name]
    assert [param.opts for param in planned.params] == [param.opts for param in command.params]
    assert [param.default for param in planned.params] == [param.default for param in command.params]


def test_plans_of_one_cohort_fit_a_screen_and_write_nothing(cohort, tmp_path):
    before = listed(tmp_path)
    people = ["--participants", cohort.table_path]
    model = [*people, "--formula", "~ age", "--contrast", "age", "--output", tmp_path / "out"]
    test = ["--n-perm", "300", "--tfce", "--cluster-threshold", "0.01"]
    for arguments in (
        ["convert", *cohort.paths, *people, "--output", tmp_path / "all.zarr"],
        ["group", *cohort.paths, *model],
        ["permute", *cohort.paths, *model, *test],
    ):
        status, text = run("plan", *arguments)
        assert status == 0, text
        assert "12 images of at most 280 voxels" in text
        for word in ("read", "write", "memory", "tasks", "time"):
            assert f"\n {word}" in text
        assert len(text.splitlines()) < 15
        assert max(map(len, text.splitlines()[1:6])) <= 80
    assert listed(tmp_path) == before


def test_json_and_what_is_wrong(cohort, tmp_path):
    given = ["group", *cohort.paths, "--participants", cohort.table_path, "--formula", "~ age", "--quiet"]
    status, text = run("plan", *given, "--contrast", "age", "--json")
    found = json.loads(text)
    assert status == 0
    assert found["bytes_read"] == 2 * sum(os.path.getsize(path) for path in cohort.paths)
    assert found["memory_per_worker"] == found["memory_client"] > 10**8
    assert found["machine"]["cluster"] is False
    output = ["--output", tmp_path / "out"]
    assert run("plan", *given, "--contrast", "aeg", *output) == run(*given, "--contrast", "aeg", *output)
    assert run("plan", *given, "--contrast", "aeg")[0] == 2


def test_a_plan_that_does_not_fit_is_refused(cohort, tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    status, text = run("plan", "convert", *cohort.paths, "--output", tmp_path / "all.zarr")
    assert status == 2
    assert "10 bytes are free" in text
    assert " read " in text
