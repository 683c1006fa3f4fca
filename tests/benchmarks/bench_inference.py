"""Permutation tests beside nilearn's: time of one permutation, memory, and what a lost worker changes.

Usage: ``python tests/benchmarks/bench_inference.py [part ...] [--repeats 3]``

voxels    145,000 voxels, 100 images, one tested regressor and a constant, without and with 2 nuisance columns,
          two-sided: beside nilearn with 1 and 2 jobs, beside the bare float32 product, and 10,000 permutations.
clusters  the same with cluster size and mass.
tfce      the same with TFCE, on one core each.
schemes   1,000 x 50,000, 10 columns: Freedman-Lane, Smith, and a quarter of the voxels incomplete.
vbm       200 x 215,000 with TFCE.
large     5,000 permutations of 1,000 x 500,000 from a store.
cluster   1,000 permutations of 2,000 x 100,000 with cluster mass on a LocalCluster of 2 workers of 1 GB, without and
          with kill -9 of one in the middle.

Each measurement is a process of its own, started in turn by this one; times are medians. A permutation is the
difference of two calls over the difference of their numbers of permutations, so that setup does not count.
"""

import argparse
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
from scipy.ndimage import gaussian_filter

FMRI, VBM = (72, 86, 72), (91, 109, 91)
CORES = 2
PARTS = ("voxels", "clusters", "tfce", "schemes", "vbm", "large", "cluster")


