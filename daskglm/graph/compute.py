"""Running a graph: on the active cluster, or on threads in this process."""

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dask
import dask.local
import dask.threaded
import joblib
import psutil
from dask.tokenize import tokenize
from threadpoolctl import threadpool_limits

from daskglm.errors import ParameterError
from daskglm.graph.failures import explained
from daskglm.graph.progress import Work, follow_cluster, threads_followed


def task(name: str, function: Callable[..., Any], *arguments: Any, n_out: int | None = None) -> Any:
    """A call of a function, delayed, under a name that a person understands on the dashboard.

    Parameters
    ----------
    name : str
        What it does, as in "write-chunk": words and hyphens. Dask takes a last word of eight letters that begins
        with one of a to f for a hash, and drops it.
    function : callable
        Function.
    *arguments : object
        Its arguments, lazy or not.
    n_out : int, optional
        Number of results that can be taken apart.

    Returns
    -------
    dask.delayed.Delayed
        A task of its own, even where the same is asked for twice.
    """
    return dask.delayed(function, pure=False, nout=n_out)(*arguments, dask_key_name=f"{name}-{uuid4().hex}")


def shared(name: str, value: Any) -> Any:
    """A value that many tasks need, which travels once.

    Parameters
    ----------
    name : str
        What it is: words and hyphens.
    value : object
        Not lazy; a delayed one is returned as it is.

    Returns
    -------
    dask.delayed.Delayed
        Under a key that depends on the contents.
    """
    return dask.delayed(value, name=f"{name}-{tokenize(value)}", traverse=False)


def compute(
    *lazy: Any, n_jobs: int | None = None, progress: str | Work | None = None, here: bool = False
) -> tuple[Any, ...]:
    """Compute lazy objects together.

    Parameters
    ----------
    *lazy : dask collections
        What to compute.
    n_jobs : int or None
        Threads in this process when no ``distributed.Client`` is active and no scheduler is configured;
        None or -1: all cores, -2: all but one. BLAS runs on one thread meanwhile: threads times BLAS threads
        is at most the number of cores.
    progress : str, Work or None
        Show progress under this name; of tasks, or of the units that the work consists of.
    here : bool
        In this process, though a cluster is active: what is computed from is in its memory.

    Returns
    -------
    tuple
        The computed objects.

    Raises
    ------
    StoreError, MemoryLimitError, LostWorkerError, ClusterError
        Where a chunk of a store fails its checksum, a task has no memory or ends its workers, or the scheduler is lost.

    Notes
    -----
    An interruption (Ctrl-C) ends the tasks of this process where they are, and drops those of a cluster.
    """
    client = _active_client()
    if here and client is not None:
        return _on_threads(lazy, _n_threads(n_jobs))
    with explained(lazy, client):
        if client is not None and progress is not None:
            return _on_cluster(lazy, progress)
        # dask.base.get_scheduler says the same, but imports distributed to say it.
        configured = dask.config.get("scheduler", None) is not None or client is not None
        with threads_followed(progress) if progress is not None else nullcontext():
            return dask.compute(*lazy) if configured else _on_threads(lazy, _n_threads(n_jobs))


def kept_in_memory(*lazy: Any, n_jobs: int | None = None) -> tuple[Any, ...]:
    """Compute lazy objects and keep them where they are: on the workers of the active cluster, or here.

    Parameters
    ----------
    *lazy : dask collections
        What to compute.
    n_jobs : int or None
        Threads in this process, as for :func:`compute`.

    Returns
    -------
    tuple
        The computed objects, or collections whose parts the workers hold: both can be used in further graphs.
    """
    return compute(*lazy, n_jobs=n_jobs) if _active_client() is None else dask.persist(*lazy)


def memory_limit() -> int:
    """Memory that tasks have together: that of the active cluster, or what is free on this machine.

    Returns
    -------
    int
        Bytes.
    """
    planned = PLANNED.get()
    if planned is not None:
        return planned.number * planned.memory
    client = _active_client()
    if client is None:
        return int(psutil.virtual_memory().available)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(int(worker["memory_limit"]) for worker in workers)


