"""Connections of the stock client library: what somebody with a credential and no manners can do."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.errors import Error

from contracts.bus import Bus, connect
from contracts.ids import nonce
from contracts.topology import Topology
from services.kit.identity.claims import creds_text
from services.kit.identity.keys import KeyPair
from services.kit.identity.workers import LIFE, new_user
from tests.support.servers import Server

INBOXES = {"operator": "ops.operator"}
VERBS = frozenset({"git.token", "project.get", "respond"})


@dataclass
class Raw:
    """One connection, and what the server refused it."""

    nc: Client
    refused: list[str] = field(default_factory=list)
    """Error texts, in lower case as the library gives them."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def may_publish(self, subject: str, body: bytes = b"{}", reply: str = "") -> bool:
        """Publish, and tell whether the server took it."""
        before = len(self.refused)
        await self.nc.publish(subject, body, reply=reply)
        await self.nc.flush()
        return len(self.refused) == before

    async def may_subscribe(self, subject: str) -> bool:
        """Subscribe for a moment, and tell whether the server let it."""
        before = len(self.refused)
        subscription = await self.nc.subscribe(subject)
        await self.nc.flush()
        allowed = len(self.refused) == before
        await subscription.unsubscribe()
        await self.nc.flush()
        return allowed


@dataclass
class RawWorker(Raw):
    """A worker's, made by hand with its credential."""

    name: str = ""
    user: KeyPair = field(default_factory=new_user)
    nonce: str = field(default_factory=nonce)
    verbs: Sequence[str] = ()
    creds: Path = Path()

    def renew(self, server: Server, ttl: float = LIFE) -> None:
        """A new JWT for the key it has, in the file it has."""
        minter = server.identity.minter(VERBS)
        credential = minter.mint(self.name, self.user.public, self.verbs, self.nonce, ttl)
        self.creds.write_text(creds_text(credential.jwt, self.user.seed))


@asynccontextmanager
async def raw_role(server: Server, role: str) -> AsyncIterator[Raw]:
    """Connected with the credentials of a role."""
    raw = Raw(Client())
    async with _connected(raw, server, server.creds(role), INBOXES.get(role, role)):
        yield raw


@asynccontextmanager
async def raw_worker(
    server: Server, name: str, *, verbs: Sequence[str] = (), ttl: float = LIFE
) -> AsyncIterator[RawWorker]:
    """Connected with a fresh credential of a worker."""
    worker = RawWorker(Client(), name=name, verbs=verbs)
    worker.creds = server.state.root / f"{name}-{worker.nonce}.creds"
    worker.renew(server, ttl)
    async with _connected(worker, server, worker.creds, name):
        yield worker


@asynccontextmanager
async def _connected(raw: Raw, server: Server, creds: Path, inbox: str) -> AsyncIterator[None]:
    async def on_error(error: Exception) -> None:
        raw.refused.append(str(error))

    async def on_closed() -> None:
        raw.closed.set()

    await raw.nc.connect(
        server.url,
        user_credentials=str(creds),
        inbox_prefix=f"_INBOX.{inbox}",
        error_cb=on_error,
        closed_cb=on_closed,
        max_reconnect_attempts=3,
        reconnect_time_wait=1,
    )
    try:
        yield
    finally:
        await raw.nc.close()


async def lets_in(server: Server, creds: Path) -> bool:
    """Whether the server takes a connection with these credentials."""
    errors: list[Exception] = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    try:
        nc = await nats.connect(
            server.url,
            user_credentials=str(creds),
            max_reconnect_attempts=1,
            error_cb=on_error,
        )
    except (Error, OSError):
        assert any("authorization" in str(error).lower() for error in errors), errors
        return False
    await nc.close()
    return True


@asynccontextmanager
async def control_plane(server: Server, role: str = "manager") -> AsyncIterator[Bus]:
    """Our own connection, with the rights of the control plane."""
    async with connect(
        server.url,
        name=role,
        creds=server.creds(role),
        inbox_prefix=f"_INBOX.{role}",
        topology=Topology(),
        patience=10,
    ) as bus:
        yield bus
