"""Listening: the socket, the HTTP server on it, and the file by which others find it."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator

import msgspec
import uvicorn
from litestar.types import ASGIApp

from contracts.errors import ConfigurationInvalid
from services.api.gate import is_loopback
from services.api.settings import HttpSettings
from services.kit.embedded import PortInUse
from services.kit.state import StateDirectory

LAST_WORDS = 5
"""Seconds that responses under way are given at the end."""


class OpenWithoutToken(ConfigurationInvalid):
    """Other hosts could reach the API, and nothing would keep them out."""


class Address(msgspec.Struct, frozen=True):
    """How the API is found: `api.json` in the state directory."""

    url: str
    pid: int


def bind(settings: HttpSettings) -> socket.socket:
    """The socket to listen on; nobody can connect before the server listens.

    Raises:
        OpenWithoutToken: it is not a loopback address and no token is set.
        PortInUse: the port is taken.
        ConfigurationInvalid: there is no such address on this machine, or it may not be used.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigurationInvalid(f"JETCREW_API__HOST: {settings.host!r}: {error}") from None
    if settings.token is None and not is_loopback(str(address[0])):
        raise OpenWithoutToken(
            f"JETCREW_API__HOST: {settings.host} can be reached from other hosts: set "
            "JETCREW_API__TOKEN, or listen on 127.0.0.1"
        )
    # with the protocol named, asyncio switches off the delay of small packets (40 ms an answer)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {settings.port} of {settings.host} is in use: stop the program that holds it "
                "or choose another (JETCREW_API__PORT)"
            ) from None
        raise ConfigurationInvalid(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine finds the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def announced(state: StateDirectory, url: str) -> Iterator[None]:
    """`api.json`, for as long as the block lasts; one that a later process wrote is left alone."""
    file = state.root / "api.json"
    ours = msgspec.json.encode(Address(url, os.getpid()))
    state.write_private(file, ours)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_bytes() == ours:
                file.unlink()


async def serve_http(app: ASGIApp, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop`; responses under way are finished, within `LAST_WORDS` seconds. Cancelled, at whatever
    moment, they are cut off. Afterwards the listener is closed, and so are all connections."""
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_WORDS,
        )
    )
    loop = asyncio.get_running_loop()
    # never cancelled itself: in the middle of its start or its end it would leave the socket to the loop
    serving = loop.create_task(server.serve(sockets=[listener]), name="uvicorn")
    asked = loop.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, asked}, return_when="FIRST_COMPLETED")
    except asyncio.CancelledError:
        server.config.timeout_graceful_shutdown = 0
        raise
    finally:
        server.should_exit = True
        asked.cancel()
        await _ended(serving)
        await server.let_go()
        listener.close()
    serving.result()


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for it, whoever else wants what meanwhile."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


class _Server(uvicorn.Server):
    """Signals are the process's business, and it leaves nothing open."""

    async def let_go(self) -> None:
        """Cut off what is still under way once it has ended."""
        tasks = set(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield
