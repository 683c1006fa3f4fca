"""Sums of the images kept beside the results until these are whole."""

import io
import re
from zipfile import BadZipFile

from daskglm.errors import OutputError
from daskglm.io import files
from daskglm.io.cache import load_moments, save_moments
from daskglm.io.locks import place_of
from daskglm.kernels.moments import Moments

_NAME, _KEY = re.compile(r"\d{5}-\d{5}\.npz"), re.compile(r"[0-9a-f]{32}")


def checkpoint_folder(output: str, key: str) -> str:
    """Folder of the checkpoints of an analysis.

    Parameters
    ----------
    output : str
        Result folder; path or URL.
    key : str
        Hash of all that the sums depend on.

    Returns
    -------
    str
    """
    return files.join(_all(output), key)


def finished(folder: str) -> set[str]:
    """Names of whole checkpoints.

    Parameters
    ----------
    folder : str
        Of :func:`checkpoint_folder`.

    Returns
    -------
    set of str
    """
    return {name for name in files.list_names(folder) if _NAME.fullmatch(name)}


def count_checkpoints(output: str) -> int:
    """Number of checkpoints of an output.

    Parameters
    ----------
    output : str
        Result folder; path or URL.

    Returns
    -------
    int
    """
    folder = _all(output)
    return sum(len(finished(files.join(folder, key))) for key in files.list_names(folder))


def forget_checkpoints(output: str, but: str | None = None) -> None:
    """Remove the checkpoints of an output.

    Parameters
    ----------
    output : str
        Result folder; path or URL.
    but : str, optional
        Key of an analysis whose checkpoints stay.

    Raises
    ------
    OutputError
        Where they cannot be removed.
    """
    folder = _all(output)
    try:
        for key in files.list_names(folder):
            if key != but and _KEY.fullmatch(key):
                for name in finished(files.join(folder, key)):
                    files.remove(files.join(folder, key, name))
        files.remove_empty(folder)
    except OSError as error:
        raise OutputError(f"cannot remove {folder}: {error.strerror or error}; make it writable") from error


def save_checkpoint(path: str, moments: Moments) -> None:
    """Write the moments of a unit, whole or not at all.

    Parameters
    ----------
    path : str
        Path or URL.
    moments : Moments
        Of V voxels.

    Raises
    ------
    OutputError
        Where writing fails.
    """
    buffer = io.BytesIO()
    save_moments(buffer, [moments])
    try:
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"cannot write {path}: {reason}; free space and run the same command again, or choose another output"
        ) from error


def load_checkpoint(path: str) -> Moments:
    """Read what :func:`save_checkpoint` wrote.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    Moments

    Raises
    ------
    OutputError
        Where it is damaged.
    """
    try:
        return load_moments(io.BytesIO(files.read_bytes(path)))[0]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise OutputError(f"{path} is damaged: {error}; remove it and run the same command again") from error


def _all(output: str) -> str:
    """Folder of all checkpoints of an output."""
    return files.join(place_of(output), "moments")
