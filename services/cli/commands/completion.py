"""`jetcrew completion`."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
        jetcrew completion bash > ~/.local/share/bash-completion/completions/jetcrew
        jetcrew completion zsh > "${fpath[1]}/_jetcrew"
        jetcrew completion fish > ~/.config/fish/completions/jetcrew.fish
    """
    from click.shell_completion import get_completion_class

    from services.cli.app import root

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "jetcrew", "_JETCREW_COMPLETE").source())
