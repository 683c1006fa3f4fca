"""Haemodynamic response functions: differences of two gamma densities, and their derivatives."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from daskglm.errors import DesignError, ParameterError, listing, nearest

Array = NDArray[np.float64]
Kernel: TypeAlias = Callable[..., Any]
HRFModel: TypeAlias = str | Kernel | Sequence[Kernel] | None

# Seconds by which the onset, and units by which the dispersion is moved for a finite difference.
_TIME_STEP, _DISPERSION_STEP = 0.1, 0.01


def spm_hrf(t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0) -> Array:
    """SPM's canonical response: a peak 5 s and an undershoot 15 s after the onset.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Sums to 1.

    Examples
    --------
    >>> [round(float(value), 3) for value in spm_hrf(2.0, oversampling=1, time_length=12.0)]
    [0.0, 0.0, 0.219, 0.438, 0.263, 0.08]
    """
    return _gamma_difference(t_r, oversampling, time_length, onset)


def glover_hrf(t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0) -> Array:
    """Glover's response, with an earlier and deeper undershoot than SPM's.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Sums to 1.
    """
    return _gamma_difference(t_r, oversampling, time_length, onset, 12.0, 0.9, 0.9, 0.48)


def spm_time_derivative(t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0) -> Array:
    """Derivative of SPM's response by its onset, a difference over 0.1 s.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Change per second of delay, positive where an earlier response is larger.
    """
    return _time_derivative(spm_hrf, t_r, oversampling, time_length, onset)


def glover_time_derivative(t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0) -> Array:
    """Derivative of Glover's response by its onset, a difference over 0.1 s.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Change per second of delay, positive where an earlier response is larger.
    """
    return _time_derivative(glover_hrf, t_r, oversampling, time_length, onset)


def spm_dispersion_derivative(
    t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0
) -> Array:
    """Derivative of SPM's response by the dispersion of its peak, a difference over 0.01.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Change per unit of dispersion.
    """
    return _dispersion_derivative(t_r, oversampling, time_length, onset, 16.0, 1.0, 0.167)


def glover_dispersion_derivative(
    t_r: float, oversampling: int = 50, time_length: float = 32.0, onset: float = 0.0
) -> Array:
    """Derivative of Glover's response by the dispersion of its peak, a difference over 0.01.

    Parameters
    ----------
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    time_length : float
        Length of the kernel, in seconds.
    onset : float
        Onset of the response, in seconds.

    Returns
    -------
    (time_length / t_r * oversampling,) float64
        Change per unit of dispersion. The undershoot has dispersion 1 here, as in nilearn, and 0.9 in
        :func:`glover_hrf`.
    """
    return _dispersion_derivative(t_r, oversampling, time_length, onset, 12.0, 0.9, 0.48)


# Kernels of each named model, in the order of _SUFFIXES.
_NAMED: dict[str, tuple[Kernel, ...]] = {
    "spm": (spm_hrf,),
    "spm + derivative": (spm_hrf, spm_time_derivative),
    "spm + derivative + dispersion": (spm_hrf, spm_time_derivative, spm_dispersion_derivative),
    "glover": (glover_hrf,),
    "glover + derivative": (glover_hrf, glover_time_derivative),
    "glover + derivative + dispersion": (glover_hrf, glover_time_derivative, glover_dispersion_derivative),
}
_SUFFIXES = ("", "_derivative", "_dispersion")


def is_fir(hrf_model: HRFModel) -> bool:
    """Whether a model is a finite impulse response.

    Parameters
    ----------
    hrf_model : str, callable, list of callable or None
        Model.

    Returns
    -------
    bool
    """
    return isinstance(hrf_model, str) and hrf_model.strip().lower() == "fir"


def hrf_kernels(
    hrf_model: HRFModel, t_r: float, oversampling: int = 50, fir_delays: Sequence[int] | None = None
) -> list[Array]:
    """Sampled responses of a model.

    Parameters
    ----------
    hrf_model : str, callable, list of callable or None
        "spm" or "glover", with " + derivative" or " + derivative + dispersion"; "fir"; f(t_r, oversampling), or
        several such; None for no convolution. Case does not matter.
    t_r : float
        Repetition time, in seconds.
    oversampling : int
        Samples a repetition time.
    fir_delays : sequence of int, optional
        Delays of "fir", in scans; [0] where it is not given.

    Returns
    -------
    list of (m,) float64
        One kernel a regressor, every t_r / oversampling seconds.

    Raises
    ------
    DesignError
        Where the model is unknown, or a function gives no kernel.
    ParameterError
        Where t_r, oversampling or a delay have a value that they cannot have.
    """
    _check_sampling(t_r, oversampling)
    oversampling = int(oversampling)
    if hrf_model is None:
        return [np.eye(1, oversampling)[0]]
    if is_fir(hrf_model):
        box = np.full(oversampling, 1.0 / oversampling)
        return [np.concatenate([np.zeros(delay * oversampling), box]) for delay in _delays(fir_delays)]
    if isinstance(hrf_model, str):
        return [kernel(t_r, oversampling) for kernel in _named(hrf_model)]
    return [_sample(kernel, t_r, oversampling) for kernel in _callables(hrf_model)]


def regressor_names(condition: str, hrf_model: HRFModel, fir_delays: Sequence[int] | None = None) -> list[str]:
    """Names of a condition's regressors.

    Parameters
    ----------
    condition : str
        Condition.
    hrf_model : str, callable, list of callable or None
        Model, as for :func:`hrf_kernels`.
    fir_delays : sequence of int, optional
        Delays of "fir", in scans; [0] where it is not given.

    Returns
    -------
    list of str
        The condition alone, or with _derivative, _dispersion, _delay_k or the name of a function appended.

    Raises
    ------
    DesignError
        Where the model is unknown, or two regressors get the same name.

    Examples
    --------
    >>> regressor_names("go", "glover + derivative")
    ['go', 'go_derivative']
    >>> regressor_names("go", "fir", [0, 2])
    ['go_delay_0', 'go_delay_2']
    """
    if hrf_model is None:
        suffixes = [""]
    elif is_fir(hrf_model):
        suffixes = [f"_delay_{delay}" for delay in _delays(fir_delays)]
    elif isinstance(hrf_model, str):
        suffixes = list(_SUFFIXES[: len(_named(hrf_model))])
    else:
        suffixes = [f"_{getattr(kernel, '__name__', type(kernel).__name__)}" for kernel in _callables(hrf_model)]
    names = [f"{condition}{suffix}" for suffix in suffixes]
    if len(set(names)) < len(names):
        raise DesignError(
            f"regressors of a condition have different names, but these are {listing(names)}; "
            "give each delay or function once"
        )
    return names


def _gamma_difference(
    t_r: float,
    oversampling: int,
    time_length: float,
    onset: float,
    undershoot: float = 16.0,
    dispersion: float = 1.0,
    u_dispersion: float = 1.0,
    ratio: float = 0.167,
) -> Array:
    """A gamma density of mean 6 s less `ratio` times one of mean `undershoot` s, with sum 1."""
    _check_sampling(t_r, oversampling)
    dt = t_r / oversampling
    times = np.linspace(0, time_length, max(int(np.rint(float(time_length) / dt)), 0)) - onset
    peak = gamma.pdf(times, 6 / dispersion, loc=dt, scale=dispersion)
    under = gamma.pdf(times, undershoot / u_dispersion, loc=dt, scale=u_dispersion)
    kernel = np.asarray(peak - ratio * under, dtype=np.float64)
    total = kernel.sum()
    if not np.isfinite(total) or total == 0:
        raise ParameterError(
            f"a response of {time_length} s that starts at {onset} s has no sample above zero every {dt:g} s; "
            "raise oversampling or time_length"
        )
    return kernel / total


def _time_derivative(hrf: Kernel, t_r: float, oversampling: int, time_length: float, onset: float) -> Array:
    """Difference quotient by the onset."""
    later = hrf(t_r, oversampling, time_length, onset + _TIME_STEP)
    return (hrf(t_r, oversampling, time_length, onset) - later) / _TIME_STEP


def _dispersion_derivative(
    t_r: float,
    oversampling: int,
    time_length: float,
    onset: float,
    undershoot: float,
    dispersion: float,
    ratio: float,
) -> Array:
    """Difference quotient by the dispersion of the peak."""
    narrow, wide = (
        _gamma_difference(t_r, oversampling, time_length, onset, undershoot, width, 1.0, ratio)
        for width in (dispersion, dispersion + _DISPERSION_STEP)
    )
    return (narrow - wide) / _DISPERSION_STEP


def _check_sampling(t_r: float, oversampling: int) -> None:
    """Raise unless there is a grid to sample on."""
    if not (np.isfinite(t_r) and t_r > 0):
        raise ParameterError(f"t_r is a positive number of seconds, but it is {t_r!r}")
    if int(oversampling) != oversampling or oversampling < 1:
        raise ParameterError(f"oversampling is a whole number from 1 on, but it is {oversampling!r}")


def _named(hrf_model: str) -> tuple[Kernel, ...]:
    """Kernels of a model's name."""
    name = " + ".join(part.strip() for part in hrf_model.lower().split("+"))
    if name in _NAMED:
        return _NAMED[name]
    hint = nearest(name, [*_NAMED, "fir"]) or "."
    known = listing([repr(known) for known in [*_NAMED, "fir"]])
    raise DesignError(f"no hrf_model {hrf_model!r}{hint} There are {known}, None and functions f(t_r, oversampling)")


