"""Evidence: what the manager knows of an end, kept after everything else of it is gone."""

from msgspec import Struct

from contracts.events import TaskEnd, TaskState
from contracts.ids import Instant, NodeId, TaskId, WorkerId
from contracts.worker import Runtime

LOG_LINES = 200
"""Lines that are kept of the end of a log."""
EVIDENCE_BYTES = 4_194_304
"""The most that one document may have."""


class UnitEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a unit ended, as its runtime tells it."""

    exit_code: int | None = None
    oom: bool = False
    signal: str | None = None
    reason: str = ""


class Resources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a unit has used since it began, as its engine measures it; None where it does not say."""

    cpu_seconds: float | None = None
    memory_peak_bytes: int | None = None


class _Evidence(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    at: Instant
    """When it was gathered."""
    worker: WorkerId
    incarnation: int = 1
    node: NodeId | None = None
    runtime: Runtime | None = None
    image: str | None = None
    agent: str = ""
    unit: str | None = None
    """The container's id, or the process's identity."""
    unit_end: UnitEnd | None = None
    """None while the unit lives on."""
    resources: Resources | None = None
    log: str = ""
    """The last lines of the unit's log, secrets replaced."""
    missing: str = ""
    """What could not be gathered, and why."""


class TaskEvidence(_Evidence, tag="task", frozen=True, kw_only=True):
    """The end of one attempt."""

    task: TaskId
    attempt: int = 1
    run: str | None = None
    state: TaskState
    end: TaskEnd
    """With exit code, signal, usage, session; `end.git` and `end.work` are what the worker claims."""
    submitted_at: Instant
    started_at: Instant | None = None
    deadline_at: Instant | None = None
    output: str = ""
    """The last lines that the agent wrote."""


class UnitEvidence(_Evidence, tag="unit", frozen=True, kw_only=True):
    """The end of one unit."""

    reason: str = ""
    """Why it ended, in a word: as its runtime tells it, or `deleted`, `idle`, …"""
    number: int = 1
    """Counts the units of this incarnation."""
    task: TaskId | None = None
    """The task that was in flight."""
    requested_at: Instant
    ready_at: Instant | None = None


Evidence = TaskEvidence | UnitEvidence
