"""Small analyses of many units, and what disturbs them: for the tests of this folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
from distributed import WorkerPlugin

# Images and units as of a large cohort, but for their size: an image a block, a block a unit.
SMALL = {
    "daskglm.graph.checkpoints": {"_WORTH_BYTES": 0, "_READ_TO_WRITTEN": 1e-3},
    "daskglm.graph.images": {"_BLOCK_SAMPLES": (1, 1)},
    "daskglm.graph.permutation": {"_UNIT": (64, 64)},
}
_DRIVER = f"""
import importlib, sys
for module, values in {SMALL!r}.items():
    for name, value in values.items():
        setattr(importlib.import_module(module), name, value)
from daskglm.cli.main import main
main(sys.argv[1:])
"""
AFFINE, SHAPE = np.diag([3.0, 3, 3, 1]), (8, 9, 7)


def make_small(monkeypatch):
    """The units of :data:`SMALL` in this process."""
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(f"{module}.{name}", value)


def make_maps(folder, n):
    """Images of n subjects, a mask and a table in a folder; the arguments of a model of them."""
    (folder / "maps").mkdir(parents=True)
    rng = np.random.default_rng(n)
    names = [f"sub-{k:03d}" for k in range(n)]
    for name in names:
        image = nib.Nifti1Image(rng.standard_normal(SHAPE, dtype=np.float32) + 3, AFFINE)
        image.to_filename(folder / "maps" / f"{name}.nii.gz")
    nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE).to_filename(folder / "mask.nii.gz")
    table = pd.DataFrame({"participant_id": names, "age": rng.uniform(20, 80, n).round(1)})
    table.to_csv(folder / "people.tsv", sep="\t", index=False)
    return [f"{folder}/maps/*.nii.gz", "--mask", f"{folder}/mask.nii.gz", "--participants", f"{folder}/people.tsv"]


def start(folder, *arguments, environment=None):
    """``daskglm`` in a process of its own, with small units."""
    command = [sys.executable, "-c", _DRIVER, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip


def done(folder, *arguments, environment=None):
    """Exit status of ``daskglm``, and what it said."""
    process = start(folder, *arguments, environment=environment)
    _, said = process.communicate(timeout=240)
    return process.returncode, said


def wait_for(condition, process=None, seconds=90):
    """Wait until a condition holds, while a process runs."""
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def images_of(folder):
    """Bytes of every image, by name: nothing in them depends on when they were made."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*.nii.gz"))}


def partial_files(folder):
    """Files that were not written whole."""
    return [path for path in Path(folder).rglob("*") if "partial" in path.name]


def units_of_group(output):
    """Checkpoints of a group analysis: name to when it was written."""
    found = (Path(output) / ".daskglm" / "moments").glob("*/[0-9]*.npz")
    return {path.name: path.stat().st_mtime_ns for path in found}


class Notes:
    """A file to which workers write what they do: lines of an event, a key and a process."""

    def __init__(self, path):
        self.path = path

    def lines(self, event):
        """Key and process (or number) of each event of a kind."""
        text = self.path.read_text() if self.path.exists() else ""
        found = [line.split("\t") for line in text.splitlines()]
        return [(line[1], int(line[2])) for line in found if line[0] == event]

    def runs(self, prefix):
        """How often each task of a kind was finished."""
        return Counter(key for key, _ in self.lines("finished") if prefix in key)


def watching(path, *, seconds=0.0, after=0, kind="keep-moments", fatal="", greedy=""):
    """A plugin of workers, which notes each task in a file, and lets things go wrong.

    Tasks take `seconds` longer; the worker that begins the task number `after` of a kind kills itself, once; reading
    a file whose path has `fatal` in it kills the worker each time; that with `greedy` takes a gigabyte.
    """

    class Watching(WorkerPlugin):  # local: travels to the workers as code
        def setup(self, worker):
            import daskglm.graph.convert
            import daskglm.graph.images

            self.worker = worker
            for module, name in (
                (daskglm.graph.images, "read_prepared"),
                (daskglm.graph.convert, "read_prepared"),
                (daskglm.graph.convert, "read_with_checksum"),
            ):
                setattr(module, name, self.disturbed(getattr(module, name)))

        def disturbed(self, read):
            def reader(source, *arguments):
                time.sleep(seconds)
                if fatal and fatal in str(source):
                    os.kill(os.getpid(), signal.SIGKILL)
                if greedy and greedy in str(source):
                    held = []
                    for _ in range(200):  # until somebody ends it
                        held.append(np.ones(2**20))
                        time.sleep(0.01)
                return read(source, *arguments)

            return reader

        def transition(self, key, start, finish, **_):
            if finish == "memory" and start == "executing":
                self.note("finished", key, os.getpid())
                # Not ru_maxrss, which a process has from the one that started it.
                with open("/proc/self/status") as file:
                    peak = next(line for line in file if line.startswith("VmHWM"))
                self.note("peak", "kB", int(peak.split()[1]))
            if finish == "executing" and kind in str(key):
                self.note("begun", key, os.getpid())
                with open(path) as file:
                    begun = sum(line.startswith("begun") for line in file)
                if after and begun >= after:
                    with suppress(FileExistsError):
                        open(f"{path}.killed", "x").close()
                        os.kill(os.getpid(), signal.SIGKILL)

        def note(self, event, key, number):
            with open(path, "a") as file:
                file.write(f"{event}\t{key}\t{number}\n")

    return Watching()


def free_port():
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def own_cluster(folder, port, seconds=0.06):
    """A scheduler and two workers, each a process as a person starts it; its processes, the scheduler first."""
    (folder / "slow.py").write_text(
        "import time\nfrom distributed import WorkerPlugin\n"
        "class Slow(WorkerPlugin):\n"
        "    def transition(self, key, start, finish, **_):\n"
        f"        time.sleep({seconds} if finish == 'executing' else 0)\n"
        "async def dask_setup(worker):\n    await worker.plugin_add(Slow(), name='slow')\n"
    )
    dask = [sys.executable, "-m", "dask"]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = [
        *dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "2GB", "--preload",
        folder / "slow.py", "--local-directory", folder / "workers", "--death-timeout", 20,
    ]  # fmt: skip
    log = (folder / "cluster.log").open("a")
    processes = [
        subprocess.Popen(list(map(str, command)), stdout=log, stderr=log) for command in (scheduler, worker, worker)
    ]
    try:
        yield address, processes
    finally:
        ended = [child for process in processes for child in below(process.pid)]
        for process in ended:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in processes:
            process.wait()
        log.close()


def below(pid):
    """A process and all that it started."""
    try:
        top = psutil.Process(pid)
        return [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return []
