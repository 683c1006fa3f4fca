"""
A cohort that grows
===================

Convert the images you have to a Zarr store, analyse it lazily with xarray, and append the subjects that come later.
"""

# %%
# The first twenty subjects of forty.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import daskglm
from daskglm.demo import simulate_cohort

folder = Path(tempfile.mkdtemp())
cohort = simulate_cohort(str(folder), n_subjects=40)
paths = sorted(str(path) for path in folder.glob("sub-*.nii.gz"))
participants = pd.read_csv(cohort.participants, sep="\t")
store = str(folder / "cohort.zarr")
result = daskglm.convert(paths[:20], store, participants=participants[:20])
print(f"{len(result.written)} images converted, {result.n_voxels:,} voxels each")

# %%
# A store is an xarray dataset and nothing else: images, subject ids and the participants table.
print(xr.open_zarr(store))


# %%
# Lazy functions: nothing is read before `compute`.
def analyse():
    """z of age over the subjects that the store has, as an image."""
    images = daskglm.open_images(store)
    design = daskglm.design_from_formula("~ age + sex", images[["age", "sex"]].to_dataframe())
    fit = daskglm.fit_glm(images, design)
    maps = daskglm.compute_contrasts(fit, {"age": "age"})[["z_score"]].compute()
    z = maps["z_score"]
    print(
        f"{len(design)} subjects: z from {float(z.min()):.2f} to {float(z.max()):.2f} on "
        f"{int(fit['degrees_of_freedom'].max())} degrees of freedom"
    )
    return maps.glm.to_nifti("z_score", contrast="age").get_fdata()


z_maps = {"z, 20 subjects": analyse()}

# %%
# Twenty more: the same call appends. Subjects that the store has are not read again.
result = daskglm.convert(paths, store, participants=participants)
print(f"{len(result.written)} images converted, {len(result.kept)} were there already")
z_maps["z, 40 subjects"] = analyse()

# %%
# The store gives what the files give, all at once.
model = daskglm.SecondLevelModel(verbose=0).fit(cohort.pattern, confounds=participants, formula="~ age + sex")
from_files = model.compute_contrast("age").get_fdata()
in_both = (from_files != 0) & np.isfinite(from_files) & np.isfinite(z_maps["z, 40 subjects"])
difference = np.abs(from_files - z_maps["z, 40 subjects"])[in_both].max()
print(f"largest difference from the files, z: {difference:.1e}, at {in_both.sum():,} voxels")

# %%
# The picture: with more subjects the effect stands out. From above, through the rise.
place = np.unravel_index(cohort.slope.argmax(), cohort.slope.shape)[2]
panels = {"true effect of age, a year": (np.where(cohort.mask, cohort.slope, np.nan), 0.06)}
panels |= {title: (values, 7) for title, values in z_maps.items()}
figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis, (title, (values, limit)) in zip(axes, panels.items(), strict=True):
    shown = axis.imshow(values[:, :, place].T, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(shown, ax=axis, shrink=0.7)
    axis.set_title(title)
    axis.axis("off")
plt.show()
