"""`jetcrew image`."""

from typing import Any

import click

from services.cli.options import as_json, connecting


@click.group()
def image() -> None:
    """List worker images.

    \b
        jetcrew image list
    """


@image.command("list")
@click.option("--node", metavar="NAME", help="On this node only.")
@as_json
@connecting
@click.pass_context
def list_(ctx: click.Context, /, **options: Any) -> None:
    """The worker images there are, the last used first.

    \b
        jetcrew image list
        jetcrew image list --json | jq '.[].tag'
    """
    from services.cli.images import list_images
    from services.cli.session import converse

    converse(ctx, options, lambda session: list_images(session, options))
