"""What the parts of the manager share: the bus, the records, the catalog, the clock."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from contracts.bus import ANSWERS, MSG_ID, Bus, Following, Held, Records, Stored, header
from contracts.bus.records import EVENTS
from contracts.codec import decode
from contracts.errors import InvalidMessage, NotThere
from contracts.events import TaskEnd, TaskState, WorkerState
from contracts.ids import TaskId, WorkerId, message_id
from contracts.reports import Finished, TaskReport
from contracts.session import SessionLife, SessionRecord
from contracts.task import TaskRecord
from contracts.topology import SESSION, TASK, WORKER
from contracts.worker import WorkerRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.projects import Projects
from services.worker_manager.sharing import GoingOn, Sharing

log = structlog.get_logger()


def now() -> datetime:
    """The present time, with its offset."""
    return datetime.now(UTC)


class _OfWorker(Struct):
    """Of a worker's event, what a later one of the name goes on from."""

    incarnation: int = 1


@dataclass
class Crew:
    """Records and the moves that every part makes of them; knows of no engine and no process."""

    bus: Bus
    catalog: Catalog
    clock: Callable[[], datetime] = now
    sessions_live: SessionLife = field(default_factory=SessionLife)
    on_worker: list[Callable[[WorkerId], None]] = field(default_factory=list)
    """Called when something changed that a worker's keeper should look at."""
    ending: Callable[[TaskRecord, TaskState, TaskEnd], Awaitable[TaskEnd]] | None = None
    """Asked about each end of an attempt before it is recorded: the end, with its evidence kept."""

    def __post_init__(self) -> None:
        subjects = self.bus.subjects
        self.workers: Records[WorkerRecord] = Records(
            self.bus,
            self.bus.bucket(WORKER, WorkerRecord),
            lambda record: subjects.events_of_worker(record.name),
        )
        self.tasks: Records[TaskRecord] = Records(
            self.bus,
            self.bus.bucket(TASK, TaskRecord),
            lambda record: subjects.events_of_task(record.worker, record.id),
            self._after_task,
        )
        self.open_workers: Following[WorkerRecord, Held[WorkerRecord]] = Following(
            self.workers.bucket, lambda held: held if is_open(held.value) else None
        )
        """Those that something is left to be done for, or may be: what looks at everything look at."""
        self.open_tasks: Following[TaskRecord, Held[TaskRecord]] = Following(
            self.tasks.bucket, lambda held: held if is_open(held.value) else None
        )
        """Likewise."""
        self.projects = Projects(self.bus, self.clock)
        self.sessions = self.bus.bucket(SESSION, SessionRecord)
        self.sharing = Sharing(
            self.bus, self.sessions, self.tasks, self.sessions_live, lambda: self.clock()
        )

    async def move(
        self, worker: WorkerId, state: WorkerState, **changes: Any
    ) -> WorkerRecord | None:
        """The worker's record in its next state; None when that is not one it may become."""
        at = self.clock()
        return await self.workers.change(
            worker, lambda record: moves.worker(record, state, at, **changes)
        )

    async def worker(self, name: str) -> WorkerRecord:
        """A worker's record.

        Raises:
            NotThere: there is none of that name.
        """
        held = await self.workers.get(name)
        if held is None:
            raise NotThere(f"there is no worker {name!r}", field="$.name")
        return held.value

    async def last_of(self, worker: WorkerId, held: Held[WorkerRecord] | None) -> tuple[int, int]:
        """Incarnation and sequence of the last event of whoever bore a name: as the record tells, or, where that
        is gone, the events; 0 and 0 where nobody did."""
        if held is not None:
            return held.value.incarnation, held.value.evt_seq
        tail = await self.bus.last_matching(EVENTS, self.bus.subjects.events_of_worker(worker))
        return (decode(tail.data, _OfWorker).incarnation, tail.seq) if tail else (0, 0)

    def poke(self, worker: WorkerId) -> None:
        """Have the worker's keeper look again."""
        for call in self.on_worker:
            call(worker)

    async def _after_task(self, record: TaskRecord) -> TaskRecord:
        """What a task's move entails: once its attempt is over the assignment is withdrawn, a shared session
        left, and the project of its worker has spent what it used; the prompt leaves the door when its last
        attempt starts, or the task ends."""
        await self.projects.settle(record)
        if record.ended or record.state == "queued":
            await self._withdraw(record)
            await self.sharing.give_back(record)
        needed = record.state == "queued" or moves.may_run_again(record)
        if record.door_seq is not None and not needed:
            await self.bus.delete_message("JC_TASK", record.door_seq)
            return replace(record, door_seq=None)
        return record

    async def _withdraw(self, record: TaskRecord) -> None:
        """Take the assignment back, if it is this task's that is open; not that of the next attempt, which
        somebody else may have made meanwhile."""
        subject = self.bus.subjects.run(record.worker)
        opened = await self.bus.last("JC_RUN", subject)
        if opened is None:
            return
        task, _, rest = opened.headers.get(MSG_ID, "").partition(":")
        if task == record.id and (record.ended or rest.partition(":")[0] != str(record.attempt)):
            await self.bus.delete_message("JC_RUN", opened.seq)

    async def end(
        self, task: TaskId, state: TaskState, end: TaskEnd, *, attempt: int | None = None
    ) -> TaskRecord | None:
        """End a task from the manager's side, unless its wrapper has reported an end: then that one counts.
        Its worker takes the next one. With `attempt`, that one only, if it runs.

        Returns:
            The record after that, queued once more when it was a crash and attempts are left; None when
            there was nothing to end.
        """
        done = await self._end(task, state, end, attempt)
        if done is not None:
            await self.freed(done)
        return done

    async def _end(
        self, task: TaskId, state: TaskState, end: TaskEnd, attempt: int | None
    ) -> TaskRecord | None:
        record = await self.tasks.get(task)
        if record is None or record.value.ended or not _is_on(record.value, attempt):
            return None
        told = await self.reported_end(record.value)
        if told is not None:
            return await self.finish(record.value, told)
        known, ours = moves.heeding(record.value, state, replace(end, told_by="manager"))
        ours = await self.kept(record.value, known, ours)

        def step(record: TaskRecord) -> TaskRecord | None:
            if not _is_on(record, attempt):
                return None
            return moves.ended(record, *moves.heeding(record, known, ours), self.clock())

        return await self.tasks.change(task, step)

    async def fail_attempt(self, task: TaskId | None, end: TaskEnd) -> TaskRecord | None:
        """Fail a task, if it runs, whose worker's unit has ended: with attempts left it is queued once more. The
        worker's record is left to whoever replaces the unit: it is not free, nothing runs.

        Returns:
            The task's record after that; None when there is none.
        """
        held = await self.tasks.get(task) if task is not None else None
        if held is not None and held.value.state == "running":
            await self._end(held.value.id, "failed", end, held.value.attempt)
            held = await self.tasks.get(held.value.id)
        return held.value if held is not None else None

    async def finish(self, record: TaskRecord, report: Finished) -> TaskRecord | None:
        """End a task as the wrapper of its run reports; None when that run has ended already."""
        if not moves.reported_by_its_run(record, report.attempt, report.run):
            return None
        end = await self.kept(record, report.state, replace(report.end, told_by="wrapper"))
        report = replace(report, end=end)
        return await self.tasks.change(record.id, lambda r: moves.finished(r, report, self.clock()))

    async def kept(self, record: TaskRecord, state: TaskState, end: TaskEnd) -> TaskEnd:
        """The end, once its evidence is kept."""
        return end if self.ending is None else await self.ending(record, state, end)

    async def reported_end(self, record: TaskRecord) -> Finished | None:
        """The end that the wrapper of this run has reported, handled or not."""
        if record.state != "running":
            return None
        subject = self.bus.subjects.report(record.worker, "finished", record.id)
        stored = await self.bus.last("JC_REP", subject)
        return _end_of(stored, record) if stored else None

    async def freed(self, record: TaskRecord) -> None:
        """After a task's end: its worker takes the next one, unless it was made for this one only."""
        worker, at = record.worker, self.clock()
        freed = await self.workers.change(worker, lambda w: moves.free(w, record, at))
        if freed is None and record.over:
            await self._spend(worker)
        self.poke(worker)

    async def _spend(self, worker: WorkerId) -> None:
        """A worker for one task whose task ended before it began, and nothing else waits for it."""
        held = await self.workers.get(worker)
        if held is None or held.value.ended or held.value.spec.lifetime != "task":
            return
        if not await self.works(worker):
            await self.workers.change(
                worker, lambda w: moves.spent(w, self.clock()) if w.task is None else None
            )

    async def remember(self, record: TaskRecord, agent_session: str) -> None:
        """Keep the conversation of a task, for the next one of that session to go on with. A shared one is kept
        with its files, at the end."""
        if record.shared is not None:
            return
        name = "continue" if record.session == "new" else record.session
        key, at = f"{record.worker}.{name}", self.clock()
        held = await self.sessions.get(key)
        # the same task may name it anew, as an agent does that gives each turn another id
        goes_on = held is not None and (record.session != "new" or held.value.task == record.id)
        new = SessionRecord(
            agent_session=agent_session,
            seen_at=at,
            began_at=held.value.began_at if held and goes_on else at,
            task=record.id,
        )
        await self.sessions.put(key, new, ttl=self.sessions_live.longest)

    async def going_on(self, record: TaskRecord) -> GoingOn | None:
        """What a task that is about to run goes on with; None while another one is in its shared session."""
        if record.shared is not None:
            return await self.sharing.take(record)
        return GoingOn(agent_session=await self._session(record))

    async def _session(self, record: TaskRecord) -> str | None:
        """The conversation that a task is to go on with; None for a fresh one."""
        if record.goes_on_in is not None:
            return record.goes_on_in
        if record.session == "new":
            return None
        held = await self.sessions.get(f"{record.worker}.{record.session}")
        if held is None or self.sessions_live.over(held.value, self.clock()):
            return None
        return held.value.agent_session

    async def forget_sessions(self, worker: WorkerId) -> None:
        """Drop a worker's own conversations, whose files go with its home."""
        for key in await self.sessions.list(f"{worker}."):
            await self.sessions.delete(key)

    async def waiting(self, worker: WorkerId, *, after: int = 0) -> Stored | None:
        """The prompt that has waited longest at a worker's door, of those stored after a sequence."""
        subject = self.bus.subjects.task(worker)
        page = await self.bus.page("JC_TASK", subject, after=after, limit=1)
        return page[0] if page else None

    async def works(self, worker: WorkerId) -> bool:
        """Whether a prompt waits at a worker's door, or it has an assignment: between the two looks a task may
        start, so that its prompt is gone and the worker's record does not say `busy` yet."""
        if await self.waiting(worker) is not None:
            return True
        run = self.bus.subjects.run(worker)
        return await self.bus.last("JC_RUN", run) is not None

    async def with_prompts(self) -> list[WorkerId]:
        """Workers at whose door prompts wait: one question about all of them."""
        door = self.bus.subjects.task("")
        info = await self.bus.api("STREAM.INFO.JC_TASK", {"subjects_filter": f"{door}*"})
        return [WorkerId(name[len(door) :]) for name in info["state"].get("subjects") or {}]

    async def refuse_waiting(self, worker: WorkerId, why: str) -> None:
        """End all that waits at the door of a worker that is no more. What the intake has not seen yet, it
        will refuse itself."""
        after = 0
        while (stored := await self.waiting(worker, after=after)) is not None:
            after = stored.seq
            task = task_at(stored)
            held = await self.tasks.get(task)
            if held is not None and held.value.state == "queued":
                await self.end(task, "cancelled", TaskEnd(reason="worker-gone", detail=why))


def is_open(record: WorkerRecord | TaskRecord) -> bool:
    """Whether a record has more to come: it is not over, or owes an event."""
    over = record.finished if isinstance(record, WorkerRecord) else record.ended
    return not over or bool(record.owed)


def answers(stored: Stored) -> bool:
    """Whether this is the answer to a task's question."""
    return header(stored.headers, ANSWERS) is not None


def task_at(stored: Stored) -> TaskId:
    """The id of the task whose prompt this is, or whose answer."""
    answered = header(stored.headers, ANSWERS)
    return TaskId(answered or message_id("t", stored.headers.get(MSG_ID), stored.seq))


def _is_on(record: TaskRecord, attempt: int | None) -> bool:
    return attempt is None or (record.state == "running" and record.attempt == attempt)


def _end_of(stored: Stored, record: TaskRecord) -> Finished | None:
    try:
        report: TaskReport = decode(stored.data, TaskReport)  # type: ignore[arg-type]  # a union is not a class
    except InvalidMessage:
        return None
    if not isinstance(report, Finished):
        return None
    return report if moves.reported_by_its_run(record, report.attempt, report.run) else None
