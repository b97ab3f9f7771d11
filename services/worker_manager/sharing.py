"""Sessions that the workers of one owner share: who is in one, and what it holds when they are out.

The record of a session names its holder, one attempt at one task, and is changed by compare-and-set only:
that is all that keeps two tasks from being in one conversation at once. An attempt takes the session before it
is assigned, and gives it back as a part of its end, together with the files that it handed over.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from msgspec.structs import replace

from contracts.asks import SharedConversation
from contracts.bus import Artifacts, Bucket, Bus, Held, Records
from contracts.errors import Conflict, InvalidMessage, JetcrewError, Refused
from contracts.events import ArtifactRef
from contracts.ids import WorkerId
from contracts.session import SHARED, Holder, SessionLife, SessionRecord, SharedSession, is_portable
from contracts.task import TaskRecord
from contracts.topology import ARTIFACTS, CONVERSATION, OBJECTS
from contracts.worker import CreateWorker
from services.kit.catalog import Catalog

log = structlog.get_logger()

TRIES = 20
"""Lost races for a record after which something other than a race is the matter."""


def check_owner(catalog: Catalog, spec: CreateWorker) -> None:
    """Whether the conversations of a worker can be shared, if it has an owner.

    Raises:
        InvalidMessage: they cannot; says whose can.
    """
    if spec.owner is not None and not catalog.agent(spec.agent).conversation:
        able = ", ".join(name for name, agent in catalog.agents.items() if agent.conversation)
        raise InvalidMessage(
            f"conversations of {spec.agent} cannot be shared; those of {able} can", field="$.owner"
        )


@dataclass(frozen=True, kw_only=True)
class GoingOn:
    """How a task goes on in its session."""

    agent_session: str | None = None
    """The conversation to resume; None for a fresh one."""
    shared: SharedConversation | None = None


class Sharing:
    """Takes shared sessions and gives them back."""

    def __init__(
        self, bus: Bus, sessions: Bucket[SessionRecord], tasks: Records[TaskRecord],
        life: SessionLife, clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self._sessions = sessions
        self._tasks = tasks
        self._life = life
        self._clock = clock
        self._artifacts = Artifacts(bus)
        self._kept_for = bus.topology.object_store(ARTIFACTS).max_age
        self._waiting: dict[str, set[WorkerId]] = defaultdict(set)

    async def take(self, task: TaskRecord) -> GoingOn | None:
        """Enter the session for the attempt that a task is about to make; None while another task is in it. Doing
        it again changes nothing."""
        assert task.shared is not None
        key = task.shared.key
        for _ in range(TRIES):
            held = await self._sessions.get(key)
            if held is not None and held.value.held_by(task.id, task.attempt):
                return _going_on(held.value, task)
            self._waiting[key].add(task.worker)  # before we know: it may be given back meanwhile
            if held is not None and await self._is_in_use(key, held):
                return None
            new = self._entered(held.value if held else None, task)
            try:
                await self._put(key, new, held, lasting=task.timeout)
            except Conflict:
                continue
            if held is not None and new.files is None:
                await self._drop(held.value.files)
            return _going_on(new, task)
        raise Conflict(f"session {key} changed {TRIES} times while it was to be entered once")

    async def _is_in_use(self, key: str, held: Held[SessionRecord]) -> bool:
        """Whether its holder is at work; also when the holder has just given it back."""
        holder = held.value.holder
        if holder is None:
            return False
        # reading a task settles what it owes: one that has ended gives the session back now, if it had not
        task = await self._tasks.get(holder.task)
        works = task is not None and not task.value.ended and task.value.attempt == holder.attempt
        if works:
            return True
        again = await self._sessions.get(key)
        if again is not None and again.revision == held.revision:
            log.warning("session.taken_over", session=key, holder=holder.task)
            return False
        return again is not None and again.value.holder is not None

    def _entered(self, before: SessionRecord | None, task: TaskRecord) -> SessionRecord:
        at = self._clock()
        holder = Holder(task=task.id, attempt=task.attempt, worker=task.worker, since=at)
        if before is None or self._life.over(before, at):
            return SessionRecord(
                agent_session="", seen_at=at, began_at=at, task=task.id, shared=task.shared,
                holder=holder,
            )  # fmt: skip
        return replace(before, holder=holder)

    async def holds(self, task: TaskRecord) -> bool:
        """Whether the attempt that a task is about to make is in its session."""
        assert task.shared is not None
        held = await self._sessions.get(task.shared.key)
        return held is not None and held.value.held_by(task.id, task.attempt)

    async def files_of(self, task: TaskRecord) -> ArtifactRef | None:
        """The conversation that a running task goes on with; None when there is none, or it is not in it."""
        if task.shared is None or task.state != "running":
            return None
        held = await self._sessions.get(task.shared.key)
        if held is None or not held.value.held_by(task.id, task.attempt):
            return None
        return held.value.files

    async def give_back(self, task: TaskRecord) -> None:
        """Leave the session after the attempt that has ended last, with what that left; nothing when it is not
        in it."""
        if task.shared is None or not task.last_ended:
            return
        key, attempt = task.shared.key, task.last_ended
        for _ in range(TRIES):
            held = await self._sessions.get(key)
            if held is None or not held.value.held_by(task.id, attempt):
                return
            left = await self._left(task, attempt, held.value)
            new = replace(held.value, holder=None, **left)
            try:
                await self._put(key, new, held)
            except Conflict:
                continue
            if held.value.files != new.files:
                await self._drop(held.value.files)
            return
        raise Conflict(f"session {key} changed {TRIES} times while it was to be left once")

    async def _left(self, task: TaskRecord, attempt: int, before: SessionRecord) -> dict[str, Any]:
        """What an attempt has changed of the session. What it handed over is in the store or it is not, whatever
        its worker says; a worker that came to nothing leaves the session as it was."""
        end = task.end_of(attempt)
        assert end is not None
        seen = {"seen_at": self._clock(), "task": task.id, "worker": task.worker}
        stored = await self._artifacts.info(
            OBJECTS.handed_over(task.worker, task.id, attempt, CONVERSATION)
        )
        if stored is not None and end.agent_session and is_portable(end.agent_session):
            files = ArtifactRef(
                name=stored.name, size_bytes=stored.size_bytes, sha256=stored.sha256
            )
            counted = end.conversation.counted if end.conversation else None
            return seen | {
                "agent_session": end.agent_session, "files": files, "counted": counted,
                "turns": before.turns + 1, "lost": "",
            }  # fmt: skip
        if end.conversation is None or end.conversation.reason == "no-files":
            return {}
        why = end.conversation.detail or "its files were not handed over"
        return seen | {"agent_session": "", "files": None, "counted": None, "lost": why[:500]}

    async def _put(
        self,
        key: str,
        new: SessionRecord,
        held: Held[SessionRecord] | None,
        *,
        lasting: float = 0.0,
    ) -> None:
        """Raises Conflict: somebody else has changed it. It stays until cleaning, or as long as its files can."""
        ttl = self._kept_for + lasting
        if held is None:
            await self._sessions.create(key, new, ttl=ttl)
        else:
            await self._sessions.update(key, new, held.revision, ttl=ttl)

    async def list(self, owner: str | None = None) -> dict[str, Held[SessionRecord]]:
        """The shared sessions, of one owner's workers or of all, by key."""
        return await self._sessions.list(f"{SHARED}.{owner}." if owner else f"{SHARED}.")

    async def objects(self) -> frozenset[str]:
        """Names of the objects that the shared sessions hold."""
        held = (await self.list()).values()
        return frozenset(each.value.files.name for each in held if each.value.files is not None)

    async def forget(self, shared: SharedSession) -> bool:
        """Drop a session and its files; False when there is none.

        Raises:
            Refused: a task is in it.
        """
        held = await self._sessions.get(shared.key)
        if held is None:
            return False
        if await self._is_in_use(shared.key, held):
            holder = held.value.holder
            raise Refused(
                f"session {shared.name!r} is in use by task {holder.task if holder else '?'}",
                field="$.name",
            )
        await self.remove(shared.key, held)
        return True

    async def remove(self, key: str, held: Held[SessionRecord]) -> None:
        """Remove a session as it was seen, its files first, so that none are left that nothing names.

        Raises:
            Conflict: somebody has changed it meanwhile.
        """
        if held.value.files is not None:
            await self._artifacts.delete(held.value.files.name)
        await self._sessions.delete(key, held.revision)

    async def _drop(self, files: ArtifactRef | None) -> None:
        if files is None:
            return
        try:
            await self._artifacts.delete(files.name)
        except JetcrewError as error:  # it ages out by itself
            log.warning("conversation.not_dropped", object=files.name, error=str(error))

    def waiting_for(self, key: str) -> set[WorkerId]:
        """Workers of this process that found a session taken since this was asked last."""
        return self._waiting.pop(key, set())


def _going_on(session: SessionRecord, task: TaskRecord) -> GoingOn:
    lost = session.lost
    if task.goes_on_in not in {None, session.agent_session}:
        lost = lost or "the conversation that the answer belongs to is not in it any more"
    if lost or session.files is None:
        return GoingOn(shared=SharedConversation(lost=lost))
    return GoingOn(
        agent_session=session.agent_session,
        shared=SharedConversation(stored=True, counted=session.counted),
    )
