"""What the commands of `jetcrew worker` do."""

import asyncio
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import click
from msgspec.structs import replace

from contracts.bus import Stored
from contracts.codec import convert, decode
from contracts.errors import NotThere
from contracts.ids import TaskId, WorkerId, is_token
from contracts.reports import Output
from contracts.task import TaskRecord
from contracts.topology import TASK, WORKER
from contracts.worker import (
    DeleteWorker,
    ExecInWorker,
    ExecOutcome,
    PauseWorker,
    PutSecret,
    ResumeWorker,
    WorkerRecord,
    places,
)
from services.cli.failures import CrewFailed, Usage, WorkerFailedToStart
from services.cli.follow import follow, last_sequence
from services.cli.link import call, status_of
from services.cli.packing import Packed
from services.cli.repository import lay_out, taken_along, wanted
from services.cli.running import budget_of, secret_value, shown, spec_of
from services.cli.screen import Screen
from services.cli.session import Session, print_json
from services.cli.settings import Environment
from services.cli.signals import heeded
from services.cli.story import when
from services.cli.text import clean, columns
from services.cli.watch import Watch
from services.kit.state import StateDirectory

STOP_PATIENCE = 60.0
"""Seconds for a deleted worker to be gone."""
LOG_LINES = 200
ON_THE_WAY = 10.0
"""Seconds that an order and its answer may take besides the program it runs."""
KILLED = 124
"""Exit code for a program whose time was over, as `timeout` has it."""


async def create_worker(session: Session, options: dict[str, Any]) -> None:
    """Store secrets and repository, create, and follow until ready.

    Raises:
        InvalidMessage, Refused: the crew does not take it.
        Usage, GitFailed: the repository cannot go along.
        WorkerFailedToStart: it took it, and the worker failed.
    """
    screen, variables = Screen(document=True), session.environment.variables
    secrets = {name: secret_value(session.environment, name) for name in options["secrets"]}
    async with taken_along(wanted(options, secrets), variables, screen) as found:
        await _create(session, options, found, screen)


async def _create(
    session: Session, options: dict[str, Any], found: Packed | None, screen: Screen
) -> None:
    bus = session.bus
    spec = spec_of(
        SimpleNamespace(**options), options["name"], labels=dict(options["labels"]),
        allowed_commands=list(options["allowed_commands"]),
        lifetime=options["lifetime"] or "persistent",
        budget=budget_of(SimpleNamespace(**options)),
    )  # fmt: skip
    values = {name: secret_value(session.environment, name) for name in spec.secrets}
    watch = Watch(Screen(document=True), WorkerId(spec.name), TaskId("none"))
    subject = bus.subjects.events_of_worker(watch.worker)
    after = await last_sequence(bus, "JC_EVT", subject)
    for name, value in values.items():
        await call(bus, "secret", "put", PutSecret(name=name, value=value, worker=spec.name))
    if found is not None:
        spec = replace(spec, repository=await lay_out(bus, spec.name, found, screen))
    result = await call(bus, "worker", "create", spec)
    if not options["no_wait"]:
        await _until_ready(session, watch, subject, after)
    if options["as_json"]:
        held = await bus.bucket(WORKER, WorkerRecord).read(spec.name)
        print_json(shown(held.value) if held else result)
    elif options["no_wait"]:
        click.echo(f"worker {spec.name} is asked for (command {result.id})")


async def _until_ready(session: Session, watch: Watch, subject: str, after: int) -> None:
    finished = asyncio.Event()
    settled = {"ready", "busy", "failed", "stopping", "stopped", "queued"}
    async with asyncio.TaskGroup() as group:
        group.create_task(
            follow(session.bus, "JC_EVT", subject, watch.take, after=after, finished=finished)
        )
        try:
            while not await watch.until(lambda: watch.worker_state in settled, within=20):
                await status_of(session.bus, watch.worker)  # raises when the manager is gone
        finally:
            finished.set()
    if watch.worker_state in {"failed", "stopping", "stopped"}:
        raise WorkerFailedToStart(
            f"worker {watch.worker} did not start: {watch.worker_reason or watch.worker_state}; "
            f"jetcrew worker delete {watch.worker} clears it away"
        )


