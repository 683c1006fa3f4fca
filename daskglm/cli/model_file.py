"""A file that holds an analysis -> the arguments of its command."""

import json
import os
from collections.abc import Mapping
from typing import Any

import click
import yaml

from daskglm.errors import OutputError, ParameterError, listing, nearest
from daskglm.io.files import is_url, read_bytes

# What is a path from the file's folder; derivatives are one from the dataset.
_PATHS = ("images", "dataset", "output", "participants", "mask", "log-file", "performance-report")

_FILES = {"cluster": (".yaml", ".yml"), "exclude": (".tsv", ".csv", ".txt")}


class _Texts(yaml.BaseLoader):
    """Every value is text, as on the command line: subject 01 is no number, and nothing is made of a tag."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are different."""
        return _once(
            [(self.construct_object(key, deep), self.construct_object(value, deep)) for key, value in node.value]
        )


def read_document(path: str) -> dict[str, Any]:
    """Read a YAML or JSON file that holds keys and values.

    Parameters
    ----------
    path : str
        Path or URL; what ends in .json is JSON, anything else YAML with all values as text.

    Returns
    -------
    dict

    Raises
    ------
    ParameterError
        Where it cannot be read, or holds something else, or a key twice.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        if path.lower().endswith(".json"):
            content = json.loads(text, object_pairs_hook=_once)
        else:
            content = _Texts(text).get_single_data()
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParameterError(f"cannot read the model {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"a model has keys and values, as in kind: group, but {path} holds {content!r:.80}")
    return content


def arguments_of(document: Mapping[str, Any], commands: Mapping[str | None, click.Command], path: str) -> list[str]:
    """The arguments that say on the command line what a file says.

    Parameters
    ----------
    document : mapping
        ``kind``, the name of a command, and its options and arguments by their names.
    commands : mapping
        Name to command.
    path : str
        Of the file: other paths are relative to its folder.

    Returns
    -------
    list of str
        Of ``daskglm``.

    Raises
    ------
    ParameterError
        Naming the key, or the value that is none of its kind.
    """
    kind = document.get("kind")
    if kind not in commands:
        known = list(commands)
        raise ParameterError(f"{path}: kind is one of {listing(known)}, but it is {kind!r}{nearest(kind, known)}")
    params = {option_name(param): param for param in commands[kind].params if option_name(param) != "dry-run"}
    for key in document:
        if key != "kind" and key not in params:
            hint = nearest(key, params) or f"; there are {listing(params, 40)}"
            raise ParameterError(f"{path}: {kind} has no option {key!r}{hint}")
    options: list[str] = []
    arguments: list[str] = []
    for key, param in params.items():
        if key not in document:
            if param.required:
                raise ParameterError(f"{path}: {kind} needs {key}; add it, as in {key}: ...")
            continue
        if isinstance(param, click.Option) and param.is_flag:
            options += [f"--{key}"] if _truth(key, document[key], path) else []
            continue
        value = document[key]
        if isinstance(param, click.Option) and param.metavar == "JSON":
            items = value if isinstance(value, list) else [value]
            value = [json.dumps(item) if isinstance(item, Mapping) else item for item in items]
        texts = _texts(key, value, path)
        if len(texts) > 1 and not (param.multiple or param.nargs == -1):
            raise ParameterError(f"{path}: {key} has one value, but it is {document[key]!r:.80}")
        # Others are a path only where they end like one.
        ends = _FILES.get(key, ("",) if key in _PATHS else ())
        texts = [_beside(path, text) if text.lower().endswith(ends) else text for text in texts]
        if isinstance(param, click.Argument):
            arguments += texts
        else:
            options += [f"--{key}={text}" for text in texts]
    return [str(kind), *options, "--", *arguments]


def _once(items: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs; a key that comes twice would hide what it said first."""
    found: dict[Any, Any] = {}
    for key, value in items:
        if not isinstance(key, str) or key in found:
            raise ValueError(f"the key {key!r:.80} is there twice, or is no text")
        found[key] = value
    return found


def option_name(param: click.Parameter) -> str:
    """The name of an option or argument, in a file.

    Parameters
    ----------
    param : click.Parameter
        Of a command.

    Returns
    -------
    str
        Without dashes before it.
    """
    if isinstance(param, click.Option):
        return max(param.opts, key=len).removeprefix("--")
    return str(param.name)


def _truth(key: str, value: Any, path: str) -> bool:
    """Whether a flag is set."""
    truth = {"true": True, "false": False}.get(str(value).lower())
    if truth is None:
        raise ParameterError(f"{path}: {key} is true or false, but it is {value!r:.80}")
    return truth


def _texts(key: str, value: Any, path: str) -> list[str]:
    """A value, the values of a list, or name=expression of each item of a mapping."""
    if isinstance(value, Mapping):
        pairs = [
            (name, item) for name, items in value.items() for item in (items if isinstance(items, list) else [items])
        ]
        texts = [(f"{name}=", item) for name, item in pairs]
    else:
        texts = [("", item) for item in (value if isinstance(value, list) else [value])]
    for _, item in texts:
        if isinstance(item, Mapping | list | bool) or item is None or (item == "" and not isinstance(value, Mapping)):
            raise ParameterError(f"{path}: {key} is text, a number or a list of these, but it is {value!r:.80}")
    if not texts:
        raise ParameterError(f"{path}: {key} is empty; give a value, or leave it out")
    return [f"{name}{item}" for name, item in texts]


def _beside(path: str, text: str) -> str:
    """A path from the folder of a file."""
    if is_url(text) or is_url(path):
        if is_url(path) and not is_url(text) and not os.path.isabs(text):
            raise OutputError(f"{path} is not on disk, so paths in it are whole ones or URLs, but one is {text!r}")
        return text
    return os.path.join(os.path.dirname(path), text)
