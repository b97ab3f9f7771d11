"""Workers: how much jetcrew adds to what the container engine does by itself, and what its own steps take.

Engine and crew take turns, round after round, so that what the machine does otherwise hits both alike. All
containers are the same: the hardened worker image of the agent `shell`, without a network.
"""

import argparse
import asyncio
import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from contracts.bus import Bus, Message, connect
from contracts.codec import decode
from contracts.events import WorkerState
from contracts.ids import CommandId, NodeId, TaskId, WorkerId
from contracts.log import configure
from contracts.task import SubmitTask, TaskRecord
from contracts.topology import WORKER
from contracts.worker import CreateWorker, Limits, WorkerRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from services.worker_manager.runtimes import profile
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.runtimes.handover import Handover
from services.worker_manager.runtimes.making import Maker
from tests.bench.table import Figure, Goal, report
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine, remove_everything_of
from tests.support.images import worker_image
from tests.support.servers import running_server
from tests.support.waiting import eventually

LIMITS = Limits(memory_mb=256, cpus=1, pids=128)
AT_ONCE = 8
CREWS = (10, 100, 1000)


@dataclass
class Watched:
    """A crew, and a view of its records that shows each change as it happens."""

    crew: RunningCrew
    bus: Bus
    """The control plane's own."""
    made: int = 0

    @contextlib.asynccontextmanager
    async def until(self, name: str, state: str, *, reason: str | None = None) -> AsyncIterator[asyncio.Future[float]]:  # fmt: skip
        """The moment at which a worker's record shows this state, looked for from now on."""
        seen: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        async def changed(message: Message) -> None:
            record = decode(message.data, WorkerRecord) if message.data else None
            if record is None or record.state != state or seen.done():
                return
            if reason is None or record.reason == reason:
                seen.set_result(time.perf_counter())

        subject = self.bus.subjects.changes(WORKER).rpartition(".")[0]
        async with self.bus.serve(f"{subject}.{name}", changed):
            yield seen

    async def create(self, name: str) -> float:
        """Milliseconds from the create command being stored to the record that says `ready`."""
        body = {"name": name, "agent": "shell", "runtime": "docker", "network": "none", "limits": {
            "memory_mb": LIMITS.memory_mb, "cpus": LIMITS.cpus, "pids": LIMITS.pids}}  # fmt: skip
        async with self.until(name, "ready") as ready:
            await self.crew.bus.publish("jetcrew.cmd.worker.create", msgspec.json.encode(body))
            stored = time.perf_counter()
            async with asyncio.timeout(120):
                return (await ready - stored) * 1000

    async def crash(self, name: str) -> float:
        """Milliseconds from telling the engine to kill to the record that says so."""
        record = await self.crew.worker(name)
        assert record is not None
        client, unit = need_engine(), str(record.unit)
        async with self.until(name, "starting", reason="killed") as told:
            began = time.perf_counter()
            await asyncio.to_thread(client.api.kill, unit)
            async with asyncio.timeout(60):
                return (await told - began) * 1000

    async def delete(self, *names: str) -> None:
        """Until nothing is left of them."""
        for name in names:
            await self.crew.ask("worker.delete", {"name": name})
        for name in names:
            await self.crew.until(name, "stopped")

    def name(self) -> str:
        """A name that no worker had."""
        self.made += 1
        return f"w{self.made}"

    async def one_waits(self) -> None:
        """Until a warm container is there and frozen."""
        crew = f"jetcrew.crew={self.crew.server.identity.crew}"
        filters: dict[str, str | list[str] | bool] = {"label": [crew, "jetcrew.kind=warm"]}

        def frozen() -> bool:
            found = need_engine().containers.list(filters=filters)
            return any(container.status == "paused" for container in found)

        async def waits() -> bool:
            return await asyncio.to_thread(frozen)

        await eventually(waits, True, within=60)
        await asyncio.sleep(0.3)  # until its manager knows that it is


