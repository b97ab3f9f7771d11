"""How long workers live and how many there are at once: room, the line for it, idle rules, one task's worth."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.results import Result
from tests.support.crew import RunningCrew, another_node, running_crew
from tests.support.waiting import eventually

WAKES_WITHIN = 1.0
"""Seconds from a prompt to a paused worker's start on it (R16)."""
STOPS_WITHIN = 5.0
"""Seconds for a stop, whatever else goes on (R7)."""


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path_factory.mktemp("crew")) as running:
        yield running


async def ask_for(crew: RunningCrew, name: str, **spec: Any) -> Result:
    body = {"name": name, "agent": "shell", "runtime": "process"} | spec
    return await crew.ask("worker.create", body)


async def delete(crew: RunningCrew, *names: str) -> None:
    for name in names:
        await crew.ask("worker.delete", {"name": name})
    for name in names:
        await crew.until(name, "stopped")


async def reason_of(crew: RunningCrew, name: str) -> str:
    record = await crew.worker(name)
    assert record is not None
    return record.reason or ""


async def test_the_third_of_two_waits_and_starts_when_one_goes(tmp_path: Path) -> None:
    """R17."""
    async with running_crew(tmp_path, JETCREW_MAX_WORKERS="2") as crew:
        await crew.create("ada")
        await crew.create("bob")
        await ask_for(crew, "cid")
        await crew.until("cid", "queued")
        await ask_for(crew, "dan", queue_timeout=1)

        assert await reason_of(crew, "cid") == "2 of 2 workers are there"
        status = await crew.ask("worker.status", {"name": "cid"})
        assert status.detail.startswith("queued: 1 in the line")
        failed = await crew.until("dan", "failed")
        assert failed.reason == "resource-exhausted: no room within 1 s: others came before it"
        assert await crew.kinds("jetcrew.evt.worker.dan.>") == ["requested", "queued", "failed"]

        await crew.ask("worker.delete", {"name": "ada"})
        await crew.until("cid", "ready")
        assert await crew.kinds("jetcrew.evt.worker.cid.>") == [
            "requested", "queued", "starting", "ready",
        ]  # fmt: skip


async def test_memory_is_promised_in_the_order_of_requests(tmp_path: Path) -> None:
    """A small worker does not overtake a large one that waits; what can never fit holds up nobody."""
    bounds = {"JETCREW_MEMORY_MB": "1000", "JETCREW_MEMORY_OVERCOMMIT": "2"}
    async with running_crew(tmp_path, **bounds) as crew:
        await crew.create("ada", limits={"memory_mb": 1500})
        await ask_for(crew, "giant", limits={"memory_mb": 4000}, queue_timeout=2)
        await ask_for(crew, "large", limits={"memory_mb": 1000})
        await ask_for(crew, "small", limits={"memory_mb": 100})
        await crew.until("small", "queued")

        assert "500 of 2,000 MiB are not promised" in await reason_of(crew, "large")
        assert await reason_of(crew, "small") == "others came before it"
        giant = await crew.until("giant", "failed")
        assert "no more than 2,000 MiB are there" in (giant.reason or "")
        await crew.ask("worker.delete", {"name": "ada"})
        await crew.until("small", "ready")
        large, small = await crew.worker("large"), await crew.worker("small")
        assert large is not None
        assert small is not None
        assert small.state == "ready"
        assert large.node == small.node == "here"


async def test_a_queued_worker_is_deleted_at_once(tmp_path: Path) -> None:
    async with running_crew(tmp_path, JETCREW_MAX_WORKERS="1") as crew:
        await crew.create("ada")
        await ask_for(crew, "bob")
        await crew.until("bob", "queued")
        began = time.monotonic()
        await delete(crew, "bob")

        assert time.monotonic() - began < STOPS_WITHIN
        assert (await crew.until("ada", "ready")).name == "ada"


async def test_caps_are_above_what_a_worker_asks_for(tmp_path: Path) -> None:
    async with running_crew(tmp_path, JETCREW_CAPS__MEMORY_MB="512") as crew:
        result = await ask_for(crew, "ada", limits={"memory_mb": 513})
        assert result.error is not None
        assert result.error.field == "$.limits.memory_mb"
        assert "513 is above the operator's cap of 512" in result.error.description
        assert await crew.worker("ada") is None


async def test_an_idle_worker_is_paused_and_wakes_within_a_second(crew: RunningCrew) -> None:
    """R16."""
    await crew.create("ida", idle_pause=1)
    record = await crew.until("ida", "paused")
    assert record.reason == "idle"
    began = time.monotonic()
    await crew.submit("ida", "echo awake", task="ida-1")
    await crew.ended("ida-1")
    took = time.monotonic() - began

    task = await crew.task("ida-1")
    assert task is not None
    assert task.started_at is not None
    assert (task.started_at - task.submitted_at).total_seconds() < WAKES_WITHIN, took
    assert task.state == "succeeded"
    await crew.until("ida", "paused")
    await delete(crew, "ida")


async def test_a_long_silent_task_is_not_idle(crew: RunningCrew) -> None:
    """R16."""
    await crew.create("sue", idle_pause=0.5, idle_expiry=1)
    await crew.submit("sue", "sleep 4; echo done", task="sue-1")
    task = await crew.ended("sue-1")

    assert task.state == "succeeded"
    await crew.until("sue", "stopped")
    kinds = await crew.kinds("jetcrew.evt.worker.sue.>")
    assert kinds[kinds.index("busy") + 1] == "ready"


