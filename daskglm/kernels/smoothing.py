"""Gaussian smoothing of a volume."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d


def smooth(grid: NDArray[Any], affine: NDArray[np.float64], fwhm: ArrayLike) -> NDArray[Any]:
    """Smooth a volume with a Gaussian, as nilearn does.

    Parameters
    ----------
    grid : (X, Y, Z) float array
        Values; non-finite ones count as zero.
    affine : (4, 4) float64
        Gives the voxel sizes, in mm.
    fwhm : float or 3 floats
        Full width at half maximum along each axis, in mm; zero leaves an axis alone.

    Returns
    -------
    (X, Y, Z) array
        Same dtype; along each axis ``sigma = fwhm / (sqrt(8 ln 2) voxel size)``, edges reflected,
        cut off at four sigma.
    """
    smoothed = np.where(np.isfinite(grid), grid, 0).astype(grid.dtype)
    sizes = np.sqrt(np.sum(affine[:3, :3] ** 2, axis=0))
    for axis, (width, size) in enumerate(zip(np.broadcast_to(fwhm, 3), sizes, strict=True)):
        if width > 0:
            sigma = width / (np.sqrt(8 * np.log(2)) * size)
            gaussian_filter1d(smoothed, sigma, output=smoothed, axis=axis)
    return smoothed
