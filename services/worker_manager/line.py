"""The line for room: workers that no node has taken yet, the oldest first."""

from collections.abc import Awaitable, Callable, Iterable

import structlog
from msgspec.structs import replace

from contracts.errors import JetcrewError, ResourceExhausted
from contracts.ids import NodeId
from contracts.worker import WorkerRecord, line
from services.worker_manager import moves
from services.worker_manager.capacity import Capacity
from services.worker_manager.crew import Crew
from services.worker_manager.idle import seconds
from services.worker_manager.settings import ManagerSettings

log = structlog.get_logger()

Claim = Callable[[WorkerRecord], Awaitable[bool]]
"""Takes a worker for this node; False when another one has taken it. Raises `NotNow`."""

BEHIND = "others came before it"


class NotNow(JetcrewError):
    """This node could keep the worker, but for something that will come back."""


class Line:
    """Lets in whom this node has room for, and says of the others why they wait. Every node does so; the
    compare-and-set of a claim decides whose a worker is."""

    def __init__(
        self,
        crew: Crew,
        settings: ManagerSettings,
        capacity: Callable[[], Awaitable[Capacity]],
    ) -> None:
        self._crew = crew
        self._settings = settings
        self._node = NodeId(settings.node)
        self._capacity = capacity

    async def admit(self, records: Iterable[WorkerRecord], claim: Claim) -> None:
        """Go through the line once; `claim` those there is room for."""
        everybody = list(records)
        if not (waiting := line(everybody)):
            return
        live = [r for r in everybody if r.node == self._node and not r.ended]
        capacity = await self._capacity()
        gone, closed = 0, False
        for place, record in enumerate(waiting, 1):
            why = capacity.never(record.spec)
            if why is None and closed:
                why = BEHIND
            elif why is None:
                why = capacity.lacking(record.spec, live)
                closed = why is not None and not self._settings.overtaking
            if why is not None:
                await self._wait(record, place - gone, why)
                continue
            try:
                if await claim(record):
                    live.append(record)
            except NotNow as error:
                await self._wait(record, place - gone, str(error))
            else:
                gone += 1

    async def _wait(self, record: WorkerRecord, place: int, why: str) -> None:
        """Record why it waits; an event tells it once. Its place changes with every start before it, so that
        is counted whenever somebody looks (`contracts.worker.line`)."""
        at = self._crew.clock()
        patience = seconds(record.spec.queue_timeout, self._settings.queue_timeout)

        def step(now: WorkerRecord) -> WorkerRecord | None:
            if not now.waits or now.incarnation != record.incarnation:
                return None
            if (at - now.requested_at).total_seconds() >= patience:
                return moves.worker(now, "failed", at, reason=str(ResourceExhausted(patience, why)))
            if now.state == "requested":
                return moves.worker(now, "queued", at, reason=why, place=place)
            # only from here: what two nodes lack would take turns in the record
            return replace(now, reason=why) if now.reason == BEHIND and why != BEHIND else None

        changed = await self._crew.workers.change(record.name, step)
        if changed is not None:
            log.info("worker.waits", worker=record.name, state=changed.state, reason=changed.reason)
