"""A cluster to run on, by name, address or YAML file."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
        Where the configuration is absent or has unknown keys, or the cluster cannot be reached.
    """
    configuration = _read(cluster)
    with ExitStack() as stack:
        try:
            client = _start(configuration, stack)
        except (OSError, TypeError, ValueError) as error:
            raise ClusterError(f"cannot connect to the cluster {cluster!r}: {' '.join(str(error).split())}") from error
        yield client


def _start(configuration: dict[str, Any], stack: ExitStack) -> Any:
    """A client of the cluster, which the stack closes."""
    from distributed import Client, LocalCluster

    if configuration["kind"] == "address":
        return stack.enter_context(Client(configuration["address"], timeout="10s"))
    options = {
        "n_workers": configuration.get("workers"),
        "threads_per_worker": configuration.get("threads_per_worker", 1),
        "memory_limit": configuration.get("memory_limit", "auto"),
        "dashboard_address": configuration.get("dashboard_address", "127.0.0.1:0"),
        "host": "127.0.0.1",
    }
    return stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))


def _read(cluster: str) -> dict[str, Any]:
    """The configuration that a name, address or file stands for."""
    if cluster == "local":
        return {"kind": "local"}
    if "://" in cluster:
        return {"kind": "address", "address": cluster}
    path = Path(cluster)
    if not path.is_file():
        raise ClusterError(f"a cluster is 'local', a scheduler's address or a YAML file, but there is no {cluster!r}")
    try:
        configuration = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError) as error:
        raise ClusterError(f"cannot read {cluster}: {' '.join(str(error).split())}") from error
    if not isinstance(configuration, dict) or configuration.get("kind") not in ("local", "address"):
        raise ClusterError(f"{cluster} has a key kind, 'local' or 'address'; it holds {configuration!r}")
    unknown = sorted(set(configuration) - _KEYS)
    if unknown:
        raise ClusterError(
            f"{cluster} has unknown keys {listing(unknown)}; the known ones are {listing(sorted(_KEYS))}"
        )
    return configuration
