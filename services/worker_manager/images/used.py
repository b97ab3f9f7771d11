"""When each image of this node was last used: the records by which old ones are told from new ones."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from msgspec.structs import replace

from contracts.bus import Bus, Held
from contracts.errors import Conflict, JetcrewError
from contracts.ids import NodeId, WorkerId
from contracts.image import ImageRecord
from contracts.topology import IMAGE
from services.worker_manager.crew import now
from services.worker_manager.images.stored import UNCHECKED, ImageOnDisk

log = structlog.get_logger()


def image_id(tag: str) -> str:
    """An image's name as one token of a subject: the hash in its tag."""
    return tag.rpartition(":")[2][:40]


def digest(tag: str) -> str:
    """The same, also of an image that has not passed its checks yet."""
    return image_id(tag.partition(UNCHECKED)[0])


class ImagesUsed:
    """The records of one node's images, under `<node>.<image>`: nobody else writes there."""

    def __init__(self, bus: Bus, node: NodeId, clock: Callable[[], datetime] = now) -> None:
        self._bucket = bus.bucket(IMAGE, ImageRecord)
        self._node = node
        self._clock = clock
        self._alone = asyncio.Lock()

    async def list(self) -> dict[str, Held[ImageRecord]]:
        """The records by image id.

        Raises:
            BusUnavailable: they cannot be read.
        """
        held = await self._bucket.list(f"{self._node}.")
        return {key.partition(".")[2]: record for key, record in held.items()}

    async def note(self, image: ImageOnDisk, by: WorkerId | None = None) -> None:
        """It is being used now. What cannot be recorded is logged: an image that a worker uses is not
        removed, whatever its record says."""
        try:
            async with self._alone:
                await self._note(image, by)
        except JetcrewError as error:
            log.warning("image.use_not_recorded", image=image.tag, error=str(error))

    async def forget(self, image: str, revision: int) -> None:
        """Drop the record of an image that is gone, unless it was used again meanwhile."""
        try:
            await self._bucket.delete(f"{self._node}.{image}", revision)
        except Conflict:
            return

    async def _note(self, image: ImageOnDisk, by: WorkerId | None) -> None:
        key = f"{self._node}.{image_id(image.tag)}"
        held = await self._bucket.get(key)
        if held is None:
            await self._bucket.create(key, self._record(image, by))
            return
        used = replace(
            held.value,
            last_used_at=self._clock(),
            last_used_by=by or held.value.last_used_by,
            size_bytes=image.size_bytes,
            built_at=datetime.fromtimestamp(image.created_at, UTC),
        )
        await self._bucket.update(key, used, held.revision)

    def _record(self, image: ImageOnDisk, by: WorkerId | None) -> ImageRecord:
        return ImageRecord(
            image=image_id(image.tag),
            node=self._node,
            tag=image.tag,
            agent=image.agent,
            capabilities=list(image.capabilities),
            size_bytes=image.size_bytes,
            built_at=datetime.fromtimestamp(image.created_at, UTC),
            last_used_at=self._clock(),
            last_used_by=by,
        )
