"""The wrapper's end of a task against the manager's: one counts, and the events say which."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from contracts.bus import Bus, connect
from contracts.events import TaskEnd
from contracts.ids import TaskId, WorkerId
from contracts.reports import Finished
from contracts.task import SubmitTask
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from tests.support.servers import Server, running_server

ADA = WorkerId("ada")


def crew_on(bus: Bus) -> Crew:
    return Crew(bus, Catalog.load())


async def race(server: Server, count: int) -> None:
    async def one(wrapper: Crew, manager: Crew, task: TaskId) -> None:
        at = datetime.now(UTC)
        record = moves.queued(task, ADA, SubmitTask(prompt="x"), at, door_seq=1, actor=None)
        assert await wrapper.tasks.create(task, record) is not None
        await wrapper.tasks.change(task, lambda r: moves.started(r, 1, "run", at))
        report = Finished(task=task, attempt=1, run="run", state="succeeded", end=TaskEnd())

        async def by_wrapper() -> None:
            await wrapper.tasks.change(task, lambda r: moves.finished(r, report, at))

        async def by_manager() -> None:
            await manager.end(task, "failed", TaskEnd(reason="killed"))

        first, second = (by_wrapper, by_manager) if hash(task) % 2 else (by_manager, by_wrapper)
        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            group.create_task(second())

    options = {"creds": server.creds("manager"), "inbox_prefix": "_INBOX.manager", "patience": 20}
    async with (
        connect(server.url, name="one", **options) as one_bus,  # type: ignore[arg-type]
        connect(server.url, name="two", **options) as two_bus,  # type: ignore[arg-type]
    ):
        wrapper, manager = crew_on(one_bus), crew_on(two_bus)
        tasks = [TaskId(f"r-{n}") for n in range(count)]
        for start in range(0, count, 20):
            async with asyncio.TaskGroup() as group:
                for task in tasks[start : start + 20]:
                    group.create_task(one(wrapper, manager, task))
        records = await wrapper.tasks.bucket.list()
        told: dict[str, list[str]] = {}
        after = 0
        while page := await one_bus.page("JC_EVT", "jetcrew.evt.task.>", after=after):
            after = page[-1].seq
            for event in page:
                body = msgspec.json.decode(event.data)
                told.setdefault(body["task"], []).append(body["type"])
    for task in tasks:
        state = records[task].value.state
        assert told[task] == ["task.queued", "task.started", f"task.{state}"]


async def test_of_two_ends_of_a_task_one_counts_and_is_told(tmp_path: Path) -> None:
    """R6, R12, a smaller version of the soak."""
    async with running_server(tmp_path, applied=True) as server:
        await race(server, 100)


@pytest.mark.soak
async def test_a_thousand_races_have_a_thousand_ends(tmp_path: Path) -> None:
    async with running_server(tmp_path, applied=True) as server:
        await race(server, 1000)
