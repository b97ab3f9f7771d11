"""A simulated engine: units that start slowly, are refused, die and are forgotten about, with a stand-in for
the wrapper in each that speaks over the real bus with the credential it was given."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contracts.asks import Assignment, Boot, StartAnswer, StartTask
from contracts.bus import Bus, Delivery, connect
from contracts.codec import decode
from contracts.errors import (
    BusClosed,
    BusUnavailable,
    EngineRefused,
    EngineUnavailable,
    JetcrewError,
)
from contracts.events import TaskEnd
from contracts.evidence import Resources
from contracts.ids import TaskId, WorkerId, nonce
from contracts.reports import Finished, Heartbeat, Ready
from contracts.topology import Topology
from contracts.worker import ExecOutcome
from services.worker_manager.runtimes import Exit, Layout, Unit, UnitSpec

NO_BUS = 4


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel until it is heeded: before Python 3.12 an answer in the same moment swallows it."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)


@dataclass
class _Process:
    """One unit, and the task that stands in for its processes."""

    unit: Unit
    life: asyncio.Task[None] | None = None

    @property
    def lives(self) -> bool:
        return self.unit.exit is None


@dataclass
class Host:
    """What survives the manager of a node: its units. `chance` decides all that happens by chance."""

    url: str
    directory: Path
    chance: random.Random
    away: bool = False
    """Whether the engine does not answer."""
    refusals: float = 0.0
    """Share of starts that are refused."""
    ran: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often an agent was started, by task and attempt."""
    processes: dict[str, _Process] = field(default_factory=dict)
    ends: list[asyncio.Queue[Unit]] = field(default_factory=list)

    dying: set[asyncio.Task[None]] = field(default_factory=set)

    def kill(self, worker: str, reason: str = "killed") -> None:
        """End a unit from outside, as the kernel or a person does."""
        process = self.processes.get(worker)
        if process is not None and process.lives:
            assert process.life is not None
            dying = asyncio.get_running_loop().create_task(cancelled(process.life))
            self.dying.add(dying)
            dying.add_done_callback(self.dying.discard)
            self.ended(process, Exit(signal="SIGKILL", reason=reason, oom=reason == "oom"))

    def ended(self, process: _Process, end: Exit) -> None:
        """A unit is over: hinted at late, twice, or in another order than it happened."""
        if not process.lives:
            return
        was = process.unit
        process.unit = Unit(id=was.id, worker=was.worker, incarnation=was.incarnation, state="exited", exit=end)  # fmt: skip
        for queue in self.ends:
            for _ in range(self.chance.choice((0, 1, 1, 2))):
                delay = self.chance.uniform(0, 0.3)
                asyncio.get_running_loop().call_later(delay, queue.put_nowait, process.unit)

    def begin(self, spec: UnitSpec) -> Unit:
        """Start a unit."""
        unit = Unit(id=nonce()[:8], worker=spec.worker, incarnation=spec.incarnation, state="running")  # fmt: skip
        process = self.processes[spec.worker] = _Process(unit)
        creds = self.directory / f"{spec.worker}-{unit.id}.creds"
        creds.write_bytes(spec.files["worker.creds"])
        boot = decode(spec.files["boot.json"], Boot)
        process.life = asyncio.get_running_loop().create_task(self._live(process, boot, creds))
        return unit

    async def _live(self, process: _Process, boot: Boot, creds: Path) -> None:
        try:
            await StandIn(self, boot, creds).run()
        except (JetcrewError, BaseExceptionGroup):
            self.ended(process, Exit(code=NO_BUS, reason=f"exit-{NO_BUS}"))


