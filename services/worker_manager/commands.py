"""Commands: stored intent, carried out once, answered in the ledger."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from contracts.asks import CancelRun
from contracts.bus import ANSWERS, CAUSE, Delivery, Held, Ledger
from contracts.bus.deadletter import bury
from contracts.codec import decode
from contracts.errors import AlreadyThere, DiskFull, InvalidMessage, JetcrewError, NotThere, Refused
from contracts.events import TaskEnd
from contracts.ids import CommandId, TaskId, WorkerId, message_id
from contracts.image import CleanUp
from contracts.letter import DropLetters, RedriveLetters
from contracts.project import ArchiveProject, CreateProject, UpdateProject
from contracts.results import Result, failure
from contracts.session import ForgetSession
from contracts.task import AnswerTask, CancelTask, SubmitTask, TaskRecord
from contracts.topology import Consumer
from contracts.worker import (
    CreateWorker,
    DeleteWorker,
    PauseWorker,
    ResumeWorker,
    StatusOfWorker,
    WorkerRecord,
    places,
)
from services.worker_manager import moves
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.engine_door.policy import check_access
from services.worker_manager.forgetting import forget_session
from services.worker_manager.letters import Letters
from services.worker_manager.limits import within
from services.worker_manager.repositories import check, with_git
from services.worker_manager.settings import Caps
from services.worker_manager.sharing import check_owner
from services.worker_manager.wishes import want

log = structlog.get_logger()

KINDS: dict[str, Any] = {
    "worker.create": CreateWorker,
    "worker.delete": DeleteWorker,
    "worker.pause": PauseWorker,
    "worker.resume": ResumeWorker,
    "worker.status": StatusOfWorker,
    "task.cancel": CancelTask,
    "task.answer": AnswerTask,
    "session.forget": ForgetSession,
    "image.gc": CleanUp,
    "dlq.redrive": RedriveLetters,
    "dlq.drop": DropLetters,
    "project.create": CreateProject,
    "project.update": UpdateProject,
    "project.archive": ArchiveProject,
}
"""What each command's body is, by the tail of its subject."""
DELETED = "deleted"
"""The reason of a worker that ends because somebody said so."""
CLEARING = 15.0
"""Seconds that a create waits for what a failed worker of its name left."""
RESERVED_ENV = ("JETCREW_", "LD_")
"""Beginnings of variables that a worker may not be given."""


def command_of(tail: str, body: bytes) -> Any:
    """The command that a body holds.

    Raises:
        InvalidMessage: no such command, or the body is not one.
    """
    if (kind := KINDS.get(tail)) is None:
        raise InvalidMessage(f"there is no command {tail!r}; known: {', '.join(KINDS)}")
    return decode(body, kind)


class _About(Struct):
    name: str = ""
    task: str = ""


def about(delivery: Delivery) -> str:
    """What a command is about, else its kind: those about the same are carried out in their order."""
    try:
        body = decode(delivery.data, _About)
    except InvalidMessage:
        return ""
    return body.name or body.task or delivery.subject


