"""Cohorts of a few subjects, made on the spot."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3.0, 0, -20], [0, 0, 4.0, -10], [0, 0, 0, 1]])
SHAPE = (7, 8, 5)


class Cohort:
    """Images of a few subjects on disk, with their table."""

    def __init__(self, folder: Path, n: int, dtype: type = np.float64, holes: bool = False) -> None:
        rng = np.random.default_rng(n)
        self.folder = folder
        self.mask = np.zeros(SHAPE, bool)
        self.mask[1:6, 1:7, 1:4] = True
        self.names = [f"sub-{k + 1:02d}" for k in range(n)]
        age = rng.uniform(20, 80, n).round(1)
        sex = np.where(np.arange(n) % 3 == 0, "F", "M")
        self.table = pd.DataFrame({"participant_id": self.names, "age": age, "sex": sex})
        self.data = 10 + rng.standard_normal((n, *SHAPE)) + 0.05 * age[:, None, None, None]
        self.data[:, ~self.mask] = 0
        if holes:
            self.data[: n // 3, 1:3, 1:7, 1:4] = np.nan
            self.data[0, 4, 4, 2] = np.nan
        self.data = self.data.astype(dtype)
        self.paths = []
        for name, values in zip(self.names, self.data, strict=True):
            path = folder / f"{name}_stat-effect_statmap.nii.gz"
            nib.Nifti1Image(values, AFFINE).to_filename(path)
            self.paths.append(str(path))
        self.table_path = str(folder / "participants.tsv")
        self.table.to_csv(self.table_path, sep="\t", index=False)
        self.mask_img = nib.Nifti1Image(self.mask.astype(np.uint8), AFFINE)
        self.design = pd.DataFrame({"age": age, "male": (sex == "M").astype(float), "intercept": 1.0})

    @property
    def vectors(self) -> np.ndarray:
        """Data in the mask, (n, V), in the order of the file."""
        return np.stack([image.ravel(order="F")[self.mask.ravel(order="F")] for image in self.data])
