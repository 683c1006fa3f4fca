"""What a graph would take: its tasks, counted and not run, and the workers that there are for them."""

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
from dask._task_spec import DataNode

from daskglm.graph.compute import PLANNED, _active_client, n_workers

# Bytes that this process may have, where its user allows fewer than there are.
ALLOWED_MEMORY: ContextVar[int | None] = ContextVar("ALLOWED_MEMORY", default=None)


@dataclass(frozen=True)
class Machine:
    """Where tasks run.

    Attributes
    ----------
    workers : int
        Processes.
    threads : int
        Tasks that one of them runs at a time; the most, where they differ.
    memory : int
        Bytes that one of them may have; the least, where they differ.
    cluster : bool
        Whether they are workers of a cluster, not this process.
    memory_here : int
        Bytes that this process may have.
    """

    workers: int
    threads: int
    memory: int
    cluster: bool
    memory_here: int


class _Counted(Exception):  # noqa: N818 (no error: it ends a run before it begins)
    """How many tasks a graph has."""


def machine(n_jobs: int | None = None) -> Machine:
    """The workers of the active cluster or of the one that is planned for, or threads of this process.

    Parameters
    ----------
    n_jobs : int or None
        Threads, where no cluster is active.

    Returns
    -------
    Machine
    """
    here = min(psutil.Process().memory_info().rss + _free_memory(), ALLOWED_MEMORY.get() or sys.maxsize)
    planned = PLANNED.get()
    if planned is not None:
        return Machine(planned.number, planned.threads, planned.memory, True, here)
    client = _active_client()
    if client is None:
        return Machine(1, n_workers(n_jobs), here, False, here)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    # A worker without a limit may have what its machine has; that of this process stands for it.
    limits = [int(worker["memory_limit"] or here) for worker in workers]
    threads = [int(worker["nthreads"]) for worker in workers]
    return Machine(max(1, len(threads)), max(threads, default=1), min(limits, default=here), True, here)


def count_tasks(*lazy: Any) -> int:
    """Count the tasks of a graph as it would run, without running any.

    Parameters
    ----------
    *lazy : dask collections
        What would be computed together.

    Returns
    -------
    int
    """
    try:
        dask.compute(*lazy, scheduler=_count)
    except _Counted as counted:
        return int(counted.args[0])
    return 0


def _count(graph: Any, keys: Any, **_: Any) -> Any:
    """Take the place of a scheduler, and say by an exception how many tasks it was given."""
    tasks: Mapping[Any, Any] = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
    raise _Counted(sum(not isinstance(task, DataNode) for task in dict(tasks).values()))


def _free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the control group it runs in."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
    except OSError:
        return free
    return free if limit.strip() == "max" else min(free, max(0, int(limit) - int(used)))