def peak(pid: int | str = "self") -> float:
    """Peak resident memory of a process in MB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


# ------------------------------------------------------------------------------------------------ inputs


def simulate_mask(shape: tuple[int, int, int], n_voxels: int) -> np.ndarray:
    """The voxels nearest to the middle of a grid."""
    grid = np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2
    mask = np.zeros(shape, np.uint8)
    mask.reshape(-1)[np.argsort((grid**2).sum(axis=1))[:n_voxels]] = 1
    return mask


def simulate(
    folder: str, shape: tuple[int, int, int], n_voxels: int, n_rows: int, n_nuisance: int, smooth: bool
) -> None:
    """Write a mask, images as one array in nilearn's order of voxels, and a design."""
    rng = np.random.default_rng(0)
    mask = simulate_mask(shape, n_voxels)
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 2.0, 1.0])), os.path.join(folder, "mask.nii.gz"))
    data = np.empty((n_rows, int(mask.sum())), np.float32)
    for row in data:
        if smooth:
            noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.5, truncate=3)[mask != 0]
            row[:] = noise / noise.std()
        else:
            row[:] = rng.standard_normal(row.size, dtype=np.float32)
    tested = rng.standard_normal(n_rows)
    data[:, : n_voxels // 20] += np.float32(0.3) * tested[:, None].astype(np.float32)
    np.save(os.path.join(folder, "data.npy"), data)
    np.savez(os.path.join(folder, "design.npz"), tested=tested, nuisance=rng.standard_normal((n_rows, n_nuisance)))


def simulate_store(folder: str, n_voxels: int, n_rows: int) -> None:
    """Write images as a store of daskglm, 64 by 64, and a tested regressor and 2 nuisance columns."""
    from daskglm.io.store import SAMPLES_PER_CHUNK
    from daskglm.io.store_writing import allocate, create_store, finish_store, write_samples
    from daskglm.schema.space import VolumeSpace

    rng = np.random.default_rng(0)
    side = int(np.ceil((2 * n_voxels) ** (1 / 3)))
    mask = simulate_mask((side, side, side), n_voxels)
    space = VolumeSpace.from_image(nib.Nifti1Image(mask, np.eye(4)), mask != 0)
    path = os.path.join(folder, "store.zarr")
    create_store(path, space, {})
    tested = rng.standard_normal(n_rows)
    for target in allocate(path, n_rows, {}):
        data = rng.standard_normal((len(target.rows), n_voxels), dtype=np.float32)
        data[:, : n_voxels // 20] += np.float32(0.3) * tested[target.rows, None].astype(np.float32)
        names = [f"s{row:05d}" for row in range(target.chunk * SAMPLES_PER_CHUNK, n_rows)][: len(target.rows)]
        write_samples(path, target, data, names, {})
    finish_store(path, {})
    np.savez(os.path.join(folder, "design.npz"), tested=tested, nuisance=rng.standard_normal((n_rows, 2)))


def make_incomplete(data: np.ndarray, patterns: str) -> np.ndarray:
    """Take values out of every fourth voxel: 198 nested patterns of images, or one of its own in each voxel."""
    data = data.copy()
    rng = np.random.default_rng(1)
    for number, voxel in enumerate(range(0, data.shape[1], 4)):
        if patterns == "nested":
            data[: 1 + number % 198, voxel] = np.nan
        else:
            data[rng.choice(len(data), len(data) // 20, replace=False), voxel] = np.nan
    return data


# ------------------------------------------------------------------------- measurements, each in a process


def measure_permutations(folder: str, side: str, counts: list[int], options: dict) -> dict:
    """Seconds of one permutation and processor seconds of it, and seconds of all of the larger number."""
    from nilearn.maskers import NiftiMasker

    if side == "nilearn":
        from nilearn.mass_univariate import permuted_ols
    else:
        from daskglm import permuted_ols
    data = np.load(os.path.join(folder, "data.npy"))
    if patterns := options.pop("patterns", None):
        data = make_incomplete(data, patterns)
    design = np.load(os.path.join(folder, "design.npz"))
    masker = NiftiMasker(os.path.join(folder, "mask.nii.gz")).fit()
    given = (design["tested"][:, None], data, design["nuisance"])
    permuted_ols(*given, n_perm=options.get("n_jobs", 1), masker=masker, random_state=0, **options)
    seconds, busy = [], []
    for count in counts:
        start, before = time.perf_counter(), time.process_time()
        found = permuted_ols(*given, n_perm=count, masker=masker, random_state=0, **options)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - before)
    more = counts[1] - counts[0]
    check = float(np.nansum(found["t"].astype(np.float64) ** 2))
    each, cpu = (seconds[1] - seconds[0]) / more, (busy[1] - busy[0]) / more
    return {"each": each, "cpu": cpu, "total": seconds[1], "peak": peak(), "check": check}


def measure_product(folder: str, width: int) -> dict:
    """Seconds a permutation of a float32 product with `width` rows each, 512 rows at a time, on all cores."""
    data = np.load(os.path.join(folder, "data.npy"))
    rows = np.random.default_rng(0).standard_normal((512, len(data)), dtype=np.float32)
    out = np.empty((512, data.shape[1]), np.float32)
    np.matmul(rows, data, out=out)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        np.matmul(rows, data, out=out)
        seconds.append(time.perf_counter() - start)
    return {"each": statistics.median(seconds) * width / 512}


def measure_store(folder: str, n_perm: int) -> dict:
    """Seconds and peak of a test of a store."""
    start = time.perf_counter()
    found = test_store(folder, n_perm, n_jobs=CORES)
    return {
        "total": time.perf_counter() - start,
        "peak": peak(),
        "check": float(found["h0_max_stat"].sum()),
    }


def test_store(folder: str, n_perm: int, **options: object) -> object:
    """Test the store of a folder."""
    import pandas as pd

    from daskglm.inference.permutation import permutation_test
    from daskglm.io.store import open_images

    given = np.load(os.path.join(folder, "design.npz"))
    design = pd.DataFrame(given["nuisance"], columns=["a", "b"]).assign(tested=given["tested"], intercept=1.0)
    images = open_images(os.path.join(folder, "store.zarr"))
    return permutation_test(images, design, {"tested": "tested"}, n_perm=n_perm, random_state=0, **options)


def measure_cluster(folder: str, n_perm: int, kill_after: float | None) -> dict:
    """Seconds, peaks of the workers, and the file of the result, on a cluster of 2 workers of 1 GB."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=CORES, threads_per_worker=1, memory_limit="1GB", dashboard_address=None, processes=True
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "daskglm.inference.permutation")
        pids = list(client.run(os.getpid).values())
        if kill_after is not None:
            threading.Timer(kill_after, os.kill, (pids[0], signal.SIGKILL)).start()
        start = time.perf_counter()
        found = test_store(folder, n_perm, threshold=0.001)
        seconds = time.perf_counter() - start
        after = list(client.run(os.getpid).values())
        peaks = [peak(pid) for pid in after]
    path = os.path.join(folder, f"result_{'killed' if kill_after else 'whole'}.npz")
    np.savez(path, **{str(name): found[name].values for name in found.data_vars})
    return {"total": seconds, "peaks": peaks, "restarted": len(set(pids) - set(after))}


MEASURES = {
    "permutations": measure_permutations,
    "product": measure_product,
    "store": measure_store,
    "cluster": measure_cluster,
    "simulate": simulate,
    "simulate_store": simulate_store,
}


def apart(what: str, folder: str, *arguments: object, repeats: int = 1, threads: int = CORES) -> dict:
    """What a measurement says in processes of its own: medians of the numbers."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", json.dumps([what, folder, *arguments])]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    found = [json.loads(subprocess.check_output(command, env=environment).splitlines()[-1]) for _ in range(repeats)]
    if found[0] is None:  # it only wrote files
        return {}
    return {
        name: statistics.median(one[name] for one in found) if isinstance(value, float) else value
        for name, value in found[0].items()
    }


# ------------------------------------------------------------------------------------------------- parts


class Sizes:
    """Sizes of everything, smaller where that is asked for."""

    def __init__(self, scale: float, fewer: float, repeats: int) -> None:
        self.scale, self.fewer, self.repeats = scale, fewer, repeats

    def __call__(self, number: int, least: int = 8) -> int:
        return max(least, int(number * self.scale))

    def perms(self, number: int) -> int:
        return max(8, int(number * self.fewer))

    def counts(self, few: int, many: int) -> list[int]:
        return [self.perms(few), max(self.perms(many), self.perms(few) + 8)]


def compare(label: str, theirs: dict, ours: dict, target: str) -> None:
    """Print both sides of one thing. Processor time tells where other programs took the cores."""
    print(
        f"{label}: nilearn {theirs['each'] * 1e3:.1f} ms a permutation, daskglm {ours['each'] * 1e3:.2f} ms "
        f"({ours['cpu'] * 1e3:.2f} ms of processor time): {theirs['each'] / ours['each']:.1f} times faster "
        f"(target {target}); sum t^2 {theirs['check']:.2f} {ours['check']:.2f}",
        flush=True,
    )


def bench_voxels(folder: str, sizes: Sizes) -> None:
    """Max-t beside nilearn and beside the bare product."""
    for n_nuisance in (0, 2):
        apart("simulate", folder, FMRI, sizes(145_000), 100, n_nuisance, True)
        again = {"repeats": sizes.repeats}
        theirs = [
            apart("permutations", folder, "nilearn", [20, 200 * n_jobs], {"n_jobs": n_jobs}, **again)
            for n_jobs in (1, CORES)
        ]
        for scheme, width in (("freedman-lane", n_nuisance + 1), ("smith", 1)):
            ours = apart(
                "permutations", folder, "daskglm", sizes.counts(2_000, 10_000),
                {"n_jobs": CORES, "scheme": scheme}, **again,
            )  # fmt: skip
            for n_jobs, found in zip((1, CORES), theirs, strict=True):
                label = f"voxels, {n_nuisance} nuisance columns, {scheme}, nilearn's n_jobs={n_jobs}"
                compare(label, found, ours, "30")
            bare = apart("product", folder, width, **again)
            print(
                f"{ours['each'] * 1e3:.2f} ms a permutation, the bare product of {width} rows "
                f"{bare['each'] * 1e3:.2f} ms: {ours['each'] / bare['each']:.2f} times (target 2.5); "
                f"{sizes.perms(10_000)} permutations {ours['total']:.1f} s (target 15 s)",
                flush=True,
            )


def bench_clusters(folder: str, sizes: Sizes) -> None:
    """Cluster size and mass beside nilearn."""
    apart("simulate", folder, FMRI, sizes(145_000), 100, 2, True)
    again = {"repeats": sizes.repeats}
    ours = apart(
        "permutations", folder, "daskglm", sizes.counts(500, 2_500), {"n_jobs": CORES, "threshold": 0.001}, **again
    )
    for n_jobs in (1, CORES):
        options = {"n_jobs": n_jobs, "threshold": 0.001}
        theirs = apart("permutations", folder, "nilearn", [10, 100 * n_jobs], options, **again)
        compare(f"clusters, nilearn's n_jobs={n_jobs}", theirs, ours, "10")


def bench_tfce(folder: str, sizes: Sizes) -> None:
    """TFCE beside nilearn, on one core."""
    apart("simulate", folder, FMRI, sizes(145_000), 100, 2, True)
    options, again = {"n_jobs": 1, "tfce": True}, {"repeats": sizes.repeats, "threads": 1}
    ours = apart("permutations", folder, "daskglm", sizes.counts(64, 320), options, **again)
    theirs = apart("permutations", folder, "nilearn", [2, 8], options, **again)
    compare("TFCE, two-sided, on one core each", theirs, ours, "15")


def bench_schemes(folder: str, sizes: Sizes) -> None:
    """Schemes beside nilearn, and incomplete voxels beside complete ones."""
    apart("simulate", folder, FMRI, sizes(50_000), 1_000, 8, False)
    counts, again = sizes.counts(1_024, 5_120), {"repeats": sizes.repeats}
    theirs = apart("permutations", folder, "nilearn", [20, 200], {"n_jobs": CORES}, **again)
    whole = {}
    for scheme, target, width in (("freedman-lane", 6, 9), ("smith", 1, 1)):
        ours = apart("permutations", folder, "daskglm", counts, {"n_jobs": CORES, "scheme": scheme}, **again)
        bare = apart("product", folder, width, **again)
        compare(f"{scheme}, the bare product {bare['each'] * 1e3:.2f} ms", theirs, ours, f"at most {target} ms")
        whole[scheme] = ours["each"]
    for patterns in ("nested", "own"):
        options = {"n_jobs": CORES, "scheme": "smith", "patterns": patterns}
        ours = apart("permutations", folder, "daskglm", counts, options, **again)
        print(
            f"smith, a quarter of the voxels incomplete, {patterns} patterns: {ours['each'] * 1e3:.2f} ms a "
            f"permutation: {ours['each'] / whole['smith']:.2f} times the complete case (target 4)",
            flush=True,
        )


def bench_vbm(folder: str, sizes: Sizes) -> None:
    """TFCE of large maps."""
    apart("simulate", folder, VBM, sizes(215_000), 200, 2, True)
    options = {"n_jobs": CORES, "tfce": True}
    ours = apart("permutations", folder, "daskglm", sizes.counts(156, 468), options, repeats=sizes.repeats)
    print(
        f"VBM with TFCE: {ours['each'] * 1e3:.1f} ms a permutation on {CORES} cores, {ours['cpu'] * 1e3:.1f} ms of "
        "processor time (target 45 ms)",
        flush=True,
    )


def bench_large(folder: str, sizes: Sizes) -> None:
    """A large test from a store."""
    apart("simulate_store", folder, sizes(500_000), 1_000)
    ours = apart("store", folder, sizes.perms(5_000))
    print(
        f"1,000 x {sizes(500_000)} x {sizes.perms(5_000)} permutations from a store: {ours['total']:.0f} s "
        f"(target 600 s), peak {ours['peak']:.0f} MB (target 4,000 MB)",
        flush=True,
    )


def bench_cluster(folder: str, sizes: Sizes) -> None:
    """Cluster mass on two small workers, and with one of them killed."""
    apart("simulate_store", folder, sizes(100_000), 2_000)
    whole = apart("cluster", folder, sizes.perms(1_000), None)
    print(
        f"2,000 x {sizes(100_000)} x {sizes.perms(1_000)} with cluster mass, 2 workers of 1 GB: "
        f"{whole['total']:.1f} s, peaks {', '.join(f'{one:.0f}' for one in whole['peaks'])} MB, "
        f"{whole['restarted']} workers restarted",
        flush=True,
    )
    killed = apart("cluster", folder, sizes.perms(1_000), whole["total"] / 2)
    first, second = (np.load(os.path.join(folder, f"result_{name}.npz")) for name in ("whole", "killed"))
    same = first.files == second.files and all(
        np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f") for name in first.files
    )
    assert killed["restarted"], "no worker was killed in the middle"
    print(f"one of them killed after {whole['total'] / 2:.0f} s: {killed['total']:.1f} s, identical: {same}")
    assert same


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-large", action="store_true", help="leave out the part `large`")
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)  # of voxels
    parser.add_argument("--fewer", type=float, default=1.0, help=argparse.SUPPRESS)  # permutations
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *arguments = json.loads(options.one)
        print(json.dumps(MEASURES[what](*arguments)))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, not {', '.join(unknown)}")
    sizes = Sizes(options.scale, options.fewer, options.repeats)
    for part in options.parts or PARTS:
        if part == "large" and options.skip_large:
            continue
        folder = tempfile.mkdtemp()
        try:
            globals()[f"bench_{part}"](folder, sizes)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
