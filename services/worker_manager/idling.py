"""What a keeper does with a worker that has no task in flight."""

import time
from collections.abc import Callable

import structlog

from contracts.ids import WorkerId
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.dispatch import dispatch
from services.worker_manager.idle import Breath, Patience, Rest
from services.worker_manager.runtimes import Runtime, Unit
from services.worker_manager.surroundings import Surroundings

log = structlog.get_logger()


class Idling:
    """Gives a worker its next task; lets it rest, freezes it, thaws it or ends it when there is none.

    Idle means no task in flight and none at the door, whatever else goes on or does not. The record says
    `paused` before the unit is frozen, and a task that comes in between finds it so. What is wanted may change
    between a look and a move: each move goes by the record as it is then.
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
        self._froze = False
        """Whether it ever tried to freeze the unit, which the engine may do late."""
        self._asleep = False
        """Whether the unit and all that it made on the engine are known to be frozen, but for a breath."""

    async def serve(self, record: WorkerRecord, runtime: Runtime) -> None:
        """A ready worker."""
        if (stored := await self._crew.waiting(self._name)) is not None:
            if await dispatch(self._crew, record, stored):
                self._wake()
            return
        to_pause, to_expiry = self._left(record)
        if record.desired != "paused" and min(to_pause, to_expiry) > 0:
            self._rest.until(min(to_pause, to_expiry))
        elif await self._crew.works(self._name):
            return
        elif to_expiry <= 0:
            await self._expire()
        else:
            await self._freeze(runtime)

    async def thawed(self, record: WorkerRecord, runtime: Runtime, unit: Unit) -> None:
        """A worker that is not to be frozen: a freeze that the engine was slow to carry out is taken back."""
        if self._froze and unit.state == "paused":
            log.warning("unit.frozen_late", unit=unit.id)
            await self._wake_up(record, runtime)

    async def keep_frozen(self, record: WorkerRecord, runtime: Runtime, unit: Unit) -> None:
        """A paused worker: thawed for a task, or because somebody says so; else frozen, but for a breath now
        and then."""
        waiting = await self._crew.waiting(self._name) is not None
        _, to_expiry = self._left(record)
        if waiting or record.desired == "running":
            await self._thaw(record, runtime, waiting=waiting)
        elif to_expiry <= 0:
            await self._expire()
        else:
            breathing = self._breath.due()
            if breathing and unit.state == "paused":
                await runtime.resume(self._name)
            elif not breathing and (unit.state == "running" or not self._asleep):
                await self._put_to_sleep(record, runtime)
            self._rest.until(min(self._breath.left(), to_expiry))

    def _left(self, record: WorkerRecord) -> tuple[float, float]:
        patience = Patience.of(record.spec, self._around.settings)
        return patience.left(record, self._crew.clock())

    async def _freeze(self, runtime: Runtime) -> None:
        at = self._crew.clock()

        def step(record: WorkerRecord) -> WorkerRecord | None:
            wanted = record.desired == "paused"
            if record.state != "ready" or not (wanted or self._left(record)[0] <= 0):
                return None
            reason = None if wanted else "idle"
            return moves.worker(record, "paused", at, desired="paused", reason=reason)

        frozen = await self._crew.workers.change(self._name, step)
        if frozen is not None:
            await self._put_to_sleep(frozen, runtime)
            self._breath.frozen()
            log.info("unit.paused", unit=frozen.unit, reason=frozen.reason)
        self._wake()

    async def _thaw(self, seen: WorkerRecord, runtime: Runtime, *, waiting: bool) -> None:
        await self._wake_up(seen, runtime)
        self._around.last_beat[self._name] = time.monotonic()
        at = self._crew.clock()

        def step(record: WorkerRecord) -> WorkerRecord | None:
            anew = record.desired == "paused" != seen.desired
            if record.state != "paused" or (anew and not waiting):
                return None
            return moves.worker(record, "ready", at, desired="paused" if anew else "running")

        await self._crew.workers.change(self._name, step)
        self._wake()

    async def _put_to_sleep(self, record: WorkerRecord, runtime: Runtime) -> None:
        self._froze = True
        await runtime.pause(self._name)
        await self._around.freeze_engine(record)
        self._asleep = True

    async def _wake_up(self, record: WorkerRecord, runtime: Runtime) -> None:
        self._asleep = False
        await self._around.thaw_engine(record)
        await runtime.resume(self._name)

    async def _expire(self) -> None:
        at = self._crew.clock()

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.state not in {"ready", "paused"} or self._left(record)[1] > 0:
                return None
            return moves.worker(record, "stopping", at, desired="stopped", reason="idle")

        if await self._crew.workers.change(self._name, step) is not None:
            log.info("worker.expired")
        self._wake()
