"""What the commands of `jetcrew image` do."""

from typing import Any

import click

from contracts.image import ImageRecord
from contracts.topology import IMAGE
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import columns, size


async def list_images(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    held = await session.bus.bucket(IMAGE, ImageRecord).list()
    records = sorted((h.value for h in held.values()), key=lambda r: r.last_used_at, reverse=True)
    if options["node"]:
        records = [record for record in records if record.node == options["node"]]
    if options["as_json"]:
        print_json(records)
        return
    if not records:
        click.echo("no images; the first worker in a container has one built", err=True)
        return
    rows = [
        (
            r.image[:12], r.node, r.agent or "(base)", ", ".join(r.capabilities),
            size(r.size_bytes), when(r.built_at), when(r.last_used_at), r.last_used_by or "",
        )
        for r in records
    ]  # fmt: skip
    head = ("IMAGE", "NODE", "AGENT", "CAPABILITIES", "SIZE", "BUILT", "USED", "BY")
    click.echo(columns(head, rows))
