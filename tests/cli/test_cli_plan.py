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


ELSEWHERE = {
    "slurm": (
        "kind: slurm\noptions: {queue: normal, cores: 4, processes: 2, memory: 16GB, walltime: '01:00:00'}\nscale: 4\n",
        (8, 2, 8 * 10**9),
    ),
    "adaptive": (
        "kind: pbs\noptions: {cores: 1, memory: 4GiB}\nscale: {minimum: 1, maximum: 10}\n",
        (10, 1, 4 * 2**30),
    ),
    "ssh": (
        "kind: ssh\noptions: {hosts: [n1, n1, n2], worker_options: {n_workers: 4, memory_limit: 4GB}}\n",
        (8, 1, 4 * 10**9),
    ),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_plan_starts_nothing_elsewhere(cohort, tmp_path, monkeypatch, kind):
    """Neither jobs nor connections: what workers there would be is in the file."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "qsub", "ssh"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\necho 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr("daskglm.cluster.connect", lambda _: pytest.fail("a plan connects to no cluster"))
    text, (workers, threads, memory) = ELSEWHERE[kind]
    (tmp_path / "cluster.yaml").write_text(text)
    given = ["group", *cohort.paths, "--participants", cohort.table_path, "--contrast", "intercept"]
    given += ["--cluster", tmp_path / "cluster.yaml", "--output", tmp_path / "out", "--quiet", "--json"]
    status, text = run("plan", *given)
    assert status == 0, text
    machine = json.loads(text)["machine"]
    assert (machine["workers"], machine["threads"], machine["memory"]) == (workers, threads, memory)
    assert machine["cluster"] is True
    assert run(*given, "--dry-run")[0] == 0
    assert not (tmp_path / "called").exists()
    (tmp_path / "cluster.yaml").write_text(ELSEWHERE[kind][0].replace("memory: ", "memory: x"))
    if kind == "slurm":
        status, text = run("plan", *given)
        assert (status, "cannot be used: Could not interpret 'x16'" in text) == (2, True), text
