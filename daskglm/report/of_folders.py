"""Reports of result folders: of group, permute and first-level."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import design_array
from daskglm.errors import ContrastError, DaskGLMError, ParameterError
from daskglm.inference.thresholding import read_map
from daskglm.io.files import join, read_bytes
from daskglm.io.results import PROVENANCE
from daskglm.models.inputs import load_images
from daskglm.models.options import Options
from daskglm.report.analysis import Analysis, Check, ContrastMap, Corrected, Drawing, Null, Thresholding
from daskglm.report.content import build_document
from daskglm.report.methods import (
    missing_sentence,
    model_sentences,
    permutation_citations,
    permutation_sentences,
    smoothing_sentence,
)
from daskglm.report.of_cohorts import FIRST_LEVEL, cohort_analysis
from daskglm.report.page import Report
from daskglm.report.self_check import Fitted, check_group
from daskglm.schema.datasets import sample_names
from daskglm.schema.names import bids_labels

_TEXT = ("contrast", "statistic", "participant_id", "sign")
_LEVEL = re.compile(r"\[[^\]]*\]")


def generate_report(
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    bg_img: Any = "MNI152TEMPLATE",
    threshold: float | None = None,
    alpha: float = 0.001,
    cluster_threshold: int = 0,
    height_control: str | None = "fpr",
    two_sided: bool = True,
    min_distance: float = 8.0,
    plot_type: str = "slice",
    cut_coords: Any = None,
    display_mode: str | None = None,
) -> Report:
    """Report a result folder as a page of HTML.

    Parameters
    ----------
    folder : path
        Of :func:`~daskglm.group_analysis`, :func:`~daskglm.permutation_analysis` or
        :func:`~daskglm.first_level_analysis`, or of the commands of these names; path or URL.
    title : str, optional
        Of the page.
    bg_img, plot_type, cut_coords, display_mode
        As of :meth:`~daskglm.SecondLevelModel.generate_report`.
    threshold, alpha, cluster_threshold, height_control, two_sided, min_distance
        As there; maps of a permutation test are shown where their corrected p is at most 0.05.

    Returns
    -------
    Report
        With ``save_as_html(path)``.

    Raises
    ------
    ParameterError
        Where the folder holds no results of daskglm.
    MissingDependencyError
        Without the ``[report]`` extra.

    Notes
    -----
    A self-check fits some voxels again, if the images are still where they were.
    """
    analysis = _analysis(os.fspath(folder))
    how = Thresholding(threshold, alpha, cluster_threshold, height_control, two_sided, min_distance)
    drawing = Drawing(bg_img, plot_type, cut_coords, display_mode)
    return Report(build_document(analysis, how, drawing, title))


def _analysis(folder: str) -> Analysis:
    """What a folder holds."""
    for name, read in ((PROVENANCE, _group), (FIRST_LEVEL, cohort_analysis)):
        try:
            record = json.loads(read_bytes(join(folder, name)))
            return read(folder, record)
        except FileNotFoundError as error:
            if not str(error.filename or "").endswith(name):
                raise ParameterError(f"a file of the results in {folder} is gone: {error}; make them again") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DaskGLMError):
                raise
            raise ParameterError(
                f"{join(folder, name)} is not as daskglm writes it ({error!r}); make the results again"
            ) from error
    raise ParameterError(
        f"a report is of a result folder of daskglm, but {folder} has no {PROVENANCE} and no {FIRST_LEVEL}; give the "
        "output of daskglm group, permute or first-level"
    )


def _group(folder: str, record: Mapping[str, Any]) -> Analysis:
    """A group or permutation analysis."""
    given = record["parameters"]
    permuted = "rearrangements" in record
    design = _table(join(folder, "design.tsv")).set_index("participant_id")
    if permuted:
        texts = {
            name: (text, "F" if name in given["f_contrasts"] else "t") for name, text in given["contrasts"].items()
        }
        done = record["rearrangements"]
        more = permutation_sentences(given, done["done"], done["exhaustive"], done.get("kind"))
        citations = ["friston1994", *permutation_citations(given)]
        maps = _permuted_maps(folder, texts, record["files"])
        facts = [("Rearrangements", f"{done['done']:,}")]
    else:
        texts = {name: (item["definition"], item["type"]) for name, item in given["contrasts"].items()}
        labels = bids_labels(texts)
        more, citations, facts = [], ["friston1994"], []
        maps = [
            ContrastMap(name, text, kind, join(folder, f"contrast-{labels[name]}_stat-z_statmap.nii.gz"))
            for name, (text, kind) in texts.items()
        ]
    columns = [str(name) for name in design.columns]
    counts = join(folder, "n.nii.gz")
    return Analysis(
        kind="permute" if permuted else "group",
        title="Permutation test" if permuted else "Group analysis",
        facts=[
            ("Images", f"{len(design):,}"),
            ("Rows of the table matched", record.get("rows", "by id")),
            ("Model", given["formula"]), ("Contrasts", str(len(texts))), *facts,
        ],
        methods=[
            *smoothing_sentence(given["smoothing_fwhm"]),
            *model_sentences(len(design), columns, given["formula"], texts),
            missing_sentence(given["missing"], given["min_coverage"]), *more,
        ],
        citations=citations,
        designs={"": design},
        maps=maps,
        mask=join(folder, "mask.nii.gz"),
        counts=counts,
        n_images=len(design),
        record=record,
        warnings=record.get("warnings", ()),
        check=partial(_check, folder, record, design, texts),
    )  # fmt: skip


def _permuted_maps(folder: str, texts: Mapping[str, tuple[str, str]], held: Sequence[str]) -> list[ContrastMap]:
    """Maps and null distributions of a permutation analysis."""
    thresholds, labels, found = _table(join(folder, "thresholds.tsv")), bids_labels(texts), []
    clusters = _table(join(folder, "clusters.tsv")) if "clusters.tsv" in held else None
    for name, (text, kind) in texts.items():
        start, rows = f"contrast-{labels[name]}", thresholds[thresholds["contrast"] == name]
        nulls = _table(join(folder, f"{start}_nulls.tsv"))
        # Both tables list the statistics in the same order.
        pairs = zip(nulls.columns, rows.itertuples(), strict=True)
        found.append(
            ContrastMap(
                name, text, kind, join(folder, f"{start}_stat-{kind}_statmap.nii.gz"),
                [
                    Corrected(statistic, join(folder, file))
                    for statistic in (kind, "size", "mass", "tfce")
                    if (file := f"{start}_stat-{statistic}logpmax_statmap.nii.gz") in held
                ],
                None if clusters is None else clusters[clusters["contrast"] == name],
                [
                    Null(row.statistic, nulls[column].to_numpy(), row.threshold, row.observed_maximum, row.smallest_p,
                         int(row.voxels))
                    for column, row in pairs
                ],
            )
        )  # fmt: skip
    return found


def _check(folder: str, record: Mapping[str, Any], design: pd.DataFrame, texts: Mapping[str, tuple[str, str]]) -> Check:
    """Fit voxels again, from the images that the record names."""
    given, sources = record["parameters"], record["images"]
    if not sources:
        return Check(why_not="the images were in memory, and no file is known of them")
    if given.get("variance_groups"):
        return Check(why_not="the statistic of groups with variances of their own is not Student's t")
    mask = join(folder, "mask.nii.gz")
    options = Options(mask, given["missing"], given["min_coverage"], given["smoothing_fwhm"])
    try:
        # Of a store, or of volumes, some may have been left out.
        loaded = load_images(
            sources[0] if len(sources) == 1 else sources, options, choose=lambda held: _samples(held, record["samples"])
        )
    except (DaskGLMError, OSError) as error:
        return Check(why_not=f"the images cannot be read again ({error})")
    if sample_names(loaded.images) != record["samples"]:
        return Check(why_not="the images are not those of the analysis any more: other samples are there")
    space = read_map(mask)[0]
    voxels = space.select(read_map(mask)[1] != 0).voxels
    fitted = _fitted(folder, record, design, texts, voxels)
    if not fitted:
        return Check(why_not="the contrasts cannot be told from the names of the regressors alone")
    return check_group(loaded.images, design_array(design), fitted)


def _samples(held: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Samples of some names, where all are there."""
    place = {name: index for index, name in enumerate(sample_names(held))}
    return held.isel(sample=[place[name] for name in names]) if place.keys() >= set(names) else held


