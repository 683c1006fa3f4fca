"""Graphs: lazy until the end, equal whatever runs them, one task a block."""

import dask
import numpy as np
import pytest
import xarray as xr
from cohorts import Cohort
from hypothesis import given
from hypothesis import strategies as st

import daskglm
from daskglm.graph import images as graph_images
from daskglm.graph.compute import compute
from daskglm.graph.glm import sum_moments
from daskglm.kernels.basis import orthonormal_basis
from daskglm.models.inputs import load_images
from daskglm.models.options import Options


def refuse(*_, **__):
    raise AssertionError("something was computed")


def test_nothing_is_computed_before_it_is_asked_for(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, store, mask=cohort.mask_img)
    with dask.config.set(scheduler=refuse):
        images = [daskglm.open_images(store), load_images(cohort.paths, Options(mask_img=cohort.mask_img)).images]
        for item in images:
            fit = daskglm.fit_glm(item, cohort.design)
            maps = daskglm.compute_contrasts(fit, {"age": "age", "both": "age, male"})
            assert maps["z_score"].shape == (2, 90)
            assert maps["effect_size"].sizes["component"] == 2
        with pytest.raises(AssertionError, match="was computed"):
            maps.compute()


def test_labels_and_values(cohort):
    images = load_images(cohort.paths, Options(mask_img=cohort.mask_img)).images
    fit = daskglm.fit_glm(images, cohort.design).compute()
    assert list(fit["regressor"].values) == ["age", "male", "intercept"]
    beta = np.linalg.lstsq(cohort.design.to_numpy(), cohort.vectors, rcond=None)[0]
    assert np.allclose(fit["beta"], beta, atol=1e-9)
    assert (fit["degrees_of_freedom"] == 9).all()
    lazy = daskglm.compute_contrasts(daskglm.fit_glm(images, cohort.design), {"age": "age"}).compute()
    computed = daskglm.compute_contrasts(fit, {"age": "age"}).compute()
    xr.testing.assert_equal(lazy, computed)
    assert np.allclose(computed["effect_size"].sel(contrast="age", component=0), beta[0], atol=1e-9)


@given(samples=st.integers(1, 12), voxels=st.integers(1, 90), kind=st.sampled_from(["sample", "voxel", "dask"]))
def test_weights_over_chunkings(tmp_path_factory, samples, voxels, kind):
    """Weights 0 and 2 against the design and data written out twice, by NumPy."""
    cohort = Cohort(tmp_path_factory.mktemp("weights"), 12)
    space = daskglm.VolumeSpace.from_image(cohort.mask_img, cohort.mask)
    images = daskglm.images_dataset(cohort.vectors, cohort.names, space).chunk(sample=samples, voxel=voxels)
    weights = np.array([0.0, 2, *[1.0] * 10])
    given_weights = weights if kind == "sample" else np.repeat(weights[:, None], 90, axis=1)
    if kind == "dask":
        given_weights = dask.array.from_array(given_weights, chunks=(5, 31))
    fit = daskglm.fit_glm(images, cohort.design, weights=given_weights).compute()
    rows = [1, 1, *range(2, 12)]
    beta = np.linalg.lstsq(cohort.design.to_numpy()[rows], cohort.vectors[rows], rcond=None)[0]
    assert np.allclose(fit["beta"], beta, atol=1e-9)
    assert (fit["n"] == 11).all()


def test_bad_weights(cohort):
    images = load_images(cohort.paths, Options(mask_img=cohort.mask_img)).images
    for wrong in (np.ones(11), -np.ones(12), np.full(12, np.nan), np.ones((12, 3))):
        with pytest.raises(ValueError, match="weights"):
            daskglm.fit_glm(images, cohort.design, weights=wrong)


def test_reading_and_summing_is_one_task(cohort, monkeypatch):
    monkeypatch.setattr(graph_images, "_BLOCK_SAMPLES", (2, 2))
    images = load_images(cohort.paths, Options(mask_img=cohort.mask_img)).images
    assert images["data"].data.numblocks == (6, 1)
    design = cohort.design.to_numpy()
    moments = sum_moments(images["data"].data, orthonormal_basis(design), design)
    (optimized,) = dask.optimize(moments)
    names = [key[0] if isinstance(key, tuple) else key for key in dict(optimized.__dask_graph__())]
    first = {name for name in names if name.startswith("sum-moments-") and names.count(name) == 6}
    assert len(first) == 1
    assert not any(name.startswith("block-moments-") for name in names)
    assert not any(name.startswith("read-images-") for name in names)  # no block travels between tasks


def test_threads_processes_and_one_core_agree_bit_for_bit(gappy):
    images = load_images(gappy.paths, Options(mask_img=gappy.mask_img)).images.chunk(sample=2, voxel=11)
    lazy = daskglm.compute_contrasts(daskglm.fit_glm(images, gappy.design), {"age": "age", "both": "age, male"})
    results = [compute(lazy, n_jobs=n)[0] for n in (1, 2, 4)]
    with dask.config.set(scheduler="synchronous"):
        results.append(lazy.compute())
    for other in results[1:]:
        assert results[0].identical(other)


def test_on_a_cluster(gappy, tmp_path):
    """The whole path on worker processes: conversion, fit, contrasts; equal to threads."""
    store = str(tmp_path / "cohort.zarr")
    threads = daskglm.SecondLevelModel(mask_img=gappy.mask_img).fit(gappy.paths, design_matrix=gappy.design)
    expected = np.asarray(threads.compute_contrast("age").dataobj)
    with daskglm.connect("local") as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) >= 1
        daskglm.convert(gappy.paths, store, mask=gappy.mask_img)
        z = {}
        for source, name in ((gappy.paths, "files"), (store, "store")):
            model = daskglm.SecondLevelModel(mask_img=gappy.mask_img).fit(source, design_matrix=gappy.design)
            z[name] = np.asarray(model.compute_contrast("age").dataobj)
    assert np.array_equal(z["files"], expected, equal_nan=True)
    assert np.allclose(z["store"], expected, rtol=1e-10, atol=1e-12, equal_nan=True)
