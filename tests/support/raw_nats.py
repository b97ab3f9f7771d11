"""Connections of the stock client library: what somebody with a credential and no manners can do."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import nats
from nats.aio.client import Client
from nats.errors import Error

from contracts.bus import Bus, connect
from contracts.ids import WorkerId, nonce
from contracts.topology import Topology
from services.kit.identity.claims import creds_text
from services.kit.identity.keys import KeyPair
from services.kit.identity.workers import LIFE, new_user
from tests.support.servers import Server

INBOXES = {"operator": "ops.operator"}
BARRIER = Topology().subjects.events_of_worker(WorkerId("barrier")).removesuffix(".>")
VERBS = frozenset({"git.token", "project.get", "respond"})


@dataclass
class Raw:
    """One connection, and what the server refused it."""

    nc: Client
    refused: list[str] = field(default_factory=list)
    """Error texts, in lower case as the library gives them."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each refusal."""

    async def settled(self) -> None:
        """Wait until the server has dealt with everything sent so far.

        The library's own `flush` does not tell: its ping can overtake what is still buffered. So
        something that is refused to everybody outside is sent, and its refusal awaited.
        """
        mark = f"{BARRIER}.{nonce()}"
        await self.nc.publish(mark, b"")
        async with asyncio.timeout(20):
            while not any(mark in text for text in self.refused):
                self.news.clear()
                await self.news.wait()
        self.refused = [text for text in self.refused if BARRIER not in text]

    async def publishable(
        self, subjects: Sequence[str], body: bytes = b"{}", reply: str = ""
    ) -> list[str]:
        """Publish on each, and tell which the server let through."""
        before = len(self.refused)
        for subject in subjects:
            await self.nc.publish(subject, body, reply=reply)
        await self.settled()
        return self._let(subjects, before)

    async def subscribable(self, subjects: Sequence[str]) -> list[str]:
        """Subscribe to each for a moment, and tell which the server let."""
        before = len(self.refused)
        subscriptions = [await self.nc.subscribe(subject) for subject in subjects]
        await self.settled()
        for subscription in subscriptions:
            await subscription.unsubscribe()
        return self._let(subjects, before)

    def _let(self, subjects: Sequence[str], before: int) -> list[str]:
        refused = "\n".join(self.refused[before:])
        return [subject for subject in subjects if f'"{subject.lower()}"' not in refused]


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
    async with raw_creds(server, server.creds(role), INBOXES.get(role, role)) as raw:
        yield raw


@asynccontextmanager
async def raw_creds(server: Server, creds: Path, inbox: str) -> AsyncIterator[Raw]:
    """Connected with a credentials file; `inbox` stands behind `_INBOX.`."""
    raw = Raw(Client())
    async with _connected(raw, server, creds, inbox):
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
        if "violation" in str(error):
            raw.refused.append(str(error))
            raw.news.set()

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


async def everything(bus: Bus) -> dict[str, tuple[int, int, int]]:
    """Of each stream that is there: last sequence, messages, consumers. Any write, purge, creation or
    deletion shows."""
    answer = msgspec.json.decode((await bus.request("$JS.API.STREAM.LIST", b"")).data)
    found = {}
    for stream in answer["streams"]:
        state = stream["state"]
        found[stream["config"]["name"]] = (
            state["last_seq"],
            state["messages"],
            state["consumer_count"],
        )
    assert len(found) == answer["total"] > 0
    return found
