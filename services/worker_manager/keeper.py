"""The keeper of one worker on its node: makes what runs agree with what is wanted.

It looks at the record and at the unit and takes the one step that is due. It may be woken at any time,
for any reason or none, and may die between any two lines: the next look finds what is left to do.
"""

import asyncio
import contextlib
import math
import time
from typing import Any

import structlog
from msgspec.structs import replace

from contracts.bus import Bus, remove_consumer
from contracts.errors import (
    BusUnavailable,
    Conflict,
    EngineRefused,
    EngineUnavailable,
    ImageMissing,
    InvalidMessage,
    JetcrewError,
    NotThere,
)
from contracts.events import TaskEnd, TaskState, WorkerState
from contracts.ids import TaskId, WorkerId
from contracts.task import TaskRecord
from contracts.worker import Runtime as RuntimeName
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.commands import DELETED
from services.worker_manager.evidence import Look
from services.worker_manager.idle import Rest
from services.worker_manager.idling import Idling
from services.worker_manager.recovery import recovered
from services.worker_manager.repositories import forget
from services.worker_manager.runtimes import Exit, Runtime, Unit, removed
from services.worker_manager.starting import prepare, unit_spec
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.waits import set_within

log = structlog.get_logger()


class Keeper:
    """Keeps one worker."""

    def __init__(self, name: WorkerId, around: Surroundings) -> None:
        self.name = name
        self._around = around
        self._crew = around.crew
        self._wake = asyncio.Event()
        self._seen = 0
        self.runtime: RuntimeName | None = None
        """Where its unit runs, as last seen."""
        self._rest = Rest(around.settings.tick)
        self._unit: Unit | None = None
        self._began_here: int | None = None
        self._started_at = 0.0
        self._cancel_told_at = 0.0
        self._idling = Idling(name, around, self._rest, self.wake)

    @property
    def _bus(self) -> Bus:
        return self._crew.bus

    def wake(self) -> None:
        """Have it look again."""
        self._wake.set()

    def notice(self, revision: int) -> None:
        """Have it look again if it has not seen its record at this revision."""
        if revision > self._seen:
            self.wake()

    @property
    def resting(self) -> bool:
        """Whether it expects nothing: without a hint it will not look for a good while."""
        return self._rest.long

    async def keep(self, stop: asyncio.Event) -> None:
        """Until the worker has ended and nothing is left of it, or `stop`."""
        try:
            with structlog.contextvars.bound_contextvars(worker=self.name):
                while not stop.is_set():
                    self._wake.clear()
                    self._rest.begin()
                    try:
                        if await self._look():
                            return
                    except (EngineUnavailable, BusUnavailable, Conflict, TimeoutError) as error:
                        log.warning("keeper.postponed", error=str(error) or type(error).__name__)
                    except Exception:
                        log.exception("keeper.failed")
                    self._rest.end()
                    while not self._wake.is_set() and (left := self._quiet_for()) > 0:
                        await set_within(self._wake, left)
        finally:
            self._around.turns.give_back(self.name)

    def _quiet_for(self) -> float:
        """Seconds until the next look is due, as things are now: each heartbeat puts it off."""
        if self._unit is None or self._unit.state != "running" or not self._rest.long:
            return self._rest.left()
        silence = self._around.settings.silence
        heard = self._around.last_beat.get(self.name, -math.inf)
        return min(self._rest.left(), heard + silence - time.monotonic())

    async def _look(self) -> bool:
        """Take the step that is due; True when there will never be another one."""
        held = await self._crew.workers.get(self.name)
        if held is None:
            return True
        record = held.value
        self._seen, self.runtime = held.revision, record.runtime
        if record.state != "starting":
            self._around.turns.give_back(self.name)
        match record.state:
            case "building":
                await self._build(record)
            case "starting":
                await self._start(record)
            case "ready" | "busy" | "paused":
                await self._tend(record)
            case "lost":
                await self._recover(record)
            case "stopping":
                await self._end(record)
            case "failed":
                return await self._clear_away(record)
            case "stopped":
                return True
        return False

    # -- the beginning ----------------------------------------------------------------------------

    async def _build(self, record: WorkerRecord) -> None:
        """Ensure the image; a delete that comes meanwhile does not wait for it."""
        building = asyncio.get_running_loop().create_task(self._around.ensure_image(record))
        try:
            while not building.done():
                waking = asyncio.get_running_loop().create_task(self._wake.wait())
                await asyncio.wait({building, waking}, return_when="FIRST_COMPLETED")
                waking.cancel()
                self._wake.clear()
                if building.done():
                    break
                held = await self._crew.workers.get(self.name)
                if held is None or held.value.state != "building":
                    self.wake()
                    return
        finally:
            building.cancel()
            with contextlib.suppress(asyncio.CancelledError, JetcrewError):
                await building
        error = building.exception()
        if isinstance(error, EngineUnavailable | BusUnavailable):
            raise error
        if error is not None:
            await self._fail(f"its image could not be made: {error}")
            return
        image = building.result()
        await self._move("starting", image=image)
        self.wake()

    async def _start(self, record: WorkerRecord) -> None:
        """Start its unit, once per look at this state by this process; then wait for its `ready`."""
        runtime = self._runtime(record)
        if self._began_here == record.restarts:
            await self._await_ready(record, runtime)
            return
        if not self._around.turns.take(self.name, record.requested_at, self.wake):
            return
        if (issued := await prepare(self._around, record, runtime)) is None:
            return
        self._around.last_beat.pop(self.name, None)
        self._started_at = time.monotonic()
        self._began_here = record.restarts
        try:
            spec = await unit_spec(self._around, record, runtime, issued)
            self._unit = await runtime.start(spec)
        except ImageMissing as error:  # removed since it was found, or the engine is another one
            log.warning("image.gone", image=error.tag)
            self._began_here = None
            await self._move("building", image=None, reason="image-gone")
            self.wake()
            return
        except (EngineRefused, InvalidMessage, NotThere) as error:
            await self._fail(f"it could not be started: {error}")
            return
        unit = self._unit.id
        await self._crew.workers.change(
            self.name, lambda r: replace(r, unit=unit) if r.state in {"starting", "ready"} else None
        )
        log.info("unit.started", unit=unit, took=round(time.monotonic() - self._started_at, 3))

    async def _await_ready(self, record: WorkerRecord, runtime: Runtime) -> None:
        unit = await self._find(runtime)
        if unit is None or unit.state == "exited":
            await self._ended_unit(record, unit)
        elif time.monotonic() - self._started_at > self._around.settings.boot_timeout:
            tail = (await runtime.logs(self.name, 5)).strip().replace("\n", " | ")
            await self._fail(
                f"not ready within {self._around.settings.boot_timeout:g} s: {tail[-500:]}"
            )

    # -- life -------------------------------------------------------------------------------------

    async def _tend(self, record: WorkerRecord) -> None:
        runtime = self._runtime(record)
        unit = await self._find(runtime)
        if unit is None or unit.state == "exited":
            await self._ended_unit(record, unit)
            return
        await self._around.open_bus(record)
        if record.state in {"ready", "busy"}:
            await self._idling.thawed(record, runtime, unit)
        if record.state == "ready":
            await self._idling.serve(record, runtime)
        elif record.state == "paused":
            await self._idling.keep_frozen(record, runtime, unit)
        elif record.state == "busy" and record.task is not None:
            await self._watch_task(record, record.task, runtime)
        if record.state in {"ready", "busy"}:
            await self._listen(runtime)

    async def _watch_task(self, record: WorkerRecord, task: TaskId, runtime: Runtime) -> None:
        """See to it that the task ends: cancelled or overdue, and its wrapper does nothing about it."""
        held = await self._crew.tasks.get(task)
        if held is None:
            await self._move("ready", task=None)
            self.wake()
            return
        if held.value.state != "running":
            await self._crew.freed(held.value)
            return
        work = held.value
        assert work.deadline_at is not None
        overdue = (self._crew.clock() - work.deadline_at).total_seconds()
        if work.cancelling is None and overdue < self._around.settings.deadline_grace:
            self._cancel_told_at = 0.0
            return
        timed_out = work.cancelling is None
        reason = work.cancelling or "deadline"
        if not self._cancel_told_at:
            self._cancel_told_at = time.monotonic()
        await self._around.commands.tell_cancel(
            self.name, task, work.attempt, reason, timed_out=timed_out
        )
        if time.monotonic() - self._cancel_told_at > self._around.settings.deadline_grace:
            log.warning("unit.unresponsive", task=task)
            await runtime.stop(self.name, 0.0)
            state: TaskState = "timed-out" if timed_out else "cancelled"
            detail = "its wrapper did not end it; the worker was killed"
            end = TaskEnd(reason=reason, detail=detail)
            await self._crew.end(task, state, end, attempt=work.attempt)
            self.wake()

    async def _listen(self, runtime: Runtime) -> None:
        """A wrapper that is silent while the bus is up hangs, and takes its task with it."""
        if not self._bus.connected:
            self._around.last_beat[self.name] = time.monotonic()
            return
        silent = time.monotonic() - self._around.last_beat.setdefault(self.name, time.monotonic())
        if silent > self._around.settings.silence:
            log.warning("unit.silent", seconds=round(silent))
            await runtime.stop(self.name, 0.0)
            self.wake()

    async def _recover(self, record: WorkerRecord) -> None:
        unit = await self._find(runtime := self._runtime(record))
        if not await recovered(self._around, record, runtime, unit):
            await self._ended_unit(record, unit)
        self.wake()

    # -- ends -------------------------------------------------------------------------------------

    async def _ended_unit(self, record: WorkerRecord, unit: Unit | None) -> None:
        """Its unit is gone and was not told to go: end its task, then replace it or give it up."""
        ended = (unit.exit if unit else None) or Exit(reason="unknown")
        log.warning("unit.ended", reason=ended.reason, code=ended.code, state=record.state)
        over: TaskRecord | None = None
        if record.state in {"busy", "lost"}:
            end = TaskEnd(
                reason="no-result" if ended.code == 0 else ended.reason,
                detail=f"its worker ended ({ended.reason}) before the task did",
                exit_code=ended.code,
                signal=ended.signal,
            )
            over = await self._crew.fail_attempt(record.task, end)
        kept = await self._around.evidence.of_unit(record, ended.reason, ended)
        if record.restarts >= self._around.settings.max_restarts:
            tail = ended.log_tail.strip().replace("\n", " | ")[-500:]
            reason = f"its unit ended {record.restarts + 1} times: {ended.reason}; {tail}"
            await self._fail(reason, **kept)
            return
        at = self._crew.clock()
        kept |= {"reason": ended.reason, "restarts": record.restarts + 1}
        await self._crew.workers.change(self.name, lambda r: moves.replaced(r, over, at, **kept))
        self.wake()

    async def _fail(self, reason: str, **kept: Any) -> None:
        log.error("worker.failed", reason=reason)
        await self._move("failed", reason=reason, **kept)
        self.wake()

    async def _clear_away(self, record: WorkerRecord) -> bool:
        """What a failed worker leaves: its unit, its task, its queue. Its workspace stays."""
        kept = await self._release(record, "its worker failed", keep_volumes=True)
        await self._crew.workers.change(
            self.name, lambda r: replace(r, user_key=None, **kept) if r.state == "failed" else None
        )
        return True

    async def _end(self, record: WorkerRecord) -> None:
        """Stop the unit, so that its wrapper may still tell the task's end; then fence, then remove."""
        seen = await self._around.evidence.look(record)
        if record.runtime is not None:
            await self._runtime(record).stop(self.name, self._around.settings.stop_grace)
        known = record.reason in {None, DELETED}
        why = "its worker was deleted" + ("" if known else f" ({record.reason})")
        kept = await self._release(record, why, keep_volumes=record.keep_workspace, seen=seen)
        await self._around.credentials.forget(self.name)
        if not record.keep_workspace:
            await self._crew.forget_sessions(self.name)
        await forget(self._bus, self.name, before=record.changed_at)
        await self._move("stopped", task=None, reason=record.reason, **kept)
        self.wake()

    async def _release(
        self, record: WorkerRecord, why: str, *, keep_volumes: bool, seen: Look | None = None
    ) -> dict[str, Any]:
        """Fence, keep the evidence, remove, and see that it is gone; where the evidence is."""
        await self._around.credentials.revoke(record)
        state: TaskState = "cancelled" if record.state == "stopping" else "failed"
        if record.task is not None:
            reason = "worker-deleted" if state == "cancelled" else "worker-failed"
            await self._crew.end(record.task, state, TaskEnd(reason=reason, detail=why))
        await self._crew.refuse_waiting(self.name, why)
        kept: dict[str, Any] = {}
        if record.runtime is not None:
            runtime = self._runtime(record)
            kept = await self._around.evidence.of_unit(record, record.reason, seen=seen)
            await self._around.close_engine(record)
            await removed(runtime, self.name, keep_volumes=keep_volumes)
        await self._around.close_bus(self.name)
        await remove_consumer(self._bus, self._bus.topology.run_consumer(self.name))
        await self._bus.purge("JC_RUN", self._bus.subjects.run(self.name))
        return kept

    # -- small things -----------------------------------------------------------------------------

    def _runtime(self, record: WorkerRecord) -> Runtime:
        assert record.runtime is not None
        return self._around.runtimes[record.runtime]

    async def _find(self, runtime: Runtime) -> Unit | None:
        self._unit = await runtime.find(self.name)
        return self._unit

    async def _move(self, state: WorkerState, **changes: Any) -> WorkerRecord | None:
        return await self._crew.move(self.name, state, **changes)
