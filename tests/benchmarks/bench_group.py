"""Group analysis beside nilearn and beside the floor of only reading the files.

    python tests/benchmarks/bench_group.py            # everything, about 15 minutes
    python tests/benchmarks/bench_group.py speed      # or: missing, cohort

Every measurement is a process of its own, started by this one after the other; peak memory is the high-water mark
of the whole process. Imports are not timed: each side fits four images first, which loads what it loads late.
Times are medians of five for daskglm and the floor, of three for nilearn with images in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SHAPE, IN_MASK = (72, 86, 72), 145_000
WORKERS = 2


def peak_mb() -> float:
    """High-water mark of this process's memory, in MB (not what it inherited from its parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def measure(task: str, *arguments: object, repeat: int = 1) -> dict[str, float]:
    """Run one task of this file in processes of its own; medians of what they report."""
    results = []
    for _ in range(repeat):
        command = [sys.executable, __file__, "--task", task, *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(WORKERS)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{task} {arguments} failed:\n{done.stderr[-3000:]}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


# ------------------------------------------------------------------------------------------------ inputs


def make_files(folder: str, n: str) -> dict[str, float]:
    """Smooth-free noise in a mask of 145,000 voxels, zero outside, one .nii.gz a subject."""
    import nibabel as nib
    import numpy as np

    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    radius = sum(axis**2 for axis in axes)
    mask = radius <= np.partition(radius.ravel(), IN_MASK)[IN_MASK - 1]
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(f"{folder}/mask.nii.gz")
    for index in range(int(n)):
        image = np.zeros(SHAPE, np.float32)
        image[mask] = np.random.default_rng(index).standard_normal(int(mask.sum()), dtype=np.float32)
        nib.Nifti1Image(image, affine).to_filename(f"{folder}/sub-{index:04d}.nii.gz")
    return {"voxels": float(mask.sum())}


def inputs(folder: str, n: str):
    """Paths, design and mask of the first n subjects."""
    import numpy as np
    import pandas as pd

    paths = sorted(str(path) for path in Path(folder).glob("sub-*.nii.gz"))[: int(n)]
    rng = np.random.default_rng(0)
    columns = {f"x{k}": rng.standard_normal(len(paths)) for k in range(4)}
    return paths, pd.DataFrame({**columns, "intercept": 1.0}), f"{folder}/mask.nii.gz"


# ------------------------------------------------------------------------------------------------- speed


def warm_up(model, images, mask) -> None:
    """Fit four images: both sides load modules when they are first used."""
    import pandas as pd

    four = images if isinstance(images, str) else images[:4]
    model(mask_img=mask).fit(four, design_matrix=pd.DataFrame({"mean": [1.0] * 4})).compute_contrast("mean")


def nilearn_paths(folder: str, n: str) -> dict[str, float]:
    from nilearn.glm.second_level import SecondLevelModel

    paths, design, mask = inputs(folder, n)
    warm_up(SecondLevelModel, paths, mask)
    started = time.perf_counter()
    model = SecondLevelModel(mask_img=mask).fit(paths, design_matrix=design)
    model.compute_contrast("x0")
    return {"seconds": time.perf_counter() - started, "peak": peak_mb()}


def nilearn_loaded(folder: str, n: str, dtype: str) -> dict[str, float]:
    """Images in memory before the fit: as float32, the least that nilearn can do with, or as nibabel gives them."""
    import nibabel as nib
    from nilearn.glm.second_level import SecondLevelModel

    paths, design, mask = inputs(folder, n)
    warm_up(SecondLevelModel, paths, mask)
    started = time.perf_counter()
    images = [nib.load(path) for path in paths]
    images = [nib.Nifti1Image(image.get_fdata(dtype=dtype), image.affine) for image in images]
    loaded = time.perf_counter()
    model = SecondLevelModel(mask_img=mask).fit(images, design_matrix=design)
    z = model.compute_contrast("x0")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "fit": seconds - (loaded - started), "peak": peak_mb(), "sum": checksum(z)}


def daskglm_paths(folder: str, n: str) -> dict[str, float]:
    from daskglm import SecondLevelModel

    paths, design, mask = inputs(folder, n)
    warm_up(SecondLevelModel, paths, mask)
    started = time.perf_counter()
    model = SecondLevelModel(mask_img=mask, n_jobs=WORKERS).fit(paths, design_matrix=design)
    z = model.compute_contrast("x0")
    return {"seconds": time.perf_counter() - started, "peak": peak_mb(), "sum": checksum(z)}


