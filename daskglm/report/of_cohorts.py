"""What the result folder of a first-level analysis holds, for its report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import design_array
from daskglm.errors import ContrastError, DaskGLMError
from daskglm.graph.runs import NoiseModel, RunImages
from daskglm.inference.thresholding import read_map
from daskglm.io.files import glob_paths, read_bytes
from daskglm.io.receipts import load_receipt
from daskglm.kernels.scaling import Scaling
from daskglm.models.cohort_output import FAILURES
from daskglm.models.options import Options
from daskglm.models.plan import count_text
from daskglm.models.runs import run_preparation, run_shape
from daskglm.report.analysis import Analysis, Check, ContrastMap
from daskglm.report.methods import contrast_sentences, design_text, run_sentences, scaling_sentence, smoothing_sentence
from daskglm.report.self_check import Fitted, check_run
from daskglm.schema.names import bids_labels

FIRST_LEVEL = "first_level.json"
# Maps of so many subjects are drawn, and so many runs are described.
_DRAWN = 3
_DESCRIBED = 200
_SHOWN = 60


@dataclass(frozen=True)
class _Run:
    """A run of the folder, and the files of the dataset that it came from; None is what is not there any more."""

    name: str
    folder: str
    degrees_of_freedom: float
    bold: str | None
    confounds: str | None

    def path(self, end: str) -> str:
        """A file of the run."""
        return os.path.join(self.folder, f"{self.name}_{end}")


def cohort_analysis(folder: str, record: Mapping[str, Any]) -> Analysis:
    """A first-level analysis.

    Parameters
    ----------
    folder : str
        Result folder.
    record : mapping
        Its first_level.json.

    Returns
    -------
    Analysis
    """
    # Of a call that made stores, its subjects; other calls each add theirs.
    only = record.get("subjects") if record.get("stores") else None
    subjects = _receipts(folder, "sub-*/*_glm.json", only)
    done = [item for item in subjects if not item.get("error")]
    inputs = [item["path"] for item in record.get("inputs", ())]
    found = _receipts(folder, "sub-*/**/func/*_glm.json", only)
    runs = [_run(item, inputs) for item in found if not item.get("error")]
    designs = {run.name: design for run in runs[:_DESCRIBED] if (design := _design(run)) is not None}
    kinds = {name: _kind(done, label) for name, label in bids_labels(record["contrasts"]).items()}
    texts = {name: (text, kinds[name]) for name, text in record["contrasts"].items()}
    mask, counts, n_masks = _coverage(done, runs)
    noise = record["noise"]["order"]
    motion = _motion(runs[:_DESCRIBED], designs)
    told = [text for item in [*subjects, *found] for kind in ("warnings", "heard") for text in item.get(kind, ())]
    return Analysis(
        kind="first-level",
        title="First-level analysis",
        facts=[
            ("Subjects", str(len(done))), ("Runs", str(len(runs))), ("Task", record["task"]),
            ("Space", record["space"] or "not named"), ("Contrasts", str(len(texts))),
        ],
        methods=[
            *smoothing_sentence(record["smoothing_fwhm"]),
            *run_sentences(len(runs), int(motion["volumes"].sum()),
                           _design_text(record),
                           f"ar{noise}" if noise else "ols", f" of {count_text(len(done), 'subject')}",
                           record.get("precision_weighted", False)),
            *scaling_sentence(**record["scaling"], by_volume=record.get("by_volume", False)),
            *contrast_sentences(texts),
        ],
        citations=["friston1994", "worsley1995"] if noise else ["friston1994"],
        designs=designs,
        maps=_maps(done, texts),
        mask=mask,
        counts=counts,
        n_images=n_masks,
        tables=_tables(done, texts),
        motion=motion,
        record=record,
        warnings=[*dict.fromkeys([*record.get("warnings", ()), *told]), *_failures(folder)],
        check=partial(_check, runs[0], record, texts) if runs else None,
        template=record["space"].startswith("MNI") or not record["space"],
    )  # fmt: skip


def _receipts(folder: str, pattern: str, only: Sequence[str] | None) -> list[dict[str, Any]]:
    """Receipts of some subjects or of all, each with the place where it is."""
    found = []
    for path in glob_paths(os.path.join(_escaped(folder), pattern)):
        receipt = load_receipt(path)
        if receipt is not None and "name" in receipt and (only is None or receipt["subject"] in only):
            # A folder may have been moved.
            found.append({**receipt, "folder": os.path.dirname(path)})
    return found


def _escaped(folder: str) -> str:
    """A folder whose name is no pattern."""
    from glob import escape

    return escape(folder)


def _run(receipt: Mapping[str, Any], inputs: Sequence[str]) -> _Run:
    """A run."""
    name = receipt["name"]
    stem = "_".join(part for part in name.split("_") if not part.startswith(("space-", "res-", "den-")))
    bold = [path for path in inputs if os.path.basename(path).startswith(f"{name}_desc-preproc_bold.")]
    tables = [path for path in inputs if path.endswith(".tsv")]
    confounds = [path for path in tables if os.path.basename(path).startswith(f"{stem}_desc-confounds")]
    first, table = (next((path for path in paths if os.path.exists(path)), None) for paths in (bold, confounds))
    return _Run(name, receipt["folder"], float(receipt["degrees_of_freedom"]), first, table)


def _design(run: _Run) -> pd.DataFrame | None:
    """The design of a run, where it is there."""
    try:
        return pd.read_csv(BytesIO(read_bytes(run.path("design.tsv"))), sep="\t")
    except (OSError, ValueError):
        return None


def _motion(runs: Sequence[_Run], designs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Volumes and displacement of runs."""
    rows, displacements = [], []
    for run in runs:
        kept = len(designs[run.name]) if run.name in designs else 0
        try:
            volumes: float = float(run_shape(run.bold)[0][3]) if run.bold else np.nan
        except (DaskGLMError, OSError, IndexError):
            volumes = np.nan
        moved = _displacement(run)
        rows.append(
            (run.name, kept, volumes - kept, run.degrees_of_freedom, *(
                (np.nan, np.nan) if moved is None else (float(np.nanmean(moved)), float(np.nanmax(moved)))
            ))
        )  # fmt: skip
        displacements += [] if moved is None else [(run.name, moved)]
    columns = ["run", "volumes", "left out", "degrees of freedom", "mean displacement (mm)", "largest (mm)"]
    table = pd.DataFrame(rows, columns=columns)
    if not displacements:
        table = table[columns[:4]]
    if table["left out"].isna().all():
        table = table.drop(columns="left out")
    table.attrs["displacements"] = displacements
    return table


