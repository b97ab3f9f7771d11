"""Events: trusted history, written by the control plane only.

An event's `type` is its subject's beginning and end: `task.started` of task `t1` of worker `ada` is
published on `jetcrew.evt.task.ada.t1.started`.
"""

from typing import Literal

from msgspec import Struct

from contracts.ids import Instant, NodeId, ProjectId, TaskId, WorkerId
from contracts.repository import GitState, Work

WorkerState = Literal[
    "requested", "queued", "building", "starting", "ready", "busy", "paused", "lost",
    "stopping", "stopped", "failed",
]  # fmt: skip
TaskState = Literal[
    "queued", "running", "succeeded", "failed", "cancelled", "timed-out", "input-required"
]
VerdictStatus = Literal["success", "failure", "in_progress"]


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task used, as its agent reports it; None where it does not say, never 0."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost_usd: float | None = None
    turns: int | None = None
    model: str | None = None


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent says of its task."""

    status: VerdictStatus
    summary: str = ""
    data: dict[str, object] = {}


class ArtifactRef(Struct, frozen=True, kw_only=True):
    """An object in the store `jc_artifact`, and by what to know it."""

    name: str
    size_bytes: int
    sha256: str
    """In hexadecimal."""


class ConversationLeft(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the files of a shared session when a turn in it had ended."""

    reason: Literal["kept", "too-large", "no-files", "not-taken"]
    """`no-files`: the agent kept nothing, and the session stays as it was. After `too-large` and `not-taken` it is
    lost, and the next task in it begins a fresh conversation."""
    size_bytes: int = 0
    detail: str = ""
    """One sentence, where they are not kept."""
    counted: Usage | None = None
    """What its agent has counted since the conversation began, if that is how it counts."""


class TaskEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended, and all that came of it."""

    reason: str | None = None
    """One word for a machine: `exit-1`, `oom`, `killed`, `no-result`, `deadline`, `inactive`, `rate-limited`, …"""
    detail: str = ""
    """One sentence for a person."""
    until: Instant | None = None
    """With `rate-limited`: when the provider takes requests again; None when it does not say."""
    verdict: Verdict | None = None
    text: str = ""
    """The agent's final text, cut at 64 KiB."""
    exit_code: int | None = None
    signal: str | None = None
    took: float | None = None
    """Seconds from the agent's start to its last byte of output."""
    usage: Usage | None = None
    agent_session: str | None = None
    output_bytes: int = 0
    output_dropped_bytes: int = 0
    """Bytes over the worker's output budget; counted, not kept."""
    told_by: Literal["wrapper", "manager"] = "wrapper"
    transcript: ArtifactRef | None = None
    """All that the agent wrote in this attempt."""
    evidence: ArtifactRef | None = None
    """All that the manager knows of this attempt."""
    not_kept: str = ""
    """Why one of these two is not in the store, when it should be."""
    git: GitState | None = None
    """What git says of the workspace; None when it is no repository, or nobody could look."""
    work: Work | None = None
    """What changed in the repository that the worker was given; None when it was given none."""
    conversation: ConversationLeft | None = None
    """Of a turn in a shared session, as its wrapper tells it."""


class _Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    at: Instant


class _WorkerEvent(_Event, frozen=True, kw_only=True, omit_defaults=True):
    worker: WorkerId
    incarnation: int = 1
    reason: str | None = None
    node: NodeId | None = None


class WorkerRequested(_WorkerEvent, tag="worker.requested", frozen=True, kw_only=True):
    """The command to make it is stored; a node will claim it."""

    agent: str


class WorkerQueued(_WorkerEvent, tag="worker.queued", frozen=True, kw_only=True):
    """There is no room for it now; it starts when its turn comes. The reason says what is short."""

    place: int | None = None
    """Its place in the line when it was queued; 1 is next."""


class WorkerBuilding(_WorkerEvent, tag="worker.building", frozen=True, kw_only=True):
    """A node has claimed it and is making sure of its image."""


class _UnitEnded(_WorkerEvent, frozen=True, kw_only=True, omit_defaults=True):
    evidence: ArtifactRef | None = None
    """All that is known of the unit that ended, stored before it was removed."""
    not_kept: str = ""
    """Why there is none, when there should be."""


