"""``status`` and ``resume``: what became of a long command, and going on with it."""

import json
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import click

from daskglm.cli.options import example
from daskglm.errors import OutputError

_LONG = ("convert", "group", "permute", "first-level")


class Terminated(KeyboardInterrupt):
    """The process was asked to end: by a walltime, ``scancel`` or ``kill``."""

    status = 143


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C within the block, so that what runs can say how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command(epilog=example("daskglm status out"))
@click.argument("output", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, output: str, as_json: bool) -> None:
    """Show what is done in OUTPUT.

    OUTPUT is a result folder or a store. Exit status 0: complete; 1: not.
    """
    from daskglm.models.run_status import run_status

    found = run_status(output)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo("\n".join(_lines(found, output)))
    ctx.exit(0 if found.state == "complete" else 1)


@click.command(epilog=example("daskglm resume out"))
@click.argument("output", type=click.Path())
@click.pass_context
def resume(ctx: click.Context, output: str) -> None:
    """Go on with what was interrupted in OUTPUT.

    The recorded command runs again, in its folder; what is done is not done again.
    """
    from daskglm.models.run_status import run_status

    found = run_status(output)
    if found.state == "complete":
        click.echo(f"{output} is complete: nothing to resume")
        return
    if found.state == "running":
        raise OutputError(f"{output} is being written by {found.who}; wait until it is done, or end that process")
    if not found.commands:
        raise OutputError(f"it is not recorded what wrote {output}; give the same command again")
    here, worst = os.getcwd(), 0
    for item in found.commands:
        arguments = _checked(item["command"], output)
        click.echo(f"daskglm: in {item['folder']}: daskglm {shlex.join(arguments)}", err=True)
        try:
            os.chdir(item["folder"])
        except OSError as error:
            raise OutputError(f"the working folder of the command is gone: {error}; give the command again") from error
        try:
            worst = max(worst, run_command(arguments))
        finally:
            os.chdir(here)
    ctx.exit(worst)


def run_command(arguments: list[str]) -> int:
    """Run a command of daskglm in this process.

    Parameters
    ----------
    arguments : list of str
        Of the command line.

    Returns
    -------
    int
        Exit status.
    """
    from daskglm.cli.main import main

    try:
        status = main.main(args=arguments, prog_name="daskglm", standalone_mode=False)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    return status if isinstance(status, int) else 0


def _checked(arguments: list[str], output: str) -> list[str]:
    """The arguments of a long command; anything else is refused."""
    if not arguments:
        raise OutputError(f"what writes {output} was started in Python; call the same function again, it goes on")
    name = next((text for text in arguments if not text.startswith("-")), "")
    if name not in _LONG:
        raise OutputError(f"only {', '.join(_LONG)} are resumed, but {output} records {name!r}; give the command again")
    if any("***" in text for text in arguments):
        raise OutputError(f"the command that wrote {output} had a secret, which is not recorded; give it again")
    return list(arguments)


def _lines(found: Any, output: str) -> list[str]:
    """What a person reads."""
    lines = [f"{output}: {found.kind}, {found.state}"]
    if found.total >= 0:
        lines.append(f"  {found.done:,} of {found.total:,} {found.units} done")
    elif found.state != "complete":
        lines.append("  the work had not begun: headers and tables were being read")
    if found.who:
        verb = "runs in" if found.state == "running" else "ran in"
        lines.append(f"  {verb} {found.who}")
    shown = found.failures[:20]
    lines += [f"  failed: {text}" for text in shown]
    if len(found.failures) > len(shown):
        lines.append(f"  and {len(found.failures) - len(shown)} more")
    if found.state in ("interrupted", "failed"):
        lines.append(f"  to go on: daskglm resume {shlex.quote(output)}")
    return lines
