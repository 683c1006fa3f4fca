"""``daskglm``: the command line."""

import warnings
from typing import Any

import click

from daskglm.cli.analyses import convert, first_level, group, permute
from daskglm.cli.options import console
from daskglm.cli.plan import plan
from daskglm.cli.runs import ended_by_signal, resume, status
from daskglm.errors import DaskGLMError
from daskglm.io.journal import COMMAND
from daskglm.io.provenance import redact

_ARGUMENTS = "daskglm.arguments"
_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Group(click.Group):
    """Commands whose errors are one clear line and status 2."""

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
                    warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the line of code that it came from."""
    click.echo(f"daskglm: warning: {redact(' '.join(str(message).split()))}", err=True)


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="daskglm")
def main(debug: bool) -> None:
    """Voxel-wise linear models of large neuroimaging cohorts.

    \b
    daskglm demo
    daskglm convert "maps/*.nii.gz" --participants people.tsv --output all.zarr
    daskglm group all.zarr --formula "~ age + sex" --contrast age --output out/
    """  # noqa: D301 (click reads the backspace: do not rewrap)


@main.command()
@click.argument("store", type=click.Path())
def info(store: str) -> None:
    """Show what a STORE holds."""
    from daskglm.io.store import open_images
    from daskglm.report.summary import print_store

    print_store(open_images(store), console())


@main.command()
@click.option("--output", default="daskglm-demo", type=click.Path(), help="Folder for the cohort and the results.")
@click.option("--subjects", default=36, type=click.IntRange(12), help="How many to simulate.")
def demo(output: str, subjects: int) -> None:
    """Simulate a cohort and find its known effect.

    The whole path, on a local cluster: images, Zarr store, maps and a picture.
    """
    from daskglm.demo import run_demo

    run_demo(output, subjects, console())


for command in (convert, group, permute, first_level, plan, status, resume):
    main.add_command(command)


if __name__ == "__main__":
    main()
