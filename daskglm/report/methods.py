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


def design_text(parameters: Mapping[str, Any], events: bool = True, confounds: str = "") -> str:
    """What the regressors of a run are.

    Parameters
    ----------
    parameters : mapping
        Of the design, as of :class:`daskglm.FirstLevelModel`.
    events : bool
        Whether there were events.
    confounds : str
        As in "confounds (motion)", where there were any.

    Returns
    -------
    str

    Examples
    --------
    >>> design_text({"hrf_model": "spm", "drift_model": None}, confounds="confounds (motion)")
    'events convolved with the spm haemodynamic response, confounds (motion), and no drifts'
    """
    drifts = {
        "cosine": f"cosine drifts up to {parameters.get('high_pass', 0.01):g} Hz",
        "polynomial": f"polynomial drifts of order {parameters.get('drift_order', 1)}",
    }
    parts = [f"events {_response_text(parameters)}"] if events else []
    parts += [confounds] if confounds else []
    drift = drifts.get(str(parameters.get("drift_model", "cosine")), "no drifts")
    return f"{', '.join(parts)}, and {drift}" if parts else drift


def _response_text(parameters: Mapping[str, Any]) -> str:
    """What was made of events."""
    hrf = parameters.get("hrf_model", "glover")
    if hrf is None:
        found = "as they last, not convolved"
    elif hrf == "fir":
        delays = parameters.get("fir_delays")
        shown = listing([0] if delays is None else delays, 40)
        found = f"modelled by a finite impulse response, at delays of {shown} volumes"
    else:
        # In a record a function is its representation.
        named = isinstance(hrf, str) and not hrf.startswith("<")
        found = f"convolved with {f'the {hrf} haemodynamic response' if named else 'the responses given'}"
    if parameters.get("impulse", "sample") == "unit":
        found += ", those without duration as impulses of area one"
    if parameters.get("modulators", "raw") != "raw":
        found += f", their modulations as {parameters['modulators']} regressors of their own"
    if parameters.get("duration_modulation"):
        found += ", their durations as regressors of their own"
    if parameters.get("transform"):
        found += f", after the transformations {listing([item['Name'] for item in parameters['transform']], 20)}"
    if parameters.get("slice_time_ref"):
        found += f", at {parameters['slice_time_ref']:g} of the repetition time"
    return found


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


def permutation_sentences(
    parameters: Mapping[str, Any], done: int, exhaustive: bool, kind: str | None = None
) -> list[str]:
    """How a null distribution was made.

    Parameters
    ----------
    parameters : mapping
        Of :func:`daskglm.permutation_test`.
    done : int
        Rearrangements.
    exhaustive : bool
        Whether these are all there are.
    kind : {"permutation", "sign_flip", "both", None}
        What they were; None where that was not recorded.

    Returns
    -------
    list of str
        Sentences.
    """
    kinds = {"permutation": "permutations", "sign_flip": "sign flips", "both": "permutations with sign flips"}
    what = kinds.get(str(kind or parameters.get("rearrangement")), "rearrangements")
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
        f"Inference was by {which} {what}, {sides}, with {cited}; corrected p values compare each voxel with the "
        "largest statistic of every rearrangement, which holds the familywise error rate, at 0.05 here."
    ]
    found.append("Maps of the statistic are shown where the corrected p of what was tested is at most 0.05.")
    found.append(
        "Maps of q hold the false discovery rate (Benjamini & Hochberg, 1995) over voxels, from counted p: with "
        f"{done:,} rearrangements q of 0.05 takes at least {min(100, 100 / (0.05 * (1 + done))):.2g}% of the voxels "
        "with the smallest p."
    )
    for name, text in (("within", "within"), ("whole", "as whole")):
        if parameters.get(name):
            found.append(f"Rows changed places only {text} blocks of {parameters[name]}.")
    if parameters.get("variance_groups"):
        found.append(
            f"Groups of {parameters['variance_groups']} had variances of their own (Aspin and Welch's v, and G), and "
            "statistics were compared as z by the degrees of freedom of each rearrangement, at voxels that all "
            "images have."
        )
    elif what.startswith("permutations"):
        found.append("Permutations assume that all images have the same variance.")
    if parameters.get("threshold") is not None:
        shared = {6: "a face", 18: "a face or an edge", 26: "a face, an edge or a corner"}
        found.append(
            f"Clusters of voxels that share {shared[int(parameters.get('connectivity', 6))]} were formed at p < "
            f"{parameters['threshold']:g} and tested by size and mass."
        )
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
