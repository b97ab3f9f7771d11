"""The node: claims workers that nobody keeps, oldest first, and gives each a keeper."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import structlog

from contracts.bus import Held
from contracts.errors import BusUnavailable, Conflict, EngineUnavailable, JetcrewError
from contracts.events import TaskEnd, TaskState, WorkerState
from contracts.ids import NodeId, TaskId, WorkerId
from contracts.node import NodeRecord
from contracts.task import TaskRecord
from contracts.topology import NODE
from contracts.worker import Runtime as RuntimeName
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from services.worker_manager.engine_door.policy import check_access
from services.worker_manager.keeper import Keeper
from services.worker_manager.line import Line, NotNow
from services.worker_manager.runtimes import Runtime
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.waits import set_within

log = structlog.get_logger()

REPAIR_EVERY = 60.0
"""Seconds between two looks for what died between two records."""
SURVEY_EVERY = 30.0
"""Seconds between two looks at all units."""
BELIEVED = 5.0
"""Seconds that a runtime which answered is taken to be there."""
BREATHER = 3.0, 0.5
"""How long the node rests after a look, whatever wakes it: so many times as long as the look took, and so many
seconds at most. Many workers asked for at once share their looks."""


class RuntimeMissing(JetcrewError):
    """This node cannot run what a worker wants; another one may."""


class Node:
    """One host's share of the crew."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._crew: Crew = around.crew
        self._settings = around.settings
        self._id = NodeId(around.settings.node)
        self._keepers: dict[WorkerId, Keeper] = {}
        self._line = Line(self._crew, around.settings, around.capacity)
        self._nodes = self._crew.bus.bucket(NODE, NodeRecord)
        self._seen_at: dict[RuntimeName, float] = {}
        self._wake = asyncio.Event()
        self._crew.on_worker.append(self._poked)

    def _poked(self, worker: WorkerId) -> None:
        if keeper := self._keepers.get(worker):
            keeper.wake()
        else:
            self._wake.set()

    def worker_changed(self, worker: WorkerId, node: NodeId | None) -> None:
        """A worker's record changed somewhere: whoever keeps it should look, or whoever may take it."""
        if worker in self._keepers or node in {None, self._id}:
            self._poked(worker)

    def task_came(self, worker: WorkerId) -> None:
        """A task was recorded somewhere: whoever rests with nothing to do should look."""
        if (keeper := self._keepers.get(worker)) is not None and keeper.resting:
            keeper.wake()

    def kept(self) -> int:
        """How many workers it keeps."""
        return len(self._keepers)

    def wake_all(self) -> None:
        """Look at everything: after a reconnect, say."""
        self._wake.set()
        for keeper in self._keepers.values():
            keeper.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and keep until `stop`; what runs goes on running."""
        asking = asyncio.get_running_loop().create_task(_set_after(stop, self.wake_all))
        repaired = -math.inf
        async with asyncio.TaskGroup() as group:
            group.create_task(self._survey(stop), name="survey")
            try:
                # an engine that answers now may go away, and come back
                await self._lacking("docker")
                while not stop.is_set():
                    self._wake.clear()
                    began = time.monotonic()
                    try:
                        if began - repaired > REPAIR_EVERY:
                            await self._repair()
                            repaired = began
                        await self._look(group, stop)
                    except (BusUnavailable, Conflict, TimeoutError) as error:
                        log.warning("node.postponed", error=str(error) or type(error).__name__)
                    times, most = BREATHER
                    await set_within(stop, min(times * (time.monotonic() - began), most))
                    await set_within(self._wake, self._settings.tick)
            finally:
                asking.cancel()
                self.wake_all()

    async def _look(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        records = dict(await self._crew.open_workers.now())
        await self._crew.workers.settle_these(records.items())
        for held in records.values():
            record = held.value
            mine = record.node == self._id and not record.finished
            if mine or (record.node is None and record.state == "stopping"):
                self._keep(group, record.name, stop).notice(held.revision)

        async def take(record: WorkerRecord) -> bool:
            if taken := await self._claim(record):
                self._keep(group, record.name, stop)
            return taken

        await self._line.admit((held.value for held in records.values()), take)
        await self._remind()

    async def _remind(self) -> None:
        """Prompts that wait at the door of a worker which rests: the hint of them was lost."""
        if any(keeper.resting for keeper in self._keepers.values()):
            for worker in await self._crew.with_prompts():
                self.task_came(worker)

    async def _survey(self, stop: asyncio.Event) -> None:
        """Look at workers that rest while their unit does not run any more: the hint of its end was lost. One
        question about all units, where a look at each would cost as much as all the rest together."""
        while not stop.is_set():
            await set_within(stop, SURVEY_EVERY)
            with contextlib.suppress(EngineUnavailable):
                for runtime in self._around.runtimes.values():
                    if resting := self._resting(runtime.name):
                        alive = {u.worker for u in await runtime.list() if u.state != "exited"}
                        for keeper in resting:
                            if keeper.name not in alive:
                                keeper.wake()

    def _resting(self, runtime: RuntimeName) -> list[Keeper]:
        keepers = self._keepers.values()
        return [keeper for keeper in keepers if keeper.resting and keeper.runtime == runtime]

    async def watch_exits(self, stop: asyncio.Event) -> None:
        """Look at a worker as soon as its unit ends."""

        async def watch(runtime: Runtime) -> None:
            async for unit in runtime.exits(stop):
                log.info("unit.exited", worker=unit.worker, reason=unit.exit and unit.exit.reason)
                self._poked(WorkerId(unit.worker))

        async with asyncio.TaskGroup() as group:
            for runtime in self._around.runtimes.values():
                group.create_task(watch(runtime), name=f"exits of {runtime.name}")

    def _keep(self, group: asyncio.TaskGroup, name: WorkerId, stop: asyncio.Event) -> Keeper:
        if (present := self._keepers.get(name)) is not None:
            return present
        keeper = Keeper(name, self._around)
        self._keepers[name] = keeper

        async def keep() -> None:
            try:
                await keeper.keep(stop)
            finally:
                self._keepers.pop(name, None)
                self._wake.set()

        group.create_task(keep(), name=f"keeper of {name}")
        return keeper

    async def _claim(self, record: WorkerRecord) -> bool:
        """Take a worker for this node; False when another one did, or it cannot be kept here.

        Raises:
            NotNow: its engine is away.
        """
        name, at = record.name, self._crew.clock()
        warm = self._around.warm.take(record)
        try:
            runtime = "docker" if warm else await self._choose(record)
            check_access(record.spec, runtime, on=self._settings.engine.access)
        except NotNow:
            raise
        except JetcrewError as error:
            if isinstance(error, RuntimeMissing) and await self._others_can(record):
                return False
            why = str(error)
            await self._crew.workers.change(
                name, lambda r: moves.worker(r, "failed", at, reason=why)
            )
            await self._around.warm.give_up(record)
            return False
        state: WorkerState = "building" if runtime == "docker" and not warm else "starting"
        known: dict[str, Any] = (
            {"image": warm.image, "unit": warm.container} if warm is not None else {}
        )

        def step(record: WorkerRecord) -> WorkerRecord | None:
            return (
                moves.worker(record, state, at, node=self._id, runtime=runtime, **known)
                if record.waits
                else None
            )

        claimed = await self._crew.workers.change(name, step)
        if claimed is not None:
            log.info("worker.claimed", worker=name, runtime=runtime, warm=bool(warm))
        else:
            await self._around.warm.give_up(record)
        return claimed is not None

    async def _choose(self, record: WorkerRecord) -> RuntimeName:
        wanted = record.spec.runtime
        if wanted == "auto":
            wanted = self._settings.runtime
        first: RuntimeName = "docker" if wanted == "auto" else wanted
        if (why := await self._lacking(first)) is None:
            return first
        if first in self._seen_at:  # never a plain process for want of an engine that comes back
            raise NotNow(why)
        if wanted == "auto":
            return "process"
        raise RuntimeMissing(f"no {wanted} runtime here: {why}")

    async def _others_can(self, record: WorkerRecord) -> bool:
        """Whether another node has the runtime that a worker wants."""
        wanted = record.spec.runtime
        nodes = (held.value for held in (await self._nodes.list()).values())
        return any(node.node != self._id and wanted in node.runtimes for node in nodes)

    async def _lacking(self, runtime: RuntimeName) -> str | None:
        """Why workers cannot run in it here, if they cannot; that they can is believed for a while."""
        if time.monotonic() - self._seen_at.get(runtime, -math.inf) < BELIEVED:
            return None
        why = await self._around.runtimes[runtime].available()
        if why is None:
            self._seen_at[runtime] = time.monotonic()
        return why

    async def _now_busy(self, worker: WorkerId, task: TaskId) -> None:
        at = self._crew.clock()
        await self._crew.workers.change(worker, lambda w: moves.busy(w, task, at))
        self._crew.poke(worker)

    async def _repair(self) -> None:
        """Settle what a process that died left between two records: events owed, a task that runs at a
        worker which does not know it, a task of a worker that is no more."""
        await self._crew.projects.repair()
        tasks = dict(await self._crew.open_tasks.now())
        workers = dict(await self._crew.open_workers.now())
        await self._crew.tasks.settle_these(tasks.items())
        for key, held in tasks.items():
            record = held.value
            if record.ended or not _at_odds(record, workers.get(record.worker)):
                continue
            found = await self._crew.workers.get(record.worker)
            worker = found.value if found else None
            task = TaskId(key)
            if worker is None or worker.ended:
                end = TaskEnd(reason="worker-gone", detail=f"worker {record.worker} is no more")
                deleted = worker is not None and worker.state == "stopped"
                cancelled = deleted or record.state == "queued"
                state: TaskState = "cancelled" if cancelled else "failed"
                await self._crew.end(task, state, end)
            elif record.state == "running" and worker.state == "ready":
                await self._now_busy(record.worker, task)
            elif record.state == "running" and worker.state == "starting":
                end = TaskEnd(reason="killed", detail="its worker ended before the task did")
                await self._crew.end(task, "failed", end, attempt=record.attempt)


def _at_odds(task: TaskRecord, worker: Held[WorkerRecord] | None) -> bool:
    """Whether the records of an open task and of its worker do not go together; they may be about to."""
    if worker is None or worker.value.ended:
        return True
    return task.state == "running" and worker.value.state in {"ready", "starting"}


async def _set_after(event: asyncio.Event, call: Callable[[], None]) -> None:
    await event.wait()
    call()
