"""Result folders: BIDS-named maps, the design and a provenance file, all or nothing."""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import pandas as pd

from daskglm.errors import OutputError, listing, option
from daskglm.io import files
from daskglm.io.locks import place_of
from daskglm.io.nifti import write_image
from daskglm.io.ownership import is_ours
from daskglm.io.provenance import software

PROVENANCE = "provenance.json"
# Names of the files that are being written or replaced: after an interruption they are known to be no others.
_WRITING = "writing.json"
# What a run makes of its results, when they are whole.
_REPORT = "report.html"


def prepare_output(folder: str, overwrite: bool = False) -> None:
    """Make sure, before any work, that results can be written to a folder.

    What an interrupted writing left is removed.

    Parameters
    ----------
    folder : str
        The folder, path or URL; created if it is absent.
    overwrite : bool
        Allow results of daskglm that are in it to be replaced.

    Raises
    ------
    OutputError
        Where the folder is not writable or holds something, results of an earlier run included.
    """
    try:
        if not files.is_url(folder):
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        held, partial = _held(folder)
        for name in sorted(partial):
            files.remove(files.join(folder, name))
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another output") from error
    _check_held(folder, held, overwrite)


def _has_results(folder: str) -> bool:
    """Whether a folder holds whole results of daskglm."""
    return is_ours(files.join(folder, PROVENANCE))


def check_output(folder: str, overwrite: bool = False) -> None:
    """Refuse a result folder as :func:`prepare_output` does, but make and remove nothing.

    Parameters
    ----------
    folder : str
        The folder, path or URL.
    overwrite : bool
        Allow results of daskglm that are in it to be replaced.

    Raises
    ------
    OutputError
        Where the folder is not writable or holds something, results of an earlier run included.
    """
    if not files.is_url(folder):
        there = os.path.abspath(folder)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there) or not os.access(there, os.W_OK):
            raise OutputError(f"cannot write to {folder}: {there} is no folder to write to; choose another output")
    _check_held(folder, _held(folder)[0], overwrite)


def _held(folder: str) -> tuple[list[str], set[str]]:
    """Names of what a folder holds, and of those that an interrupted writing left in it."""
    held = [name for name in files.list_names(folder) if not name.startswith(".")]
    if _has_results(folder):
        return held, set()
    partial = _names(files.join(place_of(folder), _WRITING)) & set(held)
    return [name for name in held if name not in partial], partial


def _check_held(folder: str, held: list[str], overwrite: bool) -> None:
    """Raise where a folder holds something that may not be replaced."""
    if held and not _has_results(folder):
        raise OutputError(f"{folder} already holds other files ({held[0]}, ...); choose an empty or new folder")
    if held and not overwrite:
        raise OutputError(
            f"{folder} already holds results; choose another folder or give {option('overwrite=True', '--overwrite')}"
        )


def sweep(folder: str, alone: bool = True) -> None:
    """Remove what a killed process was writing to a result folder.

    Parameters
    ----------
    folder : str
        The folder, path or URL: objects are never partial.
    alone : bool
        Whether nobody else writes there.
    """
    if files.is_url(folder) or not alone:
        return
    for place in [folder, *(path for path, _, _ in os.walk(place_of(folder)))]:
        files.remove_partial(place)


def write_results(
    folder: str,
    images: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    documents: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> list[str]:
    """Write the files of one analysis; what is left behind by a failure does not look whole.

    On disk everything is written to a hidden folder first and then moved; the provenance file comes last, so a folder
    with one is complete. Files of an earlier run that its provenance names are removed, and no others replaced.

    Parameters
    ----------
    folder : str
        A folder that :func:`prepare_output` accepted, path or URL.
    images : mapping of str to Nifti1Image
        File name to image.
    tables : mapping of str to DataFrame
        File name (.tsv) to table.
    documents : mapping of str to object
        File name (.json) to JSON-ready object.
    provenance : mapping
        How the results were made.

    Returns
    -------
    list of str
        Paths written.

    Raises
    ------
    OutputError
        Where writing fails, or would replace files that no provenance of daskglm names.
    """
    names = [*images, *tables, *documents]
    documents = {**documents, PROVENANCE: {"software": software(), **provenance, "files": names}}
    try:
        _check_strange(folder, names)
        if files.is_url(folder):
            _forget_results(folder, names)
            _write(folder, images, tables, documents)
        else:
            _write_and_move(folder, images, tables, documents)
        files.remove(files.join(place_of(folder), _WRITING))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write the results to {folder}: {error}; free space or choose another") from error
    return [files.join(folder, name) for name in [*names, PROVENANCE]]


def holds_run(folder: str, run: str) -> bool:
    """Whether the results in a folder are whole and those of a run.

    Parameters
    ----------
    folder : str
        Result folder, path or URL.
    run : str
        Id of the run.

    Returns
    -------
    bool
    """
    try:
        return bool(json.loads(files.read_bytes(files.join(folder, PROVENANCE))).get("run") == run)
    except (OSError, ValueError, AttributeError):
        return False


def _write_and_move(
    folder: str, images: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], documents: Mapping[str, Any]
) -> None:
    """Write everything to a hidden folder, then move it, the provenance last."""
    staging = tempfile.mkdtemp(prefix=f"{files.PARTIAL}{os.getpid()}-", dir=folder)
    try:
        _write(staging, images, tables, documents)
        names = [*images, *tables, *documents]
        _forget_results(folder, names)
        for name in names:
            os.replace(os.path.join(staging, name), os.path.join(folder, name))
    finally:
        files.remove_partial(folder)


def _write(
    folder: str, images: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], documents: Mapping[str, Any]
) -> None:
    """Write files in their order."""
    for name, image in images.items():
        write_image(image, files.join(folder, name))
    for name, table in tables.items():
        text = table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")
        files.write_bytes(files.join(folder, name), text.encode())
    for name, document in documents.items():
        text = json.dumps(document, indent=2, allow_nan=False)
        files.write_bytes(files.join(folder, name), text.encode())


def _check_strange(folder: str, names: list[str]) -> None:
    """Raise where a folder holds files of these names that no earlier run of daskglm wrote."""
    own = {PROVENANCE, *_names(files.join(folder, PROVENANCE))} if _has_results(folder) else set()
    strange = sorted({PROVENANCE, *names}.intersection(files.list_names(folder)) - own)
    if strange:
        raise OutputError(
            f"{folder} holds {listing(strange, 3)}, which daskglm did not write; move it, then run the same command "
            "again: what was read and summed is kept"
        )


def _forget_results(folder: str, names: list[str]) -> None:
    """Remove the files of an earlier run, its provenance first; say before which names are not whole from now on."""
    path = files.join(folder, PROVENANCE)
    before = _names(path)
    if before and is_ours(files.join(folder, _REPORT)):
        before.add(_REPORT)
    text = json.dumps({"files": sorted({*names, *before})})
    files.write_bytes(files.join(place_of(folder), _WRITING), text.encode())
    files.remove(path)
    for name in before:
        files.remove(files.join(folder, name))


def _names(path: str) -> set[str]:
    """Files that a document names, none outside its folder; none where there is no such document."""
    try:
        named = json.loads(files.read_bytes(path)).get("files", [])
    except (OSError, ValueError, AttributeError):
        return set()
    return {name for name in named if isinstance(name, str) and name == os.path.basename(name) and name.strip(".")}
