"""What an attempt used is counted in its project exactly once, whoever dies between which two lines (R26)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.asks import Assignment
from contracts.budget import Budget, Spent
from contracts.bus import connect
from contracts.codec import decode
from contracts.events import TaskEnd, Usage
from contracts.ids import CommandId, TaskId, WorkerId
from contracts.project import CreateProject, ProjectRecord
from contracts.task import SubmitTask, TaskRecord
from contracts.worker import CreateWorker
from services.kit.catalog import Catalog
from services.worker_manager import moves, projects
from services.worker_manager.crew import Crew
from services.worker_manager.dispatch import dispatch
from tests.support.servers import Server, running_server

ADA = WorkerId("ada")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
CENT = Usage(cost_usd=0.01, turns=1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path, applied=True) as running:
        yield running


@asynccontextmanager
async def manager(server: Server) -> AsyncIterator[Crew]:
    """What one manager has of the records, on a connection of its own."""
    async with connect(
        server.url, name="manager", creds=server.creds("manager"),
        inbox_prefix="_INBOX.manager", patience=20,
    ) as bus:  # fmt: skip
        yield Crew(bus, Catalog.load())


async def project(crew: Crew, **budget: float) -> None:
    command = CreateProject(name="apollo", budget=Budget(**budget))  # type: ignore[arg-type]
    assert (await crew.projects.carry_out(command, CommandId("s1"))).error is None


async def running(crew: Crew, name: str) -> TaskRecord:
    """A task that runs."""
    task = TaskId(name)
    record = moves.queued(task, ADA, SubmitTask(prompt="x"), NOON, door_seq=1, actor=None)
    assert await crew.tasks.create(task, record) is not None
    started = await crew.tasks.change(
        task, lambda r: moves.started(r, 1, "run", NOON, project="apollo")
    )
    assert started is not None
    return started


async def ended_only(crew: Crew, name: str) -> TaskRecord:
    """The same with its end in the record and nothing else done: its manager was killed there."""
    await running(crew, name)
    held = await crew.tasks.bucket.get(name)
    assert held is not None
    over = moves.ended(held.value, "succeeded", TaskEnd(usage=CENT), NOON)
    assert over is not None
    await crew.tasks.bucket.update(name, over, held.revision)
    return over


async def spent(crew: Crew) -> tuple[float, int]:
    record = await crew.projects.get("apollo")
    assert record is not None
    return record.spent.usd, record.attempts


async def test_an_end_that_was_recorded_and_no_more_is_counted_by_whoever_comes(
    server: Server,
) -> None:
    async with manager(server) as killed, manager(server) as other:
        await project(killed)
        await ended_only(killed, "t-1")
        assert await spent(other) == (0.0, 0)

        tasks = await other.tasks.bucket.list()
        assert await other.tasks.settle_these(tasks.items()) == 1
        assert await spent(other) == (0.01, 1)
        assert await other.tasks.settle_these((await other.tasks.bucket.list()).items()) == 0
        assert await spent(other) == (0.01, 1)


async def test_an_end_that_was_counted_but_not_struck_off_is_not_counted_again(
    server: Server,
) -> None:
    async with manager(server) as killed, manager(server) as other:
        await project(killed)
        over = await ended_only(killed, "t-1")
        await killed.projects.settle(over)
        assert await spent(other) == (0.01, 1)

        settled = await other.tasks.get("t-1")
        assert settled is not None
        assert settled.value.owed == []
        assert await spent(other) == (0.01, 1)


async def test_who_comes_late_does_not_count_what_the_project_has_forgotten(server: Server) -> None:
    """The project forgets an end once its task has struck it off; somebody may still hold the old record."""
    async with manager(server) as late, manager(server) as other:
        await project(other)
        stale = await ended_only(late, "t-1")
        await other.tasks.get("t-1")
        for n in range(projects.MANY):
            await ended_only(other, f"n-{n}")
            await other.tasks.get(f"n-{n}")
        record = await other.projects.get("apollo")
        assert record is not None
        assert TaskId("t-1") not in record.counted.values()
        assert len(record.counted) <= projects.MANY

        await late.projects.settle(stale)
        assert await spent(other) == (0.65, projects.MANY + 1)


async def test_managers_that_settle_at_the_same_time_count_each_end_once(server: Server) -> None:
    async with manager(server) as one, manager(server) as two:
        await project(one)
        names = [f"t-{n}" for n in range(20)]
        for name in names:
            await ended_only(one, name)
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(one.tasks.get(name))
                group.create_task(two.tasks.get(name))

        assert await spent(one) == (0.2, 20)


async def test_a_task_is_given_what_is_left_of_the_tightest_budget(server: Server) -> None:
    async with manager(server) as crew:
        await project(crew, usd=1.0, turns=10)
        held = await crew.projects.records.get("apollo")
        assert held is not None
        used: ProjectRecord = replace(held.value, spent=Spent(usd=0.75, turns=4))
        await crew.projects.records.bucket.update("apollo", used, held.revision)
        spec = CreateWorker(
            name="ada", agent="shell", project="apollo", budget=Budget(usd=0.5, tokens=100)
        )
        worker = moves.requested(spec, NOON, made_by=CommandId("s2"))
        body = SubmitTask(prompt="x", budget=Budget(turns=8))
        receipt = await crew.bus.publish(crew.bus.subjects.task(ADA), body, id="t-1")
        record = moves.queued(TaskId("t-1"), ADA, body, NOON, door_seq=receipt.seq, actor=None)
        await crew.tasks.create("t-1", record)
        stored = await crew.waiting(ADA)
        assert stored is not None

        await dispatch(crew, worker, stored)
        given = await crew.bus.last("JC_RUN", crew.bus.subjects.run(ADA))
        assert given is not None
        assert decode(given.data, Assignment).budget == Budget(usd=0.25, tokens=100, turns=6)
