"""Workers: the commands that make and end them, the record of one, its state machine."""

from collections.abc import Iterable
from typing import Annotated, Literal, Protocol, TypeVar

from msgspec import Meta, Struct, field

from contracts.budget import Budget, Spent
from contracts.events import ArtifactRef, Owed, WorkerState
from contracts.ids import CommandId, Instant, NodeId, TaskId, Token, WorkerId
from contracts.repository import RepositorySource

Capability = Token
EnvName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}(?!\n)$",
        description="A variable's name: letters, digits and underscores, no digit first.",
    ),
]
EnvValue = Annotated[
    str, Meta(pattern=r"^[^\x00]*$", max_length=32_768, description="Text without a NUL.")
]
Verb = Annotated[
    str,
    Meta(
        pattern=r"^[a-z]+(\.[a-z]+)*(?!\n)$",
        max_length=60,
        description="A verb such as `git.token`: lower-case words joined by dots.",
    ),
]
Label = Annotated[str, Meta(max_length=200)]

Runtime = Literal["docker", "process"]
RuntimeChoice = Literal["auto", "docker", "process"]
Network = Literal["none", "bridge"]
Desired = Literal["running", "paused", "stopped"]
Lifetime = Literal["task", "persistent"]
Wait = Annotated[
    float,
    Meta(
        ge=0,
        le=2_592_000,
        description="Seconds, thirty days at most; 0 is never.",
    ),
]


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker may use; the operator's caps stand above these."""

    memory_mb: Annotated[int, Meta(ge=64, le=1_048_576)] = 2048
    """MiB of memory; swap is not added to it."""
    cpus: Annotated[float, Meta(gt=0, le=512)] = 2.0
    pids: Annotated[int, Meta(ge=16, le=65_536)] = 512
    output_mb: Annotated[int, Meta(ge=1, le=4096)] = 64
    """MiB of agent output that are kept of one task; the rest is counted and dropped."""
    repository_mb: Annotated[int, Meta(ge=1, le=256)] = 256
    """MiB that a repository may have on its way in, and the work of one task on its way out."""


class CreateWorker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Make a worker: an isolated place where one agent works."""

    name: Token
    agent: Token
    capabilities: Annotated[list[Capability], Meta(max_length=32)] = []
    instructions: Annotated[str, Meta(max_length=262_144)] = ""
    """Becomes the agent's instruction file (CLAUDE.md, AGENTS.md, …) before the worker is ready."""
    allowed_commands: Annotated[list[Verb], Meta(max_length=32)] = []
    """Verbs of `jetcrew.ask.<worker>.<verb>` this worker may use; none unless named."""
    env: Annotated[dict[EnvName, EnvValue], Meta(max_length=128)] = {}
    """The agent's environment, in clear: visible to operators. Keys belong in `secrets`."""
    secrets: Annotated[list[EnvName], Meta(max_length=64)] = []
    """Names of stored secrets; each reaches the agent as the environment variable of that name."""
    runtime: RuntimeChoice = "auto"
    """`auto` is docker where an engine answers, else a plain process, which isolates nothing."""
    network: Network = "bridge"
    """`bridge`: out to the internet, not to other workers; `none`: nothing but the bus. Docker only."""
    limits: Limits = Limits()
    lifetime: Lifetime = "persistent"
    """`task`: it is deleted once its first task is over; `persistent`: once somebody, or a rule, says so."""
    idle_pause: Wait | None = None
    """Seconds without a task, running or queued, after which it is frozen until one comes; 0: never; None: as
    the operator has set it."""
    idle_expiry: Wait | None = None
    """Seconds without a task, running or queued, after which it is deleted; 0: never; None: as the operator
    has set it."""
    queue_timeout: Wait | None = None
    """Seconds it may wait for room before it fails as `resource-exhausted`; 0: for ever; None: as the operator
    has set it."""
    repository: RepositorySource | None = None
    """Checked out in the workspace before the first task. It brings the capability `git`."""
    trust_repository: bool = False
    """Let the agent read configuration of its own (`.claude`, `.mcp.json`, …) that it finds in the
    workspace. Otherwise such files are set aside while it runs: they can make it run commands, or send its key elsewhere."""
    budget: Budget = Budget()
    """What all its tasks together may use; after that none is started."""
    project: Token | None = None
    """The project that its tasks spend in, besides its own budget; it must exist."""
    labels: Annotated[dict[Token, Label], Meta(max_length=64)] = {}
    owner: Token | None = None
    """Whose it is: workers of one owner with the same agent share the sessions that tasks name. None: it
    shares nothing."""


class DeleteWorker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """End a worker. Its open task ends as cancelled, its queued tasks are refused."""

    name: Token
    keep_workspace: bool = False
    """Leave the workspace and home volumes; a worker made later by this name finds them."""


class PauseWorker(Struct, frozen=True, kw_only=True):
    """Freeze a worker that has no task in flight."""

    name: Token


class ResumeWorker(Struct, frozen=True, kw_only=True):
    """Thaw a paused worker."""

    name: Token


class StatusOfWorker(Struct, frozen=True, kw_only=True):
    """Ask for the record of a worker."""

    name: Token


