"""What rearrangements gave -> maps of statistics and their p."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse

from daskglm.graph.permutation import Unit
from daskglm.kernels.clusters import cluster_maps, largest_cluster
from daskglm.kernels.distributions import f_z_score, t_z_score
from daskglm.kernels.moments import Array
from daskglm.kernels.null import corrected_p, counted_p, false_discovery_q, z_of_p
from daskglm.kernels.permutation_blocks import Observed, Test, on_scale
from daskglm.kernels.tfce import Grid, enhance, enhance_stepwise


@dataclass(frozen=True)
class WholeMap:
    """Statistics that need a whole map: cluster extent and mass, and TFCE.

    Attributes
    ----------
    adjacency : (V, V) csr_array
        Neighbours.
    grid : Grid or None
        Where they are in a volume, if TFCE is faster so.
    thresholds : tuple of float or None
        Cluster-forming threshold of each test.
    two_sided : tuple of bool
        Of each test.
    tfce : bool or "stepwise"
        Whether maps are enhanced, and how.
    extent, height : float
        Exponents of TFCE.
    """

    adjacency: sparse.csr_array[np.bool_]
    grid: Grid | None
    thresholds: tuple[float | None, ...]
    two_sided: tuple[bool, ...]
    tfce: bool | str
    extent: float
    height: float

    def __call__(self, values: NDArray[np.floating], test: int) -> dict[str, Any]:
        """Numbers of one map, and the enhanced map."""
        found: dict[str, Any] = {}
        threshold = self.thresholds[test]
        if threshold is not None:
            found["size"], found["mass"] = largest_cluster(values, self.adjacency, threshold, self.two_sided[test])
        if self.tfce:
            found["enhanced"] = self.enhanced(values, test)
        return found

    def enhanced(self, values: NDArray[np.floating], test: int) -> NDArray[np.float32]:
        """Enhance one map.

        Parameters
        ----------
        values : (V,) float
            Map; NaN where there is none.
        test : int
            Number of its test.

        Returns
        -------
        (V,) float32
        """
        two_sided = self.two_sided[test]
        if self.tfce == "stepwise":
            return enhance_stepwise(values, self.adjacency, two_sided).astype(np.float32)
        single = np.asarray(values, dtype=np.float32)
        neighbours = self.grid or self.adjacency
        return enhance(single[None], neighbours, extent=self.extent, height=self.height, two_sided=two_sided)[0]


@dataclass
class Total:
    """All units together, for R tests.

    Attributes
    ----------
    maxima : dict of str to (R, n_perm) float64
        Null distributions of the largest statistics, by name.
    counts : dict of str to (R, V) int64
        How often a voxel's statistic was at least the observed one.
    n_perm : int
        Rearrangements.
    """

    maxima: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    n_perm: int = 0

    def add(self, unit: Unit) -> None:
        """Add one more.

        Parameters
        ----------
        unit : Unit
            The next rearrangements.
        """
        for name, values in unit.maxima.items():
            known = self.maxima.get(name, np.empty((len(values), 0)))
            self.maxima[name] = np.concatenate([known, values], axis=1)
        for name, counts in unit.counts.items():
            self.counts[name] = self.counts.get(name, 0) + counts
        self.n_perm += unit.stop - unit.start


def levels_of(tests: Mapping[str, Test], seen: Observed) -> Array:
    """Observed statistics on the scale on which they are compared.

    Parameters
    ----------
    tests : mapping of str to Test
        R tests.
    seen : Observed
        The data as they are.

    Returns
    -------
    (R, V) float64
    """
    rows = zip(tests.values(), seen.share, seen.freedom, strict=True)
    return np.array([on_scale(share, test, freedom) for test, share, freedom in rows])


def single(level: Array) -> NDArray[np.float32]:
    """An observed map in the precision of those under rearrangements.

    Parameters
    ----------
    level : (V,) float64
        From :func:`levels_of`.

    Returns
    -------
    (V,) float32
    """
    return level.astype(np.float32)


def label_maps(
    images: xr.Dataset, tests: Mapping[str, Test], seen: Observed, levels: Array, total: Total,
    on_map: WholeMap | None, enhanced: Array | None, exhaustive: bool, tail: bool,
) -> xr.Dataset:  # fmt: skip
    """The maps of all tests.

    Parameters
    ----------
    images : xarray.Dataset
        Images dataset: gives the space.
    tests : mapping of str to Test
        R tests.
    seen : Observed
        The data as they are.
    levels : (R, V) float64
        From :func:`levels_of`.
    total : Total
        Rearrangements.
    on_map : WholeMap or None
        Statistics of whole maps.
    enhanced : (R, V) float32 or None
        Enhanced maps of the data in single precision.
    exhaustive : bool
        Whether all distinct rearrangements were done.
    tail : bool
        Fit a tail to the nulls.

    Returns
    -------
    xarray.Dataset
        As of :func:`permutation_test`.
    """
    maps: dict[str, list[Array]] = {}

    def add(name: str, values: NDArray[Any]) -> None:
        maps.setdefault(name, []).append(np.asarray(values, dtype=np.float64))

    for number, test in enumerate(tests.values()):
        freedom = seen.freedom[number]
        level = levels[number]
        two_sided = test.signed and test.two_sided
        size_of = np.abs(level) if two_sided else level
        uncorrected = np.where(np.isnan(level), np.nan, counted_p(total.counts["stat"][number], total.n_perm))
        corrected = corrected_p(size_of, total.maxima["stat"][number], tail)
        add("stat", seen.stat[number])
        if test.scaled:
            add("scaled_stat", level)
        add("degrees_of_freedom", freedom)
        add("logp_stat", -np.log10(uncorrected))
        add("logq_stat", -np.log10(false_discovery_q(uncorrected)))
        add("logp_max_stat", -np.log10(corrected))
        add("z_max_stat", z_of_p(corrected, np.sign(level) if two_sided else None))
        threshold = None if on_map is None else on_map.thresholds[number]
        if on_map is not None and threshold is not None:
            # Compared in the precision of the null's maps, so that ties are ties.
            clusters = [cluster_maps(row, on_map.adjacency, threshold, two_sided) for row in (level, single(level))]
            for name, values, compared in zip(("size", "mass"), *clusters, strict=True):
                add(name, values)
                add(f"logp_max_{name}", _cluster_logp(compared, total.maxima[name][number], tail))
        if on_map is not None and enhanced is not None:
            magnitude = np.where(np.isnan(level), np.nan, np.abs(enhanced[number]))
            add("tfce", on_map.enhanced(level, number))
            counted = np.where(np.isnan(level), np.nan, counted_p(total.counts["tfce"][number], total.n_perm))
            add("logp_tfce", -np.log10(counted))
            add("logp_max_tfce", -np.log10(corrected_p(magnitude, total.maxima["tfce"][number], tail)))
    variables: dict[str, Any] = {name: (("contrast", "voxel"), np.array(rows)) for name, rows in maps.items()}
    if len(tests) > 1:
        variables["logp_across_stat"] = (("contrast", "voxel"), _across(tests, seen, levels, total, tail))
    for name, values in total.maxima.items():
        variables[f"h0_max_{name}"] = (("contrast", "permutation"), values)
    variables["n"] = ("voxel", seen.count)
    return xr.Dataset(
        variables,
        coords={
            "contrast": np.array(list(tests), dtype=object),
            "stat_type": ("contrast", ["t" if test.signed else "F" for test in tests.values()]),
            "rank": ("contrast", [test.parts.tested.shape[1] for test in tests.values()]),
            "two_sided": ("contrast", [test.signed and test.two_sided for test in tests.values()]),
            "voxel": images["voxel"],
        },
        attrs={
            "space": images.attrs["space"],
            "n_perm": total.n_perm,
            "exhaustive": exhaustive,
            "variance_groups": any(test.groups is not None for test in tests.values()),
        },
    )


def _cluster_logp(values: NDArray[Any], maxima: Array, tail: bool) -> Array:
    """-log10 of the corrected p of clusters; 0 outside of them."""
    inside = values > 0
    return np.where(inside, -np.log10(corrected_p(np.where(inside, values, np.nan), maxima, tail)), 0.0 * values)


def _across(tests: Mapping[str, Test], seen: Observed, levels: Array, total: Total, tail: bool) -> Array:
    """-log10 p (R, V) corrected over voxels and tests, on the scale of their z."""
    rows = [
        (_common(levels[number], test, seen.freedom[number]), _common(total.maxima["stat"][number], test, None))
        for number, test in enumerate(tests.values())
    ]
    top = np.max([null for _, null in rows], axis=0)
    return np.array([-np.log10(corrected_p(z, top, tail)) for z, _ in rows])


def _common(values: Array, test: Test, freedom: Array | None) -> Array:
    """The z with the same p as statistics on the scale of a test."""
    n_tested = test.parts.tested.shape[1]
    dof = np.full(values.shape, float(test.parts.degrees_of_freedom)) if freedom is None else freedom
    if test.groups is not None and not test.signed:
        return values
    # On a scale statistics are like those with very many degrees of freedom.
    dof = np.where(np.isfinite(dof), 1e10, np.nan) if test.scaled else dof
    if test.signed and not test.two_sided:
        return t_z_score(values, dof)
    if test.signed:
        return f_z_score(values**2, np.ones(values.shape), dof)
    scale = n_tested if test.uneven else 1
    return f_z_score(values / scale, np.full(values.shape, float(n_tested)), dof)
