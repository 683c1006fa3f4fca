"""What goes wrong while a graph runs, told as a person needs it: which task, how often it was tried, what to do."""

import logging
import sys
import time
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import numpy as np
from dask.base import collections_to_expr
from dask.utils import format_bytes, key_split

from daskglm.errors import DaskGLMError, LostWorkerError, MemoryLimitError, StoreError, listing

_AGAIN = "what is finished is kept: give the same command again"
# Places within a task that are looked at for the names of its files.
_MOST_PLACES = 10_000
_MOST_SUSPECTS = 4


@contextmanager
def explained(lazy: Sequence[Any], client: Any = None) -> Iterator[None]:
    """Tell errors of a computation within the block by the task, and by what to do.

    Parameters
    ----------
    lazy : sequence of dask collections
        What is computed.
    client : distributed.Client, optional
        Of the cluster that computes it.

    Yields
    ------
    None

    Raises
    ------
    StoreError
        Where a chunk of a store fails its checksum.
    MemoryLimitError
        Where there was no memory for a task.
    LostWorkerError
        Where a task ended each worker that it was given to.
    ClusterError
        Where the scheduler is lost.
    """
    started = time.time()
    try:
        yield
    except BaseException as error:
        told = None if isinstance(error, DaskGLMError) else _told(error, lazy, client, started)
        if told is None:
            raise
        raise told from error


def _told(error: BaseException, lazy: Sequence[Any], client: Any, started: float) -> DaskGLMError | None:
    """The error for a person; None where it is one of another kind."""
    if isinstance(error, ValueError) and "checksum" in str(error):  # zarr says no more than that
        return StoreError(f"a chunk of the store is damaged: {error}; restore the store, or convert its images again")
    if isinstance(error, MemoryError):
        why = " ".join(str(error).split()) or "out of memory"
        return MemoryLimitError(
            f"there is too little memory for a task ({why}); give each worker more (memory_limit), or run fewer tasks "
            f"at a time (threads_per_worker of a cluster, --n-jobs or n_jobs); {_AGAIN}"
        )
    if "distributed" not in sys.modules:
        return None
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError
    from distributed.comm import CommClosedError

    if isinstance(error, KilledWorker):
        return _lost_worker(error, lazy, client, started)
    lost = isinstance(error, FutureCancelledError | FuturesCancelledError) and "connection-lost" in _reasons(error)
    if lost or isinstance(error, CommClosedError):
        from daskglm.cluster import ClusterError

        # It goes on trying to connect until the client is closed, and then prints how that ends.
        logging.getLogger("distributed.client").addFilter(_not_of_reconnecting)
        return ClusterError(
            "the connection to the scheduler of the cluster was lost: it ended, or the network failed; start it again; "
            f"{_AGAIN}"
        )
    return None


def _reasons(error: Any) -> str:
    """Why futures were cancelled."""
    groups = getattr(error, "error_groups", [error])
    return " ".join(str(group.reason) for group in groups)


def _not_of_reconnecting(record: logging.LogRecord) -> bool:
    """Whether a message is news: not that connecting again was ended."""
    return record.exc_info is None or not isinstance(record.exc_info[1], CancelledError)


def _lost_worker(error: Any, lazy: Sequence[Any], client: Any, started: float) -> DaskGLMError:
    """A task ended its worker once too often: for memory, which the nannies note, or otherwise."""
    tries = error.allowed_failures + 1
    what = " or ".join(described(key, lazy) for key in _suspects(error, client))
    try:
        events = client.get_events("worker-restart-memory")
    except Exception:  # the scheduler may be gone, too
        events = ()
    if any(stamp >= started - 1 for stamp, _ in events):
        limit = format_bytes(error.last_worker.memory_limit)
        return MemoryLimitError(
            f"{what} needs more memory than a worker has: {tries} workers with {limit} each were ended at their limit "
            f"while they had it; give each worker more memory (memory_limit) or fewer threads; {_AGAIN}"
        )
    return LostWorkerError(
        f"{what} was given to {tries} workers, and each ended while it had it: for lack of memory (memory_limit), or "
        f"because something in its files breaks the process; see the workers' logs; {_AGAIN}"
    )


def _suspects(error: Any, client: Any) -> list[Any]:
    """The task that ends its workers, and others that waited behind it each time: nobody knows which it is."""
    try:
        found = client.run_on_scheduler(_suspicious, error.allowed_failures)
    except Exception:  # gone, or without this package
        found = []
    return [error.task, *(key for key in found if key != error.task)][:_MOST_SUSPECTS]


def _suspicious(limit: int, dask_scheduler: Any) -> list[Any]:
    """Tasks that were lost with more workers than are allowed."""
    return [key for key, state in dask_scheduler.tasks.items() if state.suspicious > limit]


def described(key: Any, lazy: Sequence[Any]) -> str:
    """A task in words: its name, its block, and the files that it reads or writes.

    Parameters
    ----------
    key : str or tuple
        Of the task.
    lazy : sequence of dask collections
        Graphs in one of which it is.

    Returns
    -------
    str
    """
    block = f", block {listing(key[1:])}" if isinstance(key, tuple) else ""
    try:
        paths = _paths(key, dict(collections_to_expr(lazy).optimize().__dask_graph__()))
    except Exception:  # a graph that cannot be made twice: the name has to do
        paths = []
    files = f" ({listing(paths)})" if paths else ""
    return f"the task {key_split(key)}{block}{files}"


def _paths(key: Any, graph: Mapping[Any, Any]) -> list[str]:
    """Paths within a task, and within the data that it is given."""
    found: dict[str, None] = {}
    left: list[Any] = [graph.get(key)]
    seen = 0
    while left and seen < _MOST_PLACES:
        item, seen = left.pop(), seen + 1
        if isinstance(item, str):
            if "/" in item or "\\" in item:
                found[item] = None
        elif isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, list | tuple | set) or (isinstance(item, np.ndarray) and item.dtype == object):
            left += list(item)[::-1]
        elif hasattr(item, "dependencies"):  # a node of the graph
            left += [graph[name] for name in item.dependencies if name in graph]
            left += [getattr(item, name, None) for name in ("value", "kwargs", "args")]
        elif is_dataclass(item):
            left.append(vars(item))
    return list(found)
