"""Following a subject of a stream: all of it, in order, once, and soon.

What is stored is read in pages by sequence, without a consumer. Live messages only say that there is
something new to read, so one that is lost costs a moment and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from contracts.bus import Bus, Stored
from contracts.errors import BusUnavailable

LOOK_ANYWAY = 2.0
"""Seconds after which the stream is read though nothing said that it grew."""
PAGE = 500

Take = Callable[[Sequence[Stored]], Awaitable[None]]


async def follow(
    bus: Bus, stream: str, subject: str, take: Take, *, after: int, finished: asyncio.Event
) -> int:
    """Hand pages of messages above `after` to `take`, until `finished` is set and all that was stored by
    then has been handed over. The last sequence that was.

    A server that is away is waited for. What `take` raises ends it.
    """
    wake = asyncio.Event()
    bus.on_reconnect(wake.set)
    async with asyncio.TaskGroup() as group, bus.listen(subject) as messages:

        async def listen() -> None:
            async for _ in messages:
                wake.set()

        async def watch_end() -> None:
            await finished.wait()
            wake.set()

        helpers = [group.create_task(listen()), group.create_task(watch_end())]
        try:
            while True:
                last = finished.is_set()
                wake.clear()
                after, complete = await _read_on(bus, stream, subject, take, after)
                if last and complete:
                    return after
                await _nap(wake)
        finally:
            for helper in helpers:
                helper.cancel()


async def _read_on(bus: Bus, stream: str, subject: str, take: Take, after: int) -> tuple[int, bool]:
    """All there is; the last sequence, and whether the end was reached."""
    while True:
        try:
            page = await bus.page(stream, subject, after=after, limit=PAGE)
        except BusUnavailable:
            return after, False
        if not page:
            return after, True
        await take(page)
        after = page[-1].seq


async def _nap(wake: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_ANYWAY):
            await wake.wait()
    except TimeoutError:
        return


async def last_sequence(bus: Bus, stream: str, subject: str) -> int:
    """Of the newest message of a subject, wildcards allowed; 0 when there is none."""
    stored = await bus.last_matching(stream, subject)
    return 0 if stored is None else stored.seq
