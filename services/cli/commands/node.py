"""`jetcrew node`."""

from typing import Any

import click

from services.cli.options import as_json, connecting


@click.group()
def node() -> None:
    """List the nodes of the crew: the hosts that run workers.

    \b
        jetcrew node list
    """


@node.command("list")
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The nodes there are, and those that are gone while workers are theirs.

    \b
        jetcrew node list
        jetcrew node list --json | jq '.[] | select(.here | not).node'
    """
    from services.cli.nodes import list_nodes
    from services.cli.session import converse

    converse(ctx, options, lambda session: list_nodes(session, options))
