"""What the commands of `jetcrew session` do."""

from typing import Any

import click
from msgspec import to_builtins

from contracts.session import ForgetSession, SessionRecord
from contracts.topology import SESSION
from services.cli.link import call
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import clean, columns, size


async def list_sessions(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    held = await session.bus.bucket(SESSION, SessionRecord).list()
    records = [(*_whose(key, h.value), h.value) for key, h in held.items()]
    records = [
        (kind, who, name, record)
        for kind, who, name, record in sorted(records, key=lambda r: r[:3])
        if _is_asked_for(kind, who, options)
    ]
    if options["as_json"]:
        print_json([_shown(*each) for each in records])
        return
    if not records:
        click.echo("no sessions; the first task that ends leaves one", err=True)
        return
    rows = [
        (
            name, f"{kind} {who}", r.shared.agent if r.shared else "-",
            f"in task {r.holder.task}" if r.holder else clean(f"lost: {r.lost}") if r.lost else "-",
            str(r.turns) if r.shared else "-", size(r.files.size_bytes) if r.files else "-",
            when(r.began_at) if r.began_at else "-", when(r.seen_at), r.task,
        )
        for kind, who, name, r in records
    ]  # fmt: skip
    head = ("SESSION", "OF", "AGENT", "STATE", "TURNS", "SIZE", "BEGAN", "SEEN", "LAST TASK")
    click.echo(columns(head, rows))


def _whose(key: str, record: SessionRecord) -> tuple[str, str, str]:
    if record.shared is not None:
        return "owner", record.shared.owner, record.shared.name
    worker, _, name = key.partition(".")
    return "worker", worker, name


def _is_asked_for(kind: str, who: str, options: dict[str, Any]) -> bool:
    asked = {name: options[name] for name in ("worker", "owner") if options[name]}
    return not asked or asked.get(kind) == who


def _shown(kind: str, who: str, name: str, record: SessionRecord) -> dict[str, Any]:
    fields: dict[str, Any] = to_builtins(record)
    fields.pop("shared", None)
    last = {"last_worker": fields.pop("worker")} if "worker" in fields else {}
    agent = {"agent": record.shared.agent} if record.shared else {}
    return {"name": name, kind: who} | agent | last | fields


async def forget(session: Session, options: dict[str, Any]) -> None:
    """Forget one.

    Raises:
        NotThere: there is none.
        Refused: a task is in it.
    """
    command = ForgetSession(
        name=options["name"],
        worker=options["worker"],
        owner=options["owner"],
        agent=options["agent"],
    )
    result = await call(session.bus, "session", "forget", command)
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(clean(result.detail))
