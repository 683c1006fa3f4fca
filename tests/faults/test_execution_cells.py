"""Faults of what runs: ten, each injected for real; the result is that of an undisturbed run, bit for bit.

What was finished before the fault is not done again, and no part of a file is left. Where nothing can go on, the error
says what happened and what to do.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import yaml
from disturbance import (
    Notes,
    done,
    free_port,
    images_of,
    make_maps,
    make_small,
    own_cluster,
    partial_files,
    start,
    units_of_group,
    wait_for,
    watching,
)  # fmt: skip
from slurm_cluster import slurm, slurm_file

import daskglm
import daskglm.graph.checkpoints
import daskglm.inference.permutation
from daskglm.errors import DiskSpaceError, LostWorkerError, MemoryLimitError, OutputError, StoreError
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis
from daskglm.models.plan_group import plan_group
from daskglm.models.plan_permute import plan_permutation

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
N = 24
MODEL = ["--formula", "~ age", "--contrast", "age"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of the images, and the arguments of commands."""
    folder = tmp_path_factory.mktemp("data")
    return folder, make_maps(folder, N)


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    make_small(monkeypatch)


def analyse(data, output, command="group"):
    """An analysis in this process, on the active cluster or threads."""
    folder, _ = data
    given = {"mask": str(folder / "mask.nii.gz"), "participants": str(folder / "people.tsv")}
    if command == "group":
        group_analysis(f"{folder}/maps/*.nii.gz", str(output), "~ age", {"age": "age"}, **given)
    elif command == "permute":
        permutation_analysis(
            f"{folder}/maps/*.nii.gz", str(output), "~ age", {"age": "age"}, n_perm=640, tfce=True, **given
        )
    else:
        daskglm.convert(f"{folder}/maps/*.nii.gz", str(output), mask=given["mask"])


@pytest.fixture
def direct(data, tmp_path, small_units):
    """Images of an analysis that nothing disturbs, on threads of this process."""

    def images(command="group"):
        analyse(data, tmp_path / f"direct-{command}", command)
        return images_of(tmp_path / f"direct-{command}")

    return images


def local(folder, **options):
    path = folder / "local.yaml"
    given = {"memory_limit": "2GB", "dashboard_address": "127.0.0.1:0", **options}
    path.write_text(yaml.safe_dump({"kind": "local", "scale": 2, "options": given}))
    return str(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("command", ["group", "permute"])
def test_a_worker_is_killed(data, direct, tmp_path, command):
    """SIGKILL to one of two workers in the middle; its nanny starts another."""
    folder, notes, output = data[0], Notes(tmp_path / "notes"), tmp_path / "out"
    kind = "keep-moments" if command == "group" else "permute-block"
    with daskglm.connect(local(tmp_path)) as client:
        client.wait_for_workers(2, timeout=60)
        client.register_plugin(watching(notes.path, after=7, kind=kind, seconds=0.2))
        given = {"mask": str(folder / "mask.nii.gz"), "participants": str(folder / "people.tsv")}
        make_plan, more = (plan_group, {}) if command == "group" else (plan_permutation, {"n_perm": 640, "tfce": True})
        plan = make_plan(f"{folder}/maps/*.nii.gz", None, "~ age", {"age": "age"}, **given, **more)
        analyse(data, output, command)
    assert (tmp_path / "notes.killed").exists()
    if command == "group":
        assert len({process for _, process in notes.lines("begun")}) == 3  # the nanny's new one worked, too
    assert images_of(output) == direct(command)
    assert partial_files(output) == []
    finished = notes.runs(kind)
    # Done again is at most what the scheduler had not heard of when the worker ended, or what was in its memory alone.
    assert sum(finished.values()) - len(finished) <= (1 if command == "group" else 2)
    assert len(finished) == (N if command == "group" else len(finished))
    assert max(peak for _, peak in notes.lines("peak")) * 1024 <= plan.memory_per_worker


def test_a_worker_has_too_little_memory(data, direct, tmp_path):
    """Ended by its nanny at its limit, each time: an error that says so; with more memory the rest is done."""
    notes, output = Notes(tmp_path / "notes"), tmp_path / "out"
    with daskglm.connect(local(tmp_path, memory_limit="600MB")) as client:
        client.register_plugin(watching(notes.path, greedy="sub-011"))
        with pytest.raises(MemoryLimitError, match=r"sub-011\.nii\.gz.*\d workers with 572.*memory_limit.*the same"):
            analyse(data, output)
    before, again = units_of_group(output), Notes(tmp_path / "again")
    assert 0 < len(before) < N
    assert not (output / "provenance.json").exists()
    with daskglm.connect(local(tmp_path)) as client:
        client.register_plugin(watching(again.path))
        analyse(data, output)
    assert sum(again.runs("keep-moments").values()) == N - len(before)
    assert images_of(output) == direct()
    assert partial_files(output) == []


def test_too_little_memory_is_told_before(data, tmp_path):
    images = data[1]
    status, said = done(tmp_path, "plan", "group", *images, *MODEL, "--output", "out", "--cluster",
                        local(tmp_path, memory_limit="100MB"))  # fmt: skip
    assert status == 2
    assert "a worker may have 100 MB" in said
    assert "memory_limit" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["group", "convert"])
