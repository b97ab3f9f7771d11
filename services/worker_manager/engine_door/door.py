"""One worker's door: from a request to what the engine is asked, if anything."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import h11
import msgspec
import structlog

from contracts.errors import EngineUnavailable
from services.worker_manager.engine_door import bodies, shown
from services.worker_manager.engine_door.changes import Changes
from services.worker_manager.engine_door.lookup import Lookup
from services.worker_manager.engine_door.owner import Owner
from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.engine_door.routes import found
from services.worker_manager.engine_door.target import Target, parsed
from services.worker_manager.engine_door.wire import JSON, Caller, EngineSocket, Header, Streams

_UPGRADE: tuple[Header, ...] = (("Connection", "Upgrade"), ("Upgrade", "tcp"))
_TAR: tuple[Header, ...] = (("Content-Type", "application/x-tar"),)
_TOP = frozenset({"", "-ef", "aux", "-aux"})
"""What a worker may give to the host's `ps`."""

log = structlog.get_logger()
Parts = Mapping[str, str]


class Door:
    """Decides and asks. What changes what is there goes one at a time: a name means the same thing when it
    is checked and when it is used, since nobody else can change what is this worker's."""

    def __init__(self, owner: Owner, engine: EngineSocket) -> None:
        self._owner = owner
        self._engine = engine
        self._lookup = Lookup(owner, engine)
        self._changes = Changes(owner, engine, self._lookup)
        self.changing = asyncio.Lock()

    async def serve(self, streams: Streams) -> None:
        """One connection, from its request to the end of the answer."""
        caller = Caller(streams)
        try:
            await self._served(caller)
        except Refusal as error:
            await self._refuse(caller, error.status, error.message)
        except EngineUnavailable as error:
            await self._refuse(caller, 503, str(error))
        except TimeoutError:
            await self._refuse(caller, 408, "the request did not come to its end")
        except (OSError, h11.ProtocolError) as error:
            log.debug("engine_door.broken", worker=self._owner.worker, error=str(error))
        finally:
            await caller.end()

    async def _refuse(self, caller: Caller, status: int, message: str) -> None:
        tell = log.info if status == 403 else log.debug
        tell(
            "engine_door.refused",
            worker=self._owner.worker,
            method=caller.method[:20],
            target=caller.target[:200].decode("ascii", errors="replace"),
            status=status,
            why=message,
        )
        try:
            await caller.message(status, message)
        except (OSError, h11.ProtocolError) as error:
            log.debug("engine_door.broken", worker=self._owner.worker, error=str(error))

    async def _served(self, caller: Caller) -> None:
        if not await caller.begin():
            return
        target = parsed(caller.target)
        action, parts = found(caller.method, target)
        if action == "upload":
            await self._upload(caller, target, parts["ref"])
        elif (change := self._changes.by_action.get(action)) is not None:
            body = await caller.json()
            async with self.changing:
                status, answer = await change(target, parts.get("ref", ""), body)
            data = b"" if answer is None else msgspec.json.encode(answer)
            await caller.answer(status, [JSON] if data else [], data)
        elif action in {"info", "images"}:
            await caller.nothing()
            told = await (self._info() if action == "info" else self._images(target))
            await caller.answer(200, [JSON], msgspec.json.encode(told))
        elif action in {"attach", "exec-start"}:
            await self._hijack(caller, action, target, parts["ref"])
        else:
            await self._forward(caller, action, target, parts)

    # -- what is passed on ------------------------------------------------------------------------

    async def _forward(self, caller: Caller, action: str, target: Target, parts: Parts) -> None:
        """What changes nothing but a thing of the worker's own, its answer as it comes."""
        if action == "exec":
            body = msgspec.json.encode(bodies.command(await caller.json()))
        else:
            await caller.nothing()
            body = b""
        sent = await self._resolved(action, target, parts)
        async with self._engine.ask(
            caller.method, sent, headers=(JSON,) if body else (), body=body or None
        ) as answer:
            if action == "ping":
                await caller.answer(
                    answer.status, shown.ping(answer), b"OK" * (caller.method == "GET")
                )
            else:
                await caller.relay(answer)

    async def _resolved(self, action: str, target: Target, parts: Parts) -> Target:
        """The target with ids for names, and with filters for what is the worker's own."""
        ref, query = parts.get("ref", ""), dict(target.query)
        match action:
            case "of-container" | "exec":
                return target.at(ref, await self._lookup.container(ref))
            case "top":
                if query.get("ps_args", "") not in _TOP:
                    raise Refusal("ps_args: only -ef and aux are for workers")
                return target.at(ref, await self._lookup.container(ref))
            case "of-exec":
                await self._lookup.exec(ref)
            case "of-network":
                return target.at(ref, (await self._lookup.belongings()).network(ref))
            case "of-volume":
                await self._lookup.volume(ref)
            case "of-image":
                await self._lookup.image(ref)
            case "pull":
                return target.asking(shown.pull(query, self._owner.images))
            case "containers" | "networks" | "volumes" | "events":
                given = shown.filters(action, query.get("filters", ""))
                return target.asking({**query, "filters": self._owner.filters(given)})
        return target

    async def _hijack(self, caller: Caller, action: str, target: Target, ref: str) -> None:
        """A connection that carries a container's input and output, or the start of a command that has none."""
        body: bytes | None = None
        if action == "attach":
            await caller.nothing()
            target = target.at(ref, await self._lookup.container(ref))
        else:
            start = bodies.command_start(await caller.json())
            await self._lookup.exec(ref)
            body = msgspec.json.encode(start)
            if start.get("Detach"):
                async with self._engine.ask("POST", target, headers=(JSON,), body=body) as answer:
                    await caller.relay(answer)
                return
        if not caller.upgrades:
            raise Refusal("send `Connection: Upgrade` and `Upgrade: tcp`", 400)
        headers = (*_UPGRADE, JSON) if body is not None else _UPGRADE
        async with self._engine.ask("POST", target, headers=headers, body=body) as answer:
            if answer.status == 101:
                await caller.upgrade(answer)
            else:
                await caller.relay(answer)

    async def _upload(self, caller: Caller, target: Target, ref: str) -> None:
        """An archive into a container: its bytes as they are, their framing anew."""
        identity = await self._lookup.container(ref)
        content: AsyncIterator[bytes] = caller.chunks()
        async with self._engine.ask(
            "PUT", target.at(ref, identity), headers=_TAR, body=content
        ) as answer:
            await caller.relay(answer)

    # -- what is read whole -----------------------------------------------------------------------

    async def _info(self) -> Any:
        _, told = await self._engine.json("GET", "/info")
        return shown.info(told, self._owner, await self._lookup.belongings())

    async def _images(self, target: Target) -> Any:
        status, listed = await self._engine.json("GET", target)
        if status != 200:
            raise Refusal(shown.message(listed), status)
        return shown.images(listed, self._owner.images)
