"""Result folders: BIDS-named maps, the design and a provenance file, all or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import pandas as pd

from daskglm.errors import OutputError
from daskglm.io.nifti import write_image

PROVENANCE = "provenance.json"


def prepare_output(folder: str, overwrite: bool = False) -> None:
    """Make sure, before any work, that results can be written to a folder.

    Parameters
    ----------
    folder : str
        The folder; created if it is absent.
    overwrite : bool
        Allow results of daskglm that are in it to be replaced.

    Raises
    ------
    OutputError
        Where the folder is not writable or holds something, results of an earlier run included.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another output") from error
    held = [name for name in os.listdir(folder) if not name.startswith(".")]
    if held and PROVENANCE not in held:
        raise OutputError(f"{folder} already holds other files ({held[0]}, ...); choose an empty or new folder")
    if held and not overwrite:
        raise OutputError(f"{folder} already holds results; choose another folder or give --overwrite")


def write_results(
    folder: str,
    images: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    documents: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> list[str]:
    """Write the files of one analysis; what is left behind by a failure does not look whole.

    Everything is written to a hidden folder first and then moved; the provenance file comes last, so a folder
    with one is complete. Files of an earlier run that its provenance names are removed.

    Parameters
    ----------
    folder : str
        A folder that :func:`prepare_output` accepted.
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
        Where writing fails.
    """
    staging = tempfile.mkdtemp(prefix=".partial-", dir=folder)
    names = [*images, *tables, *documents]
    try:
        for name, image in images.items():
            write_image(image, os.path.join(staging, name))
        for name, table in tables.items():
            table.to_csv(os.path.join(staging, name), sep="\t", index=False, na_rep="n/a")
        for name, document in [*documents.items(), (PROVENANCE, {**provenance, "files": names})]:
            with open(os.path.join(staging, name), "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2, allow_nan=False)
        _forget_results(folder)
        for name in [*names, PROVENANCE]:
            os.replace(os.path.join(staging, name), os.path.join(folder, name))
    except OSError as error:
        raise OutputError(f"cannot write the results to {folder}: {error}; free space or choose another") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [os.path.join(folder, name) for name in [*names, PROVENANCE]]


def _forget_results(folder: str) -> None:
    """Remove the files of an earlier run, its provenance first."""
    path = os.path.join(folder, PROVENANCE)
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        names = json.load(file).get("files", [])
    os.remove(path)
    for name in names:
        target = os.path.join(folder, os.path.basename(name))
        if os.path.isfile(target):
            os.remove(target)
