"""What the commands of `jetcrew node` do."""

from typing import Any

import click

from contracts.node import NodeRecord
from contracts.topology import NODE, WORKER
from contracts.worker import WorkerRecord
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import columns
from services.kit.nodes import shown_nodes


async def list_nodes(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    there = await session.bus.bucket(NODE, NodeRecord).list()
    workers = await session.bus.bucket(WORKER, WorkerRecord).list()
    owners = [held.value.node for held in workers.values() if not held.value.ended]
    nodes = shown_nodes([held.value for held in there.values()], owners)
    if options["as_json"]:
        print_json(nodes)
        return
    if not nodes:
        click.echo("no nodes: no worker manager is there; jetcrew up starts one", err=True)
        return
    rows = [
        (
            n.node, "here" if n.here else "gone",
            f"{n.workers}/{n.max_workers}" if n.max_workers else str(n.workers),
            ", ".join(n.runtimes), n.version or "-", when(n.since),
        )
        for n in nodes
    ]  # fmt: skip
    click.echo(columns(("NODE", "STATE", "WORKERS", "RUNTIMES", "VERSION", "SINCE"), rows))
