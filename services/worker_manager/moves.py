"""The moves of records: pure functions from a record to the next one, with the event that tells of it.

A move that the state machine does not allow gives None: somebody else was faster, or it makes no sense
any more. Ids of events come from the record's place in its chain of events, so the same move made twice
has one event.
"""

from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace

from contracts.budget import both, spent_in
from contracts.events import (
    TASK_ENDINGS,
    Event,
    Owed,
    TaskAnswered,
    TaskCancelling,
    TaskEnd,
    TaskEvent,
    TaskProgressed,
    TaskQueued,
    TaskRefused,
    TaskSessionSeen,
    TaskStarted,
    TaskState,
    WorkerBecameReady,
    WorkerBuilding,
    WorkerBusy,
    WorkerEvent,
    WorkerFailed,
    WorkerInspected,
    WorkerLost,
    WorkerPaused,
    WorkerQueued,
    WorkerRequested,
    WorkerStarting,
    WorkerState,
    WorkerStopped,
    WorkerStopping,
)
from contracts.ids import CommandId, ProjectId, TaskId, WorkerId
from contracts.reports import Finished
from contracts.repository import Work
from contracts.session import SharedSession
from contracts.task import PROMPT_HEAD, TASK_TRANSITIONS, PastAttempt, SubmitTask, TaskRecord
from contracts.topology import OBJECTS
from contracts.worker import WORKER_TRANSITIONS, CreateWorker, WorkerRecord
from services.worker_manager.attempts import is_crash
from services.worker_manager.schemas import held_against

R = TypeVar("R", WorkerRecord, TaskRecord)

_WORKER_EVENTS: dict[WorkerState, type[WorkerEvent]] = {
    "requested": WorkerRequested,
    "queued": WorkerQueued,
    "building": WorkerBuilding,
    "starting": WorkerStarting,
    "ready": WorkerBecameReady,
    "busy": WorkerBusy,
    "paused": WorkerPaused,
    "lost": WorkerLost,
    "stopping": WorkerStopping,
    "stopped": WorkerStopped,
    "failed": WorkerFailed,
}

# -- workers ------------------------------------------------------------------------------------


def requested(
    spec: CreateWorker, at: datetime, *, made_by: CommandId, before: tuple[int, int] = (0, 0)
) -> WorkerRecord:
    """The record of a worker that was just asked for; `before` are incarnation and last event of whoever bore
    the name and has ended."""
    incarnation, evt_seq = before
    record = WorkerRecord(
        name=WorkerId(spec.name),
        state="requested",
        desired="running",
        spec=spec,
        requested_at=at,
        changed_at=at,
        made_by=made_by,
        incarnation=incarnation + 1,
        evt_seq=evt_seq,
    )
    event = WorkerRequested(
        at=at, worker=record.name, incarnation=record.incarnation, agent=spec.agent
    )
    return _owing(record, f"w:{record.name}:{record.incarnation}", event)


def worker(
    record: WorkerRecord,
    state: WorkerState,
    at: datetime,
    *,
    reason: str | None = None,
    place: int | None = None,
    **changes: Any,
) -> WorkerRecord | None:
    """The worker in its next state; `changes` are further fields of the record. `place` is told of one that
    is queued."""
    if state not in WORKER_TRANSITIONS[record.state]:
        return None
    idle_since = {"ready": at, "paused": record.idle_since}.get(state)
    new = replace(
        record,
        state=state,
        changed_at=at,
        reason=reason,
        place=place,
        idle_since=idle_since,
        **changes,
    )
    more: dict[str, Any] = {"task": new.task} if state == "busy" else {}
    if state == "queued":
        more["place"] = place
    if state in {"starting", "stopped", "failed"}:
        more |= {name: changes[name] for name in ("evidence", "not_kept") if name in changes}
    event = _WORKER_EVENTS[state](
        at=at,
        worker=new.name,
        incarnation=new.incarnation,
        reason=reason,
        node=new.node,
        **more,
    )
    return _owing(new, f"w:{new.name}:{new.incarnation}", event)


def busy(record: WorkerRecord, task: TaskId, at: datetime) -> WorkerRecord | None:
    """The worker with a task in flight."""
    return worker(record, "busy", at, task=task, restarts=0)


def free(record: WorkerRecord, of: TaskRecord, at: datetime) -> WorkerRecord | None:
    """The worker after the end of an attempt at this task; None when it is not on it."""
    if record.state != "busy" or record.task != of.id:
        return None
    record = _charged(record, of)
    if record.spec.lifetime == "task" and of.over:
        return spent(record, at)
    return worker(record, "ready", at, task=None)


