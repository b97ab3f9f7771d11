"""Looking at a node: what is on its engine, in its state directory and on the bus. Changes nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.bus import Bus
from contracts.bus.lease import Holder
from contracts.errors import BusUnavailable, EngineUnavailable, InvalidMessage
from contracts.ids import is_token
from contracts.image import Leftover
from contracts.session import SHARED
from contracts.topology import LEASE
from contracts.worker import WorkerRecord
from services.worker_manager.cleaning.seen import Seen, SeenImage, Thing
from services.worker_manager.credentials import Credentials, Entry
from services.worker_manager.crew import Crew
from services.worker_manager.images.build import Images
from services.worker_manager.images.stored import ImageOnDisk
from services.worker_manager.images.used import ImagesUsed, digest, image_id
from services.worker_manager.runtimes import Runtime
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.runtimes.profile import Names

LIVE = frozenset({"running", "paused", "restarting", "removing"})
"""States of a container that the engine has in hand."""
RUN = "JC_RUN"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a node's cleaning works on."""

    crew: Crew
    credentials: Credentials
    engine: Engine
    images: Images
    used: ImagesUsed
    processes: Runtime
    workers: Path
    """The run directories."""
    crew_id: str
    node: str

    @property
    def bus(self) -> Bus:
        """The crew's."""
        return self.crew.bus

    @property
    def names(self) -> Names:
        """Of the crew's things on this node."""
        return Names(self.crew_id, self.node)


async def look(ground: Ground) -> Seen:
    """Everything there is. An engine that does not answer has nothing to be cleaned.

    Raises:
        BusUnavailable: there is no bus to read from, beyond the records of workers.
    """
    began = ground.crew.clock()
    workers, why = await records(ground.crew)
    if workers is None:
        return Seen(node=ground.node, workers=None, doubt=why)
    things = await _directories(ground)
    things += await _on_bus(ground, workers)
    building, answers = await _building(ground), True
    try:
        containers = await _containers(ground.engine)
        images = await _images(ground)
        things += [thing for c in containers if (thing := _container(c, ground.names)) is not None]
        things += await _volumes(ground)
        things += await _networks(ground)
    except EngineUnavailable:
        containers, images, answers = [], (), False
    return Seen(
        node=ground.node,
        workers=workers,
        at=began,
        engine=answers,
        things=tuple(things),
        images=images,
        images_in_use=frozenset(c["ImageID"] for c in containers),
        building=building,
    )


async def look_at_images(ground: Ground) -> Seen:
    """The part of it that the images are judged by.

    Raises:
        BusUnavailable, EngineUnavailable
    """
    workers, why = await records(ground.crew)
    containers = await _containers(ground.engine)
    return Seen(
        node=ground.node,
        workers=workers,
        doubt=why,
        things=tuple(t for c in containers if (t := _container(c, ground.names)) is not None),
        images=await _images(ground),
        images_in_use=frozenset(c["ImageID"] for c in containers),
        building=await _building(ground),
    )


async def records(crew: Crew) -> tuple[dict[str, WorkerRecord] | None, str | None]:
    """The records of all workers; or None, and why they cannot be read."""
    try:
        held = await crew.workers.bucket.list()
    except (BusUnavailable, InvalidMessage) as error:
        return None, str(error)
    return {key: record.value for key, record in held.items()}, None


# -- the engine -----------------------------------------------------------------------------------


async def _containers(engine: Engine) -> list[dict[str, Any]]:
    return await engine.call(lambda client: client.api.containers(all=True))


def _container(summary: Mapping[str, Any], names: Names) -> Thing | None:
    """A container of this crew and node; None for a stranger's."""
    labels = summary["Labels"] or {}
    if not _ours(labels, names):
        return None
    name = (summary["Names"] or [summary["Id"][:12]])[0].removeprefix("/")
    incarnation = labels.get("jetcrew.incarnation", "")
    purpose = labels.get("jetcrew.kind", "")
    return Thing(
        kind="container",
        name=name,
        id=summary["Id"],
        worker=labels.get("jetcrew.worker") or _bearer(name, purpose, names),
        incarnation=int(incarnation) if incarnation.isdigit() else None,
        live=summary["State"] in LIVE,
        made_at=datetime.fromtimestamp(summary["Created"], UTC),
        purpose=purpose,
        image=summary["Image"],
    )


def _bearer(name: str, purpose: str, names: Names) -> str | None:
    """The worker whose container's name this is: labels cannot be changed, names can."""
    worker = name.removeprefix(names.container(""))
    return worker if purpose in {"worker", "warm"} and worker != name and is_token(worker) else None


async def _images(ground: Ground) -> tuple[SeenImage, ...]:
    held = await ground.used.list()
    records = {key: record.value for key, record in held.items()}
    return tuple(
        _image(image, ground, record.last_used_at if record else None)
        for image in await ground.images.stored()
        for record in [records.get(image_id(image.tag))]
    )


