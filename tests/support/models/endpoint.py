"""The endpoint: HTTP/1.1 by hand, one interface for each path."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.models import anthropic, chat, gemini, responses
from tests.support.models.interface import Interface
from tests.support.models.script import Fails, Hangs, Request, Script, Stalls

INTERFACES: tuple[Interface, ...] = (
    anthropic.INTERFACE,
    responses.INTERFACE,
    chat.INTERFACE,
    gemini.INTERFACE,
)


@dataclass
class Endpoint:
    """The running endpoint; its script can be replaced at any time."""

    script: Script
    port: int = 0
    host: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Without a path, as `ANTHROPIC_BASE_URL` wants it; OpenAI's has `/v1` after it."""
        return f"http://{self.host}:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while request := await _read(reader):
                await self._answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        interface = next((each for each in INTERFACES if each.speaks(request)), None)
        if interface is None:
            return await _send(writer, 404, "application/json", b"{}")
        if (other := interface.aside(request)) is not None:
            return await _send(writer, 200, "application/json", json.dumps(other).encode())
        self.requests.append(request)
        step = self.script(request)
        if isinstance(step, Hangs):
            await asyncio.Event().wait()
        if isinstance(step, Fails):
            body = json.dumps(interface.error(step)).encode()
            extra = [] if step.retry else ["x-should-retry: false"]
            return await _send(writer, step.status, "application/json", body, *extra)
        if isinstance(step, Stalls):
            return await _stall(writer, interface.beginning(step, request))
        assert not isinstance(step, Hangs)
        if not interface.streamed(request):
            body = json.dumps(interface.whole(step, request)).encode()
            return await _send(writer, 200, "application/json", body)
        body = interface.stream(step, request)
        return await _send(writer, 200, "text/event-stream", body)


@contextlib.asynccontextmanager
async def scripted_endpoint(script: Script, *, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
    """Serve `script` on a free port of `host` (a container reaches its bridge's gateway)."""
    endpoint = Endpoint(script, host=host)
    open_now: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            await endpoint.connected(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            open_now.discard(task)

    server = await asyncio.start_server(connected, host, 0, limit=1 << 24)
    endpoint.port = server.sockets[0].getsockname()[1]
    try:
        yield endpoint
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        await asyncio.wait(open_now | {asyncio.ensure_future(server.wait_closed())})


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, json.loads(data) if data else {})


async def _send(
    writer: asyncio.StreamWriter, status: int, kind: str, body: bytes, *extra: str
) -> None:
    head = "\r\n".join(
        [
            f"HTTP/1.1 {status} scripted",
            f"content-type: {kind}",
            f"content-length: {len(body)}",
            *extra,
        ]
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def _stall(writer: asyncio.StreamWriter, beginning: bytes) -> None:
    head = b"HTTP/1.1 200 scripted\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    writer.write(head + beginning)
    await writer.drain()
    await asyncio.Event().wait()
