"""Names people give to things, made safe for file names and kept apart."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from daskglm.errors import ContrastError, ImageError, listing

_SUBJECT = re.compile(r"(?:^|[/\\_])(sub-[A-Za-z0-9+]+)(?=[_/\\.]|\Z)")
_ENTITY = re.compile(r"(?:^|[/\\_])(ses|run)-([A-Za-z0-9+]+)")
# File systems take names of 255 bytes, and the label is not all of the name.
_MAX_LABEL = 120
_ENDS, _PACKED = ("nii", "img", "hdr", "mgh", "mgz", "brik", "head"), (".gz", ".bz2", ".zst", "")
IMAGE_SUFFIXES = tuple(f".{end}{more}" for more in _PACKED for end in _ENDS)
"""Ends of the names of images, the longest first."""
_OPERATORS = {"-": " minus ", "+": " plus ", ">": " gt ", "<": " lt ", "/": " over ", "*": " times "}


def bids_label(name: str) -> str:
    r"""Make a BIDS label of a contrast's name: letters and digits, in camel case, as nilearn but capitals are kept.

    Accents are taken off; any other letter that BIDS does not have is written as its code point.

    Parameters
    ----------
    name : str
        Any text.

    Returns
    -------
    str
        Matches ``[A-Za-z0-9]+``.

    Raises
    ------
    ContrastError
        If nothing is left, or too much for the name of a file.

    Examples
    --------
    >>> bids_label("face - house"), bids_label("C(site)[T.B]"), bids_label("reappraisal_success")
    ('faceMinusHouse', 'CSiteTB', 'reappraisalSuccess')
    >>> bids_label("été - \u9762")
    'eteMinusU9762'
    """
    # A minus between words is an operator; the one inside "sub-01" is read the same way, as nilearn does.
    for symbol, word in _OPERATORS.items():
        name = name.replace(symbol, word)
    name = "".join(_in_ascii(character) for character in unicodedata.normalize("NFKD", name))
    words = re.findall(r"[A-Za-z0-9]+", name)
    if not words:
        raise ContrastError(f"a contrast's name has at least one letter or digit, but this is {name!r}")
    label = words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
    if len(label) > _MAX_LABEL:
        raise ContrastError(
            f"a contrast's label in file names has up to {_MAX_LABEL} characters, but that of {name[:60]!r}... has "
            f"{len(label)}; give the contrast a short name, as in new_name=definition"
        )
    return label


def _in_ascii(character: str) -> str:
    """A character of a decomposed name: itself, its code point where it is a letter or symbol, else a blank."""
    if character.isascii():
        return character
    if "\u0300" <= character <= "\u036f":  # an accent of the letter before
        return ""
    return f" U{ord(character):04X} " if unicodedata.category(character)[0] in "LNSM" else " "


def bids_labels(names: Iterable[str]) -> dict[str, str]:
    """Labels of several contrasts, refused where two would share a file.

    Parameters
    ----------
    names : iterable of str
        Names of contrasts.

    Returns
    -------
    dict
        Name to label.

    Raises
    ------
    ContrastError
        Where two labels are equal, also ignoring case: they would be one file on many file systems.
    """
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        label = bids_label(name)
        other = taken.setdefault(label.casefold(), name)
        if other != name or name in labels:
            raise ContrastError(
                f"contrasts {other!r} and {name!r} would both be written as 'contrast-{label}'; "
                "name one of them, as in new_name=definition"
            )
        labels[name] = label
    return labels


def stem(path: str) -> str:
    """File name without folders and image suffixes.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    str

    Examples
    --------
    >>> stem("maps/sub-01_stat-z.nii.gz")
    'sub-01_stat-z'
    """
    name = PurePath(path).name
    return next((name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), name)


def subject_id(path: str) -> str | None:
    """The ``sub-<label>`` entity of a path: of the file name, else of the nearest folder.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    str or None

    Examples
    --------
    >>> subject_id("out/sub-02/sub-02_task-x.nii.gz"), subject_id("map_1.nii.gz")
    ('sub-02', None)
    """
    found = _SUBJECT.findall(str(path))
    return found[-1] if found else None


def sample_ids(paths: Sequence[str]) -> list[str]:
    """Names of the images at some paths.

    Parameters
    ----------
    paths : sequence of str
        Paths or URLs.

    Returns
    -------
    list of str
        One a path, all different: the subject, with its session and run where subjects repeat; without subjects the
        file's stem, or the nearest folder where files of different folders have one name.

    Raises
    ------
    ImageError
        Where one file is given twice, or two files cannot be told apart by name.
    """
    check_unique([path if "://" in path else os.path.realpath(path) for path in paths], "the same image is given twice")
    subjects = [subject_id(path) for path in paths]
    if None not in subjects and len(set(subjects)) == len(subjects):
        return [str(subject) for subject in subjects]
    if None not in subjects:
        for entities in (("ses",), ("run",), ("ses", "run")):
            names = [
                _with_entities(str(subject), path, entities) for subject, path in zip(subjects, paths, strict=True)
            ]
            if "" not in names and len(set(names)) == len(names):
                return names
    levels = [[stem(path), *PurePath(path).parts[-2::-1]] for path in paths]
    for level in zip(*levels, strict=False):
        if len(set(level)) == len(level):
            return list(level)
    return [str(path) for path in paths]


def _with_entities(subject: str, path: str, entities: Sequence[str]) -> str:
    """A subject with the session or run of a path; empty where it has none."""
    found = dict(_ENTITY.findall(path))
    parts = [f"{name}-{found[name]}" for name in entities if name in found]
    return "_".join([subject, *parts]) if len(parts) == len(entities) else ""


def check_unique(names: Sequence[str], rule: str) -> None:
    """Raise ImageError naming what occurs more than once.

    Parameters
    ----------
    names : sequence of str
        Names.
    rule : str
        What they have to be, for the message.

    Raises
    ------
    ImageError
        Naming those that occur more than once.
    """
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise ImageError(f"{rule}: {listing(dict.fromkeys(twice))}; give each once")
