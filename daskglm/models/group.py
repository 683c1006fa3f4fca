"""A whole group analysis: images and a table in, a folder of maps out."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.errors import ContrastError, listing
from daskglm.graph.compute import compute
from daskglm.inference.peaks import find_peaks
from daskglm.io.provenance import software
from daskglm.io.results import prepare_output, write_results
from daskglm.models.functional import (
    OUTPUT_TYPES,
    check_any_fitted,
    compute_contrasts,
    design_of_formula,
    fit_glm,
    map_image,
)
from daskglm.models.inputs import load_images
from daskglm.models.options import Options
from daskglm.schema.datasets import sample_names, space_of
from daskglm.schema.names import bids_labels

_STAT_NAMES = {"effect_size": "effect", "effect_variance": "variance", "z_score": "z", "p_value": "p"}


@dataclass(frozen=True)
class GroupResult:
    """What a group analysis found and where it was written.

    Attributes
    ----------
    folder : str
        The result folder.
    files : list of str
        Paths written.
    design : DataFrame
        Design in the order of the samples.
    fit, maps : xarray.Dataset
        Computed fit and maps.
    peaks : DataFrame
        Extremes of each contrast's z map.
    seconds : float
        Time it took.
    """

    folder: str
    files: list[str]
    design: pd.DataFrame
    fit: xr.Dataset
    maps: xr.Dataset
    peaks: pd.DataFrame
    seconds: float


def group_analysis(
    images: Any,
    output: str,
    formula: str,
    contrasts: Mapping[str, str],
    *,
    f_contrasts: Mapping[str, str] | None = None,
    participants: Any = None,
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    n_jobs: int | None = -1,
    overwrite: bool = False,
    progress: bool = False,
) -> GroupResult:
    """Fit a model across subjects and write its maps in BIDS form.

    Parameters
    ----------
    images : glob, list of paths, or store
        One image a subject.
    output : str
        Result folder.
    formula : str
        Design from the participants: "~ age + C(site)".
    contrasts, f_contrasts : mapping of str to str
        Name to expression.
    participants : DataFrame or path, optional
        Table with a column participant_id, matched to the images by id; a store brings its own.
    mask, missing, min_coverage, smoothing_fwhm, n_jobs
        As in :class:`daskglm.SecondLevelModel`.
    overwrite : bool
        Replace results in the folder.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    GroupResult
        With files ``contrast-<name>_stat-<effect|variance|t|F|z|p>_statmap.nii.gz``, ``n.nii.gz``,
        ``mask.nii.gz``, ``design.tsv``, ``peaks.tsv``, ``dataset_description.json`` and ``provenance.json``.

    Raises
    ------
    DaskGLMError
        Names the rule, the values and the remedy; before images are read wherever it can be known.
    """
    started = time.time()
    definitions, kinds = all_contrasts(contrasts, f_contrasts or {})
    labels = bids_labels(definitions)
    prepare_output(output, overwrite)
    loaded = load_images(images, Options(mask, missing, min_coverage, smoothing_fwhm, n_jobs=n_jobs))
    design = design_of_formula(formula, participants, loaded.images)
    lazy = fit_glm(loaded.images, design, min_coverage=min_coverage)
    # Misspelt and undetermined contrasts are refused here, before the pass.
    compute_contrasts(lazy, definitions, kinds)
    (fit,) = compute(lazy, n_jobs=n_jobs, progress="Reading images" if progress else None)
    check_any_fitted(fit)
    (maps,) = compute(compute_contrasts(fit, definitions, kinds), n_jobs=n_jobs)
    peaks = find_peaks(maps)
    provenance = {
        "software": software(),
        "command": sys.argv[1:],
        "images": loaded.sources,
        "samples": sample_names(loaded.images),
        "parameters": {
            "formula": formula,
            "contrasts": {
                name: {"definition": text, "type": str(maps["stat_type"].sel(contrast=name).values)}
                for name, text in definitions.items()
            },
            "mask": mask if isinstance(mask, (str, bool, type(None))) else "image",
            "missing": missing,
            "min_coverage": min_coverage,
            "smoothing_fwhm": smoothing_fwhm,
        },
        "seconds": round(time.time() - started, 3),
    }
    tables = {"design.tsv": with_samples(design), "peaks.tsv": peaks.round(4)}
    documents = {"dataset_description.json": description("group")}
    files = write_results(output, _images(maps, fit, labels), tables, documents, provenance)
    return GroupResult(output, files, design, fit, maps, peaks, time.time() - started)


def all_contrasts(
    contrasts: Mapping[str, str], f_contrasts: Mapping[str, str], kind: str = "group"
) -> tuple[dict[str, str], dict[str, str]]:
    """Definitions of all contrasts and the types of those that are F, by name.

    Parameters
    ----------
    contrasts, f_contrasts : mapping of str to str
        Name to expression, of t and F contrasts.
    kind : str
        Of analysis, for the message.

    Returns
    -------
    definitions, kinds : dict of str to str

    Raises
    ------
    ContrastError
        Where there is none, or a name is in both.
    """
    both = sorted(set(contrasts) & set(f_contrasts))
    if both:
        raise ContrastError(f"{listing(both)} is both a t and an F contrast; name one: --f-contrast name=definition")
    if not contrasts and not f_contrasts:
        raise ContrastError(f"a {kind} analysis needs a contrast; give --contrast or --f-contrast")
    return {**contrasts, **f_contrasts}, dict.fromkeys(f_contrasts, "F")


def _images(maps: xr.Dataset, fit: xr.Dataset, labels: Mapping[str, str]) -> dict[str, Any]:
    """File name -> image: every map of every contrast, the number of observations and the mask."""
    images: dict[str, Any] = {}
    for name, label in labels.items():
        stat = str(maps["stat_type"].sel(contrast=name).values)
        for kind in OUTPUT_TYPES:
            images[f"contrast-{label}_stat-{_STAT_NAMES.get(kind, stat)}_statmap.nii.gz"] = map_image(maps, name, kind)
    space = space_of(maps)
    images["n.nii.gz"] = space.to_image(fit["n"].values.astype(np.int32))
    images["mask.nii.gz"] = space.mask_image()
    return images


def with_samples(design: pd.DataFrame) -> pd.DataFrame:
    """The design with the samples as its first column.

    Parameters
    ----------
    design : (n, p) DataFrame
        Design with the samples as its index.

    Returns
    -------
    (n, 1 + p) DataFrame
    """
    return design.rename_axis(index="participant_id").reset_index()


def description(kind: str) -> dict[str, Any]:
    """BIDS description of a derivative.

    Parameters
    ----------
    kind : str
        Of analysis.

    Returns
    -------
    dict
    """
    return {
        "Name": f"daskglm {kind} analysis",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "daskglm", "Version": software()["daskglm"]}],
    }
