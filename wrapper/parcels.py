"""Handing over what is larger than a message, and fetching it: in pieces, through any outage."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec import Struct

from contracts.asks import (
    PIECE_BYTES,
    GetPiece,
    HandedOver,
    KeepArtifact,
    PieceAnswer,
    PutPiece,
)
from contracts.bus import Bus
from contracts.errors import BusUnavailable, Damaged, NotThere, Refused
from contracts.ids import WorkerId

T = TypeVar("T")

log = structlog.get_logger(__name__)

ANSWER_WITHIN = 10.0
"""Seconds."""
CHECKED_WITHIN = 60.0
"""Seconds; all pieces are read once more before they are kept."""
AGAIN_AFTER = 0.5
"""Seconds until the next try when nobody answers."""


class Parcels:
    """What one run hands over, and what was laid out for its worker."""

    def __init__(self, bus: Bus, worker: str) -> None:
        self._bus = bus
        self._worker = WorkerId(worker)

    async def hand_over(self, file: Path, name: str, *, task: str, attempt: int, run: str) -> str:
        """Hand over a file as `name`; the object's name. Safe to repeat.

        Raises:
            Refused: it was not taken; the reason says why.
            OSError: the file cannot be read.
            BusClosed: the connection is gone for good.
        """
        digest, size, n = hashlib.sha256(), 0, 0
        async for data in _pieces(file):
            digest.update(data)
            size += len(data)
            await self._told(
                "artifact.put",
                PutPiece(task=task, attempt=attempt, run=run, name=name, n=n, data=data),
            )
            n += 1
        answer = await self._told(
            "artifact.keep",
            KeepArtifact(
                task=task, attempt=attempt, run=run, name=name,
                size_bytes=size, sha256=digest.hexdigest(),
            ),
            within=CHECKED_WITHIN,
        )  # fmt: skip
        return answer.object

    async def fetch(self, name: str, file: Path, *, limit: int) -> None:
        """Write what was laid out as `name`, of at most `limit` bytes, into a file, which appears whole or
        not at all.

        Raises:
            NotThere: nothing is laid out by that name.
            Refused: it is larger than `limit`.
            Damaged: what came is not what was laid out.
            BusClosed: the connection is gone for good.
        """
        part = file.with_name(f".{file.name}.part")
        digest, size, after = hashlib.sha256(), 0, 0
        try:
            with await asyncio.to_thread(part.open, "wb") as out:
                while True:
                    answer = await self._ask(
                        "artifact.get", GetPiece(name=name, after=after), PieceAnswer
                    )
                    if answer.reason:
                        raise NotThere(answer.reason)
                    if answer.size_bytes > limit:
                        raise Refused(
                            f"{name} holds {answer.size_bytes:,} bytes; {limit:,} are the most"
                        )
                    if not answer.data:
                        break
                    digest.update(answer.data)
                    size, after = size + len(answer.data), answer.next
                    await asyncio.to_thread(out.write, answer.data)
                    if size >= answer.size_bytes:
                        break
            if (size, digest.hexdigest()) != (answer.size_bytes, answer.sha256):
                raise Damaged(f"{name} did not arrive as it was laid out")
            await asyncio.to_thread(part.replace, file)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    async def _told(self, verb: str, ask: Struct, *, within: float = ANSWER_WITHIN) -> HandedOver:
        answer = await self._ask(verb, ask, HandedOver, within=within)
        if not answer.ok:
            raise Refused(answer.reason)
        return answer

    async def _ask(
        self, verb: str, ask: Struct, kind: type[T], *, within: float = ANSWER_WITHIN
    ) -> T:
        """The answer, asked for until somebody gives it."""
        subject = self._bus.subjects.ask(self._worker, verb)
        while True:
            try:
                return await self._bus.ask(subject, ask, kind, timeout=within)
            except BusUnavailable as error:
                log.info("ask.unanswered", verb=verb, error=str(error))
            await asyncio.sleep(AGAIN_AFTER)


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as source:
        while data := await asyncio.to_thread(source.read, PIECE_BYTES):
            yield data
