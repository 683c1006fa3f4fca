"""
Beta series: the response to every trial
========================================

One estimate a trial, from one pass over the run. Two regions whose responses rise and fall together from trial to
trial are connected: here they are in one condition and not in the other.
"""

# %%
# One simulated run of sixty trials. Left and right motor cortex respond with amplitudes that vary from trial to trial:
# in trials of "both" with the same, in trials of "apart" each with its own.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.plotting import plot_stat_map

import daskglm
from daskglm.simulation import blob, simulate_brain, simulate_events, simulate_run

t_r, n_volumes = 2.0, 310
mask = simulate_brain(voxel_mm=8)
events = simulate_events(["both", "apart"], n_trials=60, spacing=10.0, duration=2.0)
rng = np.random.default_rng(0)
left, right = rng.uniform(0.0, 2.0, (2, len(events)))
right = np.where(events["trial_type"] == "both", left, right)
truth_of_events = pd.concat(
    [events.assign(trial_type=name, modulation=sizes) for name, sizes in {"left": left, "right": right}.items()]
)
effects = {"left": blob(mask, (-38, -24, 54), height=4.0), "right": blob(mask, (38, -24, 54), height=4.0)}
run = simulate_run(mask, truth_of_events, effects, n_volumes, t_r, noise=0.6)

# %%
# "lss" (least squares separate) fits a model a trial: that trial, the others of its condition together, and the other
# condition. "lsa" (least squares all) fits one model with a column a trial. Both come from the same pass. The result is
# an images dataset, a sample a trial: what any group function here takes.
series = daskglm.beta_series(run, events, t_r, method="lss", mask_img=mask, dtype="float64")
print(series)

# %%
# nilearn has no function for it; its documentation loops over trials, one fit each. The first trial by that recipe,
# which computes in single precision, as the run is:
one = events.copy()
one.loc[0, "trial_type"] = "this"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nilearn warns that it uses the mask that it was given
    theirs = NilearnModel(t_r=t_r, mask_img=mask, noise_model="ols").fit(run, one)
    beta = theirs.compute_contrast("this", output_type="effect_size").get_fdata().ravel(order="F")
first = series["data"].values[0]
print(f"largest difference from nilearn, beta: {np.abs(beta[series['voxel'].values] - first).max():.1e}")

# %%
# The mean of each region, trial by trial, against the amplitudes that went in.
regions = {}
for name, effect in effects.items():
    weights = effect.ravel(order="F")[series["voxel"].values]
    regions[name] = series["data"].values @ weights / (weights @ weights)
    correlation = np.corrcoef(regions[name], {"left": left, "right": right}[name])[0, 1]
    print(f"{name}: correlation of estimated and true amplitudes {correlation:.3f}")

# %%
# Connectivity: correlation over the trials of each condition.
kinds = series["trial_type"].values
for kind in ("both", "apart"):
    found, true = (
        np.corrcoef(a[kinds == kind], b[kinds == kind])[0, 1]
        for a, b in ((regions["left"], regions["right"]), (left, right))
    )
    print(f"correlation of left and right in trials of {kind!r}: {found:.2f} (truth {true:.2f})")

# %%
# The same of every voxel: its correlation with left motor cortex in trials of "both", less that in "apart".
space = daskglm.VolumeSpace.from_attributes(series.attrs["space"], series["voxel"].values)


def with_left(kind):
    """Fisher's z of the correlation of each voxel with the left region, over the trials of a condition."""
    betas, seed = series["data"].values[kinds == kind], regions["left"][kinds == kind]
    betas, seed = betas - betas.mean(axis=0), seed - seed.mean()
    return np.arctanh(seed @ betas / np.linalg.norm(betas, axis=0) / np.linalg.norm(seed))


difference = space.to_image(with_left("both") - with_left("apart"), outside=0)

# %%
# Amplitudes of the two regions, and the map.
figure = plt.figure(figsize=(12, 4.5))
grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.6], left=0.06, right=0.98, top=0.9, bottom=0.13)
axis = figure.add_subplot(grid[0])
for kind, colour in {"both": "tab:red", "apart": "tab:gray"}.items():
    axis.plot(regions["left"][kinds == kind], regions["right"][kinds == kind], "o", color=colour, label=kind)
axis.set(xlabel="beta of left motor cortex", ylabel="beta of right motor cortex", title="a point is a trial")
axis.legend(frameon=False)
axis = figure.add_subplot(grid[1])
axis.set_title("correlation with left motor cortex, 'both' less 'apart' (Fisher's z)")
plot_stat_map(difference, threshold=0.6, display_mode="ortho", cut_coords=(38, -24, 54), cmap="RdBu_r", axes=axis)
plt.show()
