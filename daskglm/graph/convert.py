"""Files -> cohort store: one task a chunk of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.errors import DaskGLMError, StorageError
from daskglm.graph.compute import compute, shared, task
from daskglm.graph.images import Preparation, part_of_zeros, read_prepared, read_with_checksum
from daskglm.graph.progress import Work
from daskglm.io.files import state
from daskglm.io.store import SAMPLES_PER_CHUNK
from daskglm.io.store_writing import Rows, allocate, write_samples
from daskglm.schema.datasets import SOURCE_COLUMNS

# Counts of so many chunks are added by one task: none but the last go to the client.
_COUNTS_TOGETHER = 8


@dataclass(frozen=True)
class Receipt:
    """What one task did.

    Attributes
    ----------
    written : list of str
        Names of the samples that are now in the store.
    faults : dict
        Name of each sample left out, and why.
    zeros : dict
        Name of each sample, and the part of the voxels at which it is zero and others of the task are not.
    """

    written: list[str]
    faults: dict[str, str]
    zeros: dict[str, float]


def write_files(
    store: str,
    files: Mapping[str, str],
    columns: Mapping[str, Any],
    how: Preparation,
    on_error: str,
    dtype: Any = np.float32,
    progress: str | None = None,
) -> list[Receipt]:
    """Convert files into a store, each chunk of samples in a task of its own.

    Parameters
    ----------
    store : str
        A store; its space is that of `how`.
    files : mapping of str to str
        Sample name to path, of samples that the store does not have.
    columns : mapping of str to (n,) array
        Columns of the participants table, in the order of `files`.
    how : Preparation
        What happens to each image.
    on_error : {"stop", "quarantine"}
        Raise at the first file that cannot be read, or leave its sample out and go on.
    dtype : numpy dtype
        Of the values of the store.
    progress : str or None
        Show a progress bar under this name.

    Returns
    -------
    list of Receipt
        One a task. The peak memory of a task is one chunk: 64 x V values.
    """
    names, paths = list(files), list(files.values())
    kinds = {name: np.zeros(1, object if name == "source" else np.int64) for name in SOURCE_COLUMNS}
    once = shared("preparation", how)
    tasks, done = [], 0
    for target in allocate(store, len(names), {**columns, **kinds}):
        part = slice(done, done + target.rows.size)
        done = part.stop
        own = {name: values[part] for name, values in columns.items()}
        sources = dict(zip(names[part], paths[part], strict=True))
        tasks.append(task("write-chunk", _write_chunk, store, target, sources, own, once, on_error, dtype))
    work = None if progress is None else Work(progress, len(names), "write-chunk")
    return list(compute(*tasks, progress=work))


def count_coverage(
    files: Mapping[str, str], how: Preparation, on_error: str
) -> tuple[NDArray[np.int64], dict[str, str]]:
    """Count the files in which each voxel is finite and not zero.

    Parameters
    ----------
    files : mapping of str to str
        Sample name to path.
    how : Preparation
        What happens to each image; V voxels.
    on_error : {"stop", "quarantine"}
        Raise at the first file that cannot be read, or leave it out and go on.

    Returns
    -------
    counts : (V,) int64
    faults : dict
        Name of each sample left out, and why.

    Raises
    ------
    ImageError
        For "stop", naming the file.
    """
    names, once = list(files), shared("preparation", replace(how, coverage=True))
    parts = [names[start : start + SAMPLES_PER_CHUNK] for start in range(0, len(names), SAMPLES_PER_CHUNK)]
    tasks = [
        task("count-observed", _count_chunk, {name: files[name] for name in part}, once, on_error) for part in parts
    ]
    while len(tasks) > 1:
        groups = [tasks[start : start + _COUNTS_TOGETHER] for start in range(0, len(tasks), _COUNTS_TOGETHER)]
        tasks = [task("add-observed", _add_counts, group) for group in groups]
    ((counts, faults),) = compute(*tasks)
    return counts, faults


def coverage_tree(n_files: int) -> list[int]:
    """Tasks of :func:`count_coverage`.

    Parameters
    ----------
    n_files : int
        How many files there are.

    Returns
    -------
    list of int
        How many read files; how many add what some of those counted; and so on, to one.
    """
    levels = [-(-n_files // SAMPLES_PER_CHUNK)]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // _COUNTS_TOGETHER))
    return levels


def _add_counts(parts: Sequence[tuple[NDArray[np.int64], dict[str, str]]]) -> tuple[NDArray[np.int64], dict[str, str]]:
    """Coverage of the files of all parts."""
    counts, faults = np.zeros_like(parts[0][0]), dict[str, str]()
    for some, found in parts:
        counts += some
        faults |= found
    return counts, faults


def _count_chunk(files: Mapping[str, str], how: Preparation, on_error: str) -> tuple[NDArray[np.int64], dict[str, str]]:
    """Coverage of some files, one read after the other."""
    counts, faults = np.zeros(how.space.voxels.size, np.int64), {}
    for name, path in files.items():
        try:
            values = read_prepared(path, how)[0]
        except StorageError:
            raise
        except DaskGLMError as error:
            if on_error == "stop":
                raise
            faults[name] = str(error)
        else:
            counts += values != 0
    return counts, faults


def _write_chunk(
    store: str,
    target: Rows,
    files: Mapping[str, str],
    columns: Mapping[str, Any],
    how: Preparation,
    on_error: str,
    dtype: Any,
) -> Receipt:
    """Read the files of one chunk, verified, and write the chunk whole."""
    names, paths = list(files), list(files.values())
    data = np.full((len(paths), how.space.voxels.size), np.nan, dtype)
    written, faults, looks = list(names), {}, {}
    sources = {name: np.zeros(len(paths), np.int64) for name in SOURCE_COLUMNS[1:]}
    for index, (name, path) in enumerate(zip(names, paths, strict=True)):
        try:
            # The state first: a change while reading shows as one, later.
            size, version = state(path)
            (data[index],), crc32, looks[name] = read_with_checksum(path, how)
            for column, value in zip(sources.values(), (size, version, crc32), strict=True):
                column[index] = value
        except StorageError:  # says nothing of the file
            raise
        except (DaskGLMError, OSError) as error:
            if on_error == "stop":
                raise
            written[index], faults[name] = "", str(error)
    write_samples(store, target, data, written, {**columns, "source": np.array(paths, dtype=object), **sources})
    zeros = part_of_zeros(list(looks.values()), data.shape[1])
    return Receipt(list(looks), faults, dict(zip(looks, zeros, strict=True)))