def test_a_block_that_kills_its_worker_each_time(data, direct, tmp_path, command):
    notes, output = Notes(tmp_path / "notes"), tmp_path / ("out.zarr" if command == "convert" else "out")
    with daskglm.connect(local(tmp_path)) as client:
        client.register_plugin(watching(notes.path, fatal="sub-011"))
        started = time.monotonic()
        with pytest.raises(LostWorkerError, match=r"sub-\d+\.nii\.gz.*was given to 4 workers, and each ended") as told:
            analyse(data, output, command)
        assert time.monotonic() - started < 60
    if command == "group":
        assert "sub-011.nii.gz" in str(told.value)
        assert str(told.value).count(".nii.gz") <= 4  # it alone, and those that waited behind it
        before = units_of_group(output)
        assert 0 < len(before) < N
    again = Notes(tmp_path / "again")
    with daskglm.connect(local(tmp_path)) as client:  # where nothing kills
        client.register_plugin(watching(again.path))
        analyse(data, output, command)
    if command == "group":
        assert sum(again.runs("keep-moments").values()) == N - len(before)
        assert images_of(output) == direct()
    else:
        assert daskglm.open_images(str(output)).sizes["sample"] == N
    assert partial_files(output) == []


def begun(data, folder, address):
    """A group analysis on a cluster, in a process, with a few of its units done."""
    process = start(folder, "group", *data[1], *MODEL, "--output", "out", "--cluster", address)
    wait_for(lambda: len(units_of_group(folder / "out")) >= 3, process)
    return process


def test_the_scheduler_is_killed(data, direct, tmp_path):
    output, port = tmp_path / "out", free_port()
    with own_cluster(tmp_path, port) as (address, (scheduler, *_)):
        process = begun(data, tmp_path, address)
        scheduler.kill()
        started = time.monotonic()
        _, said = process.communicate(timeout=120)
        assert time.monotonic() - started < 60
        assert process.returncode == 2, said
        told = said.splitlines()[-1]
        assert told.startswith("daskglm: the connection to the scheduler of the cluster was lost")
        assert "give the same command again" in told
        before = units_of_group(output)
        assert 0 < len(before) < N
    with own_cluster(tmp_path, port, seconds=0):
        resumed = start(tmp_path, "resume", "out")
        wait_for(lambda: len(units_of_group(output)) > len(before) or not units_of_group(output), resumed)
        now = units_of_group(output)
        assert resumed.wait(timeout=120) == 0
    assert {name: now[name] for name in before if now} == (before if now else {})
    assert images_of(output) == direct()
    assert partial_files(output) == []


