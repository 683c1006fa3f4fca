"""A cohort larger than the memory of the workers: time and memory beside those of only reading it.

    python tests/benchmarks/bench_scale.py                        # 10,000 subjects x 200,000 voxels, 8 GB
    python tests/benchmarks/bench_scale.py --samples 1000         # smaller

A store is made once, and one of half its subjects. Then, on a local cluster of workers of 1.5 GB with one thread
each: every chunk is read and dropped, and a model of three regressors is fitted and its contrast written, of the whole
on two workers, and of the half on one. Each measurement is a process of its own, in turns, after one that only brings
the store into the system's cache, and begins when a few images went the same way: modules are loaded. Times are
medians. Printed: seconds, the ratio to reading alone, the throughput of
two workers over that of one at as much data a worker (weak scaling) beside that of two processes with nothing between
them, and the peak memory of each worker beside what ``plan`` promises.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np

LIMIT = "1.5GB"


def space_of_size(n_voxels: int):
    """A space of so many voxels."""
    from daskglm.schema.space import VolumeSpace

    side = int(np.ceil((2 * n_voxels) ** (1 / 3)))
    mask = (np.arange(side**3) < n_voxels).reshape(side, side, side)
    return VolumeSpace.from_image(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), mask)


def make(store: str, n_rows: int, n_voxels: int) -> dict:
    """Write noise with a known effect, 64 images after 64 images."""
    from daskglm.io.store_writing import allocate, create_store, finish_store, write_samples

    started = time.perf_counter()
    rng = np.random.default_rng(0)
    create_store(store, space_of_size(n_voxels), {})
    age = rng.standard_normal(n_rows)
    columns = {"age": age, "sex": rng.integers(0, 2, n_rows).astype(np.float64)}
    for target in allocate(store, n_rows, columns):
        data = rng.standard_normal((len(target.rows), n_voxels), dtype=np.float32)
        data[:, : n_voxels // 20] += np.float32(0.1) * age[target.rows, None].astype(np.float32)
        names = [f"sub-{row:05d}" for row in target.rows]
        write_samples(store, target, data, names, {name: values[target.rows] for name, values in columns.items()})
    finish_store(store, {})
    return {"seconds": time.perf_counter() - started}


def peak_memory() -> float:
    """High-water mark of this process in MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def once(what: str, store: str, output: str) -> float:
    """Seconds to read and drop a store, or to fit it and write the maps."""
    import daskglm
    from daskglm.models.group import group_analysis

    started = time.perf_counter()
    if what == "drop":
        data = daskglm.open_images(store)["data"].data
        dropped = data.map_blocks(lambda block: np.zeros((1, 1)), chunks=(1, 1), dtype=np.float64)
        dropped.sum(split_every=16).compute()
    else:
        group_analysis(store, output, "~ age + sex", {"age": "age"})
    return time.perf_counter() - started


def on_workers(what: str, store: str, workers: int) -> dict:
    """Read and drop, or fit, on a cluster of processes, which did the same with a few images before."""
    import daskglm

    with tempfile.TemporaryDirectory() as folder:
        cluster, few = os.path.join(folder, "cluster.yaml"), os.path.join(folder, "few.zarr")
        make(few, 64, 2000)
        with open(cluster, "w", encoding="utf-8") as file:
            file.write(f"kind: local\nscale: {workers}\noptions: {{threads_per_worker: 1, memory_limit: {LIMIT}}}\n")
        with daskglm.cluster.connect(cluster) as client:
            client.run(lambda: (__import__("daskglm.models.group"), None)[1])
            once(what, few, os.path.join(folder, "out-few"))
            return {
                "seconds": once(what, store, os.path.join(folder, "out")),
                "worker_peak": max(client.run(peak_memory).values()),
                "client_peak": peak_memory(),
            }


def bare(store: str, part: int) -> dict:
    """Read one half of a store and sum its moments, block after block, when a line comes; no cluster."""
    import dask

    import daskglm
    from daskglm.graph.glm import sum_moments
    from daskglm.graph.images import lazy_array
    from daskglm.kernels.basis import orthonormal_basis

    images = daskglm.open_images(store)
    half = images.sizes["sample"] // 2
    data = lazy_array(images["data"].isel(sample=slice(part * half, (part + 1) * half)))
    design = np.column_stack([np.ones(half), np.random.default_rng(0).standard_normal((half, 2))])
    moments = sum_moments(data, orthonormal_basis(design), design)
    with dask.config.set(scheduler="synchronous"):
        moments.blocks[0].compute()
        print("ready", flush=True)
        input()
        started = time.perf_counter()
        moments.compute()
    return {"seconds": time.perf_counter() - started}