def daskglm_store(folder: str, n: str) -> dict[str, float]:
    from daskglm import SecondLevelModel

    _, design, mask = inputs(folder, n)
    warm_up(SecondLevelModel, f"{folder}/warm.zarr", mask)
    started = time.perf_counter()
    model = SecondLevelModel(mask_img=mask, n_jobs=WORKERS).fit(f"{folder}/cohort-{n}.zarr", design_matrix=design)
    z = model.compute_contrast("x0")
    return {"seconds": time.perf_counter() - started, "peak": peak_mb(), "sum": checksum(z)}


def daskglm_convert(folder: str, n: str) -> dict[str, float]:
    from daskglm import convert

    paths, _, mask = inputs(folder, n)
    convert(paths[:4], f"{folder}/warm.zarr", mask=mask, overwrite=True)
    started = time.perf_counter()
    convert(paths, f"{folder}/cohort-{n}.zarr", mask=mask)
    return {"seconds": time.perf_counter() - started, "peak": peak_mb()}


def floor(folder: str, n: str) -> dict[str, float]:
    """Read and decompress, nothing else: isal, whole files, as many threads."""
    from isal import igzip

    paths, _, _ = inputs(folder, n)

    def read(path: str) -> int:
        return len(igzip.decompress(Path(path).read_bytes()))

    with ThreadPoolExecutor(WORKERS) as pool:
        started = time.perf_counter()
        total = sum(pool.map(read, paths))
    return {"seconds": time.perf_counter() - started, "peak": peak_mb(), "bytes": float(total)}


def checksum(image) -> float:
    """Sum of squares of a map: both sides must agree."""
    import numpy as np

    return float(np.nansum(np.asarray(image.dataobj) ** 2))


def speed(folder: str) -> None:
    n_max = 400
    print(f"making {n_max} files {SHAPE} float32 .nii.gz, {IN_MASK:,} voxels in the mask")
    measure("make_files", folder, n_max)
    rows = {}
    for n in (25, 50, 100):
        rows["nilearn, paths", n] = measure("nilearn_paths", folder, n)
    for n in (100, 400):
        rows["nilearn, preloaded", n] = measure("nilearn_loaded", folder, n, "float32", repeat=3)
        rows["nilearn, get_fdata()", n] = measure("nilearn_loaded", folder, n, "float64", repeat=3)
        rows["floor: read only", n] = measure("floor", folder, n, repeat=5)
        rows["daskglm, paths", n] = measure("daskglm_paths", folder, n, repeat=5)
        rows["daskglm, convert", n] = measure("daskglm_convert", folder, n)
        rows["daskglm, Zarr", n] = measure("daskglm_store", folder, n, repeat=5)
    print(f"{'':24}{'N':>5}{'seconds':>10}{'peak MB':>10}")
    for (name, n), row in rows.items():
        print(f"{name:24}{n:5}{row['seconds']:10.2f}{row['peak']:10.0f}")
    ours, theirs = rows["daskglm, paths", 400], rows["nilearn, preloaded", 400]
    report("nilearn preloaded / daskglm, N = 400 (load included)", theirs["seconds"] / ours["seconds"], ">= 25")
    report("the same without nilearn's load", theirs["fit"] / ours["seconds"], "")
    report(
        "nilearn preloaded / floor: no reader can do more",
        theirs["seconds"] / rows["floor: read only", 400]["seconds"],
        "",
    )
    default = rows["nilearn, get_fdata()", 400]
    report("nilearn preloaded by get_fdata() / daskglm, N = 400", default["seconds"] / ours["seconds"], ">= 25")
    report("daskglm / floor, N = 400", ours["seconds"] / rows["floor: read only", 400]["seconds"], "<= 2.0")
    report("daskglm time(400) / time(100)", ours["seconds"] / rows["daskglm, paths", 100]["seconds"], "<= 4.4")
    report("daskglm paths / Zarr, N = 400", ours["seconds"] / rows["daskglm, Zarr", 400]["seconds"], "> 1")
    report("daskglm peak(400) / peak(100)", ours["peak"] / rows["daskglm, paths", 100]["peak"], "<= 1.15")
    report("daskglm peak / nilearn peak, N = 400", ours["peak"] / theirs["peak"], "< 0.1")
    report("sum of z^2, daskglm / nilearn", ours["sum"] / theirs["sum"], "1")


