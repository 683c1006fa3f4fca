"""One screen about what a run will take."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daskglm.models.plan import Plan, count_text, free_disk, size_text


def print_plan(plan: Plan, console: Console, output: str | None = None) -> None:
    """Print what a run will take, beside what there is.

    Parameters
    ----------
    plan : Plan
        Plan.
    console : rich.console.Console
        Where to print.
    output : str, optional
        Result folder or store.
    """
    where = plan.machine
    free = free_disk(output)
    threads = count_text(where.threads, "thread")
    place = f"{count_text(where.workers, 'worker')} of {threads}" if where.cluster else f"{threads} of this process"
    holder = "memory of a worker" if where.cluster else "memory"
    rows = [
        ("read", size_text(plan.bytes_read), ""),
        ("write", f"up to {size_text(plan.bytes_written)}", f"{size_text(free)} free" if free is not None else ""),
        ("kept meanwhile", f"about {size_text(plan.scratch)}", "to go on after an interruption"),
        (holder, f"at most {size_text(plan.memory_per_worker)}", f"{size_text(where.memory)} allowed"),
        ("memory here", f"at most {size_text(plan.memory_client)}", f"{size_text(where.memory_here)} free"),
        ("tasks", f"{plan.n_tasks:,}", f"on {place}"),
        (
            "time",
            "not measured" if plan.seconds is None else f"about {time_text(plan.seconds)}",
            "of this machine, idle",
        ),
    ]
    unneeded = {"kept meanwhile"} if not plan.scratch else set()
    unneeded |= set() if where.cluster else {"memory here"}
    console.print(f"{plan.command}: {plan.what}", markup=False)
    table = Table(show_header=False, box=None)
    for name, value, beside in rows:
        if name not in unneeded:
            table.add_row(name, value, f"[dim]{escape(beside)}[/dim]" if beside else "")
    console.print(table)
    for note in plan.notes:
        console.print(f"note: {note}", markup=False)


def plan_json(plan: Plan) -> str:
    """A plan for programs.

    Parameters
    ----------
    plan : Plan
        Plan.

    Returns
    -------
    str
        JSON; bytes and seconds.
    """
    found: dict[str, Any] = {name: value for name, value in vars(plan).items() if name not in _INNER}
    found |= {"machine": asdict(plan.machine), "memory_per_worker": plan.memory_per_worker}
    return json.dumps({**found, "memory_client": plan.memory_client}, indent=2)


def time_text(seconds: float) -> str:
    """A stretch of time for people.

    Parameters
    ----------
    seconds : float
        Seconds.

    Returns
    -------
    str

    Examples
    --------
    >>> time_text(4000)
    '1 h 7 min'
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.0f} days"


_INNER = ("machine", "needs", "complete", "chunk", "at_chunk")
