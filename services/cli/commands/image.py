"""`jetcrew image`."""

from typing import Any

import click

from services.cli.options import Duration, NameOf, as_json, connecting


@click.group()
def image() -> None:
    """List worker images, and remove what nothing needs any more.

    \b
        jetcrew image list
        jetcrew image gc --dry-run
    """


@image.command("list")
@click.option("--node", type=NameOf("a node"), metavar="NAME", help="On this node only.")
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


@image.command()
@click.option("--dry-run", is_flag=True, help="Tell what would be removed, and remove nothing.")
@click.option(
    "--older-than",
    type=Duration(days=3650),
    metavar="TIME",
    help="Images not used for so long: 90, 30m, 12h, 7d.  [default: as the node is set]",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep so many images whatever their age, those last used.  [default: as the node is set]",
)
@click.option(
    "--all-unused",
    is_flag=True,
    help="Every image that nothing uses: --older-than and --keep of 0.",
)
@click.option("--node", type=NameOf("a node"), metavar="NAME", help="On this node only.")
@as_json
@connecting
@click.pass_context
def gc(ctx: click.Context, /, **options: Any) -> None:
    """Remove images that were not used for long, and all that is left of workers that are no more.

    What runs, what a worker is about to use and what no record knows stays; the answer says why.

    \b
        jetcrew image gc --dry-run
        jetcrew image gc --older-than 7d --keep 3
        jetcrew image gc --json | jq '.[].removed'
    """
    from services.cli.images import collect
    from services.cli.session import converse

    converse(ctx, options, lambda session: collect(session, options))
