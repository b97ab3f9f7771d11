"""More than one attempt: a crash is followed by the next one, with its prompt, and each has one end."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path_factory.mktemp("crew")) as running:
        await running.create("ada")
        yield running


async def kinds_of(crew: RunningCrew, task: str) -> list[str]:
    return await crew.kinds(f"jetcrew.evt.task.ada.{task}.>")


async def at_the_door(crew: RunningCrew) -> int:
    return len(await crew.bus.page("JC_TASK", "jetcrew.task.ada"))


async def test_a_killed_worker_runs_its_task_again_before_what_waits_behind_it(
    crew: RunningCrew, tmp_path: Path
) -> None:
    """R10: the next attempt is a decision, and the prompt is still there for it."""
    ran = tmp_path / "ran"
    script = f"echo $$ >> {ran}; [ $(wc -l < {ran}) -gt 1 ] || sleep 300"
    await crew.submit("ada", script, task="t-1", max_attempts=3)
    await crew.running("t-1", ran)
    await crew.submit("ada", "true", task="t-2")
    assert await at_the_door(crew) == 2

    os.kill(crew.wrapper("ada").pid, signal.SIGKILL)
    task = await crew.ended("t-1")
    after = await crew.ended("t-2")

    assert (task.state, task.attempt) == ("succeeded", 2)
    assert [(p.attempt, p.end.reason, p.end.told_by) for p in task.past] == [
        (1, "killed", "manager")
    ]
    assert await kinds_of(crew, "t-1") == ["queued", "started", "queued", "started", "succeeded"]
    assert len(ran.read_text().split()) == 2
    assert task.ended_at is not None
    assert after.started_at is not None
    assert after.started_at >= task.ended_at
    assert await at_the_door(crew) == 0


async def test_a_task_that_always_crashes_fails_after_its_last_attempt(
    crew: RunningCrew, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    await crew.submit("ada", f"echo once >> {ran}; exit 3", task="t-3", max_attempts=3)
    task = await crew.ended("t-3")

    assert (task.state, task.attempt, len(task.past)) == ("failed", 3, 2)
    assert task.end is not None
    assert task.end.reason == "exit-3"
    assert ran.read_text().split() == ["once"] * 3
    assert await kinds_of(crew, "t-3") == [*["queued", "started"] * 3, "failed"]
    assert await at_the_door(crew) == 0


async def test_a_cancel_is_not_followed_by_another_attempt(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    await crew.submit("ada", f"touch {begun}; sleep 300", task="t-4", max_attempts=3)
    await crew.running("t-4", begun)
    await crew.ask("task.cancel", {"task": "t-4"})
    task = await crew.ended("t-4")

    assert (task.state, task.attempt) == ("cancelled", 1)
    assert await at_the_door(crew) == 0


async def test_each_attempt_has_a_deadline_of_its_own(crew: RunningCrew, tmp_path: Path) -> None:
    """The first attempt uses up its time; the second is not blamed for that."""
    ran = tmp_path / "ran"
    script = f"echo x >> {ran}; [ $(wc -l < {ran}) -gt 1 ] && sleep 300; sleep 2; exit 3"
    await crew.submit("ada", script, task="t-5", max_attempts=2, timeout=4)
    task = await crew.ended("t-5")

    assert (task.state, task.attempt) == ("timed-out", 2)
    assert task.started_at is not None
    assert task.past[0].started_at is not None
    assert (task.started_at - task.past[0].started_at).total_seconds() > 1


async def test_deleting_the_worker_leaves_no_attempt_and_no_prompt(
    crew: RunningCrew, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    await crew.create("bob")
    await crew.submit("bob", f"touch {begun}; sleep 300", task="t-6", max_attempts=5)
    await crew.running("t-6", begun)
    await crew.ask("worker.delete", {"name": "bob"})
    await crew.until("bob", "stopped")
    task = await crew.ended("t-6")

    assert task.state == "cancelled"

    async def left() -> int:
        return len(await crew.bus.page("JC_TASK", "jetcrew.task.bob"))

    await eventually(left, 0)
