"""A scripted Anthropic Messages endpoint that a real coding agent works against.

Ready-made ones were looked at: aimock-pytest starts a Node process, fakellm and llmock bring a second
web framework; none lets a test decide each answer in Python with the request before it.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Json

    @property
    def key(self) -> str:
        """The key it was sent with, whichever header carried it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or bearer

    @property
    def said(self) -> str:
        """All text of all its messages and of its system prompt: what the model would see."""
        return "\n".join(_texts(self.body.get("system")) + _texts(self.body.get("messages")))

    @property
    def tool_results(self) -> list[Json]:
        """The tool results in its last message."""
        messages = self.body.get("messages") or [{}]
        content = messages[-1].get("content")
        blocks = content if isinstance(content, list) else []
        return [block for block in blocks if block.get("type") == "tool_result"]


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for name in ("text", "content", "input") for text in _texts(value.get(name))]
    return []


@dataclass(frozen=True)
class Says:
    """The model answers with text and ends its turn."""

    text: str


@dataclass(frozen=True)
class Uses:
    """The model calls a tool."""

    tool: str
    input: Json
    text: str = ""
    """What it says before."""


@dataclass(frozen=True)
class Fails:
    """The provider refuses or breaks."""

    status: int
    message: str = "scripted error"
    retry: bool = True
    """False adds the header that tells a client not to try again."""


@dataclass(frozen=True)
class Hangs:
    """No answer comes; the request stays open until the client or the endpoint goes."""


Step = Says | Uses | Fails | Hangs
Script = Callable[[Request], Step]


def in_order(*steps: Step) -> Script:
    """A script that gives one step for each request and repeats the last one."""
    left = list(steps)

    def script(_: Request) -> Step:
        return left.pop(0) if len(left) > 1 else left[0]

    return script


def result(status: str = "success", summary: str = "done", **data: object) -> str:
    """A `<result>` block."""
    return f"<result>{json.dumps({'status': status, 'summary': summary, 'data': data})}</result>"


@dataclass
class AnthropicEndpoint:
    """The running endpoint; its script can be replaced at any time."""

    script: Script
    port: int = 0
    host: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """For `ANTHROPIC_BASE_URL`."""
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
        if request.method != "POST" or not request.path.startswith("/v1/messages"):
            return await _send(writer, 404, "application/json", b"{}")
        if request.path.startswith("/v1/messages/count_tokens"):
            return await _send(writer, 200, "application/json", b'{"input_tokens": 10}')
        self.requests.append(request)
        step = self.script(request)
        if isinstance(step, Hangs):
            await asyncio.Event().wait()
        if isinstance(step, Fails):
            return await _fail(writer, step)
        assert isinstance(step, Says | Uses)
        if not request.body.get("stream"):
            body = json.dumps(_message(step, request)).encode()
            return await _send(writer, 200, "application/json", body)
        return await _send(writer, 200, "text/event-stream", _events(step, request))


@contextlib.asynccontextmanager
async def anthropic_endpoint(
    script: Script, *, host: str = "127.0.0.1"
) -> AsyncIterator[AnthropicEndpoint]:
    """Serve `script` on a free port of `host` (a container reaches its bridge's gateway)."""
    endpoint = AnthropicEndpoint(script, host=host)
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


_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


async def _fail(writer: asyncio.StreamWriter, step: Fails) -> None:
    kind = _ERRORS.get(step.status, "api_error")
    body = {"type": "error", "error": {"type": kind, "message": step.message}}
    extra = [] if step.retry else ["x-should-retry: false"]
    await _send(writer, step.status, "application/json", json.dumps(body).encode(), *extra)


_numbers = itertools.count(1)


def _content(step: Says | Uses) -> list[Json]:
    if isinstance(step, Says):
        return [{"type": "text", "text": step.text}]
    said = [{"type": "text", "text": step.text}] if step.text else []
    call = {
        "type": "tool_use",
        "id": f"toolu_{next(_numbers)}",
        "name": step.tool,
        "input": step.input,
    }
    return [*said, call]


def _message(step: Says | Uses, request: Request) -> Json:
    return {
        "id": f"msg_{next(_numbers)}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model", "scripted"),
        "content": _content(step),
        "stop_reason": "tool_use" if isinstance(step, Uses) else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": max(1, len(request.said) // 4), "output_tokens": 12},
    }


def _events(step: Says | Uses, request: Request) -> bytes:
    message = _message(step, request)
    content, stop = message["content"], message["stop_reason"]
    events: list[Json] = [
        {"type": "message_start", "message": message | {"content": [], "stop_reason": None}}
    ]
    for index, block in enumerate(content):
        if block["type"] == "text":
            empty, delta = (
                {"type": "text", "text": ""},
                {"type": "text_delta", "text": block["text"]},
            )
        else:
            empty = block | {"input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    end = {"stop_reason": stop, "stop_sequence": None}
    events += [
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]
    lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return "".join(lines).encode()
