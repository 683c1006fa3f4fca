"""An object store that throttles, drops connections or does not answer: the same result, or a clear error in time."""

import os
import time

import nibabel as nib
import numpy as np
import pytest

import daskglm
from daskglm.errors import MissingDependencyError, OutputError, StorageError
from daskglm.io import files, objects
from daskglm.io.nifti import read_values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
SECRET = "TheSecretOfNobody"  # noqa: S105


@pytest.fixture
def remote(cohort, bucket):
    """URLs of the cohort's images in the bucket."""
    return [bucket.upload(path, f"maps/{os.path.basename(path)}") for path in cohort.paths]


def _images(paths, store, cohort):
    daskglm.convert(paths, store, mask=cohort.mask_img, participants=cohort.table)
    fit = daskglm.SecondLevelModel().fit(store, formula="~ age")
    return daskglm.open_images(store)["data"].values.tobytes(), fit.compute_contrast("age").get_fdata().tobytes()


@pytest.mark.parametrize(
    ("throttled", "dropped"), [(0.25, 0.0), (0.2, 0.15)], ids=["a quarter 503", "503 and connections lost"]
)
def test_results_are_those_of_a_calm_store(cohort, remote, bucket, tmp_path, throttled, dropped):
    calm = _images(cohort.paths, str(tmp_path / "local.zarr"), cohort)
    bucket.faults.reset(throttled, dropped)
    disturbed = _images(f"{bucket.url}/maps/*.nii.gz", f"{bucket.url}/cohort.zarr", cohort)
    assert bucket.faults.n_faults > 0.1 * sum(bucket.faults.requests.values())
    assert disturbed == calm


def test_large_images_survive_connections_lost_in_the_middle(bucket, tmp_path):
    data = np.random.default_rng(0).standard_normal((128, 128, 100), np.float32)
    path = tmp_path / "sub-1.nii"
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    url = bucket.upload(path, "sub-1.nii")
    bucket.faults.reset(dropped=0.5)
    _, values = read_values(url)
    assert bucket.faults.n_faults > 0
    assert values.tobytes() == data.ravel(order="F").tobytes()


def test_a_store_that_answers_nothing_is_named_in_time(cohort, remote, bucket):
    bucket.faults.reset(throttled=1.0)
    calls = {
        "read": lambda: read_values(remote[0]),
        "convert": lambda: daskglm.convert(remote, f"{bucket.url}/cohort.zarr", on_error="quarantine"),
    }
    for call in calls.values():
        start = time.monotonic()
        said = r"s3://cohorts.*after \d+ tries in \d+ s: 503 Service Unavailable.*run the same command"
        with pytest.raises((StorageError, OutputError), match=said) as caught:
            call()
        assert time.monotonic() - start < 30
        assert SECRET not in str(caught.value)
        assert SECRET not in str(caught.value.__cause__)


def test_an_outage_quarantines_nothing_and_the_next_run_continues(cohort, remote, bucket, tmp_path, monkeypatch):
    store = f"{bucket.url}/cohort.zarr"
    monkeypatch.setattr(objects, "_RETRIES", {**objects._RETRIES, "max_retries": 2})
    reads = []

    def outage(path, how):
        reads.append(path)
        if len(reads) == 7:
            bucket.faults.reset(throttled=1.0)
        return read(path, how)

    from daskglm.graph import convert as graph

    read = graph.read_with_checksum
    with monkeypatch.context() as patched:
        patched.setattr(graph, "read_with_checksum", outage)
        with pytest.raises(StorageError, match="503"):
            daskglm.convert(remote, store, mask=cohort.mask_img, on_error="quarantine")
    bucket.faults.reset()
    result = daskglm.convert(remote, store, mask=cohort.mask_img, on_error="quarantine")
    assert result.quarantined == {}
    local = str(tmp_path / "local.zarr")
    daskglm.convert(cohort.paths, local, mask=cohort.mask_img)
    stored, truth = daskglm.open_images(store), daskglm.open_images(local)
    assert stored["data"].values.tobytes() == truth["data"].values.tobytes()


def test_an_object_replaced_while_it_is_read_is_noticed(bucket):
    url = f"{bucket.url}/x"
    files.write_bytes(url, os.urandom(100_000))
    with files.open_binary(url) as file:
        first = file.read(100)
        files.write_bytes(url, os.urandom(100_000))
        with pytest.raises(StorageError, match=r"s3://cohorts.*changed while it was read"):
            file.read()
    assert len(first) == 100


def test_creation_is_retried_and_still_happens_once(bucket):
    # The answer to a write that happened may be lost: the retry finds the object, and it is ours.
    bucket.faults.reset(throttled=0.2, dropped=0.2)
    for k in range(12):
        url = f"{bucket.url}/locks/{k}"
        assert files.create_bytes(url, b"mine %d" % k)
        assert not files.create_bytes(url, b"theirs")
        assert files.read_bytes(url) == b"mine %d" % k
    assert bucket.faults.n_faults > 5


def test_missing_packages_are_named(monkeypatch):
    import sys
    from importlib import import_module

    for name in ("obstore", "obstore.store", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    for protocol in ("s3", "s3a"):  # fsspec remembers what was imported before
        monkeypatch.delitem(import_module("fsspec.registry")._registry, protocol, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for url in ("s3://bucket/x", "https://127.0.0.1/x"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'daskglm\[cloud\]'"):
            files.read_bytes(url)
