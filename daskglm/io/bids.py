"""Preprocessed runs of a BIDS dataset, with the files that belong to each."""

import difflib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from daskglm.errors import DesignError, ImageError, NoRunError, ParameterError, listing, nearest
from daskglm.io.bids_belongings import beside, inherited, seconds, truth
from daskglm.io.bids_tree import (
    FILTER_ENTITIES,
    IMAGES,
    VARIANTS,
    File,
    Tree,
    Wanted,
    natural,
    passes,
    values_of,
)

__all__ = ["FILTER_ENTITIES", "Run", "find_runs"]

Filters = Mapping[str, Any] | Iterable[tuple[str, Any]]
_Texts = str | Iterable[str]
_T = TypeVar("_T")


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
    raw_t_r : bool
        Whether it is that of the raw dataset.
    start_time : float or None
        StartTime in seconds, of the derivative's JSON files.
    slice_timing_corrected : bool or None
        SliceTimingCorrected of the derivative's JSON files.
    fault : str or None
        Why this run cannot be analysed, as where a file of it is a broken link or cannot be read.
    """

    subject: str
    entities: dict[str, str] = field(hash=False)
    bold: str
    mask: str | None = None
    confounds: str | None = None
    events: str | None = None
    t_r: float | None = None
    raw_t_r: bool = False
    start_time: float | None = None
    slice_timing_corrected: bool | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """The file's entities but ``desc``, as in "sub-01_ses-a_task-x_run-01_space-T1w"."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "desc")


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
        Label of the task; None where the dataset has one only, or `filters` name the tasks.
    space : str or None
        Label of the space; None where the task's files have one only, or none at all.
    subjects, exclude_subjects : str, sequence of str or None
        Subjects to take and to leave out, with or without "sub-"; None takes all that have runs.
    sessions : str, sequence of str or None
        Sessions to take, with or without "ses-".
    filters : mapping, sequence of (entity, value) or None
        Values of other entities, text or numbers; several of one are alternatives, and "" or None takes the files
        without it.
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
        Where several files are left of a run; NoRunError where there is none.

    Warns
    -----
    UserWarning
        Where images are left out since they are not named as BIDS says.

    Notes
    -----
    A run with a side file that is damaged or ambiguous, or with a broken link, has a `fault`; nothing is raised.
    """
    tree, root = Tree(), os.fspath(dataset)
    place = os.path.join(root, os.fspath(derivatives))
    pipelines = _pipelines(tree, root, place)
    chosen = _choose_subjects(tree, root, pipelines, subjects, exclude_subjects)
    files = [file for pipeline in pipelines for subject in chosen for file in tree.bold(pipeline, subject)]
    wanted = _filters(filters)
    if sessions is not None:
        _check_known("session", labels := _labels(sessions, "ses-"), values_of(files, "ses"))
        wanted.append(("ses", set(labels)))
    if space is not None:
        wanted.append(("space", {space.removeprefix("space-")}))
    several = any(entity == "task" for entity, _ in wanted)  # filters name them
    name = "" if task is None else task.removeprefix("task-")
    if task is None and not several:
        name = _only_task([f for f in files if passes(f.entities, wanted)])
    wanted = [("task", {name}), *wanted] if name else wanted
    kept = [file for file in files if passes(file.entities, wanted)]
    if not any(entity == "desc" for entity, _ in wanted) and _preproc(kept):
        kept, wanted = _preproc(kept), [*wanted, ("desc", {"preproc"})]
    missing = [s for s in chosen if subjects is not None and not any(file.entities["sub"] == s for file in kept)]
    if not kept or missing:
        misnamed, who = list(tree.misnamed), set(missing or chosen)
        elsewhere = _elsewhere(tree, place, pipelines, lambda file: passes(file.entities, [("sub", who), *wanted]))
        raise _nothing_found(files, wanted, pipelines, missing, misnamed, elsewhere)
    _check_space(kept, listing(values_of(kept, "task")))
    _check_one_each(kept)
    # A task that was not asked for is no reason to be silent about one that cannot be read from a name.
    _warn_of_misnamed(tree.misnamed, wanted if task is not None else [w for w in wanted if w[0] != "task"])
    return sorted((_run(tree, root, file) for file in kept), key=_order)


def _pipelines(tree: Tree, root: str, derivatives: str) -> list[str]:
    """Folders that hold subjects: the folder of derivatives and those in it."""
    for folder, what in ((root, "dataset"), (derivatives, "derivatives")):
        if not os.path.isdir(folder):
            raise ImageError(f"there is no folder of {what} at {folder}; give the path of the {what}")
    inside = [os.path.join(derivatives, name) for name in tree.folders(derivatives) if not name.startswith("sub-")]
    found = [folder for folder in [derivatives, *inside] if tree.subjects(folder)]
    if not found:
        raise NoRunError(
            f"derivatives have folders sub-<label>, but neither {derivatives} nor a folder in it does; give the "
            f"folder of preprocessed data{_as_derivatives(_elsewhere(tree, derivatives, found, lambda _: True))}"
        )
    return found


def _elsewhere(tree: Tree, place: str, pipelines: Sequence[str], fits: Callable[[File], bool]) -> list[str]:
    """Folders below that of derivatives that were not looked in and hold BOLD images that fit."""
    found = []
    for folder in tree.below(place):
        images = (file for subject in tree.subjects(folder) for file in tree.bold(folder, subject))
        if folder not in pipelines and any(map(fits, images)):
            found.append(os.path.abspath(folder))
    return found


def _as_derivatives(folders: Sequence[str]) -> str:
    folder = folders[0] if folders else "FOLDER"
    return f" as --derivatives {folder} (derivatives= in Python, derivatives_folder= of first_level_from_bids)"


def _choose_subjects(
    tree: Tree, root: str, pipelines: Sequence[str], subjects: _Texts | None, excluded: _Texts | None
) -> list[str]:
    known = sorted({subject for pipeline in pipelines for subject in tree.subjects(pipeline)}, key=natural)
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
    ordered = sorted(known, key=natural)
    if unknown := [label for label in labels if label not in ordered]:
        near = [match for label in unknown[:3] for match in difflib.get_close_matches(label, ordered, n=2, cutoff=0.5)]
        shown = f"{'the nearest' if near else 'those'} that exist: {listing(dict.fromkeys(near or ordered)) or 'none'}"
        raise ParameterError(f"no {what} {listing(map(repr, unknown))} is in the dataset; {shown}")


def _filters(given: Filters | None) -> Wanted:
    """Filters as entity and texts; "" stands for files without the entity."""
    pairs = [] if given is None else list(given.items() if isinstance(given, Mapping) else given)
    merged: dict[str, set[str]] = {}
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ParameterError(f"filters are pairs of entity and value, but one is {pair!r}; give ('run', '01')")
        entity, values = pair
        if entity not in FILTER_ENTITIES:
            raise ParameterError(
                f"filters are of the entities {', '.join(FILTER_ENTITIES)}, but one is of {entity!r}"
                f"{nearest(entity, FILTER_ENTITIES)}"
            )
        values = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
        texts = ["" if value is None else str(value) for value in values]
        merged.setdefault(entity, set()).update(text.removeprefix(f"{entity}-") for text in texts)
    return list(merged.items())


def _only_task(files: Sequence[File]) -> str:
    tasks = values_of(files, "task")
    if len(tasks) > 1:
        raise ParameterError(
            f"a dataset of several tasks needs task=; this one has: {listing(tasks)}; name one (--task {tasks[0]})"
        )
    return "".join(tasks)


def _preproc(files: Sequence[File]) -> list[File]:
    return [file for file in files if file.entities.get("desc") == "preproc"]


def _check_space(files: Sequence[File], task: str) -> None:
    spaces = values_of(files, "space", without="none (files without the entity)")
    if len(spaces) > 1:
        raise ParameterError(
            f"runs are analysed in one space, but those of task {task!r} are in several: {listing(spaces)}; "
            "name one as space= (--space), or take the files without the entity by --filter space= or "
            "filters={'space': ''}"
        )


def _check_one_each(files: Sequence[File]) -> None:
    runs: dict[tuple[tuple[str, str], ...], list[File]] = {}
    for file in files:
        key = ((k, v.lstrip("0") if k == "run" else v) for k, v in file.entities.items() if k not in VARIANTS)
        runs.setdefault(tuple(sorted(key)), []).append(file)
    for same in (files for files in runs.values() if len(files) > 1):
        names = listing(sorted(file.path for file in same))
        # A relative path would be taken from the dataset.
        pipelines = sorted({os.path.abspath(file.pipeline) for file in same})
        if len(pipelines) > 1:
            raise ImageError(
                f"a run is taken from one pipeline, but several hold {Run('', same[0].entities, '').name}: "
                f"{listing(pipelines)}; give one of these folders{_as_derivatives(pipelines)}"
            )
        differ = [key for key in VARIANTS if len({file.entities.get(key) for file in same}) > 1]
        if not differ:
            raise ImageError(f"a run has one BOLD image, but these differ in no entity: {names}; keep one of them")
        options = "; ".join(f"{key}: {listing(values_of(same, key, without='none'))}" for key in differ)
        # The plainest file is the likeliest: of several echoes, the one without the entity is their combination.
        plain = min(same, key=lambda file: (len(file.entities), file.path)).entities
        example = {key: plain.get(key, "") for key in differ}
        command = " ".join(f"--filter {key}={value}" for key, value in example.items())
        raise ImageError(
            f"a run has one BOLD image, but one has {names}; filter by {options}, as in {command} or "
            f"filters={example}; an empty value stands for none"
        )


def _warn_of_misnamed(misnamed: Sequence[str], wanted: Wanted) -> None:
    """Warn of images that are left out for their names, but those that would be left out anyway."""
    named = []
    for path in sorted(misnamed):
        parts = (part.partition("-") for part in os.path.basename(path).split("_"))
        entities = {key: value for key, _, value in parts if value}
        if passes(entities, [(key, texts) for key, texts in wanted if key in entities]):
            named.append(path)
    if named:
        warnings.warn(
            "BOLD images are named as in sub-01_task-x_run-1_bold.nii.gz (labels of letters, digits and +, subject and "
            f"session as in the folder), but {len(named)} are not and are left out: {listing(named, 3)}; rename them",
            UserWarning,
            stacklevel=3,
        )


def _nothing_found(
    files: Sequence[File],
    wanted: Wanted,
    pipelines: Sequence[str],
    missing: Sequence[str],
    misnamed: Sequence[str],
    elsewhere: Sequence[str],
) -> NoRunError:
    looked = ", ".join(f"{key}-{'|'.join(sorted(texts)) or '(none)'}" for key, texts in wanted)
    who = f" of sub-{listing(missing)}" if missing else ""
    found = ", ".join(
        f"{what}: {listing(values_of(files, key)) or 'none'}"
        for what, key in (("tasks", "task"), ("spaces", "space"), ("desc", "desc"), ("subjects", "sub"))
    )
    hint = f"; these are not named as BIDS says: {listing(misnamed, 3)}" if misnamed else ""
    near = (nearest(text, set(values_of(files, key)) - {text}) for key, texts in wanted for text in texts)
    remedy = "name what exists" + "".join(dict.fromkeys(near))
    if elsewhere:
        remedy = f"there are some in {listing(elsewhere, 3)}: give such a folder{_as_derivatives(elsewhere)}"
    return NoRunError(
        f"no BOLD image{who}{' with ' if looked else ''}{looked} (.nii, .nii.gz) is in the func folders of "
        f"{listing(pipelines)}; found there: {found}{hint}; {remedy}"
    )


def _run(tree: Tree, root: str, file: File) -> Run:
    """A run from its BOLD file: all that belongs to it is found, and what is wrong with it."""
    entities, folder = file.entities, os.path.dirname(file.path)
    faults: list[str] = []
    masks = (f for f in tree.files(folder, "mask", *reversed(IMAGES)) if f.entities.get("desc") == "brain")
    tables = [*tree.files(folder, "timeseries", ".tsv"), *tree.files(folder, "regressors", ".tsv")]
    confounds = (f for f in tables if f.entities.get("desc") == "confounds")
    mask = beside(masks, entities, ("desc",), ("echo", "part"))
    events = _tried(lambda: next(inherited(tree, root, entities, "events", ".tsv"), None), faults)
    own = _tried(lambda: list(inherited(tree, file.pipeline, entities, "bold", ".json")), faults) or []
    t_r = _tried(lambda: seconds(tree, own, "RepetitionTime"), faults)
    silent = t_r is None
    if silent:
        t_r = _tried(lambda: seconds(tree, inherited(tree, root, entities, "bold", ".json"), "RepetitionTime"), faults)
    start_time = _tried(lambda: seconds(tree, own, "StartTime"), faults)
    corrected = _tried(lambda: truth(tree, own, "SliceTimingCorrected"), faults)
    # Confounds may be absent: whether they are needed is not known here.
    for what, path in (("image", file.path), ("mask", mask), ("table of events", events)):
        if path is not None and not os.path.exists(path):
            faults.append(
                f"the {what} of a run is a file, but {path} is a broken link; fetch what it points to (datalad get, "
                "git annex get) or remove the link"
            )
    return Run(
        subject=f"sub-{entities['sub']}",
        entities=dict(entities),
        bold=file.path,
        mask=mask,
        confounds=beside(confounds, entities, tuple(k for k in VARIANTS if k != "echo"), ("echo",)),
        events=events,
        t_r=t_r,
        raw_t_r=silent and t_r is not None,
        start_time=start_time,
        slice_timing_corrected=corrected,
        fault="; also, ".join(dict.fromkeys(faults)) or None,
    )


def _tried(find: Callable[[], _T], faults: list[str]) -> _T | None:
    """What a search gives; None where a file is wrong, which is added to the faults of the run."""
    try:
        return find()
    except (DesignError, ImageError) as error:
        faults.append(str(error))
        return None


def _order(run: Run) -> list[Any]:
    return [*(natural(run.entities.get(key, "")) for key in ("sub", "ses", "run")), run.name]
