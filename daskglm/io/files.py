"""Files on disk and objects behind URLs, by the same few functions."""

import fnmatch
import glob
import hashlib
import os
import posixpath
import re
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from daskglm.io import objects

_AT_ONCE = 16
# What is being written has a name that nobody else gives, so that after an interruption it is known.
PARTIAL = ".daskglm-partial-"
_PARTIAL = re.compile(rf"{re.escape(PARTIAL)}\d+-.+", re.DOTALL)
_HALF = re.compile(r"(?P<stem>.+)\.(?P<end>hdr|img|head|brik)(?:\.gz)?", re.DOTALL | re.IGNORECASE)
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


def absent(path: str) -> tuple[str, str] | None:
    """What a file lacks whose content is kept elsewhere, as by DataLad or Git LFS, and how to get it.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    tuple of str, or None
        What is wrong and what to do; None where it is a file like others.
    """
    if is_url(path):
        return None
    get = f"get it: datalad get {shlex.quote(path)}"
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, and nothing is there: its content is not on this machine", get
    try:
        with open(path, "rb") as file:
            start = file.read(40)
    except OSError:
        return None
    if start.startswith(b"/annex/objects/"):
        return "it is a pointer to content that is not on this machine", get
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS to content that is not on this machine", "get it: git lfs pull"
    return None


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


def parts(path: str) -> list[str]:
    """The files of an image: two where one has its header and one its values (.hdr and .img, .HEAD and .BRIK).

    Parameters
    ----------
    path : str
        Path or URL of one of them.

    Returns
    -------
    list of str
        That of the header first; a URL, and any other file, is alone.
    """
    found = None if is_url(path) else _HALF.fullmatch(path)
    if found is None:
        return [path]
    both = [["hdr", "HDR", "HEAD", "head"], ["img", "IMG", "BRIK", "brik"]]
    kind = slice(0, 2) if found["end"].lower() in ("hdr", "img") else slice(2, 4)
    names = [f"{found['stem']}.{end}{more}" for ends in both for end in ends[kind] for more in ("", ".gz")]
    return [name for name in names if os.path.isfile(name)] or [path]


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
    found = [os.stat(part) for part in parts(path)]
    return sum(status.st_size for status in found), max(status.st_mtime_ns for status in found)


def identical(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Files that have the bytes of another before them, by their sizes, a part of them and a checksum.

    Parameters
    ----------
    paths : sequence of str
        Files, or URLs, which are told apart by their ETags.

    Returns
    -------
    list of (str, str)
        That other file, and the file.
    """
    alike = each(_signature, paths)
    often = {key for key, count in Counter(alike).items() if count > 1}
    seen: dict[Any, str] = {}
    found = []
    for path, key in zip(paths, alike, strict=True):
        if key in often:
            first = seen.setdefault(key if is_url(path) else (key, _digest(path)), path)
            if first != path:
                found.append((first, path))
    return found


def _signature(path: str) -> tuple[int, Any]:
    """Size of a file and some bytes of its middle; of a URL its state; what cannot be read is like no other."""
    if is_url(path):
        return state(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size // 2)
            return size, file.read(2**14)
    except OSError:
        return -1, path


def _digest(path: str) -> str:
    """Checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


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
    partial = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{name}")
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
    partial = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{threading.get_ident()}-{name}")
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
    """Remove one file, of a link the link; nothing where there is none.

    Nothing here removes a folder with what is in it: whoever removes files names each of them.

    Parameters
    ----------
    path : str
        Path or URL.

    Raises
    ------
    OSError
        Where it cannot be removed, or is a folder.
    """
    if is_url(path):
        objects.remove_object(path)
        return
    with suppress(FileNotFoundError):
        os.remove(path)


def remove_empty(folder: str) -> None:
    """Remove a folder on disk with the folders in it, as far as no file is in them; links stay.

    Parameters
    ----------
    folder : str
        Path; of a URL nothing is there to be removed.
    """
    if is_url(folder) or os.path.islink(folder):
        return
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def remove_partial(folder: str) -> None:
    """Remove what killed processes were writing directly within a folder: known by its names, see ``PARTIAL``.

    Parameters
    ----------
    folder : str
        Path; objects are never partial.
    """
    for name in () if is_url(folder) else list_names(folder):
        place = os.path.join(folder, name)
        if not _PARTIAL.fullmatch(name) or os.path.islink(place):
            continue
        with suppress(OSError):
            if os.path.isdir(place):
                for inner in os.listdir(place):
                    remove(os.path.join(place, inner))
                os.rmdir(place)
            else:
                remove(place)


def list_below(folder: str) -> list[str]:
    """Paths, relative to a folder and with slashes, of all files below it; links to folders are not followed.

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
        return objects.list_objects(folder, recursive=True)
    found = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in found)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Tell whether the parts of a path match those of a pattern, as glob has it."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and parts[0][:1] != "." and _matches(parts[1:], pattern))
    hidden = bool(parts) and parts[0].startswith(".") and not pattern[0].startswith(".")
    return bool(parts) and not hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
