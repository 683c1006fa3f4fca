"""The files that a store is made of, by the names that it records; what else lies in its folder is another's."""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from daskglm.io import files

# Attribute of a store: names of the arrays that were made in it.
ARRAYS = "arrays"
_METADATA = "zarr.json"
# What zarr calls a file on disk while it writes it.
_PARTIAL = r"\.[0-9a-f]{32}\.partial"


def array_names(path: str) -> list[str]:
    """Names of the arrays that daskglm made in a store.

    Parameters
    ----------
    path : str
        Folder or URL.

    Returns
    -------
    list of str
        Sorted; of a store that does not record them, all arrays; empty where there is no store.
    """
    attributes = _attributes(path)
    if "format_version" not in attributes:
        return []
    names = attributes.get(ARRAYS)
    if names is None:
        names = [name for name in files.list_names(path) if files.exists(files.join(path, name, _METADATA))]
    return sorted(name for name in names if isinstance(name, str))


def remove_store(path: str, recorded: Iterable[str] = ()) -> None:
    """Remove a store of daskglm, whole or half made: the files of its arrays, then what records their names.

    Parameters
    ----------
    path : str
        Folder or URL.
    recorded : iterable of str
        Names of arrays that another record says, where that of the store may be lost.

    Raises
    ------
    OSError
        Where a file cannot be removed.
    """
    remove_partial_files(path)
    for name in {*recorded, *array_names(path)}:
        remove_array(path, name)
    if "format_version" in _attributes(path):
        files.remove(files.join(path, _METADATA))
    files.remove_empty(path)


def remove_array(path: str, name: str) -> None:
    """Remove an array of a store: its chunks, then its metadata.

    Parameters
    ----------
    path : str
        Folder or URL of the store.
    name : str
        The array.

    Raises
    ------
    OSError
        Where a file cannot be removed.
    """
    folder = _folder(path, name)
    if folder is None:
        return
    _remove(folder, r"c(/\d+)*")
    files.remove(files.join(folder, _METADATA))
    files.remove_empty(folder)


def remove_partial_files(path: str) -> None:
    """Remove what killed processes were writing to a store on disk, and the folders that this leaves empty.

    Parameters
    ----------
    path : str
        Folder, or a URL: objects are never partial.

    Raises
    ------
    OSError
        Where a file cannot be removed.
    """
    if files.is_url(path):
        return
    for name in files.list_names(path):
        if re.fullmatch(rf"zarr{_PARTIAL}", name):
            files.remove(os.path.join(path, name))
    for folder in filter(None, (_folder(path, name) for name in array_names(path))):
        _remove(folder, rf"([^/]+/)*[^/]+{_PARTIAL}")
        files.remove_empty(folder)


def _attributes(path: str) -> dict[str, Any]:
    """Attributes of a store; empty where there is none."""
    try:
        held = json.loads(files.read_bytes(files.join(path, _METADATA)))["attributes"]
    except (OSError, ValueError, TypeError, LookupError):
        return {}
    return held if isinstance(held, dict) else {}


def _folder(path: str, name: str) -> str | None:
    """Folder of an array; None where it is a link to elsewhere, or the name is none."""
    folder = files.join(path, name)
    if "/" in name or name in ("", ".", "..") or (not files.is_url(path) and os.path.islink(folder)):
        return None
    return folder


def _remove(folder: str, pattern: str) -> None:
    """Remove the files below a folder whose paths match a pattern."""
    own = re.compile(pattern)
    files.each(files.remove, [files.join(folder, name) for name in files.list_below(folder) if own.fullmatch(name)])
