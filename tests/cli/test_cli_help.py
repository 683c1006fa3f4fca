"""Help: what fits a screen, and how it ends."""

import shlex
import subprocess

import click
import pytest
from click.testing import CliRunner
from test_cli import run

from daskglm.cli.main import main

SHOWN = {name: command for name, command in main.commands.items() if not command.hidden}
PLANS = {f"plan {name}": command for name, command in main.commands["plan"].commands.items()}


def test_help_fits_a_screen_and_begins_with_three_commands():
    status, text = run("--help")
    lines = text.splitlines()
    assert status == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    first = lines.index("Commands:")
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == ["first-level", "group", "permute"]
    assert lines[first + 4] == ""
    below = {line.split()[0] for line in lines[first:] if line.startswith("  ")}
    assert below == set(SHOWN)
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("name", sorted({**SHOWN, **PLANS}))
def test_the_help_of_a_command_ends_with_an_example_that_it_takes(name):
    status, text = run(*name.split(), "--help")
    assert status == 0
    assert max(map(len, text.splitlines())) <= 80
    example = text.partition("Example:\n")[2].strip().splitlines()[0]
    program, *words = shlex.split(example)
    assert program == "daskglm"
    assert words[: len(name.split())] == name.split()
    command, rest = main, words
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    parsed = command.make_context("x", [word for word in rest if word not in (">>", "~/.bashrc")])
    assert parsed.params


@pytest.mark.parametrize(("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", None), ("fish", None)])
def test_completion_scripts(shell, check, tmp_path):
    status, text = run("completion", shell)
    assert status == 0
    assert "_DASKGLM_COMPLETE" in text
    if check is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([*check, tmp_path / "script"], check=True)


def test_what_the_completion_script_asks_for():
    asked = {"_DASKGLM_COMPLETE": "bash_complete", "COMP_WORDS": "daskglm per", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, [], prog_name="daskglm", env=asked)
    assert done.output.split() == ["plain,permute"]
    asked |= {"COMP_WORDS": "daskglm nothing --f-co", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, [], prog_name="daskglm", env=asked).exit_code == 0
    asked |= {"COMP_WORDS": "daskglm group --f-co", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, [], prog_name="daskglm", env=asked).output.split() == ["plain,--f-contrast"]
