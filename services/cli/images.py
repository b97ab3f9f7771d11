"""What the commands of `jetcrew image` do."""

from typing import Any

import click

from contracts.codec import convert
from contracts.image import Cleaned, CleanUp, ImageRecord, Judged
from contracts.topology import IMAGE
from services.cli.ledger import answered
from services.cli.link import call
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import clean, columns, size

WAIT = 60.0
"""Seconds that a manager waits before it says that it is still at it."""
PATIENCE = 1800.0
"""Seconds for a cleaning to be over; removing an image takes an engine some seconds."""


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


async def collect(session: Session, options: dict[str, Any]) -> None:
    """Clean, and tell what was removed and what was kept.

    Raises:
        NotThere: no such node.
        CrewFailed: no manager answers, or none is done in time.
    """
    command = CleanUp(
        dry_run=options["dry_run"],
        older_than=0 if options["all_unused"] else options["older_than"],
        keep=0 if options["all_unused"] else options["keep"],
        node=options["node"],
    )
    result = await call(session.bus, "image", "gc", command, wait=WAIT, budget=15)
    result = await answered(session.bus, result, "cleaning", PATIENCE)
    cleaned = convert(result.record, list[Cleaned])
    if options["as_json"]:
        print_json(cleaned)
        return
    for one in cleaned:
        _tell(one)


def _tell(cleaned: Cleaned) -> None:
    done = "would remove" if cleaned.dry_run else "removed"
    if cleaned.doubt:
        click.echo(f"node {cleaned.node}: nothing is removed: {clean(cleaned.doubt)}")
    elif cleaned.removed:
        total = f", {size(cleaned.removed_bytes)} of images" if cleaned.removed_bytes else ""
        click.echo(f"node {cleaned.node}: {done} {len(cleaned.removed)}{total}")
    else:
        click.echo(f"node {cleaned.node}: nothing to remove")
    verdict = "remove" if cleaned.dry_run else "removed"
    rows = [_row(verdict, judged) for judged in cleaned.removed]
    rows += [_row("keep" if cleaned.dry_run else "kept", judged) for judged in cleaned.kept]
    if rows:
        click.echo(columns(("", "WHAT", "NAME", "SIZE", "WHY"), rows))
    if cleaned.unlisted:
        click.echo(f"… and {cleaned.unlisted} more")


def _row(verdict: str, judged: Judged) -> tuple[str, ...]:
    bytes_told = size(judged.size_bytes) if judged.size_bytes else ""
    return (verdict, judged.kind, judged.name, bytes_told, judged.why)
