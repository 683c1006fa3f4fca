"""``daskglm completion``: the TAB key."""

import click
from click.shell_completion import get_completion_class

from daskglm.cli.options import example


@click.command(
    short_help="Print what makes a shell complete commands and options.",
    epilog=example(
        "daskglm completion bash >> ~/.bashrc",
        "daskglm completion zsh >> ~/.zshrc",
        "daskglm completion fish > ~/.config/fish/completions/daskglm.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a SHELL complete commands and options.

    It goes into the file that the shell reads when it starts.
    """
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover (click has these three)
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "daskglm", "_DASKGLM_COMPLETE").source())