async def test_an_idle_worker_expires_even_while_it_is_paused(crew: RunningCrew) -> None:
    await crew.create("exe", idle_pause=0.5, idle_expiry=2)
    stopped = await crew.until("exe", "stopped")

    assert stopped.reason == "idle"
    assert (await crew.kinds("jetcrew.evt.worker.exe.>"))[-3:] == ["paused", "stopping", "stopped"]
    await crew.submit("exe", "echo late", task="exe-1")
    late = await crew.ended("exe-1")
    assert late.end is not None
    assert late.end.detail == "worker 'exe' is stopped (idle)"


async def test_a_worker_for_one_task_goes_with_it_and_the_end_stays(crew: RunningCrew) -> None:
    await crew.create("one", lifetime="task")
    await crew.submit("one", "sleep 1; echo result", task="one-1")
    await crew.submit("one", "echo second", task="one-2")
    first = await crew.ended("one-1")
    stopped = await crew.until("one", "stopped")
    second = await crew.ended("one-2")

    assert stopped.reason == "task-over"
    assert first.end is not None
    assert (first.state, first.end.text.strip()) == ("succeeded", "result")
    assert second.end is not None
    assert (second.state, second.end.reason) == ("cancelled", "worker-gone")
    assert second.end.detail == "its worker was deleted (task-over)"
    assert not (crew.server.state.workers / "one").exists()


async def test_a_worker_for_one_task_goes_when_that_is_cancelled_before_it_began(
    crew: RunningCrew,
) -> None:
    await ask_for(crew, "two", lifetime="task")
    await crew.submit("two", "sleep 60", task="two-1")

    async def recorded() -> bool:
        return await crew.task("two-1") is not None

    await eventually(recorded, expected=True)
    await crew.ask("task.cancel", {"task": "two-1"})
    stopped = await crew.until("two", "stopped")

    assert stopped.reason == "task-over"
    assert (await crew.ended("two-1")).state == "cancelled"


async def test_a_pause_is_refused_while_there_is_work_and_outlives_the_manager(
    crew: RunningCrew,
) -> None:
    """R16."""
    await crew.create("pat")
    await crew.submit("pat", "sleep 2", task="pat-1")
    await crew.until("pat", "busy")  # the task runs a moment before its worker's record says so
    busy = await crew.ask("worker.pause", {"name": "pat"})
    assert busy.error is not None
    assert busy.error.description == (
        "worker 'pat' is busy with task pat-1; only a ready one can be paused"
    )
    await crew.ended("pat-1")
    await crew.until("pat", "ready")
    assert (await crew.ask("worker.pause", {"name": "pat"})).detail == "will be paused"
    await crew.until("pat", "paused")
    again = await crew.ask("worker.pause", {"name": "pat"})
    assert (again.error, again.detail) == (None, "is paused")

    await crew.kill_manager()
    await crew.start_manager()
    wrapper = crew.wrapper("pat")
    await eventually(wrapper.status, "stopped")
    assert (await crew.until("pat", "paused")).desired == "paused"
    assert (await crew.ask("worker.resume", {"name": "pat"})).detail == "will be ready"
    await crew.until("pat", "ready")
    await delete(crew, "pat")


@pytest.mark.soak
async def test_pauses_resumes_and_prompts_at_once_leave_no_task_undone(crew: RunningCrew) -> None:
    await crew.create("rae", idle_pause=0.3)
    chance = random.Random(7)
    for n in range(20):
        doings = ["pause", "resume", "pause", "submit"]
        chance.shuffle(doings)
        async with asyncio.TaskGroup() as group:
            for doing in doings:
                if doing == "submit":
                    group.create_task(crew.submit("rae", "true", task=f"rae-{n}"))
                else:
                    group.create_task(crew.ask(f"worker.{doing}", {"name": "rae"}))
                await asyncio.sleep(chance.uniform(0, 0.1))
        done = await crew.ended(f"rae-{n}", within=30)
        assert done.state == "succeeded", done.end
    assert "starting" not in (await crew.kinds("jetcrew.evt.worker.rae.>"))[3:]
    await delete(crew, "rae")


async def test_many_starts_are_paced_and_a_stop_overtakes_them(tmp_path: Path) -> None:
    """R7."""
    names = [f"w{n}" for n in range(6)]
    async with running_crew(tmp_path, JETCREW_PARALLEL_STARTS="1") as crew:
        for name in names:
            await ask_for(crew, name)
        began = time.monotonic()
        await delete(crew, names[-1])
        assert time.monotonic() - began < STOPS_WITHIN
        for name in names[:-1]:
            await crew.until(name, "ready")

        ready = [
            event.subject.split(".")[3] for event in await crew.events("jetcrew.evt.worker.*.ready")
        ]
        assert ready == names[:-1]


async def test_a_node_that_is_full_leaves_a_worker_to_one_that_is_not(tmp_path: Path) -> None:
    """R17: the line is the crew's, the places are a node's."""
    async with running_crew(tmp_path, JETCREW_MAX_WORKERS="1") as crew:
        await crew.create("ada")
        await ask_for(crew, "bob")
        await crew.until("bob", "queued")
        async with another_node(crew, tmp_path / "there") as there:
            await crew.until("bob", "ready")
            for name in ("cid", "dan"):
                await ask_for(crew, name)
                await crew.until(name, "queued")
            await crew.ask("worker.delete", {"name": "ada"})
            await crew.until("cid", "ready")
            nodes = {name: (await crew.until(name, "ready")).node for name in ("bob", "cid")}
            await delete(crew, "bob")
            nodes["dan"] = (await crew.until("dan", "ready")).node

            assert nodes == {"bob": there, "cid": "here", "dan": there}