class WorkerStarting(_UnitEnded, tag="worker.starting", frozen=True, kw_only=True):
    """Its container or process is being started; anew, if there is evidence of one that ended."""


class WorkerBecameReady(_WorkerEvent, tag="worker.ready", frozen=True, kw_only=True):
    """It waits for a task."""


class WorkerBusy(_WorkerEvent, tag="worker.busy", frozen=True, kw_only=True):
    """It works on a task."""

    task: TaskId


class WorkerPaused(_WorkerEvent, tag="worker.paused", frozen=True, kw_only=True):
    """It is frozen and keeps its memory."""


class WorkerLost(_WorkerEvent, tag="worker.lost", frozen=True, kw_only=True):
    """Its node cannot be reached: unknown, not dead."""


class WorkerStopping(_WorkerEvent, tag="worker.stopping", frozen=True, kw_only=True):
    """Somebody asked for its end."""


class WorkerStopped(_UnitEnded, tag="worker.stopped", frozen=True, kw_only=True):
    """Nothing of it runs any more."""


class WorkerFailed(_UnitEnded, tag="worker.failed", frozen=True, kw_only=True):
    """It could not be made, or it broke; the reason says why."""


class WorkerInspected(_WorkerEvent, tag="worker.inspected", frozen=True, kw_only=True):
    """An operator ran a program in it."""

    program: str
    """Without its arguments."""
    actor: str | None = None
    """Who, as the sender says."""


class _TaskEvent(_Event, frozen=True, kw_only=True, omit_defaults=True):
    worker: WorkerId
    task: TaskId
    attempt: int = 1


class TaskQueued(_TaskEvent, tag="task.queued", frozen=True, kw_only=True):
    """The prompt is stored and recorded; or, from the second attempt on, waits to be run once more."""

    after: TaskEnd | None = None
    """How the attempt before this one ended; None for the first."""


class TaskRefused(_TaskEvent, tag="task.refused", frozen=True, kw_only=True):
    """The prompt was not taken; nothing ran."""

    reason: str
    field: str | None = None


class TaskAnswered(_TaskEvent, tag="task.answered", frozen=True, kw_only=True):
    """Its question was answered; it is queued, to go on in the same conversation."""

    actor: str | None = None
    """Who answered, as the sender says."""


class TaskStarted(_TaskEvent, tag="task.started", frozen=True, kw_only=True):
    """The wrapper was told to start the agent."""

    deadline_at: Instant


class TaskProgressed(_TaskEvent, tag="task.progress", frozen=True, kw_only=True):
    """Something worth telling happened: text, a tool call, a retry against the provider."""

    kind: str
    text: str = ""


class TaskSessionSeen(_TaskEvent, tag="task.session", frozen=True, kw_only=True):
    """The agent named its conversation."""

    agent_session: str
    fresh: bool = True
    """False when an earlier conversation was resumed."""


class TaskCancelling(_TaskEvent, tag="task.cancelling", frozen=True, kw_only=True):
    """Somebody asked to cancel it while it ran."""

    reason: str = ""


class _TaskEnded(_TaskEvent, frozen=True, kw_only=True, omit_defaults=True):
    end: TaskEnd


class TaskSucceeded(_TaskEnded, tag="task.succeeded", frozen=True, kw_only=True):
    """The agent finished and says that it succeeded."""


class TaskFailed(_TaskEnded, tag="task.failed", frozen=True, kw_only=True):
    """It did not succeed; the end's reason says why."""


class TaskCancelled(_TaskEnded, tag="task.cancelled", frozen=True, kw_only=True):
    """It was cancelled, before its start or while it ran."""


class TaskTimedOut(_TaskEnded, tag="task.timed-out", frozen=True, kw_only=True):
    """Its deadline passed, or nothing was heard of the agent for too long."""


class TaskInputRequired(_TaskEnded, tag="task.input-required", frozen=True, kw_only=True):
    """The agent waits for an answer (verdict `in_progress`)."""


class ImageBuilding(_Event, tag="image.building", frozen=True, kw_only=True):
    """One step of an image's build."""

    image: str
    step: int
    steps: int
    text: str = ""


