"""Reports beside nilearn's: seconds, memory and size.

Usage: ``python tests/benchmarks/bench_report.py [--repeats 3] [--images 24]``

The maps of 24 simulated subjects on the 2 mm grid of the MNI template, 230,000 voxels in its brain mask, and five
contrasts. nilearn and daskglm report a fitted SecondLevelModel; "folder" is `daskglm report` of a group analysis, which
reads maps and images again. Seconds are those of `generate_report` and of saving the page, without the fit and the
import of the models, but with the imports of plots; memory is the peak of the whole process, fit included.

Each measurement is a process of its own, started in turn by this one; numbers are medians.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np
import pandas as pd

CONTRASTS = {"age": "age", "sex": "sex", "score": "score", "age - sex": "age - sex", "mean": "intercept"}
KINDS = ("nilearn", "model", "folder")


def simulate(folder: str, n_images: int) -> None:
    """Write a mask, a design and smooth maps with an effect of age."""
    from nilearn.datasets import load_mni152_brain_mask
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    mask = load_mni152_brain_mask(resolution=2)
    inside = mask.get_fdata() > 0
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), mask.affine), os.path.join(folder, "mask.nii.gz"))
    columns = {name: rng.standard_normal(n_images) for name in ("age", "sex", "score")}
    design = pd.DataFrame({**columns, "intercept": 1.0})
    design.to_csv(os.path.join(folder, "design.csv"), index=False)
    effect = 3 * gaussian_filter((rng.random(inside.shape) > 0.9999).astype(float), 4) / 4e-4
    for k in range(n_images):
        noise = gaussian_filter(rng.standard_normal(inside.shape), 2)
        values = np.where(inside, noise / noise.std() + effect * design["age"][k] / 3, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(values, mask.affine), os.path.join(folder, f"sub-{k:03d}_map.nii.gz"))
    table = design.drop(columns="intercept").assign(participant_id=[f"sub-{k:03d}" for k in range(n_images)])
    table.to_csv(os.path.join(folder, "participants.tsv"), sep="\t", index=False)


def measure(kind: str, folder: str) -> None:
    """Make a report in this process; print its seconds, peak memory and size."""
    images = sorted(glob.glob(os.path.join(folder, "sub-*.nii.gz")))
    mask, page = os.path.join(folder, "mask.nii.gz"), os.path.join(folder, f"{kind}.html")
    if kind == "folder":
        from daskglm import generate_report

        start, cpu = time.perf_counter(), time.process_time()
        report = generate_report(os.path.join(folder, "out"))
    else:
        design = pd.read_csv(os.path.join(folder, "design.csv"))
        if kind == "nilearn":
            from nilearn.glm.second_level import SecondLevelModel
        else:
            from daskglm import SecondLevelModel
        model = SecondLevelModel(mask_img=mask).fit(images, design_matrix=design)
        start, cpu = time.perf_counter(), time.process_time()
        report = model.generate_report(dict(CONTRASTS), two_sided=True)
    report.save_as_html(page)
    seconds = time.perf_counter() - start
    size = os.path.getsize(page) / 1e6
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "peak": peak(), "size": size}))


def peak() -> float:
    """Peak of this process in MB; that of getrusage is inherited from the parent."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))


def analyse(folder: str) -> None:
    """The group analysis that "folder" reports."""
    from daskglm import group_analysis

    group_analysis(
        os.path.join(folder, "sub-*.nii.gz"), os.path.join(folder, "out"), "~ age + sex + score", CONTRASTS,
        participants=os.path.join(folder, "participants.tsv"), mask=os.path.join(folder, "mask.nii.gz"),
    )  # fmt: skip


def main() -> None:
    """Measure all kinds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        simulate(folder, arguments.images)
        voxels = int(nib.load(os.path.join(folder, "mask.nii.gz")).get_fdata().sum())
        analyse(folder)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.repeats):
            for kind in KINDS:
                command = [sys.executable, "-W", "ignore", __file__, "--measure", kind, folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        kind: {name: statistics.median(item[name] for item in items) for name in items[0]}
        for kind, items in found.items()
    }
    print(f"{arguments.images} images, {voxels:,} voxels, {len(CONTRASTS)} contrasts")
    print(f"{'report of':<10}{'seconds':>9}{'CPU s':>7}{'peak MB':>9}{'page MB':>9}{'seconds, nilearn = 1':>22}")
    for kind, numbers in medians.items():
        ratio = numbers["seconds"] / medians["nilearn"]["seconds"]
        print(
            f"{kind:<10}{numbers['seconds']:>9.1f}{numbers['cpu']:>7.1f}{numbers['peak']:>9.0f}{numbers['size']:>9.2f}{ratio:>22.2f}"
        )


if __name__ == "__main__":
    main()
