"""
One-sample test, and permutation
================================

Is the mean of a map over subjects above zero? First by a t test at every voxel, then by a permutation test, which
holds the chance of a single false voxel in the whole brain at 5% without assuming that the noise is normal. The
calls are nilearn's with another import, and so are the numbers: nilearn runs beside, on the same maps.
"""

# %%
# Twenty simulated subjects. One effect lies in left motor cortex; in the rest of the brain there is none.
import warnings

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm import second_level as nilearn_level
from nilearn.plotting import plot_glass_brain
from scipy import stats

from daskglm import SecondLevelModel, non_parametric_inference
from daskglm.simulation import blob, simulate_brain, simulate_maps

n_subjects = 20
mask = simulate_brain(voxel_mm=6)
inside = mask.get_fdata() > 0
effect = blob(mask, centre=(-38, -24, 54), height=2.0)
maps = simulate_maps(mask, {"mean": np.ones(n_subjects)}, {"mean": effect}, noise=1.0, smoothness_mm=3)

# %%
# The t test. The design is a column of ones, and its coefficient is the mean.
design = pd.DataFrame({"intercept": np.ones(n_subjects)})
model = SecondLevelModel(mask_img=mask, smoothing_fwhm=6.0).fit(maps, design_matrix=design)
z_map = model.compute_contrast(output_type="z_score")


def values(image):
    """What an image has inside the brain."""
    return image.get_fdata()[inside]


# %%
# nilearn's z, of the same maps.
theirs = nilearn_level.SecondLevelModel(mask_img=mask, smoothing_fwhm=6.0).fit(maps, design_matrix=design)
difference = np.abs(values(z_map) - values(theirs.compute_contrast(output_type="z_score"))).max()
print(f"z from {values(z_map).min():.2f} to {values(z_map).max():.2f}")
print(f"largest difference from nilearn, z: {difference:.1e}")

# %%
# z > 3.09 is p < 0.001 at each voxel. With thousands of voxels some pass where there is nothing.
null = effect[inside] == 0
false = int((values(z_map)[null] > stats.norm.isf(0.001)).sum())
print(f"voxels without an effect at p < 0.001, not corrected: {false} of {null.sum()}")

# %%
# The permutation test flips the sign of whole maps at random: where there is no effect either sign is as likely. The
# largest t of each such round says what chance can do anywhere in the brain. Its maps are -log10 of the corrected p.
# Results depend on the seed, never on the number of threads.
options = {"second_level_contrast": "intercept", "mask": mask, "smoothing_fwhm": 6.0, "n_perm": 1000}
ours = non_parametric_inference(maps, design_matrix=design, random_state=0, threshold=0.001, **options)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nilearn tells that the threshold will mean another thing in a later version
    nilearns = nilearn_level.non_parametric_inference(
        maps, design_matrix=design, random_state=0, threshold=0.001, **options
    )
difference = np.abs(values(ours["t"]) - values(nilearns["t"])).max()
print(f"largest difference from nilearn, t: {difference:.1e}")

# %%
# Each program draws 1000 flips of its own. Their p differ by that, and by nothing else.
p, their_p = (10 ** -values(result["logp_max_t"]) for result in (ours, nilearns))
print(f"largest difference from nilearn, corrected p of two draws: {np.abs(p - their_p).max():.3f}")
print(f"voxels at corrected p < 0.05: {(p < 0.05).sum()}, nilearn's: {(their_p < 0.05).sum()}")

# %%
# How many of these are where the truth has an effect? Smoothing carries it a few mm beyond its edge.
found = effect[inside][p < 0.05] > 0
print(f"of them in the true effect: {found.mean():.0%}")

# %%
# The truth, z without correction, and what holds for the whole brain.
figure, axes = plt.subplots(3, 1, figsize=(8, 9), gridspec_kw={"top": 0.94, "bottom": 0.02, "hspace": 0.15})
panels = [
    (nib.Nifti1Image(effect, mask.affine), "true effect", 0.1),
    (z_map, "z > 3.09: p < 0.001 at each voxel", stats.norm.isf(0.001)),
    (ours["logp_max_t"], "-log10 of corrected p: p < 0.05 in the whole brain", -np.log10(0.05)),
]
for axis, (image, title, threshold) in zip(axes, panels, strict=True):
    axis.set_title(title, loc="left")
    plot_glass_brain(image, threshold=threshold, colorbar=True, axes=axis)
plt.show()
