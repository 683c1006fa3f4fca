"""Images -> a cohort store."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import joblib
import numpy as np
import pandas as pd

from daskglm.errors import COMMAND, DaskGLMError, ImageError, OutputError, StoreError, check_choice
from daskglm.graph.compute import cluster_description
from daskglm.graph.convert import count_coverage, write_files
from daskglm.graph.images import Preparation
from daskglm.io.conversions import (
    begin_appending,
    creation,
    forget_creation,
    journal_name,
    mend_store,
    was_created,
)
from daskglm.io.files import is_url, join, remove, write_bytes
from daskglm.io.journal import running
from daskglm.io.ownership import check_ours
from daskglm.io.provenance import run_record, software, stage
from daskglm.io.store import StoredSamples, check_target, is_store
from daskglm.io.store_writing import create_store, finish_store
from daskglm.io.urls import check_url
from daskglm.models.conversion_input import (
    already_stored,
    files_of,
    listed,
    named_samples,
    participant_rows,
    preparation_of_store,
    reference_image,
    type_of_store,
    usable_files,
)
from daskglm.models.doubts import tell_equal, tell_zeros
from daskglm.models.inputs import Choice
from daskglm.models.options import Options, checked, covered, preparation
from daskglm.models.plan import check_resources
from daskglm.models.plan_convert import plan_files
from daskglm.models.selection import selection
from daskglm.schema.datasets import participant_columns


@dataclass
class Conversion:
    """What a conversion did.

    Attributes
    ----------
    store : str
        The store.
    written, kept : list of str
        Names of the samples converted now, and of those that were there before.
    quarantined : dict
        Name of each sample left out, and why.
    n_voxels : int
        Voxels of the mask.
    list_of_quarantined : str
        Table of all samples ever left out of the store, if there are any.
    """

    store: str
    n_voxels: int
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    list_of_quarantined: str = ""


def convert(
    images: str | Sequence[str],
    output: str,
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
    progress: bool = False,
) -> Conversion:
    """Convert 3-D images to a cohort store, which ``xarray.open_zarr`` opens.

    A store that exists is appended to: files that it has are skipped, and a conversion that was interrupted
    continues. The store names a sample only once all of it is written. Its values are float32, or float64 where an
    image has more digits: stored so, scaled, or of integers longer than 16 bits.

    Parameters
    ----------
    images : glob or list of paths
        One image a subject. Samples are named by the ``sub-`` entity, else by the file.
    output : str
        The store, a folder ending in .zarr or a URL.
    participants : DataFrame or path, optional
        Table with a column participant_id (and session_id, run); its rows go into the store beside the images.
    exclude : str or sequence of str
        Subjects to leave out: ids, or files that list such (a table with a column participant_id, or an id a line).
    where : str, optional
        Condition on the participants, others are left out: "site != 'x' and age >= 18".
    mask : image, path, False or None
        Voxels to keep; None: those with data in at least `min_coverage` of the images (one more pass).
    missing : {"nan", "zero"}
        What is stored as missing: non-finite values, or those and exact zeros.
    min_coverage : float
        Fraction of the images, for `mask` None.
    smoothing_fwhm : float, 3 floats or None
        Gaussian smoothing before masking, in mm.
    on_error : {"stop", "quarantine"}
        Stop at a file that cannot be used, or leave its subject out and report it in the result and in
        ``<store>_quarantined.tsv`` beside the store.
    overwrite : bool
        Replace a store that exists.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Conversion

    Raises
    ------
    ImageError, SpaceError, CorruptImageError, DesignError, StoreError, OutputError
        From the headers and the table, before anything is written, wherever it can be known.
    """
    check_choice("on_error", on_error, ("stop", "quarantine"))
    output, options = os.fspath(output), checked(Options(mask, missing, min_coverage, smoothing_fwhm))
    for path in (output, *([images] if isinstance(images, (str, os.PathLike)) else images)):
        check_url(os.fspath(path))
    with running(journal_name(output), "convert", prepare=lambda alone: mend_store(output)) as run:
        try:
            choose, participants = selection(participants, exclude, where)
            result = write_store(
                images, output, options, participants, on_error, overwrite, progress, run.begin, choose
            )
        except OSError as error:
            if isinstance(error, DaskGLMError):
                raise
            raise OutputError(
                f"cannot write {output}: {error}; free space and give the same command again, which continues"
            ) from error
        forget_creation(output)
        _warn_of_equal(output, set(result.written))
    return result


def write_store(
    images: str | Sequence[str],
    output: str,
    options: Options,
    participants: Any = None,
    on_error: str = "stop",
    overwrite: bool = False,
    progress: bool = False,
    begin: Callable[[int], object] | None = None,
    choose: Choice | None = None,
) -> Conversion:
    """Convert as :func:`convert` does, for a caller that holds a lock of its own.

    Parameters
    ----------
    images, output, participants, on_error, overwrite, progress
        As for :func:`convert`.
    options : Options
        Mask, missing values, coverage and smoothing, checked.
    begin : callable, optional
        Called with the number of images, once they are known to be usable and to fit into memory and onto the disk.
        Then beside the store it is kept how far its creation is.
    choose : callable, optional
        From :func:`~daskglm.models.selection.selection`.

    Returns
    -------
    Conversion
    """
    timings: dict[str, float] = {}
    with stage("read headers", timings):
        check_target(output, overwrite)
        samples = named_samples(images, choose)
        files = files_of(samples)
        key = _conversion_key(files, options, participants)
        check_ours(_quarantine_list(output))
        exists = is_store(output) and (not overwrite or was_created(output, key))
        stored = StoredSamples.of(output) if exists else StoredSamples([], {}, {})
        table = participant_rows(participants, samples, stored)
        try:
            kept = already_stored(output, files, table, stored)
        except StoreError:
            if not overwrite:
                raise
            # What an interrupted conversion had written is of files or rows that have changed since.
            exists, stored, kept = False, StoredSamples([], {}, {}), set()
        new = {name: path for name, path in files.items() if name not in kept}
        how = preparation_of_store(output, options) if exists else preparation(reference_image(new, on_error), options)
        new, faults, double = usable_files(new, how, on_error, kept)
        dtype = type_of_store(output, exists, double)
    counted = not exists and options.mask_img is None
    if begin is not None:
        check_resources(plan_files(list(new.values()), how, stored.names, counted, dtype, n_bytes=0), output)
    if counted:
        with stage("find the mask", timings):
            counts, unreadable = count_coverage(new, how, on_error)
        faults |= unreadable
        new = {name: path for name, path in new.items() if name not in unreadable}
        how = replace(how, space=covered(how.space, counts, len(new), options.min_coverage))
    if begin is not None:
        begin(len(files))
    if not exists:
        given = {"missing": options.missing, "smoothing_fwhm": listed(options.smoothing_fwhm)}
        with creation(output, key) if begin is not None else nullcontext():
            create_store(output, how.space, {"software": software(), **given}, overwrite, dtype)
    elif begin is not None:
        begin_appending(output)
    return _fill(output, files, new, kept, faults, stored, table, how, dtype, on_error, progress, timings)


def _conversion_key(files: Mapping[str, str], options: Options, participants: Any) -> str:
    """Hash of what tells a conversion from others to the same store."""
    table = os.fspath(participants) if isinstance(participants, (str, os.PathLike)) else participants
    mask = os.fspath(options.mask_img) if isinstance(options.mask_img, os.PathLike) else options.mask_img
    mask = mask if isinstance(mask, (str, bool, type(None))) else np.asanyarray(getattr(mask, "dataobj", 0))
    return str(
        joblib.hash([list(files.items()), table, mask, options.missing, options.min_coverage, options.smoothing_fwhm])
    )


def _fill(
    output: str, files: Mapping[str, str], new: Mapping[str, str], kept: set[str], faults: dict[str, str],
    stored: StoredSamples, table: pd.DataFrame | None, how: Preparation, dtype: Any, on_error: str,
    progress: bool, timings: dict[str, float],
) -> Conversion:  # fmt: skip
    """Write new files to a store that there is, and declare it complete."""
    result = Conversion(output, how.space.voxels.size, kept=sorted(kept), quarantined=faults)
    columns = {} if table is None else participant_columns(table.loc[list(new)])
    label = "Converting" if progress else None
    try:
        with stage("convert", timings):
            receipts = write_files(output, new, columns, how, on_error, dtype, label) if new else []
    except DaskGLMError:
        if any(stored.names):
            # What the store had before, and names, stays usable.
            finish_store(output, {})
        raise
    for receipt in receipts:
        result.written += receipt.written
        result.quarantined |= receipt.faults
    if not how.missing_zero:
        tell_zeros({name: part for receipt in receipts for name, part in receipt.zeros.items()})
    _finish(result, files, stored.attributes.get("quarantined", {}), timings)
    if not result.written and not result.kept:
        reason = next(iter(result.quarantined.values()))
        raise ImageError(f"none of the {len(files)} images can be used, so {output} is empty; the first: {reason}")
    return result


def _warn_of_equal(store: str, written: set[str]) -> None:
    """Warn where a new sample has the bytes of another one, by the checksums that a store keeps."""
    held, seen, found = StoredSamples.of(store), dict[Any, str](), []
    sizes, sums = held.columns.get("source_size", ()), held.columns.get("source_crc32", ())
    for name, size, crc32 in zip(held.names, sizes, sums, strict=False):
        first = seen.setdefault((size, crc32), name) if name else name
        if first != name and {first, name} & written:
            found.append(f"{first} and {name}")
    tell_equal(found)


def _quarantine_list(store: str) -> str:
    """The list of what was left out of a store: beside it, under its name, for several stores may share a folder."""
    folder, name = os.path.split(store.rstrip("/") if is_url(store) else os.path.abspath(store))
    return join(folder, f"{PurePath(name).stem}_quarantined.tsv")


def _finish(
    result: Conversion, files: Mapping[str, str], before: Mapping[str, Any], timings: Mapping[str, float]
) -> None:
    """Declare the store complete, and write or remove the list of all that was ever left out of it."""
    left_out = {name: entry for name, entry in before.items() if name not in files}
    left_out |= {name: {"source": files[name], "reason": reason} for name, reason in result.quarantined.items()}
    # The columns of the store say what each sample was made of.
    made = run_record(COMMAND.get(), timings, cluster_description(), None)
    of_run = {name: made[name] for name in ("command", "finished", "cluster", "stages")}
    finish_store(result.store, {"software": made["software"], "run": of_run, "quarantined": left_out})
    result.list_of_quarantined = _quarantine_list(result.store)
    check_ours(result.list_of_quarantined)
    try:
        if left_out:
            rows = [{"sample": name, **entry} for name, entry in left_out.items()]
            table = pd.DataFrame(rows).to_csv(sep="\t", index=False)
            write_bytes(result.list_of_quarantined, table.encode())
        else:
            remove(result.list_of_quarantined)
    except OSError as error:
        raise OutputError(f"cannot write {result.list_of_quarantined}: {error}") from error
