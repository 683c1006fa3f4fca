"""What a conversion will take."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daskglm.errors import ImageError, check_choice
from daskglm.graph.convert import coverage_tree
from daskglm.graph.images import Preparation, read_with_checksum
from daskglm.graph.planning import machine
from daskglm.io.formats import NiftiHeader
from daskglm.io.nifti import read_header
from daskglm.io.store import SAMPLES_PER_CHUNK, VOXELS_PER_CHUNK, StoredSamples, check_target, is_store
from daskglm.io.store_speed import write_seconds
from daskglm.models.conversion_input import (
    already_stored,
    files_of,
    named_samples,
    participant_rows,
    preparation_of_store,
    reference_image,
    type_of_store,
    usable_files,
)
from daskglm.models.options import Options, checked, preparation
from daskglm.models.plan import Needs, Plan, count_text, files_bytes, image_memory, seconds_of, store_memory
from daskglm.models.selection import selection


def plan_conversion(
    images: str | Sequence[str],
    output: str | None = None,
    *,
    participants: Any = None,
    exclude: Any = (),
    where: str | None = None,
    mask: Any = None,
    missing: str = "nan",
    min_coverage: float = 0.5,
    smoothing_fwhm: Any = None,
    on_error: str = "stop",
    overwrite: bool = False,
    calibrate: bool = False,
) -> Plan:
    """What :func:`~daskglm.models.convert.convert` will take; nothing is written.

    Parameters
    ----------
    images, output, participants, exclude, where, mask, missing, min_coverage, smoothing_fwhm, on_error, overwrite
        As for the conversion; without `output` a new store.
    calibrate : bool
        Read an image for an estimate of the time.

    Returns
    -------
    Plan

    Raises
    ------
    DaskGLMError
        As the conversion, from headers and tables.
    """
    check_choice("on_error", on_error, ("stop", "quarantine"))
    options = checked(Options(mask, missing, min_coverage, smoothing_fwhm))
    if output is not None:
        check_target(output, overwrite)
    choose, participants = selection(participants, exclude, where)
    samples = named_samples(images, choose)
    files = files_of(samples)
    exists = output is not None and is_store(output) and not overwrite
    stored = StoredSamples.of(output) if exists and output is not None else StoredSamples([], {}, {})
    table = participant_rows(participants, samples, stored)
    kept = already_stored(output or "", files, table, stored)
    new = {name: path for name, path in files.items() if name not in kept}
    if exists and output is not None:
        how = preparation_of_store(output, options)
    else:
        how = preparation(reference_image(new, on_error), options)
    new, faults, double = usable_files(new, how, on_error, kept)
    dtype = type_of_store(output or "", exists, double)
    notes = [f"{count_text(len(kept), 'image')} in the store already"] if kept else []
    notes += [f"{count_text(len(faults), 'image')} left out, such as {next(iter(faults.values()))}"] if faults else []
    counted = mask is None and not exists
    if counted:
        notes.append("no mask is given: one more pass finds it, and until then every voxel of the grid may be in it")
    paths = list(new.values())
    header = _largest(paths) if paths else None
    plan = plan_files(paths, how, stored.names, counted, dtype, header, notes=tuple(notes))
    return _timed(plan, paths, how, counted, dtype) if calibrate and paths else plan


def conversion_needs(
    header: NiftiHeader, how: Preparation, n_images: int, counted: bool, n_threads: int, dtype: Any
) -> Needs:
    """Memory of a conversion.

    Parameters
    ----------
    header : NiftiHeader
        Of an image.
    how : Preparation
        What happens to each.
    n_images : int
        How many.
    counted : bool
        Whether a pass for the mask comes first.
    n_threads : int
        Tasks at a time, all workers together.
    dtype : numpy dtype
        Of the values of the store.

    Returns
    -------
    Needs
    """
    n_voxels, rows = how.space.voxels.size, min(n_images, SAMPLES_PER_CHUNK)
    image = image_memory(header, how)
    # The images, the chunk that they go into, and what Zarr makes of it.
    size = np.dtype(dtype).itemsize
    chunk = size * SAMPLES_PER_CHUNK * min(n_voxels, VOXELS_PER_CHUNK)
    task = 2 * size * rows * n_voxels + image + store_memory(size * rows * n_voxels, chunk)
    if not counted:
        return Needs(0, task, 0)
    # Counts wait for those that they are added to: the tree is walked depth first, so few of each level do.
    levels = coverage_tree(n_images)
    waiting = min(sum(levels), 7 * (len(levels) - 1) + n_threads) * 8 * n_voxels
    return Needs(waiting, max(task, image + 10 * n_voxels), 2 * 8 * n_voxels)


def plan_files(
    paths: Sequence[str], how: Preparation, names: Sequence[str], counted: bool, dtype: Any,
    header: NiftiHeader | None = None, n_bytes: int | None = None, notes: tuple[str, ...] = (),
) -> Plan:  # fmt: skip
    """The plan of a conversion of files whose headers were looked at.

    Parameters
    ----------
    paths : sequence of str
        Files that the store does not have.
    how : Preparation
        What happens to each.
    names : sequence of str
        Samples of the store, empty where a row is free.
    counted : bool
        Whether a pass for the mask comes first.
    dtype : numpy dtype
        Of the values of the store.
    header : NiftiHeader, optional
        The one whose image takes most memory; by default one of the grid at double
        precision, and no file is looked at.
    n_bytes : int, optional
        Of the files; by default each is asked.
    notes : tuple of str
        Notes.

    Returns
    -------
    Plan
    """
    n_images, n_voxels, where = len(paths), how.space.voxels.size, machine()
    if header is None and paths:
        double = np.dtype(np.float64)
        header = NiftiHeader(how.space.shape, how.space.affine, double, double, 2.0, 0.0, 352, b"")
    needs = Needs(0, 0, 0)
    if header is not None:
        needs = conversion_needs(header, how, n_images, counted, where.workers * where.threads, dtype)
    n_chunks, passes = len(_rows_by_chunk(names, n_images)), 2 if counted else 1
    return Plan(
        command="convert",
        what=f"{count_text(n_images, 'image')} of {'at most ' if counted else ''}{n_voxels:,} voxels",
        machine=where,
        needs=needs,
        complete=needs,
        bytes_read=passes * (files_bytes(paths) if n_bytes is None else n_bytes),
        # Checksums and metadata besides the values, and columns of the table.
        bytes_written=n_chunks * SAMPLES_PER_CHUNK * (dtype.itemsize * n_voxels + 2000) + 16 * n_voxels + 100_000,
        scratch=0,
        n_tasks=n_chunks + (sum(coverage_tree(n_images)) if counted else 0),
        notes=notes,
    )


def _timed(plan: Plan, paths: list[str], how: Preparation, counted: bool, dtype: Any) -> Plan:
    """The plan with its time, from one image."""
    try:
        # A file is read once more for its checksum.
        reading = seconds_of(lambda: read_with_checksum(paths[len(paths) // 2], how))
    except ImageError:
        return plan
    work = len(paths) * (reading * (2 if counted else 1) + how.space.voxels.size * write_seconds(dtype))
    together = min(plan.machine.workers * plan.machine.threads, max(1, plan.n_tasks))
    return replace(plan, seconds=work / together)


def _rows_by_chunk(names: Sequence[str], n_new: int) -> set[int]:
    """Chunks of samples that are written: rows that are free come first."""
    free = [index for index, name in enumerate(names) if not name][:n_new]
    size = len(names)
    return {row // SAMPLES_PER_CHUNK for row in [*free, *range(size, size + n_new - len(free))]}


def _largest(paths: Sequence[str]) -> NiftiHeader:
    """The header whose image takes most memory."""
    return max(
        (read_header(path) for path in paths),
        key=lambda item: np.prod(item.shape) * (item.on_disk.itemsize + item.in_memory.itemsize),
    )
