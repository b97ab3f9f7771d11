"""The worker manager of one node: settings → logs → resources → jobs."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import structlog

import contracts.log
from contracts.bus import Bus, Lease, apply_topology, connect
from contracts.errors import JetcrewError, NodeInUse
from contracts.ids import NodeId, nonce
from contracts.session import SessionLife
from contracts.topology import LEASE
from contracts.worker import WorkerRecord
from services.kit.catalog import Catalog
from services.kit.identity.store import create_identity
from services.kit.lock import held_lock
from services.kit.serve import serve, until_closed
from services.kit.settings import load
from services.worker_manager.capacity import NodeCapacity
from services.worker_manager.cleaning.duty import Cleaning
from services.worker_manager.cleaning.retention import Retention
from services.worker_manager.cleaning.survey import Ground
from services.worker_manager.commands import Commands
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.diagnosis import Diagnosis
from services.worker_manager.disk import Disk
from services.worker_manager.doors import Doors
from services.worker_manager.engine_door.doors import EngineDoors
from services.worker_manager.evidence import Evidence
from services.worker_manager.forwarder import Forwarders
from services.worker_manager.images.build import Images
from services.worker_manager.images.told import ImagesTold
from services.worker_manager.images.used import ImagesUsed, image_id
from services.worker_manager.intake import Intake
from services.worker_manager.jobs import answering, consuming, keeping
from services.worker_manager.node import Node
from services.worker_manager.nodes import Presence
from services.worker_manager.runtimes import Runtime
from services.worker_manager.runtimes.docker import DockerRuntime
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.runtimes.process import ProcessRuntime
from services.worker_manager.runtimes.profile import Names
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.testimony import Testimony
from services.worker_manager.turns import Turns
from services.worker_manager.warm import WarmPool

log = structlog.get_logger()

VERBS: frozenset[str] = frozenset()
"""What a worker can be allowed to ask beyond what every worker may."""


def main() -> int:
    """Run until told to stop. 0 after that, 3 when it could not run or could not go on."""
    contracts.log.configure(process="worker_manager")
    try:
        settings = load(ManagerSettings)
        contracts.log.configure(
            json=settings.log.json_lines, level=settings.log.level, process="worker_manager"
        )
        asyncio.run(run(settings))
    except JetcrewError as error:
        log.error(  # the sentence is the message; a traceback would bury it
            "manager.ended", error=str(error), kind=type(error).__name__
        )
        return 3
    return 0


async def run(settings: ManagerSettings) -> None:
    """Hold the resources and run the jobs.

    Raises:
        NodeInUse: another manager works on this state directory.
        NodeNameTaken: another one of the crew bears this node's name.
        BusClosed, TopologyDrift, ConfigurationInvalid: it cannot work, or not go on.
    """
    state, topology = settings.state, settings.topology
    with held_lock(state.root / "manager.lock", NodeInUse(state.root)):
        identity = create_identity(state, topology)
        creds = settings.creds or state.creds("manager")
        async with connect(
            settings.url,
            name=f"jetcrew-manager-{settings.node}",
            creds=creds,
            inbox_prefix="_INBOX.manager",
            topology=topology,
        ) as bus:
            await apply_topology(bus)
            credentials = Credentials(
                bus, identity, identity.minter(VERBS),
                owner=f"{settings.node}-{identity.crew}", life=settings.credential_life,
            )  # fmt: skip
            await credentials.push()
            catalog = Catalog.load(*settings.data)
            await _work(settings, bus, credentials, catalog, identity.crew)


async def _work(
    settings: ManagerSettings, bus: Bus, credentials: Credentials, catalog: Catalog, crew_id: str
) -> None:
    crew = _crew(settings, bus, catalog)
    consumers = {(c.stream, c.name): c for c in bus.topology.consumers}
    testimony = Testimony(crew, credentials)
    async with (
        Engine() as engine,
        _forwarders(settings) as forwarders,
        _images(settings, engine, catalog, bus, crew_id) as images,
        _engine_doors(settings, engine, crew_id) as engine_doors,
    ):
        docker = _containers(settings, engine, crew_id)
        runtimes: dict[str, Runtime] = {"docker": docker, "process": _processes(settings, catalog)}
        diagnosis = Diagnosis(crew, runtimes, NodeId(settings.node))
        used = ImagesUsed(bus, NodeId(settings.node))
        disk = Disk(engine, settings.state.root, settings.disk_reserve)
        cleaning = _cleaning(
            settings, crew, credentials, engine, images, used, runtimes["process"], disk, crew_id
        )
        commands = Commands(
            crew, credentials, consumers["JC_CMD", "mgr"], VERBS, settings.caps,
            clean=cleaning.carry_out, full=cleaning.no_room, engine_access=settings.engine.access,
        )  # fmt: skip
        warm = WarmPool(crew, docker, images, used, settings)
        evidence = Evidence(crew, credentials, runtimes, settings)
        crew.ending = evidence.of_task
        around = Surroundings(
            crew=crew,
            credentials=credentials,
            commands=commands,
            settings=settings,
            runtimes=runtimes,
            ensure_image=ImagesTold(bus, images, used).ensure,
            open_bus=_way_in(settings, forwarders, engine_doors),
            close_bus=forwarders.close,
            close_engine=engine_doors.close,
            freeze_engine=engine_doors.freeze,
            thaw_engine=engine_doors.thaw,
            capacity=NodeCapacity(settings, engine, disk.full).now,
            turns=Turns(settings.parallel_starts),
            last_beat=testimony.last_beat,
            warm=warm,
            evidence=evidence,
        )
        intake = Intake(crew, consumers["JC_TASK", "mgr"])
        await _run(around, intake, testimony, diagnosis, cleaning, engine_doors)


async def _run(
    around: Surroundings, intake: Intake, testimony: Testimony,
    diagnosis: Diagnosis, cleaning: Cleaning, engine_doors: EngineDoors,
) -> None:  # fmt: skip
    crew, settings = around.crew, around.settings
    node = Node(around)
    presence = Presence(around, node.kept)
    await presence.take()
    doors = Doors(crew, around.credentials, diagnosis).opened()
    async with diagnosis.opened(), cleaning.opened(), answering(crew.bus, testimony), doors:
        log.info("manager.ready", node=settings.node, url=settings.url)
        await serve(
            {
                **consuming(crew.bus, around.commands, intake, testimony),
                **keeping(around, node, presence),
                "cleaning": cleaning.run,
                "engine doors": engine_doors.clearing(crew, NodeId(settings.node)),
                "connection": until_closed(crew.bus),
            }
        )


def _crew(settings: ManagerSettings, bus: Bus, catalog: Catalog) -> Crew:
    life = SessionLife(settings.session_longest, settings.session_idle)
    return Crew(bus, catalog, sessions_live=life)


def _images(
    settings: ManagerSettings, engine: Engine, catalog: Catalog, bus: Bus, crew_id: str
) -> Images:
    return Images(
        engine,
        catalog,
        base_image=settings.base_image,
        node_image=settings.node_image,
        lease=lambda tag: Lease(bus, LEASE, f"image-{image_id(tag)}", nonce(), 30).waited_for(),
        labels={"jetcrew.crew": crew_id, "jetcrew.node": settings.node},
    )


def _cleaning(
    settings: ManagerSettings, crew: Crew, credentials: Credentials, engine: Engine,
    images: Images, used: ImagesUsed, processes: Runtime, disk: Disk, crew_id: str,
) -> Cleaning:  # fmt: skip
    ground = Ground(
        crew=crew,
        credentials=credentials,
        engine=engine,
        images=images,
        used=used,
        processes=processes,
        workers=settings.state.workers,
        crew_id=crew_id,
        node=settings.node,
    )
    retention = Retention(crew, settings.node, settings.retention.records)
    return Cleaning(ground, settings.cleaning, disk.full, settings.tick, retention)


def _containers(settings: ManagerSettings, engine: Engine, crew_id: str) -> DockerRuntime:
    workers = settings.state.workers
    return DockerRuntime(engine, crew=crew_id, node=settings.node, workers=workers)


def _forwarders(settings: ManagerSettings) -> Forwarders:
    target = urlsplit(settings.url.split(",")[0])
    return Forwarders(target.hostname or "127.0.0.1", target.port or 4222)


def _engine_doors(settings: ManagerSettings, engine: Engine, crew_id: str) -> EngineDoors:
    images = settings.engine.images if settings.engine.access else None
    return EngineDoors(engine, Names(crew_id, settings.node), images)


def _processes(settings: ManagerSettings, catalog: Catalog) -> ProcessRuntime:
    return ProcessRuntime(
        settings.state.workers,
        catalog,
        bus=settings.url,
        path=settings.host_path,
        environment=settings.host_environment,
    )


def _way_in(
    settings: ManagerSettings, forwarders: Forwarders, engine_doors: EngineDoors
) -> Callable[[WorkerRecord], Awaitable[None]]:
    async def open_bus(record: WorkerRecord) -> None:
        if record.runtime == "docker":
            directory = settings.state.workers / record.name / "bus"
            await forwarders.open(record.name, directory)
            await engine_doors.open(record, directory)

    return open_bus


if __name__ == "__main__":
    sys.exit(main())