class Alone:
    """The engine without a crew: the same containers, made by its own calls."""

    def __init__(self, engine: Engine, image: str, directory: Path) -> None:
        self._names = profile.Names(f"bench-{secrets.token_hex(4)}", "here")
        self._maker = Maker(engine, self._names)
        self._image = image
        self._directory = directory
        self._made = 0

    @property
    def crew(self) -> str:
        """As in the label."""
        return self._names.crew

    async def start(self) -> tuple[float, float]:
        """Milliseconds until a container is created and started, and until its wrapper is up and waits."""
        self._made += 1
        name = f"e{self._made}"
        labels = self._names.labels("worker", name)
        directory = self._directory / name
        wanted = profile.Wanted(
            name=self._names.container(name),
            hostname=name,
            labels=labels,
            volumes={kind: self._names.volume(name, kind) for kind in profile.VOLUMES},
            volume_labels=dict.fromkeys(profile.VOLUMES, labels),
            image=self._image,
            limits=LIMITS,
            network="none",
            directory=directory,
        )
        handover = Handover()
        await handover.open(directory)
        began = time.perf_counter()
        await self._maker.make(wanted)
        started = time.perf_counter()
        assert await handover.fit
        up = time.perf_counter()
        handover.close()
        return (started - began) * 1000, (up - began) * 1000

    async def clear(self) -> None:
        """Remove all of it."""
        await asyncio.to_thread(remove_everything_of, self.crew)


async def looks(figures: dict[str, Figure], directory: Path, rounds: int) -> None:
    """What a node reads when it looks at everything and nothing has changed: workers, tasks, what they owe."""
    async with (
        running_server(directory, applied=True) as server,
        connect(server.url, name="bench", creds=server.creds("manager"), inbox_prefix="_INBOX.manager") as bus,
    ):  # fmt: skip
        catalog, made = Catalog.load(), 0
        crew = Crew(bus, catalog)
        for size in CREWS:
            for n in range(made, size):
                await crew.workers.create(f"paused-{n}", _worker(f"paused-{n}", "paused"))
                await crew.workers.create(f"stopped-{n}", _worker(f"stopped-{n}", "stopped"))
                await crew.tasks.create(f"t{n}", _over(f"t{n}"))
            made = size
            for _ in range(rounds):
                anew = Crew(bus, catalog)
                began = time.perf_counter()
                await _look_at(anew)
                figures[_first(size)].rounds.append((time.perf_counter() - began) * 1000)
                began = time.perf_counter()
                assert await _look_at(anew) == size
                figures[_look(size)].rounds.append((time.perf_counter() - began) * 1000)


async def _look_at(crew: Crew) -> int:
    """How many workers are open."""
    workers = dict(await crew.open_workers.now())
    await crew.workers.settle_these(workers.items())
    tasks = dict(await crew.open_tasks.now())
    await crew.tasks.settle_these(tasks.items())
    return len(workers)


def _worker(name: str, state: WorkerState) -> WorkerRecord:
    at = datetime.now(UTC)
    spec = CreateWorker(name=name, agent="shell", instructions="Be brief. " * 40)
    record = moves.requested(spec, at, made_by=CommandId(f"c-{name}"))
    return msgspec.structs.replace(
        record, name=WorkerId(name), state=state, node=NodeId("here"), runtime="docker", owed=[]
    )


def _over(task: str) -> TaskRecord:
    body = SubmitTask(prompt="Be brief. " * 40)
    at, to = datetime.now(UTC), WorkerId("paused-0")
    record = moves.queued(TaskId(task), to, body, at, door_seq=1, actor=None)
    return msgspec.structs.replace(record, state="succeeded", door_seq=None, owed=[])


def _look(size: int) -> str:
    return f"a look, {size:,} each of paused and stopped workers and ended tasks"


def _first(size: int) -> str:
    return f"the first look of a process, {size:,} of each"


ENGINE, UP, COLD = "engine alone: create, start", "engine alone, until the wrapper is up", "create to ready, cached image"  # fmt: skip
WARM, WARM_LIMIT = "create to ready, warm", "limit of a warm create"
CRASH, CRASH_LIMIT = "docker kill to record and event", "limit of a crash"
ENGINE_MANY, MANY = f"engine alone: {AT_ONCE} at once", f"{AT_ONCE} creates at once to ready"
FIGURES = [
    Figure(ENGINE, "ms"),
    Figure(UP, "ms"),
    Figure(COLD, "ms"),
    Figure(WARM, "ms"),
    Figure(WARM_LIMIT, "ms", [60.0]),
    Figure(CRASH, "ms"),
    Figure(CRASH_LIMIT, "ms", [150.0]),
    Figure(ENGINE_MANY, "ms"),
    Figure(MANY, "ms"),
    *(Figure(_look(size), "ms", note="the engine's part left out") for size in CREWS),
    *(Figure(_first(size), "ms", note="likewise") for size in CREWS),
]
FLAT = Goal("looks cost what is new", _look(CREWS[-1]), _look(CREWS[0]), 2.0, at_least=False)
GOALS = [
    Goal("create to ready ≤ 1.25 x the engine's create and start", COLD, ENGINE, 1.25, at_least=False),
    Goal("create to ready ≤ 1.25 x the engine until the wrapper is up", COLD, UP, 1.25, at_least=False),
    Goal("warm create ≤ 60 ms", WARM, WARM_LIMIT, 1.0, at_least=False),
    Goal("crash seen ≤ 150 ms", CRASH, CRASH_LIMIT, 1.0, at_least=False),
    Goal(f"{AT_ONCE} at once ≤ 1.25 x the engine", MANY, ENGINE_MANY, 1.25, at_least=False),
    FLAT,
]  # fmt: skip


