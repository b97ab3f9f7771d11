"""Tasks: one prompt for one worker, its record and its state machine."""

from typing import Annotated

from msgspec import Meta, Struct, field

from contracts.budget import Budget
from contracts.events import Owed, TaskEnd, TaskState
from contracts.ids import Instant, ProjectId, TaskId, Token, WorkerId
from contracts.repository import RepositorySource
from contracts.session import SharedSession

LONGEST_TIMEOUT = 604_800
"""Seconds: a week."""
Seconds = Annotated[float, Meta(gt=0, le=LONGEST_TIMEOUT)]
"""More than none, and a week at most."""

DEFAULT_TIMEOUT = 1800.0
"""Seconds a task may take when it does not say."""
PROMPT_HEAD = 200
"""Characters of the prompt that the record repeats."""


class SubmitTask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt, published to `jetcrew.task.<worker>`."""

    prompt: Annotated[str, Meta(min_length=1)]
    timeout: Seconds = DEFAULT_TIMEOUT
    """Seconds from the agent's start to the end."""
    session: Token = "continue"
    """`continue` the worker's conversation, start a `new` one, or a session by name."""
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 1
    """How often it may be run: again after a crash, never after an end that the agent gave it."""
    context: Annotated[dict[Token, str], Meta(max_length=32)] = {}
    """Passed through to the record and the end event, for the caller's own bookkeeping."""
    repository: RepositorySource | None = None
    """Checked out in the workspace before the agent starts."""
    budget: Budget = Budget()
    """What the task may use; its agent is stopped when that is reached."""
    data_schema: dict[str, object] | None = None
    """JSON Schema of `data` in the verdict, 16 KiB at most. Agents that can are held to it by their own means,
    the others are told; a success whose data does not match is a failure, `bad-result`."""


class AnswerTask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer a task that waits for input: it goes on, in the same conversation, with this as its prompt."""

    task: Token
    text: Annotated[str, Meta(min_length=1)]


class CancelTask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """End a task early: at once if it is queued, with the agent's processes if it runs."""

    task: Token
    reason: Annotated[str, Meta(max_length=500)] = ""


TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset(
        {"succeeded", "failed", "cancelled", "timed-out", "input-required", "queued"}
    ),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "timed-out": frozenset(),
    "input-required": frozenset({"queued"}),
}
"""From a state to the states it may become; `running → queued` is the next attempt of a task that asked
for more than one, `input-required → queued` a question that was answered."""

TASK_ENDED: frozenset[TaskState] = frozenset(
    {"succeeded", "failed", "cancelled", "timed-out", "input-required"}
)


class PastAttempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt that crashed and was followed by another one."""

    attempt: int
    started_at: Instant | None
    ended_at: Instant
    end: TaskEnd
    """Without the agent's text and verdict, which its event holds."""


class TaskRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of a task; changed by compare-and-set only."""

    id: TaskId
    worker: WorkerId
    state: TaskState
    submitted_at: Instant
    changed_at: Instant
    timeout: float = DEFAULT_TIMEOUT
    session: str = "continue"
    prompt_head: str = ""
    prompt_bytes: int = 0
    attempt: int = 1
    max_attempts: int = 1
    run: str | None = None
    """Chosen by the wrapper that was told to start this attempt; its reports carry it."""
    door_seq: int | None = None
    """Where the prompt waits in the door's stream; None once no attempt will need it any more."""
    actor: str | None = None
    """Who submitted it, as the sender says (`Jc-Actor`)."""
    context: dict[str, str] = {}
    repository: RepositorySource | None = None
    """What was checked out for it."""
    shared: SharedSession | None = None
    """The session of its worker's owner that it is in; None when the session is its worker's own."""
    started_at: Instant | None = None
    deadline_at: Instant | None = None
    ended_at: Instant | None = None
    agent_session: str | None = None
    """The agent CLI's own conversation id, once it was seen."""
    cancelling: str | None = None
    """The reason, once somebody asked to cancel it while it ran."""
    budget: Budget = Budget()
    project: ProjectId | None = None
    """Where its attempts are counted: the project of its worker when the last one started."""
    data_schema: dict[str, object] | None = None
    goes_on_in: str | None = None
    """The agent's conversation that the next attempt goes on in, whatever `session` says: it was answered."""
    end: TaskEnd | None = None
    past: list[PastAttempt] = []
    """The attempts before this one, and the turns that ended with a question."""
    owed: list[Owed] = field(default_factory=list)
    evt_seq: int = 0

    @property
    def last_ended(self) -> int:
        """The last attempt that is over; 0 when none is."""
        return self.attempt if self.end is not None else self.attempt - 1

    def end_of(self, attempt: int) -> TaskEnd | None:
        """How an attempt ended; None when it did not."""
        if attempt == self.attempt:
            return self.end
        return next((past.end for past in self.past if past.attempt == attempt), None)

    @property
    def ended(self) -> bool:
        """Whether this is over."""
        return self.state in TASK_ENDED

    @property
    def over(self) -> bool:
        """Whether it has ended for good: one that waits for input may be answered."""
        return self.ended and self.state != "input-required"
