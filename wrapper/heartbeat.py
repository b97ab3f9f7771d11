"""Signs of life, and the end of a worker that nobody can reach."""

import asyncio
import contextlib
import time

import structlog

from contracts.errors import BusUnavailable
from wrapper.family import Family
from wrapper.report import Reports
from wrapper.state import State

log = structlog.get_logger(__name__)


async def beat(
    reports: Reports, state: State, family: Family, *, every: float, bus_grace: float
) -> None:
    """Send a heartbeat every few seconds and reap what died; ends when the worker drains.

    Raises:
        BusUnavailable: idle, and without a bus for `bus_grace` seconds.
        BusClosed: the connection is gone for good.
    """
    heard = time.monotonic()
    while True:
        if reports.bus.connected or state.current is not None:
            heard = time.monotonic()
        elif time.monotonic() - heard > bus_grace:
            raise BusUnavailable(f"no bus for {bus_grace:.0f} s")
        await reports.heartbeat(state.current.work.task if state.current else None)
        family.reap()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every):
                await reports.bus.closed.wait()
                return
