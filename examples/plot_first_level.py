"""
First level: one run, and several
=================================

The response of one subject to faces and houses: fitted in a single run, and combined over four of them by fixed
effects. Each run is read once, in slabs of volumes; contrasts read nothing. The numbers are nilearn's.
"""

# %%
# Four simulated runs on disk, of two hundred volumes. Faces raise the signal in the right fusiform gyrus, houses in
# the parahippocampal gyri: by 3% if they lasted, by a quarter of that in trials of two seconds.
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.plotting import plot_design_matrix, plot_stat_map

from daskglm import FirstLevelModel
from daskglm.simulation import blob, simulate_brain, simulate_events, simulate_run

folder = Path(tempfile.mkdtemp())
mask = simulate_brain(voxel_mm=8)
inside = mask.get_fdata() > 0
effects = {
    "face": blob(mask, (40, -50, -16), height=3.0),
    "house": blob(mask, (26, -46, -8), height=3.0) + blob(mask, (-26, -46, -8), height=3.0),
}
runs, events = [], []
for number in range(4):
    events.append(simulate_events(["face", "house"], n_trials=38, spacing=10.0, duration=2.0, seed=number))
    runs.append(str(folder / f"run-{number + 1}_bold.nii.gz"))
    simulate_run(mask, events[-1], effects, n_volumes=200, t_r=2.0, noise=1.0, seed=number).to_filename(runs[-1])

# %%
# One run. The design is made from the events: conditions convolved with the response, cosine drifts, a constant.
# Noise that remembers the volume before is whitened by an autoregressive model ("ar1").
one = FirstLevelModel(t_r=2.0, mask_img=mask, noise_model="ar1").fit(runs[0], events[0])
print(one.design_matrices_[0].head(3).round(2))

# %%
# Four runs: lists in place of single files. A contrast is then the mean over runs.
model = FirstLevelModel(t_r=2.0, mask_img=mask, noise_model="ar1").fit(runs, events)
z_maps = {"one run": one.compute_contrast("face - house"), "four runs": model.compute_contrast("face - house")}
for label, image in z_maps.items():
    z = image.get_fdata()[inside]
    print(f"face - house, {label}: z from {z.min():.2f} to {z.max():.2f}")

# %%
# nilearn, with the same arguments. It computes in the precision of the files, here single; daskglm always in double.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nilearn warns that it uses the mask that it was given
    theirs = NilearnModel(t_r=2.0, mask_img=mask, noise_model="ar1").fit(runs, events)
    theirs = theirs.compute_contrast("face - house")
difference = np.abs(z_maps["four runs"].get_fdata() - theirs.get_fdata()).max()
print(f"largest difference from nilearn, z: {difference:.1e}")

# %%
# The estimate beside the truth, in percent of the mean signal. Four runs halve the error of one.
truth = (effects["face"] - effects["house"])[inside]
for label, fitted in {"one run": one, "four runs": model}.items():
    estimate = fitted.compute_contrast("face - house", output_type="effect_size").get_fdata()[inside]
    error = np.sqrt(np.mean((estimate - truth) ** 2))
    print(f"error of the effect, {label}: {error:.3f} percent of the signal; the effect is up to {truth.max():.1f}")

# %%
# An F test asks whether any of several contrasts differs from zero: does the voxel respond at all?
any_response = model.compute_contrast(np.eye(len(model.design_matrices_[0].columns))[:2], stat_type="F")
print(f"any response: z up to {any_response.get_fdata().max():.2f}")

# %%
# The design of the first run, and z of faces against houses.
figure = plt.figure(figsize=(12, 6))
grid = figure.add_gridspec(3, 2, width_ratios=[1, 2], left=0.06, right=0.98, top=0.84, bottom=0.03, hspace=0.25)
axis = figure.add_subplot(grid[:, 0])
plot_design_matrix(one.design_matrices_[0], axes=axis)
axis.set_ylabel("volume")
panels = {"true effect, percent": nib.Nifti1Image(effects["face"] - effects["house"], mask.affine)}
panels |= {f"z, {label}": image for label, image in z_maps.items()}
for row, (title, image) in enumerate(panels.items()):
    axis = figure.add_subplot(grid[row, 1])
    axis.set_title(title, loc="left")
    threshold = 0.3 if row == 0 else 3.09
    plot_stat_map(image, threshold=threshold, display_mode="z", cut_coords=[-22, -14, -6, 2], cmap="RdBu_r", axes=axis)
plt.show()
