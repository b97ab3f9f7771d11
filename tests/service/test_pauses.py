"""Pause, resume and tasks that come in the same moment: never frozen with a task in flight, no wish lost."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest
from msgspec.structs import replace

from contracts.asks import Assignment
from contracts.bus import Bus
from contracts.errors import Refused
from contracts.ids import TaskId, WorkerId, nonce
from contracts.task import SubmitTask
from contracts.worker import CreateWorker, Desired, WorkerRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from services.worker_manager.idle import Rest
from services.worker_manager.idling import Idling
from services.worker_manager.runtimes import Runtime, Unit
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.surroundings import Surroundings
from services.worker_manager.wishes import want
from tests.support.raw_nats import control_plane
from tests.support.servers import running_server

ADA, TASK = WorkerId("ada"), TaskId("t1")


async def nothing() -> None:
    """Nobody does anything meanwhile."""


@dataclass
class FakeRuntime:
    """One unit; `meanwhile` is what somebody else does while it is thawed."""

    state: Literal["running", "paused"] = "running"
    meanwhile: Callable[[], Awaitable[object]] = nothing

    async def pause(self, _: str) -> None:
        """Freeze."""
        self.state = "paused"

    async def resume(self, _: str) -> None:
        """Thaw."""
        self.state = "running"
        await self.meanwhile()

    @property
    def unit(self) -> Unit:
        """As the engine shows it."""
        return Unit(id="u1", worker=ADA, incarnation=1, state=self.state)


@dataclass
class Scene:
    """One worker, and what its keeper has to do with it while it is idle."""

    bus: Bus
    crew: Crew
    fake: FakeRuntime = field(default_factory=FakeRuntime)

    def __post_init__(self) -> None:
        settings = ManagerSettings(state_dir=Path("/nonexistent"), url="nats://nowhere")
        around = SimpleNamespace(
            crew=self.crew,
            settings=settings,
            last_beat={},
            freeze_engine=self._children,
            thaw_engine=self._children,
        )
        rest = Rest(1.0)
        self.idling = Idling(ADA, cast("Surroundings", around), rest, lambda: None)

    async def _children(self, _: WorkerRecord) -> None:
        """It made nothing on the engine."""

    @property
    def runtime(self) -> Runtime:
        return cast("Runtime", self.fake)

    async def worker(
        self, state: Literal["ready", "paused"], desired: Desired, *, idle: float = 0.0
    ) -> WorkerRecord:
        """Its record, idle for so many seconds."""
        at = datetime.now(UTC) - timedelta(seconds=idle)
        record = WorkerRecord(
            name=ADA, state=state, desired=desired, spec=CreateWorker(name=ADA, agent="shell"),
            requested_at=at, changed_at=at, idle_since=at, node=None, runtime="process",
        )  # fmt: skip
        made = await self.crew.workers.create(ADA, record)
        assert made is not None
        return made

    async def now(self) -> tuple[str, str]:
        """State, and what is wanted."""
        record = await self.crew.worker(ADA)
        return record.state, record.desired

    async def assigned(self) -> None:
        """A task that is about to start: its prompt has left the door, its worker is not busy yet."""
        at = datetime.now(UTC)
        record = moves.queued(TASK, ADA, SubmitTask(prompt="x"), at, door_seq=1, actor=None)
        await self.crew.tasks.create(TASK, record)
        work = Assignment(task=TASK, attempt=1, nonce=nonce(), prompt="x", timeout=60)
        await self.bus.publish(self.bus.subjects.run(ADA), work, id=f"{TASK}:1:{work.nonce}")
        await self.crew.tasks.change(TASK, lambda r: moves.started(r, 1, "run", at))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_server(tmp_path, applied=True) as server, control_plane(server) as bus:
        yield Scene(bus, Crew(bus, Catalog.load()))


@pytest.mark.parametrize(("desired", "idle"), [("paused", 0.0), ("running", 1e6)])
async def test_a_worker_whose_task_is_just_starting_is_not_frozen(
    scene: Scene, desired: Desired, idle: float
) -> None:
    record = await scene.worker("ready", desired, idle=idle)
    await scene.assigned()
    await scene.idling.serve(record, scene.runtime)

    assert (scene.fake.state, await scene.now()) == ("running", ("ready", desired))
    with pytest.raises(Refused, match="task in its queue"):
        await want(scene.crew, ADA, "paused")
    at = datetime.now(UTC)
    busy = await scene.crew.workers.change(ADA, lambda r: moves.busy(r, TASK, at))
    assert busy is not None


@pytest.mark.parametrize(("desired", "idle"), [("paused", 0.0), ("running", 1e6)])
async def test_a_worker_without_a_task_is_frozen(
    scene: Scene, desired: Desired, idle: float
) -> None:
    record = await scene.worker("ready", desired, idle=idle)
    await scene.idling.serve(record, scene.runtime)

    assert (scene.fake.state, await scene.now()) == ("paused", ("paused", "paused"))


async def test_a_resume_before_the_freeze_counts(scene: Scene) -> None:
    seen = await scene.worker("ready", "paused", idle=1e6)
    await want(scene.crew, ADA, "running")
    await scene.idling.serve(seen, scene.runtime)

    assert (scene.fake.state, await scene.now()) == ("running", ("ready", "running"))


async def test_a_pause_while_it_is_thawed_counts(scene: Scene) -> None:
    seen = await scene.worker("paused", "running")
    scene.fake.state = "paused"
    scene.fake.meanwhile = lambda: want(scene.crew, ADA, "paused")
    await scene.idling.keep_frozen(seen, scene.runtime, scene.fake.unit)

    assert await scene.now() == ("paused", "paused")


async def test_a_task_thaws_it_whatever_is_wanted(scene: Scene) -> None:
    seen = await scene.worker("paused", "paused")
    scene.fake.state = "paused"
    await scene.bus.publish(scene.bus.subjects.task(ADA), SubmitTask(prompt="x"), id="t1")
    await scene.idling.keep_frozen(seen, scene.runtime, scene.fake.unit)

    assert (scene.fake.state, await scene.now()) == ("running", ("ready", "running"))


async def test_a_pause_is_refused_not_lost_when_a_task_starts_before_it_is_recorded(
    scene: Scene,
) -> None:
    await scene.worker("ready", "running")
    looked = scene.crew.works
    at = datetime.now(UTC)

    async def and_then_it_starts(worker: WorkerId) -> bool:
        works = await looked(worker)
        await scene.crew.workers.change(worker, lambda r: moves.busy(r, TASK, at))
        return works

    scene.crew.works = and_then_it_starts  # type: ignore[method-assign]  # somebody else is faster
    with pytest.raises(Refused, match="busy with task t1"):
        await want(scene.crew, ADA, "paused")
    assert await scene.now() == ("busy", "running")


async def test_a_freeze_that_the_engine_carried_out_late_is_taken_back(scene: Scene) -> None:
    record = await scene.worker("ready", "paused")
    await scene.idling.serve(record, scene.runtime)
    await scene.crew.workers.change(ADA, lambda r: replace(r, desired="running"))
    await scene.idling.keep_frozen(await scene.crew.worker(ADA), scene.runtime, scene.fake.unit)
    late = replace_state(scene.fake, "paused")

    await scene.idling.thawed(record, scene.runtime, late)

    assert scene.fake.unit.state == "running"


def replace_state(fake: FakeRuntime, state: Literal["running", "paused"]) -> Unit:
    """The unit in another state than the keeper left it in."""
    fake.state = state
    return fake.unit
