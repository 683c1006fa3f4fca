"""Pictures of the residuals of a run."""

import os
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from daskglm.design.matrix import design_array
from daskglm.errors import ImageError
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.runs import run_shape
from daskglm.models.voxels import check_run, run_at
from daskglm.plotting.canvas import nilearn_plotting, plain, save, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More rows than a picture has pixels would be read and not seen.
_VOXELS = 3000


def plot_residuals_carpet(
    model: FirstLevelModel, run: int = 0, *, axes: "Axes | None" = None, title: str | None = None,
    output_file: "str | os.PathLike[str] | None" = None,
) -> "Figure":  # fmt: skip
    """Plot the residuals of a run, a row a voxel and a column a volume, by nilearn's ``plot_carpet``.

    Parameters
    ----------
    model : FirstLevelModel
        Fitted; the run is read again.
    run : int
        Which run, from 0.
    axes : Axes, optional
        Where to draw.
    title : str, optional
        Above the plot.
    output_file : path or URL, optional
        Where to write the figure, which is closed then.

    Returns
    -------
    Figure
        Residuals, not whitened, over their standard deviation in each voxel, of up to 3,000 voxels spread evenly over
        the mask. Volumes that were left out are grey throughout. Vertical stripes are volumes in which the whole brain
        departs from the model: motion, spikes.

    Raises
    ------
    MissingDependencyError
        Where nilearn is not installed.
    ParameterError
        Where there is no such run.
    """
    plotting = nilearn_plotting()
    import matplotlib.pyplot as plt

    check_run(model, run)
    fitted = np.flatnonzero(np.isfinite(model.fits_[run]["residual_variance"].values))
    if not fitted.size:
        raise ImageError(f"a carpet plot shows fitted voxels, but run {run} has none")
    voxels = fitted[:: -(-fitted.size // _VOXELS)]
    beta = model.fits_[run]["beta"].values[:, voxels]
    left = run_at(model, voxels, run) - design_array(model.design_matrices_[run]) @ beta
    deviation = left.std(axis=0)
    volumes = model._runs[run].volumes
    rows = np.zeros((voxels.size, 1, 1, run_shape(model._runs[run].source)[0][3]))
    rows[:, 0, 0, volumes] = (left / np.where(deviation > 0, deviation, 1.0)).T
    t_r = model.t_r
    if axes is None:
        _, axes = plt.subplots(figsize=(9.0, 4.6), layout="constrained")
    figure = plotting.plot_carpet(
        nib.Nifti1Image(rows, np.eye(4)), nib.Nifti1Image(np.ones((voxels.size, 1, 1), np.uint8), np.eye(4)),
        t_r=1.0 if t_r is None else t_r, detrend=False, vmin=-2.0, vmax=2.0, axes=axes,
        figure=axes.get_figure(root=True),
    )  # fmt: skip
    ticks = axes.get_xticks()
    axes.set_xticks(ticks, [f"{value:g}" for value in np.round(ticks * (1.0 if t_r is None else t_r), 1)])
    axes.set_xlabel("Volume" if t_r is None else "Time (s)")
    axes.set_ylabel(f"{voxels.size:,} of {fitted.size:,} voxels")
    shown = figure.colorbar(axes.images[0], ax=axes, ticks=[-2, -1, 0, 1, 2])
    shown.set_label("Residual (standard deviations)")
    axes.set_title(plain(wrapped(title or f"Residuals of run {run + 1}")))
    save(figure, output_file)
    return figure
