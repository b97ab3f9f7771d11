"""Leases: a key that expires unless it is renewed, and the right to act while it is ours."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from msgspec import Struct

from contracts.bus.kv import Bucket
from contracts.errors import BusUnavailable, Conflict, LeaseLost

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)


class Owned(Protocol):
    """What a lease may hold: a Struct that says whose it is."""

    @property
    def owner(self) -> str: ...


class Holder(Struct, frozen=True, kw_only=True):
    """The value of a lease that says nothing else: who has it."""

    owner: str


class Lease:
    """The lease `key` of a bucket, for one owner, or for the owner of a `value` that says more; that may be
    replaced between renewals.

    `revision` grows with every change and serves as fencing token. After `deadline` (monotonic clock) the
    owner must not act on it, whatever the server says later.
    """

    def __init__(self, bus: "Bus", bucket: str, key: str, owner: "str | Owned", ttl: float) -> None:
        self.value: Any = Holder(owner=owner) if isinstance(owner, str) else owner
        self._bucket: Bucket[Any] = bus.bucket(bucket, type(self.value))
        self.key = key
        self.ttl = ttl
        self.revision = 0
        self.deadline = 0.0

    @property
    def held(self) -> bool:
        """Whether it is still safe to act."""
        return time.monotonic() < self.deadline

    async def take(self) -> bool:
        """Try to get it; False when another owner has it."""
        began = time.monotonic()
        try:
            self.revision = await self._bucket.create(self.key, self.value, ttl=self.ttl)
        except Conflict:
            current = await self._bucket.get(self.key)
            if current is None or current.value.owner != self.value.owner:
                return False
            try:  # ours, from before a restart
                self.revision = await self._bucket.update(
                    self.key, self.value, current.revision, ttl=self.ttl
                )
            except Conflict:
                return False
        self.deadline = began + self.ttl
        return True

    async def renew(self) -> None:
        """Extend it by its full time.

        Raises:
            LeaseLost: it expired, or somebody else has it.
        """
        began = time.monotonic()
        try:
            self.revision = await self._bucket.update(
                self.key, self.value, self.revision, ttl=self.ttl
            )
        except Conflict:
            self.deadline = 0.0
            raise LeaseLost(f"lease {self.key} is no longer {self.value.owner}'s") from None
        self.deadline = began + self.ttl

    async def release(self) -> None:
        """Give it back, if it is still ours."""
        self.deadline = 0.0
        with contextlib.suppress(Conflict, BusUnavailable):
            await self._bucket.delete(self.key, self.revision)

    @contextlib.asynccontextmanager
    async def waited_for(self, poll: float = 0.5) -> AsyncIterator["Lease"]:
        """Hold it for the block: wait for it, renew it meanwhile, give it back.

        The block should look at `held` before each step that must not be done twice.
        """
        while not await self.take():  # noqa: ASYNC110  # another process gives it back
            await asyncio.sleep(poll)
        renewing = asyncio.get_running_loop().create_task(self.keep())
        try:
            yield self
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError, LeaseLost):
                await renewing
            await self.release()

    async def keep(self) -> None:
        """Renew it until it is lost or this is cancelled.

        Raises:
            LeaseLost: it is someone else's.
        """
        while True:
            await asyncio.sleep(self.ttl / 3)
            try:
                await self.renew()
            except BusUnavailable as error:
                log.warning("lease.not_renewed", key=self.key, error=str(error))