# ----------------------------------------------------------------------------------------- missing voxels

MISSING_SHAPE, MISSING_N = (72, 87, 72), 200


def missing_problem(p: int):
    """Masks of 200 subjects, nested around 215,000 voxels, and a design of p columns."""
    import numpy as np
    import pandas as pd

    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in MISSING_SHAPE), indexing="ij")
    order = np.argsort(sum(axis**2 for axis in axes).ravel(), kind="stable")
    sizes = np.linspace(160_000, 230_000, MISSING_N).astype(int)
    sizes = np.random.default_rng(1).permutation(sizes)
    rng = np.random.default_rng(0)
    design = {f"x{k}": rng.standard_normal(MISSING_N) for k in range(p - 1)}
    return order, sizes, pd.DataFrame({**design, "intercept": 1.0})


def make_missing(folder: str) -> dict[str, float]:
    import nibabel as nib
    import numpy as np

    order, sizes, _ = missing_problem(5)
    for index, size in enumerate(sizes):
        image = np.full(np.prod(MISSING_SHAPE), np.nan, np.float32)
        image[order[:size]] = 3 + np.random.default_rng(index).standard_normal(size, dtype=np.float32)
        nib.Nifti1Image(image.reshape(MISSING_SHAPE), np.eye(4)).to_filename(f"{folder}/sub-{index:04d}.nii.gz")
    mask = np.zeros(np.prod(MISSING_SHAPE), np.uint8)
    mask[order[:215_000]] = 1
    nib.Nifti1Image(mask.reshape(MISSING_SHAPE), np.eye(4)).to_filename(f"{folder}/mask.nii.gz")
    return {"voxels": 215_000.0}


def missing_fit(side: str, folder: str, p: str) -> dict[str, float]:
    """Time, memory and error against numpy.linalg.lstsq on 200 voxels, of one side."""
    import nibabel as nib
    import numpy as np

    if side == "daskglm":
        from daskglm import SecondLevelModel
    else:
        from nilearn.glm.second_level import SecondLevelModel
    _, _, design = missing_problem(int(p))
    paths = sorted(str(path) for path in Path(folder).glob("sub-*.nii.gz"))
    started = time.perf_counter()
    options = {"min_coverage": 0.3} if side == "daskglm" else {}
    model = SecondLevelModel(mask_img=f"{folder}/mask.nii.gz", **options).fit(paths, design_matrix=design)
    t = model.compute_contrast("x0", output_type="stat")
    seconds, peak = time.perf_counter() - started, peak_mb()
    mask = np.asarray(nib.load(f"{folder}/mask.nii.gz").dataobj).astype(bool)
    edge = np.argwhere(mask)[np.random.default_rng(2).choice(int(mask.sum()), 200, replace=False)]
    data = np.stack([np.asarray(nib.load(path).dataobj)[tuple(edge.T)] for path in paths])
    x, error = design.to_numpy(), 0.0
    for column, voxel in enumerate(edge):
        seen = np.isfinite(data[:, column])
        y = data[seen, column].astype(float)
        beta, rss, *_ = np.linalg.lstsq(x[seen], y, rcond=None)
        variance = rss[0] / (seen.sum() - x.shape[1]) * np.linalg.inv(x[seen].T @ x[seen])[0, 0]
        error = max(error, abs(beta[0] / np.sqrt(variance) - np.asarray(t.dataobj)[tuple(voxel)]))
    return {"seconds": seconds, "peak": peak, "error": error}


