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

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

import daskglm
from daskglm.demo import simulate_cohort

folder = Path(tempfile.mkdtemp())
cohort = simulate_cohort(str(folder), n_subjects=36)

# %%
# One pass over the images fits the model at every voxel. Missing is what is not finite (NaN); ``missing="zero"`` is for
# images in which it is 0.
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
fit = model.fits_[None]
counts = fit["n"].values
print({int(n): int((counts == n).sum()) for n in np.unique(counts)})

# %%
# The same at a voxel that some subjects lack, by statsmodels, which leaves out rows with missing values.
voxel = (11, 21, 34)
table = pd.read_csv(cohort.participants, sep="\t")
table["value"] = [nib.load(path).dataobj[voxel] for path in sorted(folder.glob("sub-*.nii.gz"))]
reference = smf.ols("value ~ age + sex", table).fit()
t = model.compute_contrast("age", output_type="stat").dataobj[voxel]
print(f"t of age on {reference.df_resid:.0f} degrees of freedom: {t:.6f}, statsmodels: {reference.tvalues['age']:.6f}")
print(f"largest difference from statsmodels: {abs(t - reference.tvalues['age']):.1e}")

# %%
# The picture: the true effect of age, its z, and the number of subjects, from the side through the rise.
place = np.unravel_index(cohort.slope.argmax(), cohort.slope.shape)[0]
count = daskglm.VolumeSpace.from_attributes(fit.attrs["space"], fit["voxel"].values).to_image(counts.astype(float))
panels = {
    "true effect of age, a year": (np.where(cohort.mask, cohort.slope, np.nan), "RdBu_r", -0.06, 0.06),
    "z": (np.where(cohort.mask, np.asarray(maps["age"].dataobj), np.nan), "RdBu_r", -7, 7),
    "subjects": (np.asarray(count.dataobj), "viridis", 0, 36),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for axis, (title, (values, colours, low, high)) in zip(axes, panels.items(), strict=True):
    shown = axis.imshow(values[place].T, origin="lower", cmap=colours, vmin=low, vmax=high)
    figure.colorbar(shown, ax=axis, shrink=0.8)
    axis.set_title(title)
    axis.axis("off")
plt.show()
