"""What is known of a store while it is made, beside it: so that whatever interrupts the making can be mended."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from daskglm.errors import OutputError
from daskglm.io import files
from daskglm.io.locks import place_of
from daskglm.io.store_files import ARRAYS, array_names, remove_partial_files, remove_store

_CREATION = "creation.json"


def journal_name(store: str) -> str:
    """The name under which a store's lock and record go beside it, whatever it ends in.

    Parameters
    ----------
    store : str
        Path or URL.

    Returns
    -------
    str
    """
    store = store.rstrip("/")
    return store if store.endswith(".zarr") else f"{store}.zarr"


def mend_store(store: str) -> None:
    """Remove what a killed conversion was writing: a store that was half created or half removed, parts of chunks.

    Parameters
    ----------
    store : str
        Path or URL; its lock is held.

    Raises
    ------
    OutputError
        Where that cannot be removed.
    """
    state = _creation(store)
    try:
        if state.get("created") is False:
            remove_store(store, map(str, state.get(ARRAYS, ())))
            files.remove(_path(store))
        elif state:
            remove_partial_files(store)
    except OSError as error:
        raise OutputError(f"cannot mend {store}: {error.strerror or error}; make it writable") from error


def was_created(store: str, key: str) -> bool:
    """Whether an interrupted conversion of the same images had created the store: then it is gone on with.

    Parameters
    ----------
    store : str
        Path or URL.
    key : str
        Hash of the images and what is done to them.

    Returns
    -------
    bool
    """
    return _creation(store).get("created") is True and _creation(store).get("key") == key


@contextmanager
def creation(store: str, key: str) -> Iterator[None]:
    """Create a store in the body of ``with``: killed there, it is known to be half created.

    Parameters
    ----------
    store : str
        Path or URL.
    key : str
        As for :func:`was_created`.

    Yields
    ------
    None

    Raises
    ------
    OutputError
        Where that cannot be written.
    """
    _tell(store, key, False, array_names(store))
    yield
    _tell(store, key, True)


def begin_appending(store: str) -> None:
    """Say that a store, which was whole, is added to.

    Parameters
    ----------
    store : str
        Path or URL.
    """
    if not _creation(store):
        _tell(store, "", True)


def forget_creation(store: str) -> None:
    """Remove what was known; the store is whole.

    Parameters
    ----------
    store : str
        Path or URL.
    """
    with suppress(OSError):
        files.remove(_path(store))


def _tell(store: str, key: str, created: bool, arrays: Sequence[str] = ()) -> None:
    """Write how far the creation is."""
    try:
        files.write_bytes(_path(store), json.dumps({"key": key, "created": created, ARRAYS: arrays}).encode())
    except OSError as error:
        raise OutputError(f"cannot write beside {store}: {error.strerror or error}; choose another output") from error


def _creation(store: str) -> dict[str, Any]:
    """How far the creation is; empty where nothing is known."""
    try:
        held = json.loads(files.read_bytes(_path(store)))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _path(store: str) -> str:
    """Where that is written."""
    return files.join(place_of(journal_name(store)), _CREATION)
