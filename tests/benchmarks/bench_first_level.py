"""First-level models beside nilearn's: time and memory of one run.

Usage: ``python tests/benchmarks/bench_first_level.py [run|volumes|cohort] [--repeats 3]``

run      72 x 86 x 72 x 300 voxels and volumes, 145,000 in the mask, 15 columns, float32, .nii and .nii.gz.
volumes  peak memory of 300 and 3,000 volumes.
cohort   200 runs (20 subjects x 10; files are links to 10 simulated runs) through the function of the command on
         a LocalCluster of one worker, of two, and of two of which one is killed in the middle (kill -9).

Each measurement is a process of its own, started in turn by this one; times are medians, memory is the peak of
the process above that of a process which only imports the same modules.
"""

import argparse
import glob
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import nibabel as nib
import numpy as np

SHAPE = (72, 86, 72)
N_MASK = 145_000
N_COLUMNS = 15


def simulate(folder: str, n_volumes: int) -> None:
    """Write a mask, a design and a run as .nii, volume by volume."""
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE).reshape(3, -1).T - (np.array(SHAPE) - 1) / 2
    inside = np.argsort((grid**2).sum(axis=1))[:N_MASK]
    mask = np.zeros(SHAPE, np.uint8)
    mask.reshape(-1)[inside] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(mask, affine), os.path.join(folder, "mask.nii.gz"))
    design = np.column_stack([rng.standard_normal((n_volumes, N_COLUMNS - 1)), np.ones(n_volumes)])
    np.save(os.path.join(folder, f"design_{n_volumes}.npy"), design)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((*SHAPE, n_volumes))
    header.set_sform(affine)
    header["pixdim"][1:5] = 2
    header["vox_offset"], header["magic"] = 352, b"n+1"
    noise = np.zeros(SHAPE, np.float32)
    with open(os.path.join(folder, f"run_{n_volumes}.nii"), "wb") as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(n_volumes):
            noise = np.float32(0.4) * noise + rng.standard_normal(SHAPE, dtype=np.float32)
            values = np.where(mask, 1000 + 10 * noise, 0).astype(np.float32)

            file.write(values.tobytes(order="F"))


def measure(what: str, folder: str, name: str, n_volumes: int, noise: str) -> None:
    """Do one thing in this process and print its seconds, its peak above the imports, and its result."""
    import pandas as pd

    path = os.path.join(folder, name)
    columns = [f"c{k}" for k in range(N_COLUMNS)]
    design = pd.DataFrame(np.load(os.path.join(folder, f"design_{n_volumes}.npy")), columns=columns)
    mask = os.path.join(folder, "mask.nii.gz")
    if what == "nilearn":
        from nilearn.glm.first_level import FirstLevelModel
    else:
        from daskglm import FirstLevelModel
    from daskglm.io.nifti import stream_volumes

    nib.load(mask).get_fdata()
    before, start, result = peak(), time.perf_counter(), 0.0
    if what == "read":
        for volume in stream_volumes(path):
            result += float(volume[0])
    else:
        model = FirstLevelModel(mask_img=mask, noise_model=noise, minimize_memory=True)
        z = model.fit(path, design_matrices=design).compute_contrast("c0 - c1").get_fdata()
        result = float(np.nansum(z**2))
    print(json.dumps([time.perf_counter() - start, peak() - before, result]))


def peak() -> float:
    """Peak resident memory of this process in MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def run_apart(folder: str, *arguments: str, repeats: int) -> tuple[float, float, float]:
    """Medians of seconds and MB, and the result, of a measurement in processes of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", folder, *arguments]
    found = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(repeats)]
    return statistics.median(x[0] for x in found), statistics.median(x[1] for x in found), found[0][2]


def bench_run(folder: str, repeats: int) -> None:
    """nilearn and daskglm on one run."""
    simulate(folder, 300)
    subprocess.check_call(["gzip", "-1", "-k", os.path.join(folder, "run_300.nii")])
    sizes = [os.path.getsize(os.path.join(folder, f"run_300.nii{end}")) / 1e6 for end in ("", ".gz")]
    print(
        f"one run, {SHAPE} x 300 float32, {N_MASK} voxels, {N_COLUMNS} columns: {sizes[0]:.0f} MB, {sizes[1]:.0f} MB gz"
    )
    for name in ("run_300.nii", "run_300.nii.gz"):
        read = run_apart(folder, "read", name, "300", "-", repeats=repeats)
        print(f"{name}: only reading{' and decompressing' if name.endswith('gz') else ''}: {read[0]:.2f} s")
        for noise in ("ols", "ar1") + (("ar2",) if name.endswith("nii") else ()):
            theirs = run_apart(folder, "nilearn", name, "300", noise, repeats=1 if noise == "ar2" else repeats)
            ours = run_apart(folder, "daskglm", name, "300", noise, repeats=repeats)
            print(
                f"  {noise}: nilearn {theirs[0]:.2f} s {theirs[1]:.0f} MB; daskglm {ours[0]:.2f} s {ours[1]:.0f} MB; "
                f"{theirs[0] / ours[0]:.1f} times faster, memory 1/{theirs[1] / ours[1]:.1f}; "
                f"{ours[0] / read[0]:.2f} times reading; sum z^2 {theirs[2]:.1f} {ours[2]:.1f}",
                flush=True,
            )


