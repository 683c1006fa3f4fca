"""Parameters of models that are names or choices -> what the layers below take."""

import re
import warnings
from numbers import Integral
from typing import Any

from daskglm.errors import ParameterError, nearest
from daskglm.graph.runs import NoiseModel
from daskglm.kernels.scaling import Scaling

# What signal_scaling means: percent of what, and whether volume by volume.
_SCALINGS: dict[str, tuple[str | None, bool]] = {
    "False": (None, False), "0": ("voxel", False), "1": (None, True), "(0, 1)": ("run", False),
}  # fmt: skip


def check_fraction(min_coverage: float) -> float:
    """Raise unless `min_coverage` is a fraction.

    Parameters
    ----------
    min_coverage : float
        Fraction of the samples that a voxel must have.

    Returns
    -------
    float
        The same.

    Raises
    ------
    ParameterError
        With its value.
    """
    if not 0 <= min_coverage <= 1:
        raise ParameterError(f"min_coverage is a fraction from 0 to 1, but it is {min_coverage}")
    return min_coverage


def parse_noise_model(noise_model: str, bins: Any = "auto", seed: int | None = None) -> NoiseModel:
    """The noise model of a name.

    Parameters
    ----------
    noise_model : str
        "ols", or "arN" with N of 1 or more.
    bins : int, None or "auto"
        Steps or clusters of coefficients, as in :func:`fit_glm`.
    seed : int, optional
        Seed of the clusters.

    Returns
    -------
    NoiseModel

    Raises
    ------
    ParameterError
        With the value that is none of these.
    """
    match = re.fullmatch(r"ols|ar([1-9][0-9]*)", noise_model.lower()) if isinstance(noise_model, str) else None
    if match is None:
        hint = nearest(noise_model, ["ols", "ar1", "ar2", "ar3"])
        raise ParameterError(
            f"noise_model is 'ols' or 'arN' with an order N of 1 or more, but it is {noise_model!r}{hint}"
        )
    order = int(match[1] or 0)
    if bins == "auto":
        bins = 100 if order == 1 else None
    if bins is not None and (isinstance(bins, bool) or not isinstance(bins, Integral) or bins < 1):
        raise ParameterError(f"bins is a whole number of 1 or more, None or 'auto', but it is {bins!r}")
    return NoiseModel(order, None if bins is None else int(bins), seed)


def affordable_noise(noise: NoiseModel, n_rows: int, rank: int) -> NoiseModel:
    """The noise model that a design leaves degrees of freedom for.

    Parameters
    ----------
    noise : NoiseModel
        As it was asked for.
    n_rows : int
        Volumes n.
    rank : int
        Rank r of the design.

    Returns
    -------
    NoiseModel
        The same; ordinary least squares where n - r is 0, for there are no residuals then.

    Raises
    ------
    ParameterError
        Where the order is n - 1 or more.

    Warns
    -----
    UserWarning
        Where n - r is 0, or not above the order.
    """
    freedom = n_rows - rank
    if freedom <= 0:
        warnings.warn(
            f"a design of rank {rank} saturates {n_rows} volumes: no degrees of freedom are left, and all statistics "
            "are NaN; use fewer regressors or keep more volumes",
            stacklevel=5,
        )
        return NoiseModel(0)
    if noise.order >= n_rows - 1:
        raise ParameterError(
            f"the order of an autoregression must be below the number of volumes, got ar{noise.order} for {n_rows} "
            f"volumes and a design of rank {rank}; use a lower order"
        )
    if noise.order >= freedom:
        warnings.warn(
            f"ar{noise.order} is estimated from {freedom} degrees of freedom ({n_rows} volumes, a design of rank "
            f"{rank}), which are too few; use a lower order, fewer regressors, or noise_model='ols'",
            stacklevel=5,
        )
    return noise


def parse_scaling(signal_scaling: Any, standardize: bool = False) -> tuple[Scaling, bool]:
    """What nilearn's parameters of this name mean.

    Parameters
    ----------
    signal_scaling : {0, 1, (0, 1), False}
        Percent of the mean of each voxel, of each volume, of the whole run, or no scaling.
    standardize : bool
        Standardize each voxel; without scaling.

    Returns
    -------
    scaling : Scaling
    by_volume : bool
        Whether each volume is scaled by its mean.

    Raises
    ------
    ParameterError
        Where it is none of its values.
    """
    given = str(tuple(signal_scaling) if isinstance(signal_scaling, list) else signal_scaling).removesuffix(".0")
    if given not in _SCALINGS:
        raise ParameterError(f"signal_scaling is 0, 1, (0, 1) or False, but it is {signal_scaling!r}")
    percent_of, by_volume = _SCALINGS[given]
    if standardize and (percent_of is not None or by_volume):
        warnings.warn(
            f"standardize is ignored, for signal_scaling is {signal_scaling!r}; give "
            "signal_scaling=False (--signal-scaling none) to standardize",
            stacklevel=4,
        )
        standardize = False
    return Scaling(percent_of, bool(standardize)), by_volume


def warn_of_confounds(confounds: Any, design_matrix: Any) -> None:
    """Warn where confounds are given beside a design, which holds its own.

    Parameters
    ----------
    confounds, design_matrix : object or None
        As users gave them.
    """
    if confounds is not None and design_matrix is not None:
        warnings.warn(
            "confounds are not used beside design_matrix, which has all columns of the model: add them to it, or give "
            "formula and confounds without a design_matrix",
            stacklevel=3,
        )
