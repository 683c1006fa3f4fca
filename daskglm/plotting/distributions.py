"""Pictures of distributions: z over voxels, and nulls of permutation tests."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from daskglm.errors import ContrastError, ImageError, ParameterError, listing
from daskglm.inference.thresholding import analysed_map, check_number
from daskglm.kernels.null import corrected_p, critical_value
from daskglm.plotting.canvas import BLUE, GREY, ORANGE, RED, axes_for, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = {"size": "voxels", "mass": "sum of the statistic over voxels", "tfce": "TFCE"}
_BINS = (10, 120)


def plot_z_histogram(
    z_map: Any, mask_img: Any = None, *, threshold: float = 1.96, axes: "Axes | None" = None,
    title: str | None = None, output_file: "str | os.PathLike[str] | None" = None,
) -> "Axes":  # fmt: skip
    """Plot the z of all voxels against the standard normal, which they follow where there is no effect.

    Parameters
    ----------
    z_map : image, path, or array of any shape
        z-scores; of an array its finite values.
    mask_img : image or path, optional
        Voxels of an image to count; by default those that are not zero.
    threshold : float
        The tails beyond plus and minus this are marked, and their share is told.
    axes : Axes, optional
        Where to draw.
    title : str, optional
        Above the plot.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Axes
        Histogram as a density, the normal's density, and the tails.

    Raises
    ------
    ImageError, ParameterError, SpaceError
        Where there is no finite z, or the threshold is not above 0.
    """
    check_number("threshold", threshold, np.finfo(float).tiny)
    values = _z_values(z_map, mask_img)
    edges = _edges(values)
    axes = axes_for(axes)
    density, _ = np.histogram(values, edges, density=True)
    axes.stairs(density, edges, fill=True, color=BLUE, alpha=0.6, label=f"{values.size:,} voxels")
    grid = np.linspace(edges[0], edges[-1], 401)
    axes.plot(grid, stats.norm.pdf(grid), color="black", linewidth=1.5, label="standard normal (no effect)")
    beyond = {"below": float((values < -threshold).mean()), "above": float((values > threshold).mean())}
    for place, end in (("below", edges[0]), ("above", edges[-1])):
        side = -threshold if place == "below" else threshold
        axes.axvline(side, color=RED, linestyle="--", linewidth=1.2)
        if abs(end) > threshold and np.sign(end) == np.sign(side):
            axes.axvspan(side, end, color=ORANGE, alpha=0.2, linewidth=0, zorder=0)
    expected = float(stats.norm.sf(threshold))
    axes.set(
        xlabel="z-score (standard deviations)", ylabel="Density (share of voxels per unit of z)", xlim=edges[[0, -1]]
    )
    axes.plot(
        [], [], color=RED, linestyle="--",
        label=f"below $-${threshold:g}: {_percent(beyond['below'])}\nabove {threshold:g}: {_percent(beyond['above'])}"
              f"\n(normal: {_percent(expected)} each)",
    )  # fmt: skip
    finish(axes, title or "z-scores of all voxels", output_file)
    return axes


def plot_null(
    null: Any, observed: float | None = None, *, contrast: str | None = None, statistic: str = "stat",
    alpha: float = 0.05, axes: "Axes | None" = None, title: str | None = None,
    output_file: "str | os.PathLike[str] | None" = None,
) -> "Axes":  # fmt: skip
    """Plot the null distribution of a permutation test, its threshold and what the data reach.

    Parameters
    ----------
    null : xarray.Dataset or (m,) array
        Maps of :func:`daskglm.permutation_test` (`maps` of :func:`daskglm.permutation_analysis`), or the largest
        statistic of each rearrangement (``h0_max_t`` of :func:`daskglm.non_parametric_inference`).
    observed : float, optional
        Largest statistic of the data; a dataset has it.
    contrast : str, optional
        Which of a dataset's contrasts; may be left out where it has one.
    statistic : {"stat", "tfce", "size", "mass"}
        Which of its nulls, and the unit on the axis.
    alpha : float
        The threshold is what a statistic has to exceed for a corrected p of at most this.
    axes : Axes, optional
        Where to draw.
    title : str, optional
        Above the plot.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Axes

    Raises
    ------
    ContrastError, ParameterError
        Where there is no such contrast or statistic, or no number in the null.
    """
    check_number("alpha", alpha, 0.0, 1.0)
    label = _UNITS.get(statistic, "t or F")
    if isinstance(null, xr.Dataset):
        chosen = _of_contrast(null, contrast, statistic)
        observed, label = _observed(chosen, statistic) if observed is None else observed, _unit(chosen, statistic)
        name = str(chosen["contrast"].values)
        title = title or f"Null distribution, {name}"
        null = chosen[f"h0_max_{statistic}"].values
    values = np.asarray(null, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        raise ParameterError("a null distribution has at least one finite number, but this has none")
    limit = critical_value(values, alpha)
    axes = axes_for(axes)
    axes.hist(values, bins=_bins(values), color=GREY, alpha=0.6, label=f"{values.size:,} rearrangements")
    if np.isfinite(limit):
        axes.axvline(limit, color=RED, linestyle="--", label=f"{limit:.4g}: more is a corrected p of {100 * alpha:g}%")
    if observed is not None:
        p = float(corrected_p(np.array([observed], dtype=np.float64), values)[0])
        axes.axvline(observed, color=BLUE, linewidth=2.5, label=f"{observed:.4g}: largest of the data, p = {p:.3g}")
    axes.set(xlabel=f"Largest statistic of a map ({label})", ylabel="Rearrangements")
    finish(axes, title or "Null distribution", output_file)
    return axes


def _z_values(z_map: Any, mask_img: Any) -> NDArray[np.float64]:
    """Finite z of the voxels to count."""
    if isinstance(z_map, (str, os.PathLike)) or hasattr(z_map, "dataobj"):
        return analysed_map(z_map, mask_img)[1]
    if mask_img is not None:
        raise ParameterError("mask_img goes with an image, but z_map is an array; index the array instead")
    values = np.asarray(z_map, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        raise ImageError("a histogram needs finite z-scores, but there are none; check the map")
    return values


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of bins over the values and the middle of the normal distribution."""
    low, high = min(values.min(), -4.0), max(values.max(), 4.0)
    return np.linspace(low, high, int(np.clip((high - low) / 0.2, *_BINS)) + 1)


