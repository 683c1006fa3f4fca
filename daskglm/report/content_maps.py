"""Contrasts in a report: pictures of their maps, what is significant and where."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.inference.clusters import get_clusters_table
from daskglm.inference.thresholding import read_map, threshold_stats_img
from daskglm.report.analysis import ContrastMap, Corrected, Drawing, Null, Thresholding
from daskglm.report.document import Block, Figure, Section, Table, Text
from daskglm.report.pictures import glass_picture, null_picture, slices_picture, z_picture

_ROWS = 30
_CORRECTED = -np.log10(0.05)


@dataclass(frozen=True)
class _Shown:
    """A map as it is shown: `kept` is 0 where it is not significant."""

    contrast: ContrastMap
    whole: Any
    kept: Any
    level: float
    two_sided: bool
    label: str
    rule: str


def contrast_section(
    contrast: ContrastMap, mask: Any, how: Thresholding, drawing: Drawing, bg_img: Any, template: bool
) -> Section:
    """A contrast: its map on a glass brain and in slices, histogram, clusters and null distributions.

    Parameters
    ----------
    contrast : ContrastMap
        Contrast and its map.
    mask : image or path
        Voxels analysed.
    how : Thresholding
        What of a z map is shown.
    drawing : Drawing
        How it is drawn.
    bg_img : image or None
        Under slices.
    template : bool
        Whether the map is in the space of the template, and of the glass brain.

    Returns
    -------
    Section
    """
    own = mask if contrast.mask is None else contrast.mask
    if not contrast.corrected and not any_tested(contrast.map, own):
        return Section(contrast.name, [Text("No voxel could be tested: the map has no value.")])
    definition = "" if contrast.definition == contrast.name else f" Definition: {contrast.definition}."
    blocks: list[Block] = [Text(f"{'An F' if contrast.kind == 'F' else 'A t'} contrast.{definition}")]
    if contrast.corrected:
        blocks += _tested(contrast, how, drawing, bg_img, template)
    else:
        shown = _thresholded(contrast, mask, how)
        blocks += [*_pictures(shown, drawing, bg_img, template), _histogram(shown, mask), _clusters(shown, how)]
    for null in contrast.nulls:
        blocks.append(_null(contrast, null))
    return Section(contrast.name, blocks)


def any_tested(z_map: Any, mask: Any) -> bool:
    """Tell whether a map has a value in its mask.

    Parameters
    ----------
    z_map : image or path
        Map; NaN where a voxel could not be tested.
    mask : image, path or None
        Voxels analysed.

    Returns
    -------
    bool
    """
    inside = True if mask is None else read_map(mask)[1] != 0
    return bool((np.isfinite(read_map(z_map)[1]) & inside).any())


def nulls_table(contrasts: list[ContrastMap]) -> Table:
    """Thresholds of all contrasts of a permutation test.

    Parameters
    ----------
    contrasts : list of ContrastMap
        With nulls.

    Returns
    -------
    Table
    """
    rows = [
        (item.name, null.statistic, null.threshold, null.observed, null.p, null.voxels)
        for item in contrasts
        for null in item.nulls
    ]
    header = ("Contrast", "Statistic", "5% threshold", "Largest observed", "Its corrected p", "Voxels at 5%")
    return Table("Permutation thresholds", header, rows)


def image_of(given: Any) -> Any:
    """A map as an image.

    Parameters
    ----------
    given : image, path or URL
        A 3-D map.

    Returns
    -------
    image
    """
    if not isinstance(given, str):
        return given
    space, values = read_map(given)
    return space.to_image(values)


def _thresholded(contrast: ContrastMap, mask: Any, how: Thresholding) -> _Shown:
    """A z map at a threshold; F has one side."""
    one = how if contrast.kind == "t" else replace(how, two_sided=False)
    image = image_of(contrast.map)
    with warnings.catch_warnings():
        # nilearn's rule too: a threshold is left alone where alpha sets it.
        warnings.filterwarnings("ignore", message="threshold=.* is not used")
        kept, level = threshold_stats_img(
            image, mask, one.alpha, one.threshold, one.height_control, one.cluster_threshold, one.two_sided
        )
    rule = f"|z| ≥ {level:.3f}" if one.two_sided else f"z {'≤' if level < 0 else '≥'} {level:.3f}"
    return _Shown(contrast, image, kept, level, one.two_sided, "z", rule)


def _tested(contrast: ContrastMap, how: Thresholding, drawing: Drawing, bg_img: Any, template: bool) -> list[Block]:
    """The map of a permutation test by each statistic that was tested; the whole map where nothing is significant."""
    everything = [_corrected(contrast, item) for item in contrast.corrected]
    if not any(np.asanyarray(shown.kept.dataobj).any() for shown in everything):
        rules = ", ".join(shown.rule for shown in everything)
        return [*_pictures(replace(everything[0], rule=rules), drawing, bg_img, template), *_tested_clusters(contrast)]
    blocks: list[Block] = []
    for shown in everything:
        if np.asanyarray(shown.kept.dataobj).any():
            blocks += [*_pictures(shown, drawing, bg_img, template), _clusters(shown, how)]
        else:
            blocks.append(Text(f"No voxel has {shown.rule}.", "note"))
    return [*blocks, *_tested_clusters(contrast)]


def _corrected(contrast: ContrastMap, tested: Corrected) -> _Shown:
    """The statistic of voxels where the corrected p of what was tested is at most 0.05."""
    image = image_of(contrast.map)
    values = np.nan_to_num(np.asanyarray(image.dataobj, dtype=np.float64))
    # The map of p may be float32.
    significant = np.nan_to_num(np.asanyarray(image_of(tested.map).dataobj)) >= _CORRECTED - 1e-6
    kept = nib.Nifti1Image(np.where(significant, values, 0.0), image.affine)
    smallest = float(np.abs(values[significant]).min(initial=np.inf))
    # Just under the smallest kept value: nilearn and the table leave out what is not above a threshold.
    level = smallest * (1 - 1e-6) if np.isfinite(smallest) else np.inf
    of = {"size": " of cluster size", "mass": " of cluster mass", "tfce": " of TFCE"}.get(tested.statistic, "")
    return _Shown(contrast, image, kept, level, contrast.kind == "t", contrast.kind, f"corrected p{of} ≤ 0.05")


def _tested_clusters(contrast: ContrastMap) -> list[Block]:
    """The clusters that a permutation test formed, significant or not."""
    if contrast.clusters is None:
        return []
    table = contrast.clusters
    if table.empty:
        return [Text("No cluster was formed.")]
    columns = {
        "cluster": "Cluster", "sign": "Sign", "x": "x (mm)", "y": "y (mm)", "z": "z (mm)",
        "peak": f"Peak {contrast.kind}", "voxels": "Voxels", "p_size": "p of size", "mass": "Mass",
        "p_mass": "p of mass", "p_voxel": "Smallest p of its voxels", "p_tfce": "Smallest p by TFCE",
    }  # fmt: skip
    held = [name for name in columns if name in table]
    whole = ("cluster", "voxels")
    rows = [
        tuple(int(row[name]) if name in whole else row[name] for name in held)
        for row in table.head(_ROWS).to_dict("records")
    ]
    more = f"; the first {_ROWS} of {len(table)}" if len(table) > _ROWS else ""
    return [
        Table(
            f"Clusters tested of {contrast.name}, with corrected p{more}", tuple(columns[item] for item in held), rows
        )
    ]


def _pictures(shown: _Shown, drawing: Drawing, bg_img: Any, template: bool) -> list[Block]:
    """Glass brain and slices; the whole map where nothing is significant."""
    name, kept = shown.contrast.name, np.asanyarray(shown.kept.dataobj)
    count = int((kept != 0).sum())
    cuts, mode = drawing.cut_coords, drawing.display_mode
    if not count:
        png = slices_picture(_finite(shown.whole), None, shown.two_sided, shown.label, bg_img, cuts, mode)
        text = f"Nothing is significant ({shown.rule}). The picture shows the whole map, without a threshold."
        alt = f"Slices of the map of {shown.label} of {name}, without a threshold"
        return [Text(text, "note"), Figure(png, alt, f"{name}: {shown.label}, without a threshold.")]
    level = shown.level
    what = f"{name}: {shown.label} where {shown.rule} ({count:,} voxels)"
    blocks: list[Block] = []
    if template:
        glass = glass_picture(shown.kept, level, shown.two_sided, shown.label)
        blocks.append(Figure(glass, f"Glass brain of {what}", f"{what}, seen through."))
    if drawing.plot_type == "slice" or not template:
        png = slices_picture(shown.kept, level, shown.two_sided, shown.label, bg_img, cuts, mode)
        blocks.append(Figure(png, f"Slices of {what}", f"{what}, in slices."))
    return blocks


def _histogram(shown: _Shown, mask: Any) -> Figure:
    """The z of all voxels beside N(0, 1)."""
    values = np.asanyarray(shown.whole.dataobj, dtype=np.float64)
    inside = values[np.asanyarray(image_of(mask).dataobj) != 0] if mask is not None else values[values != 0]
    z: NDArray[np.float64] = inside[np.isfinite(inside)]
    deviation, mean = (float(z.std()), float(z.mean())) if z.size else (np.nan, np.nan)
    numbers = f"{z.size:,} voxels, mean {mean:.2f}, standard deviation {deviation:.2f}"
    caption = f"z of {shown.contrast.name} beside the standard normal density, its null: {numbers}."
    alt = f"Histogram of z of {shown.contrast.name} beside N(0, 1): {numbers}"
    return Figure(z_picture(z, shown.level, shown.contrast.name), alt, caption)


def _clusters(shown: _Shown, how: Thresholding) -> Block:
    """The clusters of what is significant."""
    table = pd.DataFrame()
    if np.isfinite(shown.level):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No clusters found")
            size = 0 if shown.contrast.corrected else how.cluster_threshold
            table = get_clusters_table(shown.kept, shown.level, size, shown.two_sided, how.min_distance)
    caption = f"Clusters of {shown.contrast.name}, {shown.rule}"
    if table.empty:
        return Text("No cluster to list.")
    rows = [
        (str(row[0]), *(round(value, 1) for value in row[1:4]), row[4], row[5] if isinstance(row[5], int) else None)
        for row in table.head(_ROWS).itertuples(index=False)
    ]
    header = ("Cluster", "x (mm)", "y (mm)", "z (mm)", f"Peak {shown.label}", "Size (mm³)")
    more = f"; the first {_ROWS} of {len(table)} rows" if len(table) > _ROWS else ""
    return Table(caption + more, header, rows)


def _null(contrast: ContrastMap, null: Null) -> Figure:
    """A null distribution."""
    # "t, scaled" in the table of thresholds: that of voxels with unequal numbers of images, made comparable.
    kind = f"scaled {null.statistic[0]}" if null.statistic.endswith(", scaled") else null.statistic
    takes = f"takes more than {null.threshold:.4g}" if np.isfinite(null.threshold) else "takes more rearrangements"
    numbers = f"a corrected p of 5% {takes}; the data reach {null.observed:.4g}"
    what = f"Null distribution of the largest {kind} of {contrast.name}"
    png = null_picture(np.asarray(null.values, dtype=np.float64), null.observed, kind, contrast.name)
    return Figure(png, f"{what}: {numbers}", f"{what}: {numbers}, corrected p = {null.p:.4g}.")


def _finite(image: Any) -> Any:
    """An image with 0 where it has no value."""
    space, values = read_map(image)
    return space.to_image(np.nan_to_num(values))
