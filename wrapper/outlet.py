"""The agent's output on its way out: decoded, redacted, in pieces, within its budget."""

import asyncio
import codecs
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.redaction import RedactedStream, Secrets
from contracts.reports import Output
from wrapper.process import StreamName

PIECE = 32_768
"""Bytes of text in one message."""
FLUSH_AFTER = 0.05
"""Seconds that output waits for more of it."""
WAITING = 4_194_304
"""Bytes that may wait while the bus is away; what comes on top is dropped and counted."""

_STREAMS: tuple[StreamName, ...] = ("stdout", "stderr")

Publish = Callable[[Output], Awaitable[None]]


class Outlet:
    """Takes output as it comes and publishes it from a task of its own, in order, numbered from 1."""

    def __init__(self, publish: Publish, secrets: Secrets, *, run: str, budget: int) -> None:
        self._publish = publish
        self._run = run
        self._budget = budget
        self._began = time.monotonic()
        self._decoders = {name: _decoder() for name in _STREAMS}
        self._redacted = {name: RedactedStream(secrets) for name in _STREAMS}
        self._waiting: deque[_Text] = deque()
        self._waiting_bytes = 0
        self._some = asyncio.Event()
        self._much = asyncio.Event()
        self._closed = False
        self._full = False
        self._gap = False
        self._n = 0
        self.accepted_bytes = 0
        """Bytes published, or on their way."""
        self.dropped_bytes = 0
        """Bytes beyond the budget, or beyond what may wait."""

    def feed(self, stream: StreamName, data: bytes) -> None:
        """Take what the agent wrote; a character may be cut in two."""
        if self._full:
            self.dropped_bytes += len(data)
            return
        self._put(stream, self._redacted[stream].feed(self._decoders[stream].decode(data)))

    def close(self) -> None:
        """Nothing more comes; `pump` ends once all is published."""
        for stream in _STREAMS:
            redacted = self._redacted[stream]
            rest = redacted.feed(self._decoders[stream].decode(b"", final=True)) + redacted.close()
            self._put(stream, rest)
        self._closed = True
        self._some.set()
        self._much.set()

    def give_up(self) -> None:
        """Drop what waits: nobody takes it."""
        self.dropped_bytes += self._waiting_bytes
        self.accepted_bytes -= self._waiting_bytes
        self._waiting.clear()
        self._waiting_bytes = 0

    def _put(self, stream: StreamName, text: str) -> None:
        for piece in pieces(text):
            size = len(piece.encode())
            room = self._budget - self.accepted_bytes
            if self._full or size > room:
                piece = "" if self._full else next(iter(pieces(piece, room)), "")
                self._full = True
                self.dropped_bytes += size - len(piece.encode())
                size = len(piece.encode())
            if not size:
                continue
            if self._waiting_bytes + size > WAITING:
                self.dropped_bytes += size
                self._gap = True
                continue
            self.accepted_bytes += size
            self._waiting_bytes += size
            self._waiting.append(_Text(stream, piece, size, self._gap))
            self._gap = False
            self._some.set()
            if self._waiting_bytes >= PIECE:
                self._much.set()

    async def pump(self) -> None:
        """Publish until closed and empty."""
        while not (self._closed and not self._waiting):
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_AFTER):
                    await self._much.wait()
            while self._waiting:
                await self._publish(self._next())
            if not self._closed:
                self._some.clear()
                self._much.clear()

    def _next(self) -> Output:
        """The oldest text, with as much of the same stream behind it as fits into a piece."""
        first = self._waiting.popleft()
        texts, size = [first.text], first.size
        while self._waiting:
            then = self._waiting[0]
            if then.stream != first.stream or then.after_gap or size + then.size > PIECE:
                break
            texts.append(self._waiting.popleft().text)
            size += then.size
        self._waiting_bytes -= size
        self._n += 2 if first.after_gap else 1
        at = round(time.monotonic() - self._began, 3)
        return Output(run=self._run, n=self._n, stream=first.stream, text="".join(texts), at=at)


@dataclass(frozen=True)
class _Text:
    stream: StreamName
    text: str
    size: int
    after_gap: bool
    """Whether text was dropped before it: the numbering shows that."""


def pieces(text: str, limit: int = PIECE) -> list[str]:
    """`text` cut into pieces of at most `limit` bytes, between characters; ends before one that does not
    fit at all."""
    data = text.encode("utf-8", "replace")
    found: list[str] = []
    at = 0
    while at < len(data):
        end = min(at + limit, len(data))
        while at < end < len(data) and data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        if end == at:
            break
        found.append(data[at:end].decode())
        at = end
    return found


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")
