"""The connection: reconnects for ever, notices its own death, and offers all that the rest of the bus needs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    NoRespondersError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from contracts.bus import reads
from contracts.bus.consume import Consumption, Handle, Key
from contracts.bus.kv import Bucket
from contracts.bus.line import Line
from contracts.bus.messages import MSG_ID, NO_HEADERS, Expect, Headers, Message, Receipt, Stored
from contracts.bus.publish import check_size, receipt_of
from contracts.bus.pull import Pull
from contracts.codec import decode, encode
from contracts.errors import BusClosed, BusUnavailable
from contracts.ids import nonce
from contracts.topology import Consumer, Subjects, Topology

log = structlog.get_logger(__name__)
T = TypeVar("T")
Body = Struct | bytes
Serve = Callable[[Message], Awaitable[Body | None]]

TRY = 5.0
"""Seconds that one attempt of a publish waits for its acknowledgement."""


class Bus:
    """A connection to JetStream under one topology. Made by `connect`."""

    def __init__(self, url: str, topology: Topology, line: Line) -> None:
        self.url = url
        self.topology = topology
        self.client = line.client
        self.closed = line.closed
        """Set when the connection ended for good: credential expired or revoked, or refused."""
        self._line = line
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def subjects(self) -> Subjects:
        """The subjects of this bus."""
        return self.topology.subjects

    @property
    def connected(self) -> bool:
        """Whether a server is there right now."""
        return self.client.is_connected

    def why_closed(self) -> str:
        """A sentence on why the connection ended."""
        return self._line.why_closed()

    def on_reconnect(self, call: Callable[[], None]) -> None:
        """Have `call` called after each reconnect: what was watched may have changed meanwhile."""
        self._line.on_reconnect.append(call)

    # -- publishing -------------------------------------------------------------------------------

    async def publish(
        self, subject: str, message: Body, *, id: str | None = None, headers: Headers | None = None,  # noqa: A002  # the field's own name
        expect: Expect | None = None, ttl: float | None = None, budget: float = 30.0,
    ) -> Receipt:  # fmt: skip
        """Store a message, with retries under one message id until `budget` seconds are over.

        Raises:
            TooLarge: headers and body exceed what the server takes; nothing was sent.
            QueueFull: the stream, or this subject in it, has as much as it may.
            Conflict: `expect` does not hold any more.
            BusUnavailable: no acknowledgement in time; it may be stored nevertheless.
            BusClosed: the connection is gone for good.
        """
        body = message if isinstance(message, bytes) else encode(message)
        given = dict(headers) if headers else {}
        given[MSG_ID] = id if id is not None else nonce()
        if expect is not None:
            given["Nats-Expected-Last-Subject-Sequence"] = str(expect.seq)
            if expect.subject is not None:
                given["Nats-Expected-Last-Subject-Sequence-Subject"] = expect.subject
        if ttl is not None:
            given["Nats-TTL"] = f"{max(1000, round(ttl * 1000))}ms"
        check_size(subject, body, given, self.client.max_payload)
        until = time.monotonic() + budget
        while True:
            try:
                answer = await self.client.request(
                    subject,
                    body,
                    timeout=max(0.05, min(TRY, until - time.monotonic())),
                    headers=dict(given),
                )
            except ConnectionClosedError:
                raise BusClosed(self._line.why_closed()) from None
            except (
                TimeoutError,
                NoRespondersError,
                OutboundBufferLimitError,
                ConnectionDrainingError,
            ) as error:
                problem = _said(error, subject)
            else:
                receipt, problem = receipt_of(answer.data, subject, len(body))
                if receipt is not None:
                    return receipt
            if time.monotonic() + 0.25 >= until:
                raise BusUnavailable(problem)
            await asyncio.sleep(0.25)

    async def tell(
        self, subject: str, message: Body, *, headers: Headers | None = None, reply: str = ""
    ) -> None:
        """Send a plain message: not stored, not retried, lost when nobody listens.

        Raises:
            TooLarge: headers and body exceed what the server takes; nothing was sent.
            BusUnavailable: there is no connection and the buffer is full.
            BusClosed: the connection is gone for good.
        """
        body = message if isinstance(message, bytes) else encode(message)
        check_size(subject, body, headers or NO_HEADERS, self.client.max_payload)
        try:
            await self.client.publish(
                subject, body, reply=reply, headers=dict(headers) if headers else None
            )
        except ConnectionClosedError:
            raise BusClosed(self._line.why_closed()) from None
        except NatsError as error:
            raise BusUnavailable(_said(error, subject)) from None

    async def request(
        self, subject: str, message: Body, *, headers: Headers | None = None, timeout: float = 5.0
    ) -> Message:
        """Send a plain message and wait for its answer.

        Raises:
            TooLarge, BusUnavailable, BusClosed: as for `tell`; also when nobody answers within `timeout` seconds.
        """
        body = message if isinstance(message, bytes) else encode(message)
        check_size(subject, body, headers or NO_HEADERS, self.client.max_payload)
        try:
            answer = await self.client.request(
                subject, body, timeout=timeout, headers=dict(headers) if headers else None
            )
        except ConnectionClosedError:
            raise BusClosed(self._line.why_closed()) from None
        except (TimeoutError, NatsError) as error:
            raise BusUnavailable(_said(error, subject)) from None
        return _message(answer)

    async def ask(
        self, subject: str, message: Body, kind: type[T], *,
        headers: Headers | None = None, timeout: float = 5.0,
    ) -> T:  # fmt: skip
        """Send a plain message; the answer, decoded.

        Raises:
            BusUnavailable: nobody answers within `timeout` seconds.
            InvalidMessage: the answer is not a `kind`.
        """
        answer = await self.request(subject, message, headers=headers, timeout=timeout)
        return decode(answer.data, kind)

    # -- listening --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def listen(self, subject: str) -> AsyncIterator[AsyncIterator[Message]]:
        """The messages of a plain subscription, for as long as the block lasts; ends with the connection."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()

        async def take(message: Msg) -> None:
            queue.put_nowait(_message(message))

        async def messages() -> AsyncIterator[Message]:
            while (message := await queue.get()) is not None:
                yield message

        async with self._subscribed(subject, take):
            closing = asyncio.get_running_loop().create_task(self._at_close(queue))
            try:
                yield messages()
            finally:
                closing.cancel()

    async def _at_close(self, queue: "asyncio.Queue[Message | None]") -> None:
        await self.closed.wait()
        queue.put_nowait(None)

    @contextlib.asynccontextmanager
    async def serve(self, subject: str, handle: Serve, *, queue: str = "") -> AsyncIterator[None]:
        """Answer requests while the block lasts. Handlers run side by side; one that raises is logged and
        gives no answer."""

        async def take(message: Msg) -> None:
            task = asyncio.get_running_loop().create_task(self._answer(message, handle))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        async with self._subscribed(subject, take, queue=queue):
            yield

    async def _answer(self, message: Msg, handle: Serve) -> None:
        with structlog.contextvars.bound_contextvars(subject=message.subject):
            try:
                answer = await handle(_message(message))
                if answer is not None and message.reply:
                    await self.tell(message.reply, answer)
            except Exception:
                log.exception("request.failed")

    @contextlib.asynccontextmanager
    async def _subscribed(
        self, subject: str, take: Callable[[Msg], Awaitable[None]], *, queue: str = ""
    ) -> AsyncIterator[None]:
        try:
            subscription = await self.client.subscribe(subject, queue=queue, cb=take)
            await self.barrier()
        except ConnectionClosedError:
            raise BusClosed(self._line.why_closed()) from None
        except (TimeoutError, NatsError) as error:
            raise BusUnavailable(_said(error, subject)) from None
        try:
            yield
        finally:
            if not self.client.is_closed:
                with contextlib.suppress(NatsError):
                    await subscription.unsubscribe()

    async def barrier(self) -> None:
        """Return when the server has all that was sent before. One flush is none: the client library may
        write its PING ahead of what it has buffered, but not ahead of what the first flush waited for."""
        await self.client.flush(timeout=10)
        await self.client.flush(timeout=10)

    # -- consuming --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def pull(
        self, consumer: Consumer, *, stop: asyncio.Event, batch: int = 1
    ) -> AsyncIterator[Pull]:
        """The deliveries of a durable consumer, to iterate over; ends after `stop`.

        Raises (from the iteration):
            BusClosed, ConsumerGone
        """
        pull = Pull(self.client, consumer.stream, consumer.name, batch=batch, stop=stop)
        self._line.on_reconnect.append(pull.kick)
        try:
            async with pull.opened():
                yield pull
        finally:
            self._line.on_reconnect.remove(pull.kick)

    async def consume(
        self, consumer: Consumer, handle: Handle, *, stop: asyncio.Event,
        concurrency: int = 1, key: Key | None = None, confirm: bool = True, batch: int | None = None,
    ) -> None:  # fmt: skip
        """Handle a consumer's messages until `stop`; see contracts.bus.consume for what a handler's end means.

        `confirm=False` acknowledges without waiting for the server: for handlers that do no harm when the
        same message comes again. `batch` is how many messages may be under way; as many as are handled at
        once, unless given.
        """
        await Consumption(
            self,
            consumer,
            handle,
            stop=stop,
            concurrency=concurrency,
            key=key,
            confirm=confirm,
            batch=batch or concurrency,
        ).run()

    # -- reading ----------------------------------------------------------------------------------

    def bucket(self, name: str, kind: type[T]) -> Bucket[T]:
        """A key-value bucket whose values are of one kind."""
        return Bucket(self, name, kind)

    async def page(
        self, stream: str, subject: str, *, after: int = 0, limit: int = 500
    ) -> list[Stored]:
        """Up to `limit` messages of `subject` (wildcards allowed) with sequences above `after`, oldest first."""
        return await reads.page(self, stream, subject, after=after, limit=limit)

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject, without wildcards."""
        return await reads.last(self, stream, subject)

    async def last_matching(self, stream: str, subject: str) -> Stored | None:
        """The last message of a subject, wildcards allowed, as the stream's leader has it."""
        return await reads.last_matching(self, stream, subject)

    async def at(self, stream: str, seq: int) -> Stored | None:
        """The message at a sequence."""
        return await reads.at(self, stream, seq)

    async def api(
        self, verb: str, request: dict[str, Any] | None = None, *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Call JetStream's own interface; see contracts.bus.reads.api."""
        return await reads.api(self, verb, request, timeout=timeout)

    async def delete_message(self, stream: str, seq: int) -> bool:
        """Take a message from its stream; False when it was not there."""
        return await reads.delete_message(self, stream, seq)

    async def purge(self, stream: str, subject: str) -> int:
        """Take all messages of a subject from a stream; how many there were."""
        answer = await self.api(f"STREAM.PURGE.{stream}", {"filter": subject})
        return int(answer.get("purged", 0))

    # -- life -------------------------------------------------------------------------------------

    async def renewed_credentials(self) -> None:
        """Reconnect with the credentials file as it is now; open work goes on."""
        await self.client.force_reconnect()

    async def _end(self) -> None:
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)


