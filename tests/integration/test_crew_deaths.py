"""What happens when a part of the crew is killed in the middle of a task: one typed end, nothing lost, nothing doubled."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from contracts.errors import BusUnavailable, QueueFull
from contracts.task import TaskRecord
from contracts.topology import REVOKED
from services.kit.identity.revocations import Revoked
from services.kit.identity.workers import MARGIN
from tests.support.crew import RunningCrew, running_crew
from tests.support.dying import die
from tests.support.raw_nats import control_plane, lets_in
from tests.support.waiting import eventually

ENDS = {"succeeded", "failed", "cancelled", "timed-out", "input-required", "refused"}


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path) as running:
        await running.create("ada")
        yield running


async def kinds_of(crew: RunningCrew, task: str) -> list[str]:
    return await crew.kinds(f"jetcrew.evt.task.ada.{task}.>")


def gate(tmp_path: Path) -> tuple[Path, Path, str]:
    """A script that says when it has begun, and goes on once it may."""
    begun, may = tmp_path / "begun", tmp_path / "may"
    return begun, may, f"touch {begun}; until [ -e {may} ]; do sleep 0.1; done; echo done >> ran"


async def test_a_killed_manager_is_survived_by_the_task_and_adopted_by_the_next(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun, may, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", begun)
    wrapper = crew.wrapper("ada").pid

    await crew.kill_manager()
    may.touch()
    await crew.start_manager()
    first = await crew.ended("t-1")
    await crew.submit("ada", "cat ran", task="t-2")
    second = await crew.ended("t-2")

    assert (first.state, second.state) == ("succeeded", "succeeded")
    assert await kinds_of(crew, "t-1") == ["queued", "started", "succeeded"]
    assert second.end is not None
    assert second.end.text.split() == ["done"]
    assert crew.wrapper("ada").pid == wrapper


async def test_a_killed_wrapper_fails_its_task_once_and_the_worker_comes_back(
    crew: RunningCrew, tmp_path: Path
) -> None:
    """R10, R12: the agent is not run again by itself, and nothing of it is left."""
    begun, may, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", begun)

    os.kill(crew.wrapper("ada").pid, signal.SIGKILL)
    first = await crew.ended("t-1", within=30)
    may.touch()
    await crew.submit("ada", "cat ran 2>/dev/null; echo alive", task="t-2")
    second = await crew.ended("t-2")

    assert (first.state, first.end and first.end.reason) == ("failed", "killed")
    assert first.end is not None
    assert first.end.told_by == "manager"
    assert await kinds_of(crew, "t-1") == ["queued", "started", "failed"]
    assert second.end is not None
    assert (second.state, second.end.text.split()) == ("succeeded", ["alive"])
    told = await crew.kinds("jetcrew.evt.worker.ada.>")
    assert told[told.index("busy") :][:4] == ["busy", "starting", "ready", "busy"]


async def test_a_killed_server_delays_a_task_and_changes_nothing_else(
    crew: RunningCrew, tmp_path: Path
) -> None:
    """R9."""
    begun, may, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", begun)

    await crew.server.kill()
    may.touch()
    await asyncio.sleep(1)
    await crew.server.start_again()
    first = await crew.ended("t-1")
    await crew.submit("ada", "cat ran", task="t-2")
    second = await crew.ended("t-2")

    assert first.state == "succeeded"
    assert await kinds_of(crew, "t-1") == ["queued", "started", "succeeded"]
    assert second.end is not None
    assert second.end.text.split() == ["done"]


async def test_a_task_whose_worker_dies_before_it_heeds_the_cancel_is_cancelled(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun, _, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1", max_attempts=3)
    await crew.running("t-1", begun)
    wrapper = crew.wrapper("ada")
    wrapper.suspend()
    told = await crew.ask("task.cancel", {"task": "t-1", "reason": "enough"})
    wrapper.kill()
    first = await crew.ended("t-1")

    assert told.detail == "cancelling"
    assert (first.state, first.end and first.end.reason) == ("cancelled", "enough")
    assert first.end is not None
    assert (first.end.told_by, first.end.signal) == ("manager", "SIGKILL")
    assert await kinds_of(crew, "t-1") == ["queued", "started", "cancelling", "cancelled"]
    await crew.until("ada", "ready")


@pytest.mark.soak
async def test_an_outage_longer_than_credentials_live_costs_no_end(tmp_path: Path) -> None:
    """R27: the credential lasts through the task's deadline, and is taken back for as long when it is deleted."""
    life = 8.0
    async with running_crew(tmp_path, JETCREW_CREDENTIAL_LIFE=f"{life:g}") as crew:
        await crew.create("ada")
        begun, may, script = gate(tmp_path)
        await crew.submit("ada", script, task="t-1", timeout=300)
        task = await crew.running("t-1", begun)
        assert task.deadline_at is not None
        most = (task.deadline_at + timedelta(seconds=MARGIN)).replace(microsecond=0)
        await eventually(lambda: until(crew, most), True, 30)
        away = time.time()

        await crew.kill_manager()
        await crew.server.kill()
        may.touch()
        await eventually(lambda: time.time() > away + life + 1, True, 30)
        await crew.server.start_again()
        await crew.start_manager()
        first = await crew.ended("t-1")
        assert first.end is not None
        assert (first.state, first.end.told_by) == ("succeeded", "wrapper")
        assert await kinds_of(crew, "t-1") == ["queued", "started", "succeeded"]

        [creds] = crew.server.state.workers.glob("ada/**/worker.creds")
        kept = tmp_path / "kept.creds"
        kept.write_bytes(creds.read_bytes())
        assert await lets_in(crew.server, kept)
        await crew.ask("worker.delete", {"name": "ada"})
        await crew.until("ada", "stopped")
        assert not await lets_in(crew.server, kept)
        async with control_plane(crew.server, "manager") as bus:
            [held] = (await bus.bucket(REVOKED, Revoked).list()).values()
        assert held.value.until >= most.timestamp() - 1


