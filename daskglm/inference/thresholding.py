"""Thresholds of statistical images, in voxels and in clusters, with nilearn's interface."""

import os
import warnings
from collections.abc import Iterable
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskglm.errors import ImageError, ParameterError, SpaceError, check_choice
from daskglm.io.nifti import mask_of_values, read_mask, read_values
from daskglm.kernels import thresholds
from daskglm.kernels.adjacency import grid_adjacency
from daskglm.kernels.clusters import label_clusters
from daskglm.kernels.clusters_table import large
from daskglm.schema.space import VolumeSpace, one_volume

Array = NDArray[np.float64]

# nilearn's connectivity: voxels that share a face.
_CONNECTIVITY = 6
_HEIGHT_CONTROLS = ("fpr", "fdr", "bonferroni", None)
_DEFAULT_THRESHOLD = 3.0
# nilearn looks for the value of the background this many voxels deep.
_BORDER = 2


def fdr_threshold(z_vals: ArrayLike, alpha: float) -> float:
    """Threshold of the procedure of Benjamini and Hochberg.

    Parameters
    ----------
    z_vals : array_like of float
        z values, of any shape; their p is one-sided. Those that are not finite count for nothing.
    alpha : float
        False discovery rate, from 0 to 1.

    Returns
    -------
    float
        A value is significant where it is larger; infinite where none is.

    Raises
    ------
    ParameterError
        Where alpha is outside 0 to 1.

    Examples
    --------
    >>> round(fdr_threshold([4.0, 3.5, 2.8, 2.5, 1.9, 1.2], alpha=0.05), 2)
    1.9
    """
    check_number("alpha", alpha, 0, 1)
    values = np.asarray(z_vals, dtype=np.float64)
    return thresholds.fdr_threshold(values[np.isfinite(values)], alpha)


def threshold_stats_img(
    stat_img: Any = None,
    mask_img: Any = None,
    alpha: float = 0.001,
    threshold: float | None = None,
    height_control: str | None = "fpr",
    cluster_threshold: int = 0,
    two_sided: bool = True,
) -> tuple[Any, float]:
    """Set what is not significant in a z map to 0.

    Parameters
    ----------
    stat_img : image or path, optional
        Map of z scores. NaN and infinity are no values: they are set to 0 and are not among the n tests. None:
        only the threshold is computed, with height_control "fpr" or None.
    mask_img : image, path or fitted masker, optional
        Voxels to analyse, on the grid of the map; of a masker, only its mask is used. None: the voxels unlike the
        background, which is NaN where the border of the map holds NaN and the median of the border elsewhere.
    alpha : float
        Error rate, from 0 to 1; halved for a two-sided threshold.
    threshold : float, optional
        Threshold with height_control None, 3.0 by default. One-sided, a negative one keeps what is at or under it.
    height_control : {"fpr", "fdr", "bonferroni", None}
        What alpha is: the rate of false positives of a voxel, z = Phi^-1(1 - alpha); the false discovery rate
        (Benjamini and Hochberg); the familywise rate, z = Phi^-1(1 - alpha / n). None: `threshold` is used.
    cluster_threshold : int
        Clusters of one sign with fewer voxels are set to 0; voxels that share a face are of one cluster.
    two_sided : bool
        Keep |z| >= threshold, not only z >= threshold.

    Returns
    -------
    image : Nifti1Image or None
        float64; 0 where nothing is significant and outside the mask.
    threshold : float
        In z; infinite where no voxel is significant with "fdr".

    Raises
    ------
    ParameterError
        Where a parameter has a value that it cannot have, or there is no map and it is needed.
    ImageError, SpaceError
        Where map and mask cannot be used, or have different grids.
    """
    check_parameters(alpha, threshold, height_control, cluster_threshold, two_sided)
    tail = alpha / 2 if two_sided else alpha
    if height_control is None:
        if threshold is None:
            warn_of_default_threshold()
        level = _DEFAULT_THRESHOLD if threshold is None else float(threshold)
    elif threshold is not None:
        message = f"threshold={threshold} is not used with height_control={height_control!r}, only with None"
        warnings.warn(message, UserWarning, stacklevel=2)
    if height_control == "fpr":
        level = thresholds.z_threshold(tail)
    if stat_img is None:
        if height_control in ("fdr", "bonferroni"):
            raise ParameterError(f"height_control {height_control!r} needs stat_img, got None; give a map")
        return None, level
    space, values = analysed_map(stat_img, mask_img)
    if height_control == "fdr":
        level = thresholds.fdr_threshold(np.abs(values) if two_sided else values, tail)
    elif height_control == "bonferroni":
        level = thresholds.z_threshold(tail / values.size)
    if two_sided:
        significant = np.abs(values) >= level
    elif height_control is None and level < 0:
        significant = values <= level
    else:
        significant = values >= level
    kept = np.where(significant, values, 0.0)
    if cluster_threshold > 0:
        space, kept = space.select(significant), kept[significant]
        kept[~large(_signed_clusters(space, kept), cluster_threshold)] = 0.0
    return space.to_image(kept, outside=0.0), level


