"""Finished rearrangements on disk: a test goes on from them."""

import io
import re
from collections.abc import Mapping
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from daskglm.errors import OutputError
from daskglm.io import files

_NAME = re.compile(r"(?P<key>[0-9a-f]+)_(?P<start>\d{9})-(?P<stop>\d{9})\.npz")
_RECORD = "analysis"


def save_unit(
    folder: str, key: str, start: int, stop: int, maxima: Mapping[str, NDArray[np.float64]],
    counts: Mapping[str, NDArray[np.int64]],
) -> None:  # fmt: skip
    """Write what a stretch of rearrangements gave, whole or not at all.

    Parameters
    ----------
    folder : str
        Folder; created if it is absent.
    key : str
        Hash of all that the numbers depend on, but for how many rearrangements are done.
    start, stop : int
        Numbers of the rearrangements.
    maxima : mapping of str to (R, stop - start) float64
        Largest statistics, by name.
    counts : mapping of str to (R, V) int64
        Counts of voxels, by name.

    Raises
    ------
    OutputError
        Where writing fails.
    """
    arrays = {f"maxima_{name}": values for name, values in maxima.items()}
    arrays |= {f"counts_{name}": values.astype(np.int32) for name, values in counts.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    try:
        files.write_bytes(files.join(folder, f"{key}_{start:09d}-{stop:09d}.npz"), buffer.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}; free space or choose another folder") from error


def load_units(
    folder: str, key: str, size: int
) -> list[tuple[int, int, dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]]:
    """Whole units from the first rearrangement on, as far as they follow one another; others of the key are removed.

    Parameters
    ----------
    folder : str
        Folder.
    key : str
        As for :func:`save_unit`.
    size : int
        Rearrangements of a whole unit.

    Returns
    -------
    list of (start, stop, maxima, counts)
        In order.
    """
    found, expected = [], 0
    for name in files.list_names(folder):
        path, match = files.join(folder, name), _NAME.fullmatch(name)
        if match is None or match["key"] != key:
            continue
        start, stop = int(match["start"]), int(match["stop"])
        arrays = _read(path) if start == expected and stop - start == size else None
        if arrays is None:
            files.remove(path)
            continue
        maxima = {item[7:]: values for item, values in arrays.items() if item.startswith("maxima_")}
        counts = {item[7:]: values.astype(np.int64) for item, values in arrays.items() if item.startswith("counts_")}
        found.append((start, stop, maxima, counts))
        expected = stop
    return found


def claim_units(folder: str, analysis: str) -> None:
    """Say whose the units of an output's own folder are; those of another analysis, which it records, are removed.

    Parameters
    ----------
    folder : str
        Folder, path or URL.
    analysis : str
        Hash of the analysis.

    Raises
    ------
    OutputError
        Where they cannot be removed, or the record not be written.
    """
    record = files.join(folder, _RECORD)
    try:
        before = files.read_bytes(record).decode() if files.exists(record) else analysis
        for name in files.list_names(folder) if before != analysis else ():
            if _NAME.fullmatch(name):
                files.remove(files.join(folder, name))
        files.write_bytes(record, analysis.encode())
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; make it writable") from error


def count_units(folder: str) -> int:
    """Rearrangements that are done.

    Parameters
    ----------
    folder : str
        Folder, path or URL.

    Returns
    -------
    int
    """
    matches = [_NAME.fullmatch(name) for name in files.list_names(folder)]
    return sum(int(match["stop"]) - int(match["start"]) for match in matches if match)


def _read(path: str) -> dict[str, NDArray[np.float64]] | None:
    """Arrays of a file; None where it is damaged."""
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
