"""`jetcrew session`."""

from typing import Any

import click

from services.cli.options import NameOf, as_json, connecting


@click.group()
def session() -> None:
    """List and forget sessions: the conversations that tasks go on with.

    \b
        jetcrew session list
        jetcrew session forget review --owner team
    """


@session.command("list")
@click.option("--worker", type=NameOf("a worker"), metavar="NAME", help="This worker's own only.")
@click.option(
    "--owner",
    type=NameOf("an owner"),
    metavar="NAME",
    help="Those only that this owner's workers share.",
)
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The sessions there are: workers' own, and those that workers share.

    \b
        jetcrew session list
        jetcrew session list --owner team --json | jq '.[] | select(.holder).name'
    """
    from services.cli.session import converse
    from services.cli.sessions import list_sessions

    converse(ctx, options, lambda talk: list_sessions(talk, options))


@session.command()
@click.argument("name")
@click.option("--worker", metavar="NAME", help="It is this worker's own.")
@click.option("--owner", metavar="NAME", help="It is one that this owner's workers share.")
@click.option(
    "--agent", metavar="NAME", help="With --owner: for this agent only.  [default: for each]"
)
@as_json
@connecting
@click.pass_context
def forget(ctx: click.Context, /, **options: Any) -> None:
    """Forget the session NAME: the next task that names it begins a fresh conversation.

    \b
        jetcrew session forget review --owner team
        jetcrew session forget continue --worker ada
    """
    from services.cli.session import converse
    from services.cli.sessions import forget as forgotten

    if (options["worker"] is None) == (options["owner"] is None):
        raise click.UsageError("say whose session it is: --worker NAME or --owner NAME", ctx)
    if options["agent"] and not options["owner"]:
        raise click.UsageError("--agent is for a session of an owner's", ctx)
    converse(ctx, options, lambda talk: forgotten(talk, options))
