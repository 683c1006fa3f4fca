"""An analysis as a document."""

import shlex
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from daskglm.errors import check_choice
from daskglm.inference.thresholding import check_number, check_parameters, warn_of_default_threshold
from daskglm.io.provenance import redact
from daskglm.models.plan import count_text, size_text
from daskglm.plotting.canvas import nilearn_plotting
from daskglm.report.analysis import Analysis, Check, Drawing, Thresholding
from daskglm.report.citations import bibliography
from daskglm.report.content_design import design_section
from daskglm.report.content_maps import contrast_section, image_of, nulls_table
from daskglm.report.document import Block, Code, Document, Figure, Section, Table, Text
from daskglm.report.methods import software_sentence, threshold_sentence
from daskglm.report.pictures import background, coverage_picture, motion_picture
from daskglm.report.plan import time_text

_ROWS = 60
# Maps on disk may be float32.
_ROUNDING = 1e-4
PLOT_TYPES = ("slice", "glass")


def build_document(analysis: Analysis, how: Thresholding, drawing: Drawing, title: str | None = None) -> Document:
    """Make the document of an analysis.

    Parameters
    ----------
    analysis : Analysis
        What is reported.
    how : Thresholding
        What of the maps is shown.
    drawing : Drawing
        How they are drawn.
    title : str, optional
        In place of the analysis's.

    Returns
    -------
    Document

    Raises
    ------
    ParameterError
        Where a parameter has a value that it cannot have.
    MissingDependencyError
        Where nilearn is not installed.
    """
    check_choice("plot_type", drawing.plot_type, PLOT_TYPES)
    check_parameters(how.alpha, how.threshold, how.height_control, how.cluster_threshold, how.two_sided)
    check_number("min_distance", how.min_distance, 0)
    unused = _unused(how, drawing)
    for message in unused:
        warnings.warn(message, stacklevel=4)
    if how.height_control is None and how.threshold is None:
        warn_of_default_threshold()
    nilearn_plotting()  # the rest of nilearn is imported where it is used; it is there, or that says so now
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        # The template is under maps in its space only.
        is_template = isinstance(drawing.bg_img, str) and drawing.bg_img == "MNI152TEMPLATE"
        bg_img = background(drawing.bg_img) if analysis.template or not is_template else None
        check = analysis.check() if analysis.check is not None else None
        sections = [_methods(analysis, how)]
        sections += [design_section(analysis.designs)] if analysis.designs else []
        sections += [_coverage(analysis)] if analysis.mask is not None else []
        sections += [_motion(analysis.motion)] if analysis.motion is not None else []
        sections += _contrasts(analysis, how, drawing, bg_img)
    told = [*analysis.warnings, *unused, *_texts(met)]
    sections += [_self_check(check)] if check is not None else []
    sections += [_warnings(told), _making(analysis), _works(analysis, how)]
    return Document(title or analysis.title, analysis.facts, sections)


def _unused(how: Thresholding, drawing: Drawing) -> list[str]:
    """What was asked for and changes nothing."""
    unused = []
    if how.threshold is not None and how.height_control is not None:
        unused.append(
            f"threshold={how.threshold:g} is not used: alpha sets the threshold with height_control="
            f"{how.height_control!r}; give height_control=None for a threshold of your own"
        )
    if drawing.plot_type == "glass" and drawing.cut_coords is not None:
        unused.append("cut_coords are not used with plot_type='glass', which has no slices; give plot_type='slice'")
    return unused


def _methods(analysis: Analysis, how: Thresholding) -> Section:
    """What was done."""
    sentences = list(analysis.methods)
    if analysis.kind != "permute" and analysis.maps:
        sentences.append(threshold_sentence(how))
    sentences.append(software_sentence(_versions(analysis)))
    if analysis.maps:
        sentences.append(f"Maps were drawn by nilearn {version('nilearn')}.")
    return Section("Methods", [Text(" ".join(sentences)), Text("The works cited are at the end of this page.")])


def _works(analysis: Analysis, how: Thresholding) -> Section:
    """What the methods cite."""
    by_fdr = analysis.kind != "permute" and analysis.maps and how.height_control == "fdr"
    keys = ["daskglm", *analysis.citations, *(["benjamini1995"] if by_fdr else []), "nilearn", "dask", "xarray", "zarr"]
    return Section("Works cited", [Code(bibliography(keys, _versions(analysis)), "As BibTeX")])


def _versions(analysis: Analysis) -> dict[str, str]:
    """What the analysis was made with, and what its maps are drawn by."""
    return {**analysis.record.get("software", {}), "nilearn": version("nilearn")}


