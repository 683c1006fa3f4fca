"""Runs as graphs: any chunking, any way of reading, equal to nilearn; corrupt files are named."""

import gzip
import warnings
from functools import reduce
from operator import add
from pathlib import Path

import dask
import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from dask.utils import key_split
from nilearn.glm import compute_contrast
from nilearn.glm.first_level import run_glm

import daskglm
from daskglm.errors import CorruptImageError, ParameterError
from daskglm.graph.images import Preparation
from daskglm.graph.runs import NoiseModel, RunImages, mean_of_run, read_run, solve_run, sum_blocks, sum_run
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.contrasts import f_contrast, t_contrast
from daskglm.kernels.scaling import Scaling
from daskglm.models.functional import OUTPUT_TYPES

SHAPE, N = (5, 6, 4), 48
AFFINE = np.diag([-3.0, 3, 4, 1])


def refuse(*_, **__):
    raise AssertionError("something was computed")


def simulated(n=N, voxels=120, seed=0):
    rng = np.random.default_rng(seed)
    design = pd.DataFrame(rng.standard_normal((n, 3)), columns=["a", "b", "c"]).assign(constant=1.0)
    noise = rng.standard_normal((n, voxels))
    first, second = rng.uniform(-0.3, 0.6, voxels), rng.uniform(-0.3, 0.3, voxels)
    for row in range(2, n):
        noise[row] += first * noise[row - 1] + second * noise[row - 2]
    return design, 100 + design.to_numpy() @ rng.standard_normal((4, voxels)) + noise


DESIGN, VALUES = simulated()
SPACE = daskglm.VolumeSpace.from_image(nib.Nifti1Image(np.ones(SHAPE), AFFINE))
CONTRASTS = {"t": np.array([1.0, -1, 0, 0]), "F": np.eye(4)[:3], "F of one": np.eye(4)[1:2]}


