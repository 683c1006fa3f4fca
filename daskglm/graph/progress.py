"""What a long computation tells of itself: a bar in a terminal or a notebook, lines elsewhere and in the log."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dask.callbacks import Callback
from dask.utils import key_split

_LOG = logging.getLogger("daskglm")
# A line at most every so many seconds, and for so much more of the work: a night's log has a hundred of them.
_SECONDS_BETWEEN_LINES = 10.0
_PART_BETWEEN_LINES = 0.01


@dataclass(frozen=True)
class Work:
    """What the tasks of a graph are worth to a person.

    Attributes
    ----------
    name : str
        As in "Reading images".
    total : int
        Units, as in images.
    tasks : str
        Name of the tasks that the units are spread over, as in "sum-moments"; other tasks do not count.
    start : int
        Units of the total that were done before, by no task of the graph.
    """

    name: str
    total: int
    tasks: str
    start: int = 0


@contextmanager
def shown(name: str, total: int, start: int = 0, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Show how much is done, how fast, and the time left.

    Parameters
    ----------
    name : str
        What is done, as in "Reading images".
    total, start : int
        How many units there are, and how many were done before.
    unit : str
        What they are, if the name does not say so.

    Yields
    ------
    callable
        To be told how many are done in all.

    Notes
    -----
    A bar on standard error in a terminal, a widget in a notebook, else lines: one at the start, at most one every
    10 s and percent, and one at the end. The log gets the lines in any case.
    """
    console = _canvas()
    with ExitStack() as stack:
        bar = None if console is None else stack.enter_context(_bar(console))
        numbers = f"{total:,} {unit}".rstrip()
        task = None if bar is None else bar.add_task(name, total=total, completed=start, of=f"of {numbers}", pace="")
        begun = told = time.monotonic()
        done, told_of = float(start), float(start)

        def line(text: str) -> None:
            _LOG.info(text)
            if bar is None:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

        def tell(now: float) -> None:
            nonlocal done, told, told_of
            done = now
            pace = _pace(now - start, total - now, time.monotonic() - begun)
            if bar is not None:
                bar.update(task, completed=int(now), pace=pace)
            waited = time.monotonic() - told >= _SECONDS_BETWEEN_LINES
            if waited and start < now < total and now - told_of >= _PART_BETWEEN_LINES * total:
                told, told_of = time.monotonic(), now
                line(f"{name}: {int(now):,} of {numbers} ({100 * now / total:.0f}%), {pace}")

        line(f"{name}: {start:,} of {numbers}")
        try:
            yield tell
        except BaseException:
            line(f"{name}: stopped at {int(done):,} of {numbers} after {duration(time.monotonic() - begun)}")
            raise
        took = time.monotonic() - begun
        line(f"{name}: {int(done):,} of {numbers} in {duration(took)}, {_rate(done - start, took)}")


@contextmanager
def threads_followed(work: str | Work) -> Iterator[None]:
    """Show the progress of what Dask computes on threads of this process within the block.

    Parameters
    ----------
    work : str or Work
        Under a name alone all tasks count.

    Yields
    ------
    None
    """
    with ExitStack() as stack:
        units: dict[str, float] = {}
        tells: list[Callable[[float], None]] = []
        done = float(_start(work))

        def begin(_: Any, state: Any) -> None:
            nonlocal units
            tasks = Counter(key_split(key) for name in ("ready", "waiting") for key in state[name])
            total, units, unit = _units(tasks, work)
            tells.append(stack.enter_context(shown(_name(work), total, _start(work), unit)))

        def finished(key: Any, *_: Any) -> None:
            nonlocal done
            worth = units.get(key_split(key), 0.0)
            if worth:
                done += worth
                tells[-1](round(done, 6))

        stack.enter_context(Callback(start_state=begin, posttask=finished))
        yield


def follow_cluster(client: Any, futures: Any, work: str | Work) -> None:
    """Show the progress of futures until they are done or one failed.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    futures : sequence of distributed.Future
        Results that are wanted.
    work : str or Work
        Under a name alone all tasks count that they need.
    """
    from distributed.diagnostics.progressbar import MultiProgressBar

    pending = [future for future in futures if hasattr(future, "key")]
    if not pending:
        return
    with ExitStack() as stack:
        tell: Callable[[float], None] | None = None
        followed = MultiProgressBar(pending, client.scheduler.address, interval="200ms", complete=True)

        def draw(remaining: dict[str, int], all: dict[str, int], **_: Any) -> None:
            nonlocal tell
            total, units, unit = _units(all, work)
            if tell is None:
                tell = stack.enter_context(shown(_name(work), total, _start(work), unit))
            tell(
                _start(work)
                + round(sum(worth * (all[name] - remaining.get(name, 0)) for name, worth in units.items()), 6)
            )

        followed._draw_bar = draw
        # Where the scheduler is lost, the one who gathers the results says so.
        with suppress(OSError):
            client.sync(followed.listen)


def duration(seconds: float) -> str:
    """A time as a person says it.

    Parameters
    ----------
    seconds : float
        Seconds.

    Returns
    -------
    str

    Examples
    --------
    >>> duration(0.34), duration(9.24), duration(75), duration(7800)
    ('0.3 s', '9 s', '1 min 15 s', '2 h 10 min')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _name(work: str | Work) -> str:
    """What is done."""
    return work if isinstance(work, str) else work.name


def _start(work: str | Work) -> int:
    """Units done before."""
    return 0 if isinstance(work, str) else work.start


def _units(tasks: Counter[str] | dict[str, int], work: str | Work) -> tuple[int, dict[str, float], str]:
    """Number of units, what a task of each name is worth, and what the units are."""
    if isinstance(work, Work) and tasks.get(work.tasks):
        return work.total, {work.tasks: (work.total - work.start) / tasks[work.tasks]}, ""
    return _start(work) + sum(tasks.values()), dict.fromkeys(tasks, 1.0), "tasks"


def _pace(done: float, left: float, seconds: float) -> str:
    """Rate and time left."""
    if done <= 0 or seconds <= 0:
        return ""
    remaining = left * seconds / done
    return (
        f"{_rate(done, seconds)}, {duration(round(remaining) if remaining < 59 else remaining).replace('.0', '')} left"
    )


def _rate(done: float, seconds: float) -> str:
    """Units by second, minute or hour, in three digits."""
    rate = done / max(seconds, 1e-9)
    for factor, unit in ((1, "s"), (60, "min")):
        if rate * factor >= 1:
            return f"{rate * factor:,.0f}/{unit}" if rate * factor >= 100 else f"{rate * factor:.2g}/{unit}"
    return f"{rate * 3600:.2g}/h"


def _canvas() -> Any:
    """Where a bar can be drawn; None where lines are written."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        return console if find_spec("ipywidgets") is not None else None
    # Not rich's own answer, which colours forced on a file would change.
    return console if sys.stderr.isatty() and not console.is_dumb_terminal else None


def _bar(console: Any) -> Any:
    """A bar that is gone when the work is done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    count = TextColumn("{task.completed:,} {task.fields[of]}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TextColumn("{task.fields[pace]}"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
