"""The doors of a node's workers: opened, closed, and what was made through them cleared away."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import structlog
from docker.errors import APIError
from docker.utils import kwargs_from_env

from contracts.errors import ConfigurationInvalid, EngineRefused, EngineUnavailable, JetcrewError
from contracts.ids import NodeId
from contracts.worker import WorkerRecord
from services.kit.serve import Job
from services.kit.tasks import OwnsTasks
from services.worker_manager.crew import Crew
from services.worker_manager.engine_door.door import Door
from services.worker_manager.engine_door.images import Allowed
from services.worker_manager.engine_door.owner import KIND, Owner
from services.worker_manager.engine_door.policy import SOCKET_NAME, has_door, wants_door
from services.worker_manager.engine_door.wire import EngineSocket, Streams
from services.worker_manager.runtimes.engine import Engine, absent_is_fine
from services.worker_manager.runtimes.profile import Names
from services.worker_manager.sockets import listening

CONNECTIONS = 64
"""Open at once per worker; a compose project holds a few for each of its services."""
CLOSE_TIMEOUT = 30.0
"""Seconds that a change in progress has to end before its door closes over it."""
CONFLICT = 409
LOOK_EVERY = 30.0
"""Seconds between two looks for what belongs to no worker any more."""

log = structlog.get_logger()


def engine_address(host: str | None = None) -> str:
    """Where the engine's API is, as DOCKER_HOST or the default says.

    Raises:
        ConfigurationInvalid: not over a socket that a door can speak through.
    """
    given = kwargs_from_env()
    address = host or given.get("base_url") or "unix:///var/run/docker.sock"
    kind = address.partition("://")[0]
    if kind not in {"unix", "tcp"} or "tls" in given:
        raise ConfigurationInvalid(
            f"JETCREW_ENGINE__ACCESS needs an engine on unix:// or tcp:// without TLS, not {address}"
        )
    return address


@dataclass
class _Open:
    """One worker's socket and what goes through it."""

    door: Door
    server: asyncio.Server
    path: Path
    connections: set[asyncio.Task[None]] = field(default_factory=set)


