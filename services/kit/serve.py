"""A process as a set of jobs: all run, or the process ends."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

import structlog

from contracts.bus import Bus
from contracts.errors import BusClosed, JetcrewError

log = structlog.get_logger()

Job = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set, then returns. Raising, or returning earlier, ends the process."""


class JobEnded(JetcrewError):
    """A job returned although nobody asked it to."""


async def serve(jobs: dict[str, Job], *, grace: float = 20.0) -> None:
    """Run the jobs until SIGTERM or SIGINT, then ask them to end; after `grace` seconds they are cancelled.

    Raises:
        JobEnded: a job returned early. Or whatever a job raised, the others having been asked to end.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = {loop.create_task(_run(name, job, stop), name=name) for name, job in jobs.items()}
    asked = loop.create_task(stop.wait())
    try:
        await asyncio.wait({asked, *running}, return_when="FIRST_COMPLETED")
        stop.set()
        _, late = await asyncio.wait(running, timeout=grace)
        for task in late:
            log.warning("job.cancelled", job=task.get_name(), grace=grace)
            task.cancel()
        if late:
            await asyncio.wait(late)
    finally:
        asked.cancel()
        for task in running:
            task.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)
    for task in running:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _run(name: str, job: Job, stop: asyncio.Event) -> None:
    await job(stop)
    if not stop.is_set():
        raise JobEnded(f"job {name!r} ended although nobody asked it to")


def until_closed(bus: Bus) -> Job:
    """A job that raises `BusClosed` when the connection has ended for good: nothing opens it again."""

    async def job(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(event.wait()) for event in (bus.closed, stop)]
            await asyncio.wait(waits, return_when="FIRST_COMPLETED")
            for wait in waits:
                wait.cancel()
        if bus.closed.is_set() and not stop.is_set():
            raise BusClosed(bus.why_closed())

    return job
