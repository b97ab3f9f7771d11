"""Record first, the event owed inside it.

A change of a record is one compare-and-set that carries the new state together with the events it
owes. Then the events are published, each expected to follow the record's last one, and struck off.
Whoever dies in between leaves a record that says what it owes; whoever reads it next pays. So each
transition has exactly one event, in order, whether the deduplication window is over or not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from contracts.bus.kv import Bucket
from contracts.bus.messages import MSG_ID, Expect, Held
from contracts.errors import Conflict
from contracts.events import Owed

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

EVENTS = "JC_EVT"
TRIES = 50
"""Lost races after which something other than a race is the matter."""


class Recorded(Protocol):
    """What a record has so that it can owe events."""

    @property
    def owed(self) -> list[Owed]: ...
    @property
    def evt_seq(self) -> int: ...


R = TypeVar("R", bound=Recorded)
Step = Callable[[R], R | None]
After = Callable[[R], Awaitable[R]]


async def _nothing_after(record: R) -> R:
    return record


class Records(Generic[R]):
    """The records of one bucket and the chain of events of each.

    `chain` gives the filter of a record's events. `after` is what else a change entails (idempotent); it runs
    before the events are struck off, and again if somebody died before that.
    """

    def __init__(
        self,
        bus: "Bus",
        bucket: Bucket[R],
        chain: Callable[[R], str],
        after: After[R] = _nothing_after,
    ) -> None:
        self._bus = bus
        self.bucket = bucket
        self._chain = chain
        self._after = after
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, key: str) -> Held[R] | None:
        """The record, its debts paid."""
        held = await self.bucket.get(key)
        if held is None or not held.value.owed:
            return held
        async with self._alone(key):
            return await self._current(key)

    async def create(self, key: str, record: R, *, over: int | None = None) -> R | None:
        """Make a record, or replace the finished one of revision `over`; with 0, only where none ever was, as far
        as markers tell. None when somebody was faster."""
        async with self._alone(key):
            try:
                if over is None:
                    revision = await self.bucket.create(key, record)
                else:
                    revision = await self.bucket.update(key, record, over)
            except Conflict:
                return None
            return (await self._settle(key, Held(record, revision))).value

    async def change(self, key: str, step: Step[R]) -> R | None:
        """Apply `step` to the record as it is now and publish what the new one owes.

        `step` is pure; it may be called again when somebody else changed the record meanwhile. It returns the
        new record, or None to leave things as they are.

        Returns:
            The new record, or None when there is none, or `step` wants no change.
        """
        async with self._alone(key):
            for _ in range(TRIES):
                held = await self._current(key)
                if held is None:
                    return None
                new = step(held.value)
                if new is None:
                    return None
                try:
                    revision = await self.bucket.update(key, new, held.revision)
                except Conflict:
                    continue
                return (await self._settle(key, Held(new, revision))).value
        raise Conflict(
            f"{self.bucket.name}/{key} changed {TRIES} times while it was to be changed once"
        )

    async def settle_these(self, records: Iterable[tuple[str, Held[R]]]) -> int:
        """Pay what these records owe, as after a start or after somebody died. How many owed something."""
        owing = [key for key, held in records if held.value.owed]
        for key in owing:
            await self.get(key)
        return len(owing)

    def _alone(self, key: str) -> asyncio.Lock:
        # Two of this process would publish the same event twice: the stream keeps one, but who listens
        # live hears both.
        return self._locks.setdefault(key, asyncio.Lock())

    async def _current(self, key: str) -> Held[R] | None:
        held = await self.bucket.get(key)
        return await self._settle(key, held) if held is not None else None

    async def _settle(self, key: str, held: Held[R]) -> Held[R]:
        """Publish what a record owes and strike it off."""
        for _ in range(TRIES):
            if not held.value.owed:
                return held
            seq = await self._pay(held.value)
            if seq is not None:
                paid = replace(await self._after(held.value), owed=[], evt_seq=seq)  # type: ignore[type-var]  # records are Structs
                try:
                    return Held(paid, await self.bucket.update(key, paid, held.revision))
                except Conflict:
                    pass  # somebody else struck it off
            again = await self.bucket.get(key)
            if again is None:
                return held
            held = again
        raise Conflict(f"{self.bucket.name}/{key} owes what cannot be published")

    async def _pay(self, record: R) -> int | None:
        """The sequence of the last event owed, or None when the record is older than the chain."""
        chain = self._chain(record)
        seq = record.evt_seq
        for owed in record.owed:
            subject = self._bus.subjects.event(owed.event)
            try:
                receipt = await self._bus.publish(
                    subject, owed.event, id=owed.id, expect=Expect(seq, chain)
                )
            except Conflict:
                found = await self._already(chain, owed, seq)
                if found is None:
                    return None
                seq = found
            else:
                seq = receipt.seq
        return seq

    async def _already(self, chain: str, owed: Owed, expected: int) -> int | None:
        """Where the chain goes on after a refused publish of `owed`; None: read the record again."""
        tail = await self._bus.last_matching(EVENTS, chain)
        if tail is None or tail.seq < expected:
            # the events before it have aged away: the chain begins anew
            start = tail.seq if tail else 0
            subject = self._bus.subjects.event(owed.event)
            try:
                return (
                    await self._bus.publish(
                        subject, owed.event, id=owed.id, expect=Expect(start, chain)
                    )
                ).seq
            except Conflict:
                return None
        if tail.headers.get(MSG_ID) == owed.id:
            return tail.seq
        for stored in await self._bus.page(EVENTS, chain, after=expected):
            if stored.headers.get(MSG_ID) == owed.id:
                return stored.seq
        return None
