"""A cluster to run on, by name, address or YAML file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from daskglm.errors import DaskGLMError, listing

_KEYS = {"kind", "workers", "threads_per_worker", "memory_limit", "dashboard_address", "address"}


class ClusterError(DaskGLMError, ValueError):
    """A cluster's configuration cannot be used."""


@contextmanager
def connect(cluster: str) -> Iterator[Any]:
    """Run what is inside the ``with`` block on a cluster.

    Parameters
    ----------
    cluster : str
        "local" (worker processes on this machine), the address of a running scheduler ("tcp://host:8786"), or
        a YAML file such as those in ``cluster_configs/``.

    Yields
    ------
    distributed.Client
        With the link to its dashboard; closed at the end, with the cluster if it was started here.

    Raises
    ------
    ClusterError
        Where the configuration is absent or has unknown keys.
    """
    from distributed import Client, LocalCluster

    configuration = _read(cluster)
    if configuration["kind"] == "address":
        with Client(configuration["address"]) as client:
            yield client
        return
    options = {
        "n_workers": configuration.get("workers"),
        "threads_per_worker": configuration.get("threads_per_worker", 1),
        "memory_limit": configuration.get("memory_limit", "auto"),
        "dashboard_address": configuration.get("dashboard_address", "127.0.0.1:0"),
        "host": "127.0.0.1",
    }
    with LocalCluster(**options) as local, Client(local) as client:
        yield client


def _read(cluster: str) -> dict[str, Any]:
    """The configuration that a name, address or file stands for."""
    if cluster == "local":
        return {"kind": "local"}
    if "://" in cluster:
        return {"kind": "address", "address": cluster}
    path = Path(cluster)
    if not path.is_file():
        raise ClusterError(f"a cluster is 'local', a scheduler's address or a YAML file, but there is no {cluster!r}")
    configuration = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(configuration, dict) or configuration.get("kind") not in ("local", "address"):
        raise ClusterError(f"{cluster} has a key kind, 'local' or 'address'; it holds {configuration!r}")
    unknown = sorted(set(configuration) - _KEYS)
    if unknown:
        raise ClusterError(
            f"{cluster} has unknown keys {listing(unknown)}; the known ones are {listing(sorted(_KEYS))}"
        )
    return configuration
