"""`image-registry completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_PROGRAM = "image-registry"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell; with it, Tab completes commands, options and images' names.

    \b
    bash:  eval "$(image-registry completion bash)"                                 in ~/.bashrc
    zsh:   eval "$(image-registry completion zsh)"                                  in ~/.zshrc
    fish:  image-registry completion fish > ~/.config/fish/completions/image-registry.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    command = ctx.find_root().command
    click.echo(kind(command, {}, _PROGRAM, "_IMAGE_REGISTRY_COMPLETE").source())
