"""Making containers: what the runtime starts for a worker, and what waits for one."""

import asyncio
from collections.abc import Mapping
from typing import Any

import docker as docker_sdk

from contracts.errors import EngineUnavailable, ImageMissing
from services.worker_manager.runtimes import profile
from services.worker_manager.runtimes.engine import Engine, NotFound, absent_is_fine

PLACE = "jetcrew.place"
"""Label: whose volumes these are, or a worker's, when they were made before there was a worker for them."""

Client = docker_sdk.DockerClient


class Maker:
    """Creates and starts containers, and knows where their volumes are.

    A worker whose container was made before it was known has the volumes of that container, for good. A
    volume that holds nothing, named after the worker, tells so by its label: it is found as long as the
    volumes themselves are, whatever becomes of the container, of the records and of this host's files.
    """

    def __init__(self, engine: Engine, names: profile.Names) -> None:
        self._engine = engine
        self._names = names
        self._cpus: float | None = None
        self.network = asyncio.Lock()
        """Held while the network is made or removed."""

    async def make(self, wanted: profile.Wanted) -> str:
        """Create and start a container; its id.

        Raises:
            ImageMissing, EngineRefused, EngineUnavailable
        """
        arguments = profile.worker_container(
            self._names, wanted, cpus_there=await self._cpus_there()
        )
        if wanted.directory is not None:
            wanted.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        if wanted.network == "bridge":
            await self._ensure_network()
        try:
            return await self._engine.call(lambda client: _created_and_started(client, arguments))
        except ImageMissing:
            raise ImageMissing(wanted.image) from None
        except NotFound as error:
            raise EngineUnavailable(
                f"the container engine lost what it was given: {error}"
            ) from error

    async def inspect(self, container: str) -> Mapping[str, Any] | None:
        """What the engine knows of a container; None when there is none."""

        def inspect(client: Client) -> Mapping[str, Any] | None:
            with absent_is_fine():
                found: Mapping[str, Any] = client.api.inspect_container(container)
                return found
            return None

        return await self._engine.call(inspect)

    async def place_of(self, worker: str) -> str | None:
        """The token in the names of a worker's volumes; None when it has none yet."""

        def look(client: Client) -> str | None:
            with absent_is_fine():
                deed = client.api.inspect_volume(self._names.volume(worker, "place"))
                return str(deed["Labels"][PLACE])
            with absent_is_fine():
                client.api.inspect_volume(self._names.volume(worker, "workspace"))
                return worker
            return None

        return await self._engine.call(look)

    async def settle(self, worker: str, place: str) -> None:
        """Give the volumes of a place to a worker."""
        await self._engine.call(
            lambda client: client.api.create_volume(
                self._names.volume(worker, "place"),
                labels=self._names.labels("place", worker) | {PLACE: place},
            )
        )

    async def remove(self, container: str) -> None:
        """Kill it where it runs; no error when there is none."""
        await self.attempt(
            lambda client: client.api.remove_container(container, force=True, v=True)
        )

    async def remove_volumes(self, place: str, *, worker: str | None = None) -> None:
        """Those of a place, and last what gives them to a worker."""
        for kind in profile.VOLUMES:
            await self._remove_volume(self._names.volume(place, kind))
        if worker is not None and worker != place:
            await self._remove_volume(self._names.volume(worker, "place"))

    async def _remove_volume(self, volume: str) -> None:
        await self.attempt(lambda client: client.api.remove_volume(volume))

    async def attempt(self, work: Any) -> None:
        """For what is done already when the thing is gone."""

        def attempt(client: Client) -> None:
            with absent_is_fine():
                work(client)

        await self._engine.call(attempt)

    async def _ensure_network(self) -> None:
        """One bridge for all workers of this node, which cannot reach each other on it. One for each of
        them would exhaust an engine's address pools at some thirty workers."""

        def ensure(client: Client) -> None:
            if client.api.networks(filters={"label": self._names.filters("network")}):
                return
            client.api.create_network(
                self._names.network,
                driver="bridge",
                check_duplicate=True,
                labels=self._names.labels("network"),
                options={"com.docker.network.bridge.enable_icc": "false"},
            )

        async with self.network:
            await self._engine.call(ensure)

    async def _cpus_there(self) -> float:
        if self._cpus is None:
            self._cpus = float(await self._engine.call(lambda client: client.info()["NCPU"]))
        return self._cpus


def _created_and_started(client: Client, arguments: profile.Arguments) -> str:
    container = client.containers.create(**arguments)
    try:
        container.start()
    except BaseException:
        with absent_is_fine():
            container.remove(force=True, v=True)
        raise
    return str(container.id)
