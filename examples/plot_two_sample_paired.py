"""
Two conditions in the same subjects: paired or not
==================================================

Every subject saw vertical and horizontal checkerboards. Subjects differ from each other far more than the two
conditions do. A design with a column a subject takes these differences out of the noise; without it the effect is
lost. The numbers are nilearn's, which runs beside on the same maps.
"""

# %%
# Sixteen simulated subjects, two maps each. Vertical is stronger in one place, horizontal in another, and the two
# maps of a subject have much in common.
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.second_level import SecondLevelModel as NilearnModel
from nilearn.plotting import plot_design_matrix, plot_stat_map
from scipy import stats

from daskglm import SecondLevelModel
from daskglm.simulation import blob, simulate_brain, simulate_maps

n_subjects = 16
subjects = [f"S{number:02d}" for number in range(1, n_subjects + 1)]
condition = np.repeat([1.0, -1.0], n_subjects)
mask = simulate_brain(voxel_mm=6)
inside = mask.get_fdata() > 0
effect = blob(mask, (-10, -88, 4), height=1.5) + blob(mask, (16, -84, -4), height=-1.5)
maps = simulate_maps(
    mask, {"condition": condition}, {"condition": effect}, noise=0.7, smoothness_mm=6, shared=subjects * 2,
    shared_noise=3.0,
)  # fmt: skip

# %%
# Two designs. Both have the condition, as 1 and -1; one has a common mean, the other a mean for each subject.
name = "condition"
unpaired = pd.DataFrame({name: condition, "intercept": 1.0})
of_subjects = np.tile(np.eye(n_subjects), (2, 1))
paired = pd.concat([pd.DataFrame({name: condition}), pd.DataFrame(of_subjects, columns=subjects)], axis=1)

# %%
# Both models, by daskglm and by nilearn.
z_maps = {}
for label, design in {"unpaired": unpaired, "paired": paired}.items():
    z_maps[label] = SecondLevelModel(mask_img=mask).fit(maps, design_matrix=design).compute_contrast(name)
    theirs = NilearnModel(mask_img=mask).fit(maps, design_matrix=design).compute_contrast(name)
    z = z_maps[label].get_fdata()[inside]
    print(f"{label}: z from {z.min():.2f} to {z.max():.2f}")
    print(f"largest difference from nilearn, {label}: {np.abs(z - theirs.get_fdata()[inside]).max():.1e}")

# %%
# Where the effect is strong, and where there is none: what passes z = 3.09, either sign?
strong, null = np.abs(effect[inside]) > 0.75, effect[inside] == 0
for label, image in z_maps.items():
    passed = np.abs(image.get_fdata()[inside]) > 3.09
    print(
        f"{label}: found {passed[strong].mean():.0%} of the effect; elsewhere {passed[null].mean():.2%} of voxels pass"
    )

# %%
# A paired design is a t test of differences within subjects: scipy gives the same t.
data = np.stack([image.get_fdata()[inside] for image in maps])
by_scipy = stats.ttest_rel(data[:n_subjects], data[n_subjects:]).statistic
ours = SecondLevelModel(mask_img=mask).fit(maps, design_matrix=paired).compute_contrast(name, output_type="stat")
print(f"largest difference from scipy's paired t test: {np.abs(ours.get_fdata()[inside] - by_scipy).max():.1e}")

# %%
# The two designs; below, what comes of them, and the truth.
figure = plt.figure(figsize=(12, 7))
above = figure.add_gridspec(1, 2, left=0.06, right=0.97, top=0.8, bottom=0.38)
below = figure.add_gridspec(1, 3, left=0.02, right=0.97, top=0.29, bottom=0.02)
for place, (label, design) in zip(above, {"unpaired": unpaired, "paired": paired}.items(), strict=True):
    axis = figure.add_subplot(place)
    plot_design_matrix(design, axes=axis)
    axis.set(title=f"design, {label}", ylabel="map")
panels = {f"z, {label}": (image, 1.0, 8.0) for label, image in z_maps.items()}
panels["true effect"] = (nib.Nifti1Image(effect, mask.affine), 0.15, None)
for place, (title, (image, threshold, vmax)) in zip(below, panels.items(), strict=True):
    axis = figure.add_subplot(place)
    axis.set_title(title, loc="left")
    slices = {"display_mode": "z", "cut_coords": [-4, 4], "cmap": "RdBu_r"}
    plot_stat_map(image, threshold=threshold, vmax=vmax, axes=axis, **slices)
plt.show()
