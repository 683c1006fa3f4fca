"""How often permutation tests are wrong under the null: family-wise error at 0.05 over many simulations.

Usage: ``python tests/benchmarks/bench_calibration.py [--simulations 1000] [--only NAME]``

Each simulation is 20 smooth maps of 12 x 12 x 10 voxels without an effect, tested with 199 rearrangements by max-t,
cluster mass and TFCE. Printed: the share of simulations with any p <= 0.05, and the binomial 99% interval around 0.05.
"""

import argparse
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import stats
from scipy.ndimage import gaussian_filter

from daskglm import VolumeSpace, images_dataset, permutation_test

SHAPE, N = (12, 12, 10), 20
SPACE = VolumeSpace.from_image(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)))
SITE = np.repeat(np.arange(4), 5)
FAMILY = np.repeat(np.arange(10), 2)
MAPS = ("logp_max_stat", "logp_max_mass", "logp_max_tfce")
Case = tuple[np.ndarray, pd.DataFrame, dict[str, Any]]


def smooth(rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Smooth maps (n, V) of unit variance."""
    maps = np.array([gaussian_filter(row, 1.0, mode="wrap") for row in rng.standard_normal((n, *SHAPE))])
    return (maps / maps.std()).reshape(n, -1, order="F")


def plain(rng: np.random.Generator, **named: Any) -> Case:
    """One regressor and the intercept."""
    return smooth(rng), pd.DataFrame({"x": rng.standard_normal(N), "mean": 1.0}), named


def nuisance(rng: np.random.Generator, **named: Any) -> Case:
    """Skewed nuisance, correlated with the regressor, with a large effect."""
    z = rng.standard_exponential((N, 2))
    design = pd.DataFrame({"x": rng.standard_normal(N) + 0.5 * z[:, 0], "z0": z[:, 0], "z1": z[:, 1], "mean": 1.0})
    return smooth(rng) + 2 * z[:, :1], design, named


def flips(rng: np.random.Generator, **named: Any) -> Case:
    """The mean, by sign flips; variances differ between subjects."""
    return smooth(rng) * rng.uniform(0.3, 3, N)[:, None], pd.DataFrame({"x": np.ones(N)}), named


def sites(rng: np.random.Generator, **named: Any) -> Case:
    """Sites with means and variances of their own, permuted within."""
    design = pd.DataFrame({"x": rng.standard_normal(N), **{f"site{k}": (k == SITE) * 1.0 for k in range(4)}})
    values = smooth(rng) * np.array([1.0, 2, 0.5, 4])[SITE][:, None] + 5 * SITE[:, None]
    return values, design, {"within": SITE, **named}


def families(rng: np.random.Generator, **named: Any) -> Case:
    """Twins with correlated maps and equal regressors, families permuted as wholes."""
    values = smooth(rng) + 2 * smooth(rng, 10)[FAMILY]
    return values, pd.DataFrame({"x": rng.standard_normal(10)[FAMILY], "mean": 1.0}), {"whole": FAMILY, **named}


def gaps(rng: np.random.Generator, at_random: bool = True, **named: Any) -> Case:
    """Voxels that some subjects lack: at random, or where values are low and a nuisance is high."""
    values, design, _ = nuisance(rng)
    if at_random:
        lost = smooth(rng) > 1.0
    else:
        lost = (values < np.quantile(values, 0.1)) | ((design["z0"].to_numpy() > 1.5)[:, None] & (smooth(rng) > 0))
    lost[:, : lost.shape[1] // 2] = False
    return np.where(lost, np.nan, values), design, named


CASES: dict[str, Callable[..., Case]] = {
    "one regressor, two-sided": plain,
    "one regressor, one-sided": partial(plain, two_sided=False),
    "nuisance, Freedman-Lane": nuisance,
    "nuisance, Smith": partial(nuisance, scheme="smith"),
    "nuisance, Draper-Stoneman": partial(nuisance, scheme="draper-stoneman"),
    "nuisance, ter Braak": partial(nuisance, scheme="ter-braak"),
    "mean, sign flips": flips,
    "blocks, within": sites,
    "blocks, whole": families,
    "missing at random": gaps,
    "missing not at random": partial(gaps, at_random=False),
}


def wrong(name: str, seed: int) -> list[bool]:
    """Whether each statistic finds something where nothing is."""
    values, design, named = CASES[name](np.random.default_rng([seed, len(name)]))
    images = images_dataset(values.astype(np.float32), [f"s{k}" for k in range(N)], SPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = permutation_test(
            images, design, {"x": "x"}, n_perm=199, threshold=0.01, tfce=True, random_state=seed, n_jobs=1, **named
        )
    return [bool(np.nanmax(maps[kind].values) >= -np.log10(0.05) - 1e-9) for kind in MAPS]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--only", choices=list(CASES))
    options = parser.parse_args()
    low, high = stats.binom.interval(0.99, options.simulations, 0.05)
    total = options.simulations
    print(f"{total} simulations; 99% interval {low / total:.3f} to {high / total:.3f}")
    with ProcessPoolExecutor(2) as pool:
        for name in [options.only] if options.only else CASES:
            found = list(pool.map(partial(wrong, name), range(options.simulations), chunksize=10))
            counts = np.sum(found, axis=0)
            verdict = "" if ((low <= counts) & (counts <= high)).all() else "  OUTSIDE"
            names = [kind.removeprefix("logp_max_") for kind in MAPS]
            shares = ", ".join(f"{kind} {count / total:.3f}" for kind, count in zip(names, counts, strict=True))
            print(f"{name}: {shares}{verdict}", flush=True)


if __name__ == "__main__":
    main()
