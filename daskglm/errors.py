"""Every error daskglm raises on purpose, and the warnings that have a class of their own.

Each class is also the builtin a caller would expect, from Python or nilearn, so ``except ValueError`` keeps working.
A message gives the rule, the values that broke it, and the remedy.
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from difflib import get_close_matches

# Arguments of the command line that runs; none in Python.
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("COMMAND", default=())


class DaskGLMError(Exception):
    """Base of all errors that daskglm raises on purpose."""


class DesignError(DaskGLMError, ValueError):
    """The design matrix, the participants table or the formula cannot be used."""


class RegressorError(DesignError, AssertionError):
    """Additional regressors have another number of rows than there are scans; nilearn asserts that."""


class ContrastError(DaskGLMError, ValueError):
    """A contrast is unknown, malformed, null or not estimable."""


class NullRegressorError(ContrastError):
    """A contrast weighs a regressor that is zero throughout."""


class ImageError(DaskGLMError, ValueError):
    """The images cannot be analysed together."""


class NothingToTestError(ImageError):
    """No voxel of the images varies beside what the design explains."""


class NoRunError(ImageError, RuntimeError):
    """A dataset has no subject, or no run that was asked for."""


class SpaceError(ImageError):
    """Images, mask or store live in different spaces."""


class CorruptImageError(ImageError):
    """A file is truncated, damaged or is no image."""


class StoreError(DaskGLMError, ValueError):
    """A Zarr store is incomplete, damaged or not a daskglm store."""


class ParameterError(DaskGLMError, ValueError):
    """A parameter has a value that it cannot have."""


class ImageTypeError(ImageError, TypeError):
    """Images are given as a type of object that holds none."""


class DesignTypeError(DesignError, TypeError):
    """A design or a table is given as a type of object that is none."""


class ParameterTypeError(ParameterError, TypeError):
    """A parameter is of a type that it cannot have."""


class UnknownParameterError(ParameterTypeError, RuntimeError):
    """A function has no parameter of a name that was given."""


class OutputError(DaskGLMError, OSError):
    """An output folder cannot be written or already holds results."""


class MemoryLimitError(DaskGLMError, MemoryError):
    """A run needs more memory than its workers may have."""


class LostWorkerError(DaskGLMError, RuntimeError):
    """A task ended each worker of a cluster that it was given to."""


class DiskSpaceError(OutputError):
    """The results of a run do not fit onto the disk."""


class StorageError(DaskGLMError, OSError):
    """An object store does not answer, or refuses."""


class MissingDependencyError(DaskGLMError, ImportError):
    """An optional dependency is needed and absent."""


class MetadataWarning(UserWarning, RuntimeWarning):
    """Metadata of a dataset do not say what is needed, say it elsewhere, or say something else."""


def listing(items: Iterable[object], limit: int = 8) -> str:
    """Join items for a message, the first `limit` of them and a count of the rest.

    Parameters
    ----------
    items : iterable
        What to list.
    limit : int
        How many to name.

    Returns
    -------
    str

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = [str(item) for item in items]
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"


def option(python: str, command: str) -> str:
    """What a message advises to give, in the interface in use.

    Parameters
    ----------
    python : str
        A parameter.
    command : str
        An option of the command line.

    Returns
    -------
    str

    Examples
    --------
    >>> option("overwrite=True", "--overwrite")
    'overwrite=True'
    """
    return command if COMMAND.get() else python


def check_choice(
    name: str, value: object, choices: Sequence[object], error: type[DaskGLMError] = ParameterError
) -> None:
    """Raise unless a parameter has one of its values.

    Parameters
    ----------
    name : str
        Of the parameter.
    value : object
        What was given.
    choices : sequence
        What can be given, two or more.
    error : type
        What is raised.

    Raises
    ------
    ParameterError, or `error`
        With what can be given and what was.

    Examples
    --------
    >>> check_choice("na", "dorp", ("stop", "drop"))
    Traceback (most recent call last):
    daskglm.errors.ParameterError: na must be 'stop' or 'drop', got 'dorp'; did you mean 'drop'?
    """
    if value not in choices:
        *others, last = map(repr, choices)
        hint = nearest(value, [choice for choice in choices if isinstance(choice, str)])
        raise error(f"{name} must be {', '.join(others)} or {last}, got {value!r}{hint}")


def nearest(name: object, known: Iterable[object]) -> str:
    """Ask, for the end of a message, whether the nearest known name is meant.

    Parameters
    ----------
    name : object
        A name that is not known.
    known : iterable
        Names that are.

    Returns
    -------
    str
        Empty where none is near.

    Examples
    --------
    >>> nearest("agee", ["sex", "age"]), nearest("Age", ["age"]), nearest("iq", ["age"])
    ("; did you mean 'age'?", "; did you mean 'age'?", '')
    """
    by_text = {_plain(item): str(item) for item in reversed(list(known))}
    found = get_close_matches(_plain(name), by_text, n=1)
    return f"; did you mean {by_text[found[0]]!r}?" if found else ""


def _plain(name: object) -> str:
    """A name in the form in which names are compared: case and kind of dash make no difference."""
    return str(name).casefold().replace("-", "_")
