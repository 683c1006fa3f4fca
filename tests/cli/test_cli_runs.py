"""Long commands that are killed, and gone on with: ``status`` and ``resume``."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskglm.graph.checkpoints
import daskglm.graph.convert
import daskglm.graph.images
import daskglm.inference.permutation
import daskglm.models.cohort_runs
from daskglm import open_images
from daskglm.cli.main import main
from daskglm.io.store_writing import allocate, create_store, finish_store, write_samples
from daskglm.models.cohort_output import count_complete
from daskglm.schema.space import VolumeSpace

# Chunks of the store are read in blocks of 256 x 32,768: two blocks are a unit.
N_SAMPLES, GRID, UNITS = 6000, (40, 40, 32), 12
MODEL = ("--formula", "~ age", "--contrast", "age")


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


# The command, but each unit takes longer: long enough to be stopped in between on a busy machine, too.
SLOWLY = """
import importlib, sys, time
from daskglm.cli.main import main

def prolong(module, name):
    module = importlib.import_module(module)
    done = getattr(module, name)
    setattr(module, name, lambda *given, **named: (done(*given, **named), time.sleep(0.4))[0])

prolong("daskglm.graph.checkpoints", "save_checkpoint")
prolong("daskglm.graph.convert", "write_samples")
prolong("daskglm.inference.permutation", "save_unit")
prolong("daskglm.models.cohort_runs", "_fit")
main(sys.argv[1:])
"""


def start(folder, *arguments):
    """A process of its own in a working folder."""
    command = [sys.executable, "-c", SLOWLY, *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(process, condition):
    """Wait until a condition holds while a process runs."""
    until = time.time() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.time() < until
        time.sleep(0.005)


def end(process, by=signal.SIGKILL):
    """End a process that still runs; its exit status and what it said."""
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def status_of(output):
    """Exit status of ``status``, and what it says to programs."""
    status, text = run("status", output, "--json")
    return status, json.loads(text)


def images_of(folder):
    """Bytes of every image, by name: nothing in them depends on when they were made."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*.nii.gz"))}


def leftovers(folder):
    """Files that were not written whole."""
    return [path for path in Path(folder).rglob("*") if "partial" in path.name]


def counted(monkeypatch, module, name):
    """Calls of a function, which is done as before."""
    calls, original = [], getattr(module, name)

    def call(*given, **named):
        calls.append(given)
        return original(*given, **named)

    monkeypatch.setattr(module, name, call)
    return calls


def units_on_disk(output):
    return list((output / ".daskglm" / "moments").glob("*/[0-9]*.npz"))


