"""Running a graph: on the active cluster, or on threads in this process."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import dask.local
import dask.threaded
import joblib
import psutil
from dask.callbacks import Callback as DaskCallback
from threadpoolctl import threadpool_limits

from daskglm.errors import DaskGLMError, ParameterError, StoreError


def compute(*lazy: Any, n_jobs: int | None = None, progress: str | None = None) -> tuple[Any, ...]:
    """Compute lazy objects together.

    Parameters
    ----------
    *lazy : dask collections
        What to compute.
    n_jobs : int or None
        Threads in this process when no ``distributed.Client`` is active and no scheduler is configured;
        None or -1: all cores, -2: all but one. BLAS runs on one thread meanwhile: threads times BLAS threads
        is at most the number of cores.
    progress : str or None
        Show a progress bar under this name.

    Returns
    -------
    tuple
        The computed objects.

    Raises
    ------
    StoreError
        Where a chunk of a store fails its checksum.
    """
    # dask.base.get_scheduler says the same, but imports distributed to say it.
    configured = dask.config.get("scheduler", None) is not None or _active_client() is not None
    with ExitStack() as stack:
        options: dict[str, Any] = {}
        if not configured:
            # Leaving the pool waits for its tasks: after an error or an interruption none goes on in the dark.
            pool = stack.enter_context(ThreadPoolExecutor(_n_threads(n_jobs)))
            # The function, not its name: for a name dask imports distributed, which takes longer than a small fit.
            options = {"scheduler": dask.threaded.get, "pool": pool}
            stack.enter_context(threadpool_limits(limits=1))
        if progress is not None:
            if _active_client() is not None:
                return _compute_with_client(lazy, progress)
            stack.enter_context(_ProgressBar(progress))
        try:
            return dask.compute(*lazy, **options)
        except ValueError as error:
            if "checksum" in str(error) and not isinstance(error, DaskGLMError):  # zarr says no more than that
                raise StoreError(
                    f"a chunk of the store is damaged: {error}; restore the store, or convert its images again"
                ) from error
            raise


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


@contextmanager
def rearrangements_done(total: int, start: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar of rearrangements done and time left, on standard error.

    Parameters
    ----------
    total, start : int
        How many there are, and how many were done before.
    progress : bool
        Show it.

    Yields
    ------
    callable
        To be told how many are done.
    """
    if not progress:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Rearrangements", total=total, completed=start)
        yield lambda done: bar.update(task, completed=done)


def memory_limit() -> int:
    """Memory that tasks have together: that of the active cluster, or what is free on this machine.

    Returns
    -------
    int
        Bytes.
    """
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
    client = _active_client()
    return _n_threads(n_jobs) if client is None else max(1, sum(client.nthreads().values()))


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


def _compute_with_client(lazy: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """Compute on the cluster, following its tasks from the scheduler."""
    from distributed.diagnostics.progressbar import TextProgressBar

    client = _active_client()
    futures = client.compute(list(lazy))
    sys.stderr.write(f"{name}: dashboard at {client.dashboard_link}\n")
    if sys.stderr.isatty():
        TextProgressBar(futures, loop_timeout="100ms")
        sys.stderr.write("\n")
    return tuple(client.gather(futures))


class _ProgressBar(DaskCallback):  # type: ignore[misc]
    """Tasks done, on a rich progress bar."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._name = name
        self._task: Any = None

    def _start_state(self, dsk: Any, state: Any) -> None:
        total = sum(len(state[key]) for key in ("ready", "waiting"))
        self._task = self._bar.add_task(self._name, total=total)
        self._bar.start()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._bar.advance(self._task)

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        self._bar.stop()