def _displacement(run: _Run) -> Any:
    """Framewise displacement of a run, where its confounds have it."""
    if run.confounds is None:
        return None
    table = pd.read_csv(BytesIO(read_bytes(run.confounds)), sep="\t", na_values="n/a")
    if "framewise_displacement" not in table:
        return None
    values = pd.to_numeric(table["framewise_displacement"], errors="coerce").to_numpy()
    return values if np.isfinite(values).any() else None


def _kind(subjects: Sequence[Mapping[str, Any]], label: str) -> str:
    """Whether a contrast is t or F: the name of its map says it."""
    return "F" if any(f"_contrast-{label}_stat-F_" in file for item in subjects for file in item["files"]) else "t"


def _subject_map(subject: Mapping[str, Any], label: str) -> str:
    """Path of the z map of a subject."""
    return os.path.join(subject["folder"], f"{subject['name']}_contrast-{label}_stat-z_statmap.nii.gz")


def _subject_mask(subject: Mapping[str, Any]) -> str:
    """Path of the mask of a subject."""
    return os.path.join(subject["folder"], f"{subject['name']}_desc-brain_mask.nii.gz")


def _maps(subjects: Sequence[Mapping[str, Any]], texts: Mapping[str, tuple[str, str]]) -> list[ContrastMap]:
    """Maps of the first subjects, contrast by contrast."""
    labels = bids_labels(texts)
    return [
        ContrastMap(
            name if len(subjects) == 1 else f"{name}, {item['subject']}", text, kind,
            _subject_map(item, labels[name]), mask=_subject_mask(item),
        )
        for name, (text, kind) in texts.items()
        for item in [item for item in subjects if name in item["contrasts"]][:_DRAWN]
    ]  # fmt: skip