@contextlib.asynccontextmanager
async def connect(
    url: str, *, name: str, creds: Path | None = None, inbox_prefix: str = "_INBOX",
    topology: Topology | None = None, patience: float | None = None,
) -> AsyncIterator[Bus]:  # fmt: skip
    """A bus for as long as the block lasts. It reconnects for ever once connected.

    `creds` is read anew at each connect; `patience` is how many seconds to wait for the first one, None
    for ever.

    Raises:
        BusUnavailable: no server within `patience`.
        Denied: the server does not take the credentials.
    """
    options: dict[str, Any] = {"name": name, "inbox_prefix": inbox_prefix}
    if creds is not None:
        options["user_credentials"] = str(creds)
    line = Line()
    bus = Bus(url, topology or Topology(), line)
    try:
        await line.open(url, options, patience)
        yield bus
    finally:
        await bus._end()  # noqa: SLF001  # this function is the other half of the class
        await line.close()


def _message(message: Msg) -> Message:
    return Message(message.subject, message.data, message.headers or NO_HEADERS, message.reply)


def _said(error: Exception, subject: str) -> str:
    if isinstance(error, NoRespondersError):
        return f"nobody answers on {subject}"
    if isinstance(error, TimeoutError):
        return f"no answer from {subject} in time"
    return f"{subject}: {str(error) or type(error).__name__}"
