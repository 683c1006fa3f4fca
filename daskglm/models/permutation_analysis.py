"""A whole permutation analysis: images and a table in, a folder of corrected maps out."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import numpy as np
import pandas as pd
import xarray as xr

from daskglm.design.matrix import check_design
from daskglm.inference.permutation import permutation_test
from daskglm.inference.permutation_clusters import permutation_clusters
from daskglm.inference.planning import parse_tests
from daskglm.io.files import join, read_bytes
from daskglm.io.journal import running
from daskglm.io.permutations import claim_units, count_units
from daskglm.io.provenance import stage
from daskglm.io.results import PROVENANCE, prepare_output, sweep, write_results
from daskglm.kernels.null import critical_value
from daskglm.models.contrasts import Contrasts, check_any, contrasts_of_design
from daskglm.models.doubts import warn_of_doubts
from daskglm.models.functional import design_of_formula
from daskglm.models.group import description, parameters_of, record_of, with_samples
from daskglm.models.inputs import Loaded, fingerprint, load_images, participants_column
from daskglm.models.options import Options
from daskglm.models.plan import check_resources, folder_bytes
from daskglm.models.plan_permute import plan_permutation
from daskglm.models.selection import chosen_by, selection
from daskglm.schema.datasets import space_of
from daskglm.schema.headers import describe, describe_map
from daskglm.schema.names import bids_labels

# Maps by the end of their names; {} is t or F.
_MAPS = {
    "stat": "{}",
    "scaled_stat": "{}scaled",
    "logp_stat": "{}logp",
    "logq_stat": "{}logq",
    "logp_max_stat": "{}logpmax",
    "z_max_stat": "{}zmax",
    "logp_across_stat": "{}logpacross",
    "size": "size",
    "logp_max_size": "sizelogpmax",
    "mass": "mass",
    "logp_max_mass": "masslogpmax",
    "tfce": "tfce",
    "logp_tfce": "tfcelogp",
    "logp_max_tfce": "tfcelogpmax",
}
KEPT = ".permutations"
_ALPHA = 0.05


@dataclass(frozen=True)
class PermutationResult:
    """What a permutation analysis found and where it was written.

    Attributes
    ----------
    folder : str
        The result folder.
    files : list of str
        Paths written.
    design : DataFrame
        Design in the order of the samples.
    maps : xarray.Dataset
        From :func:`permutation_test`.
    thresholds : DataFrame
        For each contrast and statistic the value that 5% of the nulls reach, the observed maximum, its corrected p and
        the number of voxels with p <= 0.05.
    seconds : float
        Time it took.
    """

    folder: str
    files: list[str]
    design: pd.DataFrame
    maps: xr.Dataset
    thresholds: pd.DataFrame
    seconds: float


def permutation_analysis(
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
    within: str | None = None,
    whole: str | None = None,
    variance_groups: str | None = None,
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    n_jobs: int | None = -1,
    overwrite: bool = False,
    progress: bool = False,
    **test: Any,
) -> PermutationResult:
    """Test contrasts across subjects by permutation, and write their maps in BIDS form.

    Finished rearrangements are kept in the folder: the same analysis again, after an interruption or with a larger
    `n_perm`, goes on from there.

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
        Table with a column participant_id (and session_id, run); a store brings its own.
    exclude : str or sequence of str
        Subjects to leave out: ids, or files that list such (a table with a column participant_id, or an id a line).
    where : str, optional
        Condition on the participants, others are left out: "site != 'x' and age >= 18".
    na : {"stop", "drop"}
        "drop": leave out those who lack a value that the analysis uses, and list them.
    within, whole : str, optional
        Column of the participants that names blocks of exchangeability.
    variance_groups : str, optional
        Column that names groups with variances of their own.
    mask, missing, min_coverage, smoothing_fwhm, n_jobs
        As in :class:`daskglm.SecondLevelModel`.
    overwrite : bool
        Replace results of another analysis in the folder.
    progress : bool
        Show rearrangements done and time left on standard error.
    **test
        Further arguments of :func:`permutation_test`: ``n_perm``, ``threshold``, ``tfce``, ``scheme``, ...

    Returns
    -------
    PermutationResult
        With files ``contrast-<name>_stat-<t|F><|logp|logq|logpmax|zmax>_statmap.nii.gz``, with `threshold`
        ``stat-<size|mass><|logpmax>`` and ``clusters.tsv``, with `tfce` ``stat-tfce<|logp|logpmax>``,
        ``contrast-<name>_nulls.tsv``, ``thresholds.tsv``, ``n.nii.gz``, ``mask.nii.gz``, ``design.tsv`` and
        ``provenance.json``.

    Raises
    ------
    DaskGLMError
        Names the rule, the values and the remedy; before images are read wherever it can be known.
    """
    started, output, timings = time.time(), os.fspath(output), dict[str, float]()
    check_any(contrasts, f_contrasts, "permutation", formula)
    with running(output, "permute", prepare=partial(sweep, output)) as run:
        options = Options(mask, missing, min_coverage, smoothing_fwhm, n_jobs=n_jobs)

        columns: dict[str, Any] = {"within": within, "whole": whole, "variance_groups": variance_groups}
        choose, participants = selection(participants, exclude, where, na, formula, list(columns.values()))

        def checked_design(loaded: Loaded) -> pd.DataFrame:
            design = design_of_formula(formula, participants, loaded.images)
            check_design(design, len(design), allow_rank_deficient=test.get("allow_rank_deficient", False))
            definitions, kinds = contrasts_of_design(contrasts, f_contrasts, design)
            parse_tests(design, definitions, f_contrasts=[name for name, kind in kinds.items() if kind == "F"])
            return design

        with stage("read headers", timings):
            loaded = load_images(images, options, checked_design, choose)
            design = checked_design(loaded)
            warn_of_doubts(loaded, options)
            definitions, kinds = contrasts_of_design(contrasts, f_contrasts, design)
            labels, several = bids_labels(definitions), [name for name, kind in kinds.items() if kind == "F"]
        blocks: dict[str, Any] = {
            name: participants_column(given, participants, loaded.images) for name, given in columns.items()
        }
        what = [fingerprint(loaded), missing, min_coverage, smoothing_fwhm, space_of(loaded.images).voxels]
        same = {name: value for name, value in test.items() if name not in ("n_perm", "stop_at", "tail")}
        analysis = str(joblib.hash([what, design.to_numpy(), list(design.columns), definitions, kinds, blocks, same]))
        prepare_output(output, overwrite or _holds(output, analysis))
        folder = join(run.output, KEPT)
        claim_units(folder, analysis)
        plan = plan_permutation(
            loaded, None, formula, contrasts, f_contrasts=f_contrasts, participants=participants, missing=missing,
            min_coverage=min_coverage, smoothing_fwhm=smoothing_fwhm, n_jobs=n_jobs, count=False, **columns, **test,
        )  # fmt: skip
        check_resources(plan, output, kept=folder_bytes(folder))
        run.begin(test.get("n_perm", 10_000), partial(count_units, folder))
        with stage("rearrange", timings):
            maps = permutation_test(
                loaded.images, design, definitions, f_contrasts=several, min_coverage=min_coverage, n_jobs=n_jobs,
                folder=folder, fingerprint=what, progress=progress, **blocks, **test,
            )  # fmt: skip
        thresholds = _thresholds(maps)
        tables = {"design.tsv": with_samples(design), "thresholds.tsv": thresholds, **_nulls(maps, labels)}
        if test.get("threshold") is not None:
            tables["clusters.tsv"] = permutation_clusters(maps, test.get("connectivity", 6))
        provenance = {
            **record_of(run, timings, loaded, n_jobs, design),
            "analysis": analysis,
            "parameters": {**parameters_of(formula, options, chosen_by(exclude, where, na)), "contrasts": definitions,
                           "f_contrasts": several, **columns, **test},
            "rearrangements": {
                "done": int(maps.attrs["n_perm"]),
                "exhaustive": bool(maps.attrs["exhaustive"]),
                "kind": str(maps.attrs["rearrangement"]),
            },
            "seconds": round(time.time() - started, 3),
        }  # fmt: skip
        documents = {"dataset_description.json": description("permutation")}
        with stage("write", timings):
            files = write_results(output, _images(maps, labels), tables, documents, provenance)
        run.record.total = int(maps.attrs["n_perm"])
    return PermutationResult(output, files, design, maps, thresholds, time.time() - started)


def _holds(output: str, analysis: str) -> bool:
    """Whether a folder holds results of this analysis."""
    try:
        return bool(json.loads(read_bytes(join(output, PROVENANCE))).get("analysis") == analysis)
    except (OSError, ValueError):
        return False


def _thresholds(maps: xr.Dataset) -> pd.DataFrame:
    """What the data have to exceed for a corrected p of 5%, and what they reach."""
    rows = []
    for name in maps["contrast"].values:
        chosen = maps.sel(contrast=name)
        for null in [str(key) for key in maps.data_vars if str(key).startswith("h0_max_")]:
            statistic = null.removeprefix("h0_max_")
            p = 10 ** -chosen[f"logp_max_{statistic}"].values
            label, shown = statistic, statistic
            if statistic == "stat":
                label = str(chosen["stat_type"].values)
            if statistic == "stat" and "scaled_stat" in chosen:
                label, shown = f"{label}, scaled", "scaled_stat"
            values = chosen[shown].values
            observed = np.fmax.reduce(np.abs(values) if chosen["two_sided"] else values)
            level = critical_value(chosen[null].values, _ALPHA)
            rows.append((str(name), label, level, observed, np.fmin.reduce(p), int((p <= _ALPHA).sum())))
    columns = ["contrast", "statistic", "threshold", "observed_maximum", "smallest_p", "voxels"]
    return pd.DataFrame(rows, columns=columns)


def _nulls(maps: xr.Dataset, labels: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """File name -> null distributions of a contrast, a column a statistic."""
    names = [str(key) for key in maps.data_vars if str(key).startswith("h0_max_")]
    return {
        f"contrast-{label}_nulls.tsv": pd.DataFrame({key: maps[key].sel(contrast=name).values for key in names})
        for name, label in labels.items()
    }


def _images(maps: xr.Dataset, labels: Mapping[str, str]) -> dict[str, Any]:
    """File name -> image."""
    space = space_of(maps)
    images: dict[str, Any] = {}
    for name, label in labels.items():
        chosen = maps.sel(contrast=name)
        for kind, end in _MAPS.items():
            if kind in chosen:
                file = f"contrast-{label}_stat-{end.format(chosen['stat_type'].values)}_statmap.nii.gz"
                images[file] = describe_map(space.to_image(np.asarray(chosen[kind].values), outside=0), chosen, kind)
    images["n.nii.gz"] = describe(space.to_image(maps["n"].values.astype(np.int32)), "n")
    images["mask.nii.gz"] = space.mask_image()
    return images
