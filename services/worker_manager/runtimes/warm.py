"""Warm containers: started, paused, and nobody's, until one becomes a worker's.

A warm container is told by its label `jetcrew.kind=warm` and by a name that no worker can bear. Becoming a
worker's, it keeps the label, since labels cannot be changed, and takes the name of that worker's container:
the name alone says whose it is.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import docker as docker_sdk
import structlog

from contracts.errors import EngineRefused, EngineUnavailable
from contracts.worker import Limits, Network
from services.worker_manager.runtimes import profile
from services.worker_manager.runtimes.engine import Engine, NotFound
from services.worker_manager.runtimes.handover import Handover
from services.worker_manager.runtimes.making import PLACE, Maker

DIRECTORY = ".warm"
"""Beside the workers' run directories; no worker can bear the name."""
FIT_WITHIN = 60.0
"""Seconds from a container's start to its wrapper having found its agent."""
TAKEN_WITHIN = 10.0
"""Seconds that a thawed wrapper has to take its files."""
CLAIMED_WITHIN = 120.0
"""Seconds that a container stays reserved for a worker that does not come for it."""

Client = docker_sdk.DockerClient
log = structlog.get_logger()


@dataclass(eq=False)
class Warm:
    """One container that waits for a worker."""

    place: str
    container: str
    image: str
    handover: Handover
    since: float = field(default_factory=time.monotonic)
    thawing: "asyncio.Task[None] | None" = None
    place_before: "asyncio.Task[str | None] | None" = None
    """Whose volumes the worker has that it is reserved for."""

    @property
    def fit(self) -> bool:
        """Whether its wrapper still waits."""
        return not self.handover.gone


