"""Pictures of maps: coverage, and all contrasts of a study on one sheet."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskglm.errors import ParameterError
from daskglm.graph.glm import fewest
from daskglm.inference.thresholding import check_number, read_map
from daskglm.models.second_level import SecondLevelModel
from daskglm.plotting.canvas import RED, nilearn_plotting, plain, save, wrapped
from daskglm.schema.datasets import space_of
from daskglm.schema.space import VolumeSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Steps of the scale: more are not told apart.
_STEPS = 6
_SLICES = 7


def plot_coverage(
    n: Any, minimum: int | None = None, *, display_mode: str = "z", cut_coords: Any = None,
    title: str | None = None, output_file: "str | os.PathLike[str] | None" = None,
) -> "Figure":  # fmt: skip
    """Map how many images have a value in each voxel, and where they are too few.

    Parameters
    ----------
    n : SecondLevelModel, xarray.Dataset, image or path
        A fitted model, a fit or the maps of a permutation test (what has ``n (voxel)``), or a map of n.
    minimum : int, optional
        Voxels with fewer images are set apart as not tested; by default what `min_coverage` of a model asks for,
        else 1.
    display_mode, cut_coords
        As of ``nilearn.plotting.plot_img``; by default up to 7 axial slices, evenly spread.
    title : str, optional
        Above the map.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Figure
        The legend tells how many voxels each step has.

    Raises
    ------
    MissingDependencyError
        Where nilearn is not installed.
    ParameterError
        Where `n` is none of these, or `minimum` no number of images.
    """
    plotting = nilearn_plotting()
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    space, counts, fewest_images = _counts(n)
    minimum = fewest_images if minimum is None else int(check_number("minimum", minimum, 0))
    edges = _steps(counts, minimum)
    step = np.searchsorted(edges, counts, side="right") - 1
    colours = _colours(edges, minimum)
    sizes = np.bincount(step, minlength=len(colours))
    if cut_coords is None and display_mode == "z":
        cut_coords = _axial_cuts(space)
    height = 3.3 if display_mode in ("x", "y", "z") else 4.6
    figure = plt.figure(figsize=(9.0, height))
    plotting.plot_img(
        space.to_image(step + 1.0, outside=0), cmap=ListedColormap(colours), vmin=0.5, vmax=len(colours) + 0.5,
        threshold=0.5, draw_cross=False, colorbar=False, resampling_interpolation="nearest",
        figure=figure, axes=(0.0, 0.02, 1.0, 1 - 1.2 / height),
        display_mode=display_mode, cut_coords=cut_coords,
    )  # fmt: skip
    labels = _labels(edges, counts, minimum, sizes)
    patches = [
        Patch(facecolor=colour, edgecolor="black", linewidth=0.5, label=label)
        for colour, label, size in zip(colours, labels, sizes, strict=True)
        if size
    ]
    # Above the map: nilearn's mosaic takes all of the room below.
    figure.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.3 / height), ncols=3, frameon=False)
    figure.suptitle(plain(wrapped(title or "Images with a value in each voxel")), y=1 - 0.08 / height, va="top")
    save(figure, output_file)
    return figure


def plot_contrasts(
    maps: Mapping[str, Any], threshold: float = 3.0, *, columns: int = 2, vmax: float | None = None,
    label: str = "z-score", title: str | None = None, output_file: "str | os.PathLike[str] | None" = None,
) -> "Figure":  # fmt: skip
    """Draw the maps of many contrasts on one sheet, as glass brains with one scale.

    Parameters
    ----------
    maps : mapping of str to image or path
        Name to map, such as what ``model.compute_contrasts`` returns.
    threshold : float
        Values up to this, of either sign, are not shown.
    columns : int
        Maps side by side.
    vmax : float, optional
        End of the scale; by default the largest absolute value of all maps.
    label : str
        What the maps are, under the scale.
    title : str, optional
        Above the sheet.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Figure
        Above each map its name and the number of voxels shown.

    Raises
    ------
    MissingDependencyError
        Where nilearn is not installed.
    ParameterError
        Where there is no map, or the threshold is below 0.
    """
    plotting = nilearn_plotting()
    import matplotlib.pyplot as plt

    check_number("threshold", threshold, 0.0)
    if not maps:
        raise ParameterError("a sheet has at least one map, but there is none")
    read = {name: read_map(image) for name, image in maps.items()}
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)) for _, values in read.values())
    vmax = max(largest, 1.001 * threshold) if vmax is None else float(check_number("vmax", vmax, threshold))
    columns = min(int(check_number("columns", columns, 1)), len(read))
    rows = -(-len(read) // columns)
    height = 2.3 * rows + 1.35
    figure = plt.figure(figsize=(5.4 * columns, height))
    top, bottom = 1 - 0.5 / height, 0.9 / height
    for index, (name, (space, values)) in enumerate(read.items()):
        row, column = divmod(index, columns)
        each = (top - bottom) / rows
        place = (column / columns, top - (row + 1) * each, 1 / columns, each)
        shown = np.where(np.isfinite(values), values, 0.0)
        above = int((np.abs(shown) > threshold).sum())
        above_it = plain(wrapped(name, 52, 1)) + (f"\n{above:,} voxels" if above else "\nnone beyond the threshold")
        left, low, width, tall = place
        figure.text(left + width / 2, low + tall, above_it, ha="center", va="top", fontsize=11)
        plotting.plot_glass_brain(
            space.to_image(np.where(np.abs(shown) > threshold, shown, 0.0)) if above else None, figure=figure,
            axes=(left, low, width, tall - 0.42 / height), threshold=1e-6, vmax=vmax, vmin=-vmax,
            plot_abs=False, colorbar=False, cmap="RdBu_r",
        )  # fmt: skip
    _scale_below(figure, threshold, vmax, height, label)
    figure.suptitle(plain(wrapped(title or f"Values beyond {threshold:g}, of either sign")), y=1 - 0.08 / height)
    save(figure, output_file)
    return figure


def _counts(n: Any) -> tuple[VolumeSpace, NDArray[np.int64], int]:
    """Voxels, the number of images in each, and the fewest that a model takes."""
    if isinstance(n, SecondLevelModel):
        fit = n._fit_of(None) if None in n.fits_ or len(n.fits_) == 1 else next(iter(n.fits_.values()))
        return space_of(fit), fit["n"].values.astype(np.int64), fewest(n.min_coverage, len(n.design_matrix_))
    if isinstance(n, xr.Dataset):
        if "n" not in n:
            raise ParameterError("a dataset of coverage has a variable n (voxel), but this one has none")
        return space_of(n), n["n"].values.astype(np.int64), 1
    space, values = read_map(n)
    # Outside of a mask a map of n is zero, and so it is where no image has a value: neither is drawn.
    keep = np.isfinite(values) & (values > 0)
    if not keep.any():
        raise ParameterError("a map of n is above zero somewhere, but this one is not; check the image")
    return space.select(keep), values[keep].astype(np.int64), 1


def _axial_cuts(space: VolumeSpace) -> NDArray[np.float64]:
    """Heights of slices in mm, evenly spread over the voxels."""
    heights = np.unique(space.coordinates(np.arange(space.voxels.size))[:, 2].round(3))
    if heights.size <= _SLICES:
        return heights
    return heights[np.linspace(0, heights.size - 1, _SLICES + 2).round().astype(int)[1:-1]]


def _steps(counts: NDArray[np.int64], minimum: int) -> list[int]:
    """Lowest number of each step of the scale; the first is of the voxels below the minimum, if there are any."""
    highest = int(counts.max())
    lowest = max(minimum, int(counts.min()))
    if lowest > highest:
        return [int(counts.min())]
    edges = np.unique(np.linspace(lowest, highest, min(_STEPS, highest - lowest + 1)).round().astype(int)).tolist()
    return [int(counts.min()), *edges] if counts.min() < minimum else edges


def _colours(edges: list[int], minimum: int) -> list[Any]:
    """Colour of each step: red-orange below the minimum, then from dark to light."""
    from matplotlib import colormaps

    below = [RED] if edges[0] < minimum else []
    n_rest = len(edges) - len(below)
    return below + [tuple(colormaps["cividis"](value)) for value in np.linspace(0.15, 1.0, n_rest)]


def _labels(edges: list[int], counts: NDArray[np.int64], minimum: int, sizes: NDArray[np.int64]) -> list[str]:
    """What each step of the scale is."""
    ends = [*(start - 1 for start in edges[1:]), int(counts.max())]
    labels = []
    for start, end, size in zip(edges, ends, sizes, strict=True):
        images = f"{start:,}" if start == end else f"{start:,} to {end:,}"
        if start < minimum:
            images = f"under {minimum:,}, not tested"
        labels.append(f"{images} ({size:,} {'voxel' if size == 1 else 'voxels'})")
    return labels


def _scale_below(figure: "Figure", threshold: float, vmax: float, height: float, label: str) -> None:
    """The one scale of a sheet, grey where nothing is shown."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = colormaps["RdBu_r"](np.linspace(0, 1, 256))
    colours[np.abs(np.linspace(-vmax, vmax, 256)) <= threshold] = (0.75, 0.75, 0.75, 1.0)
    scale = ScalarMappable(Normalize(-vmax, vmax), ListedColormap(colours))
    place = figure.add_axes((0.3, 0.62 / height, 0.4, 0.16 / height))
    # A number is half an inch wide; those of the threshold are left out where they would meet others.
    room = 0.5 / (0.4 * figure.get_figwidth()) * 2 * vmax
    ticks = [-vmax, -threshold, 0.0, threshold, vmax] if room < threshold < vmax - room else [-vmax, 0.0, vmax]
    figure.colorbar(scale, cax=place, orientation="horizontal", ticks=ticks, format="%.3g", label=plain(label))
