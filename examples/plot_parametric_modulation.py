"""
Parametric modulation: responses that follow a value
====================================================

In a gambling task every trial has a stake. Does the response grow with it? A modulator answers: a column whose height
in each trial is that trial's value. Centred, it leaves the mean response to a column of its own.
"""

# %%
# One simulated run of sixty trials. Visual cortex responds to each trial alike; the ventral striatum responds the more
# the higher the stake.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.plotting import plot_stat_map

from daskglm import FirstLevelModel, beta_series
from daskglm.simulation import blob, simulate_brain, simulate_events, simulate_run

t_r, n_volumes = 2.0, 250
mask = simulate_brain(voxel_mm=8)
inside = mask.get_fdata() > 0
events = simulate_events(["gamble"], n_trials=60, spacing=8.0, duration=2.0)
events["modulation"] = np.random.default_rng(0).integers(1, 10, len(events)).astype(float)
centred = events["modulation"] - events["modulation"].mean()

# %%
# What goes in: the mean response, and by how much it grows with each unit of the stake, in percent of the
# signal.
mean = blob(mask, (0, -86, 4), height=4.0) + blob(mask, (0, 10, -4), height=3.0)
slope = blob(mask, (0, 10, -4), height=0.8)
truth_of_events = pd.concat(
    [events.assign(modulation=1.0, trial_type="mean"), events.assign(modulation=centred, trial_type="slope")]
)
run = simulate_run(mask, truth_of_events, {"mean": mean, "slope": slope}, n_volumes, t_r, seed=1)

# %%
# The model: ``modulators="centered"`` makes two columns of the events, the condition and its modulation. (nilearn's
# way, ``modulators="raw"``, is one column that both scale.)
model = FirstLevelModel(t_r=t_r, mask_img=mask, modulators="centered").fit(run, events)
print([name for name in model.design_matrices_[0] if name.startswith("gamble")])
z_maps = model.compute_contrast("gamble"), model.compute_contrast("gamble_x_modulation")
for label, image in zip(("mean response", "growth with the stake"), z_maps, strict=True):
    z = image.get_fdata()[inside]
    print(f"{label}: z from {z.min():.2f} to {z.max():.2f}")

# %%
# The estimate of the growth against the truth, where it is strong; and where there is none, as in visual cortex.
estimate = model.compute_contrast("gamble_x_modulation", output_type="effect_size").get_fdata()[inside]
strong, visual = slope[inside] > 0.4, (mean[inside] > 2) & (slope[inside] == 0)
recovered = estimate[strong] @ slope[inside][strong] / (slope[inside][strong] @ slope[inside][strong])
print(f"growth with the stake: {recovered:.1%} of the truth; in visual cortex {estimate[visual].mean():+.3f} (truth 0)")

# %%
# nilearn gives the same, where the two columns are written out as two conditions (in single precision, as the run is).
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nilearn warns that it uses the mask that it was given
    theirs = NilearnModel(t_r=t_r, mask_img=mask, verbose=0).fit(run, truth_of_events).compute_contrast("slope")
print(f"largest difference from nilearn, z: {np.abs(theirs.get_fdata() - z_maps[1].get_fdata()).max():.1e}")

# %%
# The response to each single trial, where the growth is strongest, against its stake: another road to the same.
single = beta_series(run, events.assign(modulation=1.0), t_r, mask_img=mask)
peak = int(np.argmax(slope.ravel(order="F")[single["voxel"].values]))
response = single["data"].values[:, peak]
stakes = events.sort_values("onset")["modulation"].to_numpy()

# %%
# Two maps, and the peak of the second.
figure = plt.figure(figsize=(12, 5))
grid = figure.add_gridspec(2, 2, width_ratios=[1.3, 1], left=0.02, right=0.97, top=0.92, bottom=0.12, hspace=0.25)
for row, (title, image) in enumerate(zip(("z, mean response", "z, growth with the stake"), z_maps, strict=True)):
    axis = figure.add_subplot(grid[row, 0])
    axis.set_title(title, loc="left")
    plot_stat_map(image, threshold=3.09, display_mode="z", cut_coords=[-12, -4, 4], cmap="RdBu_r", axes=axis)
axis = figure.add_subplot(grid[:, 1])
axis.plot(stakes, response, "o", color="tab:gray", label="single trials")
line = np.array([1, 9])
height = mean.ravel(order="F")[single["voxel"].values[peak]]
growth = slope.ravel(order="F")[single["voxel"].values[peak]]
axis.plot(line, height + growth * (line - events["modulation"].mean()), color="tab:red", label="truth")
axis.set(xlabel="stake", ylabel="beta of the trial, at the peak")
axis.legend(frameon=False)
plt.show()
