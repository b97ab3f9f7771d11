"""What comes off the bus: plain messages, stored messages, deliveries of a consumer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from contracts.bus.client import QuickClient

T = TypeVar("T")

MSG_ID = "Nats-Msg-Id"
TRACEPARENT = "traceparent"
CAUSE = "Jc-Cause"
"""Header: the id of the message that caused this one."""
ACTOR = "Jc-Actor"
"""Header: who asked, as the sender says."""

ANSWERS = "Jc-Answers"
"""Header of a prompt that is the answer to a task's question: the task's id."""

Headers = Mapping[str, str]
NO_HEADERS: Headers = {}


def header(headers: Headers, name: str) -> str | None:
    """A header's value whatever its case: clients differ in how they write it."""
    if (value := headers.get(name)) is not None:
        return value
    wanted = name.lower()
    return next((v for k, v in headers.items() if k.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a plain subscription."""

    subject: str
    data: bytes
    headers: Headers
    reply: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it."""

    subject: str
    seq: int
    data: bytes
    headers: Headers
    at: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """A stream's acknowledgement of a publish."""

    stream: str
    seq: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A value of a bucket with the revision that a compare-and-set of it needs."""

    value: T
    revision: int
    at: datetime | None = None
    """When it was stored; None of one that was stored just now."""


@dataclass(frozen=True, slots=True)
class Expect:
    """A publish goes through only if `seq` is still the last sequence of `subject` (wildcards allowed;
    None: of the subject published to)."""

    seq: int
    subject: str | None = None


@dataclass(slots=True)
class Delivery:
    """A message of a consumer, to be acknowledged, refused or postponed."""

    client: QuickClient = field(repr=False)
    subject: str
    data: bytes
    headers: Headers
    reply: str = field(repr=False)
    _parts: list[str] | None = field(default=None, repr=False)

    def _meta(self, index: int) -> str:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>
        if self._parts is None:
            self._parts = self.reply.split(".")
        return self._parts[index]

    @property
    def stream(self) -> str:
        """Name of the stream it is stored in."""
        return self._meta(2)

    @property
    def deliveries(self) -> int:
        """How often it was delivered, this time counted."""
        return int(self._meta(4))

    @property
    def seq(self) -> int:
        """Its sequence in the stream."""
        return int(self._meta(5))

    @property
    def at(self) -> datetime:
        """When it was stored."""
        return datetime.fromtimestamp(int(self._meta(7)) / 1e9, UTC)

    @property
    def id(self) -> str | None:
        """The sender's message id, if it gave one."""
        return header(self.headers, MSG_ID)

    def correlation(self) -> dict[str, str]:
        """What every line of log about it says."""
        wanted = {"id": MSG_ID, "cause": CAUSE, "traceparent": TRACEPARENT}
        found = {key: header(self.headers, name) for key, name in wanted.items()}
        return {"subject": self.subject} | {k: v for k, v in found.items() if v is not None}

    async def ack(self) -> None:
        """Done; sent without waiting. If it is lost, the message comes again."""
        await self.client.answer(self.reply)

    async def ack_sync(self, timeout: float = 5.0) -> None:
        """Done, and the server knows it.

        Raises:
            asyncio.TimeoutError: no confirmation; the message may come again.
        """
        await self.client.request(self.reply, b"+ACK", timeout=timeout)

    async def nak(self, after: float = 0.0) -> None:
        """Not done; deliver it again after `after` seconds."""
        await self.client.answer(self.reply, b'-NAK {"delay": %d}' % int(after * 1e9))

    async def term(self, reason: str) -> None:
        """Never deliver it again. A work queue forgets it at once: copy it first."""
        text = reason.replace("\r", " ").replace("\n", " ")[:200]
        await self.client.answer(self.reply, f"+TERM {text}".encode())

    async def in_progress(self) -> None:
        """Still at it: the acknowledgement's time begins anew."""
        await self.client.answer(self.reply, b"+WPI")
