"""What the estimators share: coefficients as scikit-learn's transform, the cache folder, the kinds of output."""

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from daskglm.errors import ContrastError, listing
from daskglm.models.functional import OUTPUT_TYPES


class VoxelwiseModel(TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A linear model at every voxel, as a scikit-learn transformer: `transform` gives its coefficients."""

    memory: Any
    memory_level: int
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
    if output_type not in (*OUTPUT_TYPES, "all"):
        raise ContrastError(f"output_type is one of {listing([*OUTPUT_TYPES, 'all'])}, but it is {output_type!r}")
    return OUTPUT_TYPES if output_type == "all" else (output_type,)
