"""Nodes: each tells that it is there; one of them looks after the workers of those that are gone.

Gone is not dead. A node that cannot be reached may still run its workers, and will find them when it
comes back. So nothing of it is ended on suspicion: its workers are `lost` after a grace, and an attempt
of theirs is ended only once its worker is *fenced*, which means that its credential is revoked and that
the node will replace it. See docs/adr.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from contracts import __version__
from contracts.bus import Lease, remove_consumer
from contracts.errors import BusUnavailable, Conflict, LeaseLost, NodeNameTaken
from contracts.events import TaskEnd, TaskState
from contracts.ids import NodeId, nonce
from contracts.node import NodeRecord
from contracts.task import TaskRecord
from contracts.topology import LEASE, NODE
from contracts.worker import WorkerRecord
from services.worker_manager import moves
from services.worker_manager.crew import Crew, now
from services.worker_manager.surroundings import Surroundings

log = structlog.get_logger()

RUNTIMES_AGAIN = 60.0
"""Seconds between two looks at which runtimes work here."""
DUTY = "nodes"
"""Lease of the one that looks after the others."""


class Presence:
    """This node's entry among the nodes, renewed for as long as its manager works."""

    def __init__(self, around: Surroundings, kept: Callable[[], int]) -> None:
        """`kept` tells how many workers it keeps."""
        settings = around.settings
        self._runtimes = around.runtimes
        self._looked_at = 0.0
        self._kept = kept
        self._lease = Lease(
            around.crew.bus,
            NODE,
            settings.node,
            NodeRecord(
                node=NodeId(settings.node),
                owner=f"{socket.gethostname()}:{settings.state.root}",
                since=now(),
                version=__version__,
                max_workers=settings.max_workers,
            ),
            settings.node_ttl,
        )
        self._nodes = around.crew.bus.bucket(NODE, NodeRecord)

    async def take(self) -> None:
        """Be there; an earlier manager's entry is waited out.

        Raises:
            NodeNameTaken: another manager bears this name and goes on doing so.
        """
        await self._describe()
        until = time.monotonic() + 2 * self._lease.ttl
        while not await self._lease.take():
            held = await self._nodes.get(self._lease.key)
            if held is not None and time.monotonic() > until:
                raise NodeNameTaken(self._lease.key, held.value.owner)
            log.warning("node.name_taken", node=self._lease.key)
            await asyncio.sleep(self._lease.ttl / 5)

    async def run(self, stop: asyncio.Event) -> None:
        """Renew it until `stop`, then go.

        Raises:
            NodeNameTaken: it expired meanwhile, and another manager took the name.
        """
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease.ttl / 3):
                    await stop.wait()
                    break
            try:
                await self._describe()
                await self._lease.renew()
            except LeaseLost:
                await self.take()
                log.warning("node.was_gone", node=self._lease.key)
            except (BusUnavailable, Conflict, TimeoutError) as error:
                log.warning("node.not_renewed", error=str(error) or type(error).__name__)
        await self._lease.release()

    async def _describe(self) -> None:
        record: NodeRecord = self._lease.value
        if not self._looked_at or time.monotonic() - self._looked_at > RUNTIMES_AGAIN:
            self._looked_at = time.monotonic()
            there = [r.name for r in self._runtimes.values() if await r.available() is None]
            record = replace(record, runtimes=sorted(there))
        self._lease.value = replace(record, workers=self._kept())