def _tables(
    subjects: Sequence[Mapping[str, Any]], texts: Mapping[str, tuple[str, str]]
) -> list[tuple[str, pd.DataFrame]]:
    """Extremes of z of the first subjects."""
    labels, rows = bids_labels(texts), []
    pairs = [(item, name) for item in subjects for name in texts if name in item["contrasts"]]
    for item, name in pairs[:_SHOWN]:
        z = read_map(_subject_map(item, labels[name]))[1]
        z = z[np.isfinite(z)]
        rows.append((item["subject"], name, len(item["runs"]), float(z.min()), float(z.max())))
    columns = ["Subject", "Contrast", "Runs", "Smallest z", "Largest z"]
    drawn = min(len(subjects), _DRAWN)
    text = f"Extremes of z over runs (maps of the first {drawn} of {len(subjects)} subjects are drawn)"
    return [(text if drawn < len(subjects) else "Extremes of z over runs", pd.DataFrame(rows, columns=columns))]


def _coverage(subjects: Sequence[Mapping[str, Any]], runs: Sequence[_Run]) -> tuple[Any, Any, int]:
    """Voxels that any subject has and how many have them, or runs where there is one subject; None on several grids."""
    paths = [run.path("desc-brain_mask.nii.gz") for run in runs]
    paths = paths if len(subjects) == 1 else [_subject_mask(item) for item in subjects[:_DESCRIBED]]
    total = space = None
    for path in paths:
        found, values = read_map(path)
        if space is None or total is None:
            space, total = found, np.zeros(len(values), dtype=np.int32)
        if found.shape != space.shape or not np.allclose(found.affine, space.affine, atol=1e-3):
            return None, None, 0
        total += values != 0
    if space is None or total is None:
        return None, None, 0
    return space.to_image((total > 0).astype(np.uint8)), space.to_image(total), len(paths)


def _failures(folder: str) -> list[str]:
    """What failed."""
    try:
        table = pd.read_csv(BytesIO(read_bytes(os.path.join(folder, FAILURES))), sep="\t", dtype=str).fillna("")
    except (OSError, ValueError):
        return []
    return [f"{row.run or row.participant_id} failed: {row.error}" for row in table.itertuples()]


def _design_text(record: Mapping[str, Any]) -> str:
    """What regressors are."""
    confounds = f"confounds ({', '.join(record['confounds'])})" if record["confounds"] else ""
    parameters = {**record["design"], "transform": record.get("transform"), "slice_time_ref": record["slice_time_ref"]}
    return design_text(parameters, confounds=confounds)


def _check(run: _Run, record: Mapping[str, Any], texts: Mapping[str, tuple[str, str]]) -> Check:
    """Fit voxels of the first run again."""
    if run.bold is None:
        return Check(why_not=f"the images of {run.name} are not where they were")
    design = _design(run)
    try:
        volumes = run_shape(run.bold)[0][3]
        if design is None or len(design) != volumes:
            return Check(why_not="volumes were left out of the first run, and the folder does not say which")
        options = Options(run.path("desc-brain_mask.nii.gz"), smoothing_fwhm=record["smoothing_fwhm"])
        how = run_preparation([run.bold], options)
        images = RunImages(run.bold, how, np.arange(volumes), record.get("by_volume", False))
    except (DaskGLMError, OSError) as error:
        return Check(why_not=f"the first run cannot be read again ({error})")
    labels, fitted, columns = bids_labels(texts), {}, [str(name) for name in design.columns]
    for name, (text, kind) in texts.items():
        values = [
            read_map(run.path(f"contrast-{labels[name]}_stat-{stat}_statmap.nii.gz"))[1][images.how.space.voxels]
            for stat in (("variance",) if kind == "F" else ("variance", "effect", "z"))
        ]
        try:
            matrix = contrast_matrix(text, columns)
        except ContrastError:  # the run lacks a condition
            continue
        if kind == "F":  # a run has no map of F
            fitted[name] = Fitted(matrix, None, values[0], None, "F")
        else:
            fitted[name] = Fitted(matrix, values[1], values[0], values[2], "z")
    noise, scaling = NoiseModel(**record["noise"]), Scaling(**record["scaling"])
    return check_run(images, design_array(design), noise, scaling, fitted)
