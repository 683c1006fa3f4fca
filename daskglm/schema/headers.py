"""What the header of an image says of its values: the statistic and its degrees of freedom, of what, and time."""

from typing import Any

import numpy as np
import xarray as xr

# Names of NIfTI's intents, by the names of maps; those of t and F have parameters.
_INTENTS = {
    "z_score": "z score",
    "p_value": "p value",
    "effect_size": "estimate",
    "effect_variance": "estimate",
    "t": "t test",
    "F": "f test",
    "logp_stat": "log10 p value",
    "logp_max_stat": "log10 p value",
    "logp_across_stat": "log10 p value",
    "logp_max_size": "log10 p value",
    "logp_max_mass": "log10 p value",
    "logp_tfce": "log10 p value",
    "logp_max_tfce": "log10 p value",
    "z_max_stat": "z score",
}
_TEXTS = {"n": "images at each voxel"}
# Fields of so many bytes, the last of them 0.
_DESCRIPTION, _NAME = 79, 15


def describe(image: Any, kind: str, of: str = "", freedom: Any = None, rank: int = 1, t_r: float | None = None) -> Any:
    """Say in the header of an image what its values are.

    Parameters
    ----------
    image : Nifti1Image
        Its header is changed.
    kind : str
        "t", "F", or the name of a map or of anything else.
    of : str
        As of which contrast.
    freedom : (V,) array or float, optional
        Degrees of freedom of t, or of F in the denominator. Where voxels differ in them, the header's one place cannot
        hold them: then the description has their range, and no program will take them for those of all.
    rank : int
        Degrees of freedom of F in the numerator.
    t_r : float, optional
        Seconds between volumes.

    Returns
    -------
    Nifti1Image
        The same.
    """
    header, known = image.header, np.empty(0) if freedom is None else np.atleast_1d(np.asarray(freedom, dtype=float))
    known = np.unique(known[np.isfinite(known)])
    text, intent = _TEXTS.get(kind, kind.replace("_", " ")), _INTENTS.get(kind, "none")
    parameters: tuple[float, ...] = ()
    if kind in ("t", "F"):
        parameters = (float(rank), *known) if kind == "F" else tuple(known)
        numerator = f"{rank}, " if kind == "F" else ""
        spread = f"{known[0]:g}" if known.size == 1 else f"{known[0]:g} to {known[-1]:g}" if known.size else "unknown"
        text = f"{kind}, df {numerator}{spread}"
        if known.size != 1:
            intent, parameters = "none", ()
    header.set_intent(intent, parameters)
    header["intent_name"] = _cut(of, _NAME)
    header["descrip"] = _cut(f"{text}: {of}" if of else text, _DESCRIPTION)
    if t_r is not None:
        header["pixdim"][4] = t_r
        header.set_xyzt_units(header.get_xyzt_units()[0], "sec")
    return image


def describe_map(image: Any, maps: xr.Dataset, kind: str) -> Any:
    """Say in the header of an image which map of a contrast, or of a fit, it is.

    Parameters
    ----------
    image : Nifti1Image
        Its header is changed.
    maps : xarray.Dataset
        Computed maps of one contrast, or a fit.
    kind : str
        Name of the map.

    Returns
    -------
    Nifti1Image
        The same.
    """
    contrast = str(maps["contrast"].values) if "contrast" in maps.coords else ""
    if kind != "stat" or "degrees_of_freedom" not in maps:
        return describe(image, kind, contrast)
    if maps.attrs.get("variance_groups"):  # nobody's t and F
        return describe(image, f"{maps['stat_type'].values} of groups with variances of their own", contrast)
    freedom = maps["degrees_of_freedom"].values[np.isfinite(maps["stat"].values)]
    return describe(image, str(maps["stat_type"].values), contrast, freedom, int(maps["rank"]))


def repetition_time(header: Any) -> float | None:
    """Seconds between the volumes of an image, by its header.

    Parameters
    ----------
    header : nibabel header
        Of a 4-D image.

    Returns
    -------
    float or None
        None without a unit of time or a time.
    """
    seconds = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 0.0)
    return float(header["pixdim"][4]) * seconds or None


def _cut(text: str, size: int) -> bytes:
    """Text as bytes, up to a size, no letter cut in two."""
    return text.encode()[:size].decode(errors="ignore").encode()
