"""Mass-univariate general linear models for neuroimaging cohorts: out-of-core and distributed.

Public names are loaded when they are first used, so that importing the package stays light.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskglm.cluster import connect as connect
    from daskglm.design.first_level import check_design_matrix as check_design_matrix
    from daskglm.design.first_level import make_first_level_design_matrix as make_first_level_design_matrix
    from daskglm.design.formula import design_from_formula as design_from_formula
    from daskglm.design.hrf import glover_dispersion_derivative as glover_dispersion_derivative
    from daskglm.design.hrf import glover_hrf as glover_hrf
    from daskglm.design.hrf import glover_time_derivative as glover_time_derivative
    from daskglm.design.hrf import spm_dispersion_derivative as spm_dispersion_derivative
    from daskglm.design.hrf import spm_hrf as spm_hrf
    from daskglm.design.hrf import spm_time_derivative as spm_time_derivative
    from daskglm.design.matrix import make_second_level_design_matrix as make_second_level_design_matrix
    from daskglm.design.regressors import compute_regressor as compute_regressor
    from daskglm.errors import DaskGLMError as DaskGLMError
    from daskglm.inference.clusters import get_clusters_table as get_clusters_table
    from daskglm.inference.peaks import find_peaks as find_peaks
    from daskglm.inference.permutation import permutation_test as permutation_test
    from daskglm.inference.thresholding import cluster_level_inference as cluster_level_inference
    from daskglm.inference.thresholding import fdr_threshold as fdr_threshold
    from daskglm.inference.thresholding import threshold_stats_img as threshold_stats_img
    from daskglm.io.store import open_images as open_images
    from daskglm.models.array_glm import Contrast as Contrast
    from daskglm.models.array_glm import compute_contrast as compute_contrast
    from daskglm.models.array_glm import expression_to_contrast_vector as expression_to_contrast_vector
    from daskglm.models.array_glm import mean_scaling as mean_scaling
    from daskglm.models.array_glm import run_glm as run_glm
    from daskglm.models.beta_series import beta_series as beta_series
    from daskglm.models.bids import first_level_from_bids as first_level_from_bids
    from daskglm.models.cohort import first_level_analysis as first_level_analysis
    from daskglm.models.convert import convert as convert
    from daskglm.models.first_level import FirstLevelModel as FirstLevelModel
    from daskglm.models.fixed_effects import compute_fixed_effects as compute_fixed_effects
    from daskglm.models.functional import compute_contrasts as compute_contrasts
    from daskglm.models.functional import fit_glm as fit_glm
    from daskglm.models.group import group_analysis as group_analysis
    from daskglm.models.permutation import non_parametric_inference as non_parametric_inference
    from daskglm.models.permutation_analysis import permutation_analysis as permutation_analysis
    from daskglm.models.permuted_ols import permuted_ols as permuted_ols
    from daskglm.models.second_level import SecondLevelModel as SecondLevelModel
    from daskglm.report.bids_files import save_glm_to_bids as save_glm_to_bids
    from daskglm.report.of_folders import generate_report as generate_report
    from daskglm.report.of_models import make_glm_report as make_glm_report
    from daskglm.report.page import HTMLReport as HTMLReport
    from daskglm.schema.datasets import images_dataset as images_dataset
    from daskglm.schema.space import VolumeSpace as VolumeSpace

_HOMES = {
    "beta_series": "models.beta_series",
    "first_level_from_bids": "models.bids",
    "first_level_analysis": "models.cohort",
    "FirstLevelModel": "models.first_level",
    "compute_fixed_effects": "models.fixed_effects",
    "make_first_level_design_matrix": "design.first_level",
    "check_design_matrix": "design.first_level",
    "compute_regressor": "design.regressors",
    "DaskGLMError": "errors",
    "SecondLevelModel": "models.second_level",
    "VolumeSpace": "schema.space",
    "compute_contrasts": "models.functional",
    "connect": "cluster",
    "convert": "models.convert",
    "design_from_formula": "design.formula",
    "cluster_level_inference": "inference.thresholding",
    "fdr_threshold": "inference.thresholding",
    "find_peaks": "inference.peaks",
    "get_clusters_table": "inference.clusters",
    "non_parametric_inference": "models.permutation",
    "permutation_analysis": "models.permutation_analysis",
    "permutation_test": "inference.permutation",
    "permuted_ols": "models.permuted_ols",
    "threshold_stats_img": "inference.thresholding",
    "fit_glm": "models.functional",
    "generate_report": "report.of_folders",
    "group_analysis": "models.group",
    "images_dataset": "schema.datasets",
    "make_second_level_design_matrix": "design.matrix",
    "open_images": "io.store",
    "compute_contrast": "models.array_glm",
    "Contrast": "models.array_glm",
    "expression_to_contrast_vector": "models.array_glm",
    "mean_scaling": "models.array_glm",
    "run_glm": "models.array_glm",
    "save_glm_to_bids": "report.bids_files",
    "make_glm_report": "report.of_models",
    "HTMLReport": "report.page",
    "glover_hrf": "design.hrf",
    "glover_time_derivative": "design.hrf",
    "glover_dispersion_derivative": "design.hrf",
    "spm_hrf": "design.hrf",
    "spm_time_derivative": "design.hrf",
    "spm_dispersion_derivative": "design.hrf",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name in ("cluster", "plotting"):  # packages of their own, for daskglm.cluster.connect and the like
        return import_module(f"daskglm.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'daskglm' has no attribute {name!r}")
    value = getattr(import_module(f"daskglm.{_HOMES[name]}"), name)
    globals()[name] = value
    if "xarray" in sys.modules:  # dataset.glm, for whoever has datasets
        import_module("daskglm.report.accessor")
    return value


def __dir__() -> list[str]:
    """Public names."""
    return [*__all__, "__version__"]
