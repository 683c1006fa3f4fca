"""Units of work: files, and a receipt that names them before they are written and says when all are whole.

Whatever interrupts the writing, every file on disk is named by a receipt, so that it can be found and removed.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from daskglm.errors import OutputError, listing
from daskglm.io import files
from daskglm.io.nifti import write_image
from daskglm.io.store_files import remove_store

_ABSENT = -1


def write_text(path: str, text: str) -> None:
    """Write a text file whole or not at all.

    Parameters
    ----------
    path : str
        Target.
    text : str
        What to write.
    """
    files.write_bytes(path, text.encode())


@contextmanager
def unit(receipt: str, document: Mapping[str, Any], names: Sequence[str]) -> Iterator[None]:
    """Name the files of a unit, and after they were written in the body of ``with``, declare it complete.

    Parameters
    ----------
    receipt : str
        Path of the receipt (.json); the files go beside it.
    document : mapping
        What the receipt says, JSON-ready: a "key", and anything else.
    names : sequence of str
        File names; a store is one, too.

    Yields
    ------
    None

    Raises
    ------
    OutputError
        Where writing fails, or would replace what no receipt names.
    """
    folder = os.path.dirname(receipt)
    check_place(receipt, names)
    try:
        os.makedirs(folder, exist_ok=True)
        planned = {**document, "files": dict.fromkeys(names), "complete": False}
        write_text(receipt, json.dumps(planned, indent=2))
        yield
        sizes = {name: _size(os.path.join(folder, name)) for name in names}
        write_text(receipt, json.dumps({**planned, "files": sizes, "complete": True}, indent=2))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write to {folder}: {error}; free space or choose another output") from error


def check_place(receipt: str, names: Iterable[str]) -> None:
    """Raise where the files of a unit would replace others than its own.

    Parameters
    ----------
    receipt : str
        Path of the receipt.
    names : iterable of str
        Names of files beside it.

    Raises
    ------
    OutputError
        Naming what is there.
    """
    folder, held = os.path.dirname(receipt), own_receipt(receipt)
    found = [] if held is not None or not os.path.lexists(receipt) else [os.path.basename(receipt)]
    own = held.get("files", ()) if held is not None else ()
    found += [name for name in names if name not in own and os.path.lexists(os.path.join(folder, name))]
    if found:
        raise OutputError(
            f"{folder} already holds {listing(found, 3)}, which daskglm did not write; move it or choose another output"
        )


def write_unit(
    receipt: str, images: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], document: Mapping[str, Any]
) -> None:
    """Write images and tables as one unit, each whole or not at all.

    Parameters
    ----------
    receipt : str
        Path of the receipt (.json); the files go beside it.
    images : mapping of str to Nifti1Image
        File name to image.
    tables : mapping of str to DataFrame
        File name (.tsv) to table.
    document : mapping
        What the receipt says.

    Raises
    ------
    OutputError
        Where writing fails.
    """
    folder = os.path.dirname(receipt)
    with unit(receipt, document, [*images, *tables]):
        for name, image in images.items():
            write_image(image, os.path.join(folder, name))
        for name, table in tables.items():
            write_text(os.path.join(folder, name), table.to_csv(sep="\t", index=False, na_rep="n/a"))


def load_receipt(path: str) -> dict[str, Any] | None:
    """What a receipt says, complete or not.

    Parameters
    ----------
    path : str
        Path of the receipt.

    Returns
    -------
    dict or None
        None where there is none, or it is damaged.
    """
    try:
        with open(path, encoding="utf-8") as file:
            held = json.load(file)
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None


def read_receipt(path: str, key: str) -> dict[str, Any] | None:
    """The receipt of a unit that was done before, from the same inputs.

    Parameters
    ----------
    path : str
        Path of the receipt.
    key : str
        What it has to say under "key".

    Returns
    -------
    dict or None
        None where the unit is not complete, was done from other inputs, or a file is absent or of another size.
    """
    held = load_receipt(path)
    if held is None or held.get("complete") is not True or held.get("key") != key:
        return None
    named, folder = held.get("files"), os.path.dirname(path)
    if not isinstance(named, dict) or any(_size(os.path.join(folder, name)) != size for name, size in named.items()):
        return None
    return held


def remove_unit(path: str) -> None:
    """Remove the files that a receipt names, and the receipt after them; nothing where there is none.

    Parameters
    ----------
    path : str
        Path of the receipt.

    Raises
    ------
    OutputError
        Where a file cannot be removed.
    """
    held, folder = own_receipt(path), os.path.dirname(path)
    if held is None:
        return
    try:
        if held.get("complete"):
            # Interrupted from here on, the unit is not taken for whole.
            write_text(path, json.dumps({**held, "complete": False}, indent=2))
        for name in held["files"]:
            _remove(os.path.join(folder, os.path.basename(str(name))))
        _remove(path)
    except OSError as error:
        raise OutputError(f"cannot remove the files of {path}: {error}; make the folder writable") from error


def own_receipt(path: str) -> dict[str, Any] | None:
    """What a receipt says, complete or not.

    Parameters
    ----------
    path : str
        Path of the receipt.

    Returns
    -------
    dict or None
        None where there is none, it is damaged, or the file is another's.
    """
    held = load_receipt(path)
    if held is None or not {"files", "complete"} <= held.keys():
        return None
    return held if isinstance(held["files"], (dict, list)) else {**held, "files": [], "complete": False}


def _size(path: str) -> int | None:
    """Bytes of a file; None for a folder, which a store is."""
    if os.path.isdir(path):
        return None
    return os.path.getsize(path) if os.path.isfile(path) else _ABSENT


def _remove(path: str) -> None:
    """Remove a file or a store, which another process may have removed before; no other folder."""
    if not os.path.isdir(path):
        files.remove(path)
    elif path.endswith(".zarr") and not os.path.islink(path):
        remove_store(path)
