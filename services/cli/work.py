"""What `jetcrew task diff` and `jetcrew task fetch` do."""

import re
import sys
from typing import Any

import click

from contracts.bus import Artifacts
from contracts.errors import NotThere
from contracts.repository import Work
from contracts.task import TaskRecord
from contracts.topology import HANDED_OVER
from services.cli.failures import SUCCESS, UNSUCCESSFUL
from services.cli.repository import bring_home, merged, repository_at, summary
from services.cli.session import Session, print_json
from services.cli.tasks import record_of
from services.cli.text import clean

_COLOURS = (
    (re.compile(r"^(diff |index |--- |\+\+\+ |new file|deleted file|rename |similarity )"), {"bold": True}),
    (re.compile(r"^@@"), {"fg": "cyan"}),
    (re.compile(r"^\+"), {"fg": "green"}),
    (re.compile(r"^-"), {"fg": "red"}),
)  # fmt: skip
"""As git itself colours a patch; the first that matches counts."""


async def _work(session: Session, task: str) -> tuple[TaskRecord, Work]:
    record = await record_of(session, task)
    if record.end is None:
        raise NotThere(f"task {task} is {record.state}: its work is there when it has ended")
    if record.end.work is None:
        raise NotThere(
            f"task {task} has no work: its worker was given no repository (--repo), and its workspace was none"
        )
    return record, record.end.work


async def show_diff(session: Session, options: dict[str, Any]) -> None:
    """The patch of a task: coloured and paged on a terminal, as it is elsewhere.

    Raises:
        NotThere: there is none.
    """
    record, work = await _work(session, options["task_id"])
    patch = ""
    if work.patch is not None:
        data = await Artifacts(session.bus).get(work.patch, limit=HANDED_OVER["patch"])
        patch = data.decode(errors="surrogateescape")
    if options["as_json"]:
        print_json(
            {"task": record.id, "work": work, "patch": patch.encode(errors="replace").decode()}
        )
        return
    if not patch:
        click.echo(f"task {record.id}: {clean(work.lost) or 'nothing changed'}", err=True)
    elif sys.stdout.isatty():
        click.echo_via_pager(coloured(patch), color=True)
    else:
        sys.stdout.buffer.write(patch.encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()
    if patch and work.lost:
        click.echo(f"task {record.id}: {clean(work.lost)}", err=True)


def coloured(patch: str) -> str:
    """A patch for a terminal, without anything that a terminal would obey."""
    return "\n".join(_coloured(line) for line in clean(patch).split("\n"))


def _coloured(line: str) -> str:
    for pattern, style in _COLOURS:
        if pattern.match(line):
            return click.style(line, **style)
    return line


async def fetch_work(session: Session, options: dict[str, Any]) -> int:
    """Bring the work of a task into a branch of a repository.

    Raises:
        NotThere, Refused, Damaged, GitFailed: it does not land.
    """
    git = repository_at(options["repo"], session.environment.variables)
    record, work = await _work(session, options["task_id"])
    branch = await bring_home(session.bus, git, record, work, session.screen)
    applied = None
    if options["apply"]:
        applied = (await merged(git, branch, session.screen)).applied
    if options["as_json"]:
        print_json({"task": record.id, "branch": branch, "applied": applied, "work": work})
    else:
        session.screen.phase(f"work: {summary(work)}")
        click.echo(branch)
    return UNSUCCESSFUL if applied is False else SUCCESS
