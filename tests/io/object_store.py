"""An S3 server on the loopback, for the tests of object storage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from s3_faults import Faults, Proxy

KEY_ID, SECRET = "AKIDNOBODY", "TheSecretOfNobody"
_NUMBERS = count(1)


@dataclass
class Bucket:
    """An empty bucket behind a proxy.

    Attributes
    ----------
    url : str
        Of the bucket, s3://...
    endpoint : str
        Of the proxy.
    faults : Faults
        What the proxy does.
    client : boto3 client
        Straight to the server.
    """

    url: str
    endpoint: str
    faults: Faults
    client: Any

    def upload(self, path: str | Path, key: str) -> str:
        """Put a file into the bucket; return its URL."""
        self.client.upload_file(str(path), self.url.removeprefix("s3://"), key)
        return f"{self.url}/{key}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of moto's server."""
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def bucket(s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """An empty bucket, and the environment that finds it, without a home that has profiles."""
    boto3 = pytest.importorskip("boto3")
    host, port = s3_server
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )  # fmt: skip
    name = f"cohorts-{next(_NUMBERS)}"
    client.create_bucket(Bucket=name)
    with Proxy(host, port) as proxy:
        for variable in ("AWS_PROFILE", "AWS_SKIP_SIGNATURE", "AWS_SESSION_TOKEN", "AWS_REGION"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(variable, str(tmp_path / "no-profiles"))
        yield Bucket(f"s3://{name}", proxy.url, proxy.faults, client)
        client.close()
