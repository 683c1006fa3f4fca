"""Starting a cluster, or reaching one, and waiting for its first worker."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import __main__
from daskglm.cluster.configuration import ClusterError, Configuration, read_configuration
from daskglm.cluster.jobs import where_to_look
from daskglm.cluster.known_options import QUEUES
from daskglm.cluster.starting import START
from daskglm.errors import DaskGLMError


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
        With the link to its dashboard and one worker at least; closed at the end, with the cluster if it was
        started here.

    Raises
    ------
    ClusterError
        Where the configuration is absent or wrong (unknown keys are named), the cluster cannot be started or
        reached, or no worker comes in time.
    MissingDependencyError
        Where the package for this kind of cluster is not installed.
    """
    configuration = read_configuration(cluster)
    with ExitStack() as stack:
        client = _start(cluster, configuration, stack)
        _wait(client, configuration)
        yield client


def _start(cluster: str, configuration: Configuration, stack: ExitStack) -> Any:
    """A client of the cluster, which the stack closes."""
    import dask

    scheduler = dask.config.get("scheduler", None)
    try:
        return START[configuration.kind](configuration, stack)
    except Exception as error:  # each of the packages behind has exceptions of its own
        # A client that reached nobody stays Dask's scheduler, and nothing could be computed here any more.
        dask.config.set(scheduler=scheduler)
        if isinstance(error, DaskGLMError):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if configuration.kind == "local" and hasattr(__main__, "__file__"):
            # Worker processes import the script that starts them, which must not start workers then.
            message += '; in a script, what starts a cluster has to stand under: if __name__ == "__main__":'
        raise ClusterError(f"cannot connect to the cluster {cluster!r}: {message}") from error


def _wait(client: Any, configuration: Configuration) -> None:
    """Wait for the first worker."""
    try:
        client.wait_for_workers(1, timeout=configuration.wait_for_workers)
    except TimeoutError as error:
        kind = configuration.kind
        advice = "start workers with: dask worker ADDRESS" if kind == "address" else "see the logs of the cluster"
        if kind in QUEUES:
            advice = where_to_look(configuration, client.scheduler.address)
        raise ClusterError(
            f"no worker of the {kind} cluster came within {configuration.wait_for_workers:g} s "
            f"(wait_for_workers); {advice}"
        ) from error
