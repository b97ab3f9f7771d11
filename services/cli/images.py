"""What the commands of `jetcrew image` do."""

import asyncio
import time
from typing import Any

import click

from contracts.bus import Ledger
from contracts.codec import convert
from contracts.image import Cleaned, CleanUp, ImageRecord, Judged
from contracts.results import Result
from contracts.topology import IMAGE
from services.cli.failures import CrewFailed
from services.cli.link import call, refusal
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import clean, columns, size

WAIT = 60.0
"""Seconds that a manager waits before it says that it is still at it."""
PATIENCE = 1800.0
"""Seconds for a cleaning to be over; removing an image takes an engine some seconds."""
POLL = 1.0


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
    if result.status == "accepted":
        result = await _outcome(session, result)
    cleaned = convert(result.record, list[Cleaned])
    if options["as_json"]:
        print_json(cleaned)
        return
    for one in cleaned:
        _tell(one)


async def _outcome(session: Session, accepted: Result) -> Result:
    """The answer in the ledger, once it is there."""
    assert accepted.id is not None
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (result := await Ledger(session.bus).answer(accepted.id)) is not None:
            if result.error is not None:
                raise refusal(result.error)
            return result
        await asyncio.sleep(POLL)
    raise CrewFailed(f"the cleaning is not over after {PATIENCE:.0f} s (command {accepted.id})")


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
