"""The one schema of the files in ``cluster_configs/``, checked key by key before anything starts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from daskglm.cluster.known_options import KINDS, known_options, nested_options
from daskglm.errors import DaskGLMError, check_choice, listing, nearest

# Threads of a worker times threads of its BLAS is the number of cores it keeps busy: the workers are the threads.
ONE_BLAS_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Dask has workers give each freed array back to the system, and its pages have to be made anew for the next one: a
# pass over a store took twice as long. So many bytes are kept for reuse.
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "134217728", "MALLOC_ARENA_MAX": "2"}
# Threads that decompress what a task reads, while it waits.
_DECODERS = "ZARR_THREADING__MAX_WORKERS"
WORKER_ENVIRONMENT = _KEPT_MEMORY | {_DECODERS: "1"} | ONE_BLAS_THREAD

_KEYS = ("kind", "options", "scale", "environment", "tls", "wait_for_workers")
# Who starts the workers elsewhere decides how many there are, what they see and how they are reached.
_NOT_OURS = {
    "address": ("scale", "environment"),
    "ssh": ("scale",),
    "gateway": ("environment",),
}
_NO_TLS = {
    "address": "write an address that begins with tls://",
    "kubernetes": "traffic stays within the Kubernetes cluster; restrict it by a NetworkPolicy",
    "gateway": "a gateway encrypts always",
}


class ClusterError(DaskGLMError, ValueError):
    """A cluster's configuration cannot be used, or no cluster answers."""


@dataclass(frozen=True)
class Configuration:
    """What a cluster's file says.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    options : dict
        Arguments of that kind's cluster class.
    scale : int, (int, int) or None
        Workers (jobs, for a job queue); a pair: between these, by the work there is; None: as many as fit.
    environment : dict
        Environment variables of the workers, one BLAS thread among them.
    tls : bool
        Encrypt, and admit only who holds the key made for this run.
    wait_for_workers : float
        Seconds until the first worker has to be there.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    scale: int | tuple[int, int] | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(WORKER_ENVIRONMENT))
    tls: bool = False
    wait_for_workers: float = 300.0


def read_configuration(cluster: str) -> Configuration:
    """The configuration that a name, an address or a file stands for.

    Parameters
    ----------
    cluster : str
        "local", a scheduler's address or a YAML file.

    Returns
    -------
    Configuration

    Raises
    ------
    ClusterError
        Where there is no such file, or a key or value in it is wrong.
    MissingDependencyError
        Where the package that knows the keys of this kind of cluster is not installed.
    """
    if cluster == "local":
        return Configuration("local")
    if "://" in cluster:
        return Configuration("address", {"address": cluster})
    path = Path(cluster)
    if not path.is_file():
        raise ClusterError(f"a cluster is 'local', a scheduler's address or a YAML file, but there is no {cluster!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"cannot read {cluster}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ClusterError(f"{cluster} has to hold keys and values, {listing(_KEYS)}, but it holds {content!r:.80}")
    try:
        return _checked(content)
    except ClusterError as error:
        raise ClusterError(f"{cluster}: {error}") from error


def _checked(content: dict[str, Any]) -> Configuration:
    """The configuration in a file's content."""
    _refuse_unknown("key", content, _KEYS)
    kind: Any = content.get("kind")
    check_choice("kind", kind, KINDS, ClusterError)
    for key in _NOT_OURS.get(kind, ()):
        if key in content:
            raise ClusterError(f"{key} is settled where the workers of kind {kind} are started; remove it here")
    tls = content.get("tls", False)
    if not isinstance(tls, bool):
        raise ClusterError(f"tls is true or false, but it is {tls!r}")
    if tls and kind in _NO_TLS:
        raise ClusterError(f"tls is not for kind {kind}: {_NO_TLS[kind]}")
    return Configuration(
        kind,
        _options(kind, content.get("options")),
        _scale(kind, content.get("scale")),
        _environment(content.get("environment"), _threads(content.get("options") or {})),
        tls,
        _seconds(content.get("wait_for_workers", 300)),
    )


