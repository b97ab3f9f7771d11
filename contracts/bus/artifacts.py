"""The object store: transcripts, evidence, bundles; laid out so that every client can list and read it.

The client library's own is not used: its `get` and `list` make a consumer each, which readers may not,
which is left behind, and which waits for ever for a chunk that is gone; its `put` retries nothing.
"""

import asyncio
import contextlib
import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from contracts.bus import reads
from contracts.bus.messages import Expect
from contracts.bus.objects import (
    CHUNK,
    DIGEST,
    Artifact,
    Meta,
    Options,
    Source,
    artifact_of,
    check_name,
    chunks_of,
    meta_of,
)
from contracts.codec import encode
from contracts.errors import Conflict, Damaged, NotThere, Refused, TooLarge
from contracts.ids import nonce
from contracts.topology import ARTIFACTS

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

PAGE = 32
"""Chunks that one request for them brings."""
UNNAMED = 3600.0
"""Seconds after which pieces without a name count as given up."""
TRIES = 20
"""Lost races for a name after which something other than a race is the matter."""
_PIECE = "Jc-Piece"
"""Header: which piece of a put in pieces this is, from 0."""

Progress = Callable[[int], None]
"""Called with the bytes that have passed so far."""


class Artifacts:
    """The objects of one store. Readers need direct gets and nothing else."""

    def __init__(self, bus: "Bus", name: str = ARTIFACTS) -> None:
        self._bus = bus
        self._store = bus.topology.object_store(name)

    # -- writing ----------------------------------------------------------------------------------

    async def put(
        self, name: str, source: Source, *, limit: int, replace: bool = False, description: str = "",
        labels: dict[str, str] | None = None, progress: Progress | None = None,
    ) -> Artifact:  # fmt: skip
        """Store what `source` holds, of at most `limit` bytes, as it comes. Nothing of it stays when that fails.

        Raises:
            InvalidMessage: no object can have this name.
            TooLarge: the source holds more than `limit`.
            Conflict: there is one of that name, and `replace` is false.
            QueueFull: the store is full.
            BusUnavailable, BusClosed: as for `Bus.publish`.
        """
        check_name(name)
        if not replace and await self.info(name) is not None:
            raise Conflict(f"there is an object {name} already")
        put = nonce()
        try:
            size, chunks, digest = await self._put_chunks(put, source, limit, progress, name)
            meta = Meta(
                name=name, description=description, metadata=labels or {},
                options=Options(CHUNK), bucket=self._store.name, nuid=put, size=size,
                mtime=datetime.now(UTC), chunks=chunks, digest=digest,
            )  # fmt: skip
            return await self._name(meta, replace=replace)
        except BaseException:
            with contextlib.suppress(Exception):
                await self._purge(put)
            raise

    async def _put_chunks(
        self, put: str, source: Source, limit: int, progress: Progress | None, name: str
    ) -> tuple[int, int, str]:
        subject = self._store.chunks(put)
        digest, size, chunks, last = hashlib.sha256(), 0, 0, 0
        async for chunk in chunks_of(source):
            size += len(chunk)
            if size > limit:
                raise TooLarge(size, limit, f"object {name}")
            digest.update(chunk)
            # a chunk whose acknowledgement was lost must not stand there twice
            receipt = await self._bus.publish(
                subject, chunk, id=f"{put}-{chunks}", expect=Expect(last)
            )
            last = receipt.seq
            chunks += 1
            if progress is not None:
                progress(size)
        return size, chunks, DIGEST + urlsafe_b64encode(digest.digest()).decode()

    async def _name(self, meta: Meta, *, replace: bool) -> Artifact:
        """Give the put its name; from then on it is there. What bore the name before goes."""
        subject = self._store.meta(meta.name)
        for _ in range(TRIES):
            stored = await reads.last(self._bus, self._store.stream, subject)
            before = meta_of(stored)
            if before is not None and not before.deleted and not replace:
                raise Conflict(f"there is an object {meta.name} already")
            try:
                await self._bus.publish(
                    subject, encode(meta), headers={"Nats-Rollup": "sub"},
                    expect=Expect(stored.seq if stored else 0),
                )  # fmt: skip
            except Conflict:
                continue
            if before is not None and before.nuid != meta.nuid:
                await self._purge(before.nuid)
            return artifact_of(meta)
        raise Conflict(f"object {meta.name} changed {TRIES} times while it was to be changed once")

    async def delete(self, name: str) -> bool:
        """Remove an object; False when there is none."""
        subject = self._store.meta(name)
        for _ in range(TRIES):
            stored = await reads.last(self._bus, self._store.stream, subject)
            before = meta_of(stored)
            if stored is None or before is None or before.deleted:
                return False
            gone = Meta(
                name=name, bucket=self._store.name, nuid=before.nuid, mtime=datetime.now(UTC),
                deleted=True,
            )  # fmt: skip
            try:
                await self._bus.publish(
                    subject, encode(gone), headers={"Nats-Rollup": "sub"}, expect=Expect(stored.seq)
                )
            except Conflict:
                continue
            await self._purge(before.nuid)
            return True
        raise Conflict(f"object {name} changed {TRIES} times while it was to be deleted")

    async def make_room(self, wanted: int) -> int:
        """Let go of pieces that nobody named within an hour, then of the oldest objects, until `wanted` bytes
        are free; how many that freed. A store that is full takes not even a deletion."""
        objects = await self.list()
        freed = await self._forget_unnamed({artifact.put for artifact in objects})
        for artifact in sorted(objects, key=lambda artifact: artifact.at):
            if freed >= wanted:
                break
            await self._bus.purge(self._store.stream, self._store.meta(artifact.name))
            await self._purge(artifact.put)
            freed += artifact.size_bytes
            log.warning("object.dropped", object=artifact.name, size_bytes=artifact.size_bytes)
        return freed

    async def _forget_unnamed(self, named: set[str]) -> int:
        every = self._store.chunks(">")
        info = await self._bus.api(f"STREAM.INFO.{self._store.stream}", {"subjects_filter": every})
        freed, long_ago = 0, datetime.now(UTC) - timedelta(seconds=UNNAMED)
        for subject, chunks in (info["state"].get("subjects") or {}).items():
            put = subject.rpartition(".")[2]
            if put in named:
                continue
            last = await self._bus.last_matching(self._store.stream, subject)
            if last is not None and last.at < long_ago:
                await self._purge(put)
                freed += chunks * CHUNK
        return freed

    async def _purge(self, put: str) -> None:
        await self._bus.purge(self._store.stream, self._store.chunks(put))

    # -- a put in pieces --------------------------------------------------------------------------

    async def append(self, put: str, n: int, data: bytes, *, limit: int) -> None:
        """Store piece `n` of a put that `adopt` will name; once, however often it is told to.

        Raises:
            Refused: the piece before it is not there.
            TooLarge: with it, the put might hold more than `limit` bytes; a short piece counts as a whole one.
            QueueFull, BusUnavailable, BusClosed: as for `put`.
        """
        if n * CHUNK + len(data) > limit or len(data) > CHUNK:
            raise TooLarge(n * CHUNK + len(data), limit, "object")
        there, last = await self._pieces(put)
        if n < there:
            return
        if n > there:
            raise Refused(f"piece {there} comes first", field="$.n")
        with contextlib.suppress(Conflict):  # the same piece, told twice at once
            await self._bus.publish(
                self._store.chunks(put), data, headers={_PIECE: str(n)}, expect=Expect(last)
            )

    async def _pieces(self, put: str) -> tuple[int, int]:
        """How many pieces there are, and the sequence of the last."""
        stored = await reads.last(self._bus, self._store.stream, self._store.chunks(put))
        return (int(stored.headers[_PIECE]) + 1, stored.seq) if stored else (0, 0)

    async def adopt(
        self, name: str, put: str, *, size_bytes: int, sha256: str, limit: int, description: str = ""
    ) -> Artifact:  # fmt: skip
        """Name the pieces of a put, if they are what they are said to be; else they go.

        Raises:
            InvalidMessage: no object can have this name.
            TooLarge: they are said to be more than `limit`.
            Damaged: they are not of this size and digest.
            Conflict: there is an object of that name, and it is another one.
        """
        check_name(name)
        if size_bytes > limit:
            raise TooLarge(size_bytes, limit, f"object {name}")
        if (present := await self.info(name)) is not None:
            if (present.put, present.sha256) == (put, sha256):
                return present
            raise Conflict(f"there is an object {name} already")
        chunks, _ = await self._pieces(put)
        artifact = Artifact(
            name=name, size_bytes=size_bytes, sha256=sha256, chunks=chunks, put=put,
            at=datetime.now(UTC), description=description,
        )  # fmt: skip
        try:
            async for _ in self.read(artifact):
                pass
        except Damaged:
            await self._purge(put)
            raise
        digest = DIGEST + urlsafe_b64encode(bytes.fromhex(sha256)).decode()
        meta = Meta(
            name=name, description=description, options=Options(CHUNK), bucket=self._store.name,
            nuid=put, size=size_bytes, mtime=artifact.at, chunks=chunks, digest=digest,
        )  # fmt: skip
        return await self._name(meta, replace=False)

    # -- reading ----------------------------------------------------------------------------------

    async def info(self, name: str) -> Artifact | None:
        """What is known of an object; None when there is none."""
        stored = await reads.direct(self._bus, self._store.stream, self._store.meta(name))
        meta = meta_of(stored)
        return artifact_of(meta) if meta is not None and not meta.deleted else None

    async def list(self, prefix: str = "") -> list[Artifact]:
        """The objects whose names begin with `prefix`, by name."""
        found: dict[str, Artifact] = {}
        after = 0
        everything = self._store.subjects[1]
        while page := await self._bus.page(self._store.stream, everything, after=after):
            after = page[-1].seq
            for stored in page:
                meta = meta_of(stored)
                if meta is None or not meta.name.startswith(prefix):
                    continue
                found.pop(meta.name, None)
                if not meta.deleted:
                    found[meta.name] = artifact_of(meta)
        return [found[name] for name in sorted(found)]

    async def read(
        self, artifact: Artifact, *, progress: Progress | None = None
    ) -> AsyncIterator[bytes]:
        """The object's bytes as they come. What was yielded counts only once this ends without an error.

        Raises:
            Damaged: parts are missing, or it does not have the digest it was stored with.
            BusUnavailable: the store does not answer.
        """
        digest, size, chunks, after = hashlib.sha256(), 0, 0, 0
        while chunks < artifact.chunks:
            page = await reads.page(
                self._bus, self._store.stream, self._store.chunks(artifact.put),
                after=after, limit=PAGE,
            )  # fmt: skip
            if not page:
                raise Damaged(
                    f"object {artifact.name} has {size:,} of its {artifact.size_bytes:,} bytes; "
                    "it was replaced meanwhile, or its chunks have aged away"
                )
            after = page[-1].seq
            chunks += len(page)
            for stored in page:
                digest.update(stored.data)
                size += len(stored.data)
                if progress is not None:
                    progress(size)
                yield stored.data
        if size != artifact.size_bytes or digest.hexdigest() != artifact.sha256:
            raise Damaged(f"object {artifact.name} does not have the digest it was stored with")

    async def piece(self, artifact: Artifact, after: int) -> tuple[bytes, int]:
        """One chunk and where it stands: the first behind `after`; nothing and 0 behind the last."""
        page = await self._bus.page(
            self._store.stream, self._store.chunks(artifact.put), after=after, limit=1
        )
        return (page[0].data, page[0].seq) if page else (b"", 0)

    async def get(self, name: str, *, limit: int) -> bytes:
        """A whole object of at most `limit` bytes.

        Raises:
            NotThere: there is none of that name.
            TooLarge: it holds more than `limit`.
            Damaged, BusUnavailable: as for `read`.
        """
        artifact = await self._found(name)
        if artifact.size_bytes > limit:
            raise TooLarge(artifact.size_bytes, limit, f"object {name}")
        return b"".join([piece async for piece in self.read(artifact)])

    async def save(self, name: str, file: Path, *, progress: Progress | None = None) -> Artifact:
        """Write an object to a file, which appears whole or not at all.

        Raises:
            NotThere, Damaged, BusUnavailable: as for `get`.
            OSError: the file cannot be written.
        """
        artifact = await self._found(name)
        part = file.with_name(f".{file.name}.{nonce()}")
        try:
            with await asyncio.to_thread(part.open, "xb") as out:
                async for piece in self.read(artifact, progress=progress):
                    await asyncio.to_thread(out.write, piece)
            await asyncio.to_thread(part.replace, file)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return artifact

    async def _found(self, name: str) -> Artifact:
        artifact = await self.info(name)
        if artifact is None:
            raise NotThere(f"there is no object {name!r} in {self._store.name}")
        return artifact