class WarmContainers:
    """Makes warm containers, reserves them for workers, and makes them theirs. Each serves one worker."""

    def __init__(self, engine: Engine, names: profile.Names, maker: Maker, workers: Path) -> None:
        self._engine = engine
        self._names = names
        self._maker = maker
        self._workers = workers
        self._reserved: dict[tuple[str, int], Warm] = {}
        """By worker and incarnation: a later worker of the name may be of another kind."""
        self._places: set[str] = set()

    async def make(self, image: str, limits: Limits, network: Network) -> Warm:
        """Start one, have its wrapper warm up, and freeze it.

        Raises:
            EngineRefused: it did not start, or its agent is not in order.
            ImageMissing, EngineUnavailable
        """
        place = f"warm_{secrets.token_hex(6)}"
        labels = self._names.labels("warm") | {PLACE: place}
        directory = self._workers / DIRECTORY / place
        handover = Handover()
        self._places.add(place)
        try:
            await handover.open(directory)
            container = await self._maker.make(
                profile.Wanted(
                    name=self._names.container(place),
                    hostname="worker",
                    labels=labels,
                    volumes={kind: self._names.volume(place, kind) for kind in profile.VOLUMES},
                    volume_labels=dict.fromkeys(profile.VOLUMES, labels),
                    image=image,
                    limits=limits,
                    network=network,
                    directory=directory,
                )
            )
            await _fit(handover, image)
            await self._engine.call(lambda client: client.api.pause(container))
        except BaseException:
            await self._unmake(place, handover)
            raise
        log.info("warm.made", place=place, image=image)
        return Warm(place=place, container=container, image=image, handover=handover)

    def reserve(self, warm: Warm, worker: str, incarnation: int) -> None:
        """Keep it for a worker, whose run directory it gets, and begin to thaw it."""
        theirs = self._workers / worker / "bus"
        theirs.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if theirs.exists():
            shutil.rmtree(theirs)
        (self._workers / DIRECTORY / warm.place).rename(theirs)
        warm.since = time.monotonic()
        loop = asyncio.get_running_loop()
        warm.thawing = loop.create_task(self._thaw(warm))
        warm.place_before = loop.create_task(self._maker.place_of(worker))
        self._reserved[worker, incarnation] = warm

    def reserved(self, worker: str, incarnation: int) -> Warm | None:
        """The one that was kept for a worker, which is to be adopted or discarded now."""
        return self._reserved.pop((worker, incarnation), None)

    async def adopt(self, warm: Warm, worker: str, files: Mapping[str, bytes]) -> str:
        """Make it the worker's: hand over the boot files, volumes and name. Its id.

        Raises:
            EngineRefused: it is not to be had; it is gone now.
            EngineUnavailable
        """
        try:
            await self._adopt(warm, worker, files)
        except (NotFound, EngineRefused) as error:
            await self.discard(warm, worker)
            raise EngineRefused(f"a warm container cannot be adopted: {error}") from error
        finally:  # by its name it is the worker's now, or the next sweep's
            self._places.discard(warm.place)
            warm.handover.close()
        log.info("warm.adopted", worker=worker, unit=warm.container[:12], place=warm.place)
        return warm.container

    async def _adopt(self, warm: Warm, worker: str, files: Mapping[str, bytes]) -> None:
        assert warm.place_before is not None
        if await warm.place_before is not None:
            raise EngineRefused("the worker has a workspace already")
        naming = asyncio.get_running_loop().create_task(self._name(warm, worker))
        warm.handover.give(files)
        done, _ = await asyncio.wait({warm.handover.taken}, timeout=TAKEN_WITHIN)
        await naming
        if not done or not warm.handover.taken.result():
            raise EngineRefused("its wrapper does not answer")

    async def discard(self, warm: Warm, worker: str | None = None) -> None:
        """Remove one that is not wanted, or not fit; `worker` was about to have it."""
        for task in filter(None, (warm.thawing, warm.place_before)):
            await asyncio.wait({task})
            task.exception()  # it does not matter any more
        await self._unmake(warm.place, warm.handover, warm.container, worker)
        log.info("warm.discarded", place=warm.place)

    async def sweep(self) -> None:
        """Remove what earlier processes left, and what was reserved for nobody: containers without a
        worker, volumes that are no worker's."""
        for key, warm in list(self._reserved.items()):
            if time.monotonic() - warm.since > CLAIMED_WITHIN:
                del self._reserved[key]
                await self.discard(warm)
        known = set(self._places)  # one that is adopted meanwhile bears its old name in the list
        filters = {"label": self._names.filters("warm")}
        containers = await self._engine.call(
            lambda client: client.api.containers(all=True, filters=filters)
        )
        for container in containers:
            place = container["Labels"][PLACE]
            if (
                place in known | self._places
                or self._names.worker_of(container["Names"][0]) is not None
            ):
                continue
            await self._maker.remove(container["Id"])
            log.info("warm.swept", place=place)
        await self._sweep_volumes(known)

    async def _sweep_volumes(self, known: set[str]) -> None:
        ours, given = await self._places_of("warm"), await self._places_of("place")
        for place in ours - given - known - self._places:
            try:
                await self._maker.remove_volumes(place)
            except EngineRefused as error:  # a container has them that has no deed yet
                log.info("warm.volumes_in_use", place=place, error=str(error))
        waiting = self._workers / DIRECTORY
        for directory in waiting.iterdir() if waiting.is_dir() else ():
            if directory.name not in self._places:
                shutil.rmtree(directory, ignore_errors=True)

    async def _places_of(self, kind: str) -> set[str]:
        filters = {"label": self._names.filters(kind)}
        found = await self._engine.call(lambda client: client.api.volumes(filters=filters))
        return {volume["Labels"][PLACE] for volume in found["Volumes"] or ()}

    async def _thaw(self, warm: Warm) -> None:
        await self._engine.call(lambda client: client.api.unpause(warm.container))

    async def _name(self, warm: Warm, worker: str) -> None:
        """The volumes first: what bears the worker's name is the worker's whole."""
        await self._maker.settle(worker, warm.place)
        assert warm.thawing is not None
        await warm.thawing
        name = self._names.container(worker)
        await self._engine.call(lambda client: client.api.rename(warm.container, name))

    async def _unmake(
        self, place: str, handover: Handover, container: str = "", worker: str | None = None
    ) -> None:
        handover.close()
        self._places.discard(place)
        shutil.rmtree(self._workers / DIRECTORY / place, ignore_errors=True)
        try:
            await self._maker.remove(container or self._names.container(place))
            theirs = worker is not None and await self._maker.place_of(worker) == place
            await self._maker.remove_volumes(place, worker=worker if theirs else None)
        except (EngineUnavailable, EngineRefused) as error:  # the next sweep finds it
            log.info("warm.left_behind", place=place, error=str(error))


async def _fit(handover: Handover, image: str) -> None:
    done, _ = await asyncio.wait({handover.fit}, timeout=FIT_WITHIN)
    if not done or not handover.fit.result():
        how = "does not find its agent in order" if done else f"is not up within {FIT_WITHIN:g} s"
        raise EngineRefused(f"the wrapper of a warm container of {image} {how}")