def cluster_level_inference(
    stat_img: Any,
    mask_img: Any = None,
    threshold: float | Iterable[float] = 3.0,
    alpha: float = 0.05,
    verbose: int = 0,
) -> Any:
    """Proportion of truly active voxels in each cluster, with confidence 1 - alpha for all clusters at once.

    All-resolutions inference (Rosenblatt, Finos, Weeda, Solari and Goeman, NeuroImage 181, 2018).

    Parameters
    ----------
    stat_img : image or path
        Map of z scores. NaN and infinity are no values: they are in no cluster and not among the tests.
    mask_img : image, path or fitted masker, optional
        As in :func:`threshold_stats_img`.
    threshold : float or iterable of float
        Clusters are the voxels with z above it that share faces. Of several, a cluster of a higher threshold
        has its own proportion, not that of the cluster of a lower one around it.
    alpha : float
        Above 0, at most 1.
    verbose : int
        Not used: nilearn draws the p values for 1.

    Returns
    -------
    Nifti1Image
        float64, from 0 to 1: a lower bound of the proportion in the cluster that a voxel is in; 0 elsewhere.

    Raises
    ------
    ParameterError
        Where a threshold is negative or no number, or alpha is outside its range.
    ImageError, SpaceError
        Where map and mask cannot be used, or have different grids.
    """
    levels = [float(check_number("threshold", level, 0)) for level in np.ravel(np.asarray(threshold, dtype=object))]
    if check_number("alpha", alpha, 0, 1) == 0:
        raise ParameterError("alpha must be above 0 and at most 1, got 0; give 0.05, say")
    space, values = analysed_map(stat_img, mask_img)
    hommel = thresholds.hommel_value(values, alpha)
    proportion = np.zeros(values.size)
    for level in sorted(levels):
        above = values > level
        labels = clusters_of(space.select(above), np.ones(int(above.sum()), dtype=bool))
        fractions = thresholds.true_positive_fractions(values[above], labels, hommel, alpha)
        proportion[above] = fractions[labels - 1]
    return space.to_image(proportion, outside=0.0)


