"""Sessions: conversations by name, a worker's own or those that the workers of one owner share."""

import re
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from contracts.events import ArtifactRef, Usage
from contracts.ids import Instant, TaskId, Token, WorkerId

OWN = frozenset({"continue", "new"})
"""Sessions that are always a worker's own: they have no name of the user's."""
SHARED = "_shared"
"""First token of the keys of shared sessions. No worker can be called so, and a worker reads only keys that begin
with its name."""

_PORTABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def is_portable(agent_session: str) -> bool:
    """Whether an agent's id of a conversation may go to another worker, where it becomes an argument and a part
    of file names: neither an option nor a path."""
    return _PORTABLE.fullmatch(agent_session) is not None


class SharedSession(Struct, frozen=True, kw_only=True):
    """Which shared session: the agents of an owner have each their own, for no other could read it."""

    owner: Token
    agent: Token
    name: Token

    @property
    def key(self) -> str:
        """Where its record is."""
        return f"{SHARED}.{self.owner}.{self.agent}.{self.name}"


def shared_session(owner: str | None, agent: str, session: str) -> SharedSession | None:
    """The shared session that a task names; None when it is the worker's own."""
    if owner is None or session in OWN:
        return None
    return SharedSession(owner=owner, agent=agent, name=session)


class Holder(Struct, frozen=True, kw_only=True):
    """The attempt that is in a shared session: no other one runs in it meanwhile."""

    task: TaskId
    attempt: int
    worker: WorkerId
    since: Instant


class SessionRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One conversation, under `<worker>.<session>`; `continue` is the one that goes on by itself. A shared one is
    under `_shared.<owner>.<agent>.<session>`, and changed by compare-and-set only."""

    agent_session: str
    """The agent CLI's own id of it, as last seen; empty while there is none to go on with."""
    seen_at: Instant
    began_at: Instant | None = None
    """When it was first seen."""
    task: TaskId
    """The task in which it was last seen."""
    shared: SharedSession | None = None
    """Which shared one it is; None for a worker's own."""
    worker: WorkerId | None = None
    """Of a shared one: the worker that went on with it last."""
    turns: int = 0
    """Of a shared one: tasks whose files were kept."""
    files: ArtifactRef | None = None
    """Of a shared one: the conversation as it was after the last turn."""
    counted: Usage | None = None
    """With them: what the agent had counted by then, if it counts from a conversation's beginning."""
    lost: str = ""
    """Why there is no conversation to go on with, though there was one."""
    holder: Holder | None = None

    def held_by(self, task: TaskId, attempt: int) -> bool:
        """Whether this attempt is in it."""
        return self.holder is not None and (self.holder.task, self.holder.attempt) == (
            task,
            attempt,
        )


class ForgetSession(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Forget a session: the next task that names it begins a fresh conversation. Either `worker` or `owner` says
    whose it is. Refused while a task is in it."""

    name: Token
    worker: Token | None = None
    owner: Token | None = None
    agent: Token | None = None
    """Of an owner's: for this agent only; None for every one."""


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
