"""Telling a container whose it is: over a socket in the directory that it alone has mounted.

The wrapper connects, is told where its things are, and waits; the boot files follow when there is a worker
for it. They pass through the kernel from one process to the other and are written down by the wrapper, into
its memory file system. One connection is taken; after that there is no socket to connect to any more.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from contracts.asks import Berth, BootFiles
from contracts.codec import encode
from services.worker_manager.runtimes import profile
from services.worker_manager.sockets import listening

FIT, TAKEN = b"fit", b"taken"
"""What the wrapper says: that its agent is there, and that it has its files."""
LINE_BYTES = 4096

BERTH = Berth(
    agent_file=profile.AGENT_FILE,
    workspace=profile.WORKSPACE,
    home=profile.HOME,
    path=profile.PATH,
)


class Handover(asyncio.Protocol):
    """The boot socket of one container, from before it is created."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.fit: asyncio.Future[bool] = loop.create_future()
        """Whether the wrapper found its agent in order; False when it did not, or is gone."""
        self.taken: asyncio.Future[bool] = loop.create_future()
        """Whether the wrapper has its files; False when it went away before it had them."""
        self.said = b""
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._files: bytes | None = None
        self._met = False

    async def open(self, directory: Path) -> None:
        """Listen in the directory that the container will have mounted."""
        listener = listening(directory, Path(profile.BOOT_SOCKET).name)
        self._socket = directory / Path(profile.BOOT_SOCKET).name
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._admit, sock=listener)

    def give(self, files: Mapping[str, bytes]) -> None:
        """Send the boot files, now or as soon as the wrapper has connected; `taken` tells the outcome."""
        self._files = encode(BootFiles(files=dict(files)))
        self._send()

    @property
    def gone(self) -> bool:
        """Whether the wrapper that had connected is no more."""
        return self.taken.done() and not self.taken.result()

    def close(self) -> None:
        """Take no connection any more, and end the one there is."""
        self._stop_listening()
        if self._transport is not None:
            self._transport.abort()

    # -- the wrapper's side, told by the loop -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The wrapper's one connection."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._stop_listening()
        transport.write(encode(BERTH) + b"\n")
        self._send()

    def data_received(self, data: bytes) -> None:
        """One word a line."""
        self.said = (self.said + data)[-LINE_BYTES:]
        while b"\n" in self.said:
            line, _, self.said = self.said.partition(b"\n")
            if line == TAKEN:
                _settle(self.taken, True)
            else:
                _settle(self.fit, line == FIT)

    def connection_lost(self, error: Exception | None) -> None:
        """Its end, or ours."""
        del error
        _settle(self.fit, False)
        _settle(self.taken, False)

    def _admit(self) -> asyncio.BaseProtocol:
        if self._met:  # a second one was on its way already
            return _Refusal()
        self._met = True
        return self

    def _send(self) -> None:
        if self._transport is not None and self._files is not None:
            self._transport.write(self._files)
            self._transport.write_eof()
            self._files = None

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.unlink()
            self._socket = None


class _Refusal(asyncio.Protocol):
    """Ends a connection as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Not wanted."""
        transport.close()


def _settle(future: "asyncio.Future[bool]", outcome: bool) -> None:
    if not future.done():
        future.set_result(outcome)
