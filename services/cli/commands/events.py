"""`jetcrew events`."""

from typing import Any

import click

from services.cli.options import as_json, connecting


@click.command()
@click.option(
    "--since",
    type=click.IntRange(0, 2**63 - 1),
    metavar="SEQ",
    help="Begin with this sequence; 0 or 1 is the oldest.  [default: what comes from now on]",
)
@click.option("--no-follow", is_flag=True, help="Print what there is and end.")
@click.option("--worker", metavar="NAME", help="Of this worker and its tasks only.")
@click.option("--task", metavar="ID", help="Of this task only.")
@as_json
@connecting
@click.pass_context
def events(ctx: click.Context, /, **options: Any) -> None:
    """Follow what happens in the crew.

    Each line begins with the event's sequence: --since with the next one goes on without a gap.

    \b
        jetcrew events
        jetcrew events --since 0 --no-follow --worker ada
        jetcrew events --since 118 --json
    """
    from services.cli.session import converse
    from services.cli.tasks import follow_events

    if options["since"] == 0:
        options["since"] = 1
    converse(ctx, options, lambda session: follow_events(session, options))
