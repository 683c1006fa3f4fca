"""A store behind a URL, on an S3 server on the loopback."""

import numpy as np
import pytest

import daskglm
from daskglm.errors import StoreError


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket, and the environment that finds it."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("cohorts")
    yield "s3://cohorts"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_convert_append_and_fit_by_url(cohort, bucket):
    url = f"{bucket}/cohort.zarr"
    with pytest.raises(StoreError, match="no Zarr store at s3://"):
        daskglm.open_images(url)
    for stop in (5, 12):
        daskglm.convert(cohort.paths[:stop], url, mask=cohort.mask_img, participants=cohort.table.iloc[:stop])
    assert len(daskglm.convert(cohort.paths, url, participants=cohort.table, overwrite=True).written) == 12
    model = daskglm.SecondLevelModel().fit(url, formula="~ age + sex")
    truth = daskglm.SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)
    z, expected = (np.asarray(item.compute_contrast("age").dataobj) for item in (model, truth))
    assert np.allclose(z, expected, atol=1e-5)
