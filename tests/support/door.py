"""Doors to the real engine, and requests that no client would send."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from contracts.events import WorkerState
from contracts.ids import NodeId, WorkerId
from contracts.worker import CreateWorker, Limits, Network, WorkerRecord
from services.worker_manager.engine_door.doors import EngineDoors
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.runtimes.profile import Names
from tests.support.engine import (
    EngineProxy,
    need_engine,
    proxied_engine,
    remove_everything_of,
)

LIMITS = Limits(memory_mb=512, cpus=1, pids=256)
IMAGES = ("debian:bookworm-slim", "python:3.*")


def record(
    worker: str,
    *,
    network: Network = "bridge",
    limits: Limits = LIMITS,
    state: WorkerState = "ready",
    **spec: Any,
) -> WorkerRecord:
    """Of a worker with the capability, as its node would have it."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkerRecord(
        name=WorkerId(worker),
        state=state,
        desired="running",
        spec=CreateWorker(
            name=worker,
            agent="shell",
            capabilities=["docker-cli"],
            network=network,
            limits=limits,
            **spec,
        ),
        requested_at=at,
        changed_at=at,
        node=NodeId("here"),
        runtime="docker",
    )


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    text: str

    @property
    def message(self) -> str:
        """Of an error."""
        return str(json.loads(self.text)["message"]) if self.text else ""


@dataclass
class DoorOf:
    """One worker's door, and what is said through it."""

    worker: str
    names: Names
    path: Path

    async def raw(self, data: bytes, *, all_of_it: bool = False) -> Said:
        """Bytes as they are; the answer that comes back for them."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError):
                    writer.write(data)
                    await writer.drain()
                with contextlib.suppress(ConnectionError):
                    answer = await reader.read()
        finally:
            writer.transport.abort()
        head, _, body = answer.partition(b"\r\n\r\n")
        words = head.split(b" ")
        text = answer if all_of_it else body
        return Said(int(words[1]) if len(words) > 1 else 0, text.decode(errors="replace"))

    async def ask(self, method: str, target: str, body: Any = None) -> Said:
        """One request, with a JSON body."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.path), verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            answer = await client.request(method, f"http://docker{target}", json=body)
        return Said(answer.status_code, answer.text)


@dataclass
class Doors:
    """The doors of one crew on the engine of this machine."""

    names: Names
    doors: EngineDoors
    directory: Path
    engine: EngineProxy

    @property
    def changes_asked(self) -> list[bytes]:
        """What the engine was asked for that is not a mere look."""
        return [line for line in self.engine.asked if not line.startswith((b"GET ", b"HEAD "))]

    async def of(self, worker: str, **given: Any) -> DoorOf:
        """A worker's door."""
        directory = self.directory / worker
        await self.doors.open(record(worker, **given), directory)
        return DoorOf(worker, self.names, directory / "docker.sock")


@contextlib.asynccontextmanager
async def opened_doors(directory: Path, images: tuple[str, ...] = IMAGES) -> AsyncIterator[Doors]:
    """Doors for workers of a crew that no other test knows; nothing of it is left."""
    need_engine()
    names = Names(f"test-{secrets.token_hex(4)}", "here")
    try:
        async with (
            proxied_engine(directory) as proxy,
            Engine(proxy.host) as engine,
            EngineDoors(engine, names, images) as doors,
        ):
            yield Doors(names, doors, directory, proxy)
    finally:
        await asyncio.to_thread(remove_everything_of, names.crew)
