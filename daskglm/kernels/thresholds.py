"""Thresholds and true discovery proportions from a vector of z values."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

# nilearn returns a value this much under the smallest significant z, so that z > threshold keeps that one.
_BELOW = 1e-12


def z_threshold(alpha: float) -> float:
    """The z whose upper tail probability is alpha: -Phi^-1(alpha).

    Parameters
    ----------
    alpha : float
        From 0 to 1.

    Returns
    -------
    float
        Infinite for 0 and 1.
    """
    return float(-special.ndtri(alpha))


def fdr_threshold(z_vals: NDArray[np.float64], alpha: float) -> float:
    """Threshold of the procedure of Benjamini and Hochberg for one-sided p = 1 - Phi(z).

    The i largest z are significant, i the largest with p_(i) < alpha i / n (J. R. Stat. Soc. B 57, 1995; nilearn's
    inequality is strict).

    Parameters
    ----------
    z_vals : (n,) float64
        Finite z values.
    alpha : float
        False discovery rate.

    Returns
    -------
    float
        The smallest significant z less 1e-12; infinite where none is.
    """
    z = -np.sort(-z_vals)
    significant = np.flatnonzero(special.ndtr(-z) < alpha * np.linspace(1 / max(z.size, 1), 1, z.size))
    return float(z[significant[-1]] - _BELOW) if significant.size else np.inf


def hommel_value(z_vals: NDArray[np.float64], alpha: float) -> int:
    """Size of the largest set of hypotheses that Simes' test does not reject.

    h is the largest i with i p_j > (j - n + i) alpha for all j > n - i, p in ascending order (Goeman, Meijer, Krebs
    and Solari, Biometrika 106, 2019). For the j with p_j < alpha it is the smallest (n - j) / (1 - p_j / alpha),
    rounded down: written so, it is exact where p_j is nothing beside alpha.

    Parameters
    ----------
    z_vals : (n,) float64
        Finite z values, n >= 1; p is their upper tail probability.
    alpha : float
        Familywise error rate, above 0.

    Returns
    -------
    int
        From 0, where each hypothesis is rejected, to n.
    """
    p = special.ndtr(np.sort(-z_vals))
    if p[-1] <= alpha:
        return 0
    ratios = p / alpha
    ratios = ratios[ratios < 1]
    if ratios.size == 0:
        return int(p.size)
    bounds = np.arange(p.size - 1, p.size - 1 - ratios.size, -1) / (1 - ratios)
    return int(min(np.floor(bounds.min()), p.size))


def true_positive_fractions(
    z_vals: NDArray[np.float64], labels: NDArray[np.int32], hommel: int, alpha: float
) -> NDArray[np.float64]:
    """Lower bound of the proportion of true discoveries in each cluster, all clusters at once.

    A cluster S has at least max_u (1 - u + #{i in S: h p_i <= u alpha}) of them, u >= 1 (Rosenblatt, Finos, Weeda,
    Solari and Goeman, NeuroImage 181, 2018).

    Parameters
    ----------
    z_vals : (n,) float64
        Finite z values.
    labels : (n,) int32
        Cluster of each, from 1; 0: none.
    hommel : int
        From :func:`hommel_value` of all z values.
    alpha : float
        The same as there.

    Returns
    -------
    (k,) float64
        From 0 to 1, of the clusters 1 to k.
    """
    inside = np.flatnonzero(labels)
    order = inside[np.lexsort((-z_vals[inside], labels[inside]))]
    sizes = np.bincount(labels[inside])[1:]
    if sizes.size == 0:
        return np.empty(0)
    first = np.cumsum(sizes) - sizes
    rank = np.arange(1, order.size + 1) - np.repeat(first, sizes)
    # u is 1 at least: h = 0 or p = 0 would count one voxel more than the cluster has.
    level = np.maximum(np.ceil(hommel * special.ndtr(-z_vals[order]) / alpha), 1)
    found = np.maximum.reduceat(rank - level + 1, first)
    return np.maximum(found, 0) / sizes
