"""The way to the bus: a client library that speaks TCP, and a server behind a unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

PIECE = 65_536
"""Bytes passed on at once; the slower side slows the faster one."""


@contextlib.asynccontextmanager
async def reachable(bus: str) -> AsyncIterator[str]:
    """A URL that a client can connect to for as long as the block lasts.

    For `unix:PATH` that is a port of our own loopback whose bytes go to the socket and back; a connection
    that cannot be passed on is closed, which the client sees as a server that is down.
    """
    path = bus.removeprefix("unix:")
    if path == bus:
        yield bus
        return
    passing: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        passing.add(task)
        try:
            await _pass_on(path, reader, writer)
        except asyncio.CancelledError:
            pass  # the block is over; asyncio's stream server would log it as an error
        finally:
            passing.discard(task)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(passing):
            task.cancel()
        await server.wait_closed()


async def _pass_on(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
    except OSError:
        writer.close()
        return
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, far_writer))
            group.create_task(_pump(far_reader, writer))
    finally:
        writer.close()
        far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
