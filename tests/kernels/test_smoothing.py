"""Smoothing of a volume against nilearn, whatever its axes are."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import smooth_img

from daskglm.kernels.smoothing import smooth

SHAPE = (9, 12, 14)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
AXES = {
    "in order": np.eye(3),
    "first axis to the left": np.diag([-1.0, 1, 1]),
    "axes of the world in another order": np.eye(3)[[2, 0, 1]],
    "oblique": TURN @ np.eye(3)[[1, 2, 0]],
}


@pytest.mark.parametrize("fwhm", [6.0, (3.0, 7.0, 12.0), (12.0, 3.0, 7.0), (0.0, 5.0, 0.0), (1.5, 2.0, 2.5)], ids=str)
@pytest.mark.parametrize("sizes", [(2.0, 3.0, 4.5), (4.0, 1.5, 2.5)], ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_equals_nilearn_in_any_axes(axes, sizes, fwhm):
    affine = np.eye(4)
    affine[:3, :3] = AXES[axes] * sizes
    affine[:3, 3] = -10, 20, 5
    grid = np.random.default_rng(0).standard_normal(SHAPE)
    given = fwhm if isinstance(fwhm, float) else np.array(fwhm)
    expected = smooth_img(nib.Nifti1Image(grid, affine), given).get_fdata()
    found = smooth(grid, affine, fwhm, np.ones(SHAPE, bool))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_what_is_missing_weighs_nothing_along_each_axis():
    affine = np.diag([2.0, 3.0, 4.5, 1])
    rng = np.random.default_rng(1)
    grid, seen = rng.standard_normal(SHAPE) + 5, rng.random(SHAPE) < 0.7
    fwhm = np.array([3.0, 7.0, 12.0])
    values, weights = (
        smooth_img(nib.Nifti1Image(part, affine), fwhm).get_fdata()
        for part in (np.where(seen, grid, 0), seen.astype(float))
    )
    found = smooth(np.where(seen, grid, np.nan), affine, fwhm, seen)
    np.testing.assert_allclose(found, np.where(seen, values / weights, np.nan), rtol=1e-10)
