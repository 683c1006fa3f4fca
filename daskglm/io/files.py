"""Files on disk and objects behind URLs, by the same few functions."""

import fnmatch
import glob
import os
import posixpath
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO, TypeVar

from daskglm.io import objects

_AT_ONCE = 16
T = TypeVar("T")


def is_url(path: str) -> bool:
    """Tell whether a path is a URL, as in s3://bucket/key.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    bool
    """
    return "://" in path


def join(folder: str, *names: str) -> str:
    """A path within a folder.

    Parameters
    ----------
    folder : str
        Folder or URL.
    *names : str
        Names below it.

    Returns
    -------
    str
    """
    return posixpath.join(folder, *names) if is_url(folder) else os.path.join(folder, *names)


def exists(path: str) -> bool:
    """Tell whether there is a file.

    Parameters
    ----------
    path : str
        Path or URL of a file.

    Returns
    -------
    bool
    """
    if not is_url(path):
        return os.path.isfile(path)
    try:
        objects.object_state(path)
    except FileNotFoundError:
        return False
    return True


def list_names(folder: str) -> list[str]:
    """Names of what is directly within a folder.

    Parameters
    ----------
    folder : str
        Folder or URL.

    Returns
    -------
    list of str
        Sorted; empty where there is no such folder.
    """
    if is_url(folder):
        return objects.list_objects(folder, recursive=False)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def glob_paths(pattern: str) -> list[str]:
    """Files that match a pattern.

    Parameters
    ----------
    pattern : str
        Path or URL with ``*``, ``?`` and ``[...]``; ``**`` matches folders. A URL's objects are listed below
        the part that has none of these.

    Returns
    -------
    list of str
        Sorted.

    Raises
    ------
    OSError
        Where an object store cannot be listed.
    """
    if not is_url(pattern):
        return sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    if not glob.has_magic(pattern):
        return [pattern] if exists(pattern) else []
    scheme, _, rest = pattern.partition("://")
    parts = rest.split("/")
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = f"{scheme}://{'/'.join(parts[:fixed])}"
    found = objects.list_objects(base, recursive=fixed < len(parts) - 1 or "**" in parts)
    return [join(base, path) for path in found if _matches(path.split("/"), parts[fixed:])]


def read_bytes(path: str) -> bytes:
    """Read a file.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        FileNotFoundError where there is none.
    """
    if is_url(path):
        return objects.read_object(path)
    with open(path, "rb") as file:
        return file.read()


def open_binary(path: str) -> BinaryIO:
    """Open a file to be read from its beginning to its end, once, without landing on disk.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    binary file
        With ``read``, ``peek`` and ``seek``; close it. Seeking to the end tells the size.

    Raises
    ------
    OSError
        FileNotFoundError where there is none.
    """
    return objects.open_object(path) if is_url(path) else open(path, "rb")


def each(function: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """What a function makes of each of many files; several at a time where they are URLs, which take their time.

    Parameters
    ----------
    function : callable
        Of a path; where it raises, this does.
    paths : sequence of str
        Paths or URLs.

    Returns
    -------
    list
        In the order of the paths.
    """
    if not any(is_url(path) for path in paths):
        return [function(path) for path in paths]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, paths))


def state(path: str) -> tuple[int, int]:
    """Size of a file, and a number that changes when it does.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    size : int
        In bytes.
    version : int
        Time of change in ns; of a URL a digest of the object's ETag.

    Raises
    ------
    OSError
        FileNotFoundError where there is none.
    """
    if is_url(path):
        return objects.object_state(path)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def write_bytes(path: str, data: bytes) -> None:
    """Write a file whole or not at all; its folder is created.

    Parameters
    ----------
    path : str
        Path or URL.
    data : bytes
        Contents.

    Raises
    ------
    OSError
        Where it cannot be written; nothing is left behind.
    """
    if is_url(path):
        objects.write_object(path, data)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    partial = os.path.join(folder, f".partial-{os.getpid()}-{name}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.remove(partial)
        raise


def create_bytes(path: str, data: bytes) -> bool:
    """Write a file where there is none: of several processes that try, one succeeds.

    Parameters
    ----------
    path : str
        Path or URL.
    data : bytes
        Contents, different for every process that tries (a token): an object store may have written them though
        its answer was lost, and they tell whose they are.

    Returns
    -------
    bool
        Whether the file is there by this call; False where another one is.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    if is_url(path):
        try:
            objects.write_object(path, data, create=True)
        except FileExistsError:
            with suppress(FileNotFoundError):
                return read_bytes(path) == data
            return False
        return True
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    partial = os.path.join(folder, f".partial-{os.getpid()}-{threading.get_ident()}-{name}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            os.remove(partial)
    return True


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it; nothing where there is none.

    Parameters
    ----------
    path : str
        Path or URL.

    Raises
    ------
    OSError
        Where it cannot be removed.
    """
    if is_url(path):
        objects.remove_objects(path)
        return
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Tell whether the parts of a path match those of a pattern, as glob has it."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and parts[0][:1] != "." and _matches(parts[1:], pattern))
    hidden = bool(parts) and parts[0].startswith(".") and not pattern[0].startswith(".")
    return bool(parts) and not hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