def _coverage(analysis: Analysis) -> Section:
    """How many images the voxels have."""
    mask = _values(analysis.mask) != 0
    total = int(mask.sum())
    if analysis.counts is None:
        return Section("Voxels", [Text(f"{total:,} voxels were analysed.")])
    n_images = analysis.n_images
    counts = _values(analysis.counts)
    inside = counts[mask]
    full = int((inside == n_images).sum())
    text = (
        f"{total:,} voxels, of which {full:,} have all {n_images} images and {total - full:,} lack some: images at a "
        f"voxel run from {int(inside.min())} to {int(inside.max())}, {np.median(inside):g} in the middle."
    )
    image = nib.Nifti1Image(np.where(mask, counts, 0).astype(np.float32), image_of(analysis.counts).affine)
    picture = coverage_picture(image)
    alt = f"Slices of the number of images at each voxel, up to {n_images}"
    return Section("Coverage", [Text(text), Figure(picture, alt, "Images at each voxel.")])


def _motion(motion: pd.DataFrame) -> Section:
    """Runs of a first level: volumes, those left out, displacement."""
    blocks: list[Block] = []
    displacements = motion.attrs.get("displacements", [])
    if displacements:
        largest = max(float(np.nanmax(values)) for _, values in displacements)
        caption = f"Framewise displacement of {len(displacements)} runs; the largest is {largest:.2f} mm."
        blocks.append(Figure(motion_picture(displacements), caption, caption))
    else:
        blocks.append(Text("The tables of confounds at hand have no framewise displacement."))
    blocks.append(_table("Runs", motion))
    return Section("Runs and motion", blocks)


def _contrasts(analysis: Analysis, how: Thresholding, drawing: Drawing, bg_img: Any) -> list[Section]:
    """The section of contrasts."""
    if not analysis.maps:
        return []
    blocks: list[Block] = [nulls_table(list(analysis.maps))] if any(item.nulls for item in analysis.maps) else []
    blocks += [_table(caption, table) for caption, table in analysis.tables if not table.empty]
    inner = [
        contrast_section(
            item, analysis.mask if item.mask is None else item.mask, how, drawing, bg_img, analysis.template
        )
        for item in analysis.maps
    ]
    return [Section("Contrasts", blocks, inner)]


def _self_check(check: Check) -> Section:
    """Voxels that were fitted again."""
    if check.why_not:
        return Section("Self-check", [Text(f"No voxel was fitted again: {check.why_not}.", "note")])
    worst = max((value for row in check.rows for value in row[1:] if value is not None), default=0.0)
    text = (
        f"{check.voxels} voxels, chosen at random, were fitted again one by one, {check.how}. "
        f"The largest relative difference from the maps is {worst:.2g}."
    )
    blocks: list[Block] = [Text(text)]
    if not worst < _ROUNDING:
        explain = (
            "These differences are not those of rounding. Do not use the maps before they are explained, as by images "
            "that changed after the analysis."
        )
        blocks.append(Text(explain, "warning"))
    header = ("Contrast", "Effect", "Variance", "Statistic")
    table = Table("Largest difference from the maps, over the largest value", header, check.rows)
    return Section("Self-check", [*blocks, table])


def _warnings(told: Sequence[str]) -> Section:
    """What was met."""
    if not told:
        return Section("Warnings", [Text("None was met.")])
    return Section("Warnings", [Text(redact(text), "warning") for text in dict.fromkeys(told)])


def _making(analysis: Analysis) -> Section:
    """Times, machine, software and the command."""
    record = analysis.record
    blocks: list[Block] = []
    stages = [(name, time_text(seconds) if seconds >= 1 else f"{seconds:.2f} s")
              for name, seconds in record.get("stages", {}).items()]  # fmt: skip
    if stages:
        blocks.append(Table("Time of each stage", ("Stage", "Time"), stages))
    cluster = record.get("cluster") or {}
    if cluster:
        workers = count_text(cluster.get("workers", 1), "worker")
        threads = count_text(cluster.get("threads", 1), "thread")
        where = "one process" if cluster.get("kind") == "threads" else f"{workers} of a {cluster.get('kind')}"
        memory = f", with {size_text(cluster['memory'])} of memory" if cluster.get("memory") else ""
        blocks.append(Text(f"It ran on {threads} of {where}{memory}."))
    if record.get("finished"):
        blocks.append(Text(f"Finished {record['finished']}."))
    versions = [(name, version) for name, version in record.get("software", {}).items()]
    blocks.append(Table("Software", ("Package", "Version"), versions))
    command = record.get("command")
    if command:
        blocks.append(Code(redact(shlex.join(["daskglm", *command])), "The command that runs it again"))
    else:
        blocks.append(Text("It was run from Python: there is no command to give again."))
    return Section("How it was made", blocks)


def _table(caption: str, table: pd.DataFrame) -> Table:
    """A table, its first rows."""
    more = f" (the first {_ROWS} of {len(table)})" if len(table) > _ROWS else ""
    rows = [tuple(row) for row in table.head(_ROWS).itertuples(index=False)]
    return Table(caption + more, tuple(map(str, table.columns)), rows)


def _texts(met: Sequence[warnings.WarningMessage]) -> list[str]:
    """Warnings as text, but for those about old names inside other packages."""
    quiet = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
    return [" ".join(str(item.message).split()) for item in met if not issubclass(item.category, quiet)]


def _values(given: Any) -> Any:
    """Values of an image or of a path to one."""
    return np.asanyarray(image_of(given).dataobj)
