"""What workers a cluster's file asks for, without starting any."""

from typing import Any

from daskglm.cluster.configuration import ClusterError, Configuration
from daskglm.cluster.known_options import QUEUES

# Whose workers would be started elsewhere, by a queue, another host or a service.
ELSEWHERE = (*QUEUES, "ssh", "kubernetes", "gateway")


def asked_for(configuration: Configuration) -> tuple[int, int, int | None]:
    """Workers, threads of each, and the memory of each.

    Parameters
    ----------
    configuration : Configuration
        Of a kind of ``ELSEWHERE``; of an adaptive scale the most counts.

    Returns
    -------
    workers, threads : int
    memory : int or None
        Bytes; None where the file does not say.

    Raises
    ------
    ClusterError
        Where a number or an amount of memory cannot be read.
    """
    kind, options, scale = configuration.kind, configuration.options, configuration.scale
    most = scale[1] if isinstance(scale, tuple) else scale or 1
    try:
        if kind in QUEUES:
            import dask

            defaults = dask.config.get(f"jobqueue.{kind}")
            cores, processes, memory = (
                options.get(name, defaults.get(name)) for name in ("cores", "processes", "memory")
            )
            count = int(processes or 1)
            total = _bytes(memory)
            return most * count, max(1, int(cores or 1) // count), None if total is None else total // count
        if kind == "ssh":
            workers = options.get("worker_options") or {}
            hosts = max(1, len(options["hosts"]) - 1)
            return hosts * int(workers.get("n_workers", 1)), int(workers.get("nthreads", 1)), _bytes(
                workers.get("memory_limit")
            )  # fmt: skip
        if kind == "kubernetes":
            return most, 1, _bytes(((options.get("resources") or {}).get("limits") or {}).get("memory"))
        chosen = options.get("cluster_options") or {}
        return most, max(1, int(chosen.get("worker_cores", 1))), _gigabytes(chosen.get("worker_memory"))
    except (TypeError, ValueError, AttributeError) as error:
        raise ClusterError(
            f"a plan takes workers, cores and memory from the cluster's file, which cannot be used: {error}"
        ) from error


def _bytes(text: Any) -> int | None:
    """Bytes of 16GB, 4Gi or a number."""
    from dask.utils import parse_bytes

    return None if text in (None, "auto", 0) else int(parse_bytes(text))


def _gigabytes(value: Any) -> int | None:
    """Bytes of a number of GB, which is what servers of Dask Gateway ask for."""
    return None if value is None else int(float(value) * 10**9)
