"""What the commands of `jetcrew task` and `jetcrew events` do."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from contracts.bus import Bus, Stored
from contracts.codec import convert
from contracts.errors import NotThere, Refused
from contracts.ids import TaskId, WorkerId, is_token, nonce
from contracts.task import AnswerTask, CancelTask, SubmitTask, TaskRecord
from contracts.topology import TASK
from services.cli import story
from services.cli.failures import SUCCESS, UNSUCCESSFUL, CrewFailed, Usage
from services.cli.follow import follow, last_sequence
from services.cli.link import call, status_of
from services.cli.packing import Packed
from services.cli.repository import git_line, lay_out, returned, summary, taken_along, wanted
from services.cli.running import budget_of, shown
from services.cli.screen import Screen
from services.cli.session import Session, print_json
from services.cli.signals import heeded
from services.cli.text import clean, columns, verdict_line
from services.cli.watch import Watch

TAKEN_PATIENCE = 10.0
"""Seconds for a submitted prompt to be taken or refused."""
_WATCHED = 20.0
"""Seconds between two looks at whether a manager is there."""


async def submit_task(session: Session, options: dict[str, Any]) -> int:
    """Store the prompt, and see it taken; with `--wait` and `--repo`, bring its work home.

    Raises:
        NotThere, Refused: the worker does not take it.
        Usage, GitFailed: the repository cannot go along.
        QueueFull: too many wait for this worker.
    """
    screen, variables = Screen(document=True), session.environment.variables
    async with taken_along(wanted(options), variables, screen) as found:
        code = await _submit(session, options, found, screen)
        if found is None or not options["wait"]:
            return code
        record = await record_of(session, options["task_id"])
        back = await returned(session.bus, found, record, variables, screen, merge=False)
        return code or (UNSUCCESSFUL if back.problem else SUCCESS)


async def _submit(
    session: Session, options: dict[str, Any], found: Packed | None, screen: Screen
) -> int:
    bus = session.bus
    task = options["task_id"] = options["task_id"] or f"t-{nonce()[:12]}"
    name = options["worker"]
    for what, token in (("worker", name), ("task", task)):
        if not is_token(token):
            raise Usage(
                f"{token!r} is no name of a {what}: lower-case letters, digits and dashes, 40 at most"
            )
    message = convert(
        {
            "prompt": options["prompt"], "timeout": options["timeout"], "session": options["session"],
            "max_attempts": options["max_attempts"], "context": dict(options["values"]),
            "budget": msgspec.to_builtins(budget_of(SimpleNamespace(**options))),
            "data_schema": options["data_schema"],
        },
        SubmitTask,
    )  # fmt: skip
    await status_of(bus, name)  # says no at once; the door itself would only store the prompt
    if found is not None:
        message = replace(message, repository=await lay_out(bus, name, found, screen))
    watch = Watch(Screen(document=True), WorkerId(name), TaskId(task))
    subject = bus.subjects.events_of_task(watch.worker, watch.task)
    receipt = await bus.publish(bus.subjects.task(name), message, id=task)
    finished = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(follow(bus, "JC_EVT", subject, watch.take, after=0, finished=finished))
        try:
            taken = await watch.until(
                lambda: watch.task_state is not None or watch.over, within=TAKEN_PATIENCE
            )
            if taken and options["wait"]:
                await _until_over(bus, watch)
        finally:
            finished.set()
    if watch.refused is not None:
        raise Refused(watch.refused.reason, field=watch.refused.field)
    if options["wait"]:
        return await _conclude(session, task, as_json=options["as_json"])
    if options["as_json"]:
        print_json({"task": task, "worker": name, "seq": receipt.seq, "duplicate": receipt.duplicate, "state": watch.task_state or "stored"})  # fmt: skip
    else:
        click.echo(task)
    return SUCCESS


async def _until_over(bus: Bus, watch: Watch) -> None:
    while not await watch.until(lambda: watch.over, within=_WATCHED):
        try:
            await status_of(bus, watch.worker, budget=30)  # raises when the manager is gone
        except NotThere:
            continue


async def _conclude(session: Session, task: str, *, as_json: bool) -> int:
    record = await record_of(session, task)
    if as_json:
        print_json(shown(record))
    else:
        click.echo(verdict_line(record.state, record.end))
    return SUCCESS if record.state == "succeeded" else UNSUCCESSFUL


async def record_of(session: Session, task: str) -> TaskRecord:
    """The record in its bucket.

    Raises:
        NotThere: there is none.
    """
    held = await session.bus.bucket(TASK, TaskRecord).read(task) if is_token(task) else None
    if held is None:
        raise NotThere(f'there is no task "{task}" (jetcrew task list shows them)')
    return held.value


async def get_task(session: Session, options: dict[str, Any]) -> None:
    """One record."""
    record = await record_of(session, options["task_id"])
    if options["as_json"]:
        print_json(shown(record))
        return
    end = record.end
    facts = {
        "id": record.id,
        "worker": record.worker,
        "project": record.project,
        "state": verdict_line(record.state, end),
        "prompt": record.prompt_head + ("…" if record.prompt_bytes > len(record.prompt_head.encode()) else ""),
        "attempt": f"{record.attempt} of {record.max_attempts}" if record.max_attempts > 1 else None,
        "session": record.agent_session,
        "submitted": story.when(record.submitted_at),
        "started": record.started_at and story.when(record.started_at),
        "deadline": None if record.ended or not record.deadline_at else story.when(record.deadline_at),
        "ended": record.ended_at and story.when(record.ended_at),
        "git": end and end.git and git_line(end.git),
        "work": end and end.work and (end.work.lost or summary(end.work)),
    }  # fmt: skip
    for name, value in facts.items():
        if value:
            click.echo(f"{name:<10} {' '.join(clean(str(value)).split())}")
    for past in record.past:
        line = f"attempt {past.attempt}: {verdict_line('failed', past.end)} · {story.when(past.ended_at)}"
        click.echo(f"{'earlier':<10} {' '.join(clean(line).split())}")
    if end is not None and end.text:
        click.echo(f"\n{clean(end.text)}")


async def list_tasks(session: Session, options: dict[str, Any]) -> None:
    """A table, or a JSON list."""
    held = await session.bus.bucket(TASK, TaskRecord).list()
    records = sorted((h.value for h in held.values()), key=lambda r: r.submitted_at)
    records = [
        r
        for r in records
        if options["worker"] in {None, r.worker} and options["state"] in {None, r.state}
    ][-options["limit"] :]
    if options["as_json"]:
        print_json([shown(record) for record in records])
        return
    if not records:
        click.echo("no tasks", err=True)
        return
    rows = [
        (r.id, r.worker, r.state, (r.end and r.end.reason) or "", story.when(r.submitted_at), r.prompt_head[:60])
        for r in records
    ]  # fmt: skip
    click.echo(columns(("ID", "WORKER", "STATE", "REASON", "SUBMITTED", "PROMPT"), rows))


async def wait_task(session: Session, options: dict[str, Any]) -> int:
    """Wait for the end, however long it takes.

    Raises:
        CrewFailed: it did not come within `--timeout`.
    """
    record = await record_of(session, options["task_id"])
    await _awaited(session, record, options["timeout"])
    return await _conclude(session, record.id, as_json=options["as_json"])


async def _awaited(session: Session, record: TaskRecord, timeout: float | None) -> None:
    watch = Watch(Screen(document=True), record.worker, record.id)
    subject = session.bus.subjects.events_of_task(record.worker, record.id)
    finished = asyncio.Event()
    if not record.ended:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(session.bus, "JC_EVT", subject, watch.take, after=0, finished=finished)
            )
            try:
                async with asyncio.timeout(timeout):
                    await _until_over(session.bus, watch)
            except TimeoutError:
                raise CrewFailed(f"task {record.id} has not ended yet") from None
            finally:
                finished.set()


async def answer_task(session: Session, options: dict[str, Any]) -> int:
    """Give the answer, and with `--wait` wait for what comes of it.

    Raises:
        NotThere, Refused: there is no such task, or it waits for nothing.
    """
    message = convert({"task": options["task_id"], "text": options["text"]}, AnswerTask)
    before = await record_of(session, message.task)
    result = await call(session.bus, "task", "answer", message)
    if options["wait"]:
        await _awaited(session, await _taken_up(session, before), None)
        return await _conclude(session, before.id, as_json=options["as_json"])
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(f"task {options['task_id']}: {clean(result.detail)}")
    return SUCCESS


async def _taken_up(session: Session, before: TaskRecord) -> TaskRecord:
    """The record once its answer has come through the door.

    Raises:
        CrewFailed: it does not.
    """
    try:
        async with asyncio.timeout(TAKEN_PATIENCE):
            now = before
            while now.attempt == before.attempt:  # another process sets no event of ours
                await asyncio.sleep(0.05)
                now = await record_of(session, before.id)
            return now
    except TimeoutError:
        raise CrewFailed(f"the answer to task {before.id} is stored, and nobody took it") from None


async def cancel_task(session: Session, options: dict[str, Any]) -> None:
    """Ask for the end."""
    message = CancelTask(task=options["task_id"], reason=options["reason"])
    result = await call(session.bus, "task", "cancel", message)
    if options["as_json"]:
        print_json(result)
    else:
        click.echo(f"task {options['task_id']}: {clean(result.detail)}")


async def task_events(session: Session, options: dict[str, Any]) -> None:
    """The events of one task."""
    task = options["task_id"]
    if not is_token(task):
        raise NotThere(f"{task!r} is no id of a task")
    subject = session.bus.subjects.events(task=TaskId(task))
    finished = asyncio.Event()
    if not options["follow"]:
        finished.set()
        if not await session.bus.page("JC_EVT", subject, limit=1):
            raise NotThere(f'there are no events of a task "{task}" (jetcrew task list)')

    async def take(page: Sequence[Stored]) -> None:
        for stored in page:
            _print_event(stored, as_json=options["as_json"])
            if (event := story.event_of(stored)) and story.kind(event) in story.ENDINGS:
                finished.set()

    with heeded() as interrupts:
        interrupts.on_ask.append(finished.set)
        await follow(session.bus, "JC_EVT", subject, take, after=0, finished=finished)


async def follow_events(session: Session, options: dict[str, Any]) -> None:
    """The events of the crew, from a sequence or from now on."""
    for what in ("worker", "task"):
        if options[what] is not None and not is_token(options[what]):
            raise Usage(f"{options[what]!r} is no name of a {what}")
    worker, task = options["worker"], options["task"]
    subject = session.bus.subjects.events(
        worker=WorkerId(worker) if worker else None, task=TaskId(task) if task else None
    )
    since = options["since"]
    after = await last_sequence(session.bus, "JC_EVT", subject) if since is None else since - 1

    async def take(page: Sequence[Stored]) -> None:
        for stored in page:
            _print_event(stored, as_json=options["as_json"])

    with heeded() as interrupts:
        if options["no_follow"]:
            interrupts.asked.set()
        elif not options["as_json"]:
            click.echo("following; Ctrl-C ends it", err=True)
        await follow(session.bus, "JC_EVT", subject, take, after=after, finished=interrupts.asked)


def _print_event(stored: Stored, *, as_json: bool) -> None:
    if not as_json:
        click.echo(story.line(stored))
        return
    try:
        event = msgspec.json.decode(stored.data)
    except msgspec.DecodeError:
        event = None
    print_json({"seq": stored.seq, "subject": stored.subject, "at": stored.at, "event": event})
