"""What changes what is there of a worker's: containers, networks and volumes made, begun, joined and removed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from services.worker_manager.engine_door import bodies, creation, shown
from services.worker_manager.engine_door.lookup import Lookup
from services.worker_manager.engine_door.owner import Owner, new_name
from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.engine_door.shares import check
from services.worker_manager.engine_door.target import Target
from services.worker_manager.engine_door.wire import EngineSocket

CONTAINERS, NETWORKS, VOLUMES = 32, 4, 32
"""How many of each a worker may have at once."""
Told = tuple[int, Any]
"""Status and body of an engine's answer."""
Change = Callable[[Target, str, Any], Awaitable[Told]]


class Changes:
    """One method a change, each called with the target, what its path names, and the body."""

    def __init__(self, owner: Owner, engine: EngineSocket, lookup: Lookup) -> None:
        self._owner = owner
        self._engine = engine
        self._lookup = lookup
        self.by_action: Mapping[str, Change] = {
            "create": self._create,
            "begin": self._begin,
            "rename": self._rename,
            "network-create": self._network_create,
            "network-remove": self._network_remove,
            "connect": self._connect,
            "disconnect": self._disconnect,
            "volume-create": self._volume_create,
            "volume-remove": self._volume_remove,
        }

    async def _create(self, target: Target, ref: str, body: Any) -> Told:
        name = target.query.get("name", "").removeprefix("/")
        if name:
            new_name(name, "container")
        asked = body.get("Image") if isinstance(body, dict) else None
        if not isinstance(asked, str) or not asked:
            raise Refusal("Image: the name of an image is expected", 400)
        image = await self._lookup.image(asked)
        own = await self._lookup.belongings()
        if len(own.containers) >= CONTAINERS:
            raise Refusal(f"this worker has {CONTAINERS} containers already; remove one")
        itself = await self._lookup.itself()
        around = creation.Around(
            owner=self._owner,
            own=own,
            cpus_there=await self._lookup.cpus(),
            version=target.version,
            workspace=itself.workspace if itself else "",
            image_volumes=(image.get("Config") or {}).get("Volumes") or (),
        )
        made = _checked(body, around)  # refused before anything is made for it
        if self._owner.egress and creation.names_no_network(body):
            around = replace(around, default_network=await self._default_network())
            made = _checked(body, around)
        for volume in made.volumes:
            await self._made_volume(
                {"Name": volume, "Driver": "local", "Labels": self._owner.labels}
            )
        query = {key: value for key, value in target.query.items() if key != "name"}
        sent = target.asking({**query, "name": name} if name else query)
        return _own_words(await self._engine.json("POST", sent, made.body), f"the name {name!r}")

    async def _default_network(self) -> str:
        own = await self._lookup.belongings()
        if self._owner.network in own.networks:
            return own.networks[self._owner.network]
        status, answer = await self._engine.json(
            "POST", "/networks/create", bodies.default_network(self._owner)
        )
        if status != 201:
            raise Refusal(shown.message(answer), status)
        return str(answer["Id"])

    async def _begin(self, target: Target, ref: str, body: Any) -> Told:
        own = await self._lookup.belongings()
        child = own.container(ref)
        check(child.share, own.shares(without=child.id), self._owner.limits)
        return await self._engine.json("POST", target.at(ref, child.id))

    async def _rename(self, target: Target, ref: str, body: Any) -> Told:
        name = new_name(target.query.get("name", "").removeprefix("/"), "container")
        identity = await self._lookup.container(ref)
        sent = target.at(ref, identity).asking({"name": name})
        return _own_words(await self._engine.json("POST", sent), f"the name {name!r}")

    async def _network_create(self, target: Target, ref: str, body: Any) -> Told:
        made = bodies.network(body, self._owner)
        own = await self._lookup.belongings()
        if len(own.networks) >= NETWORKS:
            raise Refusal(f"this worker has {NETWORKS} networks already; remove one")
        return _own_words(
            await self._engine.json("POST", target, made), f"the name {made['Name']!r}"
        )

    async def _network_remove(self, target: Target, ref: str, body: Any) -> Told:
        identity = (await self._lookup.belongings()).network(ref)
        return await self._engine.json("DELETE", target.at(ref, identity))

    async def _connect(self, target: Target, ref: str, body: Any) -> Told:
        member, endpoint = bodies.connection(body)
        identity = (await self._lookup.belongings()).network(ref)
        sent = {"Container": await self._lookup.member(member), "EndpointConfig": endpoint}
        return await self._engine.json("POST", target.at(ref, identity), sent)

    async def _disconnect(self, target: Target, ref: str, body: Any) -> Told:
        member, force = bodies.disconnection(body)
        identity = (await self._lookup.belongings()).network(ref)
        sent = {"Container": await self._lookup.member(member), "Force": force}
        return await self._engine.json("POST", target.at(ref, identity), sent)

    async def _volume_create(self, target: Target, ref: str, body: Any) -> Told:
        return await self._made_volume(bodies.volume(body or {}, self._owner))

    async def _made_volume(self, body: Mapping[str, Any]) -> Told:
        """An engine answers with the volume of that name, whoever's it is."""
        if len((await self._lookup.belongings()).volumes) >= VOLUMES:
            raise Refusal(f"this worker has {VOLUMES} volumes already; remove one")
        status, answer = await self._engine.json("POST", "/volumes/create", body)
        if status != 201:
            raise Refusal(shown.message(answer), status)
        if not self._owner.owns(answer.get("Labels")):
            raise Refusal(f"the name {body.get('Name')!r} is in use on this engine", 409)
        return status, answer

    async def _volume_remove(self, target: Target, ref: str, body: Any) -> Told:
        await self._lookup.volume(ref)
        return await self._engine.json("DELETE", target)


def _checked(body: Any, around: creation.Around) -> creation.Creation:
    """Clients take "not there" in answer to a create for the image, and pull it."""
    try:
        return creation.container(body, around)
    except Refusal as error:
        raise (Refusal(error.message, 400) if error.status == 404 else error) from None


def _own_words(answer: Told, what: str) -> Told:
    """An engine's refusal names whose a thing is."""
    if answer[0] == 409:
        raise Refusal(f"{what} is in use on this engine; take another one", 409)
    return answer
