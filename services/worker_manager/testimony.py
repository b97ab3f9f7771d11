"""Workers' reports and questions: claims, checked against the records before they count."""

import time
from datetime import datetime

import structlog
from msgspec.structs import replace

from contracts.asks import CredentialAnswer, RenewCredential, StartAnswer, StartTask
from contracts.bus import Delivery, Message
from contracts.codec import decode
from contracts.errors import InvalidMessage
from contracts.events import TaskEnd
from contracts.ids import TaskId, WorkerId
from contracts.reports import (
    Finished,
    Heartbeat,
    NotReady,
    Progress,
    Ready,
    Report,
    SessionSeen,
    TaskReport,
)
from contracts.task import TaskRecord
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.credentials import Credentials, renewable
from services.worker_manager.crew import Crew

log = structlog.get_logger()


class Testimony:
    """What workers say. The worker is the one in the subject, which the broker vouches for."""

    __test__ = False  # not a test, whatever its name begins with

    def __init__(self, crew: Crew, credentials: Credentials) -> None:
        self._crew = crew
        self._credentials = credentials
        self._cut = len(crew.bus.subjects.report(WorkerId(""), "")) - 1
        self.last_beat: dict[WorkerId, float] = {}
        """Monotonic time of each worker's last heartbeat."""

    # -- reports ----------------------------------------------------------------------------------

    async def report(self, delivery: Delivery) -> None:
        """One delivery of the stream of reports.

        Raises:
            InvalidMessage: it is none, or not one for its subject.
        """
        tokens = delivery.subject[self._cut :].split(".")
        worker = WorkerId(tokens[0])
        self.last_beat[worker] = time.monotonic()
        report: Report = decode(delivery.data, Report)  # type: ignore[arg-type]  # a union is not a class
        kind = str(report.__struct_config__.tag)
        expected = (
            [worker, kind]
            if isinstance(report, Ready | NotReady)
            else [worker, "task", report.task, kind]
        )
        if tokens != expected:
            raise InvalidMessage(
                f'a report "{kind}" does not belong on {delivery.subject}', field="$.type"
            )
        if isinstance(report, Ready):
            await self._ready(worker, report)
        elif isinstance(report, NotReady):
            await self._not_ready(worker, report)
        else:
            await self._of_task(worker, report)

    async def _ready(self, worker: WorkerId, report: Ready) -> None:
        at = self._crew.clock()

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.incarnation != report.incarnation or record.state != "starting":
                return None
            return moves.worker(record, "ready", at, ready_at=at)

        if await self._crew.workers.change(worker, step) is not None:
            log.info(
                "worker.ready", worker=worker, version=report.version, agent=report.agent_version
            )
        self._crew.poke(worker)

    async def _not_ready(self, worker: WorkerId, report: NotReady) -> None:
        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.incarnation != report.incarnation or record.state != "starting":
                return None
            return moves.worker(record, "failed", self._crew.clock(), reason=report.reason)

        await self._crew.workers.change(worker, step)
        self._crew.poke(worker)

    async def _of_task(self, worker: WorkerId, report: TaskReport) -> None:
        at = self._crew.clock()

        def step(record: TaskRecord) -> TaskRecord | None:
            if record.worker != worker or not moves.reported_by_its_run(
                record, report.attempt, report.run
            ):
                return None
            match report:
                case Progress():
                    return moves.progressed(record, report.kind, report.text, at)
                case SessionSeen():
                    return moves.session_seen(record, report.agent_session, report.fresh, at)
            return None

        if isinstance(report, Finished):
            changed = await self._finished(worker, report)
        else:
            changed = await self._crew.tasks.change(report.task, step)
        if changed is not None and (seen := _conversation(report)) is not None:
            await self._crew.remember(changed, seen)
        if isinstance(report, Finished):
            if changed is not None:
                await self._crew.freed(changed)
            else:  # its keeper sees to the worker, which may not run any more
                log.info("report.late", worker=worker, task=report.task, state=report.state)
                self._crew.poke(worker)

    async def _finished(self, worker: WorkerId, report: Finished) -> TaskRecord | None:
        held = await self._crew.tasks.get(report.task)
        if held is None or held.value.worker != worker:
            return None
        return await self._crew.finish(held.value, report)

    # -- questions --------------------------------------------------------------------------------

    async def start(self, message: Message) -> StartAnswer:
        """`task.start`: go, once an attempt."""
        worker = self._asker(message)
        try:
            ask = decode(message.data, StartTask)
        except InvalidMessage as error:
            return StartAnswer(go=False, reason=str(error))
        held = await self._crew.workers.get(worker)
        if held is None or held.value.ended or held.value.desired == "stopped":
            return StartAnswer(go=False, reason=f"worker {worker} is not to work")
        if held.value.state == "lost":  # nobody could tend it
            return StartAnswer(go=False, reason=f"worker {worker}'s node cannot be reached")
        if (why := await self._is_out(ask)) is not None:
            return StartAnswer(go=False, reason=why)
        at, project = self._crew.clock(), held.value.spec.project

        def step(record: TaskRecord) -> TaskRecord | None:
            if record.worker != worker:
                return None
            return moves.started(record, ask.attempt, ask.run, at, project=project)

        record = await self._crew.tasks.change(ask.task, step)
        if record is None:  # asked before, or no-go
            found = await self._crew.tasks.get(ask.task)
            record = found.value if found else None
        if record is None or record.worker != worker:
            return StartAnswer(go=False, reason=f"no task {ask.task} for {worker}")
        if not moves.reported_by_its_run(record, ask.attempt, ask.run):
            return StartAnswer(go=False, reason=f"task {ask.task} is {record.state}")
        await self._crew.workers.change(worker, lambda w: moves.busy(w, TaskId(ask.task), at))
        held = await self._crew.workers.get(worker)
        if held is None or held.value.state != "busy":  # its unit ended as it asked
            end = TaskEnd(reason="killed", detail="its worker ended as the task started")
            await self._crew.end(record.id, "failed", end, attempt=ask.attempt)
            return StartAnswer(go=False, reason=f"worker {worker} does not run any more")
        self._crew.poke(worker)
        assert record.deadline_at is not None
        left = (record.deadline_at - self._crew.clock()).total_seconds()
        return StartAnswer(go=True, deadline_at=record.deadline_at, seconds_left=max(0.0, left))

    async def _is_out(self, ask: StartTask) -> str | None:
        """Why a task that is in a shared session may not start; None for any other."""
        held = await self._crew.tasks.get(ask.task)
        if held is None or held.value.shared is None or held.value.state != "queued":
            return None
        if await self._crew.sharing.holds(held.value):
            return None
        return f"task {ask.task} is not in session {held.value.session} any more"

    async def credential(self, message: Message) -> CredentialAnswer:
        """`credential`: a new JWT."""
        worker = self._asker(message)
        try:
            decode(message.data, RenewCredential)
        except InvalidMessage as error:
            return CredentialAnswer(reason=str(error))
        held = await self._crew.workers.get(worker)
        if held is None:
            return CredentialAnswer(reason=f"there is no worker {worker}")
        user = held.value.user_key
        until = self._credentials.reach(await self._deadline(held.value))

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.user_key != user or not renewable(record):
                return None
            return replace(record, credential_until=max(record.credential_until or until, until))

        # first, since whoever takes it back has to know for how long
        if (record := await self._crew.workers.change(worker, step)) is None:
            return CredentialAnswer(reason=f"worker {worker} is {held.value.state}")
        return await self._credentials.renew(record, until)

    async def _deadline(self, worker: WorkerRecord) -> datetime | None:
        """Of the task that runs at a worker."""
        held = await self._crew.tasks.get(worker.task) if worker.task is not None else None
        if held is None or held.value.state != "running" or held.value.worker != worker.name:
            return None
        return held.value.deadline_at

    async def beat(self, message: Message) -> None:
        """A heartbeat."""
        try:
            decode(message.data, Heartbeat)
        except InvalidMessage as error:
            log.debug("heartbeat.invalid", subject=message.subject, error=str(error))
            return
        self.last_beat[WorkerId(message.subject.rpartition(".")[2])] = time.monotonic()

    def _asker(self, message: Message) -> WorkerId:
        return self._crew.bus.subjects.asker(message.subject)


def _conversation(report: TaskReport) -> str | None:
    if isinstance(report, SessionSeen):
        return report.agent_session
    return report.end.agent_session if isinstance(report, Finished) else None
