"""What a node has room for: how many workers, and how much memory their limits may come to together."""

import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from contracts.errors import JetcrewError
from contracts.worker import CreateWorker, WorkerRecord
from services.worker_manager.engine_door.policy import wants_door
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.settings import ManagerSettings


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The bounds of one node. Knows no records and no engine."""

    workers: int
    memory_mb: int
    """Of the limits of all its workers together; overcommitment is in it already."""
    full: str | None = None
    """Why no worker can be made for want of disk."""

    def never(self, spec: CreateWorker) -> str | None:
        """Why there will never be room for this worker; None when there may be."""
        if promised(spec) <= self.memory_mb:
            return None
        return f"it may use {promised(spec):,} MiB, and no more than {self.memory_mb:,} MiB are there for workers"

    def lacking(self, spec: CreateWorker, live: Iterable[WorkerRecord]) -> str | None:
        """Why there is no room for this worker beside those that live; None when there is."""
        if self.full is not None:
            return self.full
        present = list(live)
        if len(present) >= self.workers:
            return f"{len(present)} of {self.workers} workers are there"
        free = self.memory_mb - sum(promised(r.spec) for r in present)
        if promised(spec) > free:
            return (
                f"it may use {promised(spec):,} MiB, and {max(free, 0):,} of "
                f"{self.memory_mb:,} MiB are not promised to others"
            )
        return None


def promised(spec: CreateWorker) -> int:
    """MiB that a worker may use; one that has containers of its own may use its limit a second time with those."""
    return spec.limits.memory_mb * (2 if wants_door(spec) else 1)


FRESH = 300.0
"""Seconds that the engine's memory counts as known."""


class NodeCapacity:
    """The bounds of this node, from its settings, its engine and its disks."""

    def __init__(
        self, settings: ManagerSettings, engine: Engine, full: Callable[[], Awaitable[str | None]]
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._full = full
        self._there_mb = 0
        self._asked_at = -FRESH

    async def now(self) -> Capacity:
        """As things are. Without an engine it is this host's memory that counts; asked again at times."""
        there = self._settings.memory_mb
        if there is None:
            if time.monotonic() - self._asked_at >= FRESH:
                self._there_mb = await self._memory_mb()
                self._asked_at = time.monotonic()
            there = self._there_mb
        promised = int(there * self._settings.memory_overcommit)
        return Capacity(
            workers=self._settings.max_workers, memory_mb=promised, full=await self._full()
        )

    async def _memory_mb(self) -> int:
        try:
            return await self._engine.call(lambda client: int(client.info()["MemTotal"])) >> 20
        except JetcrewError:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
