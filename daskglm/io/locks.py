"""Locks on an output: two analyses never write the same files."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, Any

from daskglm.errors import OutputError
from daskglm.io import files

_LOCK, _GATE = "lock", "gate"
_ATTEMPTS = 100


def place_of(output: str) -> str:
    """Folder of what is known of the work on an output.

    Parameters
    ----------
    output : str
        Result folder, or a store, which has nothing but its arrays within: then the folder is beside it.

    Returns
    -------
    str
    """
    output = output.rstrip("/")
    return f"{output}.daskglm" if output.endswith(".zarr") else files.join(output, ".daskglm")


@contextmanager
def lock_folder(folder: str, shared: bool, prepare: Callable[[bool], Any]) -> Iterator[None]:
    """Hold a lock on an output, which is let go when the process ends, however it ends.

    Parameters
    ----------
    folder : str
        Result folder or store on disk; the former is created if it is absent.
    shared : bool
        Whether others that say so, too, may write there at the same time.
    prepare : callable
        Called at the start, while no other starts, with whether nobody else writes there.

    Yields
    ------
    None

    Raises
    ------
    OutputError
        At once, where another analysis holds the lock, which is named, or the folder is not writable.
    """
    for _ in range(_ATTEMPTS):
        with _open(place_of(folder), folder) as file:
            with gate(folder):
                alone = _take(file, "LOCK_EX", "LOCK_NB")
                if not _is_there(file):
                    # The one before removed it at its end, after it was opened here; a third may have made another.
                    continue
                if not alone and not (shared and _take(file, "LOCK_SH", "LOCK_NB")):
                    raise OutputError(refusal(folder, _read(file)))
                with suppress(OSError):  # a full disk: then it is not said who writes
                    file.truncate(0)
                    file.write(holder())
                    file.flush()
                prepare(alone)
                if shared:
                    _take(file, "LOCK_SH")
            yield
            return
    raise OutputError(refusal(folder, ""))


def holder() -> str:
    """Who asks: for the message to others.

    Returns
    -------
    str
    """
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}"


def refusal(folder: str, who: str) -> str:
    """The message of a refused start.

    Parameters
    ----------
    folder : str
        Output.
    who : str
        Who writes there; empty where that is not known.

    Returns
    -------
    str
    """
    return (
        f"one analysis writes to an output at a time, but another writes to {folder} ({who or 'unknown process'}); "
        "wait until it is done, or choose another output"
    )


@contextmanager
def gate(folder: str) -> Iterator[None]:
    """Wait for the others that do something short in a folder.

    Parameters
    ----------
    folder : str
        The folder.

    Yields
    ------
    None
    """
    with _opened(place_of(folder), _GATE) as file:
        _take(file, "LOCK_EX")
        yield


def forget_lock(folder: str) -> None:
    """Remove the files of a lock that this process holds alone, and their folder where nothing else is in it.

    Parameters
    ----------
    folder : str
        Result folder or store on disk.
    """
    place = place_of(folder)
    with suppress(OSError):
        if set(os.listdir(place)) <= {_LOCK, _GATE}:
            # The lock goes first: who still finds it there made no gate that would stay.
            for name in (_LOCK, _GATE):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(place, name))
            os.rmdir(place)


def _open(place: str, folder: str) -> IO[str]:
    """The lock's file."""
    try:
        return _opened(place, _LOCK)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another output") from error


def _opened(place: str, name: str) -> IO[str]:
    """A file in a folder that another, at its end, may remove at any moment."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            os.makedirs(place, exist_ok=True)
            return open(os.path.join(place, name), "a+", encoding="utf-8")
    os.makedirs(place, exist_ok=True)
    return open(os.path.join(place, name), "a+", encoding="utf-8")


def _is_there(file: IO[str]) -> bool:
    """Whether an open file is still the one of its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


def _read(file: IO[str]) -> str:
    """What the holder wrote."""
    file.seek(0)
    return file.read().strip()


def _take(file: IO[str], *flags: str) -> bool:
    """Take a lock; False where another process has it. A file system without locks gives all of them."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, sum(getattr(fcntl, flag) for flag in flags))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