async def list_workers(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    held = await session.bus.bucket(WORKER, WorkerRecord).list()
    at = places(h.value for h in held.values())
    records = [replace(h.value, place=at.get(h.value.name)) for h in held.values()]
    records.sort(key=lambda r: r.requested_at)
    if not options["every"]:
        records = [r for r in records if r.state != "stopped"]
    if options["as_json"]:
        print_json([shown(record) for record in records])
        return
    if not records:
        click.echo("no workers; make one: jetcrew worker create ada --agent shell", err=True)
        return
    rows = [
        (r.name, _state(r), r.spec.agent, r.runtime or "-", r.node or "-", r.task or "-", when(r.changed_at), r.reason or "")
        for r in records
    ]  # fmt: skip
    click.echo(
        columns(("NAME", "STATE", "AGENT", "RUNTIME", "NODE", "TASK", "SINCE", "REASON"), rows)
    )


async def get_worker(session: Session, options: dict[str, Any]) -> None:
    """One record.

    Raises:
        NotThere: there is none.
    """
    record = await record_of(session, options["name"])
    place = None
    if record.waits:
        held = await session.bus.bucket(WORKER, WorkerRecord).list()
        place = places(h.value for h in held.values()).get(record.name)
    record = replace(record, place=place)
    if options["as_json"]:
        print_json(shown(record))
        return
    facts = {
        "name": record.name,
        "state": _state(record) + (f" ({record.reason})" if record.reason else ""),
        "agent": record.spec.agent,
        "project": record.spec.project,
        "runtime": record.runtime,
        "network": record.spec.network if record.runtime == "docker" else None,
        "node": record.node,
        "image": record.image,
        "unit": record.unit,
        "task": record.task,
        "capabilities": ", ".join(record.spec.capabilities),
        "secrets": ", ".join(record.spec.secrets),
        "owner": record.spec.owner,
        "lifetime": "one task" if record.spec.lifetime == "task" else None,
        "requested": when(record.requested_at),
        "since": when(record.changed_at),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name:<13} {clean(str(value))}")


def _state(record: WorkerRecord) -> str:
    return record.state + (f" #{record.place}" if record.place else "")


async def pause_worker(session: Session, options: dict[str, Any]) -> None:
    """Freeze it.

    Raises:
        NotThere: there is none.
        Refused: it works, or is about to.
    """
    await _tell(session, options, "pause", PauseWorker(name=options["name"]))


async def resume_worker(session: Session, options: dict[str, Any]) -> None:
    """Thaw it.

    Raises:
        NotThere: there is none.
        Refused: it is not paused.
    """
    await _tell(session, options, "resume", ResumeWorker(name=options["name"]))


async def _tell(
    session: Session, options: dict[str, Any], verb: str, message: PauseWorker | ResumeWorker
) -> None:
    result = await call(session.bus, "worker", verb, message)
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(f"worker {message.name} {result.detail}")


async def delete_worker(session: Session, options: dict[str, Any]) -> None:
    """Delete, and wait until it is gone.

    Raises:
        NotThere: there is none.
        CrewFailed: it does not stop.
    """
    name, bus = options["name"], session.bus
    watch = Watch(Screen(document=True), WorkerId(name), TaskId("none"))
    record = await record_of(session, name)
    subject = bus.subjects.events_of_worker(watch.worker)
    after = await last_sequence(bus, "JC_EVT", subject)
    message = DeleteWorker(name=name, keep_workspace=options["keep_workspace"])
    result = await call(bus, "worker", "delete", message)
    if not options["no_wait"] and record.state != "stopped":
        finished = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(bus, "JC_EVT", subject, watch.take, after=after, finished=finished)
            )
            gone = await watch.until(lambda: watch.worker_state == "stopped", within=STOP_PATIENCE)
            finished.set()
        if not gone:
            raise CrewFailed(
                f"worker {name} has not stopped after {STOP_PATIENCE:.0f} s; jetcrew worker get {name}"
            )
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(f"worker {name} is {'being deleted' if options['no_wait'] else 'deleted'}")


