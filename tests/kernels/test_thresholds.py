"""Thresholds and true discovery proportions, against statsmodels and the definitions."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from daskglm.kernels.clusters_table import cluster_peaks, large, rank_clusters
from daskglm.kernels.null import critical_value
from daskglm.kernels.thresholds import fdr_threshold, hommel_value, true_positive_fractions, z_threshold

seeds = st.integers(0, 2**32 - 1)
alphas = st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.7])


def draw(seed: int, n: int, effect: float = 2.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n) + effect * (rng.random(n) < rng.random())


def exact_hommel(p: np.ndarray, alpha: float) -> int:
    """The definition, in fractions: the largest set of the largest p that Simes does not reject."""
    ordered, level = [Fraction(float(value)) for value in np.sort(p)], Fraction(alpha)
    n = len(ordered)
    return max(
        size for size in range(n + 1) if all(size * ordered[n - size + k - 1] > k * level for k in range(1, size + 1))
    )


def simes_rejects(p: np.ndarray, alpha: float) -> bool:
    return bool((np.sort(p) <= alpha * np.arange(1, len(p) + 1) / len(p)).any())


def closed_discoveries(p: np.ndarray, chosen: list[int], alpha: float) -> int:
    """True discoveries in a set by closed testing with Simes, all subsets visited."""
    n = len(p)
    subsets = [set(c) for size in range(1, n + 1) for c in combinations(range(n), size)]
    kept = [s for s in subsets if not simes_rejects(p[list(s)], alpha)]
    # A set is rejected if all its supersets are: what is not rejected are the subsets of those in `kept`.
    return len(chosen) - max((len(s & set(chosen)) for s in kept), default=0)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 1e-20, 1e-300])
def test_z_threshold(alpha: float) -> None:
    assert z_threshold(alpha) == pytest.approx(norm.isf(alpha), rel=1e-13)


def test_z_threshold_at_the_ends() -> None:
    assert z_threshold(0) == np.inf
    assert z_threshold(1) == -np.inf


@given(seeds, alphas, st.integers(1, 300))
def test_fdr_is_that_of_statsmodels(seed: int, alpha: float, n: int) -> None:
    z = draw(seed, n)
    rejected = multipletests(norm.sf(z), alpha, "fdr_bh")[0]
    np.testing.assert_array_equal(z > fdr_threshold(z, alpha), rejected)


def test_fdr_of_nothing() -> None:
    assert fdr_threshold(np.array([]), 0.05) == np.inf
    assert fdr_threshold(np.zeros(5), 0.05) == np.inf
    assert fdr_threshold(np.full(5, 9.0), 0) == np.inf


@given(seeds, alphas, st.integers(1, 40))
def test_hommel_is_its_definition(seed: int, alpha: float, n: int) -> None:
    z = draw(seed, n)
    assert hommel_value(z, alpha) == exact_hommel(norm.sf(z), alpha)


@given(seeds, alphas, st.integers(2, 60))
def test_hommel_rejections_are_those_of_statsmodels(seed: int, alpha: float, n: int) -> None:
    z = draw(seed, n)
    p = norm.sf(z)
    expected = multipletests(p, alpha, "hommel")[0]
    h = hommel_value(z, alpha)
    np.testing.assert_array_equal(p * h <= alpha, expected)


@pytest.mark.parametrize("n_null", [11, 22, 44, 88, 127])
def test_hommel_where_p_is_nothing_beside_alpha(n_null: int) -> None:
    # nilearn's trunc(alpha / (alpha / 11)) is 10: one null voxel would count as a discovery.
    z = np.concatenate([np.full(30, 10.0), np.full(n_null, -1.0)])
    assert hommel_value(z, 0.05) == n_null
    labels = np.ones(z.size, dtype=np.int32)
    assert true_positive_fractions(z, labels, n_null, 0.05)[0] == pytest.approx(30 / z.size, abs=1e-15)


def test_hommel_at_the_ends() -> None:
    assert hommel_value(np.full(4, 9.0), 0.05) == 0
    assert hommel_value(np.full(4, -9.0), 0.05) == 4
    assert hommel_value(np.array([9.0]), 0.05) == 0
    assert hommel_value(np.array([0.0]), 0.05) == 1
    assert hommel_value(np.array([0.0]), 1.0) == 0


@given(seeds, st.sampled_from([0.05, 0.2]), st.integers(1, 8))
def test_discoveries_are_those_of_closed_testing(seed: int, alpha: float, n: int) -> None:
    z = draw(seed, n)
    labels = np.random.default_rng(seed).integers(0, 3, n).astype(np.int32)
    labels = np.unique(np.append(labels, 0), return_inverse=True)[1][:-1].astype(np.int32)
    found = true_positive_fractions(z, labels, hommel_value(z, alpha), alpha)
    for number, fraction in enumerate(found, start=1):
        chosen = np.flatnonzero(labels == number).tolist()
        assert round(fraction * len(chosen), 9) == closed_discoveries(norm.sf(z), chosen, alpha)


@pytest.mark.parametrize("z", [np.full(3, 5.0), np.array([50.0, 50.0, 50.0, 0.0])])
def test_a_cluster_has_no_more_discoveries_than_voxels(z: np.ndarray) -> None:
    labels = (z > 3).astype(np.int32)
    assert true_positive_fractions(z, labels, hommel_value(z, 0.05), 0.05).tolist() == [1.0]


def test_no_cluster_no_fraction() -> None:
    assert true_positive_fractions(np.zeros(3), np.zeros(3, np.int32), 3, 0.05).size == 0


def test_large_and_ranked_clusters() -> None:
    labels = np.array([1, 1, 0, 2, 3, 3], dtype=np.int32)
    assert large(labels, 2).tolist() == [True, True, False, False, True, True]
    assert large(labels, 0).tolist() == [True, True, False, True, True, True]
    assert rank_clusters(labels, np.array([1.0, 2, 9, 5, 5, 0])).tolist() == [3, 3, 0, 1, 2, 2]
    none = np.zeros(2, dtype=np.int32)
    assert not large(none, 0).any()
    assert not rank_clusters(none, np.ones(2)).any()
    assert rank_clusters(none[:0], np.ones(0)).size == 0


def test_peaks_are_apart_from_all_kept() -> None:
    grid = np.zeros((9, 1, 1))
    grid[:, 0, 0] = [1, 5, 1, 3, 1, 1, 1, 4, 1]
    (found,) = cluster_peaks(grid, (grid > 0).astype(np.int32), np.diag([2.0, 1, 1, 1]), 4.0, 4)
    # The peak of 3 is 4 mm from that of 5.
    assert found[0][:, 0].tolist() == [1, 7]
    assert found[1].tolist() == [5, 4]


def test_a_ring_has_its_peak_on_itself() -> None:
    grid = np.zeros((5, 5, 1))
    grid[1:4, 1:4] = 2.0
    grid[2, 2] = 0
    (found,) = cluster_peaks(grid, (grid > 0).astype(np.int32), np.eye(4), 8.0, 4)
    assert found[1].tolist() == [2.0]
    assert grid[tuple(found[0][0])] == 2.0


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.2, 0.5]))
def test_more_than_the_critical_value_is_a_corrected_p_of_alpha(maxima, alpha):
    """By counting, whatever is tied, and however few rearrangements there are (all 35 of 4 and 3 subjects: 34)."""
    maxima = np.array(maxima, dtype=np.float64)
    stats = np.unique(np.concatenate([maxima, maxima + 0.5, [-1.0]]))
    by_hand = (1 + (maxima >= stats[:, None]).sum(axis=1)) / (1 + maxima.size)
    np.testing.assert_array_equal(stats > critical_value(maxima, alpha), by_hand <= alpha + 1e-12)
