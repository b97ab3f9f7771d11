"""A way to the bus for workers that have no network: one unix socket each, its bytes carried to the server.

Owns the sockets and the connections through them. Knows nothing of what the bytes say: a worker's
credential, not this, decides what it may do there.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.kit.tasks import OwnsTasks
from services.worker_manager.sockets import listening

CONNECTIONS = 4
"""Open at once per worker; one more is closed as soon as it is accepted. A wrapper needs one."""
CONNECT_TIMEOUT = 5.0
"""Seconds for the server to accept."""
FLUSH_TIMEOUT = 2.0
"""Seconds to hand over the last bytes once one side has ended."""
CHUNK_BYTES = 65_536
SOCKET_NAME = "bus.sock"

log = structlog.get_logger()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class _Door:
    """One worker's socket and what goes through it."""

    worker: str
    path: Path
    server: asyncio.Server
    connections: set[asyncio.Task[None]] = field(default_factory=set)


class Forwarders(OwnsTasks):
    """The sockets of all workers on this node, as an async context.

    A dropped connection is for the client to open again: nothing is kept for it here.
    """

    def __init__(
        self, target_host: str, target_port: int, *, connections: int = CONNECTIONS
    ) -> None:
        super().__init__()
        self._target = (target_host, target_port)
        self._limit = connections
        self._doors: dict[str, _Door] = {}

    def _let_go(self) -> None:
        for worker in list(self._doors):
            self._shut(worker)

    async def open(self, worker: str, directory: Path) -> Path:
        """Listen on `bus.sock` in `directory`, which is made if it is missing and never replaced, because
        a running worker has it mounted. A socket left there by an earlier process is replaced. Opening
        twice is no error. Returns the socket's path."""
        if door := self._doors.get(worker):
            return door.path
        listener = listening(directory, SOCKET_NAME)
        server = await asyncio.start_unix_server(self._admit(worker), sock=listener)
        self._doors[worker] = _Door(worker, directory / SOCKET_NAME, server)
        return directory / SOCKET_NAME

    async def close(self, worker: str) -> None:
        """Stop listening for a worker and end its connections; its directory goes if it is empty, and so does
        the worker's own around it."""
        if (door := self._shut(worker)) is None:
            return
        door.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            door.path.parent.rmdir()
            door.path.parent.parent.rmdir()

    @property
    def connections(self) -> dict[str, int]:
        """Open connections per worker."""
        return {worker: len(door.connections) for worker, door in self._doors.items()}

    def _shut(self, worker: str) -> _Door | None:
        door = self._doors.pop(worker, None)
        if door is not None:
            door.server.close()
            for task in door.connections:
                task.cancel()
        return door

    def _admit(self, worker: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            door = self._doors.get(worker)
            if door is None or len(door.connections) >= self._limit:
                log.debug("forwarder.refused", worker=worker, limit=self._limit)
                writer.transport.abort()
                return
            task = self._group.create_task(
                self._serve(worker, (reader, writer)), name=f"forward {worker}"
            )
            door.connections.add(task)
            task.add_done_callback(door.connections.discard)

        return admit

    async def _serve(self, worker: str, near: Streams) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                far = await asyncio.open_connection(*self._target)
        except (OSError, TimeoutError) as error:
            log.debug("forwarder.target_unreachable", worker=worker, error=str(error))
            near[1].transport.abort()
            return
        except asyncio.CancelledError:
            near[1].transport.abort()
            raise
        await _carry(near, far)


async def _carry(near: Streams, far: Streams) -> None:
    """Carry bytes both ways until either side ends, then end the other."""
    writers = (near[1], far[1])
    try:
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(_pump(near[0], far[1])),
                group.create_task(_pump(far[0], near[1])),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        await _flush(writers)
    finally:
        for writer in writers:
            writer.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()


async def _flush(writers: tuple[asyncio.StreamWriter, ...]) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(FLUSH_TIMEOUT):
            for writer in writers:
                writer.close()
            for writer in writers:
                await writer.wait_closed()
