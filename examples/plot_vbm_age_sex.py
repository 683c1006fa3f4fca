"""
Grey matter, age and sex (VBM)
==============================

Voxel-based morphometry: maps of grey matter volume over a cohort, with age, sex and the size of the head as covariates.
One pass over the images, then any contrast; corrected for the number of voxels by the false discovery rate, with a
table of clusters.
"""

# %%
# Eighty simulated subjects. Grey matter shrinks with age in both hippocampi, and more so in men on the left; it grows
# with the size of the head everywhere, which differs between the sexes. Beyond that sex has an effect in one place.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.plotting import plot_stat_map

import daskglm
from daskglm.simulation import blob, simulate_brain, simulate_maps

n_subjects = 80
rng = np.random.default_rng(0)
sex = np.where(rng.permutation(n_subjects) % 2, "F", "M")
male = (sex == "M").astype(float)
participants = pd.DataFrame(
    {
        "participant_id": [f"sub-{number + 1:03d}" for number in range(n_subjects)],
        "age": rng.uniform(20, 85, n_subjects).round(1),
        "sex": sex,
        "head": (1.45 + 0.15 * male + 0.08 * rng.standard_normal(n_subjects)).round(3),  # litres
    }
)
mask = simulate_brain(voxel_mm=6)
inside = mask.get_fdata() > 0
hippocampi = blob(mask, (-26, -20, -16), height=-0.04) + blob(mask, (26, -20, -16), height=-0.04)
effects = {
    "age": hippocampi,
    "age of men": blob(mask, (-26, -20, -16), height=-0.04),
    "sex": blob(mask, (0, 40, 10), height=1.2),
    "head": 6.0 * mask.get_fdata(),
}
weights = {
    "age": participants["age"] - 50,
    "age of men": male * (participants["age"] - 50),
    "sex": male,
    "head": participants["head"],
}
folder = Path(tempfile.mkdtemp())
images = simulate_maps(mask, weights, effects, noise=0.6, smoothness_mm=4)
for name, image in zip(participants["participant_id"], images, strict=True):
    image.to_filename(folder / f"{name}_desc-modulated_GM.nii.gz")
maps = sorted(str(path) for path in folder.glob("*.nii.gz"))

# %%
# The design from a formula: age of each sex, sex and head. ``center()`` makes the effect of sex one at the mean age.
formula = "~ center(age) * sex + head"
model = daskglm.SecondLevelModel(mask_img=mask).fit(maps, confounds=participants, formula=formula)
print(model.design_matrix_.head(3).round(2))

# %%
# Contrasts cost nothing once the model is fitted: age in women; in men, which is the sum; the difference; sex; and an F
# test of all that has to do with age.
age, interaction = "center(age)", "center(age):sex[T.M]"
contrasts = {
    "age, women": f"`{age}`",
    "age, men": f"`{age}` + `{interaction}`",
    "age, men - women": f"`{interaction}`",
    "men - women": "`sex[T.M]`",
    "any age": f"`{age}`, `{interaction}`",
}
z_maps = model.compute_contrasts(contrasts)
for name, image in z_maps.items():
    z = image.get_fdata()[inside]
    print(f"{name}: z from {z.min():.2f} to {z.max():.2f}")

# %%
# nilearn, with the same design.
theirs = NilearnModel(mask_img=mask).fit(maps, design_matrix=model.design_matrix_.reset_index(drop=True))
vector = (model.design_matrix_.columns == age).astype(float)
difference = np.abs(theirs.compute_contrast(vector).get_fdata() - z_maps["age, women"].get_fdata()).max()
print(f"largest difference from nilearn, z: {difference:.1e}")

# %%
# Corrected: of the voxels that pass, 5% are false on average. The table has the peaks of each cluster, and its size.
options = {"cluster_threshold": 5, "two_sided": False}  # an F test has one side
thresholded, z_min = daskglm.threshold_stats_img(z_maps["any age"], mask, alpha=0.05, height_control="fdr", **options)
print(f"any age: z > {z_min:.2f}")
print(daskglm.get_clusters_table(z_maps["any age"], z_min, **options).to_string(index=False))
passed, truth = thresholded.get_fdata()[inside] != 0, hippocampi[inside]
print(
    f"found {passed[truth < -0.02].mean():.0%} of the effect; {(truth[passed] == 0).mean():.1%} of what passes is false"
)

# %%
# What went in, and z.
truths = {"age, women": hippocampi, "age, men - women": effects["age of men"], "men - women": effects["sex"]}
space = {"top": 0.94, "bottom": 0.02, "hspace": 0.2, "wspace": 0.05}
figure, axes = plt.subplots(3, 2, figsize=(11, 8), gridspec_kw=space)
slices = {"display_mode": "z", "cut_coords": [-16, 8], "cmap": "RdBu_r", "symmetric_cbar": True}
for row, (name, truth) in zip(axes, truths.items(), strict=True):
    panels = {f"true effect: {name}": nib.Nifti1Image(truth, mask.affine), f"z: {name}": z_maps[name]}
    for axis, (title, image), threshold in zip(row, panels.items(), (abs(truth).max() / 10, 3.09), strict=True):
        axis.set_title(title, loc="left")
        plot_stat_map(image, threshold=threshold, axes=axis, **slices)
plt.show()
