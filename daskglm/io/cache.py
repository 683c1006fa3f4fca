"""What a pass over the images gave, kept on disk."""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import IO, Any, TypeVar
from zipfile import BadZipFile

import joblib
import numpy as np
from numpy.typing import NDArray

from daskglm.io import files
from daskglm.io.provenance import LOG
from daskglm.kernels.moments import Moments
from daskglm.kernels.noise import WhitenedFit

_FIELDS = ("gram", "cross", "power", "count", "reference", "incomplete", "gram_incomplete", "anchored", "anchor")
_RUN_FIELDS = (
    "theta", "reference", "residual_variance", "degrees_of_freedom", "count", "coefficients", "labels", "gram", "pairs",
    "r_square", "below_one",
)  # fmt: skip
T = TypeVar("T")


def kept(
    folder: str,
    kind: str,
    key: Any,
    make: Callable[[], T],
    save: Callable[[str, T], None],
    load: Callable[[str], T],
) -> T:
    """Load what was made from the same inputs before, or make it and keep it.

    Parameters
    ----------
    folder : str
        Folder of the cache.
    kind : str
        First part of the file's name.
    key : object
        All that the result depends on but for the version of daskglm; hashed.
    make, save, load : callable
        Make the value; write it to a path; read it from one.

    Returns
    -------
    object
        What `make` returned, now or before. The file is written whole or not at all; one that cannot be read is
        made anew.
    """
    path = os.path.join(folder, "daskglm", f"{kind}-{joblib.hash([version('daskglm'), key])}.npz")
    if os.path.exists(path):
        try:
            return load(path)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            LOG.warning("%s cannot be read and is made anew", path)
    value = make()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial.npz"
    save(partial, value)
    os.replace(partial, path)
    return value


def file_states(paths: Sequence[str]) -> list[tuple[str, int, int]]:
    """Path, size and version of files: what tells whether one was changed.

    Parameters
    ----------
    paths : sequence of str
        Files or URLs.

    Returns
    -------
    list of tuples
        Absolute path or URL, size in bytes and version: the time of change in ns, of a URL a digest of its ETag.
    """
    places = [path if files.is_url(path) else os.path.abspath(path) for path in paths]
    return [(place, *state) for place, state in zip(places, files.each(files.state, paths), strict=True)]


def save_arrays(path: str, arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays to a .npz file.

    Parameters
    ----------
    path : str
        A .npz file.
    arrays : sequence of arrays
        Of any shapes.
    """
    np.savez(path, *arrays)


def load_arrays(path: str) -> list[NDArray[Any]]:
    """Read what :func:`save_arrays` wrote.

    Parameters
    ----------
    path : str
        A .npz file.

    Returns
    -------
    list of arrays
    """
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{index}"] for index in range(len(file.files))]


def save_runs(path: str, runs: Sequence[WhitenedFit]) -> None:
    """Write the fits of consecutive chunks of voxels of runs to a .npz file.

    Parameters
    ----------
    path : str
        A .npz file.
    runs : sequence of WhitenedFit
        One a chunk of voxels.
    """
    arrays: dict[str, Any] = {}
    for index, item in enumerate(runs):
        arrays |= {f"{index}.{field}": getattr(item, field) for field in _RUN_FIELDS}
        arrays[f"{index}.constant"] = np.empty(0) if item.constant is None else item.constant
    np.savez(path, **arrays)


def load_runs(path: str) -> list[WhitenedFit]:
    """Read what :func:`save_runs` wrote.

    Parameters
    ----------
    path : str
        A .npz file.

    Returns
    -------
    list of WhitenedFit
    """
    with np.load(path, allow_pickle=False) as file:
        count = len({name.split(".")[0] for name in file.files})
        items = [{name: file[f"{index}.{name}"] for name in (*_RUN_FIELDS, "constant")} for index in range(count)]
    for item in items:
        item["constant"] = item["constant"] if item["constant"].size else None
        item["pairs"] = tuple((int(i), int(j)) for i, j in item["pairs"])
    return [WhitenedFit(**item) for item in items]


def save_moments(path: str | IO[bytes], moments: Sequence[Moments]) -> None:
    """Write the moments of consecutive chunks of voxels to a .npz file.

    Parameters
    ----------
    path : str or binary file
        A .npz file.
    moments : sequence of Moments
        One a chunk of voxels.
    """
    arrays: dict[str, Any] = {}
    for index, item in enumerate(moments):
        arrays |= {f"{index}.{field}": getattr(item, field) for field in _FIELDS}
        arrays[f"{index}.n_samples"] = np.array(item.n_samples)
        arrays[f"{index}.constant"] = np.empty(0) if item.constant is None else item.constant
    np.savez(path, **arrays)


def load_moments(path: str | IO[bytes]) -> list[Moments]:
    """Read what :func:`save_moments` wrote.

    Parameters
    ----------
    path : str or binary file
        A .npz file.

    Returns
    -------
    list of Moments
    """
    with np.load(path, allow_pickle=False) as file:
        count = len({name.split(".")[0] for name in file.files})
        return [
            Moments(
                **{field: file[f"{index}.{field}"] for field in _FIELDS},
                n_samples=int(file[f"{index}.n_samples"]),
                constant=file[f"{index}.constant"] if file[f"{index}.constant"].size else None,
            )
            for index in range(count)
        ]
