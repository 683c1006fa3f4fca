"""
A BIDS cohort on a cluster
==========================

From a BIDS dataset with fMRIPrep's derivatives to a group map, in two commands: first level of all runs of all
subjects, on workers of a Dask cluster, then the model across subjects.
"""

# %%
# A simulated dataset of eight subjects with two runs each, as fMRIPrep leaves one: preprocessed runs, brain masks,
# confounds, events. Faces raise the signal in the right fusiform gyrus, and the more so the older the subject.
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.plotting import plot_stat_map

from daskglm.simulation import blob, simulate_bids, simulate_brain

folder = Path(tempfile.mkdtemp())
mask = simulate_brain(voxel_mm=12)
inside = mask.get_fdata() > 0
effects = {
    "face": blob(mask, (40, -50, -16), height=3.0, width_mm=14),
    "house": blob(mask, (-26, -46, -8), height=3.0, width_mm=14),
}
participants = simulate_bids(str(folder / "bids"), mask, effects, n_subjects=8, n_volumes=80, age_effect=0.02)
files = sorted(path.relative_to(folder / "bids") for path in (folder / "bids").rglob("*sub-01*run-1*"))
print("\n".join(str(path) for path in files))

# %%
# Where it runs. This file starts two worker processes on this machine. For a job queue take one of
# ``cluster_configs/``: ``slurm.yaml`` for SLURM. Set partition, cores, memory and walltime in it, and give it in place
# of this one: nothing else changes. There are files for PBS, SGE, LSF, HTCondor, OAR, SSH and Kubernetes as well; what
# is here is most of ``local.yaml``.
cluster = folder / "cluster.yaml"
cluster.write_text("kind: local\nscale: 2\noptions: {threads_per_worker: 1}\n")


def run(*arguments):
    """Run a command of daskglm as in a shell, and show what it prints."""
    print("$ daskglm", shlex.join(map(str, arguments)).replace(str(folder), "."))
    command = [sys.executable, "-m", "daskglm.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    print(done.stdout.replace(str(folder), "."))
    if done.returncode:
        raise SystemExit(done.stderr)


# %%
# First level. A run that fails does not stop the others; the same command again does what is missing, so that a
# walltime that is over is no loss.
run(
    "first-level", "bids", "out", "--task", "faces", "--space", "MNI152NLin2009cAsym", "--contrast", "face - house",
    "--confounds", "motion", "--cluster", cluster, "--no-report", "--quiet",
)  # fmt: skip

# %%
# Second level: the mean over subjects, and the effect of age, which comes from ``participants.tsv``. Eight maps need no
# cluster; for thousands, ``--cluster`` does here what it does above. Without ``--no-report`` each command ends with a
# report, ``report.html``, to open in a browser.
run(
    "group", "out", "--contrast", "faceMinusHouse", "--formula", "~ age", "--contrast", "age",
    "--contrast", "mean=intercept + 50 * age", "--output", "group", "--no-report", "--quiet",
)  # fmt: skip

# %%
# In a notebook the same runs on a cluster by ``with daskglm.connect("slurm.yaml"):`` around the calls. (In a script put
# these under ``if __name__ == "__main__":``, as always where Python starts processes of itself.)
#
# What came out, beside the truth: the effect of a subject of 50 years, and what each year adds.
truth = effects["face"] - effects["house"]
maps = {name: nib.load(folder / "group" / f"contrast-{name}_stat-effect_statmap.nii.gz") for name in ("mean", "age")}
z_maps = {name: nib.load(folder / "group" / f"contrast-{name}_stat-z_statmap.nii.gz") for name in maps}
strong = np.abs(truth[inside]) > 1.5
for name, expected in {"mean": truth, "age": 0.02 * truth}.items():
    estimate = maps[name].get_fdata()[inside][strong]
    recovered = estimate @ expected[inside][strong] / (expected[inside][strong] @ expected[inside][strong])
    z = z_maps[name].get_fdata()[inside]
    print(f"{name}: {recovered:.0%} of the truth; z from {np.nanmin(z):.2f} to {np.nanmax(z):.2f}")

# %%
# Peaks are in a table, for each contrast.
print(pd.read_csv(folder / "group" / "peaks.tsv", sep="\t").head())

# %%
# The truth and the maps of z.
panels = {
    "true effect, percent": nib.Nifti1Image(truth, mask.affine),
    "z, face - house at 50 years": z_maps["mean"],
    "z, growth of face - house with age": z_maps["age"],
}
figure, axes = plt.subplots(3, 1, figsize=(8, 8), gridspec_kw={"top": 0.94, "bottom": 0.02, "hspace": 0.2})
for axis, (title, image) in zip(axes, panels.items(), strict=True):
    axis.set_title(title, loc="left")
    shown = nib.Nifti1Image(np.nan_to_num(image.get_fdata()), image.affine)
    threshold = 0.3 if image is panels["true effect, percent"] else 2.3
    plot_stat_map(shown, threshold=threshold, display_mode="z", cut_coords=[-22, -14, -6, 2], cmap="RdBu_r", axes=axis)
plt.show()
