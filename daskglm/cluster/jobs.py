"""What a job queue's cluster is given: the environment and the lifetime of workers, in every job script."""

import re
import shlex
import shutil
from typing import Any

from daskglm.cluster.configuration import ClusterError, Configuration
from daskglm.cluster.known_options import QUEUES, needed

# What the fields of a walltime without days are, in seconds, by their number: "90" is minutes to SLURM, hours to OAR.
_HOUR, _MINUTE = 3600, 60
_CLOCK = {3: (_HOUR, _MINUTE, 1), 2: (_MINUTE, 1)}
_FIELDS = {
    "slurm": {1: (_MINUTE,), **_CLOCK},
    "pbs": {1: (1,), **_CLOCK},
    "sge": {1: (1,), **_CLOCK},
    "lsf": {1: (_MINUTE,), 2: (_HOUR, _MINUTE)},
    "oar": {1: (_HOUR,), 2: (_HOUR, _MINUTE), 3: (_HOUR, _MINUTE, 1)},
}
_LIST_JOBS = {
    "slurm": "squeue --me", "pbs": "qstat -u $USER", "sge": "qstat", "lsf": "bjobs -l", "htcondor": "condor_q -better",
    "oar": "oarstat -u",
}  # fmt: skip


def job_options(configuration: Configuration) -> dict[str, Any]:
    """Arguments of the dask-jobqueue class.

    Parameters
    ----------
    configuration : Configuration
        Of a job queue.

    Returns
    -------
    dict
        The options, with the environment at the end of the job script's prologue and, where there is a walltime, a
        lifetime below it: a worker that leaves in time hands its results over, one that is killed loses them.

    Raises
    ------
    ClusterError
        Where the walltime cannot be read, or the file sets a lifetime of its own.
    """
    import dask

    kind, options = configuration.kind, dict(configuration.options)
    defaults = dask.config.get(f"jobqueue.{kind}")
    for name in ("job_script_prologue", "worker_extra_args"):
        options[name] = list(options.get(name) or defaults.get(name.replace("_", "-")) or [])
    options["job_script_prologue"] += [
        f"export {name}={shlex.quote(value)}" for name, value in configuration.environment.items()
    ]
    # The page that each worker serves knows no TLS: on the node itself alone, as the scheduler's on this machine.
    options["worker_extra_args"] += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    if any(str(argument).startswith("--lifetime") for argument in options["worker_extra_args"]):
        raise ClusterError("the lifetime of workers follows from the walltime; remove it from worker_extra_args")
    walltime = options.get("walltime", defaults.get("walltime"))
    if walltime is not None:
        lifetime, stagger = worker_lifetime(walltime_seconds(kind, walltime))
        options["worker_extra_args"] += ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]
    return options


def walltime_seconds(kind: str, walltime: Any) -> int:
    """Seconds of a walltime, as the queue system reads it.

    Parameters
    ----------
    kind : str
        Of queue system.
    walltime : str
        As in its manual: "1-12:00:00", "00:30:00", ...

    Returns
    -------
    int

    Raises
    ------
    ClusterError
        Where it is no walltime of this queue system.

    Examples
    --------
    >>> walltime_seconds("slurm", "1-12:00"), walltime_seconds("slurm", "90:00"), walltime_seconds("lsf", "90:00")
    (129600, 5400, 324000)
    """
    if not isinstance(walltime, str):  # YAML reads 12:00:00 without quotes as the number 43200
        raise ClusterError(f"walltime has to stand in quotes, as in '12:00:00', but it is {walltime!r}")
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+)*)", walltime.strip())
    days, clock = match.groups() if match else (None, "")
    numbers = [int(number) for number in clock.split(":")] if clock else []
    units = _FIELDS[kind].get(len(numbers), ())
    if days is not None:
        units = (_HOUR, _MINUTE, 1)[: len(numbers)] if kind == "slurm" and len(numbers) <= 3 else ()
    seconds = 24 * _HOUR * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if not units or seconds < _MINUTE:
        raise ClusterError(f"{kind} takes a walltime of a minute or more, as in {_example(kind)!r}, not {walltime!r}")
    return seconds


def worker_lifetime(walltime: int) -> tuple[int, int]:
    """When workers leave, so that none is killed at the walltime and not all leave together.

    Parameters
    ----------
    walltime : int
        Seconds that a job may take.

    Returns
    -------
    lifetime, stagger : int
        Seconds; a worker leaves at a random time in lifetime +- stagger, the latest of which leaves a fifth of the
        walltime, or five minutes if that is less, to start Python before and to hand results over after.

    Examples
    --------
    >>> worker_lifetime(60), worker_lifetime(24 * 3600)
    ((42, 6), (85800, 300))
    """
    margin, stagger = min(300, walltime // 5), min(300, walltime // 10)
    return walltime - margin - stagger, stagger


def check_submission(kind: str) -> None:
    """Refuse to start where jobs cannot be submitted.

    Parameters
    ----------
    kind : str
        Of queue system.

    Raises
    ------
    ClusterError
        Where the machine has not its command.
    """
    command = getattr(needed("dask_jobqueue", "cluster"), QUEUES[kind]).job_cls.submit_command
    if shutil.which(command) is None:
        raise ClusterError(
            f"jobs of kind {kind} are submitted by {command}, which this machine does not have; "
            "start from a login node of the cluster"
        )


def where_to_look(configuration: Configuration, scheduler: str) -> str:
    """What tells why a job brought no worker.

    Parameters
    ----------
    configuration : Configuration
        Of a job queue.
    scheduler : str
        Its address.

    Returns
    -------
    str
        Advice, for the end of a message.
    """
    logs = configuration.options.get("log_directory")
    return (
        f"see {_LIST_JOBS[configuration.kind]} for whether its jobs wait or were refused, the logs in "
        f"{logs or 'the log_directory, once the options name one,'} for why a job ended, and check that nodes reach "
        f"{scheduler} (options: interface, scheduler_options: host); for a long queue raise wait_for_workers"
    )


def _example(kind: str) -> str:
    """A walltime of half an hour."""
    return "00:30" if kind == "lsf" else "00:30:00"
