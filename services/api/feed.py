"""Following a stream: server-sent events that can be resumed, from direct gets and wake-ups.

Live messages do not tell their place in the stream, so they only say that there is something to
read; what is sent is read from the stream by sequence. That makes it whole and in order whatever
happens to wake-ups, to the server or to a client.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from weakref import WeakValueDictionary

import structlog

from contracts.bus import Bus, Stored
from contracts.errors import BusClosed, BusUnavailable
from services.api.problems import TooManyStreams
from services.api.reading import Reader

log = structlog.get_logger(__name__)

Frame = Callable[[Stored], bytes | None]
"""A stored message as a server-sent event, or None when it is not to be shown."""

PAGE = 50
"""Messages read at once: all that a client which does not read can make the process keep."""
POLL = 5.0
"""Seconds after which a follower looks by itself, whether woken or not."""
KEEP_ALIVE = 15.0
"""Seconds without a message after which a comment is sent."""
GATHER = 0.02
"""Seconds from a wake-up to the read, so that one read serves a burst."""
MOST_FOLLOWERS = 256
"""Clients that may follow one stream at a time."""
EVERYTHING = ""
"""The key of a follower whom every message concerns."""


class Page:
    """What follows a place in a stream, read once for all who stand there.

    Followers that have seen everything stand in the same place, so that however many they are, a new
    message is read once and encoded once.
    """

    def __init__(self, reader: Reader, stream: str, subject: str, frame: Frame) -> None:
        self._reader, self._stream, self._subject, self._frame = reader, stream, subject, frame
        self._reading = asyncio.Lock()
        self._reads = 0
        self._after = -1
        self._last: int | None = None
        self._chunk = b""

    async def after(self, seq: int) -> tuple[int | None, bytes]:
        """The sequence of the last message read after `seq`, None if there is none, and all of them encoded.

        Raises:
            BusUnavailable: the bus does not answer in time.
        """
        asked = self._reads
        async with self._reading:
            # what was there stays there; that nothing was there counts only if it was read after we asked
            if self._after != seq or (self._last is None and self._reads <= asked):
                self._reads += 1
                self._after = -1
                page = await self._reader.page(self._stream, self._subject, seq, PAGE)
                self._last = page[-1].seq if page else None
                self._chunk = b"".join(filter(None, map(self._frame, page)))
                self._after = seq
            return self._last, self._chunk

    def forget(self) -> None:
        """Read anew: what was there may be gone with a server's disk."""
        self._after = -1


class Feed:
    """The followers of one stream; owns the subscription that wakes them."""

    def __init__(self, bus: Bus, reader: Reader, stream: str) -> None:
        self.stream = stream
        self._bus = bus
        self._reader = reader
        [self._live] = next(s.subjects for s in bus.topology.streams if s.name == stream)
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._pages: WeakValueDictionary[str, Page] = WeakValueDictionary()
        self.followers = 0
        """How many follow at this moment."""
        self._wanted = asyncio.Event()
        self._ended = False
        self._connections = 0
        bus.on_reconnect(self._reconnected)

    async def run(self, stop: asyncio.Event) -> None:
        """Wake followers until `stop`, then have them end."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(), name=f"listen {self.stream}")
            await stop.wait()
            self._ended = True
            self._wake_all()
            while not listening.done():  # the client library can lose a cancellation: say it again
                listening.cancel()
                await asyncio.wait({listening}, timeout=0.05)

    def check_room(self) -> None:
        """Whether one more may follow.

        Raises:
            TooManyStreams: no.
        """
        if self.followers >= MOST_FOLLOWERS:
            raise TooManyStreams(f"{self.followers} clients follow {self.stream} already")

    async def follow(
        self, subject: str, *, key: str, after: int, frame: Frame
    ) -> AsyncGenerator[bytes, None]:
        """The messages of `subject` after a sequence, then those to come, for as long as it is iterated.

        `key` is a token of the subjects that concern this follower; a subject always has the same `frame`.
        A server that is away is waited for; the generator ends with the process, or with the connection's
        end for good.
        """
        self.followers += 1
        self._wanted.set()
        try:
            yield b"retry: 1000\n\n"
            connection, spoke = -1, time.monotonic()
            page = self._pages.setdefault(subject, Page(self._reader, self.stream, subject, frame))
            while not self._ended and not self._bus.closed.is_set():
                woken = self._waiting.setdefault(key, asyncio.Event())
                current = self._connections
                try:
                    if connection != current:
                        # what a crash took away is not waited for
                        after = min(after, await self._reader.last_seq(self.stream))
                        connection = current
                    last, chunk = await page.after(after)
                except (BusUnavailable, BusClosed):
                    last, chunk = None, b""
                if last is not None:
                    after = last
                    if chunk:
                        yield chunk
                        spoke = time.monotonic()
                    continue
                if time.monotonic() - spoke >= KEEP_ALIVE:
                    yield b": still here\n\n"
                    spoke = time.monotonic()
                await _wait(woken)
        finally:
            self.followers -= 1
            if not self.followers:
                self._wanted.clear()

    async def _listen(self) -> None:
        """One subscription for all followers, while there are any."""
        while not self._bus.closed.is_set():
            await self._wanted.wait()
            try:
                async with self._bus.listen(self._live) as messages:
                    self._wake_all()
                    async for message in messages:
                        self._wake(EVERYTHING, *message.subject.split("."))
                        if not self._wanted.is_set():
                            break
            except BusUnavailable as error:
                log.warning("feed.unavailable", stream=self.stream, error=str(error))
                await asyncio.sleep(1)
            except BusClosed:
                return

    def _reconnected(self) -> None:
        self._connections += 1
        for page in list(self._pages.values()):
            page.forget()
        self._wake_all()

    def _wake_all(self) -> None:
        self._wake(*list(self._waiting.keys()))

    def _wake(self, *keys: str) -> None:
        for key in keys:
            if (woken := self._waiting.pop(key, None)) is not None:
                woken.set()


async def _wait(woken: asyncio.Event) -> None:
    """Until woken, or for `POLL` seconds."""
    try:
        async with asyncio.timeout(POLL):
            await woken.wait()
    except TimeoutError:
        return
    await asyncio.sleep(GATHER)
