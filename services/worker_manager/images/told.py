"""Builds told as events, so that whoever waits for a worker sees them, and uses recorded."""

import contextlib

from contracts.bus import Bus
from contracts.errors import JetcrewError
from contracts.events import ImageBuilding, ImageBuilt, ImageFailed
from contracts.worker import WorkerRecord
from services.worker_manager.crew import now
from services.worker_manager.images.build import Images
from services.worker_manager.images.used import ImagesUsed, image_id


class ImagesTold:
    """Ensures workers' images, publishes what happens meanwhile and records that they are used. An event
    that cannot be published is lost; the build goes on."""

    def __init__(self, bus: Bus, images: Images, used: ImagesUsed) -> None:
        self._bus = bus
        self._images = images
        self._used = used

    async def ensure(self, record: WorkerRecord) -> str | None:
        """The tag of the worker's image, built first where it is missing.

        Raises:
            InvalidMessage, ImageBuildFailed, EngineUnavailable: as `Images.ensure`.
        """
        spec = record.spec
        mine, base = await self._images.tags(spec.agent, spec.capabilities)
        image = image_id(mine)
        cause = f"i:{image}:{record.name}:{record.incarnation}.{record.restarts}"
        began, steps_told = now(), 0

        async def progress(step: int, steps: int, text: str) -> None:
            nonlocal steps_told
            steps_told += 1
            event = ImageBuilding(at=now(), image=image, step=step, steps=steps, text=text[:200])
            await self._tell(event, f"{cause}:{step}")

        try:
            tag = await self._images.ensure(spec.agent, spec.capabilities, progress)
        except JetcrewError as error:
            failed = ImageFailed(at=now(), image=image, reason=str(error)[:1000])
            await self._tell(failed, f"{cause}:failed")
            raise
        if steps_told:
            took = (now() - began).total_seconds()
            await self._tell(ImageBuilt(at=now(), image=image, took=took), f"{cause}:built")
        for one in (tag, base):
            for found in await self._images.stored(one):
                await self._used.note(found, record.name)
        return tag

    async def _tell(self, event: ImageBuilding | ImageBuilt | ImageFailed, name: str) -> None:
        with contextlib.suppress(JetcrewError):
            await self._bus.publish(self._bus.subjects.event(event), event, id=name)