class EngineDoors(OwnsTasks):
    """All of them, as an async context. `images`: patterns of what workers may use; None: no door is opened,
    and only what an earlier process left is cleared away."""

    def __init__(self, engine: Engine, names: Names, images: tuple[str, ...] | None) -> None:
        super().__init__()
        self._engine = engine
        self._names = names
        self._images = None if images is None else Allowed(images)
        self._socket = None if images is None else EngineSocket(engine_address(engine.host))
        self._open: dict[str, _Open] = {}
        self._frozen: dict[str, set[str]] = {}
        """Containers that were frozen with their worker, of workers that are known since they had none: what one
        has frozen itself stays so."""

    def _let_go(self) -> None:
        for worker in list(self._open):
            self._shut(worker)

    async def open(self, record: WorkerRecord, directory: Path) -> None:
        """Listen in `directory` for a worker that has the capability; no error when that is done already."""
        wanted = wants_door(record.spec) and record.runtime == "docker"
        if record.name in self._open or not wanted or self._images is None or not self._socket:
            return
        owner = Owner(
            names=self._names,
            worker=record.name,
            limits=record.spec.limits,
            egress=record.spec.network != "none",
            images=self._images,
        )
        door = Door(owner, self._socket)
        listener = listening(directory, SOCKET_NAME)
        server = await asyncio.start_unix_server(self._admit(record.name), sock=listener)
        self._open[record.name] = _Open(door, server, directory / SOCKET_NAME)
        log.info("engine_door.opened", worker=record.name, images=str(self._images))

    async def close(self, record: WorkerRecord) -> None:
        """Stop listening for a worker, let a change in progress end, and remove all that it made.

        Raises:
            EngineUnavailable: something of it may be left; to be repeated.
        """
        worker = record.name
        if (opened := self._open.get(worker)) is not None:
            opened.server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT), opened.door.changing:
                    self._shut(worker)
            self._shut(worker)
            opened.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                opened.path.parent.rmdir()
        if wants_door(record.spec) and record.runtime == "docker":
            await self._clear(worker)
            self._frozen[worker] = set()

    async def freeze(self, record: WorkerRecord) -> None:
        """Freeze what a worker made that runs, after the worker itself, which then makes nothing more.

        Raises:
            EngineUnavailable: something of it may run on; to be repeated.
        """
        worker = record.name
        if not wants_door(record.spec) or record.runtime != "docker":
            return
        opened = self._open.get(worker)
        async with opened.door.changing if opened else contextlib.nullcontext():
            frozen = await self._asked(worker, "running", lambda api, child: api.pause(child))
        if worker in self._frozen:
            self._frozen[worker] |= frozen

    async def thaw(self, record: WorkerRecord) -> None:
        """Thaw it, before the worker itself. Whoever does not know what was frozen thaws all of it.

        Raises:
            EngineUnavailable: something of it may be frozen still; to be repeated.
        """
        worker = record.name
        if not wants_door(record.spec) or record.runtime != "docker":
            return
        known = self._frozen.get(worker)
        await self._asked(worker, "paused", lambda api, child: api.unpause(child), known)
        self._frozen[worker] = set()

    async def _asked(
        self, worker: str, state: str, ask: Callable[[Any, str], None], only: set[str] | None = None
    ) -> set[str]:
        filters = {"label": _filters(self._names, worker), "status": [state]}

        def each(client: docker.DockerClient) -> set[str]:
            ids = {child["Id"] for child in client.api.containers(all=True, filters=filters)}
            chosen = ids if only is None else ids & only
            for child in chosen:
                with absent_is_fine(), _otherwise_by_now():
                    ask(client.api, child)
            return chosen

        try:
            return await self._engine.call(each)
        except EngineRefused as error:
            raise EngineUnavailable(f"what {worker} made could not be asked: {error}") from error

    @property
    def connections(self) -> dict[str, int]:
        """Open connections per worker."""
        return {worker: len(opened.connections) for worker, opened in self._open.items()}

    def clearing(self, crew: Crew, node: NodeId) -> Job:
        """A job that clears away what belongs to no worker of this node any more: a process that died may
        have left it."""

        async def job(stop: asyncio.Event) -> None:
            while not stop.is_set():
                try:
                    await self._clear_strays(crew, node)
                except (JetcrewError, TimeoutError) as error:
                    log.debug("engine_door.postponed", error=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await stop.wait()

        return job

    async def _clear_strays(self, crew: Crew, node: NodeId) -> None:
        for worker in await self._engine.call(self._with_children):
            held = await crew.workers.bucket.get(worker)
            if held is not None and not has_door(held.value, node):
                await self._clear(worker)  # what no record knows stays, as everywhere

    def _shut(self, worker: str) -> None:
        if (opened := self._open.pop(worker, None)) is not None:
            opened.server.close()
            for task in opened.connections:
                task.cancel()

    def _admit(self, worker: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened = self._open.get(worker)
            if opened is None or len(opened.connections) >= CONNECTIONS:
                writer.transport.abort()
                return
            task = self._group.create_task(
                _served(opened.door, (reader, writer)), name=f"engine door of {worker}"
            )
            opened.connections.add(task)
            task.add_done_callback(opened.connections.discard)

        return admit

    async def _clear(self, worker: str) -> None:
        filters = {"label": _filters(self._names, worker)}
        try:
            gone = await self._engine.call(lambda client: _removed(client, filters))
        except EngineRefused as error:  # the removal of a container that removes itself, say
            raise EngineUnavailable(f"what {worker} made is not gone yet: {error}") from error
        if gone:
            log.info("engine_door.cleared", worker=worker, removed=gone)

    def _with_children(self, client: docker.DockerClient) -> set[str]:
        filters = {"label": self._names.filters(KIND)}
        api = client.api
        listed = [
            *api.containers(all=True, filters=filters),
            *api.networks(filters=filters),
            *(api.volumes(filters=filters)["Volumes"] or ()),
        ]
        return {each["Labels"]["jetcrew.worker"] for each in listed}


async def _served(door: Door, streams: Streams) -> None:
    """A flaw in the door ends one connection, not the node."""
    try:
        await door.serve(streams)
    except Exception:
        log.exception("engine_door.failed")
        streams[1].transport.abort()
    except asyncio.CancelledError:
        streams[1].transport.abort()
        raise


@contextlib.contextmanager
def _otherwise_by_now() -> Iterator[None]:
    """A container that has ended, or was frozen or thawed, since it was listed."""
    try:
        yield
    except APIError as error:
        if error.status_code != CONFLICT:
            raise


def _filters(names: Names, worker: str) -> list[str]:
    return [f"{name}={value}" for name, value in names.labels(KIND, worker).items()]


def _removed(client: docker.DockerClient, filters: dict[str, Any]) -> int:
    """Containers first, which hold the rest; how many things there were."""
    api, gone = client.api, 0
    for container in api.containers(all=True, filters=filters):
        with absent_is_fine():
            api.remove_container(container["Id"], force=True, v=True)
        gone += 1
    for network in api.networks(filters=filters):
        with absent_is_fine():
            for member in api.inspect_network(network["Id"])["Containers"] or ():
                api.disconnect_container_from_network(member, network["Id"], force=True)
            api.remove_network(network["Id"])
        gone += 1
    for volume in api.volumes(filters=filters)["Volumes"] or ():
        with absent_is_fine():
            api.remove_volume(volume["Name"], force=True)
        gone += 1
    return gone
