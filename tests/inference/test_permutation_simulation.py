"""Permutation tests where the truth is known: effects that are there are found, and those that are not, rarely."""

import warnings

import numpy as np
import pandas as pd
import pytest
from nibabel import Nifti1Image
from scipy import ndimage, stats

from daskglm import VolumeSpace, images_dataset, permutation_test

ALPHA = -np.log10(0.05) - 1e-9
SCHEMES = ("freedman-lane", "smith", "draper-stoneman", "ter-braak")  # "dekker" is "smith"


def space(shape):
    return VolumeSpace.from_image(Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)))


def run(values, shape, design, contrast, **named):
    images = images_dataset(values, [f"s{row}" for row in range(len(values))], space(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few distinct rearrangements
        return permutation_test(images, design, {"c": contrast}, n_jobs=1, **{"n_perm": 99, **named})


# A planted effect

CUBE = (9, 9, 9)
MAPS = ("logp_max_stat", "logp_max_size", "logp_max_mass", "logp_max_tfce")


def inside_cube():
    there = np.zeros(CUBE, bool)
    there[2:6, 2:6, 2:6] = True
    return there.ravel(order="F")


def smooth_noise(rng, n):
    volumes = np.stack([ndimage.gaussian_filter(rng.standard_normal(CUBE), 0.8) for _ in range(n)])
    return (volumes / volumes.std()).reshape(n, -1, order="F")


@pytest.fixture(scope="module", params=["permutation", "sign_flip"])
def planted(request):
    """Maps of 20 simulations of an effect in a cube: of a regressor, or of the mean."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 24
        x, z = rng.standard_normal(n), rng.standard_normal(n)
        is_mean = request.param == "sign_flip"
        design = pd.DataFrame({"mean": 1.0, "z": z} if is_mean else {"x": x, "z": z, "mean": 1.0})
        effect = (np.ones(n) if is_mean else x) * (-1) ** seed
        values = smooth_noise(rng, n) + 0.5 * z[:, None] + 1.1 * np.outer(effect, inside_cube())
        name = "mean" if is_mean else "x"
        found.append(run(values, CUBE, design, name, threshold=0.01, tfce=True, random_state=seed))
    return found


@pytest.mark.parametrize("name", MAPS)
def test_a_planted_effect_is_found(planted, name):
    there = inside_cube()
    found = np.array([maps[name].values[0] >= ALPHA for maps in planted])
    assert found[:, there].any(axis=1).sum() >= 19
    assert found[:, there].mean() > 0.5


def test_a_planted_effect_has_its_sign(planted):
    there = inside_cube()
    for seed, maps in enumerate(planted):
        z, t = maps["z_max_stat"].values[0], maps["stat"].values[0]
        best = np.flatnonzero(there)[np.argmax(np.abs(t[there]))]
        assert np.sign(z[best]) == np.sign(t[best]) == (-1) ** seed
        assert np.sign(maps["tfce"].values[0, best]) == (-1) ** seed


def test_voxels_without_the_effect_are_rarely_found(planted):
    # Of voxels, not of clusters: a cluster that is not null may reach beyond the effect.
    wrong = sum((maps["logp_max_stat"].values[0][~inside_cube()] >= ALPHA).any() for maps in planted)
    assert wrong <= stats.binom.ppf(0.9995, len(planted), 0.05)


def test_false_discoveries_are_as_rare_as_promised(planted):
    shares = []
    for maps in planted:
        chosen = maps["logq_stat"].values[0] >= ALPHA
        shares.append((chosen & ~inside_cube()).sum() / max(chosen.sum(), 1))
    assert np.mean(shares) <= 0.05 + 4 * np.std(shares) / np.sqrt(len(shares))


# Families of twins

SHAPE = (5, 4, 3)
FAMILIES = np.repeat(np.arange(14), 2)


def twins(rng):
    """Noise that twins share in part, and a regressor that they share."""
    x, z = rng.standard_normal(14)[FAMILIES], rng.standard_normal(28)
    shared, own = rng.standard_normal((14, 60))[FAMILIES], rng.standard_normal((28, 60))
    values = np.sqrt(0.8) * shared + np.sqrt(0.2) * own + z[:, None]
    return values, x, z


def wrong_families(simulate, n_simulations, **named):
    """In how many simulations without an effect any voxel is found."""
    count = 0
    for seed in range(n_simulations):
        values, design, contrast = simulate(np.random.default_rng(1000 + seed))
        maps = run(values, SHAPE, design, contrast, random_state=seed, **named)
        count += bool(np.nanmax(maps["logp_max_stat"].values) >= ALPHA)
    return count


def of_regressor(rng):
    values, x, z = twins(rng)
    return values, pd.DataFrame({"x": x, "z": z, "mean": 1.0}), "x"


def of_mean(rng):
    values, _, z = twins(rng)
    return values, pd.DataFrame({"mean": 1.0, "z": z}), "mean"


def bounds(n_simulations):
    """Between which the number of simulations lies, of which 5% are wrong, but for a chance of 1 in 1000."""
    return stats.binom.ppf([0.0005, 0.9995], n_simulations, 0.05)


N, FEW = 100, 30
LOW, HIGH = bounds(N)


@pytest.mark.parametrize("kind", ["permutation", "sign_flip"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_families_as_wholes_are_wrong_as_often_as_promised(scheme, kind):
    count = wrong_families(of_regressor, N, scheme=scheme, rearrangement=kind, whole=FAMILIES)
    assert LOW <= count <= HIGH


@pytest.mark.parametrize("kind", ["permutation", "sign_flip"])
@pytest.mark.parametrize("scheme", ["freedman-lane", "smith"])
def test_twins_as_if_unrelated_are_wrong_too_often(scheme, kind):
    assert wrong_families(of_regressor, FEW, scheme=scheme, rearrangement=kind) > bounds(FEW)[1]


@pytest.mark.parametrize("scheme", ["freedman-lane", "draper-stoneman"])
def test_the_mean_of_families_as_wholes(scheme):
    count = wrong_families(of_mean, N, scheme=scheme, whole=FAMILIES)
    assert LOW <= count <= HIGH


def test_the_mean_of_twins_as_if_unrelated_is_found_too_often():
    assert wrong_families(of_mean, FEW) > bounds(FEW)[1]


@pytest.mark.parametrize(
    ("names", "options"),
    [(("logp_max_size", "logp_max_mass"), {"threshold": 0.1}), (("logp_max_tfce",), {"tfce": True})],
)
def test_clusters_of_families_as_wholes(names, options):
    def wrong(n_simulations, whole):
        counts = dict.fromkeys(names, 0)
        for seed in range(n_simulations):
            values, design, contrast = of_regressor(np.random.default_rng(1000 + seed))
            maps = run(values, SHAPE, design, contrast, random_state=seed, whole=whole, **options)
            for name in names:
                counts[name] += bool(np.nanmax(maps[name].values) >= ALPHA)
        return counts

    assert max(wrong(60, FAMILIES).values()) <= bounds(60)[1]
    assert min(wrong(40, None).values()) > bounds(40)[1]


def test_blocks_of_several_sizes_and_both_rearrangements():
    names = np.repeat(np.arange(12), [1] * 4 + [2] * 5 + [3] * 3)

    def simulate(rng):
        x = rng.standard_normal(12)[names]
        shared, own = rng.standard_normal((12, 60))[names], rng.standard_normal((names.size, 60))
        return shared + 0.5 * own, pd.DataFrame({"x": x, "mean": 1.0}), "x"

    count = wrong_families(simulate, N, rearrangement="both", whole=names)
    assert LOW <= count <= HIGH
