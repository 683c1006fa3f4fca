"""Locks on a result folder: two analyses never write the same files."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from daskglm.errors import OutputError

_LOCK, _GATE = ".daskglm-lock", ".daskglm-gate"


@contextmanager
def lock_folder(folder: str, shared: bool, prepare: Callable[[bool], Any]) -> Iterator[None]:
    """Hold a lock on a folder, which is let go when the process ends, however it ends.

    Parameters
    ----------
    folder : str
        The folder; created if it is absent.
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
        At once, where another analysis holds the lock, or the folder is not writable.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, _LOCK), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another output") from error
    with file:
        with gate(folder):
            alone = _take(file, "LOCK_EX", "LOCK_NB")
            if not alone and not (shared and _take(file, "LOCK_SH", "LOCK_NB")):
                raise OutputError(
                    f"one analysis writes to a folder at a time, but another writes to {folder}; wait until it is "
                    "done, or choose another output"
                )
            prepare(alone)
            if shared:
                _take(file, "LOCK_SH")
        yield


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
    with open(os.path.join(folder, _GATE), "a", encoding="utf-8") as file:
        _take(file, "LOCK_EX")
        yield


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
