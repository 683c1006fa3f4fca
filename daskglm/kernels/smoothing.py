"""Gaussian smoothing of a volume."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d


def smooth(grid: NDArray[Any], affine: NDArray[np.float64], fwhm: ArrayLike, seen: NDArray[np.bool_]) -> NDArray[Any]:
    """Smooth a volume with a Gaussian, among the voxels that it has.

    Parameters
    ----------
    grid : (X, Y, Z) float array
        Values.
    affine : (4, 4) float64
        Gives the voxel sizes, in mm.
    fwhm : float or 3 floats
        Full width at half maximum along each axis, in mm; zero leaves an axis alone.
    seen : (X, Y, Z) bool array
        Where there are values.

    Returns
    -------
    (X, Y, Z) array
        Same dtype; along each axis ``sigma = fwhm / (sqrt(8 ln 2) voxel size)``, edges reflected,
        cut off at four sigma. The weights of the voxels that are not there go to those that are (normalised
        convolution, Knutsson & Westin 1993), so that none is drawn towards zero; NaN where there is no value. Where
        nothing is missing, as nilearn.
    """
    sizes = np.sqrt(np.sum(affine[:3, :3] ** 2, axis=0))
    sigmas = tuple((np.broadcast_to(fwhm, 3) / (np.sqrt(8 * np.log(2)) * sizes)).tolist())
    smoothed = _filtered(np.where(seen, grid, 0).astype(grid.dtype), sigmas)
    if not seen.all():
        smoothed /= _weights(np.packbits(seen).tobytes(), grid.shape, sigmas)
    return smoothed


@lru_cache(maxsize=2)  # the volumes of a run mostly have the same voxels
def _weights(packed: bytes, shape: tuple[int, ...], sigmas: tuple[float, ...]) -> NDArray[np.float64]:
    """Weight of the voxels that are there in the smoothed value of each of them; NaN at the others."""
    bits = np.frombuffer(packed, np.uint8)
    seen = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
    return np.where(seen, _filtered(seen.astype(np.float64), sigmas), np.nan)


def _filtered(values: NDArray[Any], sigmas: tuple[float, ...]) -> NDArray[Any]:
    """Values filtered along each axis, in place."""
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            gaussian_filter1d(values, sigma, output=values, axis=axis)
    return values
