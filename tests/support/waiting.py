"""Waiting for what happens elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    probe: Callable[[], Awaitable[T] | T], expected: T, within: float = 20.0
) -> None:
    """Ask until the answer is the expected one; fail with the last answer after `within` seconds."""
    last: object = None
    try:
        async with asyncio.timeout(within):
            while True:
                answer = probe()
                last = await answer if isinstance(answer, Awaitable) else answer
                if last == expected:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"after {within} s it is {last!r}, not {expected!r}") from None