def replaced(
    record: WorkerRecord, of: TaskRecord | None, at: datetime, **changes: Any
) -> WorkerRecord | None:
    """The worker whose unit has ended, on its way to the next one; `of` is the task that was in flight, its
    attempt over. A worker that was made for that one has no next one."""
    if of is not None and record.task == of.id:
        record = _charged(record, of)
        if record.spec.lifetime == "task" and of.over:
            return spent(record, at)
    return worker(record, "starting", at, task=None, **changes)


def _charged(record: WorkerRecord, of: TaskRecord) -> WorkerRecord:
    """The worker with what an attempt that is over has used, and what it was told of its provider."""
    end = of.end or (of.past[-1].end if of.past else None)
    if end is None:
        return record
    parked = end.until if end.reason == "rate-limited" else None
    return replace(record, spent=both(record.spent, spent_in(end.usage)), parked_until=parked)


def spent(record: WorkerRecord, at: datetime) -> WorkerRecord | None:
    """The worker that was made for one task, once that is over."""
    return worker(record, "stopping", at, reason="task-over", desired="stopped", task=None)


def inspected(
    record: WorkerRecord, program: str, actor: str | None, at: datetime
) -> WorkerRecord | None:
    """The same worker, and that somebody looked inside; None when it has ended."""
    if record.ended:
        return None
    event = WorkerInspected(
        at=at, worker=record.name, incarnation=record.incarnation, node=record.node,
        program=program, actor=actor,
    )  # fmt: skip
    return _owing(record, f"w:{record.name}:{record.incarnation}", event)


def found(
    record: WorkerRecord, task: TaskId | None, at: datetime, *, paused: bool
) -> WorkerRecord | None:
    """The lost worker whose node is back and has found its unit alive, `task` running in it."""
    if record.state != "lost" or record.fenced:
        return None
    state: WorkerState = "busy" if task is not None else "paused" if paused else "ready"
    return worker(record, state, at, task=task)


# -- tasks --------------------------------------------------------------------------------------


def queued(
    task: TaskId, to: WorkerId, body: SubmitTask, at: datetime, *, door_seq: int, actor: str | None,
    shared: SharedSession | None = None,
) -> TaskRecord:  # fmt: skip
    """The record of a prompt that was taken."""
    record = TaskRecord(
        id=task,
        worker=to,
        state="queued",
        submitted_at=at,
        changed_at=at,
        timeout=body.timeout,
        session=body.session,
        prompt_head=body.prompt[:PROMPT_HEAD],
        prompt_bytes=len(body.prompt.encode()),
        max_attempts=body.max_attempts,
        context=body.context,
        repository=body.repository,
        shared=shared,
        budget=body.budget,
        data_schema=body.data_schema,
        door_seq=door_seq,
        actor=actor,
    )
    return _told(record, TaskQueued(at=at, worker=to, task=task))


def answered(
    record: TaskRecord, to: WorkerId, at: datetime, *, door_seq: int, actor: str | None
) -> TaskRecord | None:
    """The task queued to go on with the answer that waits at the door; None when it has no question."""
    if record.state != "input-required" or record.worker != to or record.end is None:
        return None
    new = replace(
        _next_attempt(record, record.end, at),
        max_attempts=record.max_attempts + 1,  # it was no failure
        goes_on_in=record.end.agent_session,
        door_seq=door_seq,
        ended_at=None,
        end=None,
    )
    return _told(new, TaskAnswered(at=at, actor=actor, **_ids(new)))


def refused(
    task: TaskId, to: WorkerId, at: datetime, reason: str, *, field: str | None, door_seq: int
) -> TaskRecord:
    """The record of a prompt that was not taken; it never ran."""
    record = TaskRecord(
        id=task,
        worker=to,
        state="failed",
        submitted_at=at,
        changed_at=at,
        ended_at=at,
        door_seq=door_seq,
        end=TaskEnd(reason="refused", detail=reason, told_by="manager"),
    )
    return _told(record, TaskRefused(at=at, worker=to, task=task, reason=reason, field=field))


def started(
    record: TaskRecord, attempt: int, run: str, at: datetime, *, project: str | None = None
) -> TaskRecord | None:
    """The task running, as `run`; what it uses is counted in `project`."""
    if record.state != "queued" or record.attempt != attempt or record.cancelling is not None:
        return None
    deadline = at + timedelta(seconds=record.timeout)
    new = replace(
        record, state="running", run=run, changed_at=at, started_at=at, deadline_at=deadline,
        project=ProjectId(project) if project else None,
    )  # fmt: skip
    return _told(
        new,
        TaskStarted(
            at=at, worker=new.worker, task=new.id, attempt=new.attempt, deadline_at=deadline
        ),
    )


