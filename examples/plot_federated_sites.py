"""
Sites that cannot share images
==============================

Three hospitals want one model of all their subjects, and none may give its images away. A linear model needs of the
images only a few sums for each voxel, the moments. Each site sums its own; added up they give the fit that all images
together would have given, to rounding.
"""

# %%
# Three simulated sites. Images grow with age in one place and shrink in another; each site has a level of its own. At
# the second site the top of the brain was not scanned in some.
import io

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.plotting import plot_stat_map

import daskglm
from daskglm.kernels.contrasts import t_contrast
from daskglm.kernels.moments import Moments, block_moments
from daskglm.kernels.solve import solve
from daskglm.simulation import blob, simulate_brain, simulate_maps

mask = simulate_brain(voxel_mm=6)
inside = mask.get_fdata() > 0
slope = blob(mask, (-30, -20, -14), height=-0.06) + blob(mask, (30, 40, 20), height=0.06)
effects = {"age": slope, "level": mask.get_fdata()}
sites = {}
for number, (name, n_subjects) in enumerate({"north": 18, "south": 25, "west": 12}.items()):
    age = np.random.default_rng(number).uniform(20, 80, n_subjects).round(1)
    weights = {"age": age - 50, "level": np.full(n_subjects, 10.0 * number)}
    images = np.stack([image.get_fdata()[inside] for image in simulate_maps(mask, weights, effects, seed=number)])
    if name == "south":
        images[::3, np.argwhere(inside)[:, 2] > 17] = np.nan
    sites[name] = pd.DataFrame({"age": age}), images

# %%
# What all agree on beforehand: the mask (and the template), and the columns of the design. Each site has an intercept
# of its own. Units are such that columns are of similar size: decades from the age of 50.
columns = ["age", *sites]


def design_of(name, table):
    """Rows of the common design, of the subjects of one site."""
    of_site = {other: float(other == name) for other in sites}
    return pd.DataFrame({"age": (table["age"] - 50) / 10, **of_site})[columns].to_numpy()


# %%
# What a site does, on its own machines. ``constant`` says how the columns add up to one (the intercepts do). What it
# sends is a file of plain arrays: reading one runs no code.
def written(moments):
    """Bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **vars(moments))
    return file.getvalue()


def read(message):
    """Moments of an .npz file."""
    arrays = dict(np.load(io.BytesIO(message), allow_pickle=False))
    return Moments(**{**arrays, "n_samples": int(arrays["n_samples"])})


constant = np.array([float(column in sites) for column in columns])
messages = {}
for name, (table, images) in sites.items():
    moments = block_moments(images, design_of(name, table), constant)
    messages[name] = written(moments)
    size, sent = images.nbytes / 1e6, len(messages[name]) / 1e6
    print(f"{name}: {len(table)} subjects, images of {size:.1f} MB, sends {sent:.2f} MB")

# %%
# The size of a message does not depend on the number of subjects: a sum for each voxel and column, and a few more (and
# where subjects lack voxels, sums of the design there). Sums over many subjects do not tell one of them; over one or
# two they would, and where a single subject lacks a voxel the sums of the design there tell his or her covariates. So
# sites agree on a least number, of subjects and of those that lack a voxel.
for name, (table, images) in sites.items():
    lacking = np.isnan(images).sum(axis=0)
    assert len(table) >= 10, name
    assert not ((lacking > 0) & (lacking < 5)).any(), name

# %%
# What the centre does: adds, solves, tests. The order of the sites does not matter.
first, *others = map(read, messages.values())
total = sum(others, first)
contrast = np.array([1.0, 0.0, 0.0, 0.0])
federated = t_contrast(solve(total), contrast)
print(f"age: z from {np.nanmin(federated.z_score):.2f} to {np.nanmax(federated.z_score):.2f}")

# %%
# All images in one place, as nobody may: the same.
design = pd.DataFrame(np.vstack([design_of(name, table) for name, (table, _) in sites.items()]), columns=columns)
pooled_images = []
for _, images in sites.values():
    for row in images:
        volume = np.zeros(mask.shape)
        volume[inside] = row
        pooled_images.append(nib.Nifti1Image(volume, mask.affine))
pooled = daskglm.SecondLevelModel(mask_img=mask, min_coverage=0).fit(pooled_images, design_matrix=design)
maps = pooled.compute_contrast("age", output_type="all")
for kind in ("effect_size", "z_score"):
    ours = np.ravel(getattr(federated, kind))
    print(
        f"largest difference from pooled images, {kind}: {np.nanmax(np.abs(ours - maps[kind].get_fdata()[inside])):.1e}"
    )
print(f"subjects at a voxel: {total.count.min()} to {total.count.max()}")

# %%
# One site alone sees less of it than all together.
alone = {}
for name, message in messages.items():
    alone[name] = t_contrast(solve(read(message)), contrast).z_score
strong = np.abs(slope[inside]) > 0.03
for name, z in {**alone, "all sites": federated.z_score}.items():
    print(f"{name}: found {np.mean(np.abs(z[strong]) > 3.09):.0%} of the effect at |z| > 3.09")


# %%
# The truth, one site, and all.
def image_of(values):
    """An image of values inside the brain."""
    volume = np.zeros(mask.shape)
    volume[inside] = np.nan_to_num(values)
    return nib.Nifti1Image(volume, mask.affine)


figure, axes = plt.subplots(3, 1, figsize=(8, 8), gridspec_kw={"top": 0.94, "bottom": 0.02, "hspace": 0.2})
panels = {
    "true effect of a year": (nib.Nifti1Image(slope, mask.affine), 0.005),
    "z of age, south alone": (image_of(alone["south"]), 3.09),
    "z of age, three sites": (image_of(federated.z_score), 3.09),
}
for axis, (title, (image, threshold)) in zip(axes, panels.items(), strict=True):
    axis.set_title(title, loc="left")
    plot_stat_map(image, threshold=threshold, display_mode="z", cut_coords=[-16, -8, 16, 24], cmap="RdBu_r", axes=axis)
plt.show()
