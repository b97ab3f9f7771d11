"""What the API shows: the records as they are on the bus, and shorter ones for lists."""

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from contracts.events import TaskState, Usage, VerdictStatus, WorkerState
from contracts.ids import Instant, NodeId, ProjectId, TaskId, WorkerId
from contracts.image import ImageRecord
from contracts.letter import DeadLetter
from contracts.project import ProjectRecord
from contracts.session import Holder, SessionRecord
from contracts.task import TaskRecord
from contracts.worker import Desired, Runtime, WorkerRecord
from services.kit.nodes import NodeShown

SUMMARY_CHARS = 500
"""Characters of an agent's own summary that a list repeats."""


class WorkerSummary(Struct, frozen=True, kw_only=True):
    """A worker as lists show it; what may be long is left out."""

    name: WorkerId
    state: WorkerState
    desired: Desired
    reason: str | None
    place: int | None
    """Its place in the line for room, 1 is next; null for one that does not wait."""
    agent: str
    project: str | None
    capabilities: list[str]
    labels: dict[str, str]
    owner: str | None
    incarnation: int
    node: NodeId | None
    runtime: Runtime | None
    task: TaskId | None
    """The task in flight."""
    requested_at: Instant
    ready_at: Instant | None
    changed_at: Instant
    evt_seq: int
    """Sequence of its last event: where following its events may begin."""


class TaskSummary(Struct, frozen=True, kw_only=True):
    """A task as lists show it; what may be long is left out."""

    id: TaskId
    worker: WorkerId
    project: ProjectId | None
    """Where its attempts are counted, once one has started."""
    state: TaskState
    reason: str | None
    attempt: int
    max_attempts: int
    prompt_head: str
    verdict: VerdictStatus | None
    summary: str | None
    """The beginning of what the agent says of its task."""
    usage: Usage | None
    took: float | None
    """Seconds from the agent's start to its last byte of output."""
    submitted_at: Instant
    started_at: Instant | None
    ended_at: Instant | None
    evt_seq: int


class Workers(Struct, frozen=True, kw_only=True):
    """A page of workers, by name."""

    items: list[WorkerSummary]
    next: str | None
    """What `after` has to be for the next page; null on the last one."""


class Tasks(Struct, frozen=True, kw_only=True):
    """A page of tasks, the newest first."""

    items: list[TaskSummary]
    next: str | None
    """What `after` has to be for the next page; null on the last one."""


class Images(Struct, frozen=True, kw_only=True):
    """A page of worker images, by node and hash."""

    items: list[ImageRecord]
    next: str | None
    """What `after` has to be for the next page; null on the last one."""


class Projects(Struct, frozen=True, kw_only=True):
    """A page of projects, by name."""

    items: list[ProjectRecord]
    next: str | None
    """What `after` has to be for the next page; null on the last one."""


class SessionShown(Struct, frozen=True, kw_only=True):
    """A session: a worker's own, or one that the workers of an owner share."""

    name: str
    worker: str | None
    """Whose own it is; null for a shared one."""
    owner: str | None
    agent: str | None
    """Of a shared one."""
    agent_session: str
    """The agent CLI's own id of it; empty while there is none to go on with."""
    task: TaskId
    """The task in which it was last seen."""
    last_worker: WorkerId | None
    """Of a shared one: the worker that went on with it last."""
    turns: int
    size_bytes: int
    """Of a shared one: what its files have."""
    lost: str
    """Why there is no conversation to go on with, though there was one."""
    holder: Holder | None
    """The attempt that is in it; null for one that is free, and for a worker's own."""
    began_at: Instant | None
    seen_at: Instant


class Sessions(Struct, frozen=True, kw_only=True):
    """A page of sessions, by key: workers' own, and those that are shared."""

    items: list[SessionShown]
    next: str | None
    """What `after` has to be for the next page; null on the last one."""