def progressed(record: TaskRecord, kind: str, text: str, at: datetime) -> TaskRecord | None:
    """The task with one more thing told of it."""
    if record.state != "running":
        return None
    return _told(record, TaskProgressed(at=at, kind=kind, text=text, **_ids(record)))


def session_seen(
    record: TaskRecord, agent_session: str, fresh: bool, at: datetime
) -> TaskRecord | None:
    """The task with its conversation's id."""
    if record.state != "running" or record.agent_session == agent_session:
        return None
    new = replace(record, agent_session=agent_session, changed_at=at)
    return _told(
        new, TaskSessionSeen(at=at, agent_session=agent_session, fresh=fresh, **_ids(record))
    )


def cancelling(record: TaskRecord, reason: str, at: datetime) -> TaskRecord | None:
    """The running task, once its end was asked for."""
    if record.state != "running" or record.cancelling is not None:
        return None
    new = replace(record, cancelling=reason or "cancelled", changed_at=at)
    return _told(new, TaskCancelling(at=at, reason=reason, **_ids(record)))


def ended(record: TaskRecord, state: TaskState, end: TaskEnd, at: datetime) -> TaskRecord | None:
    """The task after the one end of its attempt: over, or queued once more when that was a crash."""
    if state not in TASK_TRANSITIONS[record.state]:
        return None
    if may_run_again(record) and is_crash(state, end):
        return _queued_again(record, end, at)
    if end.agent_session is None and record.agent_session is not None:
        end = replace(end, agent_session=record.agent_session)
    new = replace(record, state=state, changed_at=at, ended_at=at, end=end)
    return _told(new, TASK_ENDINGS[state](at=at, end=end, **_ids(record)))


def heeding(record: TaskRecord, state: TaskState, end: TaskEnd) -> tuple[TaskState, TaskEnd]:
    """An end that the manager tells, unless it is a failure and somebody asked to cancel the task before: then it
    is as cancelled as if its wrapper had come to say so."""
    if state != "failed" or record.cancelling is None:
        return state, end
    return "cancelled", replace(end, reason=record.cancelling)


def may_run_again(record: TaskRecord) -> bool:
    """Whether the attempt that runs may be followed by another one; a cancel beats that."""
    left = record.attempt < record.max_attempts and record.door_seq is not None
    return record.state == "running" and left and record.cancelling is None


def _queued_again(record: TaskRecord, end: TaskEnd, at: datetime) -> TaskRecord:
    new = _next_attempt(record, end, at)
    return _told(new, TaskQueued(at=at, after=end, **_ids(new)))


def _next_attempt(record: TaskRecord, end: TaskEnd, at: datetime) -> TaskRecord:
    brief = replace(end, text="", verdict=None)
    past = PastAttempt(
        attempt=record.attempt,
        started_at=record.started_at,
        ended_at=record.ended_at or at,
        end=brief,
    )
    return replace(
        record,
        state="queued",
        attempt=record.attempt + 1,
        past=[*record.past, past],
        run=None,
        changed_at=at,
        started_at=None,
        deadline_at=None,
        agent_session=None,
    )


def finished(record: TaskRecord, report: Finished, at: datetime) -> TaskRecord | None:
    """The task after its wrapper's last report; None when the report is not of the run that was started."""
    if not reported_by_its_run(record, report.attempt, report.run):
        return None
    state, end = held_against(record.data_schema, report.state, report.end)
    end = replace(end, told_by="wrapper", work=_own(end.work, record))
    return ended(record, state, end, at)


def _own(work: Work | None, record: TaskRecord) -> Work | None:
    """What a worker says that it handed over, less what this attempt of it cannot have."""
    if work is None:
        return None
    names = {
        name: OBJECTS.handed_over(record.worker, record.id, record.attempt, name)
        for name in ("bundle", "patch")
    }
    strange = [name for name, own in names.items() if getattr(work, name) not in {None, own}]
    if not strange:
        return work
    return replace(work, **dict.fromkeys(strange), lost=f"not its own: {' and '.join(strange)}")


def reported_by_its_run(record: TaskRecord, attempt: int, run: str) -> bool:
    """Whether a report comes from the run that was told to start."""
    return record.state == "running" and record.attempt == attempt and record.run == run


def _ids(record: TaskRecord) -> dict[str, Any]:
    return {"worker": record.worker, "task": record.id, "attempt": record.attempt}


def _told(record: TaskRecord, event: TaskEvent) -> TaskRecord:
    return _owing(record, f"t:{record.id}:{record.attempt}", event)


def _owing(record: R, prefix: str, event: Event) -> R:
    kind = str(event.__struct_config__.tag).partition(".")[2]
    return replace(record, owed=[Owed(id=f"{prefix}:{record.evt_seq}:{kind}", event=event)])
