"""Names of BIDS files, and the folders that hold them."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from daskglm.errors import ImageError

# Entities that tell files of one run apart, not runs.
VARIANTS = ("echo", "part", "hemi", "space", "cohort", "res", "den", "desc")
FILTER_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", *VARIANTS)
IMAGES = (".nii.gz", ".nii")
_INDICES = ("run", "echo")  # run-1 is run-01
# Labels may have a plus since BIDS 1.10.
_NAME = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9+]+_)+)([A-Za-z0-9]+)(\.[A-Za-z0-9.]+)")

# Entities, and the values that each may have; "" stands for files without the entity.
Wanted = list[tuple[str, set[str]]]


class File(NamedTuple):
    """A file whose name is BIDS, and the folder of its pipeline."""

    path: str
    entities: dict[str, str]
    pipeline: str = ""


class Tree:
    """Listings and JSON files, each read once.

    Attributes
    ----------
    misnamed : list of str
        BOLD images that were met and are not named as BIDS says.
    """

    def __init__(self) -> None:
        self.misnamed: list[str] = []
        self._listings: dict[str, tuple[list[str], dict[tuple[str, str], list[File]]]] = {}
        self._metadata: dict[str, dict[str, Any]] = {}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder.

        Parameters
        ----------
        folder : str
            Its path; it need not exist.

        Returns
        -------
        list of str, sorted
        """
        return self._list(folder)[0]

    def files(self, folder: str, suffix: str, *extensions: str) -> list[File]:
        """Files of a folder that have a suffix and one of some extensions.

        Parameters
        ----------
        folder : str
            Its path; it need not exist.
        suffix : str
            As in "bold".
        *extensions : str
            As in ".nii.gz", ".nii".

        Returns
        -------
        list of File
        """
        found = self._list(folder)[1]
        return [file for extension in extensions for file in found.get((suffix, extension), ())]

    def metadata(self, path: str) -> dict[str, Any]:
        """What a JSON file holds.

        Parameters
        ----------
        path : str
            The file.

        Returns
        -------
        dict

        Raises
        ------
        ImageError
            Where it cannot be read or holds no object.
        """
        if path not in self._metadata:
            try:
                with open(path, "rb") as file:
                    content = json.load(file)
            except (OSError, ValueError) as error:
                raise ImageError(f"cannot read the metadata {path}: {error}; fetch or repair it") from error
            if not isinstance(content, dict):
                raise ImageError(f"a JSON file of BIDS holds an object, but {path} holds {content!r}; repair it")
            self._metadata[path] = content
        return self._metadata[path]

    def subjects(self, folder: str) -> list[str]:
        """Labels of the subjects that have a folder in a folder.

        Parameters
        ----------
        folder : str
            Of a dataset or pipeline.

        Returns
        -------
        list of str
        """
        return [name[4:] for name in self.folders(folder) if name.startswith("sub-")]

    def bold(self, pipeline: str, subject: str) -> Iterator[File]:
        """BOLD images of a subject; those whose names do not match their folders go to `misnamed`.

        Parameters
        ----------
        pipeline : str
            Folder that holds subjects.
        subject : str
            Label.

        Yields
        ------
        File
        """
        home = os.path.join(pipeline, f"sub-{subject}")
        sessions = [name for name in self.folders(home) if name.startswith("ses-")]
        for session in ["", *sessions]:
            wanted = (subject, session[4:] or None)
            for file in self.files(os.path.join(home, session, "func"), "bold", *IMAGES):
                if (file.entities.get("sub"), file.entities.get("ses")) == wanted:
                    yield file._replace(pipeline=pipeline)
                else:
                    self.misnamed.append(file.path)

    def below(self, folder: str, depth: int = 4) -> Iterator[str]:
        """Folders in a folder, and in those; folders of subjects and hidden ones left out.

        Parameters
        ----------
        folder : str
            Where to look.
        depth : int
            How deep.

        Yields
        ------
        str
        """
        level = [folder]
        for _ in range(depth):
            level = [
                os.path.join(parent, name)
                for parent in level
                for name in self.folders(parent)
                if not name.startswith(("sub-", "."))
            ]
            yield from level

    def _list(self, folder: str) -> tuple[list[str], dict[tuple[str, str], list[File]]]:
        if folder in self._listings:
            return self._listings[folder]
        folders: list[str] = []
        files: dict[tuple[str, str], list[File]] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if match := _NAME.fullmatch(entry.name):
                        entities = dict(pair.split("-") for pair in match[1][:-1].split("_"))
                        files.setdefault((match[2], match[3]), []).append(File(entry.path, entities))
                    elif entry.is_dir():
                        folders.append(entry.name)
                    elif entry.name.endswith(("_bold.nii", "_bold.nii.gz")):
                        self.misnamed.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise ImageError(f"cannot list the folder {folder}: {error}; make it readable") from error
        self._listings[folder] = (sorted(folders), files)
        return self._listings[folder]


def agree(entity: str, one: str, other: str) -> bool:
    """Whether two values of an entity are the same.

    Parameters
    ----------
    entity, one, other : str
        Key and values.

    Returns
    -------
    bool

    Examples
    --------
    >>> agree("run", "1", "01"), agree("acq", "1", "01")
    (True, False)
    """
    index = entity in _INDICES and one.isdecimal() and other.isdecimal()
    return one == other or (index and int(one) == int(other))


def passes(entities: Mapping[str, str], wanted: Iterable[tuple[str, set[str]]]) -> bool:
    """Whether a file has one of the wanted values of every entity.

    Parameters
    ----------
    entities : mapping of str to str
        Of the file.
    wanted : sequence of (entity, values)
        What is wanted; "" is the absence of the entity.

    Returns
    -------
    bool
    """
    return all(any(agree(key, value, entities.get(key, "")) for value in values) for key, values in wanted)


def values_of(files: Iterable[File], entity: str, without: str = "") -> list[str]:
    """Values of an entity that occur.

    Parameters
    ----------
    files : sequence of File
        Where.
    entity : str
        Its key.
    without : str
        Stands for the absence of the entity; "" leaves it out.

    Returns
    -------
    list of str, in order
    """
    return sorted(filter(None, {file.entities.get(entity, without) for file in files}), key=natural)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which 2 is before 10.

    Parameters
    ----------
    text : str
        What is sorted.

    Returns
    -------
    list of tuples
    """
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]
