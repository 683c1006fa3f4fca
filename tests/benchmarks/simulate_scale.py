"""What a study of 100,000 subjects x 1,000,000 voxels would cost on 1,000 workers, without its 400 GB.

    python tests/benchmarks/simulate_scale.py
    python tests/benchmarks/simulate_scale.py --samples 20000 --workers 100

The graph is the real one, of a store that has labels and no chunks. Measured here: how long it takes to build, its
tasks, and its size as it travels to the scheduler; how long a scheduler takes for each task of a graph of the same
form whose blocks are empty; how long one core takes to read one block and sum it, and to solve one chunk of voxels.
From these: the wall time, and what bounds it.
"""

import argparse
import os
import tempfile
import time
from unittest.mock import patch

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
from bench_scale import make, space_of_size

import daskglm
from daskglm.graph.glm import solve_moments, sum_moments
from daskglm.io.store import array_of, open_group
from daskglm.io.store_writing import allocate, create_store, finish_store
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.moments import block_moments
from daskglm.kernels.solve import solve

# Of a parallel file system or object store, in bytes a second to all workers together.
SHARED_BANDWIDTH = 20e9


def make_labels(path: str, n_rows: int, n_voxels: int) -> None:
    """A store with a space and samples, but no chunk of data."""
    create_store(path, space_of_size(n_voxels), {})
    allocate(path, n_rows, {})
    array_of(open_group(path, "r+"), "sample")[:] = np.array([f"sub-{row:06d}" for row in range(n_rows)], object)
    finish_store(path, {})


def lazy_solution(path: str, design: pd.DataFrame) -> tuple[da.Array, da.Array]:
    """Data, and the graph of its fit, as ``fit_glm`` builds it."""
    with patch("daskglm.io.store._check_complete"):  # it would miss the chunks
        images = daskglm.open_images(path)
    return images["data"].data, daskglm.fit_glm(images, design)["solution"].data


def scheduler_time(n_tasks: int) -> tuple[float, int]:
    """Seconds a task that a scheduler and two workers take for a graph of the same form with nearly empty blocks."""
    from distributed import Client, LocalCluster

    side = int((n_tasks / 2) ** 0.5)
    design = np.column_stack([np.ones(4 * side), np.arange(4 * side)]).astype(float)
    basis = orthonormal_basis(design)
    data = da.map_blocks(
        lambda block_info=None: np.ones((4, 1), np.float32), chunks=((4,) * side, (1,) * side), dtype=np.float32
    )
    (lazy,) = dask.optimize(solve_moments(sum_moments(data, basis, design), 1, data.dtype))
    count = len(dict(lazy.__dask_graph__()))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: (__import__("daskglm.graph.glm"), None)[1])
        started = time.perf_counter()
        lazy.compute()
        return (time.perf_counter() - started) / count, count


def block_times(folder: str, n_rows: int, n_voxels: int, n_regressors: int) -> tuple[float, float]:
    """Seconds of one core to read a block from a store and sum it, and to solve its voxels: medians of five."""
    store = os.path.join(folder, "block.zarr")
    make(store, n_rows, n_voxels)
    data = daskglm.open_images(store)["data"].data.rechunk(-1)
    design = np.random.default_rng(0).standard_normal((n_rows, n_regressors))
    design[:, 0] = 1
    basis = orthonormal_basis(design)
    read, solved = [], []
    with dask.config.set(scheduler="sync"):
        for _ in range(5):
            started = time.perf_counter()
            moments = block_moments(data.compute(), design @ basis.to_basis, basis.constant)
            read.append(time.perf_counter() - started)
            started = time.perf_counter()
            solve(moments, 1)
            solved.append(time.perf_counter() - started)
    return float(np.median(read)), float(np.median(solved))


def main() -> None:
    """Measure and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--voxels", type=int, default=1_000_000)
    parser.add_argument("--regressors", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    design = pd.DataFrame(rng.standard_normal((options.samples, options.regressors))).assign(intercept=1.0)
    design.columns = [str(name) for name in design.columns]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "labels.zarr")
        make_labels(path, options.samples, options.voxels)
        started = time.perf_counter()
        data, solution = lazy_solution(path, design)
        built = time.perf_counter() - started
        rows, columns = (chunk[0] for chunk in data.chunks)
        read, solved = block_times(folder, rows, columns, design.shape[1])
    # As it is pickled for the scheduler, before it is unfolded there; the design is data that has to travel anyway.
    size, given = len(cloudpickle.dumps(solution.__dask_graph__())), design.to_numpy().nbytes
    (optimized,) = dask.optimize(solution)
    n_tasks = len(dict(optimized.__dask_graph__()))
    each, sample = scheduler_time(min(n_tasks, 10_000))
    n_blocks, n_chunks = data.npartitions, len(data.chunks[1])
    parts = {
        "reading and summing on the workers": np.ceil(n_blocks / options.workers) * read,
        "the shared file system": data.nbytes / SHARED_BANDWIDTH,
        "the scheduler": n_tasks * each,
    }
    print(f"{options.samples:,} x {options.voxels:,}, {design.shape[1]} regressors, {options.workers:,} workers")
    print(f"graph: {n_tasks:,} tasks (target under 100,000) of {n_blocks:,} blocks, built in {built:.2f} s (target 5)")
    print(f"graph: {size / 1e6:.2f} MB, of it {given / 1e6:.2f} MB the design; without it "
          f"{(size - given) / n_tasks * 1e4 / 1e6:.3f} MB for 10,000 tasks (target 1)")  # fmt: skip
    print(f"a block: {rows} x {columns:,}, {rows * columns * 4 / 2**20:.0f} MB: {read:.2f} s to read and sum, "
          f"{solved:.2f} s to solve")  # fmt: skip
    print(f"scheduler: {each * 1e3:.2f} ms a task, measured over {sample:,}")
    for name, seconds in parts.items():
        print(f"  {name}: {seconds:.0f} s")
    tail = solved * np.ceil(n_chunks / options.workers)
    bound = max(parts, key=parts.__getitem__)
    print(f"predicted wall time: {max(parts.values()) + tail + built:.0f} s; bound by {bound}")
    assert n_tasks < 100_000
    assert built < 5


if __name__ == "__main__":
    main()
