"""Doors that answer: a micro service, so that `nats micro ls`, `info` and `stats` show them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, EndpointStats, ServiceConfig

from contracts.bus.messages import NO_HEADERS, Message
from contracts.errors import JetcrewError

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

Answer = tuple[bytes, Mapping[str, str]]
"""Body and headers."""
QUEUE = "api"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One door of a service."""

    name: str
    subject: str
    handle: Callable[[Message], Awaitable[Answer]]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Tally:
    answered: int = 0
    failed: int = 0
    seconds: float = 0.0


@contextlib.asynccontextmanager
async def service(
    bus: "Bus", name: str, version: str, description: str, endpoints: list[Endpoint]
) -> AsyncIterator[None]:
    """Offer the endpoints while the block lasts. Their handlers run side by side; the library alone would
    call one after the other, and count neither their time nor their errors."""
    tallies = {endpoint.name: _Tally() for endpoint in endpoints}
    answering: set[asyncio.Task[None]] = set()

    def entry(endpoint: Endpoint) -> Callable[[Request], Awaitable[None]]:
        async def enter(request: Request) -> None:
            message = request._msg  # noqa: SLF001  # the reply subject is not public
            task = asyncio.get_running_loop().create_task(
                _answer(
                    bus,
                    endpoint,
                    Message(
                        message.subject, message.data, message.headers or NO_HEADERS, message.reply
                    ),
                    tallies[endpoint.name],
                )
            )
            answering.add(task)
            task.add_done_callback(answering.discard)

        return enter

    def stats(endpoint: EndpointStats) -> dict[str, object]:
        tally = tallies[endpoint.name]
        average = tally.seconds / tally.answered if tally.answered else 0.0
        return {
            "answered": tally.answered,
            "failed": tally.failed,
            "average_ms": round(average * 1000, 3),
        }

    offered = await add_service(
        bus.client,
        ServiceConfig(name=name, version=version, description=description, stats_handler=stats),
    )
    try:
        for endpoint in endpoints:
            await offered.add_endpoint(
                EndpointConfig(
                    name=endpoint.name,
                    subject=endpoint.subject,
                    handler=entry(endpoint),
                    queue_group=QUEUE,
                    metadata=dict(endpoint.metadata),
                )
            )
        await bus.barrier()  # whoever asks after this gets an answer
        yield
    finally:
        if not bus.client.is_closed:
            with contextlib.suppress(Exception):
                await offered.stop()
        for task in list(answering):
            task.cancel()


async def _answer(bus: "Bus", endpoint: Endpoint, message: Message, tally: _Tally) -> None:
    began = time.monotonic()
    with structlog.contextvars.bound_contextvars(subject=message.subject):
        try:
            body, headers = await endpoint.handle(message)
            if message.reply:
                await bus.tell(message.reply, body, headers=headers)
            tally.failed += b'"error"' in body
        except JetcrewError as error:
            tally.failed += 1
            log.warning("door.unanswered", error=str(error))
        except Exception:
            tally.failed += 1
            log.exception("door.failed")
        finally:
            tally.answered += 1
            tally.seconds += time.monotonic() - began
