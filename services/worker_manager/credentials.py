"""Workers' credentials, nonces and secrets: made here, kept in a bucket that only the control plane reads."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog
from msgspec import Struct

from contracts.asks import CredentialAnswer
from contracts.bus import Bus, Lease, connect
from contracts.ids import WorkerId, nonce
from contracts.topology import LEASE, REVOKED, SECRET
from contracts.worker import PutSecret, WorkerRecord
from services.kit.identity.claims import creds_text
from services.kit.identity.revocations import Revoked, push_account, still_needed
from services.kit.identity.store import Identity
from services.kit.identity.workers import LIFE, MARGIN, WorkerMinter, new_user

log = structlog.get_logger()

PUSH_LEASE = "accounts"
PUSH_TTL = 10.0
"""Seconds; two pushes at once would lift each other's revocations."""
PUSH_PATIENCE = 30.0
"""Seconds until a push has had its turn."""


class Kept(Struct, frozen=True, kw_only=True):
    """One entry of the bucket of secrets."""

    value: str


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What a new unit of a worker speaks with, and where it listens."""

    user_key: str
    creds: str = field(repr=False)
    ctl: str = field(repr=False)
    until: datetime
    """When it expires."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a bucket, without its value."""

    key: str
    worker: str | None = None
    revision: int
    at: datetime | None


