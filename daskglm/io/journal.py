"""What runs or ran on an output: a record beside the results, written by the long commands and read by ``status``."""

import json
import os
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import psutil

from daskglm.errors import COMMAND, DaskGLMError, OutputError
from daskglm.io import files
from daskglm.io.locks import forget_lock, lock_folder, place_of, refusal
from daskglm.io.provenance import redact, warnings_heard

# A run on another machine that has not been heard of for so long, in s, is taken for interrupted.
STALE = 120.0
_BEAT = 20.0
# Ids of the runs of this process.
_under_way: set[str] = set()


@dataclass
class Record:
    """What is known of one run.

    Attributes
    ----------
    id : str
        Tells it from other runs; the provenance of what it wrote has it, too.
    kind : str
        "convert", "group", "permute" or "first-level".
    command : list of str
        Arguments of ``daskglm``, secrets taken out; empty where it was started in Python.
    folder : str
        Working folder.
    state : str
        "running", "complete", "failed" or "interrupted".
    message : str
        Why it failed.
    process, born : int, float
        Process id, and when the process began, in s since 1970.
    host : str
        Machine.
    started, updated : float
        When, in s since 1970; updated each 20 s.
    done, total : int
        Units of work; -1 where not known yet.
    """

    id: str
    kind: str
    command: list[str]
    folder: str
    state: str
    message: str
    process: int
    born: float
    host: str
    started: float
    updated: float
    done: int = -1
    total: int = -1

    @property
    def is_mine(self) -> bool:
        """Whether this process made it."""
        return (self.process, self.host) == (os.getpid(), socket.gethostname())

    @property
    def who(self) -> str:
        """Who runs, for messages."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        seen = "" if self.host == socket.gethostname() else f", last seen {time.time() - self.updated:.0f} s ago"
        return f"process {self.process} on {self.host}, since {since}{seen}"

    @property
    def now(self) -> str:
        """State as it is: a run whose process is gone was interrupted."""
        if self.state != "running":
            return self.state
        if self.host != socket.gethostname():
            return "running" if time.time() - self.updated < STALE else "interrupted"
        try:
            alive = abs(psutil.Process(self.process).create_time() - self.born) < 2
        except psutil.Error:
            alive = False
        # After an outage a record may say that a run of this process goes on, which has ended.
        over = self.is_mine and self.id not in _under_way
        return "running" if alive and not over else "interrupted"


class Run:
    """A run under way, as ``with running(...)`` gives it.

    Attributes
    ----------
    output : str
        Absolute path, or URL.
    record : Record
        What is known of it.
    failures : str
        Set where it comes to its end, but parts failed.
    warnings : list of str
        Those that were shown so far, each once.
    """

    def __init__(self, output: str, record: Record, name: str) -> None:
        self.record = record
        self.output = output
        self.failures = ""
        self.warnings: list[str] = []
        self._name = name
        self._count: Callable[[], int] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def hear(self, category: str, text: str) -> None:
        """Keep a warning; those about old Python code are nothing to a reader of results.

        Parameters
        ----------
        category, text : str
            As :func:`~daskglm.io.provenance.warnings_heard` tells them.
        """
        text = redact(text)
        if "Deprecation" not in category and text not in self.warnings:
            self.warnings.append(text)

    def begin(self, total: int, count: Callable[[], int] | None = None) -> None:
        """Say that the input is sound and the work begins.

        Parameters
        ----------
        total : int
            Units of work.
        count : callable, optional
            Number of units done, on disk.
        """
        self.record.total, self._count = total, count
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the record; a full disk does not stop the work.

        Parameters
        ----------
        **changes
            Fields of the record.
        """
        with self._lock, suppress(OSError):
            self._write(changes)

    def create(self) -> None:
        """Write the record for the first time.

        Raises
        ------
        OutputError
            Where the output cannot be written.
        """
        try:
            self._write({})
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write to {self.output}: {reason}; choose another output") from error

    def beat(self) -> None:
        """Keep the record fresh until the end."""
        while not self._ended.wait(_BEAT):
            self.write()

    def remove(self) -> None:
        """Remove the record."""
        with self._lock, suppress(OSError):
            files.remove(_path(self.output, self._name))

    def put_back(self, before: Record) -> None:
        """Put the record of the run before back.

        Parameters
        ----------
        before : Record
            That record.
        """
        with self._lock, suppress(OSError):
            files.write_bytes(_path(self.output, self._name), json.dumps(asdict(before), indent=2).encode())

    def end(self) -> None:
        """Stop :meth:`beat`."""
        self._ended.set()

    def _write(self, changes: dict[str, Any]) -> None:
        """Write the record with changes."""
        if self._count is not None and "done" not in changes:
            with suppress(OSError, ValueError, DaskGLMError):
                self.record.done = self._count()
        for name, value in {**changes, "updated": time.time()}.items():
            setattr(self.record, name, value)
        text = json.dumps(asdict(self.record), indent=2)
        files.write_bytes(_path(self.output, self._name), text.encode())


