"""Files on disk and objects behind URLs, by the same few functions."""

import os
import posixpath
import shutil
from contextlib import suppress
from typing import BinaryIO


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
    return os.path.isfile(path)


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
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


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
        With ``read`` and ``peek``; close it.

    Raises
    ------
    OSError
        FileNotFoundError where there is none.
    """
    return open(path, "rb")


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
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
