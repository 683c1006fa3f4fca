"""Whose a file is: each document that daskglm writes under a name of its own says so, and no other is replaced."""

import json
import os

from daskglm.errors import OutputError
from daskglm.io import files

_PAGE = b'<span class="maker">daskglm</span>'
_TABLES = (b"participant_id\trun\terror_type\terror", b"sample\tsource\treason")


def is_ours(path: str) -> bool:
    """Tell whether daskglm wrote a document, which is told by its content.

    Parameters
    ----------
    path : str
        Path or URL of a page (.html), a JSON document or a list of what failed or was left out (.tsv).

    Returns
    -------
    bool
        False where there is no such file.
    """
    try:
        content = files.read_bytes(path)
    except OSError:
        return False
    if path.endswith(".html"):
        return _PAGE in content
    if path.endswith(".tsv"):
        return content.splitlines()[:1] in [[head] for head in _TABLES]
    try:
        held = json.loads(content)
        return "daskglm" in held.get("software", ()) or held["GeneratedBy"][0]["Name"] == "daskglm"
    except (ValueError, AttributeError, TypeError, LookupError):
        return False


def check_ours(path: str, option: str = "output") -> None:
    """Raise where a document would replace a file that daskglm did not write.

    Parameters
    ----------
    path : str
        Path or URL.
    option : str
        What to choose anew.

    Raises
    ------
    OutputError
        Naming the file.
    """
    there = files.exists(path) if files.is_url(path) else os.path.lexists(path)
    if there and not is_ours(path):
        raise OutputError(
            f"{path} was not written by daskglm, so it is not replaced; move it or choose another {option}"
        )
