"""``daskglm report``, and the reports that analyses end with."""

import os
from collections.abc import Callable
from typing import Any

import click

from daskglm.cli.options import example
from daskglm.errors import MissingDependencyError
from daskglm.io.files import exists, is_url, join, list_names, remove
from daskglm.io.ownership import check_ours, is_ours
from daskglm.io.provenance import redact

REPORT = "report.html"
_STUDY = "study.html"


def report_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Whether a report is written at the end."""
    return click.option("--no-report", is_flag=True, help=f"Write no {REPORT} to the results.")(command)


@click.command(epilog=example("daskglm report out", "daskglm report results --output study.html"))
@click.argument("folders", metavar="OUT...", nargs=-1, required=True, type=click.Path())
@click.option("--output", type=click.Path(), help=f"The page of several folders; by default {_STUDY} in the first OUT.")
def report(folders: tuple[str, ...], output: str | None) -> None:
    """Report results as pages of HTML.

    OUT is the result folder of group, permute or first-level, whose report.html
    is made again. Of several, or of a folder of them, those without a report get
    one, and an index of all contrasts is made.
    """
    from daskglm.report.of_folders import generate_report

    found = [inner for folder in folders for inner in _results(folder)]
    if len(folders) == 1 and found == list(folders):
        path = output or join(found[0], REPORT)
        check_ours(path, "--output")
        generate_report(found[0]).save_as_html(path)
        click.echo(f"report: {path}")
        return
    from daskglm.report.study import study_report

    for folder in found:
        path = join(folder, REPORT)
        if not exists(path):
            generate_report(folder).save_as_html(path)
            click.echo(f"report: {path}")
    several = output or (join(folders[0], _STUDY) if len(folders) == 1 else _STUDY)
    check_ours(several, "--output")
    click.echo(f"study: {study_report(found or folders, several)}")


def write_report(folder: str, no_report: bool) -> None:
    """End an analysis with its report; a finished analysis does not fail because of it.

    Parameters
    ----------
    folder : str
        Result folder, path or URL.
    no_report : bool
        Write none; that of an earlier run is removed all the same.
    """
    path = join(folder, REPORT)
    try:
        if is_ours(path):
            remove(path)
        if no_report:
            return
        check_ours(path)
        from daskglm.report.of_folders import generate_report

        generate_report(folder).save_as_html(path)
    except MissingDependencyError as error:
        click.echo(f"daskglm: no report was made: {error}", err=True)
    except Exception as error:
        if click.get_current_context().find_root().params.get("debug"):
            raise
        fault = redact(" ".join(f"{type(error).__name__}: {error}".split()))
        again = f"daskglm report {folder} tries again"
        click.echo(f"daskglm: the results are whole, but no report was made ({fault}); {again}", err=True)
    else:
        click.echo(f"daskglm: report in {path}", err=True)


def _results(folder: str) -> list[str]:
    """The folder, if it holds results; else those in it that do, at any depth on disk, or one level down a URL."""
    from daskglm.io.results import PROVENANCE

    records = (PROVENANCE, "first_level.json")
    if any(exists(join(folder, name)) for name in records):
        return [folder]
    if is_url(folder):
        inner = [join(folder, name) for name in list_names(folder)]
        return [place for place in inner if any(exists(join(place, name)) for name in records)]
    found = []
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith(".") and not name.endswith(".zarr"))
        if any(name in names for name in records):
            found.append(place)
            below.clear()
    return found or [folder]
