"""Pictures of models and maps, drawn by matplotlib and nilearn.plotting.

nilearn's functions take what daskglm gives as it is, and have no copy here:

==================================================  ============================================================
to see                                              call
==================================================  ============================================================
a design matrix                                     ``nilearn.plotting.plot_design_matrix(model.design_matrix_)``
correlations of its columns                         ``nilearn.plotting.plot_design_matrix_correlation(design)``
a contrast (numbers, or an expression of columns)   ``nilearn.plotting.plot_contrast_matrix("age", design)``
events of a run                                     ``nilearn.plotting.plot_event(events)``
a map on slices                                     ``nilearn.plotting.plot_stat_map(model.compute_contrast("age"))``
a map in a glass brain                              ``nilearn.plotting.plot_glass_brain(z_map, threshold=3)``
a map on the cortical surface                       ``nilearn.plotting.plot_img_on_surf(z_map)``
==================================================  ============================================================

The functions here draw what nilearn has no picture of. Each returns the axes or the figure it drew; with `output_file`
the figure is written there, a path or URL whose suffix names the format, and closed.
"""

from daskglm.plotting.designs import plot_leverage
from daskglm.plotting.distributions import plot_null, plot_z_histogram
from daskglm.plotting.maps import plot_contrasts, plot_coverage
from daskglm.plotting.residuals import plot_residuals_carpet
from daskglm.plotting.voxels import plot_voxel

__all__ = [
    "plot_contrasts", "plot_coverage", "plot_leverage", "plot_null", "plot_residuals_carpet", "plot_voxel",
    "plot_z_histogram",
]  # fmt: skip
