"""What is there of a worker's own on the engine. Nothing else is ever named to the engine by a worker."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.worker_manager.engine_door import shown
from services.worker_manager.engine_door.owner import Belongings, Owner, children
from services.worker_manager.engine_door.refusal import Refusal, absent
from services.worker_manager.engine_door.target import Target
from services.worker_manager.engine_door.wire import EngineSocket
from services.worker_manager.runtimes.profile import WORKSPACE

_IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{4,64}")


@dataclass(frozen=True, kw_only=True)
class Itself:
    """A worker's own container."""

    id: str
    host: str
    """Its name for itself."""
    workspace: str
    """Name of the volume that it works in."""


class Lookup:
    """Asks the engine."""

    def __init__(self, owner: Owner, engine: EngineSocket) -> None:
        self._owner = owner
        self._engine = engine
        self._cpus: float | None = None

    async def belongings(self) -> Belongings:
        """All that carries the worker's labels."""
        query = {"filters": self._owner.filters()}
        containers = await self._told(Target(path="/containers/json", query={**query, "all": "1"}))
        networks = await self._told(Target(path="/networks", query=query))
        volumes = await self._told(Target(path="/volumes", query=query))
        return Belongings(
            containers=children(containers),
            networks={each["Name"]: each["Id"] for each in networks},
            volumes=frozenset(each["Name"] for each in volumes.get("Volumes") or ()),
        )

    async def container(self, ref: str) -> str:
        """Id of one of the worker's containers.

        Raises:
            Refusal: it has none by that.
        """
        query = {"filters": self._owner.filters(), "all": "1"}
        listed = await self._told(Target(path="/containers/json", query=query))
        return Belongings(containers=children(listed)).container(ref).id

    async def exec(self, identity: str) -> None:
        """Raises:
        Refusal: the command does not run in a container of the worker's.
        """
        status, told = await self._engine.json("GET", f"/exec/{identity}/json")
        if status != 200:
            raise absent("exec instance", identity)
        try:
            await self.container(told["ContainerID"])
        except Refusal:
            raise absent("exec instance", identity) from None

    async def volume(self, name: str) -> None:
        """Raises:
        Refusal: the worker has none by that name.
        """
        volumes = (await self.belongings()).volumes
        if name not in volumes:
            raise absent("volume", name)

    async def image(self, name: str) -> Mapping[str, Any]:
        """What the engine says of an image.

        Raises:
            Refusal: not allowed, or not there.
        """
        allowed = self._owner.images
        by_id = _IMAGE_ID.fullmatch(name) is not None
        if not by_id and not allowed.allows(name):
            raise Refusal(f"the image {name[:200]!r} is not among those for workers: {allowed}")
        if not by_id and not shown.plain_reference(name):
            raise Refusal(f"{name[:200]!r} is not the name of an image", 400)
        status, told = await self._engine.json("GET", f"/images/{name}/json")
        # a name may also be the beginning of an id, and then mean any image
        if status != 200 or not allowed.among(
            [*(told.get("RepoTags") or ()), *(told.get("RepoDigests") or ())]
        ):
            raise absent("image", name)
        found: Mapping[str, Any] = told
        return found

    async def itself(self) -> Itself | None:
        """The worker's own container, which bears a name that no child can take."""
        status, told = await self._engine.json("GET", f"/containers/{self._owner.container}/json")
        if status != 200:
            return None
        mounted = {each["Destination"]: each.get("Name", "") for each in told["Mounts"]}
        return Itself(
            id=told["Id"], host=told["Config"]["Hostname"], workspace=mounted.get(WORKSPACE, "")
        )

    async def member(self, ref: str) -> str:
        """Id of what may be on the worker's networks: its containers, and the worker itself."""
        try:
            return await self.container(ref)
        except Refusal:
            itself = await self.itself()
            if itself is None or ref not in {
                self._owner.worker, self._owner.container, itself.host, itself.id, itself.id[:12],
            }:  # fmt: skip
                raise
            return itself.id

    async def cpus(self) -> float:
        """How many the engine has."""
        if self._cpus is None:
            self._cpus = float((await self._told(Target(path="/info")))["NCPU"])
        return self._cpus

    async def _told(self, target: Target) -> Any:
        status, told = await self._engine.json("GET", target)
        if status != 200:
            raise Refusal(shown.message(told), 503)
        return told
