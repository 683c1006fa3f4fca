"""What made a result: software, machine, inputs and times; the log of it; nothing secret in either."""

import logging
import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from daskglm.errors import OutputError, listing
from daskglm.io import files
from daskglm.io.urls import redacted

LOG = logging.getLogger("daskglm")
# Without a handler Python would print warnings that are shown already.
LOG.addHandler(logging.NullHandler())

_PACKAGES = (
    "daskglm",
    "dask",
    "distributed",
    "xarray",
    "zarr",
    "nibabel",
    "numpy",
    "scipy",
    "pandas",
    "formulaic",
)
_SECRET_VARIABLE = re.compile(
    r"secret|token|password|passwd|credential|connection_string|(access|account|api)_?key", re.I
)
_SECRET_VALUE = re.compile(
    r"((?:secret|password|passwd|token|signature|(?:access|account|api)_?key)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"'&;,]+",
    re.I,
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_SHORTEST_SECRET = 8


def software() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Returns
    -------
    dict of str to str
        Package to version.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def redact(text: str) -> str:
    """Text without secrets: for logs, records and messages.

    Parameters
    ----------
    text : str
        A message, a command, a URL, a traceback.

    Returns
    -------
    str
        With ``***`` for users, passwords and signatures in URLs, AWS keys, what is assigned to names such as
        "secret", "token" or "access_key", and the values of environment variables of such names.

    Examples
    --------
    >>> redact("s3://me:hidden@bucket/key failed, aws_secret_access_key=abc123")
    's3://***@bucket/key failed, aws_secret_access_key=***'
    """
    for name, value in os.environ.items():
        # A file's name is no secret, and a short value is a word.
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET and not os.path.exists(value):
            text = text.replace(value, "***")
    return _SECRET_VALUE.sub(r"\1***", _AWS_KEY.sub("***", redacted(text)))


def run_record(
    command: Sequence[str],
    timings: Mapping[str, float],
    cluster: Mapping[str, Any] | None = None,
    inputs: Sequence[str] | None = (),
    checksums: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What every provenance file says of the run that made the result.

    Parameters
    ----------
    command : sequence of str
        Arguments of the command line; empty in Python.
    timings : mapping of str to float
        Stage to seconds, as :func:`stage` filled it.
    cluster : mapping, optional
        From :func:`daskglm.graph.compute.cluster_description`.
    inputs : sequence of str or None
        Paths of images; None: images in memory.
    checksums : mapping of str to int, optional
        Path or sample to CRC-32 where it is known, as from the columns of a store: nothing is read for it.

    Returns
    -------
    dict
        ``software``, ``command``, ``finished`` (UTC), ``cluster``, ``stages`` in seconds, and ``inputs``: for each
        path its size and time of change (of a URL, a number that changes with its ETag).
    """
    return {
        "software": software(),
        "command": [redact(argument) for argument in command],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cluster": dict(cluster or {}),
        "stages": {name: round(seconds, 3) for name, seconds in timings.items()},
        "inputs": files.each(_input, list(inputs or ())),
        **({"checksums": {name: f"{value:08x}" for name, value in checksums.items()}} if checksums else {}),
    }


@contextmanager
def stage(name: str, timings: dict[str, float]) -> Iterator[None]:
    """Time a part of a run, for its record and the log.

    Parameters
    ----------
    name : str
        What is done, as in "read headers"; the seconds of parts of one name add up.
    timings : dict of str to float
        Where the seconds go.

    Yields
    ------
    None
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        timings[name] = timings.get(name, 0.0) + seconds
        LOG.info("%s: %.3f s", name, seconds)


@contextmanager
def warnings_heard(hear: Callable[[str, str], object]) -> Iterator[None]:
    """Tell a function of each warning that is shown within the block.

    Parameters
    ----------
    hear : callable
        Given the name of its category and its text, on one line.

    Yields
    ------
    None
    """
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        hear(category.__name__, " ".join(str(message).split()))
        show(message, category, *where, **more)

    warnings.showwarning = tell
    try:
        yield
    finally:
        warnings.showwarning = show


_HEARD: ContextVar[Callable[[str, str], object] | None] = ContextVar("heard", default=None)
_HEARING = threading.Lock()


@contextmanager
def own_warnings_heard(hear: Callable[[str, str], object]) -> Iterator[None]:
    """As :func:`warnings_heard`, of the warnings of this thread alone: for tasks, of which several run at a time.

    Parameters
    ----------
    hear : callable
        Given the name of its category and its text, on one line.

    Yields
    ------
    None
    """
    with _HEARING:
        show = warnings.showwarning
        if not getattr(show, "by_thread", False):
            warnings.showwarning = _by_thread(show)
    before = _HEARD.set(hear)
    try:
        yield
    finally:
        _HEARD.reset(before)


def _by_thread(show: Callable[..., None]) -> Callable[..., None]:
    """Show a warning as before, and tell whoever hears those of the thread."""

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if (hear := _HEARD.get()) is not None:
            hear(category.__name__, " ".join(str(message).split()))
        show(message, category, *where, **more)

    tell.by_thread = True  # type: ignore[attr-defined]
    return tell


@contextmanager
def logged_to(path: str | None, command: str, parameters: Mapping[str, Any]) -> Iterator[None]:
    """Write what happens within the block to a file: beginning, stages, progress, warnings, errors, end.

    Parameters
    ----------
    path : str or None
        Text file, which is appended to; None: nothing is written.
    command : str
        Name of the command.
    parameters : mapping
        Its parameters.

    Yields
    ------
    None

    Raises
    ------
    OutputError
        Where the file cannot be written.
    """
    if path is None:
        yield
        return
    handler = _handler(path)
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    started = time.perf_counter()
    LOG.info(
        "daskglm %s %s, Python %s, %s", version("daskglm"), command, platform.python_version(), platform.platform()
    )
    for name, value in parameters.items():
        LOG.info("%s = %s", name, listing(map(repr, value)) if isinstance(value, (list, tuple)) else repr(value))
    try:
        with warnings_heard(partial(LOG.warning, "%s: %s")):
            yield
        LOG.info("done in %.3f s", time.perf_counter() - started)
    except KeyboardInterrupt:
        LOG.error("interrupted after %.3f s", time.perf_counter() - started)
        raise
    except BaseException as error:
        LOG.error("failed after %.3f s: %s", time.perf_counter() - started, error, exc_info=True)
        raise
    finally:
        LOG.setLevel(level)
        LOG.removeHandler(handler)
        handler.close()


def _handler(path: str) -> logging.Handler:
    """A handler that writes to a file, each record without secrets."""
    try:
        if files.is_url(path):
            raise OSError("a log is appended to, which an object store cannot do; give a local file")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the log to {path}: {error.strerror or error}; choose another file") from error
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _Redacting(logging.Formatter):
    """Lines without secrets, those of tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redact(super().format(record))


def _input(path: str) -> dict[str, Any]:
    """What is known of an input without reading it."""
    known: dict[str, Any] = {"path": redact(path)}
    if os.path.isdir(path):  # the state of a store's folder says nothing of what is in it
        return known
    with suppress(OSError):  # nor has it one behind a URL
        known["bytes"], known["modified"] = files.state(path)
    return known
