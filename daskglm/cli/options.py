"""What commands share: options, and texts that stand for contrasts, filters and clusters."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from daskglm.errors import ContrastError, ParameterError


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads images."""
    options = [
        click.option("--participants", type=click.Path(), help="Table (.tsv, .csv) with a column participant_id."),
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
        click.option("--quiet", is_flag=True, help="No progress bar."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def one_or_many(images: tuple[str, ...]) -> Any:
    """One path or pattern, or the files that a shell expanded a pattern to."""
    return images[0] if len(images) == 1 else list(images)


def named(definitions: tuple[str, ...]) -> dict[str, str]:
    """Name -> expression, of texts that are "name=expression" or an expression, its own name."""
    found: dict[str, str] = {}
    for text in definitions:
        name, equals, expression = (part.strip() for part in text.partition("="))
        if name in found:
            raise ContrastError(f"two contrasts are called {name!r}; name one of them: new_name=definition")
        found[name] = expression if equals else name
    return found


def pairs(filters: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Entity and value, of texts "entity=value"; None without any."""
    for text in filters:
        if "=" not in text:
            raise ParameterError(
                f"a filter is KEY=VALUE, as in run=1 (res= for files without res), but this is {text!r}"
            )
    parts = [text.partition("=") for text in filters]
    return [(key.strip(), value.strip()) for key, _, value in parts] or None


def on_cluster(cluster: str | None) -> Any:
    """The cluster asked for, its dashboard announced; threads of this process by default."""
    if cluster is None:
        return nullcontext()
    from daskglm.cluster import connect

    return connect(cluster)


def console() -> Any:
    """Standard output."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True)