def bench_volumes(folder: str, repeats: int) -> None:
    """Memory of 300 and 3,000 volumes."""
    peaks = {}
    for n_volumes in (300, 3000):
        simulate(folder, n_volumes)
        seconds, peaks[n_volumes], _ = run_apart(
            folder, "daskglm", f"run_{n_volumes}.nii", str(n_volumes), "ar1", repeats=repeats
        )
        print(f"{n_volumes} volumes: {seconds:.2f} s, {peaks[n_volumes]:.0f} MB", flush=True)
        os.remove(os.path.join(folder, f"run_{n_volumes}.nii"))
    print(f"3,000 volumes take {peaks[3000] / peaks[300]:.2f} times the memory of 300")


def simulate_cohort(folder: str) -> None:
    """Write a BIDS dataset of 200 runs of 24 x 28 x 24 x 240."""
    rng = np.random.default_rng(1)
    shape, n_volumes = (24, 28, 24), 240
    mask = np.ones(shape, np.uint8)
    times = np.arange(10, 460, 30)
    events = "onset\tduration\ttrial_type\n" + "".join(f"{t}\t12\t{'ab'[k % 2]}\n" for k, t in enumerate(times))
    for run in range(10):
        data = (1000 + 20 * rng.standard_normal((*shape, n_volumes), dtype=np.float32)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), os.path.join(folder, f"run{run}.nii.gz"))
    nib.save(nib.Nifti1Image(mask, np.diag([3.0, 3, 3, 1])), os.path.join(folder, "mask.nii.gz"))
    for subject in range(1, 21):
        raw = os.path.join(folder, f"sub-{subject:02d}", "func")
        derived = os.path.join(folder, "derivatives", "prep", f"sub-{subject:02d}", "func")
        os.makedirs(raw)
        os.makedirs(derived)
        for run in range(10):
            name = f"sub-{subject:02d}_task-x_run-{run + 1:02d}"
            with open(os.path.join(raw, f"{name}_events.tsv"), "w", encoding="utf-8") as file:
                file.write(events)
            for source, end in ((f"run{run}", "preproc_bold"), ("mask", "brain_mask")):
                target = os.path.join(derived, f"{name}_space-T1w_desc-{end}.nii.gz")
                os.link(os.path.join(folder, f"{source}.nii.gz"), target)
            with open(os.path.join(derived, f"{name}_space-T1w_desc-preproc_bold.json"), "w", encoding="utf-8") as file:
                json.dump({"RepetitionTime": 2.0, "StartTime": 0.0}, file)


def run_cohort(folder: str, output: str, n_workers: int, kill: bool) -> float:
    """Seconds of a first-level analysis of the dataset on a cluster of its own."""
    from distributed import Client, LocalCluster

    from daskglm import first_level_analysis

    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "daskglm.models.cohort_runs")
        pids = list(client.run(os.getpid).values())
        if kill:
            threading.Timer(15, os.kill, (pids[0], signal.SIGKILL)).start()
        start = time.perf_counter()
        result = first_level_analysis(folder, output, {"a - b": "a - b"}, task="x")
        seconds = time.perf_counter() - start
        assert result.failures.empty, result.failures
        if kill:
            assert pids[0] not in client.run(os.getpid).values(), "the worker was not killed in the middle"
    return seconds


def bench_cohort(folder: str, repeats: int) -> None:
    """Throughput of one and of two workers, and the result where one is killed."""
    simulate_cohort(folder)
    outputs = {name: os.path.join(folder, name) for name in ("warm", "one", "two", "killed")}
    one = run_cohort(folder, outputs["one"], 1, kill=False)
    two = run_cohort(folder, outputs["two"], 2, kill=False)
    print(f"200 runs: 1 worker {one:.1f} s, 2 workers {two:.1f} s: {one / two:.2f} times the throughput", flush=True)
    killed = run_cohort(folder, outputs["killed"], 2, kill=True)
    paths = sorted(glob.glob("**/*_statmap.nii.gz", root_dir=outputs["one"], recursive=True))
    for other in ("two", "killed"):
        assert paths == sorted(glob.glob("**/*_statmap.nii.gz", root_dir=outputs[other], recursive=True))
        for path in paths:
            first, second = (nib.load(os.path.join(outputs[name], path)).get_fdata() for name in ("one", other))
            assert np.array_equal(first, second, equal_nan=True), path
    print(f"one of 2 workers killed after 15 s: {killed:.1f} s; all {len(paths)} maps are there and identical")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["run", "volumes", "cohort", "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, what, name, n_volumes, noise = options.one
        measure(what, folder, name, int(n_volumes), noise)
        return
    folder = tempfile.mkdtemp()
    try:
        for part, bench in (("run", bench_run), ("volumes", bench_volumes), ("cohort", bench_cohort)):
            if options.part in (part, "all"):
                bench(folder, options.repeats)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
