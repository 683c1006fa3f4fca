"""Sentences for a methods section."""

from collections.abc import Mapping, Sequence
from typing import Any

from daskglm.errors import listing
from daskglm.models.plan import count_text

_HEIGHTS = {
    "fpr": "p < {alpha:g}, uncorrected",
    "fdr": "a false discovery rate of {alpha:g} (Benjamini & Hochberg, 1995)",
    "bonferroni": "p < {alpha:g}, Bonferroni-corrected",
}


def software_sentence(versions: Mapping[str, str]) -> str:
    """What an analysis was made with.

    Parameters
    ----------
    versions : mapping of str to str
        Package to version.

    Returns
    -------
    str
    """
    own = versions.get("daskglm", "")
    names = ("dask", "xarray", "zarr", "numpy", "scipy", "python")
    shown = {"dask": "Dask", "zarr": "Zarr", "numpy": "NumPy", "scipy": "SciPy", "python": "Python"}
    others = [f"{shown.get(name, name)} {versions[name]}" for name in names if name in versions]
    return f"The analysis was made with daskglm {own}, using {enumerated(others)}."


def model_sentences(
    n_images: int, columns: Sequence[str], formula: str | None, contrasts: Mapping[str, tuple[str, str]]
) -> list[str]:
    """The model of a group, and its contrasts.

    Parameters
    ----------
    n_images : int
        Images.
    columns : sequence of str
        Regressors.
    formula : str or None
        Where it was given.
    contrasts : mapping of str to (definition, type)
        By name.

    Returns
    -------
    list of str
        Sentences.
    """
    given = f" from the formula {formula}" if formula else ""
    model = (
        f"A general linear model (Friston et al., 1994) of {n_images} images was fitted at every voxel by ordinary "
        f"least squares, with {count_text(len(columns), 'regressor')}{given}: {listing(columns, 30)}."
    )
    return [model, *contrast_sentences(contrasts)]


def contrast_sentences(contrasts: Mapping[str, tuple[str, str]]) -> list[str]:
    """The contrasts.

    Parameters
    ----------
    contrasts : mapping of str to (definition, type)
        By name.

    Returns
    -------
    list of str
        A sentence, or none.
    """
    if not contrasts:
        return []
    texts = [
        f"{name} ({kind} contrast{'' if text == name else f': {text}'})" for name, (text, kind) in contrasts.items()
    ]
    return [f"{'This contrast was' if len(texts) == 1 else 'These contrasts were'} tested: {'; '.join(texts)}."]


def run_sentences(
    n_runs: int, n_volumes: int, design: str, noise: str, where: str = "", weighted: bool = False
) -> list[str]:
    """The model of the runs of a first level.

    Parameters
    ----------
    n_runs, n_volumes : int
        Runs, and volumes of all of them.
    design : str
        What regressors are.
    noise : str
        "ols", "ar1", ...
    where : str
        As in " of 12 subjects".
    weighted : bool
        Whether runs were weighed by their precision.

    Returns
    -------
    list of str
        Sentences.
    """
    order = noise.removeprefix("ar")
    fit = "ordinary least squares" if noise == "ols" else (
        f"generalized least squares, with noise autoregressive of order {order} that is estimated at every voxel from "
        "the residuals of ordinary least squares and removed by whitening (Worsley & Friston, 1995)"
    )  # fmt: skip
    found = [
        f"A general linear model (Friston et al., 1994) of each of {count_text(n_runs, 'run')}{where} ({n_volumes:,} "
        f"volumes) was fitted at every voxel by {fit}; its regressors are {design}."
    ]
    how = ", weighed by the inverse of their variance" if weighted else ""
    return found if n_runs == 1 else [*found, f"Effects of runs were combined by a fixed-effects model{how}."]


def scaling_sentence(percent_of: str | None, standardize: bool, by_volume: bool = False) -> list[str]:
    """What was done to the values of a run, where anything was.

    Parameters
    ----------
    percent_of : {"voxel", "run", None}
        Of the mean of what values became percent.
    standardize : bool
        Whether values were standardized.
    by_volume : bool
        Whether the mean was of each volume.

    Returns
    -------
    list of str
        A sentence, or none.
    """
    if by_volume:
        return ["Values were scaled to percent of the mean of their volume."]
    if percent_of is not None:
        return [f"Values were scaled to percent of the mean of their {percent_of}."]
    return ["Values of each voxel were standardized over volumes."] if standardize else []


