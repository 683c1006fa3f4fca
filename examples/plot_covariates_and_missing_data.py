"""
Covariates, and brains that differ
==================================

Thirty-six simulated subjects; in some the top of the brain was not scanned. Each voxel uses the subjects it has,
with its own degrees of freedom, and the design comes from the participants table, matched by subject id.
"""

# %%
# A cohort on disk: one image a subject, and a table. The image grows with age in one place and shrinks in another.
import tempfile
from pathlib import Path

import numpy as np

import daskglm
from daskglm.demo import simulate_cohort

folder = Path(tempfile.mkdtemp())
cohort = simulate_cohort(str(folder), n_subjects=36)

# %%
# One pass over the images fits the model at every voxel.
model = daskglm.SecondLevelModel(verbose=0)
model.fit(cohort.pattern, confounds=cohort.participants, formula="~ age + sex")
print(model.design_matrix_.head())

# %%
# Contrasts are free after that: a t test, an F test of both covariates, a difference.
maps = model.compute_contrasts(
    {"age": "age", "age or sex": "age, sex", "a decade against sex": "10 * age - sex"}, output_type="z_score"
)
for name, image in maps.items():
    z = np.asarray(image.dataobj)
    print(f"{name}: z from {np.nanmin(z):.2f} to {np.nanmax(z):.2f}")

# %%
# How many subjects each voxel had.
counts = model.fits_[None]["n"].values
print({int(n): int((counts == n).sum()) for n in np.unique(counts)})

# %%
# The picture: true effect of age, and its z map, in the slice of the rise.
import matplotlib.pyplot as plt  # noqa: E402

index = np.unravel_index(cohort.slope.argmax(), cohort.slope.shape)[2]
figure, axes = plt.subplots(1, 2, figsize=(8, 4))
panels = {"true effect of age": cohort.slope, "z score": np.asarray(maps["age"].dataobj)}
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    limit = np.nanmax(np.abs(values))
    axis.imshow(values[:, :, index].T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set_title(title)
    axis.axis("off")
figure.savefig(folder / "age.png")
print(f"picture: {folder / 'age.png'}")
