"""Pictures drawn with matplotlib alone."""

import numpy as np
from numpy.typing import NDArray

from daskglm.models.group import GroupResult
from daskglm.schema.datasets import space_of


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
    peak = np.unravel_index(np.abs(truth).argmax(), truth.shape)
    other = np.unravel_index((-truth * np.sign(truth[peak])).argmax(), truth.shape)
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels))
    for row, index in enumerate((peak[2], other[2])):
        for column, (title, values, colours, (low, high)) in enumerate(panels):
            axis = axes[row, column]
            shown = axis.imshow(values[:, :, index].T, origin="lower", cmap=colours, vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title)
                figure.colorbar(shown, ax=axes[:, column], location="bottom", shrink=0.8)
            if column == 0:
                height = space.affine[2, 2] * index + space.affine[2, 3]
                axis.set_ylabel(f"z = {height:.0f} mm")
    figure.suptitle(f"daskglm demo: {len(result.design)} simulated subjects, ~ age + sex")
    figure.savefig(path, dpi=110)
