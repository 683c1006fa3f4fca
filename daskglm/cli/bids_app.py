"""``daskglm-bids``: first-level and group analyses in the form of a BIDS App."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NoReturn

import click

from daskglm.cli import analyses
from daskglm.cli.model_file import option_name, read_document
from daskglm.cli.run import as_arguments, run_stats_model, run_steps
from daskglm.errors import OutputError, ParameterError, listing, nearest
from daskglm.io.journal import Record

_EXAMPLE = "daskglm-bids ds001 out participant --participant-label 01 02 --task faces --contrast 'face - house'"
_LEVELS = {"participant": analyses.first_level, "group": analyses.group}
# Options that have names of their own in BIDS Apps, or that the two folders stand for.
_NOT_PASSED = ("n-jobs", "participant-label", "exclude", "group-stores", "output")
_WHO = ("participant_label", "exclude")
# With a model, what still is to be said.
_BESIDE_MODEL = ("cluster", "performance-report", "log-file", "quiet", "json", "dry-run", "no-report", "overwrite")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest name."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong."""
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].split("=")[0]
        known = [text for action in self._actions for text in action.option_strings]
        hint = nearest(unknown, known) if unknown.startswith("-") else ""
        if "analysis_level: invalid choice" in message:
            hint = nearest(message.split("'")[1], _LEVELS)
        raise ParameterError(f"{message}{hint or '; see daskglm-bids --help'}")