def missing(folder: str) -> None:
    print(f"\n{MISSING_N} images x 215,000 voxels, nested masks")
    measure("make_missing", folder)
    rows = {
        ("daskglm", 5): measure("missing_fit", "daskglm", folder, 5, repeat=3),
        ("daskglm", 20): measure("missing_fit", "daskglm", folder, 20, repeat=3),
        ("nilearn", 5): measure("missing_fit", "nilearn", folder, 5),
    }
    print(f"{'':24}{'p':>5}{'seconds':>10}{'peak MB':>10}{'max |dt|':>12}")
    for (name, p), row in rows.items():
        print(f"{name:24}{p:5}{row['seconds']:10.2f}{row['peak']:10.0f}{row['error']:12.1e}")
    report("p = 5: seconds", rows["daskglm", 5]["seconds"], "<= 5")
    report("p = 5: peak MB", rows["daskglm", 5]["peak"], "<= 600")
    report("p = 20 / p = 5: seconds", rows["daskglm", 20]["seconds"] / rows["daskglm", 5]["seconds"], "<= 2 x 5 s")
    report("p = 20: peak MB", rows["daskglm", 20]["peak"], "<= 1200")
    report("p = 5: nilearn / daskglm, seconds", rows["nilearn", 5]["seconds"] / rows["daskglm", 5]["seconds"], "")


# ------------------------------------------------------------------------------------- 10,000 subjects


def make_cohort(folder: str, n: str, voxels: str) -> dict[str, float]:
    """A store written through the same functions as a conversion, subjects made on the fly."""
    import nibabel as nib
    import numpy as np

    from daskglm.io.store_writing import allocate, create_store, finish_store, write_samples
    from daskglm.schema.space import VolumeSpace

    side = int(np.ceil(int(voxels) ** (1 / 3)))
    grid = nib.Nifti1Image(np.zeros((side, side, side), np.float32), np.eye(4))
    mask = (np.arange(side**3) < int(voxels)).reshape(grid.shape)
    store = f"{folder}/cohort.zarr"
    create_store(store, VolumeSpace.from_image(grid, mask), {"missing": "nan", "smoothing_fwhm": None})
    age = np.random.default_rng(0).uniform(20, 80, int(n))
    done = 0
    for target in allocate(store, int(n), {"age": age}):
        part = slice(done, done + target.rows.size)
        done = part.stop
        rng = np.random.default_rng((1, target.chunk))
        data = rng.standard_normal((target.rows.size, int(voxels)), dtype=np.float32)
        data[:, :1000] += 0.01 * age[part, None].astype(np.float32)
        write_samples(store, target, data, [f"sub-{k:05d}" for k in range(*part.indices(int(n)))], {"age": age[part]})
    finish_store(store, {})
    return {"bytes": float(sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file()))}


def fit_cohort(folder: str) -> dict[str, float]:
    """Fit on 2 workers of 1 GB; peak memory of the workers and bytes spilled, as the cluster reports them."""
    import numpy as np
    from distributed import Client, LocalCluster

    from daskglm import SecondLevelModel

    def spilled(dask_worker) -> int:
        return int(getattr(dask_worker.data, "spilled_total", (0, 0))[1])

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1GB", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        started = time.perf_counter()
        model = SecondLevelModel(mask_img=False, min_coverage=0.5).fit(f"{folder}/cohort.zarr", formula="~ age")
        z = np.asarray(model.compute_contrast("age").dataobj)
        seconds = time.perf_counter() - started
        peaks, spills = client.run(peak_mb), client.run(spilled)
    return {
        "seconds": seconds,
        "peak": max(peaks.values()),
        "spilled": float(sum(spills.values())),
        "client": peak_mb(),
        "mean_z_where_true": float(z.ravel(order="F")[z.ravel(order="F") != 0][:1000].mean()),
    }


def cohort(folder: str) -> None:
    n, voxels = 10_000, 50_000
    print(f"\n{n:,} subjects x {voxels:,} voxels on a LocalCluster of 2 workers with 1 GB each")
    made = measure("make_cohort", folder, n, voxels)
    row = measure("fit_cohort", folder)
    print(f"store {made['bytes'] / 1e9:.2f} GB")
    report("seconds", row["seconds"], "")
    report("peak of a worker, MB", row["peak"], "<= 1000")
    report("bytes spilled", row["spilled"], "0")
    report("peak of the client, MB", row["client"], "")


def report(name: str, value: float, target: str) -> None:
    print(f"  {name:52}{value:10.3g}   {'target ' + target if target else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help="speed, missing, cohort")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(globals()[options.task[0]](*options.task[1:])))
        return
    for part in options.parts or ["speed", "missing", "cohort"]:
        with tempfile.TemporaryDirectory(prefix="daskglm-bench-") as folder:
            {"speed": speed, "missing": missing, "cohort": cohort}[part](folder)


if __name__ == "__main__":
    main()
