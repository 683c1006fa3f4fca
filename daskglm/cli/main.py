"""``daskglm``: the command line."""

import warnings
from functools import partial
from typing import Any

import click

from daskglm.cli.analyses import convert, first_level, group, permute
from daskglm.cli.bids_app import bids
from daskglm.cli.completion import completion
from daskglm.cli.options import console, example, shown
from daskglm.cli.plan import plan
from daskglm.cli.reports import report
from daskglm.cli.run import run
from daskglm.cli.runs import ended_by_signal, resume, status
from daskglm.errors import COMMAND, DaskGLMError, listing, nearest
from daskglm.io.provenance import redact

_ARGUMENTS = "daskglm.arguments"
_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
_FIRST = ("first-level", "group", "permute")


class _Group(click.Group):
    """Commands whose errors are one clear line and status 2, and whose help fits a screen."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; of one that is unknown, say the nearest."""
        if args and self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            known = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
            ctx.fail(f"no command {args[0]!r}{nearest(args[0], known) or f'; there are {listing(known, 20)}'}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, those first that most people need; the options of all of them in a line."""
        for title, names in (
            ("Commands", _FIRST),
            ("Also", [name for name in self.commands if name not in _FIRST and not self.commands[name].hidden]),
        ):
            rows = [(name, self.commands[name].get_short_help_str(60)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)
        formatter.write("\nOptions: --debug (show tracebacks), --version, -h (--help; of a command, too).\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they were given."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, whose arguments the journal keeps; tracebacks are for ``--debug``."""
        before = COMMAND.set(ctx.meta[_ARGUMENTS])
        try:
            with ended_by_signal():
                return self._invoke(ctx)
        finally:
            COMMAND.reset(before)

    def _invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong is told in a line."""
        try:
            with warnings.catch_warnings():
                if not ctx.params.get("debug"):
                    warnings.showwarning = partial(_show_warning, set())
                return super().invoke(ctx)
        except DaskGLMError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"daskglm: {redact(str(error))}", err=True)
            ctx.exit(2)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            fault = redact(" ".join(f"{type(error).__name__}: {error}".split()))
            click.echo(f"daskglm: unexpected error, please report it ({fault}); --debug shows where", err=True)
            ctx.exit(1)
        except KeyboardInterrupt as interruption:
            # The journal of the run notes the command that goes on.
            how = next(iter(getattr(interruption, "__notes__", [])), "give the same command again")
            click.echo(f"daskglm: interrupted; what is done is kept; to go on: {how}", err=True)
            ctx.exit(getattr(interruption, "status", 130))


def _show_warning(told: set[str], message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, once, without the line of code that it came from."""
    text = redact(" ".join(str(message).split()))
    if text not in told:
        told.add(text)
        click.echo(f"daskglm: warning: {text}", err=True)


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="daskglm")
def main(debug: bool) -> None:
    """Voxel-wise linear models of neuroimaging cohorts. To see it: daskglm demo

    \b
    daskglm group all.zarr --formula "~ age + sex" --contrast age --output out
    """  # noqa: D301, D400 (click reads the backspace: do not rewrap)


@main.command(epilog=example("daskglm info all.zarr"))
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(store: str, as_json: bool) -> None:
    """Show what a STORE holds."""
    from daskglm.io.store import open_images
    from daskglm.report.summary import print_store
    from daskglm.report.values import store_values

    shown(open_images(store), as_json, print_store, store_values)


@main.command(epilog=example("daskglm demo --subjects 24"))
@click.option("--output", default="daskglm-demo", type=click.Path(), help="Folder for the cohort and the results.")
@click.option("--subjects", default=36, type=click.IntRange(12), help="How many to simulate.")
def demo(output: str, subjects: int) -> None:
    """Simulate a cohort and find its known effect.

    The whole path, on a local cluster: images, Zarr store, maps and a picture.
    """
    from daskglm.demo import run_demo

    run_demo(output, subjects, console())


for command in (first_level, group, permute, report, convert, run, plan, status, resume, completion, bids):
    main.add_command(command)


if __name__ == "__main__":
    main()