def _image(image: ImageOnDisk, ground: Ground, used_at: datetime | None) -> SeenImage:
    return SeenImage(
        tag=image.tag,
        id=image.id,
        base=image.kind == "worker-base",
        checked=image.checked,
        agent=image.agent,
        capabilities=frozenset(image.capabilities),
        size_bytes=image.size_bytes,
        made_at=datetime.fromtimestamp(image.created_at, UTC),
        ours=image.owner == (ground.crew_id, ground.node),
        used_at=used_at,
    )


async def _building(ground: Ground) -> frozenset[str]:
    leases = await ground.bus.bucket(LEASE, Holder).list()
    leased = {key.removeprefix("image-") for key in leases if key.startswith("image-")}
    return frozenset(map(digest, ground.images.building)) | leased


async def _volumes(ground: Ground) -> list[Thing]:
    """Those with a worker's name on them; what waits for a worker has its own sweep."""
    filters = {"label": _labels(ground.names)}
    answer = await ground.engine.call(lambda client: client.api.volumes(filters=filters))
    return [
        Thing(
            kind="volume",
            name=volume["Name"],
            worker=volume["Labels"]["jetcrew.worker"],
            made_at=_moment(volume.get("CreatedAt")),
        )
        for volume in answer["Volumes"] or ()
        if "jetcrew.worker" in volume["Labels"]
    ]


async def _networks(ground: Ground) -> list[Thing]:
    filters = {"label": _labels(ground.names)}
    found = await ground.engine.call(lambda client: client.api.networks(filters=filters))
    return [
        Thing(
            kind="network",
            name=network["Name"],
            worker=network["Labels"].get("jetcrew.worker"),
            made_at=_moment(network.get("Created")),
        )
        for network in found
    ]


def _labels(names: Names) -> list[str]:
    return [f"jetcrew.crew={names.crew}", f"jetcrew.node={names.node}"]


def _ours(labels: Mapping[str, str], names: Names) -> bool:
    return (labels.get("jetcrew.crew"), labels.get("jetcrew.node")) == (names.crew, names.node)


def _moment(text: str | None) -> datetime | None:
    """As an engine writes it: nanoseconds, which datetime does not know, or none."""
    if not text:
        return None
    head, dot, rest = text.partition(".")
    fraction = rest.rstrip("Z").partition("+")[0] if dot else ""
    try:
        at = datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}" if dot else head.removesuffix("Z"))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# -- directories and the bus ----------------------------------------------------------------------


async def _directories(ground: Ground) -> list[Thing]:
    """Run directories, of both runtimes; those of process workers tell what runs in them."""
    units = {unit.worker: unit for unit in await ground.processes.list()}
    names = await asyncio.to_thread(_named, ground.workers)
    return [
        Thing(
            kind="directory",
            name=str(ground.workers / name),
            worker=name,
            incarnation=units[name].incarnation if name in units else None,
            live=name in units and units[name].state != "exited",
        )
        for name in names
    ]


def _named(workers: Path) -> list[str]:
    """The directories there; what bears no worker's name is somebody else's."""
    if not workers.is_dir():
        return []
    return sorted(p.name for p in workers.iterdir() if is_token(p.name) and p.is_dir())


async def _on_bus(ground: Ground, workers: Mapping[str, WorkerRecord]) -> list[Thing]:
    """Consumers and entries of buckets; those of another node's workers are that node's to clean."""

    def theirs(worker: str | None) -> bool:
        record = workers.get(worker or "")
        return record is not None and record.node not in {None, ground.node}

    now = ground.crew.clock()
    things = [Thing(kind="consumer", name=n, worker=n) for n in await _consumers(ground.bus)]
    things += [_entry("secret", entry) for entry in await ground.credentials.of_workers()]
    things += [_entry("revocation", entry) for entry in await ground.credentials.expired()]
    things += [
        Thing(
            kind="session",
            name=key,
            worker=None if held.value.shared else key.partition(".")[0],
            live=held.value.holder is not None,
            over=ground.crew.sessions_live.over(held.value, now),
            purpose=SHARED if held.value.shared else "",
            revision=held.revision,
            made_at=held.at,
        )
        for key, held in (await ground.crew.sessions.list()).items()
    ]
    return [thing for thing in things if not theirs(thing.worker)]


def _entry(kind: Leftover, entry: Entry) -> Thing:
    return Thing(
        kind=kind, name=entry.key, worker=entry.worker, revision=entry.revision, made_at=entry.at
    )


async def _consumers(bus: Bus) -> list[str]:
    """Names of the workers' consumers, each that of its worker."""
    found: list[str] = []
    while True:
        answer = await bus.api(f"CONSUMER.NAMES.{RUN}", {"offset": len(found)})
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= int(answer.get("total", 0)):
            return found
