"""What commands share: options, and texts that stand for contrasts, filters and clusters."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import click

from daskglm.errors import MissingDependencyError, OutputError, ParameterError
from daskglm.io.files import read_bytes
from daskglm.io.provenance import LOG, logged_to

_ANY_WIDTH = 10_000
_REPORT_TITLE = b"Dask Performance Report"


def exclude_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Whom to leave out."""
    return click.option(
        "--exclude", multiple=True, metavar="ID|FILE", help="Subjects to leave out, or a list of them."
    )(command)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads images."""
    options: list[Callable[..., Any]] = [
        click.option("--participants", type=click.Path(), help="Table (.tsv, .csv) with a column participant_id."),
        exclude_option,
        click.option("--where", help="Only participants who meet it, as in \"site != 'x' and age >= 18\"."),
        click.option("--mask", type=click.Path(), help="Mask image; by default voxels with data in enough images."),
        click.option("--missing", type=click.Choice(["nan", "zero"]), default="nan", help="What is missing data."),
        click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.5,
                     help="Fraction of the images that a voxel must have."),
        click.option("--smoothing-fwhm", type=float, help="Smooth each image first, in mm."),
        click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that runs long."""
    options = [
        click.option("--cluster", help="'local', a scheduler's address or a YAML file; by default threads."),
        click.option("--performance-report", type=click.Path(), metavar="HTML", help="What the cluster's workers did."),
        click.option("--log-file", type=click.Path(), metavar="FILE", help="Append what happens, and when."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
        click.option("--json", "as_json", is_flag=True, help="Say on standard output, as JSON, what was found."),
        click.option("--dry-run", is_flag=True, help="Check everything, say what it would take, and write nothing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def na_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """What happens to participants without a covariate."""
    return click.option("--na", type=click.Choice(["stop", "drop"]), default="stop",
                        help="Stop at, or leave out, participants who lack a value in use.")(command)  # fmt: skip


def threads_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """How many threads a command takes."""
    return click.option("--n-jobs", type=int, default=-1, help="Threads, where no cluster is given; -1: all cores.")(
        command
    )


def deficient_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Whether a design may have dependent columns."""
    text = "Take a design of dependent columns; contrasts that it does not determine are refused."
    return click.option("--allow-rank-deficient", is_flag=True, help=text)(command)


class LongCommand(click.Command):
    """A command that runs long; ``--dry-run`` plans it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or its plan."""
        if not ctx.params.pop("dry_run"):
            return super().invoke(ctx)
        from daskglm.cli.plan import dry_run

        return dry_run(ctx, str(self.name))


def example(*lines: str) -> str:
    """The end of a command's help: how it is given."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def shown(result: Any, as_json: bool, view: Callable[[Any, Any], None], values: Callable[[Any], Any]) -> None:
    """Print a result for people, or as one JSON object for programs."""
    if as_json:
        click.echo(json.dumps(values(result), indent=2))
    else:
        view(result, console())


def one_or_many(images: tuple[str, ...]) -> Any:
    """One path or pattern, or the files that a shell expanded a pattern to."""
    return images[0] if len(images) == 1 else list(images)


def pairs(filters: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Entity and value, of texts "entity=value"; None without any."""
    for text in filters:
        if "=" not in text:
            raise ParameterError(
                f"a filter is KEY=VALUE, as in run=1 (res= for files without res), but this is {text!r}"
            )
    parts = [text.partition("=") for text in filters]
    return [(key.strip(), value.strip()) for key, _, value in parts] or None


@contextmanager
def running(cluster: str | None, performance_report: str | None, log_file: str | None, quiet: bool) -> Iterator[None]:
    """The log, and the cluster asked for with its dashboard and report; threads of this process by default."""
    context = click.get_current_context()
    with ExitStack() as stack:
        stack.enter_context(logged_to(log_file, str(context.info_name), context.params))
        if performance_report is not None:
            _check_report(performance_report, cluster)
        if cluster is not None:
            from daskglm.cluster import connect

            client = stack.enter_context(connect(cluster))
            # After Ctrl-C distributed gathers on, for nobody, and asyncio prints how that ends.
            logging.getLogger("asyncio").addFilter(_not_of_a_gathering)
            LOG.info("dashboard at %s", client.dashboard_link)
            if not quiet:
                click.echo(f"daskglm: dashboard at {client.dashboard_link}", err=True)
        if performance_report is not None:
            import distributed

            stack.enter_context(distributed.performance_report(filename=performance_report))
        yield


def _not_of_a_gathering(record: logging.LogRecord) -> bool:
    """Whether a message is news: not of the inner end of a gathering of results."""
    return "exception=AllExit()" not in record.getMessage()


def _check_report(path: str, cluster: str | None) -> None:
    """Raise, before any work, where a performance report cannot be made."""
    if cluster is None:
        raise ParameterError(
            "a performance report is of a cluster's workers, but the command runs on threads; add --cluster local"
        )
    if find_spec("bokeh") is None:
        raise MissingDependencyError(
            "a performance report is drawn by bokeh, which is not installed; pip install 'daskglm[dashboard]'"
        )
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise OutputError(f"cannot write the performance report to {path}; choose a file in a folder that exists")
    if os.path.exists(path) and _REPORT_TITLE not in read_bytes(path):
        raise OutputError(
            f"{path} is no performance report, so it is not replaced; choose another --performance-report"
        )


def console() -> Any:
    """Standard output; where it is no terminal, a row of a table is one line, however long its names are."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _ANY_WIDTH
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
