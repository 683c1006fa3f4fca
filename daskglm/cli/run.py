"""``daskglm run``: a whole analysis that a file holds."""

import io
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from daskglm.cli import analyses
from daskglm.cli.model_file import arguments_of, read_document
from daskglm.cli.options import example, run_options
from daskglm.cli.reports import report_option
from daskglm.cli.runs import run_command
from daskglm.errors import OutputError, ParameterError

if TYPE_CHECKING:  # heavy, and --help needs none of it
    from daskglm.models.stats_groups import GroupNode
    from daskglm.models.stats_model import StatsModel


@click.command(
    short_help="Run the analysis that a file holds.",
    epilog=example("daskglm run model.yaml", "daskglm run model_smdl.json ds001 out"),
)
@click.argument("model", type=click.Path())
@click.argument("dataset", required=False, type=click.Path())
@click.argument("output", required=False, type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@report_option
@run_options
@click.pass_context
def run(ctx: click.Context, /, model: str, dataset: str | None, output: str | None, **options: Any) -> None:
    """Run the analysis in MODEL, a YAML or JSON file.

    It holds the kind of the analysis and the options of that command, by their names:

    \b
    kind: group             # or permute, first-level, convert
    images: all.zarr        # paths are relative to the file
    formula: ~ age + sex
    contrast: {age: age, men: sex}
    output: out

    A BIDS Stats Model is read too; it needs the DATASET and the OUTPUT folder.
    """  # noqa: D301 (click reads the backspace: do not rewrap)
    from daskglm.models.stats_model import is_stats_model, read_stats_model

    document = read_document(model)
    more = _given(ctx)
    if is_stats_model(document):
        if dataset is None or output is None:
            raise ParameterError(
                "a BIDS Stats Model names no dataset and no output; give them: daskglm run "
                f"{shlex.quote(model)} DATASET OUTPUT"
            )
        ctx.exit(run_stats_model(read_stats_model(document, dataset), dataset, output, more))
    if dataset is not None:
        raise ParameterError(f"{model} holds its images and output, but {dataset!r} was given too; leave it out")
    commands = {command.name: command for command in _COMMANDS}
    arguments = arguments_of(document, commands, model)
    options_end = arguments.index("--")
    ctx.exit(run_command([*arguments[:options_end], *more, *arguments[options_end:]]))


def run_stats_model(
    model: "StatsModel", dataset: str, output: str, more: Sequence[str],
    levels: tuple[str, ...] = ("participant", "group"),
) -> int:  # fmt: skip
    """Run the first level and the group analyses of a model.

    Parameters
    ----------
    model : StatsModel
        Model.
    dataset, output : str
        BIDS dataset and result folder; group analyses go to ``node-<name>/contrast-<name>`` in it.
    more : sequence of str
        Options of how the commands run.
    levels : tuple of str
        Of "participant" and "group", what is run.

    Returns
    -------
    int
        Exit status: the worst.
    """
    steps: list[Callable[[], list[str]]] = []
    if "participant" in levels:
        first = [item for item in more if item != "--overwrite"]
        steps.append(lambda: ["first-level", *as_arguments(model.first_level), *first, "--", dataset, output])
    if "group" in levels:
        steps += [
            lambda node=node, of=of: _group_arguments(node, of, output, more)  # type: ignore[misc]
            for node in model.groups
            for of in node.of
        ]
    return run_steps(steps)


def run_steps(steps: Sequence[Callable[[], list[str]]]) -> int:
    """Run commands one after the other, each as it would be typed; with --json their results are one object.

    Parameters
    ----------
    steps : sequence of callables
        Each gives the arguments of a command, when those before it are done.

    Returns
    -------
    int
        Exit status: the worst.
    """
    found: list[Any] = []
    arguments: list[str] = []
    worst, as_json = 0, False
    for index, step in enumerate(steps):
        if index and "--dry-run" in arguments:
            click.echo(f"daskglm: {len(steps) - index} group analyses follow, of what this would give", err=True)
            break
        arguments = step()
        as_json = "--json" in arguments
        click.echo(f"daskglm: daskglm {shlex.join(arguments)}", err=True)
        heard = io.StringIO()
        if as_json:
            with redirect_stdout(heard):
                status = run_command(arguments)
            found.append(json.loads(heard.getvalue() or "null"))
        else:
            status = run_command(arguments)
        worst = max(worst, status)
        if status > 1:
            break
    if as_json:
        click.echo(json.dumps({"command": "run", "steps": found}, indent=2))
    return worst


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options by their names on the command line as its arguments.

    Parameters
    ----------
    options : mapping
        Name to text, list of texts, or mapping of names to expressions.

    Returns
    -------
    list of str
    """
    texts: list[str] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            value = [f"{key}={expression}" for key, expression in value.items()]
        texts += [f"--{name}={item}" for item in (value if isinstance(value, list) else [value])]
    return texts


def _group_arguments(node: "GroupNode", of: str, output: str, more: Sequence[str]) -> list[str]:
    """The arguments of one group analysis of a model, whose first level is done."""
    from daskglm.models.cohort_stores import group_stores
    from daskglm.schema.names import bids_label

    stores = group_stores(output)
    if bids_label(of) not in stores:
        raise OutputError(
            f"{output} has no group store of contrast {of!r}, which is made when all subjects are done; run the first "
            "level of everyone, and see its notes"
        )
    folder = os.path.join(output, f"node-{bids_label(node.name)}", f"contrast-{bids_label(of)}")
    # The mean over subjects goes by the name of what is averaged.
    contrasts = {of if name == "intercept" else name: text for name, text in node.contrasts.items()}
    options = {"formula": node.formula, "contrast": contrasts, "f-contrast": node.f_contrasts, "output": folder}
    options |= {"where": node.where} if node.where else {}
    return ["group", *as_arguments(options), *more, "--", stores[bids_label(of)]]


def _given(ctx: click.Context) -> list[str]:
    """Options of how a command runs, as they were given."""
    texts = []
    for param in ctx.command.params:
        value = ctx.params.get(str(param.name))
        if isinstance(param, click.Option) and value not in (None, False):
            texts.append(param.opts[-1] if param.is_flag else f"{param.opts[-1]}={value}")
    return texts


_COMMANDS = (analyses.convert, analyses.group, analyses.permute, analyses.first_level)
