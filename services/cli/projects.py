"""What the commands of `jetcrew project` do."""

from types import SimpleNamespace
from typing import Any

import click
import msgspec

from contracts.budget import Budget
from contracts.codec import convert
from contracts.errors import NotThere
from contracts.ids import is_token
from contracts.project import ArchiveProject, CreateProject, ProjectRecord, UpdateProject
from contracts.topology import PROJECT
from services.cli.link import call
from services.cli.running import budget_of
from services.cli.session import Session, print_json
from services.cli.story import when
from services.cli.text import columns

NOT_SHOWN = {"owed", "evt_seq", "counted"}
"""What only the control plane needs of a record."""


async def create_project(session: Session, options: dict[str, Any]) -> None:
    """Make it.

    Raises:
        InvalidMessage, Refused: a value is wrong; the name is taken.
    """
    await _tell(session, options, "create", CreateProject, budget=_budget(options))


async def update_project(session: Session, options: dict[str, Any]) -> None:
    """Change its bounds.

    Raises:
        InvalidMessage, NotThere, Refused: a value is wrong; there is none; it is archived.
    """
    more = {"budget": _budget(options), "lift": list(options["lift"])}
    await _tell(session, options, "update", UpdateProject, **more)


async def archive_project(session: Session, options: dict[str, Any]) -> None:
    """Close it.

    Raises:
        NotThere: there is none.
    """
    await _tell(session, options, "archive", ArchiveProject)


async def _tell(
    session: Session, options: dict[str, Any], verb: str, kind: type[msgspec.Struct], **more: Any
) -> None:
    message = convert({"name": options["name"]} | more, kind)
    result = await call(session.bus, "project", verb, message)
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(f"project {options['name']} is {result.detail}")


def _budget(options: dict[str, Any]) -> Any:
    return msgspec.to_builtins(budget_of(SimpleNamespace(**options)))


async def list_projects(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    held = (await session.bus.bucket(PROJECT, ProjectRecord).list()).values()
    records = sorted((h.value for h in held), key=lambda r: r.name)
    if not options["every"]:
        records = [r for r in records if r.state != "archived"]
    if options["as_json"]:
        print_json([_shown(record) for record in records])
        return
    if not records:
        click.echo("no projects; make one: jetcrew project create NAME --budget-usd 20", err=True)
        return
    rows = [
        (r.name, r.state, *(_used(r, name) for name in Budget.__struct_fields__), str(r.attempts), when(r.changed_at))
        for r in records
    ]  # fmt: skip
    click.echo(columns(("PROJECT", "STATE", "USD", "TOKENS", "TURNS", "ATTEMPTS", "CHANGED"), rows))


async def get_project(session: Session, options: dict[str, Any]) -> None:
    """One record.

    Raises:
        NotThere: there is none.
    """
    name = options["name"]
    held = await session.bus.bucket(PROJECT, ProjectRecord).read(name) if is_token(name) else None
    if held is None:
        raise NotThere(f'there is no project "{name}" (jetcrew project list shows them)')
    record = held.value
    if options["as_json"]:
        print_json(_shown(record))
        return
    facts: dict[str, str] = {"name": record.name, "state": record.state}
    for bound in Budget.__struct_fields__:
        untold = getattr(record.untold, bound)
        facts[bound] = _used(record, bound) + (f"; {untold} did not tell" if untold else "")
    facts |= {
        "attempts": str(record.attempts),
        "created": when(record.created_at),
        "changed": when(record.changed_at),
    }
    for fact, value in facts.items():
        click.echo(f"{fact:<13} {value}")


def _used(record: ProjectRecord, name: str) -> str:
    """What is used of a bound, as in `1.25 of 20`."""
    bound, used = getattr(record.budget, name), getattr(record.spent, name)
    return f"{used:g}" if bound is None else f"{used:g} of {bound:g}"


def _shown(record: ProjectRecord) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in NOT_SHOWN}
