"""A lost worker whose node is back: go on with what is there, or anew where it was given up meanwhile."""

import time

import structlog

from contracts.events import TaskEnd, WorkerState
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.runtimes import Runtime, Unit
from services.worker_manager.surroundings import Surroundings

log = structlog.get_logger()


async def recovered(
    around: Surroundings, record: WorkerRecord, runtime: Runtime, unit: Unit | None
) -> bool:
    """Take the one step that is due for a lost worker; False when its unit has ended, as any unit may."""
    if record.fenced:
        log.warning("worker.replaced", unit=unit.id if unit else None)
        await runtime.stop(record.name, 0.0)
        end = TaskEnd(reason="node-lost", detail="its node was gone")
        await around.crew.fail_attempt(record.task, end)
        await _again(around, record, "starting")
    elif record.runtime == "docker" and record.image is None:
        await _again(around, record, "building")
    elif unit is None or unit.state == "exited":
        return False
    elif record.ready_at is None:
        await _again(around, record, "starting")
    else:
        await _found(around, record, unit)
    return True


async def _again(around: Surroundings, record: WorkerRecord, state: WorkerState) -> None:
    at, reason = around.crew.clock(), "its node was gone"
    await around.crew.workers.change(
        record.name,
        lambda r: (
            moves.worker(r, state, at, reason=reason, task=None, fenced=False)
            if r.state == "lost"
            else None
        ),
    )


async def _found(around: Surroundings, record: WorkerRecord, unit: Unit) -> None:
    held = await around.crew.tasks.get(record.task) if record.task else None
    task = record.task if held is not None and held.value.state == "running" else None
    at, paused = around.crew.clock(), unit.state == "paused"
    around.last_beat[record.name] = time.monotonic()
    await around.crew.workers.change(record.name, lambda r: moves.found(r, task, at, paused=paused))
