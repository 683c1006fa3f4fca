"""Finished rearrangements on disk: a test goes on from them."""

import os
import re
from collections.abc import Mapping
from glob import escape, glob
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from daskglm.errors import OutputError

_NAME = re.compile(r"(?P<key>[0-9a-f]+)_(?P<start>\d{9})-(?P<stop>\d{9})\.npz")


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
    path = os.path.join(folder, f"{key}_{start:09d}-{stop:09d}.npz")
    arrays = {f"maxima_{name}": values for name, values in maxima.items()}
    arrays |= {f"counts_{name}": values.astype(np.int32) for name, values in counts.items()}
    partial = f"{path}.{os.getpid()}.partial"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}; free space or choose another folder") from error


def load_units(
    folder: str, key: str, size: int
) -> list[tuple[int, int, dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]]:
    """Whole units from the first rearrangement on, as far as they follow one another; others are removed.

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
    for path in sorted(glob(os.path.join(escape(folder), "*.npz*"))):
        match = _NAME.fullmatch(os.path.basename(path))
        start, stop = (int(match["start"]), int(match["stop"])) if match else (-1, -1)
        arrays = _read(path) if match and match["key"] == key and start == expected and stop - start == size else None
        if arrays is None:
            os.remove(path)
            continue
        maxima = {name.removeprefix("maxima_"): item for name, item in arrays.items() if name.startswith("maxima_")}
        counts = {
            name.removeprefix("counts_"): item.astype(np.int64)
            for name, item in arrays.items()
            if name.startswith("counts_")
        }
        found.append((start, stop, maxima, counts))
        expected = stop
    return found


def _read(path: str) -> dict[str, NDArray[np.float64]] | None:
    """Arrays of a file; None where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
