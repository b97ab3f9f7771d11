"""Sessions: a worker's conversations, by name."""

from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from contracts.ids import Instant, TaskId


class SessionRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One conversation, under `<worker>.<session>`; `continue` is the one that goes on by itself."""

    agent_session: str
    """The agent CLI's own id of it, as last seen."""
    seen_at: Instant
    began_at: Instant | None = None
    """When it was first seen."""
    task: TaskId
    """The task in which it was last seen."""


@dataclass(frozen=True)
class SessionLife:
    """How long a conversation is gone on with. After that the next task begins a fresh one: an old
    conversation costs its whole length again at each turn, and no provider's cache remembers it."""

    longest: float = 86_400.0
    """Seconds from its beginning."""
    idle: float = 1800.0
    """Seconds from when it was last seen."""

    def over(self, session: SessionRecord, at: datetime) -> bool:
        """Whether it is not gone on with any more."""
        age = (at - (session.began_at or session.seen_at)).total_seconds()
        return age > self.longest or (at - session.seen_at).total_seconds() > self.idle