class Overseer:
    """Looks after the workers of nodes that are gone; one manager of the crew does, under a lease."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._crew: Crew = around.crew
        self._settings = around.settings
        self._nodes = self._crew.bus.bucket(NODE, NodeRecord)
        self._lease = Lease(
            self._crew.bus, LEASE, DUTY, f"{self._settings.node}-{nonce()}", self._settings.node_ttl
        )
        self._gone_since: dict[NodeId, float] = {}
        self._listening_since = time.monotonic()
        self._crew.bus.on_reconnect(self._begin_anew)

    def _begin_anew(self) -> None:
        """Whoever could not be heard of for want of a server was not gone."""
        self._gone_since.clear()
        self._listening_since = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds while the duty is ours, until `stop`."""
        while not stop.is_set():
            try:
                if await self._on_duty():
                    await self.look()
            except (BusUnavailable, Conflict, TimeoutError) as error:
                log.warning("nodes.postponed", error=str(error) or type(error).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._settings.tick, self._lease.ttl / 3)):
                    await stop.wait()
        await self._lease.release()

    async def _on_duty(self) -> bool:
        try:
            if self._lease.held:
                await self._lease.renew()
                return True
        except LeaseLost:
            pass
        if await self._lease.take():
            self._begin_anew()
            return True
        return False

    async def look(self) -> None:
        """Take what steps are due for each worker of a node that is gone for longer than the grace."""
        here = {NodeId(key) for key in await self._nodes.list()}
        workers = [held.value for held in (await self._crew.open_workers.now()).values()]
        owners = {w.node for w in workers if w.node is not None and not w.ended}
        at = time.monotonic()
        self._gone_since = {
            node: self._gone_since.get(node, at) for node in owners if node not in here
        }
        gone = {
            n for n, since in self._gone_since.items() if at - since > self._settings.node_grace
        }
        lost = [w for w in workers if w.node in gone and not w.ended]
        if not lost:
            return
        tasks = [held.value for held in (await self._crew.open_tasks.now()).values()]
        running = {task.worker: task for task in tasks if task.state == "running"}
        for worker in lost:
            if not self._lease.held:
                return
            await self._attend(worker, running.get(worker.name))

    async def _attend(self, worker: WorkerRecord, task: TaskRecord | None) -> None:
        if worker.state == "stopping":
            await self._stop(worker)
        elif worker.state == "lost":
            if task is not None and (end := self._end_due(worker, task)) is not None:
                await self._give_up(worker, task, *end)
        else:
            await self._lose(worker)

    async def _lose(self, worker: WorkerRecord) -> None:
        at, reason = self._crew.clock(), f"node {worker.node} cannot be reached"

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.node != worker.node or record.state == "lost":
                return None
            return moves.worker(record, "lost", at, reason=reason)

        if await self._crew.workers.change(worker.name, step) is not None:
            log.warning("worker.lost", worker=worker.name, node=worker.node)

    def _end_due(self, worker: WorkerRecord, task: TaskRecord) -> tuple[TaskState, TaskEnd] | None:
        """The end of a lost worker's attempt, once it has to be ended from here.

        A worker that is still heard goes on: it ends its task itself, and tells it to any manager.
        """
        assert task.deadline_at is not None
        heard = self._around.last_beat.get(worker.name, self._listening_since)
        silent = time.monotonic() - heard > self._settings.silence
        late = (self._crew.clock() - task.deadline_at).total_seconds()
        detail = f"node {worker.node} cannot be reached"
        if silent and task.cancelling is not None:
            return "cancelled", TaskEnd(reason=task.cancelling, detail=detail)
        if late > self._settings.deadline_grace or (silent and moves.may_run_again(task)):
            return "failed", TaskEnd(reason="node-lost", detail=detail)
        return None

    async def _give_up(
        self, worker: WorkerRecord, task: TaskRecord, state: TaskState, end: TaskEnd
    ) -> None:
        """End the attempt, the worker having been fenced before."""

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.state != "lost" or record.user_key != worker.user_key or record.fenced:
                return None
            return replace(record, fenced=True)

        fenced = await self._crew.workers.change(worker.name, step)
        if fenced is None:
            held = await self._crew.workers.get(worker.name)
            if held is None or held.value.state != "lost" or not held.value.fenced:
                return  # it is back
            fenced = held.value
        await self._around.credentials.revoke(fenced)
        await self._crew.end(task.id, state, end, attempt=task.attempt)
        log.warning("attempt.given_up", worker=worker.name, task=task.id, attempt=task.attempt)

    async def _stop(self, worker: WorkerRecord) -> None:
        """Let a deleted worker of a node that is gone be over; the node clears away what it finds of it."""
        bus, name, why = self._crew.bus, worker.name, f"node {worker.node} is gone"
        await self._around.credentials.revoke(worker)
        if worker.task is not None:
            end = TaskEnd(reason="worker-deleted", detail=why)
            await self._crew.end(worker.task, "cancelled", end)
        await self._crew.refuse_waiting(name, why)
        await remove_consumer(bus, bus.topology.run_consumer(name))
        await bus.purge("JC_RUN", bus.subjects.run(name))
        await self._around.credentials.forget(name)
        if not worker.keep_workspace:
            await self._crew.forget_sessions(name)
        at = self._crew.clock()

        def step(record: WorkerRecord) -> WorkerRecord | None:
            if record.state != "stopping" or record.incarnation != worker.incarnation:
                return None
            return moves.worker(record, "stopped", at, reason=why, task=None)

        await self._crew.workers.change(name, step)