async def show_logs(session: Session, options: dict[str, Any]) -> None:
    """The agent's output, from the stream that keeps it."""
    name = options["name"]
    task = options["task"]
    for what, token in (("worker", name), ("task", task)):
        if token is not None and not is_token(token):
            raise Usage(f"{token!r} is no name of a {what}")
    subject = session.bus.subjects.output(WorkerId(name), TaskId(task or "*"))
    if not await session.bus.page("JC_OUT", subject, limit=1):  # nothing yet, or nobody
        await record_of(session, name)
        if task is not None and await session.bus.bucket(TASK, TaskRecord).read(task) is None:
            raise NotThere(f'there is no task "{task}" (jetcrew task list shows them)')
    screen = Screen()

    async def take(page: Sequence[Stored]) -> None:
        for stored in page:
            piece = decode(stored.data, Output)
            if options["as_json"]:
                task = stored.subject.rpartition(".")[2]
                print_json(
                    {
                        "seq": stored.seq,
                        "task": task,
                        "stream": piece.stream,
                        "text": piece.text,
                        "at": stored.at,
                    }
                )
            else:
                await screen.output(piece.text, piece.stream)

    with heeded() as interrupts:
        if not options["follow"]:
            interrupts.asked.set()
        await follow(session.bus, "JC_OUT", subject, take, after=0, finished=interrupts.asked)
    await screen.end_output()


async def exec_in_worker(session: Session, options: dict[str, Any]) -> int:
    """Run a program in a worker and print what it wrote; its exit code.

    Raises:
        NotThere, Refused: there is no such worker, or nothing of it runs.
        InvalidMessage: there is no such program, or too much of it.
        CrewFailed: the worker's node does not answer.
    """
    ask = ExecInWorker(name=options["name"], argv=list(options["argv"]), timeout=options["timeout"])
    # once: a program that may have run is not run again
    result = await call(session.bus, "worker", "exec", ask, wait=ask.timeout + ON_THE_WAY, budget=0)
    outcome = convert(result.record, ExecOutcome)
    if options["as_json"]:
        print_json(outcome)
    else:
        sys.stdout.write(clean(outcome.output))
        sys.stdout.flush()
        if outcome.cut:
            session.screen.phase("there was more output than can be shown")
        if outcome.exit_code is None:
            session.screen.phase(f"it was killed after {ask.timeout:g} s")
    return KILLED if outcome.exit_code is None else outcome.exit_code


def show_wrapper_log(name: str) -> None:
    """The end of a process worker's own log, from the state directory.

    Raises:
        NotThere: it is not on this host.
    """
    if not is_token(name):
        raise Usage(f"{name!r} is no name of a worker")
    path = StateDirectory(Environment.read().state_dir).workers / name / "wrapper.log"
    try:
        text = path.read_text(errors="replace")
    except OSError:
        raise NotThere(f"there is no {path}: for a container, docker logs shows it") from None
    lines = text.splitlines(keepends=True)[-LOG_LINES:]
    sys.stdout.write(clean("".join(lines)))


async def record_of(session: Session, name: str) -> WorkerRecord:
    """The record in its bucket, which also answers while no manager runs.

    Raises:
        NotThere: there is none.
    """
    held = await session.bus.bucket(WORKER, WorkerRecord).read(name) if is_token(name) else None
    if held is None:
        raise NotThere(f'there is no worker "{name}" (jetcrew worker list shows them)')
    return held.value
