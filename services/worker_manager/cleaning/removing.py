"""Removing one thing that was judged. Nothing is forced: what an engine says is in use stays."""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import docker

from contracts.bus import remove_consumer
from contracts.ids import WorkerId, nonce
from contracts.image import Leftover
from services.worker_manager.cleaning.seen import SeenImage, Thing
from services.worker_manager.cleaning.survey import Ground
from services.worker_manager.images.used import image_id
from services.worker_manager.runtimes.engine import absent_is_fine

GOING = ".gone-"
"""Begins the name of a run directory that is being deleted; no worker can bear it."""


async def remove_image(ground: Ground, image: SeenImage) -> None:
    """An image, and its record.

    Raises:
        EngineRefused: a container uses it.
    """
    await ground.images.remove(image.tag)
    held = (await ground.used.list()).get(image_id(image.tag))
    if held is not None:
        await ground.used.forget(image_id(image.tag), held.revision)


async def remove_thing(ground: Ground, thing: Thing) -> None:
    """Anything else; what is not there any more is removed.

    Raises:
        EngineRefused: it runs, or is in use.
        Conflict: the entry is another one by now.
        EngineUnavailable, BusUnavailable
    """
    await _REMOVERS[thing.kind](ground, thing)


def sweep_directories(workers: Path) -> None:
    """Delete what an earlier process was deleting when it died; blocks."""
    for path in workers.glob(f"{GOING}*"):
        _delete(path)


async def _container(ground: Ground, thing: Thing) -> None:
    def remove(client: docker.DockerClient) -> None:
        with absent_is_fine():
            client.api.remove_container(thing.id, v=True)

    await ground.engine.call(remove)


async def _volume(ground: Ground, thing: Thing) -> None:
    def remove(client: docker.DockerClient) -> None:
        with absent_is_fine():
            client.api.remove_volume(thing.name)

    await ground.engine.call(remove)


async def _network(ground: Ground, thing: Thing) -> None:
    def remove(client: docker.DockerClient) -> None:
        with absent_is_fine():
            client.api.remove_network(thing.name)

    await ground.engine.call(remove)


async def _directory(ground: Ground, thing: Thing) -> None:
    """Out of the way in one step: a worker of the same name finds all of it or nothing."""

    def remove() -> None:
        path = Path(thing.name)
        going = path.with_name(f"{GOING}{nonce()}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(going)
            _delete(going)

    await asyncio.to_thread(remove)


async def _consumer(ground: Ground, thing: Thing) -> None:
    await remove_consumer(ground.bus, ground.bus.topology.run_consumer(WorkerId(thing.name)))


async def _secret(ground: Ground, thing: Thing) -> None:
    await ground.credentials.drop(thing.name, thing.revision)


async def _session(ground: Ground, thing: Thing) -> None:
    held = await ground.crew.sessions.get(thing.name)
    if held is not None and held.value.shared is not None and held.revision == thing.revision:
        await ground.crew.sharing.remove(thing.name, held)
    else:
        await ground.crew.sessions.delete(thing.name, thing.revision)


async def _revocation(ground: Ground, thing: Thing) -> None:
    await ground.credentials.lift(thing.name, thing.revision)


_REMOVERS: dict[Leftover, Callable[[Ground, Thing], Awaitable[None]]] = {
    "container": _container,
    "volume": _volume,
    "network": _network,
    "directory": _directory,
    "consumer": _consumer,
    "secret": _secret,
    "session": _session,
    "revocation": _revocation,
}


def _delete(directory: Path) -> None:
    """Package caches make their directories read-only, which keeps their files from being deleted."""
    directory.chmod(0o700)
    for below in directory.rglob("*/"):
        if not below.is_symlink():
            below.chmod(0o700)
    shutil.rmtree(directory)
