"""Reads of the bus, all of them direct gets: nothing here can change anything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from msgspec.structs import replace

from contracts.bus import ApiRefused, Artifacts, Bucket, Bus, Following, Stored
from contracts.errors import BusUnavailable, InvalidMessage, NotThere
from contracts.events import ArtifactRef
from contracts.evidence import EVIDENCE_BYTES
from contracts.ids import ProjectId, TaskId, WorkerId
from contracts.image import ImageRecord
from contracts.node import NodeRecord
from contracts.project import ProjectRecord
from contracts.session import SessionRecord
from contracts.task import TaskRecord
from contracts.topology import IMAGE, NODE, PROJECT, SESSION, TASK, WORKER
from contracts.worker import WorkerRecord, places
from services.api.problems import RecordUnreadable
from services.api.views import (
    image_shown,
    project_shown,
    session_shown,
    task_summary,
    worker_summary,
)

R = TypeVar("R")
S = TypeVar("S")

PATIENCE = 5.0
"""Seconds that one read may take."""
ANEW_EVERY = 300.0
"""Seconds after which an index is read anew, in case that keys went without a trace."""


class Reader:
    """What the routes read of the bus.

    Each of its methods raises BusUnavailable when the bus does not answer in time.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._workers = bus.bucket(WORKER, WorkerRecord)
        self._tasks = bus.bucket(TASK, TaskRecord)
        self._nodes = bus.bucket(NODE, NodeRecord)
        self.workers = _index(self._workers, worker_summary)
        """What lists show of the records; read once, and from then on what has changed."""
        self.tasks = _index(self._tasks, task_summary)
        self.images = _index(bus.bucket(IMAGE, ImageRecord), image_shown)
        self._projects = bus.bucket(PROJECT, ProjectRecord)
        self.projects = _index(self._projects, project_shown)
        self.sessions = _index(bus.bucket(SESSION, SessionRecord), session_shown)

    async def worker(self, name: WorkerId) -> WorkerRecord:
        """The record of a worker.

        Raises:
            NotThere: there is none of this name.
        """
        if (record := await self._record(self._workers, name)) is None:
            raise NotThere(f'there is no worker "{name}"', field="worker")
        place = None
        if record.waits:
            place = places((await self.workers.now()).values()).get(name)
        return replace(record, owed=[], place=place)

    async def task(self, task: TaskId) -> TaskRecord:
        """The record of a task.

        Raises:
            NotThere: there is none of this id.
        """
        if (record := await self.find_task(task)) is None:
            raise no_task(task)
        return record

    async def find_task(self, task: TaskId) -> TaskRecord | None:
        """The record of a task; None when there is none, as for a task that was refused."""
        record = await self._record(self._tasks, task)
        return None if record is None else replace(record, owed=[])

    async def project(self, name: ProjectId) -> ProjectRecord:
        """The record of a project.

        Raises:
            NotThere: there is none of this name.
        """
        if (record := await self._record(self._projects, name)) is None:
            raise NotThere(f'there is no project "{name}"', field="project")
        return project_shown(record)

    async def document(self, found: ArtifactRef) -> bytes:
        """A document of the object store.

        Raises:
            NotThere: it is not kept any more.
        """
        async with answering(self._bus):
            return await Artifacts(self._bus).get(found.name, limit=EVIDENCE_BYTES)

    async def artifact(self, found: ArtifactRef) -> AsyncIterator[bytes]:
        """An object's bytes, as they come; an error cuts them off.

        Raises:
            NotThere: it is not kept any more.
        """
        objects = Artifacts(self._bus)
        async with answering(self._bus):
            artifact = await objects.info(found.name)
        if artifact is None:
            raise NotThere(f"{found.name} is not kept any more")
        return objects.read(artifact)

    async def nodes(self) -> list[NodeRecord]:
        """The nodes that are there."""
        async with answering(self._bus):
            return [held.value for held in (await self._nodes.list()).values()]

    async def page(self, stream: str, subject: str, after: int, limit: int) -> list[Stored]:
        """Up to `limit` messages of a stream with sequences above `after`, oldest first."""
        async with answering(self._bus):
            return await self._bus.page(stream, subject, after=after, limit=limit)

    async def last_seq(self, stream: str) -> int:
        """The sequence of the last message of a stream."""
        async with answering(self._bus):
            try:
                info = await self._bus.api(f"STREAM.INFO.{stream}")
            except ApiRefused as error:
                raise BusUnavailable(f"there is no {stream} to read: {error}") from error
        return int(info["state"]["last_seq"])

    async def check(self) -> None:
        """Read something, to know whether reading works."""
        await self.page(self._workers.stream, self._workers.subject(">"), 0, 1)

    async def _record(self, bucket: Bucket[R], key: str) -> R | None:
        async with answering(self._bus):
            try:
                held = await bucket.read(key)
            except InvalidMessage as error:
                raise RecordUnreadable(f"{bucket.name}/{key} does not decode: {error}") from error
        return None if held is None else held.value


def _index(bucket: Bucket[R], summarize: Callable[[R], S]) -> Following[R, S]:
    return Following(
        bucket, lambda held: summarize(held.value), anew_every=ANEW_EVERY, patience=PATIENCE
    )


def no_task(task: str) -> NotThere:
    """The error for a task that nothing is known of."""
    return NotThere(f'there is no task "{task}"', field="task")


@contextlib.asynccontextmanager
async def answering(bus: Bus) -> AsyncIterator[None]:
    """A read of the bus that has to be over within `PATIENCE`.

    Raises:
        BusUnavailable: it is not, or there is no connection.
    """
    if not bus.connected:
        raise BusUnavailable("there is no connection to the NATS server")
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError:
        raise BusUnavailable(f"the NATS server did not answer within {PATIENCE:.0f} s") from None
