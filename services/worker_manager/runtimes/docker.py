"""Workers as containers of a Docker engine."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import docker as docker_sdk
import structlog

from contracts.errors import EngineRefused, EngineUnavailable, JetcrewError, NotThere
from contracts.evidence import Resources
from contracts.worker import ExecOutcome
from services.worker_manager.runtimes import Exit, Layout, Unit, UnitSpec, UnitState, profile
from services.worker_manager.runtimes.delivery import deliver
from services.worker_manager.runtimes.ends import Outage, exit_of, moment
from services.worker_manager.runtimes.engine import Engine, NotFound, absent_is_fine
from services.worker_manager.runtimes.execs import run_inside
from services.worker_manager.runtimes.files import tar_of_files
from services.worker_manager.runtimes.handover import Handover
from services.worker_manager.runtimes.making import Maker
from services.worker_manager.runtimes.usage import resources_of
from services.worker_manager.runtimes.warm import WarmContainers
from services.worker_manager.waits import set_within

TAIL_LINES = 50
HANDED_OVER_WITHIN = 60
"""Seconds from a container's start to its wrapper having its boot files."""
RECONNECT = (0.2, 5.0)
"""Seconds between two tries to reach an engine that went away: the first, and the longest."""
LIVE: frozenset[str] = frozenset({"running", "paused"})

T = TypeVar("T")
Client = docker_sdk.DockerClient
log = structlog.get_logger()