def _bins(values: NDArray[np.float64]) -> int:
    """Number of bins."""
    return int(np.clip(np.sqrt(values.size), 10, 60))


def _percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.3g}%"


def _of_contrast(maps: xr.Dataset, contrast: str | None, statistic: str) -> xr.Dataset:
    """The maps of one contrast, which have a null of the statistic."""
    names = [str(name) for name in maps["contrast"].values]
    if contrast is None and len(names) == 1:
        contrast = names[0]
    if contrast not in names:
        raise ContrastError(f"the test has contrasts {listing(names)}, but {contrast!r} was asked for; name one")
    nulls = [str(name).removeprefix("h0_max_") for name in maps.data_vars if str(name).startswith("h0_max_")]
    if statistic not in nulls:
        raise ParameterError(
            f"the test has nulls of {listing(nulls)}, but {statistic!r} was asked for; clusters need a threshold, and "
            "TFCE tfce=True"
        )
    return maps.sel(contrast=contrast)


def _observed(chosen: xr.Dataset, statistic: str) -> float:
    """The largest statistic of the data, on the scale of the null."""
    shown = "scaled_stat" if statistic == "stat" and "scaled_stat" in chosen else statistic
    values = chosen[shown].values
    return float(np.fmax.reduce(np.abs(values) if chosen["two_sided"] else values))


def _unit(chosen: xr.Dataset, statistic: str) -> str:
    """What the statistic of a dataset is measured in."""
    if statistic != "stat":
        return _UNITS[statistic]
    kind = str(chosen["stat_type"].values)
    return f"{kind}, on a scale even over voxels" if "scaled_stat" in chosen else kind
