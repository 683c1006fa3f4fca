"""The pictures of a report, as PNG."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.plotting import plot_coverage, plot_leverage, plot_null, plot_z_histogram
from daskglm.plotting.canvas import any_letters, nilearn_plotting, plain

_DPI = 100
# More volumes, regressors or ticks than this cannot be told apart in a picture.
_NAMED = 40


def design_picture(design: pd.DataFrame) -> bytes:
    """The design matrix, by nilearn, columns over their length.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design.

    Returns
    -------
    bytes
        PNG.
    """
    plotting = nilearn_plotting()
    figure, axes = _figure(min(2.5 + 0.3 * design.shape[1], 12), 5)
    plotting.plot_design_matrix(_literal(design), axes=axes)
    _thin(axes, design.shape[1])
    axes.set_ylabel(f"{design.shape[0]} rows")
    return _png(figure)


def contrast_picture(weights: NDArray[np.float64], design: pd.DataFrame) -> bytes:
    """Weights of a contrast, by nilearn.

    Parameters
    ----------
    weights : (q, p) float64
        Contrast.
    design : (n, p) DataFrame
        Design.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _figure(min(2.5 + 0.35 * design.shape[1], 12), 2 + 0.3 * len(weights))
    nilearn_plotting().plot_contrast_matrix(weights, _literal(design), axes=axes)
    _thin(axes, design.shape[1])
    return _png(figure)


def correlation_picture(correlations: pd.DataFrame) -> bytes:
    """Correlations of regressors.

    Parameters
    ----------
    correlations : (p, p) DataFrame
        From -1 to 1.

    Returns
    -------
    bytes
        PNG.
    """
    size = min(2.5 + 0.35 * len(correlations), 11)
    figure, axes = _figure(size + 0.8, size)
    shown = axes.imshow(correlations.to_numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    names = [_plain(name) for name in correlations.columns]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    _thin(axes, len(names))
    if len(names) <= 12:
        for (row, column), value in np.ndenumerate(correlations.to_numpy()):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="correlation")
    return _png(figure)


def glass_picture(image: Any, level: float, two_sided: bool, label: str) -> bytes:
    """A thresholded map on a glass brain, by nilearn.

    Parameters
    ----------
    image : image
        0 where it is below the threshold.
    level : float
        Threshold.
    two_sided : bool
        Whether the map has two signs.
    label : str
        What the values are.

    Returns
    -------
    bytes
        PNG.
    """
    plotting = nilearn_plotting()
    figure, _ = _figure(9, 2.8, axes=False)
    colours = {"plot_abs": False, "symmetric_cbar": True, "cmap": "RdBu_r"} if two_sided else {"cmap": "YlOrRd"}
    threshold = max(abs(level), 1e-6) if np.isfinite(level) else None
    display = plotting.plot_glass_brain(
        image, figure=figure, threshold=threshold, colorbar=True, display_mode="lyrz", **colours
    )
    _label(display, label)
    return _png(figure)


def slices_picture(
    image: Any, level: float | None, two_sided: bool, label: str, bg_img: Any, cut_coords: Any, display_mode: str | None
) -> bytes:
    """Slices of a map, by nilearn.

    Parameters
    ----------
    image : image
        Map.
    level : float or None
        Threshold; None draws everything.
    two_sided : bool
        Whether the map has two signs.
    label : str
        What the values are.
    bg_img : image or None
        Under it.
    cut_coords, display_mode
        As of ``nilearn.plotting.plot_stat_map``.

    Returns
    -------
    bytes
        PNG.
    """
    plotting = nilearn_plotting()
    mode = display_mode or "z"
    figure, _ = _figure(9, 2.8 if mode in ("x", "y", "z", "ortho") else 5, axes=False)
    cuts = 7 if cut_coords is None and mode in ("x", "y", "z") else cut_coords
    cuts = min(cuts, image.shape["xyz".index(mode)]) if isinstance(cuts, int) and mode in ("x", "y", "z") else cuts
    threshold = None if level is None or not np.isfinite(level) else max(abs(level), 1e-6)
    display = plotting.plot_stat_map(
        image, bg_img=bg_img, figure=figure, threshold=threshold, display_mode=mode, cut_coords=cuts, colorbar=True,
        cmap="RdBu_r" if two_sided else "YlOrRd", symmetric_cbar=two_sided, black_bg=False, draw_cross=False,
    )  # fmt: skip
    _label(display, label)
    return _png(figure)


