"""`jetcrew dlq`."""

from typing import Any

import click

from services.cli.options import as_json, connecting

LETTER = click.IntRange(1, 2**63 - 1)


@click.group()
def dlq() -> None:
    """List, show, redrive, drop dead letters: messages that nobody could handle.

    \b
        jetcrew dlq list
        jetcrew dlq show 3
        jetcrew dlq redrive 3
    """


@dlq.command("list")
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The dead letters there are, the oldest first, each with the reason.

    \b
        jetcrew dlq list
        jetcrew dlq list --json | jq '.[].reason'
    """
    from services.cli.letters import list_letters
    from services.cli.session import converse

    converse(ctx, options, lambda session: list_letters(session, options))


@dlq.command()
@click.argument("letter", type=LETTER)
@as_json
@connecting
@click.pass_context
def show(ctx: click.Context, /, **options: Any) -> None:
    """All that is known of LETTER, and its body.

    \b
        jetcrew dlq show 3
        jetcrew dlq show 3 --json | jq -r .body
    """
    from services.cli.letters import show_letter
    from services.cli.session import converse

    converse(ctx, options, lambda session: show_letter(session, options))


@dlq.command()
@click.argument("letters", type=LETTER, nargs=-1, metavar="[LETTER]...")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@as_json
@connecting
@click.pass_context
def redrive(ctx: click.Context, /, **options: Any) -> int:
    """Send letters to their subjects once more; the same letter never goes twice.

    What would only die again stays, and the answer says why. Exits with 1 when some of several stay.

    \b
        jetcrew dlq redrive 3 4
        jetcrew dlq redrive --all
    """
    from services.cli.letters import redrive_letters
    from services.cli.session import converse

    if bool(options["letters"]) == options["everything"]:
        raise click.UsageError("name letters (jetcrew dlq list shows them), or give --all")
    return converse(ctx, options, lambda session: redrive_letters(session, options))


@dlq.command()
@click.argument("letters", type=LETTER, nargs=-1, required=True, metavar="LETTER...")
@as_json
@connecting
@click.pass_context
def drop(ctx: click.Context, /, **options: Any) -> int:
    """Forget letters, for good.

    \b
        jetcrew dlq drop 3 4
    """
    from services.cli.letters import drop_letters
    from services.cli.session import converse

    return converse(ctx, options, lambda session: drop_letters(session, options))
