"""Permutation tests of an images dataset: corrected and uncorrected p of voxels, clusters and TFCE."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from daskglm.design.matrix import check_design
from daskglm.design.rearrangements import Rearrangements
from daskglm.errors import NothingToTestError, check_choice, option
from daskglm.graph.glm import fewest
from daskglm.graph.images import lazy_array
from daskglm.graph.permutation import Unit, observed, unit_size, units, voxel_blocks
from daskglm.graph.progress import shown
from daskglm.graph.samples import match_design, match_values, warn_of_repeats
from daskglm.inference.permutation_maps import Total, WholeMap, label_maps, levels_of, single
from daskglm.inference.planning import cluster_threshold, plan_tests
from daskglm.inference.thresholding import check_number
from daskglm.io.permutations import load_units, save_unit
from daskglm.kernels.adjacency import CONNECTIVITIES, grid_adjacency
from daskglm.kernels.moments import Array
from daskglm.kernels.null import tie_level
from daskglm.kernels.permutation_blocks import Observed, Test
from daskglm.kernels.tfce import Grid, check_enhancement
from daskglm.schema.datasets import space_of

# How statistics are compared and counted: what was kept by another way is not gone on from.
_COUNTING = 2


def permutation_test(
    images: xr.Dataset,
    design: pd.DataFrame,
    contrasts: Mapping[str, Any],
    *,
    n_perm: int = 10_000,
    f_contrasts: Sequence[str] = (),
    two_sided: bool = True,
    scheme: str = "freedman-lane",
    rearrangement: str = "auto",
    within: Any = None,
    whole: Any = None,
    variance_groups: Any = None,
    threshold: float | None = None,
    tfce: bool | str = False,
    connectivity: int = 6,
    extent: float = 0.5,
    height: float = 2.0,
    tail: bool = False,
    min_coverage: float = 0.5,
    allow_rank_deficient: bool = False,
    random_state: int = 0,
    stop_at: float | None = None,
    folder: str | None = None,
    fingerprint: Any = None,
    n_jobs: int | None = -1,
    progress: bool = False,
) -> xr.Dataset:
    """Test contrasts by rearranging the rows of a design.

    Parameters
    ----------
    images : xarray.Dataset
        Images dataset of n samples and V voxels; NaN is missing.
    design : (n, p) DataFrame
        Design. If its index (or a column participant_id) holds ids, rows are matched to samples by id; else by order.
    contrasts : mapping of str to contrast
        Name to expression or weights; those with several rows are F contrasts.
    n_perm : int
        Rearrangements. Where fewer are distinct, all of them are done.
    f_contrasts : sequence of str
        Names of further F contrasts.
    two_sided : bool
        Of t contrasts: either sign counts.
    scheme : {"freedman-lane", "smith", "dekker", "draper-stoneman", "ter-braak"}
        Freedman-Lane permutes residuals of the nuisance model. Smith (Dekker) permutes the tested regressor without
        the nuisance: one product a rearrangement, whatever the nuisance. Draper-Stoneman permutes the tested
        regressor as it is, ter Braak residuals of the whole model.
    rearrangement : {"auto", "permutation", "sign_flip", "both"}
        Rows change places, signs, or both. "auto": sign flips where a mean is tested, also as a part of an F contrast
        or of one of several groups: permutations do not change it.
    within, whole : (n,) array or Series, optional
        Blocks of exchangeability: rows change places within them, or blocks as wholes. A Series follows its index: that
        of the design, or ids of the images.
    variance_groups : (n,) array or Series, optional
        Groups with variances of their own: Aspin and Welch's v and G (Winkler et al. 2014) take the place of t and F.
        As in PALM they are compared as z, by the degrees of freedom of each rearrangement (``scaled_stat``). Voxels
        that some images lack are not tested then, and a warning says how many.
    threshold : float, optional
        Cluster-forming p, for cluster extent and mass.
    tfce : bool or "stepwise"
        Threshold-free cluster enhancement: the exact integral, or nilearn's sum over 100 steps of each map.
    connectivity : {6, 18, 26}
        Neighbours of a voxel.
    extent, height : float
        Exponents E and H of TFCE.
    tail : bool
        Corrected p under 0.1 from a generalized Pareto distribution (Winkler et al. 2016).
    min_coverage : float
        Voxels observed in a smaller fraction of the images are not tested.
    allow_rank_deficient : bool
        Test with a rank-deficient design; only contrasts that it determines.
    random_state : int
        Rearrangement i depends on it and i alone.
    stop_at : float, optional
        Stop before `n_perm` once the 99% confidence interval of the smallest corrected p of every contrast lies on
        one side of this.
    folder : path, optional
        Where finished rearrangements are kept: the same test again, or with more of them, goes on from there.
    fingerprint : object, optional
        What tells these images from others, for `folder`; by default their values are hashed.
    n_jobs : int or None
        Threads in this process, where no ``distributed.Client`` is active.
    progress : bool
        Show rearrangements done and time left on standard error.

    Returns
    -------
    xarray.Dataset
        By ``(contrast, voxel)``: ``stat`` (t or F), ``degrees_of_freedom``, ``logp_stat`` (uncorrected, -log10),
        ``logq_stat`` (false discovery rate), ``logp_max_stat`` and ``z_max_stat`` (corrected over voxels), with several
        contrasts ``logp_across_stat`` (over voxels and contrasts); with `threshold` ``size``, ``mass`` and
        ``logp_max_...`` of them; with `tfce` ``tfce``, ``logp_tfce``, ``logp_max_tfce``. ``h0_max_... (contrast,
        permutation)``: the nulls. ``n (voxel)``. Where voxels lack images, ``scaled_stat``: what is compared with
        ``h0_max_stat``, and with `variance_groups`. NaN: voxels that cannot be tested, among them those that the
        design explains without residuals.

    Raises
    ------
    ContrastError, DesignError, ImageError, ParameterError
        Before the work, wherever it can be known.

    Notes
    -----
    Voxels that some images lack use those that they have: there the tested regressor is rearranged (as by Smith) over
    all subjects, and fitted with the nuisance over those of the voxel. Statistics are then compared on the scale
    of :func:`~daskglm.kernels.permutation.even_scale`, for voxels differ in degrees of freedom.

    Statistics that equal the observed one but for rounding count, in p of voxels, clusters and TFCE alike.

    Permutations assume one variance: with groups of 6 and 18 subjects, of which the smaller has four times the
    standard deviation, some voxel was found in 86% of simulations without an effect, at 0.05; use `variance_groups`.
    ``logq_stat`` is made of counted p, which are 1 / (1 + n_perm) at least: a false discovery rate of 0.05 takes
    V / (0.05 (1 + n_perm)) voxels with the smallest p, or more rearrangements.
    """
    check_enhancement(tfce, extent, height)
    check_choice("connectivity", connectivity, CONNECTIVITIES)
    check_number("min_coverage", min_coverage, 0, 1)
    if stop_at is not None:
        check_number(option("stop_at", "--stop-at"), stop_at, 0, 1)
    design = match_design(design, images)
    if not allow_rank_deficient:
        check_design(design, images.sizes["sample"])
    within, whole, variance_groups = (
        match_values(given, images, design, name)
        for name, given in (("within", within), ("whole", whole), ("variance_groups", variance_groups))
    )
    warn_of_repeats(images, design, within, whole)
    plan, tests = plan_tests(
        design, contrasts, f_contrasts, two_sided, scheme, rearrangement, n_perm, within, whole, variance_groups,
        random_state,
        fewest(min_coverage, len(design)),
    )  # fmt: skip
    for test in tests.values():
        cluster_threshold(test, threshold)
    blocks = voxel_blocks(lazy_array(images["data"].transpose("sample", "voxel")), n_jobs)
    seen, blocks = observed(blocks, list(tests.values()), n_jobs)
    _tell_untested(tests, seen, fewest(min_coverage, len(design)))
    tests = _with_scale(tests, seen)
    on_map = None
    if threshold is not None or tfce:
        space = space_of(images)
        adjacency = grid_adjacency(space.shape, space.voxels, connectivity)
        heights = tuple(cluster_threshold(test, threshold) for test in tests.values())
        sides = tuple(test.signed and test.two_sided for test in tests.values())
        grid = Grid(space.shape, space.voxels, connectivity) if connectivity > 6 else None
        on_map = WholeMap(adjacency, grid, heights, sides, tfce, extent, height)
    levels = levels_of(tests, seen)
    enhanced = np.array([on_map.enhanced(single(row), k) for k, row in enumerate(levels)]) if on_map and tfce else None
    before: list[Unit] = []
    key = ""
    if folder is not None:
        key = _key(tests, plan, on_map, connectivity, levels if fingerprint is None else fingerprint)
        size, _ = unit_size(blocks.n_rows, blocks.edges[-1], on_map is not None)
        before = [Unit(*item) for item in load_units(folder, key, size) if item[1] <= plan.count]
    start = before[-1].stop if before else 0
    rest = units(blocks, list(tests.values()), plan, on_map, enhanced, start=start, n_jobs=n_jobs)
    total = _total(before, rest, levels, tests, plan.count, stop_at, (folder, key), progress)
    maps = label_maps(images, tests, seen, levels, total, on_map, enhanced, plan.exhaustive, tail)
    return maps.assign_attrs(rearrangement=plan.kind)


def _tell_untested(tests: Mapping[str, Test], seen: Observed, min_count: int) -> None:
    """Warn where variance groups leave voxels out."""
    if all(test.groups is None for test in tests.values()):
        return
    n_rows, enough = len(next(iter(tests.values())).parts.tested), seen.count >= min_count
    lost = int((enough & (seen.count < n_rows)).sum())
    if lost:
        warnings.warn(
            f"{lost:,} of {int(enough.sum()):,} voxels lack images of some subjects and are not tested: variance "
            "groups need all images of a voxel; leave out those subjects, or test without variance groups",
            stacklevel=3,
        )


def _with_scale(tests: dict[str, Test], seen: Observed) -> dict[str, Test]:
    """Tests that know whether voxels differ in degrees of freedom."""
    tested = np.isfinite(seen.share).any(axis=0)
    if not tested.any():
        raise NothingToTestError(
            f"no voxel can be tested: the best has {seen.count.max(initial=0)} images; check that the images are "
            f"finite and vary, or lower {option('min_coverage', '--min-coverage')}"
        )
    n_rows = len(next(iter(tests.values())).parts.tested)
    uneven = bool((seen.count[tested] < n_rows).any())
    return {name: replace(test, uneven=uneven) for name, test in tests.items()}


def _total(
    before: Sequence[Unit], rest: Iterator[Unit], levels: Array, tests: Mapping[str, Test], n_perm: int,
    stop_at: float | None, keep: tuple[str | None, str], progress: bool,
) -> Total:  # fmt: skip
    """All units together; new ones are kept as they come."""
    total = Total()
    for unit in before:
        total.add(unit)
    tops = np.array([_top(row, test) for row, test in zip(levels, tests.values(), strict=True)])
    settled = stop_at is not None and bool(before) and _settled(tops, total.maxima["stat"], stop_at)
    folder, key = keep
    with shown("Rearrangements", n_perm, total.n_perm) if progress else nullcontext(lambda _: None) as tell:
        while not settled and total.n_perm < n_perm:
            unit = next(rest)
            if folder is not None:
                save_unit(folder, key, unit.start, unit.stop, unit.maxima, unit.counts)
            total.add(unit)
            tell(total.n_perm)
            settled = stop_at is not None and _settled(tops, total.maxima["stat"], stop_at)
    return total


def _top(level: Array, test: Test) -> float:
    """The largest observed statistic."""
    return float(np.fmax.reduce(np.abs(level) if test.signed and test.two_sided else level))


def _settled(tops: Array, maxima: Array, alpha: float) -> bool:
    """Whether Clopper and Pearson's 99% interval of each smallest corrected p excludes alpha."""
    n_perm = maxima.shape[1]
    reached = (maxima >= tie_level(tops)[:, None]).sum(axis=1)
    low = np.where(reached > 0, stats.beta.ppf(0.005, np.maximum(reached, 1), n_perm - reached + 1), 0.0)
    high = np.where(reached < n_perm, stats.beta.ppf(0.995, reached + 1, np.maximum(n_perm - reached, 1)), 1.0)
    return bool(((low > alpha) | (high < alpha)).all())


def _key(
    tests: Mapping[str, Test], plan: Rearrangements, on_map: WholeMap | None, connectivity: int, images: Any
) -> str:
    """Hash of all that the numbers of a rearrangement depend on."""
    what = [
        _COUNTING,
        [(name, vars(test.parts), test.signed, test.two_sided, test.scheme, test.uneven, test.min_count,
          None if test.groups is None else test.groups.members)
         for name, test in tests.items()],
        plan.groups, plan.kind, plan.seed, plan.exhaustive, plan.labels if plan.exhaustive else None,
        None if on_map is None else (on_map.thresholds, on_map.tfce, on_map.extent, on_map.height, connectivity),
        images,
    ]  # fmt: skip
    return str(joblib.hash(what))