def add_runs(root, subjects):
    """Two short runs of each subject."""
    for subject in subjects:
        raw = root / f"sub-{subject}" / "func"
        derived = root / "derivatives" / "prep" / f"sub-{subject}" / "func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        for number in (1, 2):
            name = f"sub-{subject}_task-x_run-{number}"
            events = pd.DataFrame({"onset": np.arange(4, 70, 10.0), "duration": 3.0, "trial_type": [*"abababa"]})
            events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            stem = derived / f"{name}_space-T1w_desc-"
            # Runs that are added later are no copies of the first ones.
            data = 500 + 5 * np.random.default_rng(list(name.encode())).standard_normal((4, 4, 3, 40))
            nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), f"{stem}preproc_bold.nii.gz")
            nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.diag([3.0, 3, 3, 1])), f"{stem}brain_mask.nii.gz")
            Path(f"{stem}preproc_bold.json").write_text(json.dumps({"RepetitionTime": 2.0, "StartTime": 0.0}))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A cohort of 1.2 GB, little on disk: values that repeat."""
    path = str(tmp_path_factory.mktemp("cohort") / "all.zarr")
    rng = np.random.default_rng(0)
    space = VolumeSpace.from_image(nib.Nifti1Image(np.zeros(GRID, np.float32), np.eye(4)), np.ones(GRID, bool))
    age = rng.uniform(20, 80, N_SAMPLES)
    create_store(path, space, {"missing": "nan", "smoothing_fwhm": None})
    done = 0
    for target in allocate(path, N_SAMPLES, {"age": age}):
        part = slice(done, done + target.rows.size)
        done = part.stop
        tile = rng.standard_normal((target.rows.size, 64), dtype=np.float32)
        data = np.tile(tile, (1, space.voxels.size // 64))
        data[:3, :7] = np.nan
        write_samples(path, target, data, [f"sub-{k:05d}" for k in range(part.start, part.stop)], {"age": age[part]})
    finish_store(path, {})
    return path


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    """Maps of the group analysis in one go."""
    output = tmp_path_factory.mktemp("direct") / "out"
    assert run("group", store, *MODEL, "--output", output)[0] == 0
    assert not units_on_disk(output)
    return images_of(output)


def begin_group(store, folder, *more):
    """A group analysis that has one unit at least."""
    process = start(folder, "group", store, *MODEL, "--output", "out", *more)
    wait_for(process, lambda: units_on_disk(folder / "out"))
    return process


def test_a_killed_group_analysis_is_gone_on_with(store, undisturbed, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert end(begin_group(store, tmp_path))[0] == -signal.SIGKILL
    before = len(units_on_disk(output))
    status, found = status_of(output)
    assert (status, found["state"], found["done"], found["total"]) == (1, "interrupted", before, UNITS)
    assert 0 < before < UNITS
    status, text = run("status", output)
    assert f"{before} of {UNITS} units of the pass done" in text
    assert f"to go on: daskglm resume {output}" in text
    calls = counted(monkeypatch, daskglm.graph.checkpoints, "save_checkpoint")
    blocks = counted(monkeypatch, daskglm.graph.glm, "block_moments")
    status, text = run("resume", output)
    assert status == 0, text
    assert len(calls) == UNITS - before
    assert len(blocks) == 4 * (UNITS - before)
    assert images_of(output) == undisturbed
    assert leftovers(output) == units_on_disk(output) == []
    status, text = run("resume", output)
    assert (status, "is complete" in text) == (0, True)
    assert status_of(output)[0] == 0
    # What was recorded is complete, and not taken up again by the same command.
    status, text = run("group", store, *MODEL, "--output", output)
    assert (status, "already holds results" in text) == (2, True)


def test_checkpoints_of_another_design_are_not_used(store, tmp_path, monkeypatch):
    assert end(begin_group(store, tmp_path))[0] == -signal.SIGKILL
    calls = counted(monkeypatch, daskglm.graph.checkpoints, "save_checkpoint")
    other = ("--formula", "~ 1", "--contrast", "intercept")
    assert run("group", store, *other, "--output", tmp_path / "out")[0] == 0
    n_calls = len(calls)
    assert run("group", store, *other, "--output", tmp_path / "direct")[0] == 0
    assert (n_calls, len(calls)) == (UNITS, 2 * UNITS)
    assert images_of(tmp_path / "out") == images_of(tmp_path / "direct")


@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_seconds_and_it_says_how_to_go_on(store, undisturbed, tmp_path, by, code):
    output = tmp_path / "out"
    process = begin_group(store, tmp_path)
    status, text = run("group", store, *MODEL, "--output", output)
    assert (status, f"(process {process.pid} on " in text) == (2, True)
    status, text = run("resume", output)
    assert (status, f"process {process.pid} on " in text) == (2, True)
    assert status_of(output)[1]["state"] == "running"
    started = time.time()
    returned, said = end(process, by)
    assert time.time() - started < 10
    assert returned == code
    assert f"daskglm resume {output}" in said
    assert json.loads((output / ".daskglm" / "run.json").read_text())["state"] == "interrupted"
    assert run("resume", output)[0] == 0
    assert images_of(output) == undisturbed
    assert leftovers(output) == []


def test_a_cluster_that_dies_is_gone_on_with_from_the_checkpoints(store, undisturbed, tmp_path):
    output = tmp_path / "out"
    process = begin_group(store, tmp_path, "--cluster", "local")
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    end(process)
    for worker in workers:
        with_children = Path(f"/proc/{worker}/task/{worker}/children")
        below = with_children.read_text().split() if with_children.exists() else []
        for pid in [worker, *map(int, below)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    before = len(units_on_disk(output))
    assert before
    assert run("resume", output)[0] == 0
    assert images_of(output) == undisturbed


def test_a_killed_permutation_test_is_gone_on_with(cohort, tmp_path, monkeypatch):
    model = ["--participants", cohort.table_path, "--formula", "~ age + sex", "--contrast", "age", "--n-perm", 40_000]
    command = ["permute", cohort.folder / "*.nii.gz", *model, "--tfce", "--output"]
    output = tmp_path / "out"
    process = start(tmp_path, *command, "out")
    wait_for(process, lambda: list((output / ".permutations").glob("*.npz")))
    status, text = run(*command, output)
    assert (status, f"(process {process.pid} on " in text) == (2, True)
    end(process)
    status, found = status_of(output)
    kept = len(list((output / ".permutations").glob("*.npz")))
    assert (status, found["state"], found["total"]) == (1, "interrupted", 40_000)
    assert 0 < found["done"] < 40_000
    calls = counted(monkeypatch, daskglm.inference.permutation, "save_unit")
    assert run("resume", output)[0] == 0
    size = found["done"] // kept
    assert len(calls) == -(-(40_000 - found["done"]) // size)
    assert run(*command, tmp_path / "direct")[0] == 0
    assert images_of(output) == images_of(tmp_path / "direct")
    assert leftovers(output) == []
    assert status_of(output)[1]["done"] == 40_000


def test_a_killed_conversion_is_gone_on_with(tmp_path, monkeypatch):
    maps, rng = tmp_path / "maps", np.random.default_rng(0)
    maps.mkdir()
    for k in range(320):
        image = nib.Nifti1Image(rng.standard_normal((32, 32, 32), dtype=np.float32), np.eye(4))
        image.to_filename(maps / f"sub-{k:03d}.nii.gz")
    command = ["convert", maps / "*.nii.gz", "--output"]
    process = start(tmp_path, *command, "out.zarr")
    output = tmp_path / "out.zarr"
    wait_for(process, lambda: list((output / "sample").glob("c/*")))
    status, text = run(*command, output)
    assert (status, f"(process {process.pid} on " in text) == (2, True)
    end(process)
    status, found = status_of(output)
    assert (status, found["state"], found["total"]) == (1, "interrupted", 320)
    assert found["done"] < 320
    (output / f"zarr.{'0' * 32}.partial").touch()  # as a killed process leaves them
    read = counted(monkeypatch, daskglm.graph.convert, "read_with_checksum")
    status, text = run("resume", output)
    assert status == 0, text
    assert len(read) == 320 - found["done"]
    assert run(*command, tmp_path / "direct.zarr")[0] == 0
    one, other = open_images(str(output)), open_images(str(tmp_path / "direct.zarr"))
    assert one["sample"].values.tolist() == other["sample"].values.tolist()
    np.testing.assert_array_equal(one["data"].values, other["data"].values)
    assert leftovers(output) == []
    assert sorted(os.listdir(tmp_path)) == ["direct.zarr", "maps", "out.zarr"]
    assert status_of(output)[0] == 0
    assert "is complete" in run("resume", output)[1]


@pytest.mark.parametrize("where", ["create", "fill"])
def test_an_overwriting_that_was_interrupted(cohort, tmp_path, monkeypatch, where):
    """Killed while the old store is replaced, it is replaced again; killed later, what is new is kept."""
    import daskglm.models.convert as models

    store = tmp_path / "all.zarr"
    assert run("convert", *cohort.paths[:5], "--output", store)[0] == 0

    def stop(*given, **named):
        if where == "create":
            (store / "zarr.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(models, "create_store" if where == "create" else "finish_store", stop)
        assert run("convert", *cohort.paths, "--output", store, "--overwrite")[0] == 130
    assert status_of(store)[1]["done"] == (0 if where == "create" else 12)
    read = counted(monkeypatch, daskglm.graph.convert, "read_with_checksum")
    status, text = run("resume", store)
    assert status == 0, text
    assert open_images(str(store)).sizes["sample"] == 12
    before = len(read)
    assert before == (12 if where == "create" else 0)
    assert run("convert", *cohort.paths, "--output", store, "--overwrite")[0] == 0
    assert len(read) == before + 12


def test_a_killed_first_level_is_gone_on_with(tmp_path, monkeypatch):
    dataset, output = tmp_path / "bids", tmp_path / "out"
    dataset.mkdir()
    add_runs(dataset, [f"{k:02d}" for k in range(1, 11)])
    command = ["first-level", dataset, "--contrast", "a - b"]
    process = start(tmp_path, *command, "out")
    wait_for(process, lambda: count_complete(str(output)))
    status, text = run(*command, output)
    assert (status, f"(process {process.pid} on " in text) == (2, True)
    end(process)
    status, found = status_of(output)
    assert (status, found["state"], found["total"]) == (1, "interrupted", 30)
    assert 0 < found["done"] < 30
    runs_done = len([path for path in output.glob("sub-*/func/*_glm.json") if json.loads(path.read_text())["complete"]])
    fitted = counted(monkeypatch, daskglm.models.cohort_runs, "_fit")
    status, text = run("resume", output)
    assert status == 0, text
    assert len(fitted) == 20 - runs_done
    assert run(*command, tmp_path / "direct")[0] == 0
    assert images_of(output) == images_of(tmp_path / "direct")
    assert leftovers(output) == []
    assert status_of(output)[1]["done"] == 30


def test_failures_are_listed(tmp_path):
    dataset, output = tmp_path / "bids", tmp_path / "out"
    dataset.mkdir()
    add_runs(dataset, ["01", "02"])
    damaged = next(dataset.glob("derivatives/prep/sub-02/func/*run-1*bold.nii.gz"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert run("first-level", dataset, output, "--contrast", "a - b")[0] == 1
    status, found = status_of(output)
    assert (status, found["state"]) == (1, "failed")
    assert any("sub-02_task-x_run-1" in text and "CorruptImageError" in text for text in found["failures"])
    damaged.write_bytes(whole)
    assert run("resume", output)[0] == 0
    assert status_of(output)[0] == 0


def test_what_is_resumed_is_a_long_command_alone(cohort, tmp_path):
    output = tmp_path / "out"
    status, text = run("status", tmp_path)
    assert (status, "nothing that daskglm ran" in text) == (2, True)
    model = ["--participants", cohort.table_path, *MODEL]
    assert run("group", *cohort.paths, *model, "--output", output)[0] == 0
    path = output / ".daskglm" / "run.json"
    held = {**json.loads(path.read_text()), "state": "interrupted", "id": "another"}
    for command, message in (
        ([], "started in Python"),
        (["demo"], "only convert"),
        (["resume", str(output)], "only convert"),
        (["group", "s3://***@bucket/x.zarr"], "had a secret"),
    ):
        path.write_text(json.dumps({**held, "command": command}))
        status, text = run("resume", output)
        assert (status, message in text) == (2, True)
    path.write_text(json.dumps({**held, "folder": str(tmp_path / "gone")}))
    assert "working folder of the command is gone" in run("resume", output)[1]


def test_killed_after_its_last_file_it_is_complete(cohort, tmp_path):
    output = tmp_path / "out"
    model = ["--participants", cohort.table_path, *MODEL]
    assert run("group", *cohort.paths, *model, "--output", output)[0] == 0
    path = output / ".daskglm" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "interrupted"}))
    assert status_of(output)[0] == 0
    assert "is complete" in run("resume", output)[1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("a small disk is mounted by root, on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("command", ["group", "permute", "convert"])
def test_a_disk_that_is_filled_meanwhile(cohort, small_disk, tmp_path, command, monkeypatch):
    # What was free when it was asked for is of no use later.
    monkeypatch.setattr("daskglm.models.plan.free_disk", lambda _: 10**9)
    output = small_disk / ("out.zarr" if command == "convert" else "out")
    model = [] if command == "convert" else ["--participants", cohort.table_path, *MODEL]
    model += ["--n-perm", 3000] if command == "permute" else []
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2**20 - 2**15 - 2**14))
    status, text = run(command, *cohort.paths, *model, "--output", output)
    assert status == 2, text
    assert "No space left on device" in text
    assert leftovers(small_disk) == []
    assert not (output / "provenance.json").exists()
    filler.unlink()
    status, text = run(command, *cohort.paths, *model, "--output", output)
    assert status == 0, text
    assert run(command, *cohort.paths, *model, "--output", tmp_path / output.name)[0] == 0
    if command == "convert":
        stores = [open_images(str(folder / "out.zarr"))["data"].values for folder in (small_disk, tmp_path)]
        np.testing.assert_array_equal(*stores)
    else:
        assert images_of(output) == images_of(tmp_path / "out")
        one, other = (pd.read_csv(folder / "out" / "design.tsv", sep="\t") for folder in (small_disk, tmp_path))
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("command", ["group", "permute", "convert"])
def test_a_full_disk_is_refused_before_anything_is_read(cohort, small_disk, command, monkeypatch):
    output = small_disk / ("out.zarr" if command == "convert" else "out")
    model = [] if command == "convert" else ["--participants", cohort.table_path, *MODEL]
    cohort.mask_img.to_filename(cohort.folder / "mask.nii")
    (small_disk / "filler").write_bytes(bytes(2**20 - 2**15 - 2**14))
    read = [
        counted(monkeypatch, daskglm.graph.images, "read_prepared"),
        counted(monkeypatch, daskglm.graph.convert, "read_with_checksum"),
    ]
    status, text = run(command, *cohort.paths, *model, "--mask", cohort.folder / "mask.nii", "--output", output)
    assert status == 2
    assert re.search(r"writes up to \d.* kB are free there; free space or choose another output", text), text
    assert read == [[], []]
    assert not (output / "zarr.json").exists()
    assert run("status", output)[0] == 2  # no run is on record