def _options(kind: str, options: Any) -> dict[str, Any]:
    """Options that the kind's cluster class knows, with values that stay on their line of a job script."""
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ClusterError(f"options are keys and values, but they are {options!r:.80}")
    _refuse_unknown("option", options, known_options(kind))
    for name, value in options.items():
        known = nested_options(name)
        if known is not None:
            if not isinstance(value, dict):
                raise ClusterError(f"{name} are keys and values, but they are {value!r:.80}")
            _refuse_unknown(f"key of {name}", value, known)
        # The SSH cluster puts options between single quotes on a remote command line.
        _refuse_control_characters(name, value, "'" if kind == "ssh" and name != "connect_options" else "")
    required = {"address": ("address",), "ssh": ("hosts",), "gateway": ("address",)}
    for name in required.get(kind, ()):
        if not options.get(name):
            raise ClusterError(f"a cluster of kind {kind} needs the option {name}")
    return dict(options)


def _refuse_unknown(what: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Name what is not known, and the nearest that is."""
    known = sorted(known)
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f"; the known ones are {listing(known, len(known))}"
            raise ClusterError(f"unknown {what} {name!r}{hint}")


def _refuse_control_characters(name: str, value: Any, others: str = "") -> None:
    """A line break in a value would be a further line of the job script, which a shell runs."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_control_characters(name, key, others)
            _refuse_control_characters(name, item, others)
    elif isinstance(value, list):
        for item in value:
            _refuse_control_characters(name, item, others)
    elif isinstance(value, str) and any(not c.isprintable() or c in others for c in value):
        raise ClusterError(
            f"{name} may hold no line break{f' and no {others}' if others else ''}, but it is {value!r}; "
            "write several lines as a list"
        )


def _scale(kind: str, scale: Any) -> int | tuple[int, int] | None:
    """Workers, or the least and the most of them."""
    if isinstance(scale, dict):
        _refuse_unknown("key of scale", scale, ("minimum", "maximum"))
        low, high = scale.get("minimum", 1), scale.get("maximum", 0)
        if not (_is_count(low) and _is_count(high) and low <= high):
            raise ClusterError(f"scale has a minimum from 1 and a maximum not below it, but it is {scale!r}")
        return int(low), int(high)
    if scale is None and kind in ("local", "address", "ssh"):
        return None
    if not _is_count(scale):
        raise ClusterError(f"scale is a number of workers from 1, or minimum and maximum, but it is {scale!r}")
    return int(scale)


def _is_count(value: Any) -> bool:
    """Whether it is a number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _threads(options: dict[str, Any]) -> int:
    """Tasks that a worker runs at once, as the options of any kind say it; one, unless they do."""
    given = options.get("threads_per_worker") or (options.get("worker_options") or {}).get("nthreads")
    cores, processes = options.get("cores"), options.get("processes") or 1
    if given is None and isinstance(cores, int) and isinstance(processes, int):
        given = cores // processes
    return max(1, given) if isinstance(given, int) else 1


def _environment(variables: Any, threads: int) -> dict[str, str]:
    """Variables of the workers: one BLAS thread, as many that decompress as tasks, and memory that is used again."""
    variables = {} if variables is None else variables
    if not isinstance(variables, dict) or not all(isinstance(value, str | int | float) for value in variables.values()):
        raise ClusterError(f"environment has names and values of variables, but it is {variables!r:.80}")
    for name, value in variables.items():
        if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
            raise ClusterError(f"environment: {name!r} is not the name of a variable")
        _refuse_control_characters(f"environment: {name}", value)
        if str(value) != ONE_BLAS_THREAD.get(name, str(value)):
            raise ClusterError(f"{name} is always 1, for each core runs a task; scale and options give more tasks")
    return WORKER_ENVIRONMENT | {_DECODERS: str(threads)} | {name: str(value) for name, value in variables.items()}


def _seconds(text: Any) -> float:
    """Seconds of 300 or "5 minutes"."""
    from dask.utils import parse_timedelta

    try:
        seconds = float(parse_timedelta(text))
    except (TypeError, ValueError, KeyError, AttributeError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ClusterError(f"wait_for_workers is a time such as 300 (seconds) or '5 minutes', but it is {text!r}")
    return seconds
