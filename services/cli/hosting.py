"""A crew of our own: an embedded NATS server, the worker manager and, if wanted, the HTTP API, as children
of this process on one state directory."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from contracts.errors import BusUnavailable, ConfigurationInvalid
from contracts.topology import Topology
from services.cli.children import Backoff, Child, Tell
from services.cli.failures import CrewFailed, DirectoryInUse
from services.cli.settings import Environment
from services.kit.embedded import EmbeddedServer, PortInUse, StoreInUse
from services.kit.identity.store import create_identity
from services.kit.state import StateDirectory

TRIES = 3
"""Ends in a row of a process that never got ready, after which it is given up."""
READY_POLL = 0.05  # seconds


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What kind of crew."""

    port: int | None = None
    """Of the NATS server; None: the one of last time, else a free one."""
    api: bool = True
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    """None: the one of last time if it is free, else a free one."""
    runtime: str | None = None
    max_workers: int | None = None
    json_logs: bool = False
    verbose: bool = False


class Hosted:
    """The running crew."""

    def __init__(
        self, state: StateDirectory, server: EmbeddedServer, manager: Child, api: Child | None
    ) -> None:
        self.state = state
        self.server = server
        self.manager = manager
        self.api = api
        self.proven = False
        """Set once all of it has worked: from then on a process that ends is started again for ever."""

    @property
    def url(self) -> str:
        """Of the NATS server; the same for as long as this crew runs."""
        return self.server.url

    def given_up(self) -> CrewFailed | None:
        """The error, once a process has ended too often in a row without ever having worked."""
        if self.proven:
            return None
        for child in (self.manager, self.api):
            if child is not None and child.ends_in_a_row >= TRIES:
                return CrewFailed(_why(child))
        return None

    async def http_url(self) -> str:
        """Where the API listens, once it does; it will listen there again when it has to be started anew.

        Raises:
            CrewFailed: it does not get so far.
        """
        assert self.api is not None
        async with _in_time("the HTTP API"):
            while True:
                if (found := _told(self.state, self.api.pid)) is not None:
                    self.api.from_now_on(JETCREW_API__PORT=str(urlsplit(found).port))
                    return found
                if error := self.given_up():
                    raise error
                await asyncio.sleep(READY_POLL)
        raise AssertionError


@contextlib.asynccontextmanager
async def hosted(
    environment: Environment, state: StateDirectory, wanted: Wanted, tell: Tell
) -> AsyncIterator[Hosted]:
    """Start the crew's processes; at the end stop them in the order API, manager, server.

    Raises:
        CrewFailed: another crew works on this directory, a port is taken, or the server does not start.
    """
    topology = Topology(environment.prefix)
    identity = create_identity(state, topology)
    server = EmbeddedServer(state, topology, identity, port=wanted.port)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except StoreInUse as error:
            raise DirectoryInUse(str(error)) from None
        except (PortInUse, ConfigurationInvalid, BusUnavailable) as error:
            raise CrewFailed(str(error)) from None
        manager = _manager(environment, state, server.url, wanted, tell)
        api = _api(environment, state, server.url, wanted, tell) if wanted.api else None
        keeper = _ServerKeeper(server, tell)
        async with asyncio.TaskGroup() as group:
            group.create_task(keeper.keep_up(), name="nats-server")
            group.create_task(manager.keep_up(), name="manager")
            if api is not None:
                group.create_task(api.keep_up(), name="api")
            try:
                yield Hosted(state, server, manager, api)
            finally:
                if api is not None:
                    await api.stop()
                await manager.stop()
                await keeper.stop()


class _ServerKeeper:
    """Starts the server again, on its port, when it has ended."""

    def __init__(self, server: EmbeddedServer, tell: Tell) -> None:
        self._server = server
        self._tell = tell
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()

    async def keep_up(self) -> None:
        """Until `stop`."""
        backoff = Backoff()
        while True:
            code = await self._server.exited()
            if self._stopping.is_set():
                return
            self._tell(f"nats-server ended with code {code}; starting it again")
            wait = backoff.ended()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            async with self._starting:
                if self._stopping.is_set():
                    return
                try:
                    backoff.started()
                    await self._server.restart()
                except (PortInUse, BusUnavailable) as error:
                    self._tell(f"nats-server did not start: {error}")

    async def stop(self) -> None:
        """Stop the server, and do not start it any more."""
        self._stopping.set()
        async with self._starting:
            await self._server.stop()


def _manager(
    environment: Environment, state: StateDirectory, url: str, wanted: Wanted, tell: Tell
) -> Child:
    variables = _variables(state, url, wanted)
    if wanted.runtime is not None:
        variables["JETCREW_RUNTIME"] = wanted.runtime
    if wanted.max_workers is not None:
        variables["JETCREW_MAX_WORKERS"] = str(wanted.max_workers)
    return Child(
        "manager", (sys.executable, "-P", "-m", "services.worker_manager"),
        environment.for_child(**variables), log=state.root / "logs" / "manager.log", tell=tell,
        verbose=wanted.verbose,
    )  # fmt: skip


def _api(
    environment: Environment, state: StateDirectory, url: str, wanted: Wanted, tell: Tell
) -> Child:
    port = wanted.http_port
    if port is None:
        port = _port_of_last_time(state)
    (state.root / "api.json").unlink(missing_ok=True)
    variables = _variables(state, url, wanted) | {
        "JETCREW_API__HOST": wanted.http_host,
        "JETCREW_API__PORT": str(port),
    }
    return Child(
        "api", (sys.executable, "-P", "-m", "services.api"), environment.for_child(**variables),
        log=state.root / "logs" / "api.log", tell=tell, verbose=wanted.verbose,
    )  # fmt: skip


def _variables(state: StateDirectory, url: str, wanted: Wanted) -> dict[str, str]:
    return {
        "JETCREW_STATE_DIR": str(state.root),
        "JETCREW_URL": url,
        "JETCREW_LOG__JSON_LINES": "true" if wanted.json_logs else "false",
    }


def _told(state: StateDirectory, pid: int | None) -> str | None:
    """What the API wrote of itself, if it is the process that runs now."""
    try:
        told = json.loads((state.root / "api.json").read_bytes())
        url = told["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if told.get("pid", pid) != pid:
        return None
    return url if isinstance(url, str) else None


def _port_of_last_time(state: StateDirectory) -> int:
    import socket

    try:
        told = json.loads((state.root / "api.json").read_bytes())
        port = urlsplit(told["url"]).port or 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _why(child: Child) -> str:
    words = child.last_words(1)
    return f"the {child.name} ended {child.ends_in_a_row} times in a row" + (
        f": {words}" if words else ""
    )


@contextlib.asynccontextmanager
async def _in_time(what: str, seconds: float = 60.0) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise CrewFailed(f"{what} was not ready after {seconds:.0f} s") from None