def compute_here(*lazy: Any) -> tuple[Any, ...]:
    """Compute lazy objects on this thread: for use within a task, whatever runs it.

    Parameters
    ----------
    *lazy : dask collections
        What to compute.

    Returns
    -------
    tuple
        The computed objects.
    """
    return dask.compute(*lazy, scheduler=dask.local.get_sync)


@dataclass(frozen=True)
class Workers:
    """Workers that a plan is for and that nobody has started.

    Attributes
    ----------
    number, threads : int
        Processes, and tasks that each runs at a time.
    memory : int
        Bytes of each.
    """

    number: int
    threads: int
    memory: int


# What is planned for, in place of what is there.
PLANNED: ContextVar[Workers | None] = ContextVar("PLANNED", default=None)


def n_workers(n_jobs: int | None = None) -> int:
    """Number of tasks that run at the same time: threads of the active cluster, or of this process.

    Parameters
    ----------
    n_jobs : int or None
        Threads in this process, as for :func:`compute`.

    Returns
    -------
    int
    """
    planned = PLANNED.get()
    if planned is not None:
        return planned.number * planned.threads
    client = _active_client()
    return _n_threads(n_jobs) if client is None else max(1, sum(client.nthreads().values()))


def cluster_description(n_jobs: int | None = None) -> dict[str, Any]:
    """What computations run on, for the record of a result.

    Parameters
    ----------
    n_jobs : int or None
        Threads in this process, as for :func:`compute`.

    Returns
    -------
    dict
        ``kind`` ("threads", the class of the cluster, or "scheduler" for one that was running), ``workers``,
        ``threads`` in all, ``memory`` in bytes in all. No addresses.
    """
    client = _active_client()
    kind, workers = "threads", 1
    if client is not None:
        kind = type(client.cluster).__name__ if client.cluster is not None else "scheduler"
        workers = len(client.nthreads())
    return {"kind": kind, "workers": workers, "threads": n_workers(n_jobs), "memory": memory_limit()}


def dashboard_link() -> str | None:
    """Address of the dashboard of the active cluster.

    Returns
    -------
    str or None
        None where no cluster is active, or it has no dashboard.
    """
    client = _active_client()
    try:
        return None if client is None else client.dashboard_link or None
    except (KeyError, OSError):  # a scheduler without a dashboard, or one that is gone
        return None


def _n_threads(n_jobs: int | None) -> int:
    """Number of threads, by joblib's rule."""
    try:
        return int(joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"n_jobs is a number of threads, -1 for all cores, but it is {n_jobs!r}") from error


def _active_client() -> Any:
    """The distributed client in use, without importing distributed where nobody else did."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _on_cluster(lazy: tuple[Any, ...], progress: str | Work) -> tuple[Any, ...]:
    """Compute on the active cluster, following its tasks from the scheduler."""
    client = _active_client()
    futures = client.compute(list(lazy))
    try:
        with explained(lazy, client):  # while the scheduler still knows the tasks
            follow_cluster(client, futures, progress)
            return tuple(client.gather(futures))
    finally:
        # After an error or an interruption nobody waits for the rest: the scheduler forgets it.
        for future in futures:
            if hasattr(future, "release"):
                future.release()


def _on_threads(lazy: tuple[Any, ...], n_threads: int) -> tuple[Any, ...]:
    """Compute on threads of this process, BLAS on one thread meanwhile."""
    # Leaving the pool waits for its tasks: after an error or an interruption none goes on in the dark.
    with threadpool_limits(limits=1), _Threads(n_threads) as pool:
        try:
            # The function, not its name: for a name dask imports distributed, which takes longer than a small fit.
            return dask.compute(*lazy, scheduler=dask.threaded.get, pool=pool)
        except Exception:
            raise
        except BaseException:
            pool.interrupt()
            raise


class _Threads(ThreadPoolExecutor):
    """Threads whose tasks can be ended where they are."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        self._at_work: set[int] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run a function on a thread that is known while it runs."""
        return super().submit(self._call, fn, *args, **kwargs)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the functions that run: their own cleaning up is done."""
        for thread in list(self._at_work):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))

    def _call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, noting its thread."""
        self._at_work.add(threading.get_ident())
        try:
            return fn(*args, **kwargs)
        finally:
            self._at_work.discard(threading.get_ident())
