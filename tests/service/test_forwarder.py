"""The unix socket through which a worker without a network reaches the bus."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from services.worker_manager.forwarder import CONNECTIONS, Forwarders


class EchoServer:
    """Answers each line with itself, on a port that stays the same over restarts."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line == b"bye\n":
                    break
                writer.write(line)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Client:
    """One connection through a worker's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, path: Path) -> "Client":
        return cls(*await asyncio.open_unix_connection(path))

    async def says(self, line: bytes) -> bytes:
        """What comes back for a line; empty when the connection has ended."""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                self.writer.write(line + b"\n")
                await self.writer.drain()
                return (await self.reader.readline()).rstrip(b"\n")
            return b""

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read() == b""
            return True

    def close(self) -> None:
        self.writer.transport.abort()


async def test_bytes_go_to_the_server_and_back(tmp_path: Path) -> None:
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        client = await Client.to(await forwarders.open("ada", tmp_path / "bus"))

        assert await client.says(b"hello") == b"hello"
        big = b"x" * 60_000
        assert await client.says(big) == big
        client.close()


async def test_a_fifth_connection_of_one_worker_is_closed_and_another_workers_first_is_not(
    tmp_path: Path,
) -> None:
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        ada = await forwarders.open("ada", tmp_path / "ada")
        bob = await forwarders.open("bob", tmp_path / "bob")
        clients = [await Client.to(ada) for _ in range(CONNECTIONS)]
        for client in clients:
            assert await client.says(b"hello") == b"hello"

        fifth, other = await Client.to(ada), await Client.to(bob)

        assert await fifth.ended()
        assert await other.says(b"hello") == b"hello"
        assert forwarders.connections == {"ada": CONNECTIONS, "bob": 1}

        clients.pop().close()
        assert await reconnected(ada)
        for client in (*clients, fifth, other):
            client.close()


async def test_the_servers_end_of_a_connection_ends_the_workers(tmp_path: Path) -> None:
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        client = await Client.to(await forwarders.open("ada", tmp_path / "bus"))
        assert await client.says(b"hello") == b"hello"

        assert await client.says(b"bye") == b""
        client.close()


async def test_a_worker_gets_through_again_after_the_server_came_back(tmp_path: Path) -> None:
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        path = await forwarders.open("ada", tmp_path / "bus")
        client = await Client.to(path)
        assert await client.says(b"hello") == b"hello"

        await server.stop()
        assert await client.ended()
        during = await Client.to(path)
        assert await during.ended()
        await server.start()

        assert await reconnected(path)
        client.close()
        during.close()


async def test_a_new_forwarder_takes_over_the_directory_that_a_worker_has_mounted(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "bus"
    async with echo() as server:
        async with Forwarders("127.0.0.1", server.port) as first:
            client = await Client.to(await first.open("ada", directory))
            assert await client.says(b"hello") == b"hello"
        inode = directory.stat().st_ino
        assert await client.ended()
        client.close()

        async with Forwarders("127.0.0.1", server.port) as second:
            path = await second.open("ada", directory)
            assert directory.stat().st_ino == inode
            assert await reconnected(path)


async def test_closing_a_worker_ends_its_connections_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        path = await forwarders.open("ada", tmp_path / "bus")
        client = await Client.to(path)
        assert await client.says(b"hello") == b"hello"

        await forwarders.close("ada")

        assert await client.ended()
        assert not path.parent.exists()
        client.close()


async def test_a_state_directory_deeper_than_a_socket_path_may_be_long_works(
    tmp_path: Path,
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100) / "bus"
    async with echo() as server, Forwarders("127.0.0.1", server.port) as forwarders:
        path = await forwarders.open("ada", deep)

        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert stat.S_IMODE(deep.stat().st_mode) == 0o711


async def reconnected(path: Path) -> bool:
    """Whether a client that keeps trying, as a wrapper does, gets an answer."""
    async with asyncio.timeout(10):
        while True:
            client = await Client.to(path)
            answer = await client.says(b"again")
            client.close()
            if answer == b"again":
                return True
