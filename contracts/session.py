"""Sessions: a worker's conversations, by name."""

from msgspec import Struct

from contracts.ids import Instant, TaskId


class SessionRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One conversation, under `<worker>.<session>`; `continue` is the one that goes on by itself."""

    agent_session: str
    """The agent CLI's own id of it, as last seen."""
    seen_at: Instant
    task: TaskId
    """The task in which it was last seen."""
