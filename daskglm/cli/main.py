"""``daskglm``: the command line."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from daskglm.errors import ContrastError, DaskGLMError

_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Group(click.Group):
    """Commands whose errors are one clear line and status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; tracebacks are for ``--debug``."""
        try:
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
            click.echo("daskglm: interrupted; the same command continues a conversion", err=True)
            ctx.exit(130)


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


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads images."""
    options = [
        click.option("--participants", type=click.Path(), help="Table (.tsv, .csv) with a column participant_id."),
        click.option("--mask", type=click.Path(), help="Mask image; by default voxels with data in enough images."),
        click.option("--missing", type=click.Choice(["nan", "zero"]), default="nan", help="What is missing data."),
        click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.5,
                     help="Fraction of the images that a voxel must have."),
        click.option("--smoothing-fwhm", type=float, help="Smooth each image first, in mm."),
        click.option("--cluster", help="'local', a scheduler's address or a YAML file; by default threads."),
        click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(), help="The store, a folder ending in .zarr.")
@click.option("--on-error", type=click.Choice(["stop", "quarantine"]), default="stop",
              help="Stop at a file that cannot be used, or leave its subject out.")  # fmt: skip
@_shared
def convert(images: tuple[str, ...], output: str, cluster: str | None, quiet: bool, **options: Any) -> None:
    """Convert images to a Zarr store.

    IMAGES are one 3-D file a subject, or a quoted glob.

    Given again with more files it appends; after an interruption it continues.
    """
    from daskglm.models.convert import convert as run
    from daskglm.report.summary import print_conversion

    with _cluster(cluster):
        result = run(_one_or_many(images), output, progress=not quiet, **options)
    print_conversion(result, _console())


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--formula", required=True, help='Design from the participants, as in "~ age + C(site)".')
@click.option("--contrast", "contrasts", multiple=True, help="t contrast: an expression, or name=expression.")
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "age, sex"; or name=...')
@click.option("--output", required=True, type=click.Path(), help="Result folder.")
@_shared
def group(
    images: tuple[str, ...],
    output: str,
    formula: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    cluster: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit a model across subjects.

    IMAGES are a store, files, or a quoted glob.
    """
    from daskglm.models.group import group_analysis
    from daskglm.report.summary import print_group

    with _cluster(cluster):
        result = group_analysis(
            _one_or_many(images), output, formula, _named(contrasts), f_contrasts=_named(f_contrasts),
            progress=not quiet, **options,
        )  # fmt: skip
    print_group(result, _console())


@main.command()
@click.argument("store", type=click.Path())
def info(store: str) -> None:
    """Show what a STORE holds."""
    from daskglm.io.store import open_images
    from daskglm.report.summary import print_store

    print_store(open_images(store), _console())


@main.command()
@click.option("--output", default="daskglm-demo", type=click.Path(), help="Folder for the cohort and the results.")
@click.option("--subjects", default=36, type=click.IntRange(12), help="How many to simulate.")
def demo(output: str, subjects: int) -> None:
    """Simulate a cohort and find its known effect.

    The whole path, on a local cluster: images, Zarr store, maps and a picture.
    """
    from daskglm.demo import run_demo

    run_demo(output, subjects, _console())


def _one_or_many(images: tuple[str, ...]) -> Any:
    """One path or pattern, or the files that a shell expanded a pattern to."""
    return images[0] if len(images) == 1 else list(images)


def _named(definitions: tuple[str, ...]) -> dict[str, str]:
    """Name -> expression, of texts that are "name=expression" or an expression, its own name."""
    named: dict[str, str] = {}
    for text in definitions:
        name, equals, expression = (part.strip() for part in text.partition("="))
        if name in named:
            raise ContrastError(f"two contrasts are called {name!r}; name one of them: new_name=definition")
        named[name] = expression if equals else name
    return named


def _cluster(cluster: str | None) -> Any:
    """The cluster asked for, its dashboard announced; threads of this process by default."""
    if cluster is None:
        return nullcontext()
    from daskglm.cluster import connect

    return connect(cluster)


def _console() -> Any:
    """Standard output."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
