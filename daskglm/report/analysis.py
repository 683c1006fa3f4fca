"""What the builders of a report are given: an analysis, wherever it came from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Thresholding:
    """What is shown of a map: the parameters of :func:`daskglm.threshold_stats_img`, and how peaks are listed."""

    threshold: float | None = None
    alpha: float = 0.001
    cluster_threshold: int = 0
    height_control: str | None = "fpr"
    two_sided: bool = False
    min_distance: float = 8.0


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn, as of nilearn's reports.

    Attributes
    ----------
    bg_img : image, path, "MNI152TEMPLATE" or None
        Under the slices.
    plot_type : {"slice", "glass"}
        "glass" leaves the slices out.
    cut_coords, display_mode
        As of ``nilearn.plotting.plot_stat_map``.
    """

    bg_img: Any = "MNI152TEMPLATE"
    plot_type: str = "slice"
    cut_coords: Any = None
    display_mode: str | None = None


@dataclass(frozen=True)
class Null:
    """A null distribution and what was observed.

    Attributes
    ----------
    statistic : str
        As in "t" or "size".
    values : (R,) array
        Largest statistic of each rearrangement.
    threshold, observed, p : float
        What the data have to exceed for a corrected p of 5%, the largest observed, its corrected p.
    voxels : int
        Voxels with corrected p of at most 0.05.
    """

    statistic: str
    values: Any
    threshold: float
    observed: float
    p: float
    voxels: int


@dataclass(frozen=True)
class Corrected:
    """A statistic of a permutation test.

    Attributes
    ----------
    statistic : str
        "t" or "F" (of voxels), "size", "mass" or "tfce".
    map : image or path
        -log10 of its corrected p.
    """

    statistic: str
    map: Any


@dataclass(frozen=True)
class ContrastMap:
    """A contrast and its map.

    Attributes
    ----------
    name, definition : str
        Name, and expression or weights.
    kind : str
        "t" or "F".
    map : image or path
        z; of a permutation test the statistic.
    corrected : sequence of Corrected
        Statistics of a permutation test, that of voxels first.
    clusters : DataFrame, optional
        Clusters of a permutation test, with their corrected p.
    nulls : sequence of Null
        Of a permutation test.
    mask : image or path, optional
        Where it is not that of the analysis.
    """

    name: str
    definition: str
    kind: str
    map: Any
    corrected: Sequence[Corrected] = ()
    clusters: pd.DataFrame | None = None
    nulls: Sequence[Null] = ()
    mask: Any = None


@dataclass(frozen=True)
class Check:
    """Voxels that were fitted again, one by one, or why that was not done.

    Attributes
    ----------
    voxels : int
        How many.
    rows : sequence of (str, float or None, float or None, float or None)
        Contrast, and the largest relative difference of effect, variance and statistic; None: not compared.
    how, why_not : str
        How it was done; or why not.
    """

    voxels: int = 0
    rows: Sequence[tuple[str, float | None, float | None, float | None]] = ()
    how: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class Analysis:
    """An analysis to report.

    Attributes
    ----------
    kind : {"group", "permute", "first-level"}
        Of analysis.
    title : str
        Of the report.
    facts : sequence of (str, str)
        What a reader wants to know first.
    methods : sequence of str
        Sentences for a methods section, each with its full stop.
    citations : sequence of str
        Keys of :data:`daskglm.report.citations.CITATIONS`.
    designs : mapping of str to DataFrame
        Designs by the name of the run; "" where there is one.
    maps : sequence of ContrastMap
        Contrasts.
    mask, counts : image or path, optional
        Voxels analysed, and images that each has.
    n_images : int
        Images, of which `counts` counts.
    tables : sequence of (str, DataFrame)
        Further tables, by caption.
    motion : DataFrame, optional
        A row a run, of a first-level analysis.
    record : mapping
        Provenance: software, command, stages, cluster.
    warnings : sequence of str
        What was met.
    check : callable, optional
        Makes the check of some voxels.
    template : bool
        Whether maps are in the space of the template.
    """

    kind: str
    title: str
    facts: Sequence[tuple[str, str]]
    methods: Sequence[str]
    citations: Sequence[str]
    designs: Mapping[str, pd.DataFrame]
    maps: Sequence[ContrastMap]
    mask: Any = None
    counts: Any = None
    n_images: int = 0
    tables: Sequence[tuple[str, pd.DataFrame]] = ()
    motion: pd.DataFrame | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    check: Callable[[], Check] | None = None
    template: bool = True
