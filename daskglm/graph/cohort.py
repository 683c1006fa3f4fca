"""Cohorts: every run of every subject a task, every subject a task after them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask

from daskglm.graph.compute import compute


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
    shared_fit, shared_combine = dask.delayed(fit, pure=True), dask.delayed(combine, pure=True)
    tasks = [
        dask.delayed(_call)(shared_combine, subject, [dask.delayed(_call)(shared_fit, run) for run in runs])
        for subject, runs in subjects.items()
    ]
    return list(compute(*tasks, n_jobs=n_jobs, progress=progress))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that came with the graph once."""
    return function(*arguments)
