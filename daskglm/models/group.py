"""A whole group analysis: images and a table in, a folder of maps out."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.graph.compute import cluster_description, compute
from daskglm.graph.glm import fewest
from daskglm.graph.planning import machine
from daskglm.inference.peaks import find_peaks
from daskglm.io.checkpoints import checkpoint_folder, forget_checkpoints
from daskglm.io.journal import Run, running
from daskglm.io.provenance import run_record, software, stage
from daskglm.io.results import prepare_output, sweep, write_results
from daskglm.models.contrasts import Contrasts, check_any, contrasts_of_design
from daskglm.models.doubts import warn_of_doubts
from daskglm.models.functional import (
    OUTPUT_TYPES,
    check_any_fitted,
    compute_contrasts,
    design_of_formula,
    fit_glm,
    map_image,
)
from daskglm.models.group_fit import fit_in_units
from daskglm.models.inputs import Loaded, load_images
from daskglm.models.options import Options
from daskglm.models.plan import check_resources, folder_bytes
from daskglm.models.plan_group import plan_fit
from daskglm.models.plan_images import open_source
from daskglm.models.selection import chosen_by, selection
from daskglm.schema.datasets import sample_names, space_of
from daskglm.schema.headers import describe
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
    contrasts: Contrasts,
    *,
    f_contrasts: Contrasts | None = None,
    participants: Any = None,
    exclude: Any = (),
    where: str | None = None,
    na: str = "stop",
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    allow_rank_deficient: bool = False,
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
    contrasts, f_contrasts : mapping of str to contrast, or sequence of str
        Name to expression or weights; or texts "name=expression", as on the command line. Without any "~ 1" has its
        intercept.
    participants : DataFrame or path, optional
        Table with a column participant_id (and session_id, run), matched to the images by id; a store brings its own.
    exclude : str or sequence of str
        Subjects to leave out: ids, or files that list such (a table with a column participant_id, or an id a line).
    where : str, optional
        Condition on the participants, others are left out: "site != 'x' and age >= 18".
    na : {"stop", "drop"}
        "drop": leave out those who lack a value that the analysis uses, and list them.
    mask, missing, min_coverage, smoothing_fwhm, allow_rank_deficient, n_jobs
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
    started, output, timings = time.time(), os.fspath(output), dict[str, float]()
    check_any(contrasts, f_contrasts, "group", formula)
    with running(output, "group", prepare=partial(sweep, output)) as run:
        prepare_output(output, overwrite)
        choose, participants = selection(participants, exclude, where, na, formula)
        check = partial(
            _checked_model, formula, participants, min_coverage, allow_rank_deficient, contrasts, f_contrasts
        )
        options = Options(mask, missing, min_coverage, smoothing_fwhm, n_jobs=n_jobs)
        with stage("read headers", timings):
            loaded = load_images(images, options, check, choose)
            design, lazy, lazy_maps = check(loaded)
            warn_of_doubts(loaded, options)
            definitions, kinds = contrasts_of_design(contrasts, f_contrasts, design)
        plan = plan_fit(open_source(loaded, options), lazy, lazy_maps, machine(n_jobs))
        check_resources(plan, output, kept=folder_bytes(checkpoint_folder(run.output, "")))
        label, treatment = "Reading images" if progress else None, [missing, smoothing_fwhm]
        with stage("read and sum images", timings):
            fit = fit_in_units(loaded, design, fewest(min_coverage, len(design)), run, treatment, n_jobs, label)
        check_any_fitted(fit)
        with stage("contrasts", timings):
            (maps,) = compute(compute_contrasts(fit, definitions, kinds), n_jobs=n_jobs, here=True)
            peaks = find_peaks(maps)
        provenance = {
            **record_of(run, timings, loaded, n_jobs, design),
            "parameters": {
                **parameters_of(formula, options, chosen_by(exclude, where, na)),
                "contrasts": {
                    name: {"definition": text, "type": str(maps["stat_type"].sel(contrast=name).values)}
                    for name, text in definitions.items()
                },
                "allow_rank_deficient": allow_rank_deficient,
            },
            "seconds": round(time.time() - started, 3),
        }
        tables = {"design.tsv": with_samples(design), "peaks.tsv": peaks.round(4)}
        documents = {"dataset_description.json": description("group")}
        with stage("write", timings):
            files = write_results(output, _images(maps, fit, bids_labels(definitions)), tables, documents, provenance)
        forget_checkpoints(output)
    return GroupResult(output, files, design, fit, maps, peaks, time.time() - started)


def record_of(
    run: Run, timings: Mapping[str, float], loaded: Loaded, n_jobs: int | None, design: pd.DataFrame
) -> dict[str, Any]:
    """What the provenance of a group or permutation analysis says of the run and its images.

    Parameters
    ----------
    run : Run
        The run.
    timings : mapping of str to float
        Stage to seconds.
    loaded : Loaded
        Images.
    n_jobs : int or None
        Threads, where no cluster is active.
    design : (n, p) DataFrame
        Design in the order of the samples.

    Returns
    -------
    dict
        As :func:`~daskglm.io.provenance.run_record`; with the checksums of the files that a store was made of.
    """
    names, sums = sample_names(loaded.images), loaded.images.get("source_crc32")
    checksums = None if sums is None else dict(zip(names, map(int, sums.values), strict=True))
    made = run_record(run.record.command, timings, cluster_description(n_jobs), loaded.sources, checksums)
    chosen = {"samples": names, "rows": design.attrs["rows"], "left_out": loaded.images.attrs.get("not_chosen", {})}
    return {**made, "run": run.record.id, "images": loaded.sources, **chosen, "warnings": run.warnings}


def parameters_of(formula: str, options: Options, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that a group and a permutation analysis share, as the provenance has them.

    Parameters
    ----------
    formula : str
        Of the design.
    options : Options
        How the images were loaded.
    chosen : mapping
        As of :func:`~daskglm.models.selection.chosen_by`.

    Returns
    -------
    dict
    """
    mask = options.mask_img if isinstance(options.mask_img, (str, bool, type(None))) else "image"
    treated = {name: getattr(options, name) for name in ("missing", "min_coverage", "smoothing_fwhm")}
    return {"formula": formula, **chosen, "mask": mask, **treated}


def _checked_model(
    formula: str, participants: Any, min_coverage: float, allow_rank_deficient: bool, contrasts: Contrasts,
    f_contrasts: Contrasts | None, loaded: Loaded,
) -> tuple[pd.DataFrame, xr.Dataset, xr.Dataset]:  # fmt: skip
    """The design, the fit and the maps, lazy; misspelt and undetermined contrasts are refused here, before any pass."""
    design = design_of_formula(formula, participants, loaded.images)
    fit = fit_glm(loaded.images, design, min_coverage=min_coverage, allow_rank_deficient=allow_rank_deficient)
    return design, fit, compute_contrasts(fit, *contrasts_of_design(contrasts, f_contrasts, design))


def _images(maps: xr.Dataset, fit: xr.Dataset, labels: Mapping[str, str]) -> dict[str, Any]:
    """File name -> image: every map of every contrast, the number of observations and the mask."""
    images: dict[str, Any] = {}
    for name, label in labels.items():
        stat = str(maps["stat_type"].sel(contrast=name).values)
        for kind in OUTPUT_TYPES:
            images[f"contrast-{label}_stat-{_STAT_NAMES.get(kind, stat)}_statmap.nii.gz"] = map_image(maps, name, kind)
    space = space_of(maps)
    images["n.nii.gz"] = describe(space.to_image(fit["n"].values.astype(np.int32)), "n")
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
