"""Projects: workers that spend together, with a real manager and process workers (R26)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.bus import connect
from contracts.codec import decode
from contracts.project import ProjectRecord
from contracts.reports import Finished, TaskReport
from contracts.task import TaskRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew
from tests.support.agents import with_talker
from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    directory = tmp_path_factory.mktemp("crew")
    data = json.dumps([str(with_talker(directory / "data"))])
    async with running_crew(directory, JETCREW_DATA=data) as running:
        yield running


async def project(crew: RunningCrew, name: str) -> ProjectRecord:
    held = await crew.bus.bucket("jc_project", ProjectRecord).read(name)
    assert held is not None
    return held.value


async def done(crew: RunningCrew, verb: str, name: str, **body: Any) -> None:
    result = await crew.ask(f"project.{verb}", {"name": name} | body)
    assert result.error is None, result.error
    assert result.project == name


async def counted(crew: RunningCrew, name: str, attempts: int) -> ProjectRecord:
    """The project once so many ends are counted, which is just after their tasks have ended."""

    async def there() -> int:
        return (await project(crew, name)).attempts

    await eventually(there, attempts, within=60)
    return await project(crew, name)


async def over(crew: RunningCrew, worker: str, task: str) -> TaskRecord:
    await crew.submit(worker, f"{task}.", task=task)
    return await crew.ended(task)


async def test_workers_of_a_project_spend_together_until_it_is_used_up(crew: RunningCrew) -> None:
    """0.4 USD a turn, and less than twice that for two workers."""
    await done(crew, "create", "apollo", budget={"usd": 0.7})
    async with asyncio.TaskGroup() as group:
        for name in ("ada", "bob"):
            group.create_task(crew.create(name, agent="talker", project="apollo"))
    for worker, task in (("ada", "t-1"), ("bob", "t-2")):
        assert (await over(crew, worker, task)).state == "succeeded"
    found = await counted(crew, "apollo", 2)
    assert (found.spent.usd, found.spent.tokens) == (0.8, 240)

    refused = await over(crew, "ada", "t-3")
    assert refused.end is not None
    assert (refused.state, refused.end.reason) == ("failed", "budget-exhausted")
    assert "project apollo has used up its budget: 0.8 of 0.7 USD are used" in refused.end.detail
    assert await crew.kinds("jetcrew.evt.task.ada.t-3.>") == ["queued", "failed"]

    await done(crew, "update", "apollo", budget={"usd": 2.0})
    assert (await over(crew, "ada", "t-4")).state == "succeeded"
    await done(crew, "archive", "apollo")
    closed = await over(crew, "bob", "t-5")
    assert closed.end is not None
    assert (closed.state, closed.end.reason) == ("failed", "project-archived")
    assert (await counted(crew, "apollo", 3)).spent.usd == pytest.approx(1.2)
    assert await crew.kinds("jetcrew.evt.project.apollo.>") == [
        "created", "budget-exhausted", "updated", "archived",
    ]  # fmt: skip


async def test_a_manager_killed_between_an_end_and_its_counting_loses_and_doubles_nothing(
    crew: RunningCrew, tmp_path: Path
) -> None:
    """The agent ends while there is no manager; the record is then as one leaves it that dies right after."""
    await done(crew, "create", "mercury")
    await crew.create("dan", agent="talker", project="mercury")
    await crew.submit("dan", f"until {tmp_path / 'flag'}", task="k-1")
    await crew.running("k-1", tmp_path / "flag.waits")
    await crew.kill_manager()
    (tmp_path / "flag").touch()
    server = crew.server
    async with connect(
        server.url, name="control", creds=server.creds("manager"),
        inbox_prefix="_INBOX.manager", patience=20,
    ) as bus:  # fmt: skip

        async def reported() -> bool:
            return await bus.last("JC_REP", "jetcrew.rep.dan.task.k-1.finished") is not None

        await eventually(reported, expected=True, within=60)
        stored = await bus.last("JC_REP", "jetcrew.rep.dan.task.k-1.finished")
        records = Crew(bus, Catalog.load()).tasks.bucket
        held = await records.get("k-1")
        assert stored is not None
        assert held is not None
        report: Any = decode(stored.data, TaskReport)  # type: ignore[arg-type]  # a union is not a class
        assert isinstance(report, Finished)
        ended = moves.finished(held.value, report, held.value.changed_at)
        assert ended is not None
        await records.update("k-1", ended, held.revision)
    assert (await project(crew, "mercury")).attempts == 0

    await crew.start_manager()
    await counted(crew, "mercury", 1)
    await crew.until("dan", "ready")
    assert (await over(crew, "dan", "k-2")).state == "succeeded"
    assert (await counted(crew, "mercury", 2)).spent.usd == 0.8


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("worker.create", {"name": "cid", "agent": "shell", "project": "nobody"}, 404, "$.project"),
    ("worker.create", {"name": "cid", "agent": "shell", "project": "old"}, 409, "$.project"),
    ("worker.create", {"name": "cid", "agent": "shell", "project": "O"}, 422, "$.project"),
    ("project.create", {"name": "x", "budget": {"usd": -1}}, 422, "$.budget.usd"),
    ("project.create", {"name": "old"}, 409, "$.name"),
    ("project.create", {}, 422, "$.name"),
    ("project.update", {"name": "nobody", "budget": {"usd": 1}}, 404, "$.name"),
    ("project.update", {"name": "old", "budget": {"usd": 1}}, 409, "$.name"),
    ("project.update", {"name": "old"}, 422, "$.budget"),
    ("project.update", {"name": "old", "lift": ["gold"]}, 422, "$.lift[0]"),
    ("project.update", {"name": "old", "budget": {"usd": 1}, "lift": ["turns", "usd"]}, 422, "$.lift[1]"),
    ("project.archive", {"name": "nobody"}, 404, "$.name"),
]  # fmt: skip


async def test_what_is_wrong_is_refused_by_the_name_of_its_field(crew: RunningCrew) -> None:
    await done(crew, "create", "old")
    await done(crew, "archive", "old")
    for tail, body, code, field in WRONG:
        error = (await crew.ask(tail, body)).error
        assert error is not None, (tail, body)
        assert (error.code, error.field) == (code, field), error
    assert await crew.worker("cid") is None
