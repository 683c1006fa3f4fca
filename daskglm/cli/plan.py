"""``daskglm plan``: what a command would take, before it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import click

from daskglm.cli import analyses
from daskglm.cli.first_level_options import first_level_arguments
from daskglm.cli.options import console, example, one_or_many, run_options, running
from daskglm.cli.reports import report_option


@click.group(
    short_help="Say what a command would take.",
    epilog=example('daskglm plan permute all.zarr --formula "~ age" --contrast age --tfce'),
)
def plan() -> None:
    """Say what a command would take: bytes, memory, disk, tasks, time.

    The arguments are those of the command; nothing is written. It refuses what
    would not fit into memory or onto the disk, and says what would.
    """


def _convert(images: tuple[str, ...], output: str | None, **options: Any) -> Any:
    """The plan of a conversion."""
    from daskglm.models.plan_convert import plan_conversion

    return plan_conversion(one_or_many(images), output, calibrate=True, **options)


def _group(
    images: tuple[str, ...], output: str | None, formula: str, contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...], **options: Any,
) -> Any:  # fmt: skip
    """The plan of a group analysis."""
    from daskglm.models.cohort_stores import group_input
    from daskglm.models.plan_group import plan_group

    source, chosen = group_input(one_or_many(images), contrasts, bool(f_contrasts), formula)
    with analyses.naming_contrasts(images, source, contrasts):
        return plan_group(source, output, formula, chosen, f_contrasts=f_contrasts, calibrate=True, **options)


def _permute(
    images: tuple[str, ...], output: str | None, formula: str, contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...], one_sided: bool, connectivity: str, **options: Any,
) -> Any:  # fmt: skip
    """The plan of a permutation analysis."""
    from daskglm.models.cohort_stores import group_input
    from daskglm.models.plan_permute import plan_permutation

    source, chosen = group_input(one_or_many(images), contrasts, bool(f_contrasts), formula)
    with analyses.naming_contrasts(images, source, contrasts):
        return plan_permutation(
            source, output, formula, chosen, f_contrasts=f_contrasts, two_sided=not one_sided,
            connectivity=int(connectivity), calibrate=True, **options,
        )  # fmt: skip


def _first_level(dataset: str, output: str | None, **options: Any) -> Any:
    """The plan of a first-level analysis."""
    from daskglm.models.plan_first_level import plan_first_level

    return plan_first_level(dataset, output, calibrate=True, **first_level_arguments(**options))


@contextmanager
def _planned_on(cluster: str | None) -> Iterator[None]:
    """The workers that a plan is for: those of a running scheduler; of what would be started, what its file says."""
    if cluster is None:
        yield
        return
    from daskglm.cluster import read_configuration
    from daskglm.cluster.sizes import ELSEWHERE, asked_for
    from daskglm.graph.compute import PLANNED, Workers
    from daskglm.graph.planning import machine

    configuration = read_configuration(cluster)
    if configuration.kind not in ELSEWHERE:
        with running(cluster, None, None, True):
            yield
        return
    number, threads, memory = asked_for(configuration)
    if memory is None:
        memory = machine().memory_here
        click.echo(
            f"daskglm: {cluster} does not say how much memory a worker has; planned with what is free here", err=True
        )
    before = PLANNED.set(Workers(number, threads, memory))
    try:
        yield
    finally:
        PLANNED.reset(before)


def _planned(command: click.Command, make: Callable[..., Any]) -> click.Command:
    """The command that plans another one, with the same arguments; the output may be left out."""
    # Of the options of how a command runs a plan uses the cluster alone; the others are accepted.
    ignored = {option.name for option in getattr(run_options(report_option(lambda: None)), "__click_params__", [])} - {
        "cluster",
        "as_json",
    }

    def run(cluster: str | None, as_json: bool, output: str | None = None, **options: Any) -> None:
        from daskglm.models.plan import check_resources
        from daskglm.report.plan import plan_json, print_plan

        with _planned_on(cluster):
            found = make(output=output, **{name: value for name, value in options.items() if name not in ignored})
        if as_json:
            click.echo(plan_json(found))
        else:
            print_plan(found, console(), output)
        check_resources(found, output)

    params = []
    for param in command.params:
        given = copy(param)
        given.required = param.required and param.name != "output"
        if isinstance(given, click.Option) and given.name in ignored:
            given.hidden = True
        if given.name == "as_json" and isinstance(given, click.Option):
            given.help = "For programs."
        params.append(given)
    return click.Command(
        command.name, callback=run, params=params, help=f"Say what `{command.name}` would take.\n\nNothing is written.",
        epilog=str(command.epilog).replace("daskglm ", "daskglm plan ", 1),
    )  # fmt: skip


def dry_run(ctx: click.Context, name: str) -> None:
    """Check the arguments of a command, and the place of its results, and print its plan.

    Parameters
    ----------
    ctx : click.Context
        Of the command.
    name : str
        Its name.

    Raises
    ------
    DaskGLMError
        As the command, from headers and tables.
    """
    from daskglm.io.results import check_output

    if name in ("group", "permute"):
        # Results of the same test are gone on with; whether they are is only known from its images.
        check_output(ctx.params["output"], name == "permute" or ctx.params["overwrite"])
    ctx.invoke(plan.commands[name], **ctx.params)
    if not ctx.params["as_json"]:
        click.echo("nothing was written: --dry-run", err=True)


for _command, _make in (
    (analyses.convert, _convert),
    (analyses.group, _group),
    (analyses.permute, _permute),
    (analyses.first_level, _first_level),
):
    plan.add_command(_planned(_command, _make))
