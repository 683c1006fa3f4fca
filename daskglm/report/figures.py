"""Pictures drawn with matplotlib alone."""

import os
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from daskglm.io.receipts import unit
from daskglm.models.cohort import CohortResult
from daskglm.models.cohort_units import map_path
from daskglm.models.group import GroupResult
from daskglm.plotting.canvas import any_letters, plain, wrapped
from daskglm.schema.datasets import space_of
from daskglm.schema.space import VolumeSpace


def draw_demo(result: GroupResult, truth: NDArray[np.float64], mask: NDArray[np.bool_], path: str) -> None:
    """Draw the true effect, the estimate, z and the number of observations of the demo, side by side.

    Parameters
    ----------
    result : GroupResult
        The demo's analysis, with a contrast "age".
    truth : (X, Y, Z) float64
        True effect.
    mask : (X, Y, Z) bool
        Brain.
    path : str
        PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    space = space_of(result.maps)
    maps = result.maps.sel(contrast="age")

    def volume(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asanyarray(space.to_image(values.astype(np.float64)).dataobj)

    limit = float(np.abs(truth).max())
    panels = [
        ("true effect of age, a year", np.where(mask, truth, np.nan), "RdBu_r", (-limit, limit)),
        ("estimate", volume(maps["effect_size"].sel(component=0).values), "RdBu_r", (-limit, limit)),
        ("z score", volume(maps["z_score"].values), "RdBu_r", (-8.0, 8.0)),
        ("subjects with data", volume(result.fit["n"].values), "viridis", (0.0, float(len(result.design)))),
    ]
    highest = np.unravel_index(truth.argmax(), truth.shape)
    lowest = np.unravel_index(truth.argmin(), truth.shape)
    # An axial slice through the rise and a coronal one through the fall, which shows the missing tops as well.
    cuts: list[tuple[str, Any]] = [
        (f"z = {_position(space, 2, highest):.0f} mm", np.s_[:, :, highest[2]]),
        (f"y = {_position(space, 1, lowest):.0f} mm", np.s_[:, lowest[1], :]),
    ]
    figure = Figure(figsize=(12, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cuts), len(panels))
    for row, (place, cut) in enumerate(cuts):
        axes[row, 0].set_ylabel(place)
        for column, (title, values, colours, (low, high)) in enumerate(panels):
            axis = axes[row, column]
            shown = axis.imshow(values[cut].T, origin="lower", cmap=colours, vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title)
                ticks = [low, (low + high) / 2, high]
                figure.colorbar(shown, ax=axes[:, column], location="bottom", shrink=0.8, ticks=ticks, format="%.3g")
    figure.suptitle(f"daskglm demo: {len(result.design)} simulated subjects, ~ age + sex")
    figure.savefig(path, dpi=110)


def draw_first_level(result: CohortResult) -> list[str]:
    """Draw z of the first subjects, over their runs, in the axial slice of the largest |z|: a picture a contrast.

    Parameters
    ----------
    result : CohortResult
        A first-level analysis.

    Returns
    -------
    list of str
        PNG files in ``figures/`` of the result folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for contrast, label in result.labels.items():
        shown = result.drawn(contrast)
        if not shown:
            continue
        rows = -(-len(shown) // 4)
        figure = Figure(figsize=(3.2 * min(len(shown), 4) + 1.2, 3.2 * rows + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, min(len(shown), 4), squeeze=False)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, item in zip(axes.flat, shown, strict=False):
            z = np.nan_to_num(np.asanyarray(nib.load(map_path(item, label, "z")).dataobj))
            brain = np.asanyarray(nib.load(f"{item.folder}/{item.name}_desc-brain_mask.nii.gz").dataobj) != 0
            cut = int(np.unravel_index(np.abs(z).argmax(), z.shape)[2])
            picture = np.where(brain, z, np.nan)[:, :, cut].T
            drawn = axis.imshow(picture, origin="lower", cmap="RdBu_r", vmin=-8, vmax=8, interpolation="nearest")
            axis.set(title=f"{item.subject}, slice {cut}: {z.min():.2f} to {z.max():.2f}", xticks=[], yticks=[])
            axis.set_facecolor("0.85")
        figure.colorbar(drawn, ax=axes, label="z", shrink=0.7)
        figure.suptitle(plain(wrapped(f"{contrast}, over runs")))
        receipt, key = result.picture(contrast)
        paths.append(receipt.removesuffix(".json") + ".png")
        with unit(receipt, {"key": key, **result.stamp}, [os.path.basename(paths[-1])]), any_letters():
            figure.savefig(paths[-1], dpi=110)
    return paths


def _position(space: VolumeSpace, axis: int, index: tuple[np.intp, ...]) -> float:
    """Position along an axis of a voxel, in mm, where the affine is diagonal."""
    return float(space.affine[axis, axis] * index[axis] + space.affine[axis, 3])
