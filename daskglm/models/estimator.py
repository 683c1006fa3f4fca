"""What the estimators share: coefficients as scikit-learn's transform, the cache folder, the kinds of output."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from daskglm.errors import ContrastError, MissingDependencyError, check_choice
from daskglm.models.functional import OUTPUT_TYPES
from daskglm.models.notebook import model_html

if TYPE_CHECKING:
    from daskglm.report.page import Report


class VoxelwiseModel(TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A linear model at every voxel, as a scikit-learn transformer: `transform` gives its coefficients."""

    memory: Any
    memory_level: int
    mask_img: Any
    mask_img_: Any
    smoothing_fwhm: Any
    target_affine: Any
    target_shape: Any
    space_: Any

    def transform(self, images: Any) -> Any:
        """Coefficients of the fitted model: (n_regressors, n_voxels), in image units.

        Parameters
        ----------
        images : object
            Not used: the coefficients are those of the images that were fitted. None will do.

        Returns
        -------
        (p, V) array
            With ``set_output(transform="pandas")`` a DataFrame, one row a regressor.
        """
        check_is_fitted(self)
        names, beta = self._coefficients()
        container = getattr(self, "_sklearn_output_config", {}).get("transform", get_config()["transform_output"])
        # scikit-learn names the columns of a DataFrame, by get_feature_names_out, and keeps its rows.
        return pd.DataFrame(beta, index=names) if container == "pandas" else beta

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the voxels: their flat index into the grid.

        Parameters
        ----------
        input_features : object
            Not used.

        Returns
        -------
        (V,) array of str
        """
        check_is_fitted(self)
        return np.array([f"voxel-{index}" for index in self.space_.voxels], dtype=object)

    @property
    def masker_(self) -> Any:
        """Masker of nilearn's for the voxels analysed: the one given as `mask_img`, else a fitted NiftiMasker.

        Raises
        ------
        MissingDependencyError
            Without nilearn.
        """
        check_is_fitted(self)
        if hasattr(self.mask_img, "transform"):
            return self.mask_img
        try:
            from nilearn.maskers import NiftiMasker
        except ImportError as error:
            raise MissingDependencyError(
                "masker_ is nilearn's, and nilearn is not installed; pip install 'daskglm[nilearn]', or use mask_img_"
            ) from error
        return NiftiMasker(
            mask_img=self.mask_img_, smoothing_fwhm=self.smoothing_fwhm, target_affine=self.target_affine,
            target_shape=self.target_shape, standardize=None,
        ).fit()  # fmt: skip

    @property
    def predicted(self) -> Any:
        """Old name of `predicted_`."""
        return self._renamed("predicted_")

    @property
    def residuals(self) -> Any:
        """Old name of `residuals_`."""
        return self._renamed("residuals_")

    @property
    def r_square(self) -> Any:
        """Old name of `r_square_`."""
        return self._renamed("r_square_")

    def _renamed(self, name: str) -> Any:
        """An attribute under its new name."""
        warnings.warn(f"{name[:-1]} is deprecated, as in nilearn; use {name}", FutureWarning, stacklevel=3)
        return getattr(self, name)

    @property
    def _repr_html_(self) -> Callable[[], str]:
        """What notebooks show; not there where scikit-learn's "display" is "text", as for its own estimators."""
        if get_config()["display"] != "diagram":
            raise AttributeError("models have an HTML form where sklearn.set_config(display='diagram') holds")
        return partial(model_html, self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """What notebooks show, by kind: without scikit-learn's table of attributes, for which runs are read again."""
        html = getattr(self, "_repr_html_", None)
        return {"text/plain": repr(self)} | ({} if html is None else {"text/html": html()})

    def _get_fitted_attr_html(self, doc_link: str = "") -> dict[str, Any]:
        """No fitted attributes for scikit-learn's diagram of a pipeline: it would compute `residuals_` to show it."""
        return {}

    def generate_report(
        self,
        contrasts: Any = None,
        first_level_contrast: str | None = None,
        title: str | None = None,
        bg_img: Any = "MNI152TEMPLATE",
        threshold: float | None = None,
        alpha: float = 0.001,
        cluster_threshold: int = 0,
        height_control: str | None = "fpr",
        two_sided: bool = False,
        min_distance: float = 8.0,
        plot_type: str = "slice",
        cut_coords: Any = None,
        display_mode: str | None = None,
        report_dims: tuple[int, int] = (1600, 800),
    ) -> "Report":
        """Report the model and its contrasts as a page of HTML.

        Parameters
        ----------
        contrasts : str, array, list of them, or dict, optional
            Contrasts; a dict names them. None: the model alone.
        first_level_contrast : str, optional
            Which maps, where the input of a second level named several.
        title : str, optional
            Of the page.
        bg_img : image, path, "MNI152TEMPLATE" or None
            Under slices.
        threshold, alpha, cluster_threshold, height_control, two_sided
            As of :func:`~daskglm.threshold_stats_img`. F contrasts are one-sided.
        min_distance : float
            Peaks of one cluster are further apart than this, in mm.
        plot_type : {"slice", "glass"}
            "glass" leaves slices out.
        cut_coords, display_mode
            As of ``nilearn.plotting.plot_stat_map``.
        report_dims : (int, int)
            Width and height in a notebook, in pixels.

        Returns
        -------
        Report
            With ``save_as_html(path)``; a notebook shows it.

        Raises
        ------
        MissingDependencyError
            Without the ``[report]`` extra.
        ContrastError, ParameterError
            Where a contrast or parameter is wrong.
        """
        from daskglm.report.analysis import Drawing, Thresholding
        from daskglm.report.of_models import empty_report, report_of_model

        if not self.__sklearn_is_fitted__():
            return empty_report(title or type(self).__name__)
        how = Thresholding(threshold, alpha, cluster_threshold, height_control, two_sided, min_distance)
        drawing = Drawing(bg_img, plot_type, cut_coords, display_mode)
        report = report_of_model(self, contrasts, first_level_contrast, title, how, drawing)
        report.width, report.height = report_dims
        return report

    @abstractmethod
    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` was called."""

    @abstractmethod
    def _coefficients(self) -> tuple[list[str], NDArray[np.float64]]:
        """Names of the regressors and their coefficients (p, V)."""

    def _cache_folder(self) -> str | None:
        """Folder of `memory`, which may be a joblib.Memory."""
        folder = getattr(self.memory, "location", self.memory)
        return None if folder is None or self.memory_level < 1 else os.fspath(folder)


def wanted_outputs(output_type: str) -> tuple[str, ...]:
    """The maps that an output type asks for.

    Parameters
    ----------
    output_type : str
        One of the output types, or "all".

    Returns
    -------
    tuple of str

    Raises
    ------
    ContrastError
        Where there is no such type.
    """
    check_choice("output_type", output_type, (*OUTPUT_TYPES, "all"), ContrastError)
    return OUTPUT_TYPES if output_type == "all" else (output_type,)