class ImageBuilt(_Event, tag="image.built", frozen=True, kw_only=True):
    """The image is there and its self-check passed."""

    image: str
    took: float


class ImageFailed(_Event, tag="image.failed", frozen=True, kw_only=True):
    """The build ended without an image."""

    image: str
    reason: str


class ImageRemoved(_Event, tag="image.removed", frozen=True, kw_only=True):
    """A node removed it; the next worker that needs it there has it built again."""

    image: str
    node: NodeId
    reason: str
    size_bytes: int = 0


class _NodeEvent(_Event, frozen=True, kw_only=True, omit_defaults=True):
    node: NodeId


class NodeCleaned(_NodeEvent, tag="node.cleaned", frozen=True, kw_only=True):
    """What nothing needed any more is gone."""

    removed: dict[str, int]
    """How many of each kind: `image`, `container`, `volume`, …"""
    removed_bytes: int = 0
    """Of the images."""


class NodeKeptUnknown(_NodeEvent, tag="node.kept-unknown", frozen=True, kw_only=True):
    """Something on the node is this crew's and no record knows it, or the records cannot be read: it is kept,
    for a person to look at."""

    reason: str
    things: list[str] = []
    """Kind and name of each, as in `container jetcrew-1a2b.ada`."""


class NodeDiskFull(_NodeEvent, tag="node.disk-full", frozen=True, kw_only=True):
    """Too little is free on a disk of the node: it makes no worker until there is more."""

    reason: str


class NodeDiskFreed(_NodeEvent, tag="node.disk-freed", frozen=True, kw_only=True):
    """There is enough again."""


class _ProjectEvent(_Event, frozen=True, kw_only=True, omit_defaults=True):
    project: ProjectId


class _Bounded(_ProjectEvent, frozen=True, kw_only=True, omit_defaults=True):
    """With all its bounds, as they are from now on; None is without bound."""

    usd: float | None = None
    tokens: int | None = None
    turns: int | None = None


class ProjectCreated(_Bounded, tag="project.created", frozen=True, kw_only=True):
    """Workers can be made in it."""


class ProjectUpdated(_Bounded, tag="project.updated", frozen=True, kw_only=True):
    """Its bounds are others now."""


class ProjectUsedUp(_ProjectEvent, tag="project.budget-exhausted", frozen=True, kw_only=True):
    """A bound is reached: no task of its workers is started until there is more."""

    reason: str


class ProjectArchived(_ProjectEvent, tag="project.archived", frozen=True, kw_only=True):
    """Nothing is spent under its name any more."""


WorkerEvent = (
    WorkerRequested | WorkerQueued | WorkerBuilding | WorkerStarting | WorkerBecameReady | WorkerBusy
    | WorkerPaused | WorkerLost | WorkerStopping | WorkerStopped | WorkerFailed | WorkerInspected
)  # fmt: skip
TaskEnding = TaskSucceeded | TaskFailed | TaskCancelled | TaskTimedOut | TaskInputRequired
TaskEvent = (
    TaskQueued | TaskRefused | TaskAnswered | TaskStarted | TaskProgressed | TaskSessionSeen | TaskCancelling
    | TaskEnding
)  # fmt: skip
ImageEvent = ImageBuilding | ImageBuilt | ImageFailed | ImageRemoved
NodeEvent = NodeCleaned | NodeKeptUnknown | NodeDiskFull | NodeDiskFreed
ProjectEvent = ProjectCreated | ProjectUpdated | ProjectUsedUp | ProjectArchived
Event = WorkerEvent | TaskEvent | ImageEvent | NodeEvent | ProjectEvent

TASK_ENDINGS: dict[TaskState, type[TaskEnding]] = {
    "succeeded": TaskSucceeded,
    "failed": TaskFailed,
    "cancelled": TaskCancelled,
    "timed-out": TaskTimedOut,
    "input-required": TaskInputRequired,
}
"""The event that tells of a task's end, by the state it ends in."""


class Owed(Struct, frozen=True, kw_only=True):
    """An event that a record's last change promised; published under this id, then struck off."""

    id: str
    event: Event
