"""Looking inside a worker: an operator's program beside the agent, run by the node that keeps the worker."""

import contextlib
from collections.abc import AsyncIterator, Mapping

import structlog

from contracts.bus import ACTOR, Message, header
from contracts.codec import decode
from contracts.errors import BusUnavailable, JetcrewError, NotThere, Refused
from contracts.ids import NodeId, WorkerId
from contracts.results import Result, failure
from contracts.worker import ExecInWorker, WorkerRecord
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from services.worker_manager.runtimes import Runtime

log = structlog.get_logger()

ON_THE_WAY = 5.0
"""Seconds that question and answer may take besides the program itself."""
INSIDE = frozenset({"ready", "busy"})
"""States in which something runs that a program could be run in."""


class Diagnosis:
    """Asks the right node, and answers for this one."""

    def __init__(self, crew: Crew, runtimes: Mapping[str, Runtime], node: NodeId) -> None:
        self._crew = crew
        self._runtimes = runtimes
        self._node = node

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answer other managers while the block lasts."""
        bus = self._crew.bus
        async with bus.serve(bus.subjects.exec(self._node), self.carried_out):
            yield

    async def asked(self, message: Message) -> Result:
        """An operator's request, passed on to the worker's node.

        Raises:
            InvalidMessage: it is none.
            NotThere, Refused: there is no such worker, or nothing of it runs.
            BusUnavailable: its node does not answer.
        """
        ask = decode(message.data, ExecInWorker)
        record = await self._inside(ask.name)
        assert record.node is not None
        bus = self._crew.bus
        headers = {ACTOR: actor} if (actor := header(message.headers, ACTOR)) else {}
        try:
            return await bus.ask(
                bus.subjects.exec(record.node), ask, Result, headers=headers,
                timeout=ask.timeout + ON_THE_WAY,
            )  # fmt: skip
        except BusUnavailable as error:
            raise BusUnavailable(f"node {record.node} does not answer: {error}") from error

    async def carried_out(self, message: Message) -> Result:
        """The request at the worker's node."""
        try:
            ask = decode(message.data, ExecInWorker)
            return await self._run(ask, header(message.headers, ACTOR))
        except JetcrewError as error:
            return Result(status="refused", detail=str(error), error=failure(error))

    async def _run(self, ask: ExecInWorker, actor: str | None) -> Result:
        record = await self._inside(ask.name)
        assert record.runtime is not None
        program, at = ask.argv[0][:200], self._crew.clock()
        await self._crew.workers.change(ask.name, lambda r: moves.inspected(r, program, actor, at))
        log.info("worker.inspected", worker=ask.name, program=program, actor=actor)
        outcome = await self._runtimes[record.runtime].exec(ask.name, ask.argv, ask.timeout)
        told = (
            "killed: its time was over"
            if outcome.exit_code is None
            else f"exit code {outcome.exit_code}"
        )
        return Result(worker=WorkerId(ask.name), detail=told, record=outcome)

    async def _inside(self, name: str) -> WorkerRecord:
        held = await self._crew.workers.get(name)
        if held is None:
            raise NotThere(f"there is no worker {name!r}", field="$.name")
        if held.value.state not in INSIDE:
            raise Refused(
                f"worker {name!r} is {held.value.state}; programs run in one that is ready or busy",
                field="$.name",
            )
        return held.value