class ExecInWorker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Run a program beside a worker's agent, to see what is wrong with it. For operators, by the synchronous
    door only: nothing of it is stored but the event that tells of it."""

    name: Token
    argv: Annotated[
        list[Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=32_768)]],
        Meta(min_length=1, max_length=256),
    ]
    """The program and its arguments; no shell is put before them."""
    timeout: Annotated[float, Meta(gt=0, le=50)] = 20.0
    """Seconds, after which it is killed."""


class ExecOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of an `ExecInWorker`."""

    exit_code: int | None = None
    """None when it was killed because its time was over."""
    output: str = ""
    """What it wrote to stdout and stderr, as it came; 256 KiB of it at most."""
    cut: bool = False
    """Whether there was more."""


class PutSecret(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Store a secret. Taken by the synchronous door only, so that no stream ever holds its value."""

    name: EnvName
    value: Annotated[
        str,
        Meta(
            pattern=r"^[^\x00]*$",
            min_length=1,
            max_length=65_536,
            description="Text without a NUL.",
            extra_json_schema={"writeOnly": True},
        ),
    ]
    """Never repeated: not in a refusal, a result, a log or a record."""
    worker: Token | None = None
    """For this worker only, and forgotten with it; None: for every worker that names it."""

    def __repr__(self) -> str:
        return f"PutSecret(name={self.name!r}, value=…, worker={self.worker!r})"


WORKER_TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    "requested": frozenset({"queued", "building", "starting", "stopping", "stopped", "failed"}),
    "queued": frozenset({"building", "starting", "stopping", "stopped", "failed"}),
    "building": frozenset({"starting", "stopping", "failed", "lost"}),
    "starting": frozenset({"ready", "starting", "building", "stopping", "failed", "lost"}),
    "ready": frozenset({"busy", "paused", "starting", "stopping", "failed", "lost"}),
    "busy": frozenset({"ready", "starting", "stopping", "failed", "lost"}),
    "paused": frozenset({"ready", "starting", "stopping", "failed", "lost"}),
    "lost": frozenset({"building", "starting", "ready", "busy", "paused", "stopping", "failed"}),
    "stopping": frozenset({"stopped", "failed"}),
    "stopped": frozenset(),
    "failed": frozenset({"stopping", "stopped"}),
}
"""From a state to the states it may become; `starting` again is a unit that ended and is replaced, `building` again
an image that is gone. `stopped` ends a worker; a later one of the same name is a new incarnation. A `failed`
worker can still be deleted."""


WORKER_ENDED: frozenset[WorkerState] = frozenset({"stopped", "failed"})


class WorkerRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of a worker; changed by compare-and-set only."""

    name: WorkerId
    state: WorkerState
    desired: Desired
    spec: CreateWorker
    requested_at: Instant
    changed_at: Instant
    incarnation: int = 1
    """Counts the workers that bore this name."""
    made_by: CommandId | None = None
    """The command that made it: so that the same command, delivered again, finds its own work."""
    node: NodeId | None = None
    """The node that owns it, once one has claimed it."""
    runtime: Runtime | None = None
    unit: str | None = None
    """The container's id, or the process's identity, in its runtime."""
    image: str | None = None
    user_key: str | None = None
    """Public key of its bus user; what a renewal of its credential is made for."""
    credential_until: Instant | None = None
    """When the longest credential that was ever made for that user expires: what takes it back has to stand until
    then."""
    task: TaskId | None = None
    """The task in flight."""
    reason: str | None = None
    """Why it is in this state, where the state does not say it."""
    place: int | None = None
    """Its place in the line for room, 1 is next: when it was queued; as it is now, where a record is shown."""
    restarts: int = 0
    """Units that ended and were replaced since a task last succeeded in starting."""
    units: int = 0
    """Units that were started for this incarnation."""
    evidence: ArtifactRef | None = None
    """Of the unit that ended last."""
    not_kept: str = ""
    """Why there is none, when there should be."""
    keep_workspace: bool = False
    fenced: bool = False
    """Its credential is revoked because its node is gone: what may still run of it is not to be believed, and
    is replaced when the node comes back."""
    ready_at: Instant | None = None
    idle_since: Instant | None = None
    """Since when it has had no task, while it is `ready` or `paused`."""
    spent: Spent = Spent()
    """What its tasks have used of its budget."""
    parked_until: Instant | None = None
    """Until when its provider takes no requests, as the last task was told: no task is started before."""
    owed: list[Owed] = field(default_factory=list)
    """Events of the last change that are not known to be published yet."""
    evt_seq: int = 0
    """Sequence of its last event in the event stream."""

    @property
    def ended(self) -> bool:
        """Whether the worker is over: nothing runs, and its name is free."""
        return self.state in WORKER_ENDED

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to be done for it: what a failed one left is cleared away first."""
        return self.state == "stopped" or (self.state == "failed" and self.user_key is None)

    @property
    def waits(self) -> bool:
        """Whether it stands in the line for room."""
        return _waits(self)


class _Seen(Protocol):
    """What the line for room goes by."""

    @property
    def name(self) -> WorkerId: ...
    @property
    def state(self) -> WorkerState: ...
    @property
    def node(self) -> NodeId | None: ...
    @property
    def requested_at(self) -> Instant: ...


S = TypeVar("S", bound=_Seen)


def _waits(worker: _Seen) -> bool:
    return worker.state in {"requested", "queued"} and worker.node is None


def line(workers: Iterable[S]) -> list[S]:
    """Those who wait for room, in the order in which they get it: the oldest request first."""
    return sorted((w for w in workers if _waits(w)), key=lambda w: (w.requested_at, w.name))


def places(workers: Iterable[_Seen]) -> dict[WorkerId, int]:
    """The place in the line of each who stands in it; 1 is next."""
    return {worker.name: place for place, worker in enumerate(line(workers), 1)}