class DockerRuntime:
    """Units are hardened containers named after crew and worker, found again by their labels.

    `workers` holds a run directory per worker, whose `bus` directory is mounted into it; with `bus`, a URL
    that containers can reach, nothing is mounted.
    """

    name: Literal["docker"] = "docker"

    def __init__(
        self, engine: Engine, *, crew: str, node: str, workers: Path, bus: str | None = None
    ) -> None:
        self._engine = engine
        self._names = profile.Names(crew, node)
        self._workers = workers
        self._bus = bus
        self._starting: set[str] = set()
        self._oom: set[str] = set()
        self._outage: Outage | None = None
        self._linux = False
        self._maker = Maker(engine, self._names)
        self.warm = WarmContainers(engine, self._names, self._maker, workers)

    async def available(self) -> str | None:
        """None when an engine for Linux containers answers."""
        try:
            if self._linux:
                await self._engine.ping()
                return None
            kind = await self._engine.call(lambda client: client.info().get("OSType"))
        except JetcrewError as error:
            return f"{error}; start docker, or make workers with runtime process"
        self._linux = kind == "linux"
        return (
            None if self._linux else f"the container engine runs {kind} containers, not linux ones"
        )

    def layout(self, worker: str, agent: str) -> Layout:
        """Paths inside the container, the same for all workers and agents."""
        return Layout(
            agent_file=profile.AGENT_FILE,
            workspace=profile.WORKSPACE,
            home=profile.HOME,
            bus=self._bus or f"unix:{profile.BUS_DIRECTORY}/bus.sock",
            path=profile.PATH,
        )

    async def start(self, spec: UnitSpec) -> Unit:
        """Adopt the warm container that was reserved for the worker, or create and start one, then hand over
        the boot files; adopt what an earlier call got done of it."""
        self._starting.add(spec.worker)
        try:
            return await self._start(spec)
        finally:
            self._starting.discard(spec.worker)

    async def stop(self, worker: str, grace: float) -> Exit | None:
        """SIGTERM, then SIGKILL after `grace`, rounded up to whole seconds."""
        container = await self._find(worker)
        if container is None:
            return None
        if container["State"]["Status"] in LIVE:
            await self._maker.attempt(
                lambda client: client.api.stop(container["Id"], timeout=math.ceil(grace))
            )
        unit = await self._look(container["Id"])
        return unit.exit if unit else None

    async def remove(self, worker: str, keep_volumes: bool) -> None:
        """The container, its volumes unless kept, and the network once no container is left for it."""
        if (container := await self._find(worker)) is not None:
            await self._maker.remove(container["Id"])
            self._oom.discard(container["Id"])
        if not keep_volumes:
            place = await self._maker.place_of(worker)
            await self._maker.remove_volumes(place or worker, worker=worker)
        if container is not None or not keep_volumes:
            await self.remove_network_unless_used()

    async def remove_network_unless_used(self) -> None:
        """Once no container is left for it."""
        async with self._maker.network:
            if not self._starting and not await self._containers():
                await self._maker.attempt(
                    lambda client: client.api.remove_network(self._names.network)
                )

    async def pause(self, worker: str) -> None:
        """Freeze the container's processes."""
        container = await self._live(worker)
        if container["State"]["Status"] == "running":
            await self._engine.call(lambda client: client.api.pause(container["Id"]))

    async def resume(self, worker: str) -> None:
        """Thaw them."""
        container = await self._live(worker)
        if container["State"]["Status"] == "paused":
            await self._engine.call(lambda client: client.api.unpause(container["Id"]))

    async def exits(self, stop: asyncio.Event) -> AsyncIterator[Unit]:
        """From the engine's event stream, taken up again where it broke."""
        since: str | None = None
        delay = RECONNECT[0]
        while not stop.is_set():
            try:
                since = since or await self._engine_time()
                async for event in self._events(since, stop):
                    since, delay = _just_after(event), RECONNECT[0]
                    self._end_outage()
                    if (unit := await self._ended(event)) is not None:
                        yield unit
            except (EngineUnavailable, EngineRefused) as error:
                log.warning("engine.unavailable", error=str(error), again_in=delay)
            if not stop.is_set():
                self._begin_outage()
                await set_within(stop, delay)
                delay = min(delay * 2, RECONNECT[1])

    async def exec(self, worker: str, argv: Sequence[str], timeout: float) -> ExecOutcome:
        """By the engine's own exec, beside the wrapper."""
        identity: str = (await self._live(worker))["Id"]
        return await self._engine.call(lambda client: run_inside(client, identity, argv, timeout))

    async def logs(self, worker: str, lines: int = 200) -> str:
        """The wrapper's stdout and stderr."""
        return await self._tail(self._names.container(worker), lines)

    async def resources(self, worker: str) -> Resources | None:
        """By the engine's own measure."""
        found = await self._find(worker)
        return await self._engine.call(lambda client: resources_of(client, found))

    async def list(self) -> list[Unit]:
        """All containers that carry our labels, except one that is being created at this moment."""
        units = []
        for summary in await self._containers():
            worker = self._names.worker_of(summary["Names"][0])
            if worker is None or (summary["State"] == "created" and worker in self._starting):
                continue
            if (unit := await self._summarised(summary)) is not None:
                units.append(unit)
        self._end_outage()
        return units

    async def find(self, worker: str) -> Unit | None:
        """By the container's name."""
        container = await self._find(worker)
        if container is None or (
            container["State"]["Status"] == "created" and worker in self._starting
        ):
            return None
        return await self._unit_of(container)

    async def _summarised(self, summary: Mapping[str, Any]) -> Unit | None:
        """What a list says is enough of those that live; how the others ended takes a closer look."""
        if summary["State"] not in LIVE:
            return await self._look(summary["Id"])
        return Unit(
            id=summary["Id"],
            worker=self._names.worker_of(summary["Names"][0]) or "",
            incarnation=_incarnation(summary["Labels"]),
            state=summary["State"],
        )

    async def _start(self, spec: UnitSpec) -> Unit:
        identity = await self._adopted(spec)
        if identity is None:
            container = await self._find(spec.worker)
            if container is not None and not _is(container, spec):
                await self._maker.remove(container["Id"])
                container = None
            if container is None:
                identity = await self._begun(spec)
            else:
                identity = str(container["Id"])
                await self._delivered(identity, spec)
        unit = await self._look(identity)
        if unit is None:
            raise EngineRefused(
                f"the container of worker {spec.worker} was removed while it started"
            )
        return unit

    async def _adopted(self, spec: UnitSpec) -> str | None:
        """The warm container that was reserved for the worker, its own now; None when there is none to be had."""
        if (warm := self.warm.reserved(spec.worker, spec.incarnation)) is None:
            return None
        try:
            return await self.warm.adopt(warm, spec.worker, spec.files)
        except EngineRefused as error:
            log.info("warm.not_adopted", worker=spec.worker, reason=str(error))
            return None

    async def _begun(self, spec: UnitSpec) -> str:
        """A container for it that had none."""
        place = await self._maker.place_of(spec.worker)
        wanted = self._wanted(spec, place or spec.worker)
        if wanted.directory is None or not spec.files:
            identity = await self._maker.make(wanted)
            await self._delivered(identity, spec)
        else:
            identity = await self._handed_over(wanted, wanted.directory, spec)
        log.info("unit.started", worker=spec.worker, unit=identity[:12], runtime=self.name)
        return identity

    async def _handed_over(self, wanted: profile.Wanted, directory: Path, spec: UnitSpec) -> str:
        """Make a container and give it its boot files; it may end before it has them."""
        handover = Handover()
        handover.give(spec.files)
        await handover.open(directory)
        try:
            identity = await self._maker.make(wanted)
            for _ in range(HANDED_OVER_WITHIN):
                done, _ = await asyncio.wait({handover.taken}, timeout=1.0)
                unit = None if done else await self._look(identity)
                if done or unit is None or unit.state == "exited":
                    return identity
        finally:
            handover.close()
        raise EngineRefused(f"the container of worker {spec.worker} did not take its boot files")

    async def _delivered(self, identity: str, spec: UnitSpec) -> None:
        """By exec, where there is no socket between it and us, or not any more."""
        if not spec.files:
            return
        archive = tar_of_files(spec.files, profile.UID)
        try:
            await self._engine.call(lambda client: deliver(client, identity, archive))
        except (EngineRefused, NotFound):
            unit = await self._look(identity)
            if unit is None or unit.state != "exited":
                raise

    def _wanted(self, spec: UnitSpec, place: str) -> profile.Wanted:
        assert spec.image is not None, "a container needs an image"
        volume_labels = {k: self._names.labels(k, spec.worker) for k in profile.VOLUMES}
        return profile.Wanted(
            name=self._names.container(spec.worker),
            hostname=spec.worker,
            labels=self._names.labels("worker", spec.worker, spec.incarnation),
            volumes={kind: self._names.volume(place, kind) for kind in profile.VOLUMES},
            volume_labels=volume_labels,
            image=spec.image,
            limits=spec.limits,
            network=spec.network,
            directory=None if self._bus else self._workers / spec.worker / "bus",
        )

    async def _containers(self) -> Any:
        """Of workers, and of none as yet."""
        filters = {"label": self._names.filters()}
        return await self._engine.call(
            lambda client: client.api.containers(all=True, filters=filters)
        )

    async def _find(self, worker: str) -> Mapping[str, Any] | None:
        return await self._maker.inspect(self._names.container(worker))

    async def _live(self, worker: str) -> Mapping[str, Any]:
        container = await self._find(worker)
        if container is None or container["State"]["Status"] not in LIVE:
            raise NotThere(f"worker {worker} does not run")
        return container

    async def _look(self, identity: str) -> Unit | None:
        container = await self._maker.inspect(identity)
        return None if container is None else await self._unit_of(container)

    async def _unit_of(self, container: Mapping[str, Any]) -> Unit | None:
        identity, status = container["Id"], container["State"]["Status"]
        if status == "removing":
            return None
        state: UnitState = "running" if status in {"running", "restarting"} else "exited"
        state = "paused" if status == "paused" else state
        end = None
        if state == "exited":
            tail = await self._tail(identity, TAIL_LINES)
            oom = identity in self._oom
            end = exit_of(container["State"], oom_seen=oom, outage=self._outage, log_tail=tail)
        labels = container["Config"]["Labels"]
        return Unit(
            id=identity,
            worker=self._names.worker_of(container["Name"]) or "",
            incarnation=_incarnation(labels),
            state=state,
            exit=end,
        )

    async def _tail(self, container: str, lines: int) -> str:
        def tail(client: Client) -> str:
            with absent_is_fine():
                return client.api.logs(container, tail=lines).decode(errors="replace").rstrip("\n")
            return ""

        return await self._engine.call(tail)

    def _events(self, since: Any, stop: asyncio.Event) -> AsyncIterator[Any]:
        ours = self._names.filters()
        filters: dict[str, Any] = {"type": "container", "event": ["die", "oom"], "label": ours}
        return self._engine.stream(
            lambda client: client.events(since=since, filters=filters, decode=True), stop
        )

    async def _engine_time(self) -> str:
        """By the engine's clock, since its events are."""
        told = await self._engine.call(lambda client: str(client.info()["SystemTime"]))
        return f"{(moment(told) or datetime.now(UTC)).timestamp():.6f}"

    async def _ended(self, event: Mapping[str, Any]) -> Unit | None:
        identity: str = event["Actor"]["ID"]
        worker = self._names.worker_of(event["Actor"]["Attributes"].get("name", ""))
        if worker is None:
            return None
        if event["Action"] == "oom":
            self._oom.add(identity)
            return None
        unit = await self._look(identity)
        if unit is not None:
            return unit if unit.state == "exited" else None
        labels = event["Actor"]["Attributes"]
        state = {"ExitCode": labels.get("exitCode", 0)}
        gone = exit_of(state, oom_seen=False, outage=self._outage, log_tail="")
        return Unit(
            id=identity,
            worker=worker,
            incarnation=_incarnation(labels),
            state="exited",
            exit=gone,
        )

    def _begin_outage(self) -> None:
        if self._outage is None or self._outage.ended is not None:
            self._outage = Outage(began=datetime.now(UTC))

    def _end_outage(self) -> None:
        if self._outage is not None and self._outage.ended is None:
            self._outage = Outage(began=self._outage.began, ended=datetime.now(UTC))


def _is(container: Mapping[str, Any], spec: UnitSpec) -> bool:
    """Whether it is this very unit and alive, to be adopted."""
    labels = container["Config"]["Labels"]
    return container["State"]["Status"] in LIVE and _incarnation(labels) == spec.incarnation


def _incarnation(labels: Mapping[str, str]) -> int:
    return int(labels.get("jetcrew.incarnation", 0))


def _just_after(event: Mapping[str, Any]) -> str:
    """`since` is inclusive."""
    seconds, nanos = divmod(int(event["timeNano"]) + 1, 1_000_000_000)
    return f"{seconds}.{nanos:09d}"
