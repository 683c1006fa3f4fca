"""Files -> cohort store: one task a chunk of samples."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np

from daskglm.errors import DaskGLMError
from daskglm.graph.compute import compute
from daskglm.graph.images import Preparation, read_prepared
from daskglm.io.nifti import checksum
from daskglm.io.store import Rows, allocate, write_samples


@dataclass(frozen=True)
class Receipt:
    """What one task did.

    Attributes
    ----------
    written : list of str
        Names of the samples that are now in the store.
    faults : dict
        Name of each sample left out, and why.
    """

    written: list[str]
    faults: dict[str, str]


def write_files(
    store: str,
    files: Mapping[str, str],
    columns: Mapping[str, Any],
    how: Preparation,
    on_error: str,
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
    progress : str or None
        Show a progress bar under this name.

    Returns
    -------
    list of Receipt
        One a task. The peak memory of a task is one chunk: 64 x V float32.
    """
    names, paths = list(files), list(files.values())
    kinds = {
        "source": np.array([""], dtype=object), "source_size": np.zeros(1, np.int64),
        "source_crc32": np.zeros(1, np.int64),
    }  # fmt: skip
    shared = dask.delayed(how, pure=True)
    tasks, done = [], 0
    for target in allocate(store, len(names), {**columns, **kinds}):
        part = slice(done, done + target.rows.size)
        done = part.stop
        own = {name: values[part] for name, values in columns.items()}
        tasks.append(dask.delayed(_write_chunk)(store, target, names[part], paths[part], own, shared, on_error))
    return list(compute(*tasks, progress=progress))


def _write_chunk(
    store: str,
    target: Rows,
    names: Sequence[str],
    paths: Sequence[str],
    columns: Mapping[str, Any],
    how: Preparation,
    on_error: str,
) -> Receipt:
    """Read the files of one chunk, verified, and write the chunk whole."""
    data = np.full((len(paths), how.space.voxels.size), np.nan, np.float32)
    written, faults = list(names), {}
    sizes, checksums = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64)
    for index, (name, path) in enumerate(zip(names, paths, strict=True)):
        try:
            data[index] = read_prepared(path, how)[0]
            sizes[index], checksums[index] = os.path.getsize(path), checksum(path)
        except (DaskGLMError, OSError) as error:
            if on_error == "stop":
                raise
            written[index], faults[name] = "", str(error)
    sources = {"source": np.array(paths, dtype=object), "source_size": sizes, "source_crc32": checksums}
    write_samples(store, target, data, written, {**columns, **sources})
    return Receipt([name for name in written if name], faults)
