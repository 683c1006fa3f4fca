"""
A cohort that grows
===================

Convert the images you have to a Zarr store, analyse it lazily with xarray, and append the subjects that come later.
"""

# %%
# The first twenty subjects of forty.
import tempfile
from pathlib import Path

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
# Twenty more: the same call appends. Subjects that the store has are not read again.
result = daskglm.convert(paths, store, participants=participants)
print(f"{len(result.written)} images converted, {len(result.kept)} were there already")

# %%
# Lazy functions: nothing is read before the last line.
images = daskglm.open_images(store)
design = daskglm.design_from_formula("~ age + sex", images[["age", "sex"]].to_dataframe())
fit = daskglm.fit_glm(images, design)
maps = daskglm.compute_contrasts(fit, {"age": "age"})
z = maps["z_score"].sel(contrast="age").compute()
print(
    f"z from {float(z.min()):.2f} to {float(z.max()):.2f} on {int(fit['degrees_of_freedom'].max())} degrees of freedom"
)
