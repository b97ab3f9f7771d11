"""The warm pool: which containers wait for workers, and how many."""

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from contracts.errors import (
    BusUnavailable,
    EngineRefused,
    ImageBuildFailed,
    ImageMissing,
    InvalidMessage,
    JetcrewError,
)
from contracts.worker import CreateWorker, Limits, Network, WorkerRecord
from services.worker_manager.crew import Crew
from services.worker_manager.images.build import Images
from services.worker_manager.images.used import ImagesUsed
from services.worker_manager.runtimes.docker import DockerRuntime
from services.worker_manager.runtimes.warm import Warm
from services.worker_manager.settings import ManagerSettings

CALM = 0.5
"""Seconds after a worker was claimed in which no container is made: its start comes first."""
SWEEP_EVERY = 60.0
"""Seconds between two looks for what belongs to nobody, and for images that have changed."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Kind:
    """What a container is made by; workers of one kind can have each other's containers."""

    agent: str
    capabilities: tuple[str, ...]
    limits: Limits
    network: Network

    @classmethod
    def of(cls, spec: CreateWorker) -> "Kind":
        """The kind of container that a worker needs."""
        limits = replace(spec.limits, output_mb=Limits().output_mb)  # the wrapper's business
        return cls(spec.agent, tuple(sorted(set(spec.capabilities))), limits, spec.network)


class WarmPool:
    """Keeps some containers warm for the kinds of workers that were made lately."""

    def __init__(
        self,
        crew: Crew,
        docker: DockerRuntime,
        images: Images,
        used: ImagesUsed,
        settings: ManagerSettings,
    ) -> None:
        self._crew = crew
        self._docker = docker
        self._containers = docker.warm
        self._images = images
        self._image_uses = used
        self._settings = settings
        self._warm: dict[Kind, list[Warm]] = defaultdict(list)
        self._used: dict[Kind, float] = {}
        """When a worker of a kind was last made, by the monotonic clock; the latest is the last."""
        self._wake = asyncio.Event()
        self._calm = 0.0

    def take(self, record: WorkerRecord) -> Warm | None:
        """Reserve a warm container for a worker that is about to be claimed; None when there is none for it.
        Whether the worker then gets it, its start decides."""
        wanted = record.spec.runtime
        wanted = self._settings.runtime if wanted == "auto" else wanted
        if not self._settings.warm.size or wanted == "process":
            return None
        kind = Kind.of(record.spec)
        self._note(kind)
        self._calm = time.monotonic() + CALM
        self._wake.set()
        waiting = self._warm[kind]
        while waiting:
            warm = waiting.pop(0)
            if warm.fit:
                self._containers.reserve(warm, record.name, record.incarnation)
                return warm
        return None

    async def give_up(self, record: WorkerRecord) -> None:
        """What was reserved for a worker that another node has claimed."""
        if (warm := self._containers.reserved(record.name, record.incarnation)) is not None:
            await self._containers.discard(warm)

    async def run(self, stop: asyncio.Event) -> None:
        """Fill up until `stop`; then none is left that waits."""
        stopping = asyncio.get_running_loop().create_task(_set_after(stop, self._wake))
        swept = float("-inf")
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    if time.monotonic() - swept > SWEEP_EVERY:
                        await self._sweep(first=swept < 0)
                        swept = time.monotonic()
                    await self._fill(stop)
                except JetcrewError as error:
                    log.info("warm.postponed", error=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.tick):
                        await self._wake.wait()
        finally:
            stopping.cancel()
        await self._empty()

    def _note(self, kind: Kind) -> None:
        self._used.pop(kind, None)
        self._used[kind] = time.monotonic()

    async def _sweep(self, *, first: bool) -> None:
        if first:
            await self._learn()
        if first and await self._docker.available() is not None:
            return
        await self._containers.sweep()
        for kind, waiting in list(self._warm.items()):
            if not waiting:
                continue
            image = await self._images.tag(kind.agent, kind.capabilities)
            for warm in [w for w in waiting if w.image != image or not w.fit]:
                waiting.remove(warm)
                await self._containers.discard(warm)

    async def _learn(self) -> None:
        """Which kinds were made lately, from the records: an earlier process may have made them."""
        if not self._settings.warm.size:
            return
        with contextlib.suppress(BusUnavailable):
            records = [held.value for held in (await self._crew.workers.bucket.list()).values()]
            for record in sorted(records, key=lambda r: r.requested_at):
                age = (self._crew.clock() - record.requested_at).total_seconds()
                if record.runtime == "docker" and age < self._settings.warm.keep:
                    self._note(Kind.of(record.spec))

    async def _fill(self, stop: asyncio.Event) -> None:
        """Make what is missing, one after the other, for the kind first that was made last."""
        for kind, wanted in self._shares().items():
            for warm in self._warm[kind][wanted:]:
                self._warm[kind].remove(warm)
                await self._containers.discard(warm)
            while len(self._warm[kind]) < wanted and not stop.is_set():
                await self._quiet(stop)
                try:
                    image = await self._images.ensure(kind.agent, kind.capabilities)
                    await self._in_use(kind)
                    warm = await self._containers.make(image, kind.limits, kind.network)
                except (EngineRefused, ImageBuildFailed, ImageMissing, InvalidMessage) as error:
                    log.warning("warm.not_made", agent=kind.agent, error=str(error))
                    del self._used[kind]  # until the next worker of this kind
                    break
                self._warm[kind].append(warm)

    async def _in_use(self, kind: Kind) -> None:
        """A worker that adopts what is made for it here will not ask for its image."""
        for tag in await self._images.tags(kind.agent, kind.capabilities):
            for image in await self._images.stored(tag):
                await self._image_uses.note(image)

    def _shares(self) -> dict[Kind, int]:
        """How many of each kind there should be."""
        left, shares = self._settings.warm.total, dict.fromkeys(self._warm, 0)
        for kind, used in reversed(self._used.items()):
            fresh = time.monotonic() - used < self._settings.warm.keep
            shares[kind] = min(self._settings.warm.size, left) if fresh else 0
            left -= shares[kind]
        return shares

    async def _quiet(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and (left := self._calm - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await stop.wait()

    async def _empty(self) -> None:
        """They would wait for a manager that is no more."""
        for waiting in self._warm.values():
            while waiting:
                with contextlib.suppress(JetcrewError):
                    await self._containers.discard(waiting.pop())
        with contextlib.suppress(JetcrewError):
            await self._docker.remove_network_unless_used()


async def _set_after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()