def _fitted(
    folder: str, record: Mapping[str, Any], design: pd.DataFrame, texts: Mapping[str, tuple[str, str]],
    voxels: NDArray[np.int64],
) -> dict[str, Fitted]:  # fmt: skip
    """What the maps in a folder say of its contrasts."""
    columns, labels, found = [str(name) for name in design.columns], bids_labels(texts), {}
    terms: dict[str, list[str]] = {}
    for column in columns:  # the terms of a formula, from the names of their columns
        terms.setdefault(_LEVEL.sub("", column), []).append(column)
    for name, (text, kind) in texts.items():

        def values(stat: str, label: str = labels[name]) -> NDArray[np.float64] | None:
            """Values of a map, where there is one."""
            file = f"contrast-{label}_stat-{stat}_statmap.nii.gz"
            return read_map(join(folder, file))[1][voxels] if file in record["files"] else None

        try:
            matrix = contrast_matrix(text, columns, terms)
        except ContrastError:
            continue
        effect = None if kind == "F" else values("effect")
        found[name] = Fitted(matrix, effect, values("variance"), values(kind), kind)
    return found


def _table(path: str) -> pd.DataFrame:
    """A table of results: names stay text, whatever they look like."""
    table = pd.read_csv(BytesIO(read_bytes(path)), sep="\t", dtype=str, keep_default_na=False)
    numbers = [name for name in table.columns if name not in _TEXT]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
