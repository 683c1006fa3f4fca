"""What a run will take, before it begins: bytes, memory, disk, tasks and time."""

import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from daskglm.errors import DiskSpaceError, MemoryLimitError
from daskglm.graph.images import Preparation
from daskglm.graph.planning import Machine
from daskglm.io.files import each, is_url, state
from daskglm.io.formats import NiftiHeader

MB = 2**20
# A process with everything imported, before it has any data, and what allocators keep of freed memory: measured.
_PROCESS = 190 * MB
_SLACK = 40 * MB
# The scheduler of a cluster that this process started, and the connections to it: measured.
_SCHEDULER = 30 * MB
_READ_BYTES = 4 * MB
# Chunks that Zarr has in work at a time: compressed, decoded, and copied.
_ZARR_CHUNKS = 10


@dataclass(frozen=True)
class Needs:
    """Memory of an analysis, in bytes.

    Attributes
    ----------
    held : int
        Results that one worker keeps, whatever it does meanwhile.
    per_task : int
        Most that one task takes.
    client : int
        What the process that started the analysis gathers, and makes of it.
    """

    held: int
    per_task: int
    client: int

    def of_worker(self, machine: Machine, threads: int | None = None) -> int:
        """Most that one worker has at a time.

        Parameters
        ----------
        machine : Machine
            Workers.
        threads : int, optional
            Of each, in place of those it has.

        Returns
        -------
        int
        """
        work = self.held + (threads or machine.threads) * self.per_task
        return process_memory(machine) + (work if machine.cluster else max(work, self.client))


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes
    ----------
    command, what : str
        The analysis, and the images and model in words.
    machine : Machine
        Where it runs.
    needs : Needs
        Memory: a promise, whatever the images hold.
    complete : Needs
        Memory where no voxel lacks images; the same, where that makes no difference.
    bytes_read, bytes_written, scratch : int
        Of all passes; of the results, at most; of what is kept meanwhile for an interruption, of complete images.
    n_tasks : int
        Tasks of all graphs together.
    seconds : float or None
        Estimate of the time; None where nothing was measured.
    notes : tuple of str
        What else there is to know.
    chunk : int
        Voxels of a block, where users can choose them, else 0.
    at_chunk : callable or None
        Takes the voxels of a block to the needs of complete images.
    """

    command: str
    what: str
    machine: Machine
    needs: Needs
    complete: Needs
    bytes_read: int
    bytes_written: int
    scratch: int
    n_tasks: int
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    chunk: int = 0
    at_chunk: Callable[[int], Needs] | None = field(default=None, repr=False, compare=False)

    @property
    def memory_per_worker(self) -> int:
        """Most bytes that one worker has at a time."""
        return self.needs.of_worker(self.machine)

    @property
    def memory_client(self) -> int:
        """Most bytes that the process has that starts the analysis."""
        if not self.machine.cluster:
            return self.memory_per_worker
        return process_memory(self.machine) + _SCHEDULER + self.needs.client


def check_resources(plan: Plan, output: str | None = None, kept: int = 0) -> None:
    """Raise, before a run, where it does not fit into memory or onto the disk.

    Parameters
    ----------
    plan : Plan
        What it will take.
    output : str, optional
        Result folder or store; the room behind a URL is not checked.
    kept : int
        Bytes of it that are there from an interrupted run.

    Raises
    ------
    MemoryLimitError
        With the threads, the chunk of voxels or the memory that would do.
    DiskSpaceError
        With the bytes that are needed and free.

    Warns
    -----
    UserWarning
        Where it fits only as long as few voxels lack images.
    """
    machine = plan.machine
    if plan.complete.of_worker(machine) > machine.memory:
        raise MemoryLimitError(
            f"a worker may have {size_text(machine.memory)}, but {plan.command} takes up to "
            f"{size_text(plan.complete.of_worker(machine))} on {count_text(machine.threads, 'thread')} ({plan.what}); "
            f"{_remedy(plan)}"
        )
    if machine.cluster and plan.memory_client > machine.memory_here:
        raise MemoryLimitError(
            f"{plan.command} gathers its results here and takes up to {size_text(plan.memory_client)}, but "
            f"{size_text(machine.memory_here)} are free; start it on a machine with more, or with fewer contrasts"
        )
    if plan.memory_per_worker > machine.memory:
        warnings.warn(
            f"a worker may have {size_text(machine.memory)}; {plan.command} takes up to "
            f"{size_text(plan.memory_per_worker)} if every voxel lacks an image somewhere; {_remedy(plan)}",
            stacklevel=2,
        )
    free, wanted = free_disk(output), plan.bytes_written + plan.scratch - kept
    if free is not None and wanted > free:
        raise DiskSpaceError(
            f"{plan.command} writes up to {size_text(wanted)} to {output}, but {size_text(free)} are free there; free "
            "space or choose another output"
        )


def size_text(n_bytes: float) -> str:
    """A number of bytes for people.

    Parameters
    ----------
    n_bytes : float
        Bytes.

    Returns
    -------
    str

    Examples
    --------
    >>> size_text(1_530_000_000)
    '1.53 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def count_text(number: int, noun: str) -> str:
    """A number of things, in English.

    Parameters
    ----------
    number : int
        How many.
    noun : str
        What one is called.

    Returns
    -------
    str

    Examples
    --------
    >>> count_text(1, "contrast"), count_text(10_000, "run")
    ('1 contrast', '10,000 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def process_memory(machine: Machine) -> int:
    """Memory of a process that has no data yet.

    Parameters
    ----------
    machine : Machine
        Workers.

    Returns
    -------
    int
        Bytes; of this process what it has, where it is the worker.
    """
    known = 0 if machine.cluster else int(psutil.Process().memory_info().rss)
    return max(_PROCESS, known) + _SLACK


def image_memory(header: NiftiHeader, how: Preparation) -> int:
    """Most memory that reading one image or volume takes, its vector included.

    Parameters
    ----------
    header : NiftiHeader
        Its header.
    how : Preparation
        What happens to it.

    Returns
    -------
    int
        Bytes.
    """
    grid, wide = int(np.prod(header.shape[:3])), header.in_memory.itemsize
    # The parts of the stream and their sum; or the pages of the mapped file.
    memory = 2 * grid * header.on_disk.itemsize + 3 * _READ_BYTES
    if header.slope != 1 or header.intercept != 0:
        memory += 3 * grid * wide
    elif header.on_disk != header.in_memory:
        memory += grid * wide
    if how.smoothing_fwhm is not None:
        memory += grid * (2 * wide + 3 * 8)
        # Weights of voxels that are there, for images that lack some: those in use and two that are kept.
        memory += grid * 4 * 8
    if how.target_affine is not None:
        memory += 6 * grid * 8
    return memory + how.space.voxels.size * (2 * wide + 2)


def store_memory(n_bytes: int, chunk_bytes: int) -> int:
    """Memory that reading or writing chunks of a store takes, besides the array itself.

    Parameters
    ----------
    n_bytes : int
        Of the array.
    chunk_bytes : int
        Of a chunk.

    Returns
    -------
    int
        Bytes.
    """
    return 3 * min(_ZARR_CHUNKS * chunk_bytes, n_bytes + chunk_bytes)


def map_bytes(n_grid: int, n_voxels: int) -> int:
    """Bytes of a map on disk, at most: its values do not compress, what is outside of the mask does.

    Parameters
    ----------
    n_grid, n_voxels : int
        Voxels of the grid and of the mask.

    Returns
    -------
    int
    """
    return int(8.1 * n_voxels) + n_grid // 16 + 1000


def text_bytes(n_rows: int, n_columns: int) -> int:
    """Bytes of the tables and documents beside the maps of one model, at most.

    Parameters
    ----------
    n_rows, n_columns : int
        Of the design.

    Returns
    -------
    int
    """
    # Of each row: its numbers, and in the provenance its name, its file and what tells that from another.
    return n_rows * (25 * n_columns + 600) + 100_000


def files_bytes(paths: Sequence[str]) -> int:
    """Bytes of files.

    Parameters
    ----------
    paths : sequence of str
        Files or URLs.

    Returns
    -------
    int
    """
    return sum(each(lambda path: state(path)[0], paths))


def folder_bytes(folder: str) -> int:
    """Bytes of all files below a folder.

    Parameters
    ----------
    folder : str
        Path; of a folder that is absent, or a URL, 0.

    Returns
    -------
    int
    """
    if is_url(folder) or not os.path.isdir(folder):
        return 0
    return sum(folder_bytes(entry.path) if entry.is_dir() else entry.stat().st_size for entry in os.scandir(folder))


def seconds_of(function: Callable[[], Any]) -> float:
    """Time of one call.

    Parameters
    ----------
    function : callable
        What is measured.

    Returns
    -------
    float
        Seconds.
    """
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def free_disk(output: str | None) -> int | None:
    """Bytes that are free where a run writes.

    Parameters
    ----------
    output : str or None
        Result folder or store, which need not exist.

    Returns
    -------
    int or None
        None where it is not known: behind a URL.
    """
    if output is None or is_url(output):
        return None
    folder = os.path.abspath(output)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _remedy(plan: Plan) -> str:
    """What would make a run fit into a worker."""
    machine, ways = plan.machine, []
    fits = [k for k in range(1, machine.threads) if plan.complete.of_worker(machine, k) <= machine.memory]
    if fits:
        ways.append(
            f"use {count_text(fits[-1], 'thread')} a worker (threads_per_worker of the cluster, --n-jobs or n_jobs)"
        )
    chunk = plan.chunk
    if plan.at_chunk is not None:
        while chunk > 256 and plan.at_chunk(chunk).of_worker(machine) > machine.memory:
            chunk //= 2
        if plan.at_chunk(chunk).of_worker(machine) <= machine.memory:
            ways.append(f"cut the images into blocks of {chunk} voxels (images.chunk(voxel={chunk}) in Python)")
    ways.append(f"give each worker {size_text(1.02 * plan.needs.of_worker(machine))} (memory_limit)")
    return ", or ".join(ways)
