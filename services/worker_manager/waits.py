"""Waiting for an event, but not for ever."""

import asyncio
import contextlib


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or for so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