@contextlib.asynccontextmanager
async def watched_crew(directory: Path, **settings: str) -> AsyncIterator[Watched]:
    """A crew with a manager of its own; all of it is gone at the end."""
    async with running_crew(directory, **settings) as crew:
        try:
            async with connect(
                crew.server.url,
                name="bench",
                creds=crew.server.creds("manager"),
                inbox_prefix="_INBOX.manager",
                patience=20,
            ) as bus:
                yield Watched(crew, bus)
        finally:
            await crew.stop_manager()
            await asyncio.to_thread(remove_everything_of, crew.server.identity.crew)


async def one_round(figures: dict[str, Figure], alone: Alone, cold: Watched, warm: Watched) -> None:
    """Everything once."""
    started, up = await alone.start()
    await alone.clear()
    figures[ENGINE].rounds.append(started)
    figures[UP].rounds.append(up)
    name = cold.name()
    figures[COLD].rounds.append(await cold.create(name))
    figures[CRASH].rounds.append(await cold.crash(name))
    await cold.crew.until(name, "ready")
    await cold.delete(name)
    name = warm.name()
    figures[WARM].rounds.append(await warm.create(name))
    await warm.delete(name)
    await warm.one_waits()


async def at_once(figures: dict[str, Figure], alone: Alone, cold: Watched) -> None:
    """Several creates at once, by the engine and by the crew."""
    figures[ENGINE_MANY].rounds.append(await _slowest([alone.start() for _ in range(AT_ONCE)]))
    await alone.clear()
    names = [cold.name() for _ in range(AT_ONCE)]
    figures[MANY].rounds.append(await _slowest([cold.create(name) for name in names]))
    await cold.delete(*names)


async def _slowest(works: list[Any]) -> float:
    """Milliseconds until all are done."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)
    return (time.perf_counter() - began) * 1000


async def run_looks(rounds: int) -> bool:
    """That part alone, which needs no engine."""
    names = [name(size) for name in (_look, _first) for size in CREWS]
    figures = {figure.name: figure for figure in FIGURES if figure.name in names}
    configure(level="error")
    with tempfile.TemporaryDirectory(prefix="jetcrew-bench-") as scratch:
        await looks(figures, Path(scratch), rounds)
    return report("workers", list(figures.values()), [FLAT])


async def run(rounds: int) -> bool:
    """All of it."""
    figures = {figure.name: figure for figure in FIGURES}
    configure(level="error")
    image = await worker_image("shell")
    with tempfile.TemporaryDirectory(prefix="jetcrew-bench-") as scratch:
        directory = Path(scratch)
        for part in ("records", "cold", "warm"):
            (directory / part).mkdir()
        await looks(figures, directory / "records", rounds)
        async with (
            Engine() as engine,
            watched_crew(directory / "cold") as cold,
            watched_crew(directory / "warm", JETCREW_WARM__SIZE="1") as warm,
        ):
            alone = Alone(engine, image, directory / "engine")
            first = warm.name()
            await warm.create(first)
            await warm.delete(first)
            await warm.one_waits()
            try:
                for n in range(rounds):
                    print(f"round {n + 1} of {rounds}", file=sys.stderr)
                    await one_round(figures, alone, cold, warm)
                for _ in range(max(1, rounds // 4)):
                    await at_once(figures, alone, cold)
            finally:
                await alone.clear()
    return report("workers", list(figures.values()), GOALS)


def main() -> int:
    """0 when every goal holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--looks", action="store_true", help="only the looks at all records")
    given = parser.parse_args()
    return 0 if asyncio.run((run_looks if given.looks else run)(given.rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
