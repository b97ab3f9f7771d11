"""Managers of a simulated crew: the real parts on a real bus, in this process, killed and started at will."""

import asyncio
from dataclasses import dataclass, field

from contracts.bus import connect
from contracts.image import CleanUp
from contracts.results import Result
from contracts.topology import Topology
from contracts.worker import WorkerRecord
from services.kit.catalog import Catalog
from services.kit.serve import Job
from services.worker_manager.capacity import Capacity
from services.worker_manager.commands import Commands
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.evidence import Evidence
from services.worker_manager.intake import Intake
from services.worker_manager.jobs import answering, consuming, keeping
from services.worker_manager.node import Node
from services.worker_manager.nodes import Presence
from services.worker_manager.runtimes import Runtime
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.testimony import Testimony
from services.worker_manager.turns import Turns
from services.worker_manager.warm import WarmPool
from tests.support.servers import Server
from tests.support.simulated import Host, SimulatedRuntime, cancelled


class NoWarm(WarmPool):
    """Nothing is warm."""

    def __init__(self) -> None:
        pass

    def take(self, record: WorkerRecord) -> None:
        """Nothing."""

    async def give_up(self, record: WorkerRecord) -> None:
        """Nothing to give up."""

    async def run(self, stop: asyncio.Event) -> None:
        """Nothing to keep warm."""
        await stop.wait()


@dataclass
class SimulatedManager:
    """One manager on one host."""

    server: Server
    node: str
    host: Host
    max_workers: int
    running: asyncio.Task[None] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Anew, as a process would be."""
        self.stop = asyncio.Event()
        self.running = asyncio.get_running_loop().create_task(self._run(), name=self.node)

    async def kill(self) -> None:
        """In the middle of whatever it does; nothing is tidied up on the bus."""
        assert self.running is not None
        self.running.cancel()
        await asyncio.wait({self.running}, timeout=0.1)
        self.stop.set()  # for what was answered in the same moment, and did not heed it
        await cancelled(self.running)
        self.check()

    def check(self) -> None:
        """Raise what it died of, if it did."""
        if self.running is not None and self.running.done() and not self.running.cancelled():
            self.running.result()

    async def _run(self) -> None:
        settings = ManagerSettings(
            state_dir=self.server.state.root, url=self.server.url, node=self.node,
            runtime="process", max_workers=self.max_workers, tick=1, silence=20, node_ttl=5,
            node_grace=10, parallel_starts=16, max_restarts=50,
        )  # fmt: skip
        async with connect(
            self.server.url,
            name=f"manager-{self.node}",
            creds=self.server.creds("manager"),
            inbox_prefix="_INBOX.manager",
            topology=Topology(),
        ) as bus:
            identity = self.server.identity
            credentials = Credentials(bus, identity, identity.minter(()), owner=self.node)
            crew = Crew(bus, Catalog.load())
            consumers = {(c.stream, c.name): c for c in bus.topology.consumers}
            testimony = Testimony(crew, credentials)
            unused = Host(self.server.url, self.host.directory, self.host.chance)
            runtimes: dict[str, Runtime] = {
                "process": SimulatedRuntime(self.host),
                "docker": SimulatedRuntime(unused),
            }
            commands = Commands(
                crew, credentials, consumers["JC_CMD", "mgr"], (), settings.caps,
                clean=_cleans_nothing, full=_never_full, engine_access=False,
            )  # fmt: skip
            around = Surroundings(
                crew=crew,
                credentials=credentials,
                commands=commands,
                settings=settings,
                runtimes=runtimes,
                ensure_image=_no_image,
                open_bus=_nothing,
                close_bus=_nothing,
                close_engine=_nothing,
                freeze_engine=_nothing,
                thaw_engine=_nothing,
                capacity=self._capacity,
                turns=Turns(settings.parallel_starts),
                evidence=Evidence(crew, credentials, runtimes, settings),
                last_beat=testimony.last_beat,
                warm=NoWarm(),
            )
            node = Node(around)
            presence = Presence(around, node.kept)
            await presence.take()
            stop = self.stop
            intake = Intake(crew, consumers["JC_TASK", "mgr"])
            jobs = {
                **consuming(bus, commands, intake, testimony),
                **keeping(around, node, presence),
            }
            async with answering(bus, testimony), asyncio.TaskGroup() as group:
                for job in jobs.values():
                    group.create_task(_of(job, stop))

    async def _capacity(self) -> Capacity:
        return Capacity(workers=self.max_workers, memory_mb=1 << 30)


async def _of(job: Job, stop: asyncio.Event) -> None:
    await job(stop)


async def _cleans_nothing(_: CleanUp) -> Result:
    return Result()


async def _never_full() -> str | None:
    return None


async def _no_image(_: WorkerRecord) -> str | None:
    return None


async def _nothing(_: object) -> None:
    return
