"""``daskglm``: the command line."""

import warnings
from typing import Any

import click

from daskglm.cli.analyses import convert, first_level, group, permute
from daskglm.cli.options import console
from daskglm.errors import DaskGLMError

_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Group(click.Group):
    """Commands whose errors are one clear line and status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; tracebacks are for ``--debug``."""
        try:
            with warnings.catch_warnings():
                if not ctx.params.get("debug"):
                    warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except DaskGLMError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"daskglm: {error}", err=True)
            ctx.exit(2)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            fault = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"daskglm: unexpected error, please report it ({fault}); --debug shows where", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "daskglm: interrupted; convert, first-level and permute go on where they were when given again",
                err=True,
            )
            ctx.exit(130)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the line of code that it came from."""
    click.echo(f"daskglm: warning: {' '.join(str(message).split())}", err=True)


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


for command in (convert, group, permute, first_level):
    main.add_command(command)


if __name__ == "__main__":
    main()
