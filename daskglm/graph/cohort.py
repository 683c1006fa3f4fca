"""Cohorts: every run of every subject a task, every subject a task after them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daskglm.graph.compute import compute, shared, task
from daskglm.graph.progress import Work


def run_cohort(
    subjects: Mapping[str, Sequence[Any]],
    fit: Callable[[Any], Any],
    combine: Callable[[str, Sequence[Any]], Any],
    n_jobs: int | None = None,
    progress: str | None = None,
) -> list[Any]:
    """Fit all runs and combine those of each subject, in one graph.

    Parameters
    ----------
    subjects : mapping of str to sequence
        What is known of each run, by subject.
    fit : callable
        Fits one run, writes its maps and returns a small receipt; raises nothing.
    combine : callable
        Takes a subject and the receipts of its runs to the receipt of the subject; raises nothing.
    n_jobs : int, optional
        Threads, where no cluster is active.
    progress : str, optional
        Show a progress bar under this name.

    Returns
    -------
    list
        Receipts of the subjects. Maps travel through files, not through the scheduler; a task that is lost with
        its worker is run again.
    """
    fit_once, combine_once = shared("how-to-fit", fit), shared("how-to-combine", combine)
    tasks = [
        task("combine-runs", _call, combine_once, subject, [task("fit-run", _call, fit_once, run) for run in runs])
        for subject, runs in subjects.items()
    ]
    work = None if progress is None else Work(progress, sum(map(len, subjects.values())), "fit-run")
    return list(compute(*tasks, n_jobs=n_jobs, progress=work))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that came with the graph once."""
    return function(*arguments)
