"""Files that belong to a run: by BIDS inheritance, and beside it."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from daskglm.design.first_level import LONGEST
from daskglm.errors import DesignError, ImageError
from daskglm.io.bids_tree import File, Tree, agree


def inherited(tree: Tree, root: str, entities: Mapping[str, str], suffix: str, extension: str) -> Iterator[str]:
    """Files that apply to a run, those of the nearest folder first, then those with the most entities.

    Parameters
    ----------
    tree : Tree
        Listings.
    root : str
        Folder of the dataset or pipeline.
    entities : mapping of str to str
        Of the run.
    suffix, extension : str
        As in "events", ".tsv".

    Yields
    ------
    str

    Raises
    ------
    DesignError
        Where two tables of events apply equally.
    """
    home = os.path.join(root, f"sub-{entities['sub']}")
    session = [os.path.join(home, f"ses-{entities['ses']}")] if "ses" in entities else []
    for folder in [os.path.join((session or [home])[0], "func"), *session, home, root]:
        fitting = [
            file
            for file in tree.files(folder, suffix, extension)
            if all(agree(key, value, entities.get(key, "")) for key, value in file.entities.items())
        ]
        fitting.sort(key=lambda file: (-len(file.entities), file.path))
        if suffix == "events" and len({len(file.entities) for file in fitting[:2]}) < len(fitting[:2]):
            raise DesignError(
                f"one table of events applies to a run, but two do: {fitting[0].path} and {fitting[1].path}; "
                "keep one of them or name their entities more exactly"
            )
        yield from (file.path for file in fitting)


def beside(
    files: Iterable[File], entities: Mapping[str, str], without: Sequence[str], optional: Sequence[str]
) -> str | None:
    """The file with a run's entities but for some that it never has, and some that it may have.

    Parameters
    ----------
    files : sequence of File
        The candidates.
    entities : mapping of str to str
        Of the run.
    without, optional : sequence of str
        Entities that the file never has, and may have.

    Returns
    -------
    str or None
        The one with the most entities.
    """
    needed = {key for key in entities if key not in without and key not in optional}
    best: File | None = None
    for file in files:
        own = {k: v for k, v in file.entities.items() if k != "desc"}
        fits = needed <= own.keys() and all(agree(k, v, entities.get(k, "")) for k, v in own.items())
        if fits and (best is None or len(file.entities) > len(best.entities)):
            best = file
    return None if best is None else best.path


def seconds(tree: Tree, paths: Iterable[str], key: str) -> float | None:
    """The first value of a key in some JSON files; a RepetitionTime of 0 is none.

    Parameters
    ----------
    tree : Tree
        What reads them.
    paths : sequence of str
        The files.
    key : str
        As in "RepetitionTime".

    Returns
    -------
    float or None

    Raises
    ------
    ImageError
        Where a file cannot be read or the value is no number of seconds.
    """
    for path in paths:
        value = tree.metadata(path).get(key)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and key == "RepetitionTime"):
            raise ImageError(f"{key} is a number of seconds, but it is {value!r} in {path}; correct that file")
        if key == "RepetitionTime" and value >= LONGEST:
            raise ImageError(
                f"RepetitionTime must be in seconds, got {value:g} in {path}; if these are milliseconds, write "
                f"{value / 1000:g}"
            )
        return float(value)
    return None


def truth(tree: Tree, paths: Iterable[str], key: str) -> bool | None:
    """The first value of a key in some JSON files that is true or false.

    Parameters
    ----------
    tree : Tree
        What reads them.
    paths : sequence of str
        The files.
    key : str
        As in "SliceTimingCorrected".

    Returns
    -------
    bool or None

    Raises
    ------
    ImageError
        Where a file cannot be read or the value is neither.
    """
    for path in paths:
        value = tree.metadata(path).get(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            raise ImageError(f"{key} is true or false, but it is {value!r} in {path}; correct that file")
    return None