class StandIn:
    """Does what a wrapper does on the bus; its agent sleeps, and succeeds or fails by chance."""

    def __init__(self, host: Host, boot: Boot, creds: Path) -> None:
        self._host = host
        self._boot = boot
        self._creds = creds
        self._worker = WorkerId(boot.worker)

    async def run(self) -> None:
        """Until cancelled, or the bus is closed to it."""
        async with (
            connect(
                self._host.url,
                name=f"stand-in-{self._worker}",
                creds=self._creds,
                inbox_prefix=f"_INBOX.{self._worker}",
                topology=Topology(),
                patience=60,
            ) as bus,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._closed(bus))
            group.create_task(self._beat(bus))
            boot = nonce()
            ready = Ready(incarnation=self._boot.incarnation, boot=boot, version="simulated")
            subject = bus.subjects.report(self._worker, "ready")
            await bus.publish(subject, ready, id=f"{boot}:ready")
            consumer = bus.topology.run_consumer(self._worker)
            await bus.consume(
                consumer, lambda delivery: self._work(bus, delivery), stop=asyncio.Event()
            )

    async def _closed(self, bus: Bus) -> None:
        await bus.closed.wait()
        raise BusClosed("revoked")

    async def _beat(self, bus: Bus) -> None:
        while True:
            with contextlib.suppress(BusUnavailable):
                await bus.tell(bus.subjects.heartbeat(self._worker), Heartbeat(boot="b"))
            await asyncio.sleep(self._boot.heartbeat_every)

    async def _work(self, bus: Bus, delivery: Delivery) -> None:
        work, run = decode(delivery.data, Assignment), nonce()
        question = StartTask(task=work.task, attempt=work.attempt, run=run)
        subject = bus.subjects.ask(self._worker, "task.start")
        answer: StartAnswer | None = None
        while answer is None:
            try:
                answer = await bus.ask(subject, question, StartAnswer)
            except BusUnavailable:
                await asyncio.sleep(0.2)
        if not answer.go:
            return
        self._host.ran[work.task, work.attempt] += 1
        await asyncio.sleep(self._host.chance.uniform(0, 0.5))
        failed = self._host.chance.random() < 0.1
        report = Finished(
            task=work.task,
            attempt=work.attempt,
            run=run,
            state="failed" if failed else "succeeded",
            end=TaskEnd(reason="failure" if failed else None),
        )
        subject = bus.subjects.report(self._worker, "finished", TaskId(work.task))
        await bus.publish(subject, report, id=f"{work.nonce}:end")


class SimulatedRuntime:
    """A `Runtime` on a host, for one manager of it."""

    name: Literal["process"] = "process"

    def __init__(self, host: Host) -> None:
        self._host = host

    async def _answer(self) -> None:
        await asyncio.sleep(self._host.chance.uniform(0, 0.02))
        if self._host.away:
            raise EngineUnavailable("the simulated engine is away")

    async def available(self) -> str | None:
        """Always."""
        return None

    def layout(self, worker: str, agent: str) -> Layout:
        """Nothing of it is looked at."""
        return Layout(agent_file="", workspace="", home="", bus=self._host.url, path="")

    async def start(self, spec: UnitSpec) -> Unit:
        """By chance refused."""
        await self._answer()
        present = self._host.processes.get(spec.worker)
        if present is not None and present.lives:
            if present.unit.incarnation == spec.incarnation:
                return present.unit
            self._host.kill(spec.worker)
        if self._host.chance.random() < self._host.refusals:
            raise EngineRefused("the simulated engine will not")
        return self._host.begin(spec)

    async def stop(self, worker: str, grace: float) -> Exit | None:
        """At once."""
        await self._answer()
        self._host.kill(worker)
        process = self._host.processes.get(worker)
        return process.unit.exit if process else None

    async def remove(self, worker: str, keep_volumes: bool) -> None:
        """All of it."""
        await self._answer()
        self._host.kill(worker)
        self._host.processes.pop(worker, None)

    async def pause(self, worker: str) -> None:
        """Nobody asks for it here."""

    async def resume(self, worker: str) -> None:
        """Nor for this."""

    async def list(self) -> list[Unit]:
        """As the host has them."""
        await self._answer()
        return [process.unit for process in self._host.processes.values()]

    async def find(self, worker: str) -> Unit | None:
        """Likewise."""
        await self._answer()
        process = self._host.processes.get(worker)
        return process.unit if process else None

    async def exits(self, stop: asyncio.Event) -> AsyncIterator[Unit]:
        """With gaps and repetitions."""
        queue: asyncio.Queue[Unit] = asyncio.Queue()
        self._host.ends.append(queue)
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        yield await queue.get()
        finally:
            self._host.ends.remove(queue)

    async def exec(self, worker: str, argv: Sequence[str], timeout: float) -> ExecOutcome:
        """It runs no programs."""
        raise EngineRefused("the simulated engine runs no programs")

    async def resources(self, worker: str) -> Resources | None:
        """Unknown."""
        return None

    async def logs(self, worker: str, lines: int = 200) -> str:
        """None."""
        return ""
