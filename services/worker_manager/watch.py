"""Hints from the bus: changes of records, wherever they were made, turned into looks."""

import asyncio

from msgspec import Struct

from contracts.bus import Message
from contracts.codec import decode
from contracts.errors import InvalidMessage
from contracts.events import TaskState
from contracts.ids import NodeId, WorkerId
from contracts.topology import SESSION, TASK, WORKER
from services.worker_manager.crew import Crew
from services.worker_manager.node import Node


class _Keeping(Struct):
    """Of a worker's record, what a hint needs."""

    node: NodeId | None = None


class _Waiting(Struct):
    """Of a task's record, what a hint needs."""

    worker: WorkerId
    state: TaskState


class Watch:
    """Turns changes into looks. Hints only: the node's ticks stand behind them."""

    def __init__(self, node: Node, crew: Crew) -> None:
        self._node = node
        self._crew = crew

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`."""
        bus = self._crew.bus
        bus.on_reconnect(self._node.wake_all)
        async with (
            bus.serve(bus.subjects.changes(WORKER), self._worker_changed),
            bus.serve(bus.subjects.changes(TASK), self._task_changed),
            bus.serve(bus.subjects.changes(SESSION), self._session_changed),
        ):
            await stop.wait()

    async def _worker_changed(self, message: Message) -> None:
        try:
            node = decode(message.data, _Keeping).node
        except InvalidMessage:
            node = None  # a deletion
        self._node.worker_changed(WorkerId(message.subject.rpartition(".")[2]), node)

    async def _task_changed(self, message: Message) -> None:
        try:
            task = decode(message.data, _Waiting)
        except InvalidMessage:
            return  # a deletion
        if task.state == "queued":
            self._node.task_came(task.worker)

    async def _session_changed(self, message: Message) -> None:
        """Whoever waited to be let into it should look."""
        key = message.subject[len(self._crew.bus.subjects.changes(SESSION)) - 1 :]
        for worker in self._crew.sharing.waiting_for(key):
            self._crew.poke(worker)