def oracle(noise_model, bins=100, seed=None, order=None):
    """nilearn's maps, its voxels in a given order."""
    order = np.arange(VALUES.shape[1]) if order is None else order
    back = np.argsort(order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels, results = run_glm(VALUES[:, order], DESIGN.to_numpy(), noise_model, bins=bins, random_state=seed)
        maps = {}
        for name, contrast in CONTRASTS.items():
            found = compute_contrast(labels, results, contrast, name[0])
            values = (found.z_score(), found.stat(), found.p_value(), found.effect_size(), found.effect_variance())
            maps[name] = {k: np.atleast_2d(v)[:, back] for k, v in zip(OUTPUT_TYPES, values, strict=True)}
    return maps


def borderline(bins=100):
    """Voxels whose coefficient may round to either side."""
    x = DESIGN.to_numpy()
    e = VALUES - x @ np.linalg.lstsq(x, VALUES, rcond=None)[0]
    scaled = bins * (np.sum(e[1:] * e[:-1], axis=0) / (N - 1)) / np.mean(e**2, axis=0)
    return np.abs(scaled - scaled.round()) < 1e-9


ORACLES = {name: oracle(name) for name in ("ols", "ar1")}


def assert_maps(found, expected, left_out=None):
    keep = np.ones(VALUES.shape[1], bool) if left_out is None else ~left_out
    for name, maps in expected.items():
        for kind, other in maps.items():
            mine = np.atleast_2d(found[name][kind])[: len(other), keep]
            scale = np.abs(other).max() if kind != "p_value" else 1e-3
            np.testing.assert_allclose(mine, other[:, keep], rtol=1e-8, atol=1e-8 * scale, err_msg=f"{name} {kind}")


def chunked(samples, voxels):
    names = [f"volume-{k}" for k in range(N)]
    return daskglm.images_dataset(da.from_array(VALUES, (samples, voxels)), names, SPACE)


@pytest.mark.parametrize("voxels", [1, 100, 120])
@pytest.mark.parametrize("samples", [1, 7, N])
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_any_chunking_equals_nilearn(noise_model, samples, voxels):
    fit = daskglm.fit_glm(chunked(samples, voxels), DESIGN, noise_model=noise_model)
    maps = daskglm.compute_contrasts(fit, CONTRASTS, {name: name[0] for name in CONTRASTS})
    maps = dask.compute(maps, scheduler="synchronous" if voxels == 1 else "threads")[0]
    found = {name: {k: maps[k].sel(contrast=name).values for k in OUTPUT_TYPES} for name in CONTRASTS}
    unsure = borderline() if noise_model == "ar1" else None
    assert unsure is None or unsure.sum() <= 2
    assert_maps(found, ORACLES[noise_model], unsure)


@pytest.mark.parametrize("voxels", [1, 100, 120])
@pytest.mark.parametrize("samples", [1, 7, N])
def test_ar2_in_clusters_equals_nilearn(samples, voxels):
    """The same clusters with the same seed, whatever the chunks: nilearn's voxels are in C order."""
    expected = oracle("ar2", 12, 3, SPACE.c_order)
    x = DESIGN.to_numpy()
    basis = orthonormal_basis(x)
    regressors = x @ basis.to_basis
    data = da.from_array(VALUES, (samples, voxels))
    moments = sum_blocks(data, regressors, 2)
    fits = solve_run(moments, regressors, NoiseModel(2, 12, 3), Scaling(), data.chunks[1], SPACE.c_order)
    fits = fits.compute(scheduler="synchronous")
    assert len(np.unique(np.concatenate([fit.coefficients for fit in fits]), axis=0)) <= 12
    found = {}
    for name, contrast in CONTRASTS.items():
        test = (lambda fit, c=contrast: t_contrast(fit, c @ basis.to_basis)) if name == "t" else (
            lambda fit, c=contrast: f_contrast(fit, c, basis)
        )  # fmt: skip
        maps = [test(fit) for fit in fits]
        found[name] = {k: np.concatenate([getattr(m, k) for m in maps], axis=-1) for k in OUTPUT_TYPES}
    assert_maps(found, expected)


@pytest.mark.parametrize(("samples", "voxels"), [(1, 120), (7, 100), (N, 1)])
def test_ar2_of_each_voxel_is_the_same_in_any_chunking(samples, voxels):
    one = daskglm.fit_glm(chunked(N, 120), DESIGN, noise_model="ar2").compute()
    other = daskglm.fit_glm(chunked(samples, voxels), DESIGN, noise_model="ar2").compute(scheduler="synchronous")
    np.testing.assert_allclose(other["beta"], one["beta"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(other["residual_variance"], one["residual_variance"], rtol=1e-9)
    # Against an explicit whitening of a few voxels.
    x = DESIGN.to_numpy()
    for voxel in (0, 99, 119):
        y = VALUES[:, voxel]
        e = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        r = [e[k:] @ e[: N - k] / (N - k) for k in range(3)]
        rho = np.linalg.solve([[r[0], r[1]], [r[1], r[0]]], r[1:])
        w = np.eye(N) - rho[0] * np.eye(N, k=-1) - rho[1] * np.eye(N, k=-2)
        np.testing.assert_allclose(one["beta"][:, voxel], np.linalg.lstsq(w @ x, w @ y, rcond=None)[0], rtol=1e-8)


@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2", "ar3"])
@pytest.mark.parametrize("bins", ["auto", None, 10])
def test_building_the_graph_computes_nothing(noise_model, bins):
    def untouchable(block):
        raise AssertionError("a block was read")

    images = chunked(7, 100)
    lazy = images.assign(data=(("sample", "voxel"), images["data"].data.map_blocks(untouchable, meta=np.empty((0, 0)))))
    with dask.config.set(scheduler=refuse):
        fit = daskglm.fit_glm(lazy, DESIGN, noise_model=noise_model, bins=bins)
        maps = daskglm.compute_contrasts(fit, CONTRASTS, {name: name[0] for name in CONTRASTS})
        assert maps["z_score"].shape == (3, 120)
        with pytest.raises(AssertionError, match="was computed"):
            maps.compute()
    with pytest.raises(AssertionError, match="was read"):
        maps.compute(scheduler="synchronous")


def test_sum_run_is_lazy(tmp_path):
    run = RunImages(str(tmp_path / "absent.nii.gz"), Preparation(SPACE), np.arange(N))
    with dask.config.set(scheduler=refuse):
        moments = sum_run(run, np.full((N, 1), N**-0.5), 1)
        fits = solve_run(moments, np.full((N, 1), N**-0.5), NoiseModel(1, 100), Scaling(), (100, 20))
    assert fits.shape == (2,)


def test_weights_and_unknown_noise_models_are_refused():
    with pytest.raises(ParameterError, match="weights with noise_model 'ols' only"):
        daskglm.fit_glm(chunked(7, 100), DESIGN, noise_model="ar1", weights=np.ones(N))
    for wrong in ("arma", "ar0", "ar", "AR-1", 1, None):
        with pytest.raises(ParameterError, match="'ols' or 'arN'"):
            daskglm.fit_glm(chunked(7, 100), DESIGN, noise_model=wrong)
    for wrong in (0, -3, 2.5, "many"):
        with pytest.raises(ParameterError, match="whole number of 1 or more"):
            daskglm.fit_glm(chunked(7, 100), DESIGN, noise_model="ar1", bins=wrong)


def long_run(n, dtype=np.float64, seed=5):
    rng = np.random.default_rng(seed)
    return (1000 + 30 * rng.standard_normal((*SHAPE, n))).astype(dtype)


def assert_same_moments(one, other, rtol=1e-12):
    for field in ("cross", "power", "reference", "head", "tail"):
        x, y = getattr(one, field), getattr(other, field)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max(initial=0), err_msg=field)
    assert (one.start, one.stop) == (other.start, other.stop)


@pytest.mark.parametrize("kept", ["all", "some"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_files_and_images_parts_and_threads_give_the_same_moments(tmp_path, dtype, kept):
    n = 260
    values = long_run(n, dtype)
    image = nib.Nifti1Image(values, AFFINE)
    plain, packed = str(tmp_path / "run.nii"), str(tmp_path / "run.nii.gz")
    image.to_filename(plain)
    image.to_filename(packed)
    mask = np.random.default_rng(1).random(SHAPE) < 0.6
    space = daskglm.VolumeSpace.from_image(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), mask)
    volumes = np.arange(n) if kept == "all" else np.setdiff1d(np.arange(n), [0, 1, 77, 129, 130, 131, 259])
    regressors = np.linalg.qr(np.random.default_rng(2).standard_normal((volumes.size, 3)))[0]
    flat = values.reshape(-1, n, order="F")[space.voxels][:, volumes].T.astype(np.float64)

    def moments(source, **how):
        run = RunImages(source, Preparation(space), volumes)
        stretches = sum_run(run, regressors, 2, **how).compute(scheduler="threads")
        return reduce(add, stretches.ravel())

    expected = moments(image)
    np.testing.assert_allclose(expected.reference, flat[0], rtol=1e-14)
    np.testing.assert_allclose(expected.power[0], np.sum((flat - flat[0]) ** 2, axis=0), rtol=1e-12)
    np.testing.assert_allclose(expected.cross[0][:3], regressors.T @ (flat - flat[0]), rtol=1e-10, atol=1e-9)
    # Lag 1 between neighbours in the run.
    near = np.diff(volumes) == 1
    d = flat - flat[0]
    np.testing.assert_allclose(expected.power[1], 2 * np.sum(d[1:][near] * d[:-1][near], axis=0), rtol=1e-11, atol=1e-6)
    for source in (plain, packed, image):
        for parts in (1, 2, 3, 4):
            for ahead in (False, True):
                assert_same_moments(moments(source, parts=parts, ahead=ahead), expected)
    run = RunImages(packed, Preparation(space), volumes)
    np.testing.assert_array_equal(read_run(run), flat)
    mean = mean_of_run(packed, Preparation(space)).compute()
    np.testing.assert_allclose(mean, values.reshape(-1, n, order="F")[space.voxels].mean(axis=1, dtype=float))


def test_an_uncompressed_run_is_read_in_parts_and_a_packed_one_in_one(tmp_path):
    values = np.ones((260, 1)) / 260**0.5

    def tasks(name, parts):
        run = RunImages(str(tmp_path / name), Preparation(SPACE), np.arange(260))
        keys = sum_run(run, values, 1, parts).__dask_graph__().keys()
        return sum(key_split(key) == "sum-run" for key in keys)

    assert [tasks("run.nii", parts) for parts in (1, 2, 4, 9)] == [1, 2, 4, 4]
    assert [tasks("run.nii.gz", parts) for parts in (1, 4)] == [1, 1]


@pytest.mark.parametrize("contiguous", [True, False])
def test_contiguous_bridges_left_out_volumes(tmp_path, contiguous):
    path = str(tmp_path / "run.nii")
    values = long_run(20)
    nib.Nifti1Image(values, AFFINE).to_filename(path)
    volumes = np.array([*range(8), *range(12, 20)])
    regressors = np.full((16, 1), 0.25)
    run = RunImages(path, Preparation(SPACE), volumes)
    moments = sum_run(run, regressors, 1, contiguous=contiguous).compute().item()
    d = values.reshape(-1, 20, order="F")[:, volumes].T
    d = d - d[0]
    products = d[1:] * d[:-1]
    if not contiguous:
        products[7] = 0
    np.testing.assert_allclose(moments.power[1], 2 * products.sum(axis=0), rtol=1e-10, atol=1e-8)


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "sub-01_bold.nii.gz"
    nib.Nifti1Image(long_run(80, np.int16), AFFINE).to_filename(path)
    return path


def moments_of(path, ahead):
    run = RunImages(str(path), Preparation(SPACE), np.arange(80))
    return sum_run(run, np.full((80, 1), 80**-0.5), 1, ahead=ahead).compute()


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_named(packed, fraction, ahead):
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(CorruptImageError, match=packed.name):
        moments_of(packed, ahead)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_noticed(packed, fraction, ahead):
    whole = bytearray(packed.read_bytes())
    whole[int(len(whole) * fraction)] ^= 0xFF
    packed.write_bytes(whole)
    with pytest.raises(CorruptImageError, match=packed.name):
        moments_of(packed, ahead)


@pytest.mark.parametrize("what", ["fewer volumes in a whole gzip file", "truncated plain file", "no gzip at all"])
def test_other_damage_is_named(packed, what):
    plain = gzip.decompress(packed.read_bytes())
    path = Path(packed)
    if what == "truncated plain file":
        path = packed.with_suffix("")
        path.write_bytes(plain[: len(plain) // 2])
    else:
        path.write_bytes(gzip.compress(plain[: len(plain) // 2]) if what[0] == "f" else b"nothing of the kind")
    with pytest.raises(CorruptImageError, match=path.name):
        moments_of(path, False)
