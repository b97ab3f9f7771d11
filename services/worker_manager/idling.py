"""What a keeper does with a worker that has no task in flight."""

import time
from collections.abc import Callable

import structlog

from contracts.ids import WorkerId
from contracts.worker import WorkerRecord
from services.worker_manager.dispatch import dispatch
from services.worker_manager.idle import Breath, Patience, Rest
from services.worker_manager.runtimes import Runtime, Unit
from services.worker_manager.surroundings import Surroundings

log = structlog.get_logger()


class Idling:
    """Gives a worker its next task; lets it rest, freezes it, thaws it or ends it when there is none.

    Idle means no task in flight and none at the door, whatever else goes on or does not. The record says
    `paused` before the unit is frozen, and a task that comes in between finds it so.
    """

    def __init__(
        self, name: WorkerId, around: Surroundings, rest: Rest, wake: Callable[[], None]
    ) -> None:
        self._name = name
        self._around = around
        self._crew = around.crew
        self._rest = rest
        self._wake = wake
        self._breath = Breath(around.settings.credential_life)

    async def serve(self, record: WorkerRecord, runtime: Runtime) -> None:
        """A ready worker."""
        if (stored := await self._crew.waiting(self._name)) is not None:
            if await dispatch(self._crew, record, stored):
                self._wake()
            return
        to_pause, to_expiry = self._left(record)
        if to_expiry <= 0:
            await self._expire()
        elif record.desired == "paused" or to_pause <= 0:
            await self._freeze(record, runtime)
        else:
            self._rest.until(min(to_pause, to_expiry))

    async def keep_frozen(self, record: WorkerRecord, runtime: Runtime, unit: Unit) -> None:
        """A paused worker: thawed for a task, or because somebody says so; else frozen, but for a breath now
        and then."""
        waiting = await self._crew.waiting(self._name) is not None
        _, to_expiry = self._left(record)
        if waiting or record.desired == "running":
            await self._thaw(runtime)
        elif to_expiry <= 0:
            await self._expire()
        else:
            breathing = self._breath.due()
            if breathing and unit.state == "paused":
                await runtime.resume(self._name)
            elif not breathing and unit.state == "running":
                await runtime.pause(self._name)
            self._rest.until(min(self._breath.left(), to_expiry))

    def _left(self, record: WorkerRecord) -> tuple[float, float]:
        patience = Patience.of(record.spec, self._around.settings)
        return patience.left(record, self._crew.clock())

    async def _freeze(self, record: WorkerRecord, runtime: Runtime) -> None:
        reason = "idle" if record.desired == "running" else None
        if await self._crew.move(self._name, "paused", desired="paused", reason=reason) is None:
            return
        await runtime.pause(self._name)
        self._breath.frozen()
        log.info("unit.paused", unit=record.unit, reason=reason)
        self._wake()

    async def _thaw(self, runtime: Runtime) -> None:
        await runtime.resume(self._name)
        self._around.last_beat[self._name] = time.monotonic()
        await self._crew.move(self._name, "ready", desired="running")
        self._wake()

    async def _expire(self) -> None:
        log.info("worker.expired")
        await self._crew.move(self._name, "stopping", desired="stopped", reason="idle")
        self._wake()
