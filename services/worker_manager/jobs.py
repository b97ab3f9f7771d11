"""What a worker manager does all the time, as jobs: what arrives on the bus is handled, workers are kept."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from contracts.bus import Bus, Delivery, move_exhausted
from contracts.ids import WorkerId
from contracts.topology import Consumer
from services.kit.serve import Job
from services.worker_manager.commands import Commands, about
from services.worker_manager.intake import Intake
from services.worker_manager.node import Node
from services.worker_manager.nodes import Overseer, Presence
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.testimony import Testimony
from services.worker_manager.watch import Watch

AT_ONCE = 64
"""Messages of one consumer that are handled side by side."""


def keeping(around: Surroundings, node: Node, presence: Presence) -> dict[str, Job]:
    """The jobs that keep this node's workers, and look after those of nodes that are gone."""
    return {
        "presence": presence.run,
        "nodes": Overseer(around).run,
        "node": node.run,
        "exits": node.watch_exits,
        "changes": Watch(node, around.crew).run,
        "warm containers": around.warm.run,
    }


def consuming(bus: Bus, commands: Commands, intake: Intake, testimony: Testimony) -> dict[str, Job]:
    """The jobs that handle what arrives in streams."""
    consumers = {(c.stream, c.name): c for c in bus.topology.consumers}
    return {
        "commands": _consume(bus, consumers["JC_CMD", "mgr"], commands.handle, about),
        "tasks": _consume(bus, consumers["JC_TASK", "mgr"], intake.handle, _token(-1)),
        "reports": _consume(bus, consumers["JC_REP", "rec"], testimony.report, _token(2)),
        "dead letters": _dead_letters(bus, consumers["JC_ADV", "dlq"]),
    }


@contextlib.asynccontextmanager
async def answering(bus: Bus, testimony: Testimony) -> AsyncIterator[None]:
    """Answer what workers ask, and hear their heartbeats, while the block lasts."""
    subjects = bus.subjects
    async with (
        bus.serve(subjects.ask("*", "task.start"), testimony.start, queue="mgr"),
        bus.serve(subjects.ask("*", "credential"), testimony.credential, queue="mgr"),
        bus.serve(subjects.heartbeat(WorkerId("*")), testimony.beat),
    ):
        yield


def _consume(
    bus: Bus,
    consumer: Consumer,
    handle: Callable[[Delivery], Awaitable[None]],
    key: Callable[[Delivery], str],
) -> Job:
    """A job that handles a consumer's messages, those of one worker or task one after the other."""

    async def job(stop: asyncio.Event) -> None:
        await bus.consume(consumer, handle, stop=stop, concurrency=AT_ONCE, key=key)

    return job


def _token(index: int) -> Callable[[Delivery], str]:
    return lambda delivery: delivery.subject.split(".")[index]


def _dead_letters(bus: Bus, consumer: Consumer) -> Job:
    async def job(stop: asyncio.Event) -> None:
        await bus.consume(consumer, lambda d: move_exhausted(bus, d), stop=stop)

    return job
