"""Key-value buckets: compare-and-set, and lists without consumers.

The client library's own KV is not used: it mistakes the markers of expired keys for values, cannot
create a key over such a marker, and leaves a consumer behind for each listing.
"""

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from contracts.bus import reads
from contracts.bus.messages import Expect, Held, Stored
from contracts.codec import decode, encode
from contracts.errors import Conflict, InvalidMessage

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

T = TypeVar("T")
PAGE = 500
EVERYTHING = ">"
"""Filter of all that a bucket's stream holds. The server counts what is left behind each batch, and with any
other filter it goes through the whole bucket for that."""
MARKED = 2_592_000.0
"""Seconds that the marker of a removed key stays; as long as the events of what bore the key, at least."""


class Bucket(Generic[T]):
    """One bucket, whose values are all of one kind."""

    def __init__(self, bus: "Bus", name: str, kind: type[T]) -> None:
        self.bus = bus
        self._kind = kind
        self.name = name
        self.stream = f"KV_{name}"

    def subject(self, key: str) -> str:
        """Where the key's value is stored."""
        return f"$KV.{self.name}.{key}"

    async def get(self, key: str) -> Held[T] | None:
        """The value, or None; as the leader has it when there is more than one replica."""
        return self.held(await reads.last(self.bus, self.stream, self.subject(key)))

    async def read(self, key: str) -> Held[T] | None:
        """The value from whichever replica answers: for showing, not for a compare-and-set."""
        return self.held(await reads.direct(self.bus, self.stream, self.subject(key)))

    def held(self, stored: Stored | None) -> Held[T] | None:
        """The value in a stored message; None of a marker.

        Raises:
            InvalidMessage: it holds another kind.
        """
        if stored is None or gone(stored):
            return None
        return Held(decode(stored.data, self._kind), stored.seq, stored.at)

    async def create(self, key: str, value: T, *, ttl: float | None = None) -> int:
        """Store a value under a key that has none; its revision.

        Raises:
            Conflict: there is one.
        """
        try:
            return await self.update(key, value, 0, ttl=ttl)
        except Conflict:
            stored = await reads.last(self.bus, self.stream, self.subject(key))
            if stored is None or not gone(stored):
                raise
            return await self.update(key, value, stored.seq, ttl=ttl)  # over a marker

    async def update(self, key: str, value: T, revision: int, *, ttl: float | None = None) -> int:
        """Replace the value that has this revision; the new revision.

        Raises:
            Conflict: it has another one.
        """
        receipt = await self.bus.publish(
            self.subject(key), encode(value), expect=Expect(revision), ttl=ttl
        )
        return receipt.seq

    async def put(self, key: str, value: T, *, ttl: float | None = None) -> int:
        """Store a value whatever was there; its revision."""
        return (await self.bus.publish(self.subject(key), encode(value), ttl=ttl)).seq

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove the key; with a revision, only if it still has that. A marker stays for `MARKED` seconds.

        Raises:
            Conflict: it has another one.
        """
        await self.bus.publish(
            self.subject(key), b"", headers={"KV-Operation": "DEL"},
            expect=None if revision is None else Expect(revision), ttl=MARKED,
        )  # fmt: skip

    async def list(self, prefix: str = "") -> dict[str, Held[T]]:
        """All keys (below `prefix`, which ends with a dot) and their values, in pages of direct gets.

        A key that changes meanwhile has its newer value; none is missed.
        """
        found: dict[str, Held[T]] = {}
        strip = len(self.subject(""))
        after = 0
        wanted = self.subject(f"{prefix}>") if prefix else EVERYTHING
        while True:
            page = await reads.page(self.bus, self.stream, wanted, after=after, limit=PAGE)
            for stored in page:
                key = stored.subject[strip:]
                found.pop(key, None)
                if (held := self.held(stored)) is not None:
                    found[key] = held
            if not page:
                return found
            after = page[-1].seq

    async def unchanged_since(self, at: datetime) -> dict[str, Held[T]]:
        """The keys that have not changed since then, and their values; no more than these are read. What does
        not decode is left out."""
        found: dict[str, Held[T]] = {}
        after = 0
        while page := await reads.page(self.bus, self.stream, EVERYTHING, after=after, limit=PAGE):
            for stored in page:
                if stored.at >= at:
                    return found
                with contextlib.suppress(InvalidMessage):
                    if (held := self.held(stored)) is not None:
                        found[stored.subject[len(self.subject("")) :]] = held
            after = page[-1].seq
        return found


def gone(stored: Stored) -> bool:
    """Whether a stored message is the marker of a deleted or expired key."""
    return (
        stored.headers.get("KV-Operation") in {"DEL", "PURGE"}
        or "Nats-Marker-Reason" in stored.headers
    )