def clusters_of(space: VolumeSpace, keep: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Clusters of some voxels of a volume: those that share faces are of one cluster.

    Parameters
    ----------
    space : VolumeSpace
        Of V voxels.
    keep : (V,) bool
        Voxels to connect.

    Returns
    -------
    (V,) int32
        Cluster of each voxel, from 1; 0: none.
    """
    adjacency = grid_adjacency(space.shape, space.voxels, _CONNECTIVITY)
    return label_clusters(keep.astype(np.float64), adjacency, 0.0).astype(np.int32)


def analysed_map(stat_img: Any, mask_img: Any = None) -> tuple[VolumeSpace, Array]:
    """The values of a map in the voxels to analyse.

    Parameters
    ----------
    stat_img : image or path
        A 3-D map.
    mask_img : image, path, fitted masker or None
        As in :func:`threshold_stats_img`.

    Returns
    -------
    space : VolumeSpace
        Of the V voxels that are finite and in the mask.
    values : (V,) float64
        The map there.

    Raises
    ------
    ParameterError, ImageError, SpaceError
        Where map or mask is none, they have different grids, or no voxel is left.
    """
    space, values = read_map(stat_img)
    grid = values.reshape(space.shape, order="F")
    inside = _foreground(grid) if mask_img is None else _read_mask(mask_img, space)
    keep = inside.ravel(order="F") & np.isfinite(values)
    if not keep.any():
        raise ImageError(
            f"a statistical image has finite values in its mask, but of {int(inside.sum())} voxels in the mask none "
            "is finite; check stat_img and mask_img"
        )
    return space.select(keep), values[keep]


def read_map(stat_img: Any) -> tuple[VolumeSpace, Array]:
    """All values of a map.

    Parameters
    ----------
    stat_img : image or path
        A 3-D map.

    Returns
    -------
    space : VolumeSpace
        Of all V voxels of the grid.
    values : (V,) float64
        The map.

    Raises
    ------
    ParameterError
        Where it is neither an image nor a path.
    ImageError
        Where it is not 3-D, or cannot be read.
    """
    if isinstance(stat_img, (str, os.PathLike)):
        header, stored = read_values(os.fspath(stat_img))
        shape, affine, values = header.shape, header.affine, stored
        raw = nib.Nifti1Header(header.raw, check=False)
    elif hasattr(stat_img, "dataobj"):
        values = np.asanyarray(stat_img.dataobj)
        shape, affine, raw = values.shape, stat_img.affine, stat_img.header
    else:
        raise ParameterError(f"stat_img must be a nibabel image or a path, got {type(stat_img).__name__}")
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise ImageError(f"stat_img must be one 3-D map, got shape {tuple(shape)}; take one volume of it")
    empty = nib.Nifti1Image(np.broadcast_to(np.float32(0), shape[:3]), affine, raw)
    return VolumeSpace.from_image(empty), values.ravel(order="F").astype(np.float64)


def check_number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Check that a parameter is a number in a range.

    Parameters
    ----------
    name : str
        Its name, for the message.
    value : object
        What was given.
    low, high : float
        The range, both included.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ParameterError
        Naming it, its range and its value.
    """
    # A bool is an int for Python, but no threshold.
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ParameterError(f"{name} must be a number from {low} to {high}, got {value!r}")
    return value


def warn_of_default_threshold() -> None:
    """Warn that a threshold that nobody chose is used."""
    warnings.warn(
        f"height_control=None takes threshold, which is not given: {_DEFAULT_THRESHOLD} is used, nilearn's until 0.15; "
        "give a threshold",
        FutureWarning,
        stacklevel=4,
    )


def check_parameters(alpha: Any, threshold: Any, height_control: Any, cluster_threshold: Any, two_sided: bool) -> None:
    """Check what users gave to :func:`threshold_stats_img`.

    Parameters
    ----------
    alpha, threshold, height_control, cluster_threshold, two_sided
        As there.

    Raises
    ------
    ParameterError
        Naming the one that has a value that it cannot have.
    """
    check_number("alpha", alpha, 0, 1)
    check_number("cluster_threshold", cluster_threshold, 0)
    check_choice("height_control", height_control, _HEIGHT_CONTROLS)
    if threshold is not None:
        check_number("threshold", threshold)
        if two_sided and height_control is None and threshold < 0:
            raise ParameterError(f"a two-sided threshold must not be negative, got {threshold}; give two_sided=False")


def _signed_clusters(space: VolumeSpace, values: Array) -> NDArray[np.int32]:
    """Clusters of the positive voxels and of the negative ones, (V,); none has both."""
    positive = clusters_of(space, values > 0)
    negative = clusters_of(space, values < 0)
    return np.where(negative > 0, negative + positive.max(initial=0), positive).astype(np.int32)


def _foreground(grid: Array) -> NDArray[np.bool_]:
    """The voxels of a map (X, Y, Z) that are not background, by nilearn's rule: the border tells."""
    sides = [side for axis in range(3) for side in (_slab(axis, _BORDER), _slab(axis, -_BORDER))]
    # Edges and corners count as often as they are in a slab, as in nilearn.
    border = np.concatenate([grid[side].ravel() for side in sides])
    if np.isnan(border).any():
        return ~np.isnan(grid)
    background = grid == np.median(border)
    # The median of a border that is not constant is a value like others, maybe that of one voxel.
    return ~background if background.sum() > 1 else np.ones(grid.shape, dtype=bool)


def _slab(axis: int, depth: int) -> tuple[slice, ...]:
    """The first voxels of an axis, or for a negative depth the last ones."""
    slices = [slice(None)] * 3
    slices[axis] = slice(depth) if depth > 0 else slice(depth, None)
    return tuple(slices)


def _read_mask(mask_img: Any, space: VolumeSpace) -> NDArray[np.bool_]:
    """The mask (X, Y, Z) that a user gave, checked against the grid of the map."""
    if hasattr(mask_img, "mask_img_"):
        mask_img = mask_img.mask_img_
    elif hasattr(mask_img, "mask_img") and not hasattr(mask_img, "dataobj"):
        raise ImageError("a masker given as mask_img is fitted, but this one is not; call its fit first")
    if isinstance(mask_img, (str, os.PathLike)):
        header, mask = read_mask(os.fspath(mask_img))
        affine = header.affine
    elif hasattr(mask_img, "dataobj"):
        mask, affine = one_volume(mask_of_values(np.asanyarray(mask_img.dataobj), "mask_img")), mask_img.affine
    else:
        raise ParameterError(f"mask_img must be an image, a path, a fitted masker or None, got {mask_img!r}")
    try:
        space.check_same_grid(mask.shape, affine, "mask_img")
    except SpaceError as error:
        raise SpaceError(
            f"stat_img and mask_img share one grid, but theirs are {space.shape} and {mask.shape}, with affines "
            f"{np.round(space.affine, 4).tolist()} and {np.round(affine, 4).tolist()}; resample the mask to the map"
        ) from error
    if not mask.any():
        raise SpaceError("a mask keeps at least one voxel, but mask_img is empty; give another mask_img")
    return mask
