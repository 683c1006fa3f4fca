"""Slow drifts of the signal, and the constant."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskglm.design.regressors import check_frame_times, orthogonalize
from daskglm.errors import DesignError, ParameterError

Array = NDArray[np.float64]


def drift_matrix(
    drift_model: str | None, frame_times: ArrayLike, order: int = 1, high_pass: float = 0.01
) -> tuple[Array, list[str]]:
    """Columns for slow drifts and the constant.

    Parameters
    ----------
    drift_model : {"cosine", "polynomial"} or None
        Cosines of half a period, one, one and a half ... over the run; powers of time, each orthogonal to the lower
        ones; or the constant alone. Case does not matter.
    frame_times : (n,) array-like
        Times of the scans, in seconds, increasing.
    order : int
        Highest power of the polynomial.
    high_pass : float
        Highest frequency of the cosines, in Hz.

    Returns
    -------
    columns : (n, k) float64
        The last one is 1 throughout.
    names : list of k str
        drift_1, drift_2 ... and constant.

    Raises
    ------
    DesignError
        Where there is no such drift model, or scan times do not increase.
    ParameterError
        Where order is no whole number from 0 on, or high_pass is negative.

    Warns
    -----
    UserWarning
        Where the cosines reach the highest frequency that the scans can hold.

    Examples
    --------
    >>> drift_matrix("polynomial", [0.0, 1.0, 2.0])[0].tolist()
    [[-0.5, 1.0], [0.0, 1.0], [0.5, 1.0]]
    """
    times = check_frame_times(frame_times)
    model = drift_model.lower() if isinstance(drift_model, str) else drift_model
    if model is not None and model not in _DRIFTS:
        known = ", ".join(repr(name) for name in _DRIFTS)
        raise DesignError(f"there is no drift model {drift_model!r}; give {known} or None")
    slow = np.zeros((len(times), 0)) if model is None else _DRIFTS[model](times, order, high_pass)
    columns = np.concatenate([slow, np.ones((len(times), 1))], axis=1)
    return columns, [*(f"drift_{k + 1}" for k in range(slow.shape[1])), "constant"]


def _cosine(times: Array, order: int, high_pass: float) -> Array:
    """Discrete cosines, (n, k), up to the frequency `high_pass`."""
    if not (np.isfinite(high_pass) and high_pass >= 0):
        raise ParameterError(f"high_pass is a frequency in Hz from 0 on, but it is {high_pass!r}")
    n = len(times)
    interval = (times[-1] - times[0]) / (n - 1)
    if high_pass * interval >= 0.5:
        warnings.warn(
            f"High-pass filter will span all accessible frequencies and saturate the design matrix: high_pass is "
            f"{high_pass} Hz and a scan is taken every {interval:g} s; reduce high_pass",
            UserWarning,
            stacklevel=3,
        )
    n_drifts = min(n - 1, int(np.floor(2 * n * high_pass * interval)))
    phase = np.pi / n * (np.arange(n) + 0.5)
    return np.sqrt(2.0 / n) * np.cos(np.outer(phase, np.arange(1, n_drifts + 1)))


def _polynomial(times: Array, order: int, high_pass: float) -> Array:
    """Powers of time from the first on, (n, order), each orthogonal to the lower ones and the constant."""
    if not np.isfinite(order) or int(order) != order or order < 0:
        raise ParameterError(f"the order of a polynomial drift is a whole number from 0 on, but it is {order!r}")
    if times[-1] == 0:
        raise DesignError("the last scan of a polynomial drift is not at 0 s; count times from the first scan on")
    return orthogonalize((times / times[-1])[:, None] ** np.arange(int(order) + 1))[:, 1:]


_DRIFTS: dict[str, Callable[[Array, int, float], Array]] = {"cosine": _cosine, "polynomial": _polynomial}