def test_the_client_is_killed(data, direct, tmp_path):
    """Its cluster goes on living, forgets its work, and is used by the next."""
    output = tmp_path / "out"
    with own_cluster(tmp_path, free_port()) as (address, _):
        process = begun(data, tmp_path, address)
        process.kill()
        process.communicate()
        before = units_of_group(output)
        assert 0 < len(before) < N
        assert not (output / "provenance.json").exists()
        assert done(tmp_path, "resume", "out")[0] == 0
    assert images_of(output) == direct()
    assert partial_files(output) == []


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    pytest.importorskip("dask_jobqueue")
    with slurm(tmp_path_factory.mktemp("slurm"), nodes=2) as started:
        yield started


def submitted(client):
    return client.run(lambda: os.environ["SLURM_JOB_ID"], on_error="ignore")


def test_the_walltime_is_over(queue, data, direct, tmp_path):
    """Work of over 60 s for each of two workers, in jobs that last 60 s: others take their places."""
    notes, output = Notes(tmp_path / "notes"), tmp_path / "out"
    with daskglm.connect(slurm_file(queue, options={"walltime": "00:01:00"})) as client:
        client.register_plugin(watching(notes.path, seconds=5.5))
        analyse(data, output)
    processes = {process for _, process in notes.lines("finished")}
    assert len(processes) > 2
    finished = notes.runs("keep-moments")
    assert len(finished) == N
    assert sum(finished.values()) - N <= 2
    assert images_of(output) == direct()
    assert partial_files(output) == []


def test_a_node_is_lost(queue, data, direct, tmp_path):
    """All of one of two nodes is killed: SLURM's daemon, the job and its worker."""
    notes, output = Notes(tmp_path / "notes"), tmp_path / "out"
    exclusive = {"job_extra_directives": ["--exclusive"]}
    with daskglm.connect(slurm_file(queue, options=exclusive)) as client:
        client.wait_for_workers(2, timeout=60)
        assert set(client.run(lambda: os.environ["SLURMD_NODENAME"]).values()) == {"n1", "n2"}
        client.register_plugin(watching(notes.path, seconds=0.3))
        on_second = client.run(lambda: os.getpid() if os.environ["SLURMD_NODENAME"] == "n2" else 0)
        process = start_killer(queue, notes, max(on_second.values()))
        analyse(data, output)
        assert process.wait(timeout=30) == 0
    finished = notes.runs("keep-moments")
    assert len(finished) == N
    assert sum(finished.values()) - N <= 2
    assert images_of(output) == direct()
    assert partial_files(output) == []


