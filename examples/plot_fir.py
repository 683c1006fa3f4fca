"""
The shape of a response: FIR models
===================================

The canonical response is a guess. A finite impulse response (FIR) model has a column for each volume after an event
and so estimates the response itself, whatever its shape. Here the true one comes late, and lasts.
"""

# %%
# One simulated run. Events fall on volumes, where an FIR model has its columns. The true response peaks at 8.5 s, not
# at 5 s as the canonical one.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.plotting import plot_stat_map
from scipy.stats import gamma

from daskglm import FirstLevelModel, compute_regressor
from daskglm.simulation import blob, simulate_brain, simulate_run


def late_response(t_r, oversampling=16, *_):
    """A response that rises to its peak at 8.5 s; its sum is 1."""
    times = np.arange(0, 32, t_r / oversampling)
    response = gamma.pdf(times, 12.3, scale=0.75)
    return response / response.sum()


t_r, n_volumes = 1.5, 300
rng = np.random.default_rng(0)
volumes = np.cumsum(rng.integers(4, 10, 45))
events = pd.DataFrame({"onset": t_r * volumes[volumes < n_volumes - 15], "duration": t_r, "trial_type": "flash"})
mask = simulate_brain(voxel_mm=8)
inside = mask.get_fdata() > 0
effect = blob(mask, (0, -86, 4), height=6.0, width_mm=16)
run = simulate_run(mask, events, {"flash": effect}, n_volumes, t_r, hrf_model=late_response, noise=0.4, seed=1)

# %%
# Thirteen delays, 0 to 18 s. The F test over all of them finds any response, of whatever shape.
delays = list(range(13))
fir = FirstLevelModel(t_r=t_r, mask_img=mask, hrf_model="fir", fir_delays=delays, high_pass=0.005)
fir.fit(run, events)
columns = [f"flash_delay_{delay}" for delay in delays]
rows = np.eye(fir.design_matrices_[0].shape[1])[: len(delays)]
z_fir = fir.compute_contrast(rows, stat_type="F")

# %%
# The canonical response, as is. It comes too early, and the effect is lost.
canonical = FirstLevelModel(t_r=t_r, mask_img=mask, hrf_model="glover", high_pass=0.005).fit(run, events)
z_canonical = canonical.compute_contrast("flash", stat_type="F")
strong = effect[inside] > 0.5
for label, image in {"FIR": z_fir, "canonical": z_canonical}.items():
    z = image.get_fdata()[inside]
    print(f"{label}: z up to {z.max():.2f}; found {(z[strong] > 3.09).mean():.0%} of the effect")

# %%
# nilearn's FIR, by the same arguments; in single precision, as the run is.
theirs = NilearnModel(t_r=t_r, mask_img=mask, hrf_model="fir", fir_delays=delays, high_pass=0.005)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nilearn warns that it uses the mask that it was given
    their_z = theirs.fit(run, events).compute_contrast(rows, stat_type="F")
difference = np.abs(z_fir.get_fdata() - their_z.get_fdata())[inside].max()
print(f"largest difference from nilearn, z: {difference:.1e}")

# %%
# The estimated response: the coefficient of each delay, averaged over the voxels with a strong effect, beside the true
# one (which ``daskglm.compute_regressor`` gives for an event at 0 s).
estimate = np.array(
    [fir.compute_contrast(name, output_type="effect_size").get_fdata()[inside][strong].mean() for name in columns]
)
times = t_r * np.array(delays)
one_event = np.array([[0.0], [t_r], [1.0]])
responses = {
    label: compute_regressor(one_event, model, times)[0][:, 0]
    for label, model in {"true": late_response, "canonical": "glover"}.items()
}
true = responses["true"] * effect[inside][strong].mean()
print(f"peak of the response: true at {times[true.argmax()]:.1f} s, estimated at {times[estimate.argmax()]:.1f} s")
print(f"correlation of the estimated with the true response: {np.corrcoef(true, estimate)[0, 1]:.3f}")

# %%
# The response, and where there is one.
figure = plt.figure(figsize=(12, 5))
grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.2], left=0.07, right=0.98, top=0.92, bottom=0.11, hspace=0.25)
axis = figure.add_subplot(grid[:, 0])
axis.plot(times, true, color="black", label="true")
axis.plot(times, estimate, "o-", color="tab:red", label="estimated by FIR")
scale = true.max() / responses["canonical"].max()
axis.plot(times, scale * responses["canonical"], "--", color="tab:blue", label="canonical, scaled")
axis.axhline(0, color="gray", linewidth=0.8)
axis.set(xlabel="seconds after the event", ylabel="response, percent of the signal")
axis.legend(frameon=False)
for row, (title, image) in enumerate({"F of 13 delays, as z": z_fir, "F of the canonical, as z": z_canonical}.items()):
    axis = figure.add_subplot(grid[row, 1])
    axis.set_title(title, loc="left")
    plot_stat_map(image, threshold=3.09, display_mode="z", cut_coords=[-12, 4, 20], vmax=10, cmap="RdBu_r", axes=axis)
plt.show()
