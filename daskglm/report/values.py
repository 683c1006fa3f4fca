"""What a run found, for programs: objects that JSON can hold."""

import json
import os
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.models.cohort import CohortResult
from daskglm.models.convert import Conversion
from daskglm.models.group import GroupResult
from daskglm.models.permutation_analysis import PermutationResult
from daskglm.report.figures import draw_first_level
from daskglm.schema.datasets import participants_of, sample_names, space_of


def group_values(result: GroupResult) -> dict[str, Any]:
    """What a group analysis found.

    Parameters
    ----------
    result : GroupResult
        A finished analysis.

    Returns
    -------
    dict
        Files, n, voxels that were tested, regressors, contrasts, peaks and seconds.
    """
    tested = np.isfinite(result.fit["residual_variance"].values)
    return {
        "command": "group",
        "output": result.folder,
        "files": list(result.files),
        "n": len(result.design),
        "rows": result.design.attrs["rows"],
        "voxels": int(tested.sum()),
        "regressors": [str(name) for name in result.design.columns],
        "contrasts": [str(name) for name in result.maps["contrast"].values],
        "peaks": _records(result.peaks),
        "seconds": round(result.seconds, 3),
    }


def permutation_values(result: PermutationResult) -> dict[str, Any]:
    """What a permutation analysis found.

    Parameters
    ----------
    result : PermutationResult
        A finished analysis.

    Returns
    -------
    dict
        Files, n, voxels that were tested, regressors, contrasts, rearrangements, thresholds and seconds.
    """
    tested = np.isfinite(result.maps["stat"].values).any(axis=0)
    return {
        "command": "permute",
        "output": result.folder,
        "files": list(result.files),
        "n": len(result.design),
        "rows": result.design.attrs["rows"],
        "voxels": int(tested.sum()),
        "regressors": [str(name) for name in result.design.columns],
        "contrasts": [str(name) for name in result.maps["contrast"].values],
        "rearrangements": int(result.maps.attrs["n_perm"]),
        "exhaustive": bool(result.maps.attrs["exhaustive"]),
        "thresholds": _records(result.thresholds),
        "seconds": round(result.seconds, 3),
    }


def conversion_values(result: Conversion) -> dict[str, Any]:
    """What a conversion did.

    Parameters
    ----------
    result : Conversion
        A finished conversion.

    Returns
    -------
    dict
        The store as the only file, n, voxels, and the samples written, kept from before and left out.
    """
    return {
        "command": "convert",
        "output": result.store,
        "files": [result.store],
        "n": len(result.written) + len(result.kept),
        "voxels": result.n_voxels,
        "written": result.written,
        "kept": result.kept,
        "left_out": result.quarantined,
    }


def first_level_values(result: CohortResult) -> dict[str, Any]:
    """What a first-level analysis did; its pictures are drawn.

    Parameters
    ----------
    result : CohortResult
        A finished analysis.

    Returns
    -------
    dict
        Files, n, runs, contrasts, stores, peaks, failures, notes and seconds.
    """
    units = [unit for subject in result.subjects for unit in [*subject.runs, subject]]
    runs = [run for subject in result.subjects for run in subject.runs]
    failed, reused = sum(bool(run.error) for run in runs), sum(run.reused for run in runs)
    written = [os.path.join(unit.folder, name) for unit in units for name in unit.files if not unit.error]
    return {
        "command": "first-level",
        "output": result.output,
        "files": [*written, *result.stores.values(), *draw_first_level(result)],
        "n": len(result.subjects),
        "runs": {"fitted": len(runs) - failed - reused, "kept": reused, "failed": failed},
        "contrasts": list(result.labels),
        "stores": dict(result.stores),
        "peaks": _records(result.peaks),
        "failures": _records(result.failures),
        "notes": list(result.notes),
        "seconds": round(result.seconds, 3),
    }


def store_values(images: xr.Dataset) -> dict[str, Any]:
    """What a store holds.

    Parameters
    ----------
    images : xarray.Dataset
        An images dataset.

    Returns
    -------
    dict
        n, samples, voxels, shape, affine, bytes, type of the values, what is missing, columns of the participants,
        samples left out and software.
    """
    space, table = space_of(images), participants_of(images)
    return {
        "n": len(sample_names(images)),
        "samples": list(sample_names(images)),
        "voxels": int(space.voxels.size),
        "shape": [int(size) for size in space.shape],
        "affine": space.affine.tolist(),
        "bytes": int(images["data"].nbytes),
        "dtype": str(images["data"].dtype),
        "missing": images.attrs.get("missing", "nan"),
        "participants": [] if table is None else [str(name) for name in table.columns],
        "left_out": images.attrs.get("quarantined", {}),
        "software": images.attrs.get("software", {}),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table; what is not finite is null, as JSON has it."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=12))
    return found
