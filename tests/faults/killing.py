"""Kill a long command at random moments, go on each time, and compare all that claims to be whole with the truth."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import zarr
from disturbance import make_maps, partial_files, start

N_IMAGES, N_SUBJECTS = 48, 6
MODEL = ["--formula", "~ age", "--contrast", "age"]


@dataclass
class Kills:
    """What happened.

    Attributes
    ----------
    n, restarts : int
        Kills, and outputs begun anew because one was complete.
    whole : list of int
        Things that claimed to be whole after each kill, all of which were equal to the truth.
    """

    n: int = 0
    restarts: int = 0
    whole: list[int] = field(default_factory=list)


def make_inputs(folder):
    """Images and a BIDS dataset; the arguments of each command, and the name of its output."""
    images = make_maps(folder, N_IMAGES)
    make_dataset(folder / "bids")
    mask = images[images.index("--mask") :][:2]
    commands = {
        "convert": ["convert", f"{folder}/many/*.nii.gz", *mask],
        "group": ["group", *images, *MODEL],
        "permute": ["permute", *images, *MODEL, "--n-perm", 1280, "--tfce"],
        "first-level": ["first-level", folder / "bids"],
    }
    (folder / "many").mkdir()
    rng = np.random.default_rng(1)
    for k in range(260):  # five chunks of samples
        image = nib.Nifti1Image(rng.standard_normal((8, 9, 7), dtype=np.float32), np.diag([3.0, 3, 3, 1]))
        image.to_filename(folder / "many" / f"sub-{k:03d}.nii.gz")
    return commands


def make_dataset(root):
    """Two short runs of each of some subjects, preprocessed."""
    rng = np.random.default_rng(2)
    root.mkdir()
    for subject in (f"sub-{k:02d}" for k in range(N_SUBJECTS)):
        raw = root / subject / "func"
        derived = root / "derivatives" / "prep" / subject / "func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        for number in (1, 2):
            name = f"{subject}_task-x_run-{number}"
            events = pd.DataFrame({"onset": np.arange(4, 70, 10.0), "duration": 3.0, "trial_type": [*"abababa"]})
            events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            stem = derived / f"{name}_space-T1w_desc-"
            data = 500 + 5 * rng.standard_normal((4, 4, 3, 40))
            nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), f"{stem}preproc_bold.nii.gz")
            nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.diag([3.0, 3, 3, 1])), f"{stem}brain_mask.nii.gz")
            Path(f"{stem}preproc_bold.json").write_text(json.dumps({"RepetitionTime": 2.0, "StartTime": 0.0}))


def arguments(command, given, output):
    """The command with its output."""
    if command == "first-level":
        return [*given, output, "--contrast", "a - b"]
    return [*given, "--output", output]


def record_of(output):
    """The record of the last run, if there is one."""
    place = Path(f"{output}.daskglm" if output.suffix == ".zarr" else output / ".daskglm")
    try:
        return json.loads((place / "run.json").read_text())
    except (OSError, ValueError):
        return {}


def until_it_works(process, output):
    """Wait until a process has begun on its output; False where it ended before."""
    while process.poll() is None:
        if record_of(output).get("process") == process.pid:
            return True
        time.sleep(0.002)
    return False


def undisturbed(command, given, folder):
    """The output of a command that nothing disturbs, the seconds from its first file to its last, and most files."""
    output = folder / ("truth.zarr" if command == "convert" else "truth")
    process = start(folder, *arguments(command, given, output))
    until_it_works(process, output)
    begun, most = time.monotonic(), 0
    while process.poll() is None and record_of(output).get("state") == "running":
        most = max(most, n_files(output))
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return output, seconds, most


def n_files(output):
    """Files of an output, which come and go."""
    return sum(len(names) for _, _, names in os.walk(output))


def wait_for_a_moment(process, output, seconds, most, draw):
    """Wait for a random time, or for a random number of files: so moments come early and late on any machine."""
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0, seconds))
        return
    wanted = draw.randint(min(n_files(output), most), most)
    while process.poll() is None and n_files(output) < wanted and record_of(output).get("state") == "running":
        time.sleep(0.002)


def kill_anywhere(command, given, folder, moments, seed):
    """Kill a command at some random moments, check what is there after each, go on, and compare the end.

    Parameters
    ----------
    command : str
        As in :func:`make_inputs`.
    given : list
        Its arguments.
    folder : Path
        Empty folder for the outputs.
    moments, seed : int
        How many kills, and the seed of their moments.

    Returns
    -------
    Kills
    """
    draw, kills = random.Random(f"{command} {seed}"), Kills()  # noqa: S311
    truth, seconds, most = undisturbed(command, given, folder)
    output, seen = truth.with_name(truth.name.replace("truth", "killed")), {}
    while kills.n < moments:
        same = arguments(command, given, output)
        resumed = ["resume", output] if record_of(output) and draw.random() < 0.7 else same
        process = start(folder, *resumed)
        killed = until_it_works(process, output)
        if killed:
            wait_for_a_moment(process, output, seconds, most, draw)
            killed = process.poll() is None
            process.kill()
        _, said = process.communicate(timeout=60)
        if killed and process.returncode < 0:
            kills.n += 1
            kills.whole.append(check_whole(command, output, truth, seen))
            continue
        assert process.returncode in (0, 2), said
        assert process.returncode == 0 or "already holds results" in said or "is complete" in said, said
        if command == "first-level":  # its picture is drawn after all else, by the same command
            finish(arguments(command, given, output), folder)
        check_end(command, output, truth)
        forget(output)
        kills.restarts += 1
    if output.exists():
        going_on = ["resume", output] if record_of(output) else arguments(command, given, output)
        finish(arguments(command, given, output) if command == "first-level" else going_on, folder)
        check_end(command, output, truth)
    return kills


def finish(given, folder):
    """Run a command to its end."""
    process = start(folder, *given)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def forget(output):
    """Remove an output and what is known of it."""
    shutil.rmtree(output)
    if output.suffix == ".zarr":
        shutil.rmtree(f"{output}.daskglm", ignore_errors=True)


def check_whole(command, output, truth, seen):
    """Compare all that claims to be whole with the truth; how much that is."""
    if command == "convert":
        return check_store(output, truth)
    # Under its name a file is whole, whatever a receipt or a record says: others have names of their own.
    count = 0
    for path in output.rglob("*.nii.gz"):
        if not hidden(path, output):
            assert path.read_bytes() == (truth / path.relative_to(output)).read_bytes(), path
            assert nib.load(path).get_fdata().size
            count += 1
    for path in output.rglob("*.npz"):
        if not hidden(path.with_name("x"), output, (".daskglm", ".permutations")) and "partial" not in path.name:
            check_unit(path, output, truth, seen)
            count += 1
    for path in output.glob("provenance.json"):
        names = json.loads(path.read_text())["files"]
        assert names == json.loads((truth / "provenance.json").read_text())["files"]
        assert all((output / name).is_file() for name in names)
        for name in (name for name in names if name.endswith(".tsv")):
            assert (output / name).read_bytes() == (truth / name).read_bytes(), name
        count += 1
    for path in output.rglob("*_glm.json"):
        with suppress(ValueError):
            count += check_receipt(json.loads(path.read_text()), path)
    if command == "first-level":
        count += sum(check_store(store, truth / store.relative_to(output)) for store in output.rglob("*.zarr"))
    return count


def hidden(path, output, but=()):
    """Whether a file is within a hidden folder of the output, or is hidden itself."""
    return any(part.startswith(".") and part not in but for part in path.relative_to(output).parts)


def check_unit(path, output, truth, seen):
    """A unit can be read to its end, and is the same whenever it was written."""
    content = path.read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert all(file[name] is not None for name in file.files)
    expected = truth / path.relative_to(output)
    before = seen.setdefault(path.relative_to(output), expected.read_bytes() if expected.exists() else content)
    assert content == before, path


def check_receipt(receipt, path):
    """A complete receipt names files that are whole."""
    assert isinstance(receipt["complete"], bool)
    if not receipt["complete"]:
        return 0
    for name, size in receipt["files"].items():
        file = path.with_name(name)
        assert file.is_file()
        assert file.stat().st_size == size
    return 1


def check_store(store, truth):
    """Samples that a store names have the data of the truth."""
    expected = zarr.open_group(truth, mode="r")
    rows = {str(name): row for row, name in enumerate(expected["sample"][:])}
    values = expected["data"][:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of files
        try:
            group = zarr.open_group(store, mode="r")
            names, data = group["sample"][:], group["data"][:]
        except (FileNotFoundError, KeyError):  # not yet
            return 0
    named = [(row, str(name)) for row, name in enumerate(names) if str(name)]
    for row, name in named:
        assert data[row].tobytes() == values[rows[name]].tobytes(), name
    if group.attrs.get("finished"):
        assert len(named) == len(rows)
    return len(named)


def check_end(command, output, truth):
    """An output is what it is without any kill, and nothing else is left."""
    assert partial_files(output) == []
    if command == "convert":
        assert check_store(output, truth) == len(zarr.open_group(truth, mode="r")["sample"][:])
        assert zarr.open_group(output, mode="r").attrs["finished"]
        return
    found, expected = (
        {
            path.relative_to(folder): path.read_bytes() if path.name.endswith((".nii.gz", ".tsv", ".npz")) else b""
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".html" and ".zarr" not in str(path)
        }
        for folder in (output, truth)
    )
    assert set(found) == set(expected), set(found) ^ set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    for store in truth.rglob("*.zarr"):
        assert check_store(output / store.relative_to(truth), store)
