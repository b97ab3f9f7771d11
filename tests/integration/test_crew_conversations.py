"""Conversations and what they cost: questions and answers, age, budgets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.agents import with_talker
from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually


@pytest.fixture
def data(tmp_path: Path) -> str:
    return json.dumps([str(with_talker(tmp_path / "data"))])


@pytest.fixture
async def crew(tmp_path: Path, data: str) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path, JETCREW_DATA=data) as running:
        yield running


async def text_of(crew: RunningCrew, prompt: str, task: str) -> list[str]:
    """What the agent had been told in this conversation after a prompt that it took."""
    await crew.submit("ada", prompt, task=task)
    record = await crew.ended(task)
    assert record.end is not None
    assert record.state == "succeeded", record.end
    return record.end.text.splitlines()[:-1]


async def test_a_question_is_answered_in_its_own_conversation(crew: RunningCrew) -> None:
    await crew.create("ada", agent="talker")
    await crew.submit("ada", "Delete the old one?", task="t-1")
    asked = await crew.ended("t-1")
    assert asked.state == "input-required"
    assert (await crew.ask("task.cancel", {"task": "t-1"})).detail == "input-required"
    assert await text_of(crew, "Something else", "t-2") != []

    result = await crew.ask("task.answer", {"task": "t-1", "text": "The second one."})
    assert result.error is None

    async def state() -> str:
        record = await crew.task("t-1")
        return record.state if record else ""

    await eventually(state, "succeeded")
    record = await crew.task("t-1")
    assert record is not None
    assert record.end is not None
    assert record.end.text.splitlines()[0] == "Delete the old one?"
    assert record.end.text.splitlines()[-2] == "The second one."
    assert (record.attempt, record.past[0].end.reason, record.door_seq) == (2, None, None)
    kinds = await crew.kinds("jetcrew.evt.task.ada.t-1.>")
    assert [kind for kind in kinds if kind != "session"] == [
        "queued", "started", "input-required", "answered", "started", "succeeded",
    ]  # fmt: skip
    assert await crew.bus.last("JC_TASK", "jetcrew.task.ada") is None

    late = await crew.ask("task.answer", {"task": "t-1", "text": "Or the third?"})
    assert late.error is not None
    assert "only one that waits for input can be answered" in late.error.description


async def test_an_answer_to_nothing_is_a_dead_letter_and_makes_no_task(crew: RunningCrew) -> None:
    await crew.create("ada", agent="talker")
    stray = await crew.bus.publish(
        "jetcrew.task.ada", b'{"prompt":"Yes."}', id="stray", headers={"Jc-Answers": "t-9"}
    )

    async def letters() -> int:
        return len(await crew.bus.page("JC_DLQ", ">"))

    await eventually(letters, 1)
    assert await crew.task("t-9") is None
    assert await crew.task("stray") is None
    assert stray.stream == "JC_TASK"

    async def at_the_door() -> bool:
        return await crew.bus.last("JC_TASK", "jetcrew.task.ada") is not None

    await eventually(at_the_door, expected=False)


async def test_a_conversation_goes_on_until_it_is_left_alone_for_too_long(
    crew: RunningCrew, tmp_path: Path, data: str
) -> None:
    await crew.create("ada", agent="talker")
    assert await text_of(crew, "one", "t-1") == ["one"]
    assert await text_of(crew, "two", "t-2") == ["one", "two"]

    async with running_crew(
        tmp_path / "impatient", JETCREW_DATA=data, JETCREW_SESSION_IDLE="0.000001"
    ) as impatient:
        await impatient.create("ada", agent="talker")
        assert await text_of(impatient, "one", "t-1") == ["one"]
        assert await text_of(impatient, "two", "t-2") == ["two"]


async def test_the_task_after_the_budget_is_not_started(crew: RunningCrew) -> None:
    """R26: 0.4 USD a turn, and one dollar."""
    await crew.create("ada", agent="talker", budget={"usd": 1.0})
    for number in ("1", "2", "3"):
        await text_of(crew, number, f"t-{number}")
    worker = await crew.until("ada", "ready")
    assert worker.spent.usd == pytest.approx(1.2)
    assert worker.spent.tokens == 360

    await crew.submit("ada", "4", task="t-4")
    refused = await crew.ended("t-4")
    assert refused.end is not None
    assert (refused.state, refused.end.reason) == ("failed", "budget-exhausted")
    assert "1.2 of 1 USD are used" in refused.end.detail
    assert await crew.kinds("jetcrew.evt.task.ada.t-4.>") == ["queued", "failed"]


async def test_a_worker_waits_until_its_provider_takes_requests_again(crew: RunningCrew) -> None:
    """R24: the next task is not spent on a provider that has said until when it refuses."""
    await crew.create("ada", agent="talker")
    await crew.submit("ada", "limited", task="t-1")
    await crew.submit("ada", "next", task="t-2")
    refused, after = await crew.ended("t-1"), await crew.ended("t-2")

    assert refused.end is not None
    assert (refused.state, refused.end.reason) == ("failed", "rate-limited")
    assert refused.end.until is not None
    assert after.state == "succeeded"
    assert after.started_at is not None
    assert after.started_at >= refused.end.until