class Nodes(Struct, frozen=True, kw_only=True):
    """The nodes of the crew, by name."""

    items: list[NodeShown]


class DeadLetters(Struct, frozen=True, kw_only=True):
    """A page of dead letters, the oldest first; their bodies, which may be anything, are for operators."""

    items: list[DeadLetter]
    next: int
    """What `after` has to be to go on; an empty page means that there are no more yet."""


class EventItem(Struct, frozen=True, kw_only=True):
    """An event of the history."""

    seq: int
    """Its place in the history; the `id` it has in a stream of server-sent events."""
    event: dict[str, Any]
    """As published on the bus; `type` tells which event it is."""


class Events(Struct, frozen=True, kw_only=True):
    """A page of events, the oldest first."""

    items: list[EventItem]
    next: int
    """What `after` has to be to go on; an empty page means that there are no more yet."""


class OutputItem(Struct, frozen=True, kw_only=True):
    """A piece of an agent's output."""

    seq: int
    run: str
    n: int
    """Counts the pieces of this run, from 1: a gap is a loss."""
    stream: Literal["stdout", "stderr"]
    text: str
    at: float
    """Seconds since the run began."""


class Outputs(Struct, frozen=True, kw_only=True):
    """A page of output, the oldest first."""

    items: list[OutputItem]
    next: int
    """What `after` has to be to go on; an empty page means that there is no more yet."""


class Health(Struct, frozen=True, kw_only=True):
    """The process works."""

    status: Literal["ok"] = "ok"


def session_shown(record: SessionRecord) -> SessionShown:
    """What a list shows of a session, but for the name of a worker's own and whose it is: its key says that."""
    shared = record.shared
    return SessionShown(
        name=shared.name if shared else "",
        worker=None,
        owner=shared.owner if shared else None,
        agent=shared.agent if shared else None,
        agent_session=record.agent_session,
        task=record.task,
        last_worker=record.worker,
        turns=record.turns,
        size_bytes=record.files.size_bytes if record.files else 0,
        lost=record.lost,
        holder=record.holder,
        began_at=record.began_at,
        seen_at=record.seen_at,
    )


def session_named(key: str, session: SessionShown) -> SessionShown:
    """The same with its name."""
    if session.owner is not None:
        return session
    worker, _, name = key.partition(".")
    return replace(session, worker=worker, name=name)


def image_shown(record: ImageRecord) -> ImageRecord:
    """An image's record is short: lists show it as it is."""
    return record


def project_shown(record: ProjectRecord) -> ProjectRecord:
    """A project, without what only the control plane needs."""
    return replace(record, owed=[], counted={})


def worker_summary(record: WorkerRecord) -> WorkerSummary:
    """What a list shows of a worker."""
    return WorkerSummary(
        name=record.name,
        state=record.state,
        desired=record.desired,
        reason=record.reason,
        place=None,
        agent=record.spec.agent,
        project=record.spec.project,
        capabilities=record.spec.capabilities,
        labels=record.spec.labels,
        owner=record.spec.owner,
        incarnation=record.incarnation,
        node=record.node,
        runtime=record.runtime,
        task=record.task,
        requested_at=record.requested_at,
        ready_at=record.ready_at,
        changed_at=record.changed_at,
        evt_seq=record.evt_seq,
    )


def task_summary(record: TaskRecord) -> TaskSummary:
    """What a list shows of a task."""
    end = record.end
    verdict = end.verdict if end else None
    return TaskSummary(
        id=record.id,
        worker=record.worker,
        project=record.project,
        state=record.state,
        reason=end.reason if end else None,
        attempt=record.attempt,
        max_attempts=record.max_attempts,
        prompt_head=record.prompt_head,
        verdict=verdict.status if verdict else None,
        summary=verdict.summary[:SUMMARY_CHARS] if verdict else None,
        usage=end.usage if end else None,
        took=end.took if end else None,
        submitted_at=record.submitted_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        evt_seq=record.evt_seq,
    )
