"""Preprocessed runs of a BIDS dataset, with the files that belong to each."""

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from daskglm.errors import DesignError, ImageError, ParameterError, listing

# Entities that tell files of one run apart, not runs.
_VARIANTS = ("echo", "part", "hemi", "space", "cohort", "res", "den", "desc")
FILTER_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", *_VARIANTS)
_INDICES = ("run", "echo")  # run-1 is run-01
_NAME = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9]+_)+)([A-Za-z0-9]+)(\.[A-Za-z0-9.]+)")
_IMAGES = (".nii.gz", ".nii")

Filters = Mapping[str, Any] | Iterable[tuple[str, Any]]
_Texts = str | Iterable[str]
_Wanted = list[tuple[str, set[str]]]


@dataclass(frozen=True)
class Run:
    """A preprocessed run and what belongs to it; None is what the dataset does not have.

    Attributes
    ----------
    subject, bold : str
        As in "sub-01", and the path of the image.
    entities : dict of str
        Every entity of the BOLD file's name, in its order: {"sub": "01", "task": "x", "run": "01", "space": "T1w"}.
    mask : str or None
        The brain mask of the same run and space.
    confounds, events : str or None
        The tables of confounds, and of the raw dataset's events, the nearest that applies (BIDS inheritance).
    t_r : float or None
        RepetitionTime in seconds: of the derivative's JSON files, else of the raw dataset's.
    start_time : float or None
        StartTime in seconds, of the derivative's JSON files.
    """

    subject: str
    entities: dict[str, str] = field(hash=False)
    bold: str
    mask: str | None = None
    confounds: str | None = None
    events: str | None = None
    t_r: float | None = None
    start_time: float | None = None

    @property
    def name(self) -> str:
        """The file's entities but ``desc``, as in "sub-01_ses-a_task-x_run-01_space-T1w"."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "desc")


class _File(NamedTuple):
    path: str
    entities: dict[str, str]
    pipeline: str = ""


class _Tree:
    """Listings and JSON files, each read once."""

    def __init__(self) -> None:
        self._listings: dict[str, tuple[list[str], dict[tuple[str, str], list[_File]]]] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        self.misnamed: list[str] = []

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        return self._list(folder)[0]

    def files(self, folder: str, suffix: str, *extensions: str) -> list[_File]:
        """Files of a folder that have a suffix, as in ``_bold``, and one of some extensions."""
        found = self._list(folder)[1]
        return [file for extension in extensions for file in found.get((suffix, extension), ())]

    def metadata(self, path: str) -> dict[str, Any]:
        """What a JSON file holds."""
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
        """Labels of the subjects that have a folder in a folder."""
        return [name[4:] for name in self.folders(folder) if name.startswith("sub-")]

    def bold(self, pipeline: str, subject: str) -> Iterator[_File]:
        """BOLD images of a subject, those whose names do not match their folders left out."""
        home = os.path.join(pipeline, f"sub-{subject}")
        sessions = [name for name in self.folders(home) if name.startswith("ses-")]
        for session in ["", *sessions]:
            wanted = (subject, session[4:] or None)
            for file in self.files(os.path.join(home, session, "func"), "bold", *_IMAGES):
                if (file.entities.get("sub"), file.entities.get("ses")) == wanted:
                    yield file._replace(pipeline=pipeline)
                else:
                    self.misnamed.append(file.path)

    def _list(self, folder: str) -> tuple[list[str], dict[tuple[str, str], list[_File]]]:
        if folder in self._listings:
            return self._listings[folder]
        folders: list[str] = []
        files: dict[tuple[str, str], list[_File]] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if match := _NAME.fullmatch(entry.name):
                        entities = dict(pair.split("-") for pair in match[1][:-1].split("_"))
                        files.setdefault((match[2], match[3]), []).append(_File(entry.path, entities))
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


def find_runs(
    dataset: str | os.PathLike[str],
    task: str | None,
    space: str | None = None,
    *,
    subjects: _Texts | None = None,
    exclude_subjects: _Texts | None = None,
    sessions: _Texts | None = None,
    filters: Filters | None = None,
    derivatives: str | os.PathLike[str] = "derivatives",
) -> list[Run]:
    """Preprocessed runs of a BIDS dataset: ``desc-preproc`` where such files exist.

    Parameters
    ----------
    dataset : path
        The raw dataset: events and, where the derivatives have none, repetition times.
    task : str or None
        Label of the task; None where the dataset has one only.
    space : str or None
        Label of the space; None where the task's files have one only, or none at all.
    subjects, exclude_subjects : str, sequence of str or None
        Subjects to take and to leave out, with or without "sub-"; None takes all that have runs.
    sessions : str, sequence of str or None
        Sessions to take, with or without "ses-".
    filters : mapping, sequence of (entity, value) or None
        Values of other entities; several of one are alternatives, and "" or None takes the files without it.
    derivatives : path
        Folder of derivatives, relative to the dataset or absolute: of one pipeline, or of several.

    Returns
    -------
    list of Run, by subject, session and run, numbers in their order

    Raises
    ------
    ParameterError
        Where a subject, session or entity is unknown, or the task or space has to be named.
    ImageError
        Where there is no run, or several files are left of one.
    DesignError
        Where two tables of events apply to a run equally.
    """
    tree, root = _Tree(), os.fspath(dataset)
    pipelines = _pipelines(tree, root, os.path.join(root, os.fspath(derivatives)))
    chosen = _choose_subjects(tree, root, pipelines, subjects, exclude_subjects)
    files = [file for pipeline in pipelines for subject in chosen for file in tree.bold(pipeline, subject)]
    wanted = _filters(filters)
    if sessions is not None:
        _check_known("session", labels := _labels(sessions, "ses-"), _values(files, "ses"))
        wanted.append(("ses", set(labels)))
    if space is not None:
        wanted.append(("space", {space.removeprefix("space-")}))
    task = _only_task(files) if task is None else task.removeprefix("task-")
    kept = [file for file in files if _passes(file, [("task", {task}), *wanted])]
    if not any(entity == "desc" for entity, _ in wanted):
        kept = [file for file in kept if file.entities.get("desc") == "preproc"] or kept
    missing = [s for s in chosen if subjects is not None and not any(file.entities["sub"] == s for file in kept)]
    if not kept or missing:
        raise _nothing_found(files, [("task", {task}), *wanted], pipelines, missing, tree.misnamed)
    _check_space(kept, task)
    _check_one_each(kept)
    return sorted((_run(tree, root, file) for file in kept), key=_order)


def _pipelines(tree: _Tree, root: str, derivatives: str) -> list[str]:
    """Folders that hold subjects: the folder of derivatives and those in it."""
    for folder, what in ((root, "dataset"), (derivatives, "derivatives")):
        if not os.path.isdir(folder):
            raise ImageError(f"there is no folder of {what} at {folder}; give the path of the {what}")
    inside = [os.path.join(derivatives, name) for name in tree.folders(derivatives) if not name.startswith("sub-")]
    found = [folder for folder in [derivatives, *inside] if tree.subjects(folder)]
    if not found:
        raise ImageError(
            f"derivatives have folders sub-<label>, but neither {derivatives} nor a folder in it does; "
            "give the folder of preprocessed data as derivatives="
        )
    return found


def _choose_subjects(
    tree: _Tree, root: str, pipelines: Sequence[str], subjects: _Texts | None, excluded: _Texts | None
) -> list[str]:
    known = sorted({subject for pipeline in pipelines for subject in tree.subjects(pipeline)}, key=_natural)
    chosen = known if subjects is None else list(dict.fromkeys(_labels(subjects, "sub-")))
    _check_known("subject", chosen, known)
    left_out = _labels(excluded or (), "sub-")
    _check_known("subject", left_out, {*known, *tree.subjects(root)})
    chosen = [subject for subject in chosen if subject not in left_out]
    if not chosen:
        raise ParameterError("no subject is left: every one is excluded; take fewer out")
    return chosen


def _labels(given: _Texts, prefix: str) -> list[str]:
    return [str(text).removeprefix(prefix) for text in ([given] if isinstance(given, str) else given)]


def _check_known(what: str, labels: Sequence[str], known: Iterable[str]) -> None:
    ordered = sorted(known, key=_natural)
    if unknown := [label for label in labels if label not in ordered]:
        near = [match for label in unknown[:3] for match in difflib.get_close_matches(label, ordered, n=2, cutoff=0.5)]
        shown = f"{'the nearest' if near else 'those'} that exist: {listing(dict.fromkeys(near or ordered)) or 'none'}"
        raise ParameterError(f"no {what} {listing(map(repr, unknown))} is in the dataset; {shown}")


def _filters(given: Filters | None) -> _Wanted:
    """Filters as entity and texts; "" stands for files without the entity."""
    pairs = [] if given is None else list(given.items() if isinstance(given, Mapping) else given)
    merged: dict[str, set[str]] = {}
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ParameterError(f"filters are pairs of entity and value, but one is {pair!r}; give ('run', '01')")
        entity, values = pair
        if entity not in FILTER_ENTITIES:
            raise ParameterError(f"filters are of the entities {', '.join(FILTER_ENTITIES)}, but one is of {entity!r}")
        values = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
        texts = ["" if value is None else str(value) for value in values]
        merged.setdefault(entity, set()).update(text.removeprefix(f"{entity}-") for text in texts)
    return list(merged.items())


def _agree(entity: str, one: str, other: str) -> bool:
    """Whether two values of an entity are the same."""
    index = entity in _INDICES and one.isdigit() and other.isdigit()
    return one == other or (index and int(one) == int(other))


def _passes(file: _File, filters: Iterable[tuple[str, set[str]]]) -> bool:
    return all(any(_agree(key, value, file.entities.get(key, "")) for value in values) for key, values in filters)


def _values(files: Iterable[_File], entity: str, without: str = "") -> list[str]:
    """Values of an entity that occur, in order; `without` stands for its absence."""
    return sorted(filter(None, {file.entities.get(entity, without) for file in files}), key=_natural)


def _only_task(files: Sequence[_File]) -> str:
    tasks = _values(files, "task")
    if len(tasks) > 1:
        raise ParameterError(f"a dataset of several tasks needs task=; this one has: {listing(tasks)}")
    return "".join(tasks)


def _check_space(files: Sequence[_File], task: str) -> None:
    spaces = _values(files, "space", without="none (files without the entity)")
    if len(spaces) > 1:
        raise ParameterError(
            f"runs are analysed in one space, but those of task {task!r} are in several: {listing(spaces)}; "
            "name one as space=, or take the files without the entity by the filter ('space', '')"
        )


def _check_one_each(files: Sequence[_File]) -> None:
    runs: dict[tuple[tuple[str, str], ...], list[_File]] = {}
    for file in files:
        key = ((k, v.lstrip("0") if k == "run" else v) for k, v in file.entities.items() if k not in _VARIANTS)
        runs.setdefault(tuple(sorted(key)), []).append(file)
    for same in (files for files in runs.values() if len(files) > 1):
        names = listing(sorted(file.path for file in same))
        pipelines = sorted({file.pipeline for file in same})
        if len(pipelines) > 1:
            raise ImageError(
                f"a run is taken from one pipeline, but several hold {Run('', same[0].entities, '').name}: "
                f"{listing(pipelines)}; give one of these folders as derivatives="
            )
        differ = [key for key in _VARIANTS if len({file.entities.get(key) for file in same}) > 1]
        if not differ:
            raise ImageError(f"a run has one BOLD image, but these differ in no entity: {names}; keep one of them")
        options = "; ".join(f"{key}: {listing(_values(same, key, without='none'))}" for key in differ)
        raise ImageError(f"a run has one BOLD image, but one has {names}; filter by {options} ('' stands for none)")


def _nothing_found(
    files: list[_File], wanted: _Wanted, pipelines: list[str], missing: list[str], misnamed: list[str]
) -> ImageError:
    looked = ", ".join(f"{key}-{'|'.join(sorted(values)) or '(none)'}" for key, values in wanted)
    who = f" of sub-{listing(missing)}" if missing else ""
    found = ", ".join(
        f"{what}: {listing(_values(files, key)) or 'none'}"
        for what, key in (("tasks", "task"), ("spaces", "space"), ("desc", "desc"), ("subjects", "sub"))
    )
    hint = f"; these are not named as BIDS says: {listing(misnamed, 3)}" if misnamed else ""
    return ImageError(
        f"no BOLD image{who} with {looked} (.nii, .nii.gz) is in the func folders of {listing(pipelines)}; "
        f"found there: {found}{hint}; name what exists"
    )


def _run(tree: _Tree, root: str, file: _File) -> Run:
    """A run from its BOLD file: all that belongs to it is found."""
    entities, folder = file.entities, os.path.dirname(file.path)
    own = list(_inherited(tree, file.pipeline, entities, "bold", ".json"))
    raw = _inherited(tree, root, entities, "bold", ".json")
    events = next(_inherited(tree, root, entities, "events", ".tsv"), None)
    masks = (f for f in tree.files(folder, "mask", *reversed(_IMAGES)) if f.entities.get("desc") == "brain")
    tables = [*tree.files(folder, "timeseries", ".tsv"), *tree.files(folder, "regressors", ".tsv")]
    confounds = (f for f in tables if f.entities.get("desc") == "confounds")
    t_r = _seconds(tree, own, "RepetitionTime")
    return Run(
        subject=f"sub-{entities['sub']}",
        entities=dict(entities),
        bold=file.path,
        mask=_beside(masks, entities, ("desc",), ("echo", "part")),
        confounds=_beside(confounds, entities, tuple(k for k in _VARIANTS if k != "echo"), ("echo",)),
        events=events,
        t_r=_seconds(tree, raw, "RepetitionTime") if t_r is None else t_r,
        start_time=_seconds(tree, own, "StartTime"),
    )


def _inherited(tree: _Tree, root: str, entities: Mapping[str, str], suffix: str, extension: str) -> Iterator[str]:
    """Files that apply to a run, those of the nearest folder first, then those with the most entities."""
    home = os.path.join(root, f"sub-{entities['sub']}")
    session = [os.path.join(home, f"ses-{entities['ses']}")] if "ses" in entities else []
    for folder in [os.path.join((session or [home])[0], "func"), *session, home, root]:
        fitting = [
            file
            for file in tree.files(folder, suffix, extension)
            if all(_agree(key, value, entities.get(key, "")) for key, value in file.entities.items())
        ]
        fitting.sort(key=lambda file: (-len(file.entities), file.path))
        if suffix == "events" and len({len(file.entities) for file in fitting[:2]}) < len(fitting[:2]):
            raise DesignError(
                f"one table of events applies to a run, but two do: {fitting[0].path} and {fitting[1].path}; "
                "name their entities more exactly"
            )
        yield from (file.path for file in fitting)


def _beside(
    files: Iterable[_File], entities: Mapping[str, str], without: Sequence[str], optional: Sequence[str]
) -> str | None:
    """The file with a run's entities but for some that it never has, and some that it may have."""
    needed = {key for key in entities if key not in without and key not in optional}
    best: _File | None = None
    for file in files:
        own = {k: v for k, v in file.entities.items() if k != "desc"}
        fits = needed <= own.keys() and all(_agree(k, v, entities.get(k, "")) for k, v in own.items())
        if fits and (best is None or len(file.entities) > len(best.entities)):
            best = file
    return None if best is None else best.path


def _seconds(tree: _Tree, paths: Iterable[str], key: str) -> float | None:
    """The first value of a key in some JSON files; a RepetitionTime of 0 is none."""
    for path in paths:
        value = tree.metadata(path).get(key)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and key == "RepetitionTime"):
            raise ImageError(f"{key} is a number of seconds, but it is {value!r} in {path}; correct that file")
        return float(value)
    return None


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which 2 is before 10."""
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _order(run: Run) -> list[Any]:
    return [*(_natural(run.entities.get(key, "")) for key in ("sub", "ses", "run")), run.name]