class Commands:
    """Carries out commands. Every answer is in the ledger before the command is acknowledged."""

    def __init__(
        self,
        crew: Crew,
        credentials: Credentials,
        consumer: Consumer,
        verbs: Collection[str],
        caps: Caps,
        *,
        clean: Callable[[CleanUp], Awaitable[Result]],
        full: Callable[[], Awaitable[str | None]],
        engine_access: bool,
    ) -> None:
        """`full` says why no worker can be made for want of disk."""
        self._crew = crew
        self._credentials = credentials
        self._consumer = consumer
        self._verbs = verbs
        self._caps = caps
        self._clean = clean
        self._full = full
        self._engine_access = engine_access
        self._ledger = Ledger(crew.bus)
        self._letters = Letters(crew.bus, command_of)
        self._cut = len(crew.bus.subjects.command("", "")) - 1

    async def handle(self, delivery: Delivery) -> None:
        """One delivery of the durable door."""
        command_id = CommandId(message_id("s", delivery.id, delivery.seq))
        if await self._ledger.answer(command_id) is not None:
            log.info("command.repeated", command=command_id)
            return
        tail = delivery.subject[self._cut :]
        try:
            command = command_of(tail, delivery.data)
            result = await self.carry_out(tail, command, command_id, delivery.at)
        except InvalidMessage as error:
            await bury(self._crew.bus, self._consumer, delivery, str(error))
            result = _no(error)
        except Refused as error:
            result = _no(error)
        await self._ledger.enter(command_id, _with(result, delivery, command_id))
        log.info("command.done", command=command_id, tail=tail, status=result.status)

    async def carry_out(
        self, tail: str, command: Any, command_id: CommandId, stored_at: datetime
    ) -> Result:
        """Do what a command asks.

        Raises:
            InvalidMessage, Refused: it cannot be done; nothing was changed.
        """
        match command:
            case CreateWorker():
                return await self._create(command, command_id)
            case DeleteWorker():
                return await self._delete(command)
            case PauseWorker():
                return await want(self._crew, command.name, "paused")
            case ResumeWorker():
                return await want(self._crew, command.name, "running")
            case StatusOfWorker():
                return await self._status(command.name)
            case CancelTask():
                return await self._cancel(command)
            case AnswerTask():
                return await self._answer(command, command_id)
            case ForgetSession():
                return await forget_session(self._crew, command)
            case CleanUp():
                return await self._clean(command)
            case RedriveLetters():
                return await self._letters.redrive(command, command_id, stored_at)
            case DropLetters():
                return await self._letters.drop(command)
            case CreateProject() | UpdateProject() | ArchiveProject():
                return await self._crew.projects.carry_out(command, command_id)
        raise InvalidMessage(f"there is no command {tail!r}")

    async def _create(self, spec: CreateWorker, command_id: CommandId) -> Result:
        await self._check(spec)
        spec = with_git(spec)
        made: WorkerRecord | None = None
        # a record that changes meanwhile has another state, or is about to rest
        while made is None:
            before = await self._before(spec.name)
            if before is not None and before.value.made_by == command_id:
                return Result(worker=before.value.name, detail=before.value.state)
            if before is not None and not before.value.ended:
                raise AlreadyThere(
                    f"there is a worker {spec.name!r} ({before.value.state}); delete it first, or take another name",
                    field="$.name",
                )
            if (why := await self._full()) is not None:
                raise DiskFull(f"no worker can be made: {why}")
            last = await self._crew.last_of(WorkerId(spec.name), before)
            record = moves.requested(spec, self._crew.clock(), made_by=command_id, before=last)
            made = await self._crew.workers.create(
                spec.name, record, over=before.revision if before else None
            )
        self._crew.poke(made.name)
        return Result(worker=made.name, detail="requested")

    async def _before(self, name: str) -> Held[WorkerRecord] | None:
        """Who bore the name last. What a failed worker left is cleared away by its node first; if that takes
        too long, its credential at least is taken back here, since the new record does not know it."""
        give_up = time.monotonic() + CLEARING
        while True:
            held = await self._crew.workers.get(name)
            if held is None or held.value.state != "failed" or held.value.user_key is None:
                return held
            if time.monotonic() > give_up:
                await self._credentials.revoke(held.value)
                return held
            await asyncio.sleep(0.05)

    async def _check(self, spec: CreateWorker) -> None:
        catalog = self._crew.catalog
        for name, purpose in catalog.agent(spec.agent).required_env.items():
            if not spec.env.get(name):
                raise InvalidMessage(f"missing: {purpose}", field=f"$.env.{name}")
        check_owner(catalog, spec)
        for index, name in enumerate(spec.capabilities):
            catalog.capability(name, field=f"$.capabilities[{index}]")
        check_access(spec, spec.runtime, on=self._engine_access)
        within(self._caps, spec.limits)
        for index, verb in enumerate(spec.allowed_commands):
            if verb not in self._verbs:
                known = ", ".join(sorted(self._verbs)) or "none yet"
                raise InvalidMessage(
                    f'unknown command "{verb}"; known: {known}',
                    field=f"$.allowed_commands[{index}]",
                )
        for name in spec.env:
            if name.startswith(RESERVED_ENV):
                raise InvalidMessage(
                    f"variables that begin with {' or '.join(RESERVED_ENV)} are not for workers",
                    field=f"$.env.{name}",
                )
        for index, name in enumerate(spec.secrets):
            if (
                name.startswith(RESERVED_ENV)
                or await self._credentials.secret(spec.name, name) is None
            ):
                raise InvalidMessage(
                    f'no secret "{name}" is stored; send it to {self._crew.bus.subjects.door("secret", "put")}',
                    field=f"$.secrets[{index}]",
                )
        if spec.project is not None:
            await self._crew.projects.check(spec.project)
        await check(self._crew.bus, WorkerId(spec.name), spec.repository, spec.limits)

    async def _delete(self, command: DeleteWorker) -> Result:
        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.state in {"stopped", "stopping"}:
                return None
            return moves.worker(
                record,
                "stopping",
                self._crew.clock(),
                reason=DELETED,
                desired="stopped",
                keep_workspace=command.keep_workspace,
            )

        record = await self._crew.worker(command.name)
        changed = await self._crew.workers.change(command.name, step)
        self._crew.poke(record.name)
        return Result(worker=record.name, detail=changed.state if changed else record.state)

    async def _status(self, name: str) -> Result:
        """The record; of one that waits for room with its place in the line as it is now."""
        record = await self._crew.worker(name)
        detail: str = record.state
        if record.waits:
            everybody = (held.value for held in (await self._crew.open_workers.now()).values())
            record = replace(record, place=places(everybody).get(record.name))
            detail += f": {record.place} in the line ({record.reason or 'just asked for'})"
        return Result(worker=record.name, detail=detail, record=record)

    async def _cancel(self, command: CancelTask) -> Result:
        held = await self._crew.tasks.get(command.task)
        if held is None:
            raise NotThere(f"there is no task {command.task!r}", field="$.task")
        task, at = TaskId(command.task), self._crew.clock()
        unstarted = TaskEnd(
            reason="cancelled",
            detail=command.reason or "cancelled before it started",
            told_by="manager",
        )

        def step(record: TaskRecord) -> TaskRecord | None:
            if record.state == "queued":
                return moves.ended(record, "cancelled", unstarted, at)
            return moves.cancelling(record, command.reason, at)

        changed = await self._crew.tasks.change(task, step)
        held = await self._crew.tasks.get(task)
        record = changed or (held.value if held else None)
        assert record is not None
        if record.state == "running":
            await self.tell_cancel(record.worker, task, record.attempt, command.reason)
            self._crew.poke(record.worker)
            return Result(task=task, worker=record.worker, detail="cancelling")
        if changed is not None:
            await self._crew.freed(changed)
        return Result(task=task, worker=record.worker, detail=record.state)

    async def _answer(self, command: AnswerTask, command_id: CommandId) -> Result:
        held = await self._crew.tasks.get(command.task)
        if held is None:
            raise NotThere(f"there is no task {command.task!r}", field="$.task")
        task = held.value
        if task.state != "input-required":
            raise Refused(
                f"task {task.id} is {task.state}; only one that waits for input can be answered",
                field="$.task",
            )
        worker = await self._crew.workers.get(task.worker)
        if worker is None or worker.value.desired == "stopped":
            raise Refused(f"worker {task.worker!r}, which asked, is no more", field="$.task")
        prompt = SubmitTask(prompt=command.text, timeout=task.timeout, context=task.context)
        await self._crew.bus.publish(
            self._crew.bus.subjects.task(task.worker), prompt,
            id=f"answer-{command_id}", headers={ANSWERS: task.id},
        )  # fmt: skip
        return Result(task=task.id, worker=task.worker, detail="queued to go on")

    async def tell_cancel(
        self, worker: WorkerId, task: TaskId, attempt: int, reason: str, *, timed_out: bool = False
    ) -> None:
        """Tell the wrapper to end its agent; said again on each look until it has."""
        nonce = await self._credentials.nonce(worker)
        if nonce is None:
            return
        message = CancelRun(
            task=task,
            attempt=attempt,
            reason=reason,
            state="timed-out" if timed_out else "cancelled",
        )
        await self._crew.bus.tell(
            self._crew.bus.subjects.control(worker, nonce), message, headers={CAUSE: task}
        )


def _no(error: JetcrewError) -> Result:
    return Result(status="refused", detail=str(error), error=failure(error))


def _with(result: Result, delivery: Delivery, command_id: CommandId) -> Result:
    return replace(result, stream=delivery.stream, seq=delivery.seq, id=command_id)
