"""The node: claims workers that nobody keeps, oldest first, and gives each a keeper."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from contracts.bus import Held, Message
from contracts.errors import BusUnavailable, Conflict, JetcrewError
from contracts.events import TaskEnd, TaskState, WorkerState
from contracts.ids import NodeId, TaskId, WorkerId
from contracts.topology import WORKER
from contracts.worker import Runtime as RuntimeName
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from services.worker_manager.keeper import Keeper
from services.worker_manager.runtimes import Runtime
from services.worker_manager.surroundings import Surroundings

log = structlog.get_logger()

UNCLAIMED: frozenset[WorkerState] = frozenset({"requested", "queued"})
REPAIR_EVERY = 60.0
"""Seconds between two looks for what died between two records."""


class Node:
    """One host's share of the crew."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._crew: Crew = around.crew
        self._settings = around.settings
        self._id = NodeId(around.settings.node)
        self._keepers: dict[WorkerId, Keeper] = {}
        self._wake = asyncio.Event()
        self._crew.on_worker.append(self._poked)

    def _poked(self, worker: WorkerId) -> None:
        if keeper := self._keepers.get(worker):
            keeper.wake()
        else:
            self._wake.set()

    def wake_all(self) -> None:
        """Look at everything: after a reconnect, say."""
        self._wake.set()
        for keeper in self._keepers.values():
            keeper.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and keep until `stop`; what runs goes on running."""
        asking = asyncio.get_running_loop().create_task(_set_after(stop, self.wake_all))
        repaired = 0.0
        async with asyncio.TaskGroup() as group:
            try:
                while not stop.is_set():
                    self._wake.clear()
                    try:
                        if (
                            asyncio.get_running_loop().time() - repaired > REPAIR_EVERY
                            or not repaired
                        ):
                            await self._repair()
                            repaired = asyncio.get_running_loop().time()
                        await self._look(group, stop)
                    except (BusUnavailable, Conflict, TimeoutError) as error:
                        log.warning("node.postponed", error=str(error) or type(error).__name__)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._settings.tick):
                            await self._wake.wait()
            finally:
                asking.cancel()
                self.wake_all()

    async def _look(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        records = await self._crew.workers.bucket.list()
        await self._crew.workers.settle_these(records.items())
        mine = [r.value for r in records.values() if r.value.node == self._id]
        for record in mine:
            if not self._finished(record):
                self._keep(group, record.name, stop)
        orphans = [r.value for r in records.values() if r.value.node is None]
        for record in orphans:
            if record.state == "stopping":
                self._keep(group, record.name, stop)
        room = self._settings.max_workers - sum(1 for r in mine if not r.ended)
        queue = sorted(
            (held for held in records.values() if held.value.state in UNCLAIMED),
            key=lambda held: held.value.requested_at,
        )
        for held in queue:
            if room > 0 and await self._claim(held):
                room -= 1
                self._keep(group, held.value.name, stop)
            elif room <= 0 and held.value.state == "requested":
                await self._enqueue(held.value.name)

    async def _enqueue(self, name: WorkerId) -> None:
        at, reason = self._crew.clock(), f"{self._settings.max_workers} workers run already"
        await self._crew.workers.change(
            name, lambda r: moves.worker(r, "queued", at, reason=reason)
        )

    async def watch_exits(self, stop: asyncio.Event) -> None:
        """Look at a worker as soon as its unit ends."""

        async def watch(runtime: Runtime) -> None:
            async for unit in runtime.exits(stop):
                log.info("unit.exited", worker=unit.worker, reason=unit.exit and unit.exit.reason)
                self._poked(WorkerId(unit.worker))

        async with asyncio.TaskGroup() as group:
            for runtime in self._around.runtimes.values():
                group.create_task(watch(runtime), name=f"exits of {runtime.name}")

    def _finished(self, record: WorkerRecord) -> bool:
        """Whether there is nothing left to be done for it: a failed one is cleared away once a process."""
        return record.state == "stopped" or (record.state == "failed" and record.user_key is None)

    def _keep(self, group: asyncio.TaskGroup, name: WorkerId, stop: asyncio.Event) -> None:
        if name in self._keepers:
            return
        keeper = Keeper(name, self._around)
        self._keepers[name] = keeper

        async def keep() -> None:
            try:
                await keeper.keep(stop)
            finally:
                self._keepers.pop(name, None)
                self._wake.set()

        group.create_task(keep(), name=f"keeper of {name}")

    async def _claim(self, held: Held[WorkerRecord]) -> bool:
        """Take a worker for this node; False when another one did, or it cannot be kept here."""
        name, at = held.value.name, self._crew.clock()
        try:
            runtime = await self._choose(held.value)
        except JetcrewError as error:
            why = str(error)
            await self._crew.workers.change(
                name, lambda r: moves.worker(r, "failed", at, reason=why)
            )
            return False
        state: WorkerState = "building" if runtime == "docker" else "starting"

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.state not in UNCLAIMED or record.node is not None:
                return None
            return moves.worker(record, state, at, node=self._id, runtime=runtime)

        claimed = await self._crew.workers.change(name, step)
        if claimed is not None:
            log.info("worker.claimed", worker=name, runtime=runtime)
        return claimed is not None

    async def _choose(self, record: WorkerRecord) -> RuntimeName:
        wanted = record.spec.runtime
        if wanted == "auto":
            wanted = self._settings.runtime
        runtimes = self._around.runtimes
        if wanted == "auto":
            return "docker" if await runtimes["docker"].available() is None else "process"
        if (why := await runtimes[wanted].available()) is not None:
            raise JetcrewError(f"no {wanted} runtime here: {why}")
        return wanted

    async def _now_busy(self, worker: WorkerId, task: TaskId) -> None:
        at = self._crew.clock()
        await self._crew.workers.change(worker, lambda w: moves.busy(w, task, at))
        self._crew.poke(worker)

    async def _repair(self) -> None:
        """Settle what a process that died left between two records: events owed, a task that runs at a
        worker which does not know it, a task of a worker that is no more."""
        tasks = await self._crew.tasks.bucket.list()
        await self._crew.tasks.settle_these(tasks.items())
        for key, held in tasks.items():
            record = held.value
            if record.ended:
                continue
            found = await self._crew.workers.get(record.worker)
            worker = found.value if found else None
            task = TaskId(key)
            if worker is None or worker.ended:
                end = TaskEnd(reason="worker-gone", detail=f"worker {record.worker} is no more")
                state: TaskState = "failed" if record.state == "running" else "cancelled"
                await self._crew.end(task, state, end)
            elif record.state == "running" and worker.state == "ready":
                await self._now_busy(record.worker, task)
            elif record.state == "running" and worker.state == "starting":
                end = TaskEnd(reason="killed", detail="its worker ended before the task did")
                await self._crew.end(task, "failed", end, attempt=record.attempt)


async def _set_after(event: asyncio.Event, call: Callable[[], None]) -> None:
    await event.wait()
    call()


class Watch:
    """Turns changes of workers' records, wherever they were made, into looks. Hints only: the node's ticks
    stand behind them."""

    def __init__(self, node: Node, crew: Crew) -> None:
        self._node = node
        self._crew = crew

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`."""
        bus = self._crew.bus
        bus.on_reconnect(self._node.wake_all)
        async with bus.serve(bus.subjects.changes(WORKER), self._changed):
            await stop.wait()

    async def _changed(self, message: Message) -> None:
        self._crew.poke(WorkerId(message.subject.rpartition(".")[2]))
