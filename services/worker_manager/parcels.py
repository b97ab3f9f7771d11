"""What workers hand over and fetch, piece by piece: bundles of commits, patches.

A worker cannot write into the object store. It sends pieces; they are stored under a name that only this
side knows, within the bounds of what its run may hand over, and become an object once all of them together
have the size and the digest that the worker says. No state is kept between two pieces, so that any manager
may take the next one.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

import structlog

from contracts.asks import GetPiece, HandedOver, KeepArtifact, PieceAnswer, PutPiece
from contracts.bus import Artifact, Artifacts, Message
from contracts.codec import decode
from contracts.errors import (
    BusUnavailable,
    Conflict,
    Damaged,
    InvalidMessage,
    QueueFull,
    Refused,
    TooLarge,
)
from contracts.ids import TaskId, WorkerId
from contracts.laying import LayOut, LayPiece
from contracts.results import Result
from contracts.topology import CONVERSATION, HANDED_OVER, LAID_OUT, OBJECTS
from services.worker_manager import moves
from services.worker_manager.crew import Crew

log = structlog.get_logger()

_NO = (InvalidMessage, Refused, TooLarge, Conflict, Damaged, QueueFull, BusUnavailable)


class Parcels:
    """Answers the questions `artifact.*`. The worker is the one in the subject."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._artifacts = Artifacts(crew.bus)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answer while the block lasts."""
        bus, subjects = self._crew.bus, self._crew.bus.subjects
        async with (
            bus.serve(subjects.ask("*", "artifact.put"), self.put, queue="mgr"),
            bus.serve(subjects.ask("*", "artifact.keep"), self.keep, queue="mgr"),
            bus.serve(subjects.ask("*", "artifact.get"), self.get, queue="mgr"),
        ):
            yield

    async def put(self, message: Message) -> HandedOver:
        """`artifact.put`: one more piece."""
        try:
            ask = decode(message.data, PutPiece)
            worker, limit = await self._of_its_run(message, ask)
            put = _put_of(worker, ask)
            async with self._turns.setdefault(put, asyncio.Lock()):
                await self._artifacts.append(put, ask.n, ask.data, limit=limit)
        except _NO as error:
            return HandedOver(ok=False, reason=str(error))
        return HandedOver(ok=True)

    async def keep(self, message: Message) -> HandedOver:
        """`artifact.keep`: make an object of the pieces."""
        try:
            ask = decode(message.data, KeepArtifact)
            worker, limit = await self._of_its_run(message, ask)
            name = OBJECTS.handed_over(worker, TaskId(ask.task), ask.attempt, ask.name)
            await self._artifacts.adopt(
                name,
                _put_of(worker, ask),
                size_bytes=ask.size_bytes,
                sha256=ask.sha256,
                limit=limit,
            )
        except _NO as error:
            return HandedOver(ok=False, reason=str(error))
        log.info("artifact.kept", worker=worker, object=name, size_bytes=ask.size_bytes)
        return HandedOver(ok=True, object=name)

    async def get(self, message: Message) -> PieceAnswer:
        """`artifact.get`: a piece of what was laid out for this worker."""
        try:
            ask = decode(message.data, GetPiece)
            found = await self._found(self._asker(message), ask.name)
            if found is None:
                return PieceAnswer(
                    reason=f"nothing called {ask.name!r} is laid out for this worker"
                )
            data, after = await self._artifacts.piece(found, ask.after)
        except _NO as error:
            return PieceAnswer(reason=str(error))
        return PieceAnswer(data=data, next=after, size_bytes=found.size_bytes, sha256=found.sha256)

    async def _found(self, worker: WorkerId, name: str) -> Artifact | None:
        """What a worker may fetch by this name."""
        if name != CONVERSATION:
            return await self._artifacts.info(OBJECTS.handed_to(worker, name))
        held = await self._crew.workers.bucket.get(worker)
        task = await self._crew.tasks.bucket.get(held.value.task or "") if held else None
        if task is None or task.value.worker != worker:
            return None
        files = await self._crew.sharing.files_of(task.value)
        return await self._artifacts.info(files.name) if files else None

    # -- what operators lay out -------------------------------------------------------------------

    async def lay_piece(self, data: bytes) -> Result:
        """`artifact.put` at the door: one more piece.

        Raises:
            InvalidMessage, Refused, TooLarge, QueueFull, BusUnavailable: it was not taken.
        """
        ask = decode(data, LayPiece)
        _check_name(ask.name)
        put = _put_for(ask)
        async with self._turns.setdefault(put, asyncio.Lock()):
            await self._artifacts.append(put, ask.n, ask.data, limit=LAID_OUT)
        return Result(worker=WorkerId(ask.worker), detail=f"piece {ask.n} is stored")

    async def lay_out(self, data: bytes) -> Result:
        """`artifact.keep` at the door: make an object of the pieces.

        Raises:
            InvalidMessage, Refused, TooLarge, BusUnavailable: it is none.
        """
        ask = decode(data, LayOut)
        _check_name(ask.name)
        name = OBJECTS.handed_to(WorkerId(ask.worker), ask.name)
        try:
            await self._artifacts.adopt(
                name, _put_for(ask), size_bytes=ask.size_bytes, sha256=ask.sha256, limit=LAID_OUT
            )
        except (Conflict, Damaged) as error:
            raise Refused(str(error)) from None
        log.info("artifact.laid_out", object=name, size_bytes=ask.size_bytes)
        return Result(worker=WorkerId(ask.worker), detail=name)

    async def _of_its_run(
        self, message: Message, ask: PutPiece | KeepArtifact
    ) -> tuple[WorkerId, int]:
        """The worker, and how much it may hand over under this name.

        Raises:
            InvalidMessage, Refused: nothing of that name, or its run is not under way.
        """
        worker = self._asker(message)
        limit = HANDED_OVER.get(ask.name)
        if limit is None:
            known = ", ".join(sorted(HANDED_OVER))
            raise InvalidMessage(
                f'"{ask.name}" cannot be handed over; known: {known}', field="$.name"
            )
        held = await self._crew.tasks.bucket.get(ask.task)
        if (
            held is None
            or held.value.worker != worker
            or not moves.reported_by_its_run(held.value, ask.attempt, ask.run)
        ):
            raise Refused(f"worker {worker} does not run task {ask.task} as {ask.run}")
        if ask.name == CONVERSATION and held.value.shared is None:
            raise Refused(f"task {ask.task} is in no shared session")
        return worker, limit

    def _asker(self, message: Message) -> WorkerId:
        return self._crew.bus.subjects.asker(message.subject)


def _check_name(name: str) -> None:
    if name == CONVERSATION:
        raise InvalidMessage(f'"{name}" is what a shared session holds', field="$.name")


def _put_for(ask: LayPiece | LayOut) -> str:
    """Always the same for one thing of one name."""
    of = f"{ask.worker}/{ask.name}/{ask.sha256}"
    return hashlib.sha256(of.encode()).hexdigest()[:32]


def _put_of(worker: WorkerId, ask: PutPiece | KeepArtifact) -> str:
    """Always the same for one run and name, and nobody else's."""
    of = f"{worker}/{ask.task}/{ask.attempt}/{ask.run}/{ask.name}"
    return hashlib.sha256(of.encode()).hexdigest()[:32]