def begun(*arguments: object) -> subprocess.Popen:
    """A measurement in a process of its own, begun; with what the workers of a cluster have in their environment."""
    from daskglm.cluster.configuration import WORKER_ENVIRONMENT

    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    environment = {**os.environ, **(WORKER_ENVIRONMENT if arguments[0] == "bare" else {"OMP_NUM_THREADS": "1"})}
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def apart(*arguments: object) -> dict:
    """A measurement in a process of its own."""
    said, _ = begun(*arguments).communicate()
    return json.loads(said.splitlines()[-1])


def machine_scaling(store: str) -> float:
    """Throughput of two processes with nothing between them over that of one: what the machine allows."""
    seconds = []
    for parts in ([0], [0, 1]):
        processes = [begun("bare", store, part) for part in parts]
        for process in processes:
            process.stdout.readline()
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        seconds.append(max(json.loads(process.communicate()[0].splitlines()[-1])["seconds"] for process in processes))
    return 2 * seconds[0] / seconds[1]


def measure(stores: dict, runs: list) -> dict:
    """Each run once, after one that brings its store into the system's cache."""
    found = {}
    for what, workers in runs:
        if what == "drop":
            apart(what, stores[workers], workers)
        found[what, workers] = apart(what, stores[workers], workers)
    return found


def promised(store: str) -> dict[str, float]:
    """Memory that the plan promises, in MB."""
    command = [sys.executable, "-m", "daskglm.cli.main", "plan", "group", store, "--formula", "~ age + sex"]
    command += ["--contrast", "age", "--output", f"{store}-out", "--cluster", "local", "--json"]
    plan = json.loads(subprocess.check_output(command))
    return {name: plan[name] / 2**20 for name in ("memory_per_worker", "memory_client")}


def main() -> None:
    """Measure all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", help="keep the store here, or take the one that is here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *arguments = json.loads(options.one)
        alone = {"make": make, "bare": bare}
        print(json.dumps(alone[what](*arguments) if what in alone else on_workers(what, *arguments)))
        return
    folder = tempfile.mkdtemp()
    whole = options.store or os.path.join(folder, "cohort.zarr")
    stores = {2: whole, 1: f"{whole}-half"}
    try:
        for workers, store in stores.items():
            if not os.path.exists(store):
                made = apart("make", store, options.samples * workers // 2, options.voxels)
                print(f"store made in {made['seconds']:.0f} s", flush=True)
        runs = [(what, workers) for workers in stores for what in ("drop", "fit")]
        rounds, allowed = [], []
        for _ in range(options.repeats):
            rounds.append(measure(stores, runs))
            allowed.append(machine_scaling(whole))
        found = {
            run: {key: (max if "peak" in key else statistics.median)(turn[run][key] for turn in rounds)
                  for key in rounds[0][run]} for run in runs
        }  # fmt: skip
        for (what, workers), item in found.items():
            print(
                f"{what}, {workers} worker(s) of {LIMIT}: {item['seconds']:.1f} s, peak of a worker "
                f"{item['worker_peak']:.0f} MB, of the client {item['client_peak']:.0f} MB"
            )
        ratio = statistics.median(turn["fit", 2]["seconds"] / turn["drop", 2]["seconds"] for turn in rounds)
        scaling = statistics.median(2 * turn["fit", 1]["seconds"] / turn["fit", 2]["seconds"] for turn in rounds)
        reading = statistics.median(2 * turn["drop", 1]["seconds"] / turn["drop", 2]["seconds"] for turn in rounds)
        print(f"fit over reading alone: {ratio:.2f} (target 1.5)")
        print(f"weak scaling to two workers: {scaling:.2f} (target 1.8); of reading alone {reading:.2f}")
        print(f"of two processes with nothing between them, which bounds it: {statistics.median(allowed):.2f}")
        plan = promised(whole)
        print(f"promised: {plan['memory_per_worker']:.0f} MB a worker, {plan['memory_client']:.0f} MB the client")
        assert found["fit", 2]["worker_peak"] <= plan["memory_per_worker"]
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