@click.command(
    "bids",
    hidden=True,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bids(ctx: click.Context, /, arguments: tuple[str, ...]) -> None:
    """Run a level of analysis as a BIDS App."""
    from daskglm.graph.planning import ALLOWED_MEMORY

    given = vars(_parser().parse_args(list(arguments)))
    level, folder = given.pop("analysis_level"), os.path.abspath(given.pop("output_dir"))
    dataset, model, mem_mb = os.path.abspath(given.pop("bids_dir")), given.pop("model"), given.pop("mem_mb")
    from daskglm.models.selection import excluded_ids

    labels, exclude = ([text.removeprefix("sub-") for text in excluded_ids(given.pop(name))] for name in _WHO)
    n_cpus = given.pop("n_cpus")
    options = {name.replace("_", "-"): value for name, value in given.items() if name != "skip_bids_validator"}
    _check_options(options, level, model)
    options |= {"n-jobs": [] if n_cpus is None else [n_cpus]}
    if level == "participant":
        options |= {"participant-label": labels, "exclude": exclude}
    worst = 0
    before = ALLOWED_MEMORY.set(None if mem_mb is None else mem_mb * 10**6)
    try:
        if level == "group":
            first = _first_level_for(folder, labels, exclude)
            more = ["--dry-run"] if options.get("dry-run") else []
            # What it says is not the result that was asked for.
            with redirect_stdout(sys.stderr):
                worst = run_steps([lambda: [first[0], *more, *first[1:]]] if first else [])
            if worst > 1 or (first and more):
                ctx.exit(worst)
        if model is not None:
            from daskglm.models.stats_model import read_stats_model

            read = read_stats_model(read_document(model), dataset)
            status = run_stats_model(read, dataset, folder, _arguments(options), (level,))
        elif level == "participant":
            status = run_steps([lambda: ["first-level", *_arguments(options), "--", dataset, folder]])
        else:
            status = run_steps(_group_steps(folder, options))
    finally:
        ALLOWED_MEMORY.reset(before)
    ctx.exit(max(worst, status))


def main() -> None:
    """Run ``daskglm-bids``."""
    from daskglm.cli.main import main as daskglm

    daskglm(["bids", *sys.argv[1:]], prog_name="daskglm-bids")


def _parser() -> argparse.ArgumentParser:
    """What a BIDS App takes, and the options of ``first-level`` and ``group``."""
    parser = _Parser(
        "daskglm-bids",
        usage="daskglm-bids BIDS_DIR OUTPUT_DIR participant|group [OPTIONS]",
        description="First-level analysis of each participant, and group analysis of what it gave.",
        epilog=f"Example: {_EXAMPLE}",
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", help="BIDS dataset, with its preprocessed images in derivatives")
    parser.add_argument("output_dir", help="result folder")
    parser.add_argument("analysis_level", choices=list(_LEVELS))
    parser.add_argument(
        "--participant-label", "--participant_label", nargs="+", metavar="LABEL",
        help="only these, without sub- (at the group level: of those that the participant level took)",
    )  # fmt: skip
    parser.add_argument(
        "--exclude",
        nargs="+",
        metavar="LABEL|FILE",
        help="leave these participants out; or a list of them, .tsv, .csv, .txt",
    )
    parser.add_argument("--skip-bids-validator", "--skip_bids_validator", action="store_true",
                        help="accepted; only what an analysis needs is ever checked")  # fmt: skip
    parser.add_argument("-v", "--version", action="version", version=f"daskglm {version('daskglm')}")
    parser.add_argument("--n-cpus", "--n_cpus", type=int, metavar="N", help="threads")
    parser.add_argument("--mem-mb", "--mem_mb", type=int, metavar="N", help="refuse what would take more memory")
    parser.add_argument("-m", "--model", help="BIDS Stats Model, in place of the options below but those of the run")
    params = {option_name(param): param for command in _LEVELS.values() for param in command.params}
    for name, param in params.items():
        if not isinstance(param, click.Option) or name in _NOT_PASSED:
            continue
        levels = [level for level, command in _LEVELS.items() if name in map(option_name, command.params)]
        text = str(param.help).replace("%", "%%") + (f" ({levels[0]} level)" if len(levels) == 1 else "")
        action: dict[str, Any] = {"action": "append" if param.multiple else "store", "metavar": "VALUE"}
        if param.is_flag:
            action = {"action": "store_true"}
        parser.add_argument(f"--{name}", dest=name.replace("-", "_"), default=argparse.SUPPRESS, help=text, **action)
    return parser


def _check_options(options: dict[str, Any], level: str, model: str | None) -> None:
    """Raise where an option is of the other level, or a model says it."""
    known = [option_name(param) for param in _LEVELS[level].params]
    for name in options:
        if model is not None and name not in _BESIDE_MODEL:
            raise ParameterError(f"the model says what is fitted, but --{name} was given too; leave one of them out")
        if name not in known and not (model is not None and name == "overwrite"):
            raise ParameterError(f"--{name} is not an option of the {level} level; leave it out")


def _arguments(options: dict[str, Any]) -> list[str]:
    """Options as arguments; a flag has no value."""
    flags = [f"--{name}" for name, value in options.items() if value is True]
    return [*flags, *as_arguments({name: value for name, value in options.items() if value is not True})]


def _first_level_for(folder: str, labels: list[str], exclude: list[str]) -> list[str]:
    """The command that makes the group's stores of some participants; none where they are there."""
    from daskglm.io.journal import load_records
    from daskglm.models.cohort_stores import group_stores

    records = [record for record in load_records(folder) if record.kind == "first-level"]
    if group_stores(folder) and not any(record.command for record in records) and not labels and not exclude:
        return []  # made in Python
    took = [record for record in records if "--group-stores" not in record.command]
    plain = {tuple(_without(record.command)) for record in took}
    if len(plain) != 1 or not next(iter(plain)):
        why = "was run with options that differ" if len(plain) > 1 else "was not run there by a command"
        raise OutputError(
            f"the group level takes what the participant level gave, but in {folder} the participant level {why}; "
            "run it with the same options for all participants: what is done is kept"
        )
    (command,) = plain
    asked = [(_values(record, "--participant-label"), _values(record, "--exclude")) for record in took]
    who, last = _who(asked, labels, exclude), records[-1]
    same = sorted(_without(last.command, ("--json",))) == sorted([*command, *who])
    return [] if same and last.now == "complete" and group_stores(folder) else [command[0], *who, *command[1:]]


def _who(asked: list[tuple[list[str], list[str]]], labels: list[str], exclude: list[str]) -> list[str]:
    """Options for the participants of the group: some of those that the participant level was asked for."""
    everyone = [excluded for taken, excluded in asked if not taken]
    never = {text for excluded in everyone for text in excluded}
    named = {text for taken, excluded in asked for text in taken if text not in excluded}
    unknown = [text for text in labels if text not in named and (not everyone or text in never)]
    if unknown:
        raise ParameterError(
            f"the group level takes participants of the participant level, which was not run for {listing(unknown)}; "
            "run it for them first"
        )
    chosen = labels or ([] if everyone else sorted(named))
    left_out = sorted({*exclude, *(never - named if everyone and not labels else ())})
    if not chosen and set(left_out) == never:
        return [f"--exclude={text}" for text in left_out]
    chosen = [text for text in chosen if text not in left_out]
    if labels or not everyone:
        if not chosen:
            raise ParameterError("no participant is left: every one is excluded; exclude fewer")
        return ["--group-stores", *(f"--participant-label={text}" for text in chosen)]
    return ["--group-stores", *(f"--exclude={text}" for text in left_out)]


def _values(record: Record, name: str) -> list[str]:
    """Values of an option, "--name=value" or "--name value", without "sub-"; those of files are what these list."""
    from daskglm.models.selection import excluded_ids

    command = record.command
    joined = [text.partition("=")[2] for text in command if text.startswith(f"{name}=")]
    apart = [value for text, value in pairwise(command) if text == name]
    files = [os.path.join(record.folder, text) for text in [*joined, *apart] if os.path.splitext(text)[1]]
    ids = [text for text in [*joined, *apart] if not os.path.splitext(text)[1]]
    return [text.removeprefix("sub-") for text in excluded_ids([*ids, *files])]


def _without(command: list[str], names: tuple[str, ...] = ("--participant-label", "--exclude", "--json")) -> list[str]:
    """A command without some options, of which --json has no value."""
    kept: list[str] = []
    for before, text in pairwise(["", *command]):
        value = before in names and before != "--json"
        if not value and text.partition("=")[0] not in names:
            kept.append(text)
    return kept


def _group_steps(folder: str, options: dict[str, Any]) -> list[Callable[[], list[str]]]:
    """A group analysis of each first-level contrast, or of those that --contrast names."""
    from daskglm.models.cohort_stores import first_level_contrast, group_stores

    stores = group_stores(folder)
    if not stores:
        raise OutputError(f"no group store is in {folder}; see the notes of the participant level")
    contrasts = options.pop("contrast", [])
    chosen = {text: pair for text in contrasts if (pair := first_level_contrast(text, stores)) is not None}
    rest = [text for text in contrasts if text not in chosen]

    def step(name: str, label: str) -> list[str]:
        tested = rest if rest or options.get("f-contrast") else [f"{name}=intercept"]
        more = {**options, "contrast": tested, "output": os.path.join(folder, "group-level", f"contrast-{label}")}
        return ["group", *_arguments(more), "--", stores[label]]

    pairs = list(chosen.values()) or [(label, label) for label in stores]
    return [lambda name=name, label=label: step(name, label) for name, label in pairs]  # type: ignore[misc]
