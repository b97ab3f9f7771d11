"""Learning whose we are, over the boot socket: where our things are first, the boot files when there is a
worker for us. A warm wrapper waits between the two."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path, PurePosixPath

from contracts.asks import Berth, BootFiles
from contracts.codec import decode
from contracts.errors import ConfigurationInvalid, InvalidMessage

CONNECT_WITHIN = 60.0
"""Seconds until somebody listens."""
POLL = 0.01
"""Seconds between two tries."""
BOOT_FILE = "boot.json"
FIT, TAKEN = "fit", "taken"


class Handover:
    """Our end of the one connection."""

    def __init__(
        self, berth: Berth, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.berth = berth
        self._reader = reader
        self._writer = writer

    def say(self, word: str) -> None:
        """A line to the manager."""
        with contextlib.suppress(OSError):
            self._writer.write(word.encode() + b"\n")

    async def files(self) -> Mapping[str, bytes]:
        """The boot files; waits for as long as there is no worker for us.

        Raises:
            ConfigurationInvalid: the manager went away before it sent them.
        """
        try:
            return decode(await self._reader.read(), BootFiles).files
        except (OSError, InvalidMessage):
            raise ConfigurationInvalid("the manager went away and told no worker") from None


@contextlib.asynccontextmanager
async def handover(socket: Path, directory: Path) -> AsyncIterator[Handover | None]:
    """The connection to the manager, once it has told where our things are; None when the boot files come
    into `directory` in another way.

    Raises:
        ConfigurationInvalid: nobody listens, or nothing of use was said.
    """
    # What connecting to the bus takes, while there is time.
    importlib.import_module("nkeys")
    connection = await _connected(socket, directory)
    if connection is None:
        yield None
        return
    reader, writer = connection
    try:
        berth = decode(await reader.readline(), Berth)
        yield Handover(berth, reader, writer)
        await writer.drain()
    except InvalidMessage as error:
        raise ConfigurationInvalid(f"{socket}: {error}") from None
    finally:
        writer.close()


async def _connected(
    socket: Path, directory: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    until = time.monotonic() + CONNECT_WITHIN
    while not (directory / BOOT_FILE).exists():
        try:
            return await asyncio.open_unix_connection(socket)
        except OSError as error:
            if time.monotonic() > until:
                raise ConfigurationInvalid(f"{socket}: {error.strerror}") from None
        await asyncio.sleep(POLL)
    return None


def write_down(files: Mapping[str, bytes], directory: Path) -> None:
    """Readable by us alone, in the directory that is memory.

    Raises:
        ConfigurationInvalid: a file cannot be written.
    """
    try:
        directory.chmod(0o700)  # some versions of runc give it the mode of the image's directory
        for name in sorted(files, key=lambda name: name == BOOT_FILE):
            if ".." in PurePosixPath(name).parts:
                raise ConfigurationInvalid(f"{name!r} is not a file of a boot directory")
            file = directory / name
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.touch(mode=0o600)
            file.write_bytes(files[name])
    except OSError as error:
        raise ConfigurationInvalid(f"{error.filename}: {error.strerror}") from None