def coverage_picture(counts: Any) -> bytes:
    """How many images each voxel has, in slices.

    Parameters
    ----------
    counts : image
        Images at each voxel.

    Returns
    -------
    bytes
        PNG.
    """
    import matplotlib.pyplot as plt

    figure = plot_coverage(counts)
    png = _png(figure)
    plt.close(figure)
    return png


def z_picture(z: NDArray[np.float64], level: float, name: str) -> bytes:
    """Histogram of z beside the standard normal density.

    Parameters
    ----------
    z : (V,) float64
        Finite z.
    level : float
        Threshold.
    name : str
        Of the contrast.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _figure(7, 4.2)
    # Where nothing is significant, no value of z is a threshold.
    beyond = abs(level) if np.isfinite(level) and level else 3.09
    plot_z_histogram(z, threshold=round(beyond, 3), axes=axes, title=f"z of all voxels, {name}")
    return _png(figure)


def null_picture(values: NDArray[np.float64], observed: float, statistic: str, name: str) -> bytes:
    """Histogram of the largest statistics of the rearrangements.

    Parameters
    ----------
    values : (R,) float64
        Largest statistics.
    observed : float
        The data's largest.
    statistic, name : str
        Names of it and of the contrast.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _figure(7, 4.2)
    plot_null(values, axes=axes, title=f"Null distribution of {statistic}, {name}")
    axes.axvline(observed, color="black", linewidth=2, label=f"{observed:.4g}: largest of the data")
    axes.set_xlabel(f"Largest {statistic} of a map")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False)
    return _png(figure)


def leverage_picture(design: pd.DataFrame) -> bytes:
    """Leverage of the rows of a design.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _figure(7, 3.8)
    plot_leverage(design, axes=axes)
    return _png(figure)


def motion_picture(displacements: Sequence[tuple[str, NDArray[np.float64]]]) -> bytes:
    """Framewise displacement of runs, one below another on one axis.

    Parameters
    ----------
    displacements : sequence of (name, (n,) float64)
        In mm.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _figure(9, 3)
    for name, values in displacements:
        axes.plot(values, linewidth=0.8, label=_plain(name))
    axes.set(xlabel="volume", ylabel="framewise displacement, mm")
    if len(displacements) <= 8:
        axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def background(bg_img: Any) -> Any:
    """The image under slices, loaded once for all of them.

    Parameters
    ----------
    bg_img : image, path, "MNI152TEMPLATE" or None
        What was asked for.

    Returns
    -------
    image or None
    """
    if isinstance(bg_img, str) and bg_img == "MNI152TEMPLATE":
        from nilearn.datasets import load_mni152_template

        return load_mni152_template(resolution=2)
    return bg_img


def _figure(width: float, height: float, axes: bool = True) -> tuple[Any, Any]:
    """A figure that no window and no pyplot knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if axes else None)
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if axes else None


def _png(figure: Any) -> bytes:
    """A figure's PNG."""
    buffer = BytesIO()
    with any_letters():
        figure.savefig(buffer, dpi=_DPI, format="png", bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


def _label(display: Any, label: str) -> None:
    """Say beside the colours what they are."""
    bar = getattr(display, "_cbar", None)
    if bar is not None:
        bar.set_label(label)


def _thin(axes: Any, count: int) -> None:
    """Leave out names of columns that would lie on one another."""
    if count > _NAMED:
        axes.set_xticks([])
        axes.set_xlabel(f"{count} regressors")


def _literal(design: pd.DataFrame) -> pd.DataFrame:
    """The design with names that matplotlib shows as they are."""
    return design.set_axis([_plain(name) for name in design.columns], axis=1)


def _plain(name: object) -> str:
    """A name as matplotlib shows it unchanged; a long one is cut."""
    text = plain(name)
    return text if len(text) <= 30 else text[:29] + "…"