def missing_sentence(missing: str, min_coverage: float) -> str:
    """What was done about missing data.

    Parameters
    ----------
    missing : {"nan", "zero"}
        What is missing.
    min_coverage : float
        Fraction of the images.

    Returns
    -------
    str
    """
    rule = "values that are not finite" if missing == "nan" else "values that are not finite, and exact zeros,"
    return (
        f"Voxels were fitted to the images that have them: {rule} counted as missing, and voxels with data in fewer "
        f"than {100 * min_coverage:g}% of the images were left out."
    )


def smoothing_sentence(fwhm: Any) -> list[str]:
    """Smoothing, where there was any.

    Parameters
    ----------
    fwhm : float, 3 floats or None
        In mm.

    Returns
    -------
    list of str
        A sentence, or none.
    """
    if fwhm is None:
        return []
    width = " x ".join(f"{value:g}" for value in fwhm) if isinstance(fwhm, (list, tuple)) else f"{fwhm:g}"
    return [f"Images were smoothed by a Gaussian of {width} mm full width at half maximum."]


def threshold_sentence(how: Any) -> str:
    """What is shown of z maps.

    Parameters
    ----------
    how : Thresholding
        The parameters.

    Returns
    -------
    str
    """
    if how.height_control is None:
        level = 3.0 if how.threshold is None else how.threshold
        rule = f"z {'beyond' if how.two_sided else 'above'} {level:g}"
    else:
        rule = _HEIGHTS[how.height_control].format(alpha=how.alpha)
    sides = "two-sided (one-sided for F)" if how.two_sided else "one-sided"
    extent = f", in clusters of at least {how.cluster_threshold} voxels" if how.cluster_threshold else ""
    return f"Maps of z are shown at {rule}, {sides}{extent}."


def enumerated(items: Sequence[str]) -> str:
    """Items with commas and an "and".

    Parameters
    ----------
    items : sequence of str
        At least one.

    Returns
    -------
    str

    Examples
    --------
    >>> enumerated(["a", "b", "c"])
    'a, b and c'
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def permutation_sentences(parameters: Mapping[str, Any], done: int, exhaustive: bool) -> list[str]:
    """How a null distribution was made.

    Parameters
    ----------
    parameters : mapping
        Of :func:`daskglm.permutation_test`.
    done : int
        Rearrangements.
    exhaustive : bool
        Whether these are all there are.

    Returns
    -------
    list of str
        Sentences.
    """
    kinds = {"permutation": "permutations", "sign_flip": "sign flips", "both": "permutations with sign flips"}
    kind = kinds.get(str(parameters.get("rearrangement")), "rearrangements (sign flips where a constant is tested)")
    scheme = str(parameters.get("scheme", "freedman-lane"))
    cited = {
        "freedman-lane": "the procedure of Freedman and Lane (1983; Winkler et al., 2014)",
        "smith": "the procedure of Smith (Winkler et al., 2014)",
        "draper-stoneman": "the procedure of Draper and Stoneman (Winkler et al., 2014)",
        "ter-braak": "the procedure of ter Braak (Winkler et al., 2014)",
    }[scheme]
    which = f"all {done:,} distinct" if exhaustive else f"{done:,} random"
    sides = "two-sided" if parameters.get("two_sided", True) else "one-sided"
    found = [
        f"Inference was by {which} {kind}, {sides}, with {cited}; corrected p values compare each voxel with the "
        "largest statistic of every rearrangement, which holds the familywise error rate, at 0.05 here."
    ]
    found.append("Maps of the statistic are shown where the corrected p is at most 0.05.")
    found.append("Maps of q hold the false discovery rate (Benjamini & Hochberg, 1995) over voxels.")
    for name, text in (("within", "within"), ("whole", "as whole")):
        if parameters.get(name):
            found.append(f"Rows changed places only {text} blocks of {parameters[name]}.")
    if parameters.get("variance_groups"):
        found.append(f"Groups of {parameters['variance_groups']} had variances of their own.")
    if parameters.get("threshold") is not None:
        found.append(f"Clusters were formed at p < {parameters['threshold']:g} and tested by size and mass.")
    if parameters.get("tfce"):
        found.append("Threshold-free cluster enhancement (Smith & Nichols, 2009) was tested too.")
    if parameters.get("tail"):
        found.append("Small p values come from a generalized Pareto tail (Winkler et al., 2016).")
    return found


def permutation_citations(parameters: Mapping[str, Any]) -> list[str]:
    """Keys of what :func:`permutation_sentences` cites.

    Parameters
    ----------
    parameters : mapping
        Of :func:`daskglm.permutation_test`.

    Returns
    -------
    list of str
    """
    keys = ["freedman1983"] if parameters.get("scheme", "freedman-lane") == "freedman-lane" else []
    keys += ["winkler2014", "benjamini1995"]
    keys += ["smith2009"] if parameters.get("tfce") else []
    return [*keys, "winkler2016"] if parameters.get("tail") else keys
