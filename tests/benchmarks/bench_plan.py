"""Whether plans keep their promise: the memory that `daskglm plan` promises beside the peak of the command itself.

    python tests/benchmarks/bench_plan.py           # everything, about 10 minutes
    python tests/benchmarks/bench_plan.py small     # or: large, cluster

Plan and command are given the same arguments, each in a process of its own; the peak is the high-water mark of the
whole process, or of the worker that has most. It fails where a peak is above what was promised.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

T_R = 2.0
AFFINE = np.diag([2.5, 2.5, 2.5, 1.0])
SIZES = {
    # Grid, different images and how many, volumes of a run, subjects of a dataset, rearrangements
    "small": ((36, 43, 36), 16, 64, 120, 2, 200),
    "large": ((72, 86, 72), 32, 512, 300, 2, 400),
}


def peak() -> int:
    """High-water mark of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def make_maps(folder: Path, shape: tuple[int, int, int], n_real: int, n: int, lacking: float = 0.0) -> None:
    """Images of noise in a ball, most of them copies of a few; their mask and table.

    `lacking`: part of the images that each voxel of one quarter of the ball lacks, about.
    """
    folder.mkdir()
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    mask, rng = radius < 1, np.random.default_rng(0)
    nib.Nifti1Image(mask.astype(np.uint8), AFFINE).to_filename(folder / "mask.nii.gz")
    for k in range(n):
        path = folder / f"sub-{k:04d}_stat-effect_statmap.nii.gz"
        if k >= n_real:
            shutil.copyfile(folder / f"sub-{k % n_real:04d}_stat-effect_statmap.nii.gz", path)
            continue
        image = np.zeros(shape, np.float32)
        values = rng.standard_normal(int(mask.sum()), dtype=np.float32)
        quarter = values[: values.size // 4]
        quarter[rng.uniform(size=quarter.size) < lacking] = np.nan
        image[mask] = values
        nib.Nifti1Image(image, AFFINE).to_filename(path)
    table = {"participant_id": [f"sub-{k:04d}" for k in range(n)], "age": rng.normal(size=n), "sex": np.arange(n) % 2}
    pd.DataFrame(table).to_csv(folder / "people.tsv", sep="\t", index=False)


def make_dataset(root: Path, shape: tuple[int, int, int], n_volumes: int, n_subjects: int, ending: str) -> None:
    """A BIDS dataset of one run a subject."""
    onsets = np.arange(4, n_volumes * T_R - 20, 12.0)
    kinds = np.where(np.arange(onsets.size) % 2, "a", "b")
    events = pd.DataFrame({"onset": onsets, "duration": 6.0, "trial_type": kinds})
    rng = np.random.default_rng(1)
    for subject in (f"sub-{k + 1:02d}" for k in range(n_subjects)):
        raw, derived = root / subject / "func", root / "derivatives" / "prep" / subject / "func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        events.to_csv(raw / f"{subject}_task-x_events.tsv", sep="\t", index=False)
        # Twenty volumes over and over: noise takes longer to make than to fit.
        some = (500 + 50 * rng.standard_normal((*shape, 20))).astype(np.int16)
        data = np.take(some, np.arange(n_volumes) % 20, axis=3)
        name = f"{subject}_task-x_space-T1w_desc"
        nib.save(nib.Nifti1Image(data, AFFINE), derived / f"{name}-preproc_bold{ending}")
        mask = np.zeros(shape, np.uint8)
        mask[4:-4, 4:-4, 4:-4] = 1
        nib.save(nib.Nifti1Image(mask, AFFINE), derived / f"{name}-brain_mask.nii.gz")
        (derived / f"{name}-preproc_bold.json").write_text(json.dumps({"RepetitionTime": T_R}))


def cases(folder: Path, size: str) -> dict[str, list[str]]:
    """Name and arguments of each command, without its output; the store of `convert` is the input of others."""
    shape, n_real, n, n_volumes, n_subjects, n_perm = SIZES[size]
    make_maps(folder / "maps", shape, n_real, n)
    images, store = str(folder / "maps" / "sub-*.nii.gz"), str(folder / "convert.zarr")
    people, mask = ["--participants", f"{folder}/maps/people.tsv"], ["--mask", f"{folder}/maps/mask.nii.gz"]
    model = ["--formula", "~ age + sex", "--contrast", "age", "--f-contrast", "both=age, sex"]
    test = ["permute", store, "--formula", "~ age", "--contrast", "age", "--n-perm", str(n_perm)]
    made = {
        "convert": ["convert", images, *people, *mask],
        "convert, no mask": ["convert", images, *people],
        "group, files": ["group", images, *people, *mask, *model],
        "group, no mask": ["group", images, *people, *model],
        "group, Zarr": ["group", store, *model],
        "permute": test,
        "permute, clusters": [*test, "--cluster-threshold", "0.001"],
        "permute, TFCE": [*test, "--tfce"],
    }
    make_maps(folder / "gaps", shape, n_real, n, lacking=0.15)
    gaps = str(folder / "convert, gaps.zarr")
    made |= {
        "convert, gaps": ["convert", str(folder / "gaps" / "sub-*.nii.gz"), *people, *mask],
        "group, gaps": ["group", gaps, *model],
        "permute, gaps": ["permute", gaps, *test[2:]],
        "permute, gaps, TFCE": ["permute", gaps, *test[2:], "--tfce"],
    }
    for ending in (".nii", ".nii.gz"):
        root = folder / f"bids{ending.replace('.', '_')}"
        make_dataset(root, shape, n_volumes, n_subjects, ending)
        made[f"first-level, {ending}"] = ["first-level", str(root), "--contrast", "a - b"]
    return made


def with_output(arguments: list[str], output: str) -> list[str]:
    """Arguments of a command that writes there."""
    return [*arguments, output] if arguments[0] == "first-level" else [*arguments, "--output", output]


def task(kind: str, arguments: list[str]) -> dict[str, float]:
    """Run this file as a process of its own, and take what it reports."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", kind, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode or "\n{" not in done.stdout:
        raise RuntimeError(f"{kind} {arguments} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout[done.stdout.rindex("\n{") :])


def run_task(kind: str, arguments: list[str]) -> None:
    """Plan or run a command here, and report."""
    from daskglm.cli.main import main

    if kind == "plan":
        print()
        main(["plan", *arguments, "--json"], standalone_mode=False)
        return
    started, workers = time.perf_counter(), []
    if kind == "cluster":
        # As `--cluster local` makes it, but that its workers can be asked.
        from distributed import Client, LocalCluster

        options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "4GB", "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(**options) as cluster, Client(cluster) as client:
            main([*arguments, "--quiet"], standalone_mode=False)
            workers = list(client.run(peak).values())
    else:
        main([*arguments, "--quiet"], standalone_mode=False)
    print(
        "\n" + json.dumps({"peak": peak(), "worker": max(workers, default=0), "seconds": time.perf_counter() - started})
    )


def run_plan_on_cluster(arguments: list[str]) -> None:
    """Plan a command on workers like those that it will run on."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "4GB", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster):
        run_task("plan", arguments)


def compare(name: str, arguments: list[str], output: str, cluster: bool) -> bool:
    """Print promised and measured memory of one command; whether the promise was kept."""
    given = with_output(arguments, output)
    plan = task("plan-cluster" if cluster else "plan", given)
    done = task("cluster" if cluster else "run", given)
    pairs = [("", plan["memory_per_worker"], done["worker"] if cluster else done["peak"])]
    pairs += [(" (client)", plan["memory_client"], done["peak"])] if cluster else []
    for end, promised, measured in pairs:
        timed = "" if end else f"{plan['seconds']:9.1f} {done['seconds']:9.1f}"
        print(
            f"{name + end:32} {promised / 1e6:9.0f} {measured / 1e6:9.0f} {promised / measured:7.2f}{timed}", flush=True
        )
    return all(measured <= promised for _, promised, measured in pairs)


def main_benchmark(which: list[str]) -> None:
    """Everything of some sizes."""
    broken = []
    print(f"{'':32} {'promised':>9} {'measured':>9} {'ratio':>7}{'planned':>9} {'took':>9}")
    print(f"{'':39}MB{'':8}MB{'':16}s{'':9}s")
    for size in which:
        cluster = size == "cluster"
        with tempfile.TemporaryDirectory() as folder:
            for name, arguments in cases(Path(folder), "large" if cluster else size).items():
                output = f"{folder}/{name}.zarr" if arguments[0] == "convert" else f"{folder}/out {name}"
                kept = compare(f"{size}: {name}", arguments, output, cluster)
                broken += [] if kept else [f"{size}: {name}"]
    if broken:
        raise SystemExit(f"more memory than was promised: {', '.join(broken)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="*")
    if sys.argv[1:2] == ["--task"]:
        kind, given = sys.argv[2], sys.argv[3:]
        run_plan_on_cluster(given) if kind == "plan-cluster" else run_task(kind, given)
    else:
        main_benchmark(parser.parse_args().which or [*SIZES, "cluster"])
