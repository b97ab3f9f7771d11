"""How objects look in the stream of their store, in the words that all clients share."""

import asyncio
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from pathlib import Path

from msgspec import Struct, field

from contracts.bus.messages import Stored
from contracts.codec import decode
from contracts.errors import InvalidMessage
from contracts.ids import Instant

CHUNK = 131_072
"""Bytes in one chunk."""
DIGEST = "SHA-256="
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LONGEST_NAME = 256

Source = bytes | Path | AsyncIterable[bytes]


class Options(Struct, omit_defaults=True):
    max_chunk_size: int = 0


class Meta(Struct, kw_only=True, omit_defaults=True):
    """The meta message, in the words that all clients share."""

    name: str
    description: str = ""
    metadata: dict[str, str] = {}
    options: Options = field(default_factory=Options)
    bucket: str
    nuid: str
    size: int = 0
    mtime: Instant
    chunks: int = 0
    digest: str = ""
    deleted: bool = False


class Artifact(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a stored object."""

    name: str
    size_bytes: int
    sha256: str
    """Of the whole, in hexadecimal."""
    chunks: int
    put: str
    """Names this put among all of the store."""
    at: datetime
    description: str = ""
    labels: dict[str, str] = {}


def check_name(name: str) -> None:
    """Refuse what no object may be called.

    Raises:
        InvalidMessage: it is longer than 256 characters, or not words joined by slashes.
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidMessage(
            f"an object's name is words of letters, digits, dots, dashes and underscores, joined by "
            f"slashes, {_LONGEST_NAME} characters at most; got {name[:80]!r}",
            field="$.name",
        )


async def chunks_of(source: Source) -> AsyncIterator[bytes]:
    """The source in pieces of `CHUNK` bytes, the last one shorter."""
    if isinstance(source, bytes):
        for at in range(0, len(source), CHUNK):
            yield source[at : at + CHUNK]
        return
    if isinstance(source, Path):
        with await asyncio.to_thread(source.open, "rb") as file:
            while piece := await asyncio.to_thread(file.read, CHUNK):
                yield piece
        return
    waiting = bytearray()
    async for piece in source:
        waiting += piece
        while len(waiting) >= CHUNK:
            yield bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    if waiting:
        yield bytes(waiting)


def meta_of(stored: Stored | None) -> Meta | None:
    if stored is None or not stored.data:
        return None
    return decode(stored.data, Meta)


def artifact_of(meta: Meta) -> Artifact:
    digest = meta.digest.partition("=")[2]
    return Artifact(
        name=meta.name,
        size_bytes=meta.size,
        sha256=urlsafe_b64decode(digest).hex() if digest else "",
        chunks=meta.chunks,
        put=meta.nuid,
        at=meta.mtime,
        description=meta.description,
        labels=meta.metadata,
    )