async def until(crew: RunningCrew, at: datetime) -> bool:
    """Whether the longest of ada's credentials expires then."""
    record = await crew.worker("ada")
    return record is not None and record.credential_until == at


async def test_manager_and_wrapper_killed_together_leave_one_failure(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun, _, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", begun)

    await crew.kill_manager()
    os.kill(crew.wrapper("ada").pid, signal.SIGKILL)
    await crew.start_manager()
    first = await crew.ended("t-1")

    assert first.state == "failed"
    assert await kinds_of(crew, "t-1") == ["queued", "started", "failed"]
    await crew.until("ada", "ready")


async def test_a_manager_killed_while_it_deletes_is_finished_by_the_next(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun, _, script = gate(tmp_path)
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", begun)
    assert crew.processes("ada")
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.kill_manager()
    await crew.start_manager()
    await crew.until("ada", "stopped")

    assert (await crew.ended("t-1")).state in {"cancelled", "failed"}
    assert len([k for k in await kinds_of(crew, "t-1") if k in ENDS]) == 1
    await eventually(lambda: len(crew.processes("ada")), 0)


async def test_a_wrapper_that_hangs_is_noticed(tmp_path: Path) -> None:
    async with running_crew(tmp_path, JETCREW_SILENCE="8") as crew:
        await crew.create("ada")
        begun, _, script = gate(tmp_path)
        await crew.submit("ada", script, task="t-1")
        await crew.running("t-1", begun)
        crew.wrapper("ada").suspend()

        task = await crew.ended("t-1")

    assert task.state == "failed"


async def _storm(crew: RunningCrew, tasks: int, manager_kills: int, server_kills: int) -> None:
    """Many short tasks while processes die; then everything is looked at."""
    workers = ["ada", "bob"]
    await crew.create("bob")
    names = [(workers[n % 2], f"s-{n}") for n in range(tasks)]

    async def submit() -> None:
        for worker, task in names:
            while True:
                try:
                    await crew.submit(worker, f"echo {task} >> ran", task=task)
                    break
                except (QueueFull, BusUnavailable):  # as any publisher would, try again
                    await asyncio.sleep(0.2)

    async def kill() -> None:
        kills = ["manager"] * manager_kills + ["server"] * server_kills
        for n in range(len(kills)):
            what = kills[(n * 7) % len(kills)]
            await asyncio.sleep(0.5 + (n % 5) / 4)
            if what == "server":
                await crew.server.kill()
                await crew.server.start_again()
            else:
                await crew.kill_manager()
                await crew.start_manager()

    async with asyncio.TaskGroup() as group:
        group.create_task(submit())
        group.create_task(kill())
    for _, task in names:
        await crew.ended(task, within=600)
    await _look_at_everything(crew, names)


async def _look_at_everything(crew: RunningCrew, names: list[tuple[str, str]]) -> None:
    events: dict[str, list[str]] = {task: [] for _, task in names}
    for event in await crew.events("jetcrew.evt.task.>"):
        *_, task, kind = event.subject.split(".")
        if kind != "progress" and task in events:
            events[task].append(kind)
    held = await crew.bus.bucket("jc_task", TaskRecord).list()
    for _, task in names:
        record = held[task].value
        expected = ["queued", "started", record.state]
        assert events[task] == expected, (task, events[task], record)
        assert record.owed == []
    ran = Counter(
        line
        for worker in {worker for worker, _ in names}
        for line in (crew.server.state.workers / worker / "workspace" / "ran").read_text().split()
    )
    assert max(ran.values()) == 1, "an agent ran twice"
    succeeded = {task for _, task in names if held[task].value.state == "succeeded"}
    assert succeeded <= set(ran)
    assert len(succeeded) == len(names), {
        task: held[task].value.end for _, task in names if task not in succeeded
    }
    for stream in ("JC_TASK", "JC_RUN"):
        state = (await crew.bus.api(f"STREAM.INFO.{stream}"))["state"]
        assert state["messages"] == 0, stream


async def test_kills_of_manager_and_server_lose_and_double_nothing(crew: RunningCrew) -> None:
    """R1, R3, R8, R10, a smaller version of the soak."""
    await _storm(crew, tasks=40, manager_kills=3, server_kills=2)


@pytest.mark.soak
async def test_fifty_kills_of_the_manager_and_ten_of_the_server_over_a_thousand_tasks(
    crew: RunningCrew,
) -> None:
    await _storm(crew, tasks=1000, manager_kills=50, server_kills=10)


async def test_what_a_manager_left_half_told_when_it_was_killed_is_brought_to_its_end(
    tmp_path: Path,
) -> None:
    """R6: it recorded a task and did not tell so, or told so and did not strike that off; a task ran before its
    worker knew, and the worker was deleted."""
    async with running_crew(tmp_path) as crew:
        await crew.create("deleted")
        await crew.ask("worker.delete", {"name": "deleted"})
        await crew.until("deleted", "stopped")
        await crew.kill_manager()
        async with asyncio.TaskGroup() as group:
            group.create_task(die(crew.server, "owing", "untold", "nobody", "queued"))
            group.create_task(die(crew.server, "told", "told", "nobody", "running"))
            group.create_task(die(crew.server, "told", "alone", "deleted", "running"))
        await crew.start_manager()

        for task, worker, ending in (
            ("untold", "nobody", "cancelled"),
            ("told", "nobody", "failed"),
            ("alone", "deleted", "cancelled"),
        ):
            record = await crew.ended(task)
            assert (record.state, record.end and record.end.reason) == (ending, "worker-gone")
            started = [] if task == "untold" else ["started"]
            kinds = ["queued", *started, ending]

            async def told(task: str = task, worker: str = worker) -> list[str]:
                return await crew.kinds(f"jetcrew.evt.task.{worker}.{task}.>")

            await eventually(told, kinds)
