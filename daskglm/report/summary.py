"""One screen about a run."""

import numpy as np
import pandas as pd
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from daskglm.models.cohort import CohortResult
from daskglm.models.convert import Conversion
from daskglm.models.group import GroupResult
from daskglm.models.permutation_analysis import PermutationResult
from daskglm.report.figures import draw_first_level
from daskglm.schema.datasets import participants_of, sample_names, space_of

_SUBJECTS_SHOWN = 20


def print_group(result: GroupResult, console: Console) -> None:
    """Print what a group analysis found: samples, voxels, contrasts and their peaks.

    Parameters
    ----------
    result : GroupResult
        A finished analysis.
    console : rich.console.Console
        Where to print.
    """
    n_samples, n_columns = result.design.shape
    counts = result.fit["n"].values
    tested = np.isfinite(result.fit["residual_variance"].values)
    partial = int((tested & (counts < n_samples)).sum())
    console.print(
        f"{n_samples} images, {n_columns} regressors ({', '.join(map(str, result.design.columns))}), rows matched "
        f"{result.design.attrs['rows']}",
        markup=False,
    )
    console.print(
        f"{int(tested.sum()):,} voxels tested, {partial:,} of them with missing images "
        f"(n from {counts[tested].min()} to {counts[tested].max()}); {int((~tested).sum()):,} left out",
        markup=False,
    )
    _print_peaks(result.peaks, console)
    console.print(f"{len(result.files)} files in {result.folder} after {result.seconds:.1f} s", markup=False)


def print_permutation(result: PermutationResult, console: Console) -> None:
    """Print what a permutation analysis found: how many rearrangements, thresholds and what is beyond them.

    Parameters
    ----------
    result : PermutationResult
        A finished analysis.
    console : rich.console.Console
        Where to print.
    """
    n_samples, n_columns = result.design.shape
    tested = np.isfinite(result.maps["stat"].values).any(axis=0)
    counts = result.maps["n"].values[tested]
    done = f"{result.maps.attrs['n_perm']:,}"
    which = f"all {done} distinct" if result.maps.attrs["exhaustive"] else f"{done} random"
    console.print(
        f"{n_samples} images, {n_columns} regressors; {int(tested.sum()):,} voxels (n from {counts.min()} to "
        f"{counts.max()}); {which} rearrangements; rows matched {result.design.attrs['rows']}",
        markup=False,
    )
    if left_out := int((~tested & (result.maps["n"].values > 0)).sum()):
        console.print(
            f"{left_out:,} voxels left out: too few images, or nothing to test in those there are", markup=False
        )
    least = int(np.ceil(tested.sum() / (0.05 * (1 + result.maps.attrs["n_perm"]))))
    if least > 1:
        console.print(
            f"q (false discovery rate) is 0.05 where at least {least:,} voxels have the smallest p that so many "
            "rearrangements allow",
            markup=False,
        )
    table = Table(
        Column("contrast", overflow="fold"), "statistic", "5% threshold", "observed", "smallest corrected p",
        "voxels at 5%",
    )  # fmt: skip
    for row in result.thresholds.itertuples(index=False):
        numbers = (f"{row.threshold:.4g}", f"{row.observed_maximum:.4g}", f"{row.smallest_p:.4g}", f"{row.voxels:,}")
        table.add_row(escape(str(row.contrast)), str(row.statistic), *numbers)
    console.print(table)
    console.print(f"{len(result.files)} files in {result.folder} after {result.seconds:.1f} s", markup=False)


def print_conversion(result: Conversion, console: Console) -> None:
    """Print what a conversion did, quarantined samples first and loudest.

    Parameters
    ----------
    result : Conversion
        A finished conversion.
    console : rich.console.Console
        Where to print.
    """
    if result.quarantined:
        console.print(
            f"{len(result.quarantined)} images are LEFT OUT (see {result.list_of_quarantined}):", style="bold red"
        )
        for name, reason in result.quarantined.items():
            console.print(f"  {name}: {reason}", markup=False)
    kept = f", {len(result.kept)} were there already" if result.kept else ""
    console.print(
        f"{len(result.written)} images converted{kept}; {result.n_voxels:,} voxels each, in {result.store}",
        markup=False,
    )


def print_store(images: xr.Dataset, console: Console) -> None:
    """Print what a store holds.

    Parameters
    ----------
    images : xarray.Dataset
        An images dataset.
    console : rich.console.Console
        Where to print.
    """
    names, space, table = sample_names(images), space_of(images), participants_of(images)
    sizes = ", ".join(f"{size:.2f}" for size in np.linalg.norm(space.affine[:3, :3], axis=0))
    rows = [
        ("samples", f"{len(names):,} ({names[0]} ... {names[-1]})"),
        ("voxels", f"{space.voxels.size:,} of {' x '.join(map(str, space.shape))}, {sizes} mm"),
        ("size", f"{images['data'].nbytes / 1e9:.3f} GB of {images['data'].dtype} values"),
        (
            "missing means",
            {"nan": "not finite", "zero": "not finite, or zero"}.get(images.attrs.get("missing", "nan"), "?"),
        ),
        ("participants", "none" if table is None else ", ".join(map(str, table.columns))),
        ("left out", ", ".join(images.attrs.get("quarantined", {})) or "none"),
        ("made by", ", ".join(f"{k} {v}" for k, v in list(images.attrs.get("software", {}).items())[:4])),
    ]
    table_view = Table(show_header=False, box=None)
    for name, value in rows:
        table_view.add_row(name, escape(str(value)))
    console.print(table_view)


def _print_peaks(peaks: pd.DataFrame, console: Console) -> None:
    """A table of the extremes of each contrast."""
    view = Table(box=None, title="Peaks (descriptive: not corrected for multiple tests)", title_justify="left")
    for name in ("contrast", "x", "y", "z (mm)", "stat", "z score"):
        view.add_column(name, justify="left" if name == "contrast" else "right", overflow="fold")
    for row in peaks.itertuples():
        place = (f"{value:.0f}" for value in (row.x, row.y, row.z))
        view.add_row(escape(str(row.contrast)), *place, f"{row.stat_type} = {row.stat:.2f}", f"{row.z_score:.2f}")
    console.print(view)


def print_first_level(result: CohortResult, console: Console) -> None:
    """Say what a first-level analysis did, and what failed.

    Parameters
    ----------
    result : CohortResult
        From :func:`~daskglm.models.cohort.first_level_analysis`.
    console : rich.console.Console
        Where to.
    """
    runs = [run for subject in result.subjects for run in subject.runs]
    failed, reused = sum(bool(run.error) for run in runs), sum(run.reused for run in runs)
    console.print(
        f"{len(result.subjects)} subjects, {len(runs)} runs: {len(runs) - failed - reused} fitted, {reused} kept from "
        f"before, {failed} failed, after {result.seconds:.1f} s, in {result.output}",
        markup=False,
    )
    if not result.peaks.empty:
        headers = [Column(str(name), overflow="fold") for name in result.peaks.columns]
        table = Table(*headers, title="Extremes of z over runs")
        for row in result.peaks.head(_SUBJECTS_SHOWN).round(2).itertuples(index=False):
            table.add_row(*(escape(str(value)) for value in row))
        console.print(table)
    for contrast, store in result.stores.items():
        console.print(f"group store of {contrast}: {store}", markup=False)
    for path in draw_first_level(result):
        console.print(f"picture: {path}", markup=False)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for row in result.failures.itertuples():
        console.print(f"failed: {row.run or row.participant_id}: {row.error}", style="bold red", markup=False)
