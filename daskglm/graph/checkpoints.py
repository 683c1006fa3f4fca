"""The one pass over the images in units that are kept on disk: what a run did, the next one loads."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from daskglm.graph.compute import _active_client, compute
from daskglm.graph.failures import explained
from daskglm.graph.glm import SUM_TOGETHER, block_sums, total_moments
from daskglm.graph.progress import Work, shown
from daskglm.io.checkpoints import finished, load_checkpoint, save_checkpoint
from daskglm.io.files import join
from daskglm.kernels.basis import Basis
from daskglm.kernels.moments import Array

# A pass over fewer bytes takes seconds: it is done again.
_WORTH_BYTES = 2**30
# A unit reads at least so many times the bytes that it writes, where no value is missing.
_READ_TO_WRITTEN = 80
_MOST_UNITS = 1024
# A task loads so many units, as a power of two, and adds them.
_LOAD_LEVELS = 5


@dataclass(frozen=True)
class Units:
    """How the pass is split: by the shapes of the data and the design alone.

    Attributes
    ----------
    levels : int
        Blocks of samples are added in pairs so many times within a unit.
    shape : tuple of int
        Units along samples and voxels.
    """

    levels: int
    shape: tuple[int, int]

    @property
    def names(self) -> NDArray[Any]:
        """Name of the checkpoint of each unit."""
        names = np.empty(self.shape, dtype=object)
        for index in np.ndindex(self.shape):
            names[index] = "{:05d}-{:05d}.npz".format(*index)
        return names


def units_of(data: da.Array, rank: int) -> Units | None:
    """Split the pass over images.

    Parameters
    ----------
    data : (n, V) dask array
        Images.
    rank : int
        Columns r of the basis of the design.

    Returns
    -------
    Units or None
        None where there is little to read, or it would be one unit. A unit has so many samples that the 8 (r + 3)
        bytes that it writes of a voxel are at most an eightieth of those it reads, and there are at most 1024.
    """
    if data.nbytes <= _WORTH_BYTES:
        return None
    rows = _READ_TO_WRITTEN * 8 * (rank + 3) / data.dtype.itemsize
    levels, (n_blocks, n_chunks) = 0, data.numblocks
    while (n_groups := -(-n_blocks // SUM_TOGETHER**levels)) > 1 and (
        data.chunks[0][0] * SUM_TOGETHER**levels < rows or n_groups * n_chunks > _MOST_UNITS
    ):
        levels += 1
    return Units(levels, (n_groups, n_chunks)) if n_groups * n_chunks > 1 else None


def sum_in_units(
    data: da.Array, basis: Basis, design: Array, units: Units, folder: str, n_jobs: int | None = None,
    progress: str | None = None,
) -> da.Array:  # fmt: skip
    """Sum the moments of images, each unit written by its task; units whose checkpoints are there are not done.

    Parameters
    ----------
    data, basis, design
        As for :func:`~daskglm.graph.glm.sum_moments`.
    units : Units
        From :func:`units_of`.
    folder : str
        Where the checkpoints are, path or URL, which the workers see, too.
    n_jobs : int or None
        Threads, where no cluster is active.
    progress : str or None
        Show progress under this name.

    Returns
    -------
    dask.array.Array
        (v,) objects, the same to the last bit as those of :func:`~daskglm.graph.glm.sum_moments`; lazy, from the
        checkpoints.
    """
    done, names = finished(folder), units.names
    paths = np.empty(names.shape, dtype=object)
    for index in np.ndindex(names.shape):
        paths[index] = join(folder, str(names[index]))
    tasks = _tasks_of_units(block_sums(data, basis, design), units, paths)
    missing = [tasks[index] for index in np.ndindex(names.shape) if names[index] not in done]
    if missing:
        _finish(missing, names.size, n_jobs, progress, data.shape[0])
    return total_moments(_loaded(paths))


def _tasks_of_units(sums: da.Array, units: Units, paths: NDArray[Any]) -> NDArray[Any]:
    """One task a unit, which reads block after block, adds neighbours, and writes: nothing of it travels."""
    (lazy,) = dask.optimize(sums)
    graph = dict(lazy.dask)
    added = _added({index: graph.pop((sums.name, *index)) for index in np.ndindex(sums.numblocks)}, units.levels)
    name = f"keep-moments-{tokenize(sums.name, paths.tolist())}"
    keys = {index: (name, *index) for index in np.ndindex(units.shape)}
    graph |= {key: (_save, added[index], paths[index]) for index, key in keys.items()}
    whole = HighLevelGraph.from_collections(name, graph)
    tasks = np.empty(units.shape, dtype=object)
    for index, key in keys.items():
        tasks[index] = Delayed(key, whole, layer=name)
    return tasks


def _loaded(paths: NDArray[Any]) -> da.Array:
    """Moments that are kept, some added by the task that loads them."""
    parts = _added({index: (_load, paths[index]) for index in np.ndindex(paths.shape)}, _LOAD_LEVELS)
    name = f"load-moments-{tokenize(paths.tolist())}"
    n_groups, n_chunks = (last + 1 for last in max(parts))
    whole = HighLevelGraph.from_collections(name, {(name, *index): task for index, task in parts.items()})
    return da.Array(whole, name, ((1,) * n_groups, (1,) * n_chunks), meta=np.empty((0, 0), object))


def _added(tasks: dict[tuple[int, ...], Any], levels: int) -> dict[tuple[int, ...], Any]:
    """Neighbours along the samples added so many times: levels of the tree by which all are added anyway.

    A task within a task is run by it, the first one first: few moments are alive at a time.
    """
    for _ in range(levels):
        pairs: dict[tuple[int, ...], list[Any]] = {}
        for (row, column), task in tasks.items():
            pairs.setdefault((row // SUM_TOGETHER, column), []).append(task)
        tasks = {index: (_add, parts) for index, parts in pairs.items()}
    return tasks


def _finish(tasks: Sequence[Any], total: int, n_jobs: int | None, progress: str | None, n_images: int) -> None:
    """Run tasks; on a cluster a finished one is let go at once, so that no worker's end brings it back."""
    client, worth = _active_client(), n_images / total
    before = round(worth * (total - len(tasks)))
    if client is None:
        work = None if progress is None else Work(progress, n_images, "keep-moments", before)
        compute(*tasks, n_jobs=n_jobs, progress=work)
        return
    from distributed import as_completed

    done = total - len(tasks)
    silent: Any = nullcontext(_nothing)
    futures = as_completed(client.compute(list(tasks)))
    try:
        with explained(tasks, client), silent if progress is None else shown(progress, n_images, before) as tell:
            for future in futures:
                if future.status != "finished":  # the receipt says no more: it need not be asked for
                    future.result()
                future.release()
                done += 1
                tell(round(worth * done, 6))
    finally:
        # After an error or an interruption nobody waits for the rest.
        futures.clear()


def _nothing(_: float) -> None:
    """Tell nobody."""


def _add(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Sum of neighbours, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _save(moments: NDArray[Any], path: str) -> str:
    """Write the moments of a unit; the receipt is its path."""
    save_checkpoint(path, moments.item())
    return path


def _load(path: str) -> NDArray[Any]:
    """The moments of a unit."""
    loaded = np.empty((1, 1), dtype=object)
    loaded[0, 0] = load_checkpoint(path)
    return loaded
