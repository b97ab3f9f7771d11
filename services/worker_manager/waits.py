"""Waiting: for an event, but not for ever; for several things at once."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or for so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def together(*steps: Coroutine[Any, Any, None]) -> None:
    """Take steps that do not need each other side by side. The first that fails ends the others, and its error
    is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
