"""The HTTP API on a real server, in this process, and records for it to show."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from contracts.bus import Bus, connect
from contracts.events import TaskProgressed, TaskState, WorkerState
from contracts.ids import NodeId, TaskId, WorkerId
from contracts.image import ImageRecord
from contracts.task import TaskRecord
from contracts.topology import Topology
from contracts.worker import CreateWorker, WorkerRecord
from services.api.app import Api
from services.api.server import bind, serve_http, url_of
from services.api.settings import HttpSettings
from tests.support.servers import Server

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class RunningApi:
    """One API and a client of it."""

    api: Api
    client: httpx.AsyncClient
    url: str


@asynccontextmanager
async def running_api(server: Server, *, token: str | None = None) -> AsyncIterator[RunningApi]:
    """The API with its own credential, on a free port."""
    settings = HttpSettings(token=None if token is None else SecretStr(token))
    async with connect(
        server.url,
        name="api",
        creds=server.creds("api"),
        inbox_prefix="_INBOX.api",
        topology=Topology(),
        patience=10,
    ) as bus:
        api, stop = Api(bus, token), asyncio.Event()
        with bind(settings) as listener:
            listener.listen()
            url = url_of(listener)
            async with asyncio.TaskGroup() as group:
                group.create_task(serve_http(api.asgi, listener, stop))
                group.create_task(api.events.run(stop))
                group.create_task(api.output.run(stop))
                try:
                    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                        yield RunningApi(api, client, url)
                finally:
                    stop.set()


def worker(
    name: str,
    *,
    state: WorkerState = "ready",
    agent: str = "claude",
    labels: dict[str, str] | None = None,
) -> WorkerRecord:
    """A record as the manager writes it."""
    return WorkerRecord(
        name=WorkerId(name),
        state=state,
        desired="running",
        spec=CreateWorker(name=name, agent=agent, labels=labels or {}),
        requested_at=EPOCH,
        changed_at=EPOCH,
    )


def task(number: int, *, on: str = "ada", state: TaskState = "queued") -> TaskRecord:
    """The task `t<number>`, submitted that many seconds after the others."""
    at = EPOCH + timedelta(seconds=number)
    return TaskRecord(
        id=TaskId(f"t{number}"), worker=WorkerId(on), state=state, submitted_at=at, changed_at=at
    )


def image(digest: str, *, node: str = "here", agent: str = "claude") -> ImageRecord:
    """A worker image as its node records it."""
    return ImageRecord(
        image=digest,
        node=NodeId(node),
        tag=f"jetcrew/worker:{digest}",
        agent=agent,
        built_at=EPOCH,
        last_used_at=EPOCH,
    )


def progress(number: int, *, on: str = "ada", of: str = "t1") -> TaskProgressed:
    """An event that can be told from others."""
    return TaskProgressed(
        at=EPOCH, worker=WorkerId(on), task=TaskId(of), kind="text", text=f"step {number}"
    )


async def tell(bus: Bus, *events: TaskProgressed) -> None:
    """Publish events, in order."""
    for event in events:
        await bus.publish(bus.subjects.event(event), event)


async def side_by_side(*jobs: Awaitable[object]) -> None:
    """Wait for all of them, a hundred at a time."""
    waiting = list(jobs)

    async def one(job: Awaitable[object]) -> None:
        await job

    while waiting:
        now, waiting = waiting[:100], waiting[100:]
        async with asyncio.TaskGroup() as group:
            for job in now:
                group.create_task(one(job))


@dataclass
class Sent:
    """A server-sent event."""

    id: int
    data: dict[str, Any]


async def sent_events(response: httpx.Response) -> AsyncIterator[Sent]:
    """The events of a stream, as a browser would take them."""
    seq, data = 0, ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield Sent(seq, json.loads(data))
            data = ""
