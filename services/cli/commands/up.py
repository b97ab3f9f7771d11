"""`jetcrew up` and `jetcrew down`."""

import asyncio
import json
from typing import Any

import click

from services.cli.app import flags
from services.cli.options import as_json
from services.cli.settings import Environment


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="PORT",
    help="Port of the NATS server.  [default: the one of last time, else a free one]",
)  # fmt: skip
@click.option(
    "--http-port", type=click.IntRange(0, 65_535), metavar="PORT",
    help="Port of the HTTP API.  [default: a free one]",
)  # fmt: skip
@click.option(
    "--http-host", default="127.0.0.1", show_default=True, metavar="HOST",
    help="Address of the HTTP API; beyond this machine it needs JETCREW_API__TOKEN.",
)  # fmt: skip
@click.option(
    "--runtime", type=click.Choice(["auto", "docker", "process"]),
    help="What workers of runtime auto get.  [default: docker where an engine answers]",
)  # fmt: skip
@click.option(
    "--max-workers", type=click.IntRange(1), metavar="N", help="Workers at once.  [default: 16]"
)
@click.option("--json-logs", is_flag=True, help="Logs as JSON lines.")
@click.option("-v", "--verbose", is_flag=True, help="Show the processes' logs on stderr as well.")
@as_json
@click.pass_context
def up(ctx: click.Context, /, **options: Any) -> int:
    """Run a crew until it is stopped: NATS server, manager, HTTP API.

    Stays in the foreground. A process that dies is started again. Ctrl-C or SIGTERM ends the crew in
    order; workers keep running and are adopted by the next `up`. Logs are in the state directory, below
    logs/. With --json, one line says where it listens.

    \b
        jetcrew up
        jetcrew up --port 4222 --http-port 8080
        jetcrew up --runtime process --max-workers 4 &
    """
    from services.cli.crew_up import bring_up
    from services.cli.hosting import Wanted

    as_json = options.pop("as_json")
    options["verbose"] = options["verbose"] or flags(ctx)["verbose"]
    wanted = Wanted(**options)
    return asyncio.run(bring_up(Environment.read(), wanted, as_json=as_json))


@click.command()
@as_json
def down(as_json: bool) -> None:
    """Stop the crew that `jetcrew up` runs.

    Returns when its processes have ended. Workers keep running; delete them first if they should not.

    \b
        jetcrew down
    """
    from services.cli.crew_up import take_down

    pid = asyncio.run(take_down(Environment.read()))
    click.echo(json.dumps({"pid": pid}) if as_json else f"the crew of process {pid} has ended")