@contextmanager
def running(
    output: str, kind: str, *, name: str = "run", shared: bool = False, prepare: Callable[[bool], Any] = bool
) -> Iterator[Run]:
    """Hold the lock of an output and keep a record of what runs.

    An error before :meth:`Run.begin` is one of the input: the record of before is put back. A store that is complete
    says so itself: its record is removed.

    Parameters
    ----------
    output : str
        Result folder or store; path or URL.
    kind : str
        Command.
    name : str
        Of the record; others than "run" are of runs that may go on at the same time.
    shared : bool
        Whether such runs may.
    prepare : callable
        Called at the start with whether nobody else writes there.

    Yields
    ------
    Run

    Raises
    ------
    OutputError
        At once, where another writes there, or it is not writable.
    """
    output = output if files.is_url(output) else os.path.abspath(output)
    with ExitStack() as stack:
        before = load_record(output, name)
        run = Run(output, _new(kind), name)
        if files.is_url(output):
            stack.enter_context(_lease(output, run.record.id, before))
            prepare(True)
        else:
            stack.enter_context(lock_folder(output, shared, prepare))
            if not shared:
                stack.callback(forget_lock, output)
        if before is not None and before.now == "running" and not before.is_mine:
            # Where the lock does not tell: another machine, an object store.
            raise OutputError(refusal(output, before.who))
        run.create()
        _under_way.add(run.record.id)
        stack.callback(_under_way.discard, run.record.id)
        threading.Thread(target=run.beat, daemon=True, name="daskglm-journal").start()
        stack.enter_context(warnings_heard(run.hear))
        try:
            yield run
        except BaseException as error:
            run.end()
            _stopped(run, error, before)
            raise
        run.end()
        if run.failures:
            run.write(state="failed", message=run.failures)
        elif output.endswith(".zarr"):
            run.remove()
        else:
            run.write(state="complete", message="", done=max(run.record.total, 0))


def load_record(output: str, name: str = "run") -> Record | None:
    """The record of the last run on an output.

    Parameters
    ----------
    output : str
        Result folder or store; path or URL.
    name : str
        Of the record.

    Returns
    -------
    Record or None
        None where there is none, or it is damaged.
    """
    try:
        held = json.loads(files.read_bytes(_path(output, name)))
        return Record(**{item.name: held[item.name] for item in fields(Record)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_records(output: str) -> list[Record]:
    """The records of the last runs on an output: several where subjects were done by commands of their own.

    Parameters
    ----------
    output : str
        Result folder or store; path or URL.

    Returns
    -------
    list of Record
        The latest comes last.
    """
    names = [name.removesuffix(".json") for name in files.list_names(place_of(output)) if name.endswith(".json")]
    found = [load_record(output, name) for name in names if name.startswith("run")]
    return sorted((item for item in found if item is not None), key=lambda item: item.started)


@contextmanager
def _lease(output: str, token: str, before: Record | None) -> Iterator[None]:
    """Hold an object that one process alone can create; the record of its holder says whether that one still runs."""
    path = files.join(place_of(output), "lease")
    try:
        mine = files.create_bytes(path, token.encode())
        if not mine and (before is None or before.now != "running"):
            files.remove(path)
            mine = files.create_bytes(path, token.encode())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write to {output}: {reason}; choose another output") from error
    if not mine:
        raise OutputError(refusal(output, "" if before is None else before.who))
    try:
        yield
    finally:
        with suppress(OSError):
            files.remove(path)


def _path(output: str, name: str) -> str:
    """Path of a record."""
    return files.join(place_of(output), f"{name}.json")


def _new(kind: str) -> Record:
    """The record of a run that begins now."""
    now = time.time()
    command = [redact(text) for text in COMMAND.get()]
    born, host = psutil.Process().create_time(), socket.gethostname()
    return Record(secrets.token_hex(8), kind, command, os.getcwd(), "running", "", os.getpid(), born, host, now, now)


def _stopped(run: Run, error: BaseException, before: Record | None) -> None:
    """Say why a run ended; where its input was wrong, the output is as it was."""
    if not isinstance(error, Exception):
        error.add_note(f"daskglm resume {shlex.quote(run.output)}")
        run.write(state="interrupted", message="")
    elif run.record.total < 0:
        run.remove() if before is None else run.put_back(before)
    else:
        run.write(state="failed", message=" ".join(f"{error}".split()))
