"""HTTP on both sides of a door. One request a connection, so that no two can be told apart differently."""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Mapping
from typing import Any

import h11
import msgspec

from contracts.errors import EngineUnavailable
from services.worker_manager.engine_door.refusal import Refusal

HEADER_BYTES = 32_768
BODY_BYTES = 1 << 20
"""Of a body that is parsed."""
ANSWER_BYTES = 64 << 20
"""Of an engine's answer that is parsed."""
CHUNK_BYTES = 65_536
REQUEST_TIMEOUT = 60.0
"""Seconds for a worker to send the head of its request, and again for a body that is parsed."""
CONNECT_TIMEOUT = 5.0
"""Seconds for the engine to accept."""
LINGER = 2.0
"""Seconds for a worker to take in that its request is refused."""
GONE_SEEN_WITHIN = 0.5
"""Seconds until a worker that left a hijacked connection is noticed."""
_SHOWN = frozenset(
    {
        b"content-type",
        b"docker-experimental",
        b"ostype",
        b"server",
        b"x-docker-container-path-stat",
    }
)
"""Headers of an engine's answer that a worker sees."""
JSON = ("Content-Type", "application/json")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Header = tuple[str, str]


class _Side:
    """An h11 connection over a pair of streams."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], streams: Streams) -> None:
        self.reader, self.writer = streams
        self.h11 = h11.Connection(role, max_incomplete_event_size=HEADER_BYTES)

    async def event(self) -> Any:
        """The next one that the other side caused."""
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(await self.reader.read(CHUNK_BYTES))
        return event

    async def send(self, *events: Any) -> None:
        for event in events:
            if data := self.h11.send(event):
                self.writer.write(data)
        await self.writer.drain()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        while isinstance(event := await self.event(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError("the body ended early")

    async def whole(self, most: int) -> bytes:
        """The body; raises Refusal when it is longer than `most` bytes."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > most:
                raise Refusal(f"the body has more than {most:,} bytes", 413)
        return bytes(body)


class Answer(_Side):
    """What the engine answers, read as far as the body."""

    status = 0
    headers: Mapping[bytes, bytes] = {}

    async def begin(self) -> None:
        """Read status and headers."""
        event = await self.event()
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise EngineUnavailable("the container engine closed the connection")
        self.status, self.headers = event.status_code, dict(event.headers)

    @property
    def shown(self) -> list[Header]:
        """Its headers, as far as a worker sees them."""
        return [(k.decode(), v.decode()) for k, v in self.headers.items() if k in _SHOWN]

    @property
    def left_over(self) -> bytes:
        """What came after the headers of an answer that gives up HTTP."""
        return self.h11.trailing_data[0]


