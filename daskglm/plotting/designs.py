"""Pictures of designs."""

import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from daskglm.design.diagnostics import leverage
from daskglm.errors import listing
from daskglm.plotting.canvas import BLUE, GREY, RED, axes_for, finish, plain, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_leverage(
    design_matrix: pd.DataFrame, *, axes: "Axes | None" = None, title: str | None = None,
    output_file: "str | os.PathLike[str] | None" = None,
) -> "Axes":  # fmt: skip
    """Plot how far the fit follows each row of a design.

    Parameters
    ----------
    design_matrix : (n, p) DataFrame
        Design; its index names the rows.
    axes : Axes, optional
        Where to draw.
    title : str, optional
        Above the plot.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Axes
        Rows above ``2 p / n`` (p: the rank) are marked, and named in the legend.

    Raises
    ------
    DesignError
        Where a column repeats a name or is not finite numbers.
    """
    from matplotlib.ticker import MaxNLocator

    values = leverage(design_matrix)
    limit = 2 * float(values.sum()) / len(values)
    high = values.to_numpy() > limit
    numbers = np.arange(1, len(values) + 1)
    axes = axes_for(axes)
    axes.plot(numbers[~high], values[~high], "o", color=BLUE, markersize=5, label="rows of the design")
    if high.any():
        names = plain(wrapped(f"above 2p/n: {listing(values.index[high], 5)}", 60))
        axes.plot(numbers[high], values[high], "D", color=RED, markersize=7, label=names)
    axes.axhline(limit, color=GREY, linestyle="--", label=f"2p/n = {limit:.3g}")
    axes.set(xlabel="Row of the design", ylabel="Leverage (0 to 1)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, title or "Leverage: how far the fit follows each row", output_file)
    return axes