def _callables(hrf_model: Kernel | Sequence[Kernel]) -> list[Kernel]:
    """Functions of a model, one or several."""
    kernels = [hrf_model] if callable(hrf_model) else hrf_model
    if not isinstance(kernels, (list, tuple)) or not kernels or not all(callable(kernel) for kernel in kernels):
        raise DesignError(
            f"hrf_model is a name, None, a function f(t_r, oversampling) or a list of such functions, but it is "
            f"{hrf_model!r}"
        )
    return list(kernels)


def _sample(kernel: Kernel, t_r: float, oversampling: int) -> Array:
    """Values of a function that was given for a model."""
    name = getattr(kernel, "__name__", type(kernel).__name__)
    try:
        values = np.asarray(kernel(t_r, oversampling), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DesignError(
            f"a function for hrf_model takes (t_r, oversampling) and gives an array of numbers, but {name!r} raised "
            f"{error}"
        ) from error
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise DesignError(
            f"a function for hrf_model gives a 1-D array of finite numbers, but {name!r} gave shape {values.shape}"
            + ("" if np.isfinite(values).all() else " with values that are not finite")
        )
    return values


def _delays(fir_delays: Sequence[int] | None) -> list[int]:
    """Delays of a finite impulse response, whole scans."""
    given = [0] if fir_delays is None else list(fir_delays)
    delays = [int(delay) for delay in given if np.isfinite(delay)]
    if not given or delays != given or min(delays) < 0:
        raise ParameterError(f"fir_delays are whole numbers of scans from 0 on, but they are {given!r}")
    return delays