class EngineSocket:
    """The engine, by the address of its API."""

    def __init__(self, address: str) -> None:
        """`unix:///PATH` or `tcp://HOST:PORT`."""
        self._kind, _, self._where = address.partition("://")

    async def _connected(self) -> Streams:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if self._kind == "unix":
                    return await asyncio.open_unix_connection(self._where)
                host, _, port = self._where.rpartition(":")
                return await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(f"the container engine does not answer: {error}") from error

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        target: object,
        *,
        headers: tuple[Header, ...] = (),
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a request on a connection of its own; the answer, until the block ends.

        Raises:
            EngineUnavailable: no answer.
        """
        answer = Answer(h11.CLIENT, await self._connected())
        try:
            try:
                await _send_request(answer, method, str(target), headers, body)
                await answer.begin()
            except (OSError, h11.ProtocolError) as error:
                raise EngineUnavailable(f"the container engine does not answer: {error}") from error
            yield answer
        finally:
            answer.writer.transport.abort()

    async def json(self, method: str, target: object, body: Any = None) -> tuple[int, Any]:
        """Status and parsed body of a short answer; the body is None where there is none."""
        data = None if body is None else msgspec.json.encode(body)
        headers = (JSON,) if data is not None else ()
        async with self.ask(method, target, headers=headers, body=data) as answer:
            text = await answer.whole(ANSWER_BYTES)
        return answer.status, msgspec.json.decode(text) if text else None


async def _send_request(
    side: _Side,
    method: str,
    target: str,
    headers: tuple[Header, ...],
    body: bytes | AsyncIterator[bytes] | None,
) -> None:
    framing: tuple[Header, ...] = ()
    if isinstance(body, bytes):
        framing = (("Content-Length", str(len(body))),)
    elif body is not None:
        framing = (("Transfer-Encoding", "chunked"),)
    elif method in {"POST", "PUT"}:
        framing = (("Content-Length", "0"),)
    closing = () if any(name == "Connection" for name, _ in headers) else (("Connection", "close"),)
    request = h11.Request(
        method=method, target=target, headers=[("Host", "docker"), *headers, *framing, *closing]
    )
    await side.send(request)
    if isinstance(body, bytes):
        await side.send(h11.Data(data=body))
    elif body is not None:
        async for chunk in body:
            await side.send(h11.Data(data=chunk))
    await side.send(h11.EndOfMessage())


class Caller(_Side):
    """A worker's connection, which carries one request."""

    def __init__(self, streams: Streams) -> None:
        super().__init__(h11.SERVER, streams)
        self.method = ""
        self.target = b""
        self.upgrades = False

    async def begin(self) -> bool:
        """Read the request's head; False when the connection ends before there is one.

        Raises:
            Refusal: not one that is understood in one way only.
        """
        async with asyncio.timeout(REQUEST_TIMEOUT):
            try:
                request = await self.event()
            except h11.RemoteProtocolError as error:
                raise Refusal(f"not a request: {error}", error.error_status_hint) from error
        if not isinstance(request, h11.Request):
            return False
        names = [name for name, _ in request.headers]
        self.method, self.target = request.method.decode("ascii"), request.target
        if request.http_version != b"1.1":
            raise Refusal("HTTP/1.1 is spoken here", 505)
        if {b"content-length", b"transfer-encoding"} <= set(names) or len(names) != len(set(names)):
            raise Refusal("a header is there twice, or contradicts another one", 400)
        if b"expect" in names:
            raise Refusal("Expect is not understood here", 417)
        self.upgrades = dict(request.headers).get(b"upgrade", b"").lower() == b"tcp"
        return True

    async def json(self) -> Any:
        """The body; None where there is none. Object names that come twice count once, as they do in what is
        written from it."""
        async with asyncio.timeout(REQUEST_TIMEOUT):
            body = await self.whole(BODY_BYTES)
        try:
            return msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refusal(f"the body is not JSON: {error}", 400) from None

    async def nothing(self) -> None:
        """Read a body that has no meaning here; what it says goes no further."""
        async with asyncio.timeout(REQUEST_TIMEOUT):
            await self.whole(BODY_BYTES)

    async def answer(self, status: int, headers: list[Header], body: bytes = b"") -> None:
        """A whole answer."""
        length = [] if status in {204, 304} else [("Content-Length", str(len(body)))]
        await self._head(status, [*headers, *length])
        await self.send(h11.Data(data=body), h11.EndOfMessage())

    async def message(self, status: int, text: str) -> None:
        """An error, as the engine tells one. What is still being sent is read for a while: a connection that
        is closed over it would lose the answer."""
        await self.answer(status, [JSON], msgspec.json.encode({"message": text}))
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await self.reader.read(CHUNK_BYTES):
                    pass

    async def relay(self, answer: Answer) -> None:
        """The engine's answer, piece by piece as it comes, until it ends or the worker goes away."""
        await self._head(answer.status, answer.shown)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._relayed(answer)),
                group.create_task(self._gone()),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _gone(self) -> None:
        """Until the worker ends its side, or sends what would be a second request."""
        with contextlib.suppress(OSError):
            await self.reader.read(1)

    async def _relayed(self, answer: Answer) -> None:
        """A body that breaks off stays without its end, which tells the worker so."""
        with contextlib.suppress(OSError, h11.ProtocolError):
            async for chunk in answer.chunks():
                await self.send(h11.Data(data=chunk))
            await self.send(h11.EndOfMessage())

    async def upgrade(self, answer: Answer) -> None:
        """Give up HTTP on both sides and carry bytes, until the engine has said all."""
        upgraded = [("Connection", "Upgrade"), ("Upgrade", "tcp"), *answer.shown]
        await self.send(
            h11.InformationalResponse(status_code=101, headers=upgraded, reason=b"UPGRADED")
        )
        early = self.h11.trailing_data[0]
        self.writer.write(answer.left_over)
        answer.writer.write(early)
        async with asyncio.TaskGroup() as group:
            there = group.create_task(self._said(answer))
            back = group.create_task(_carry(answer.reader, self.writer))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in (there, back):
                task.cancel()

    async def _said(self, answer: Answer) -> None:
        """What the worker says, and its end; then until the worker is gone altogether, which bytes alone do
        not tell."""
        await _carry(self.reader, answer.writer)
        while not _hung_up(self.writer):  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(GONE_SEEN_WITHIN)

    async def _head(self, status: int, headers: list[Header]) -> None:
        await self.send(
            h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])
        )

    async def end(self) -> None:
        """Hand over what is written, then close."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self.writer.close()
                await self.writer.wait_closed()
        self.writer.transport.abort()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    if writer.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)
    return any(happened & (select.POLLHUP | select.POLLERR) for _, happened in poll.poll(0))


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry bytes until they end, and say so: the end of one's input is not the end of its output."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