def start_killer(queue, notes, worker):
    """A process that kills the daemon of the second node and all of the job there, once it has done some work."""
    code = f"""
import os, pathlib, signal, time, psutil
notes = pathlib.Path({str(notes.path)!r})
while not notes.exists() or notes.read_text().count("finished\\tkeep") + notes.read_text().count("keep-moments") < 8:
    time.sleep(0.05)
above = [p for p in psutil.Process({worker}).parents() if p.name() in ("slurmstepd", "slurm_script", "bash") or
         "dask" in " ".join(p.cmdline())]
daemon = int(pathlib.Path({str(queue / "slurmd-n2.pid")!r}).read_text())
for pid in [daemon, *(p.pid for p in above), {worker}]:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("a small disk is mounted by root, on Linux")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    mounted = subprocess.run(mounting, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("command", "save"), [
    ("group", (daskglm.graph.checkpoints, "save_checkpoint")),
    ("permute", (daskglm.inference.permutation, "save_unit")),
])  # fmt: skip
def test_the_disk_is_full(data, direct, disk, tmp_path, monkeypatch, command, save):
    """Another fills it after four units; once there is space the rest is done."""
    calls, original = [], getattr(*save)

    def fill(*given, **named):
        calls.append(given)
        if len(calls) == 5:
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return original(*given, **named)

    monkeypatch.setattr(*save, fill)
    output = disk / "out"
    with pytest.raises(OutputError, match=r"No space left on device.*free space"):
        analyse(data, output, command)
    assert partial_files(disk) == []
    assert not (output / "provenance.json").exists()
    (disk / "filler").unlink()
    units = len(list(output.rglob("*.npz")))
    assert units >= 4
    calls[:] = [None] * 100  # no more filling
    analyse(data, output, command)
    assert len(calls) - 100 == (N if command == "group" else 10) - units
    assert images_of(output) == direct(command)
    assert partial_files(disk) == []


def test_a_disk_that_is_too_small_is_told_before(data, disk):
    (disk / "filler").write_bytes(bytes(8 * 2**20 - 2**16))
    with pytest.raises(DiskSpaceError, match=r"group writes up to .* [kM]B to .*, but .* are free there"):
        analyse(data, disk / "out")
    assert images_of(disk) == {}


def test_an_object_store_that_throttles(data, direct, bucket, tmp_path, monkeypatch):
    """A quarter of all requests are answered 503, from the first image to the last map."""
    folder, _ = data
    bucket.faults.reset()
    for path in sorted((folder / "maps").iterdir()):
        bucket.upload(path, f"maps/{path.name}")
    bucket.faults.reset(throttled=0.25)
    group_analysis(
        f"{bucket.url}/maps/*.nii.gz", f"{bucket.url}/out", "~ age", {"age": "age"},
        mask=str(folder / "mask.nii.gz"), participants=str(folder / "people.tsv"),
    )  # fmt: skip
    assert bucket.faults.n_faults > 0.15 * sum(bucket.faults.requests.values())
    bucket.faults.reset()
    expected = direct()
    listed = bucket.client.list_objects_v2(Bucket=bucket.url.removeprefix("s3://"), Prefix="out/")["Contents"]
    found = {item["Key"].removeprefix("out/") for item in listed}
    assert {str(name) for name in expected} <= found
    assert not any("partial" in name for name in found)
    for name, content in expected.items():
        held = bucket.client.get_object(Bucket=bucket.url.removeprefix("s3://"), Key=f"out/{name}")["Body"].read()
        assert held == content, name


@pytest.mark.parametrize("fault", ["a bit flips", "a chunk is deleted", "a chunk of names is deleted"])
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_store_is_damaged_between_stages(data, tmp_path, fault, where):
    """The next stage says so; restored, or converted again, it gives the same."""
    folder, store = data[0], tmp_path / "all.zarr"
    convert = {"mask": str(folder / "mask.nii.gz"), "participants": str(folder / "people.tsv")}
    daskglm.convert(f"{folder}/maps/*.nii.gz", str(store), **convert)

    def analysed(name):
        group_analysis(str(store), str(tmp_path / name), "~ age", {"age": "age"})
        return images_of(tmp_path / name)

    expected = analysed("direct")
    chunks = (store / ("sample" if "names" in fault else "data") / "c").rglob("*")
    chunk = next(path for path in chunks if path.is_file())
    whole = chunk.read_bytes()
    if fault == "a bit flips":
        chunk.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    else:
        chunk.unlink()
    message = "damaged.*convert" if fault == "a bit flips" else "chunks of .* lost|names|not finished"
    if where == "threads":
        with pytest.raises(StoreError, match=message):
            analysed("out")
    else:
        with daskglm.connect(local(tmp_path)), pytest.raises(StoreError, match=message):
            analysed("out")
    assert not (tmp_path / "out" / "provenance.json").exists()
    if where == "cluster":
        chunk.write_bytes(whole)
    else:
        daskglm.convert(f"{folder}/maps/*.nii.gz", str(store), overwrite=True, **convert)
    assert analysed("out") == expected
    assert partial_files(tmp_path) == []