class Credentials:
    """Makes, renews and revokes what workers speak with."""

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        minter: WorkerMinter,
        *,
        owner: str,
        life: float = LIFE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`life` is how many seconds a credential lasts whose worker has nothing to do."""
        self._bus = bus
        self._identity = identity
        self._minter = minter
        self._owner = owner
        self._life = life
        self._clock = clock
        self._kept = bus.bucket(SECRET, Kept)
        self._revoked = bus.bucket(REVOKED, Revoked)
        self._turn = asyncio.Lock()
        self._asked = self._pushed = 0

    # -- secrets ----------------------------------------------------------------------------------

    async def put(self, command: PutSecret) -> None:
        """Keep a secret's value."""
        await self._kept.put(_secret_key(command.worker, command.name), Kept(value=command.value))

    async def secret(self, worker: str, name: str) -> str | None:
        """The value a worker gets: its own of that name, else the crew's."""
        for key in (_secret_key(worker, name), _secret_key(None, name)):
            if (held := await self._kept.get(key)) is not None:
                return held.value.value
        return None

    async def nonce(self, worker: WorkerId) -> str | None:
        """Last token of the worker's control subject."""
        held = await self._kept.get(f"ctl.{worker}")
        return held.value.value if held else None

    async def forget(self, worker: WorkerId) -> None:
        """Drop the worker's nonce and its own secrets."""
        for key in (f"ctl.{worker}", *await self._kept.list(f"worker.{worker}.")):
            if await self._kept.get(key) is not None:
                await self._kept.delete(key)

    async def of_workers(self) -> list[Entry]:
        """What is kept for one worker alone, nonces among it; not the values."""
        return [
            Entry(key=key, worker=key.split(".")[1], revision=held.revision, at=held.at)
            for key, held in (await self._kept.list()).items()
            if key.startswith(("ctl.", "worker."))
        ]

    async def drop(self, key: str, revision: int) -> None:
        """Forget one entry, if it is still that.

        Raises:
            Conflict: it is another one by now.
        """
        await self._kept.delete(key, revision)

    async def expired(self) -> list[Entry]:
        """Revocations that keep nobody out any more, since what they revoked has expired by itself."""
        entries = await self._revoked.list()
        needed = still_needed({key: held.value for key, held in entries.items()}, self._clock())
        return [
            Entry(key=key, revision=held.revision, at=held.at)
            for key, held in entries.items()
            if key not in needed
        ]

    async def lift(self, user_key: str, revision: int) -> None:
        """Drop an expired revocation, if it is still that.

        Raises:
            Conflict: the user was revoked once more.
        """
        await self._revoked.delete(user_key, revision)

    # -- credentials ------------------------------------------------------------------------------

    async def issue(self, worker: WorkerRecord) -> Issued:
        """A new user for a worker."""
        user, ctl = new_user(), nonce()
        await self._kept.put(f"ctl.{worker.name}", Kept(value=ctl))
        verbs = worker.spec.allowed_commands
        credential = self._minter.mint(worker.name, user.public, verbs, ctl, self._life)
        creds = creds_text(credential.jwt, user.seed)
        until = datetime.fromtimestamp(credential.expires_at, UTC)
        return Issued(user_key=user.public, creds=creds, ctl=ctl, until=until)

    def reach(self, deadline: datetime | None) -> datetime:
        """Until when a credential made now may last: through an outage that ends after the deadline of what its
        worker does, if that is not too long after."""
        until = self._clock() + self._life
        if deadline is not None:
            until = max(until, deadline.timestamp() + MARGIN)
        return datetime.fromtimestamp(int(until), UTC)

    async def renew(self, worker: WorkerRecord, until: datetime) -> CredentialAnswer:
        """A new JWT for the key the worker has; the key comes from the record, never from the worker. The record
        must know of `until` before this is called."""
        ctl = await self.nonce(worker.name)
        if not renewable(worker) or worker.user_key is None or ctl is None:
            return CredentialAnswer(reason=f"worker {worker.name} is {worker.state}")
        credential = self._minter.mint(
            worker.name, worker.user_key, worker.spec.allowed_commands, ctl,
            until.timestamp() - self._clock(),
        )  # fmt: skip
        return CredentialAnswer(jwt=credential.jwt, expires_at=credential.expires_at)

    async def revoke(self, worker: WorkerRecord) -> None:
        """Keep a worker's user out, for good, if it has one. Returns when the servers know it.

        Raises:
            BusUnavailable: they do not; the entry stands and is pushed with the next one.
        """
        if worker.user_key is None:
            return
        now = self._clock()
        # one that is being renewed at this moment, or was made before the record knew how long it lasts
        until = now + max(self._life, LIFE)
        if worker.credential_until is not None:
            until = max(until, worker.credential_until.timestamp())
        await self._revoked.put(worker.user_key, Revoked(at=int(now) + 1, until=int(until) + 1))
        await self.push()

    async def push(self) -> None:
        """Give the servers the whole list; also done at every start, since a server may have missed one.
        Those who ask while a push is under way share the next one: a list takes as long as an entry.

        Raises:
            TimeoutError: another manager holds the lease for too long.
        """
        self._asked += 1
        mine = self._asked
        async with asyncio.timeout(PUSH_PATIENCE), self._turn:
            if self._pushed >= mine:
                return
            covers = self._asked
            await self._push()
            self._pushed = covers

    async def _push(self) -> None:
        lease = Lease(self._bus, LEASE, PUSH_LEASE, f"{self._owner}-{nonce()}", PUSH_TTL)
        async with lease.waited_for(0.1):
            entries = {key: held.value for key, held in (await self._revoked.list()).items()}
            needed = still_needed(entries, self._clock())
            for key in entries.keys() - needed.keys():
                await self._revoked.delete(key)
            async with self._system() as system:
                await push_account(system, self._identity.workers_account_jwt(needed))
        log.info("revocations.pushed", count=len(needed))

    @contextlib.asynccontextmanager
    async def _system(self) -> AsyncIterator[Bus]:
        state = self._identity.state
        creds: Path = state.creds("system")
        url = self._bus.url
        async with connect(url, name="jetcrew-system", creds=creds, patience=10) as system:
            yield system


def renewable(worker: WorkerRecord) -> bool:
    """Whether a worker's credential may be renewed: not once it is about to be taken back."""
    over = worker.ended or worker.state == "stopping" or worker.desired == "stopped"
    return not over and not worker.fenced


def _secret_key(worker: str | None, name: str) -> str:
    return f"worker.{worker}.{name}" if worker else f"shared.{name}"
