"""Sessions that the workers of one owner share."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.bus import Artifacts
from contracts.session import SessionRecord
from tests.support.agents import with_talker
from tests.support.cli import Cli, Done
from tests.support.clis import path_with
from tests.support.crew import RunningCrew, running_crew
from tests.support.models import Says, in_order, result, scripted_endpoint
from tests.support.raw_nats import control_plane
from tests.support.waiting import eventually

KEY = "sk-ant-scripted-key"
REVIEW = "_shared.team.talker.review"


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    data = json.dumps([str(with_talker(tmp_path / "data"))])
    async with running_crew(tmp_path, JETCREW_DATA=data) as running:
        yield running


async def workers(crew: RunningCrew, **owners: str | None) -> None:
    async with asyncio.TaskGroup() as group:
        for name, owner in owners.items():
            of = {"owner": owner} if owner else {}
            group.create_task(crew.create(name, agent="talker", **of))


async def told(
    crew: RunningCrew, worker: str, prompt: str, task: str, session: str = "review"
) -> list[str]:
    """What the agent had been told in this conversation, the prompt included."""
    await crew.submit(worker, prompt, task=task, session=session)
    record = await crew.ended(task)
    assert record.end is not None
    assert record.state == "succeeded", record.end
    return record.end.text.splitlines()[:-1]


async def session(crew: RunningCrew, key: str = REVIEW) -> SessionRecord | None:
    held = await crew.bus.bucket("jc_session", SessionRecord).read(key)
    return held.value if held else None


async def conversations(crew: RunningCrew) -> list[str]:
    found = await Artifacts(crew.bus).list()
    return [artifact.name for artifact in found if "/conversation" in artifact.name]


async def test_a_session_goes_on_at_the_workers_of_its_owner_and_nowhere_else(
    crew: RunningCrew,
) -> None:
    await workers(crew, ada="team", bob="team", cid="other", dan=None)
    assert await told(crew, "ada", "one", "t-1") == ["one"]
    assert await told(crew, "bob", "two", "t-2") == ["one", "two"]
    assert await told(crew, "ada", "three", "t-3") == ["one", "two", "three"]
    assert await told(crew, "cid", "x", "t-4") == ["x"]
    assert await told(crew, "dan", "y", "t-5") == ["y"]
    assert await told(crew, "bob", "own", "t-6", "continue") == ["own"]

    kept = await session(crew)
    assert kept is not None
    assert (kept.turns, kept.worker, kept.holder, kept.lost) == (3, "ada", None, "")
    assert await conversations(crew) == ["ada/t-3/conversation", "cid/t-4/conversation"]

    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    assert await told(crew, "bob", "four", "t-7") == ["one", "two", "three", "four"]

    forgotten = await crew.ask("session.forget", {"name": "review", "owner": "team"})
    assert forgotten.error is None, forgotten.error
    assert await session(crew) is None
    assert await conversations(crew) == ["cid/t-4/conversation"]
    assert await told(crew, "bob", "five", "t-8") == ["five"]
    none = await crew.ask("session.forget", {"name": "review", "owner": "nobody"})
    assert none.error is not None
    assert none.error.code == 404
    unfit = await crew.ask("worker.create", {"name": "eve", "agent": "shell", "owner": "team"})
    assert unfit.error is not None
    assert unfit.error.field == "$.owner"


async def test_one_task_at_a_time_is_in_a_session_and_a_crash_lets_the_next_one_in(
    crew: RunningCrew, tmp_path: Path
) -> None:
    await workers(crew, ada="team", bob="team")
    await told(crew, "ada", "one", "t-1")
    go = tmp_path / "go"
    await crew.submit("ada", f"until {go}", task="t-2", session="review")
    await crew.running("t-2")
    await crew.submit("bob", "three", task="t-3", session="review")

    async def state() -> str:
        record = await crew.task("t-3")
        return record.state if record else ""

    await eventually(state, "queued")
    refused = await crew.ask("session.forget", {"name": "review", "owner": "team"})
    assert refused.error is not None
    assert "in use by task t-2" in refused.error.description
    assert await state() == "queued"
    await asyncio.to_thread(go.touch)
    second, third = await crew.ended("t-2"), await crew.ended("t-3")
    assert third.end is not None
    assert third.end.text.splitlines()[:-1] == ["one", f"until {go}", "three"]
    assert third.started_at is not None
    assert second.ended_at is not None
    assert third.started_at >= second.ended_at

    await crew.submit("ada", f"until {tmp_path / 'never'}", task="t-4", session="review")
    await crew.running("t-4")
    await crew.submit("bob", "five", task="t-5", session="review")
    await asyncio.to_thread(crew.wrapper("ada").kill)
    killed, fifth = await crew.ended("t-4"), await crew.ended("t-5")
    assert killed.state == "failed"
    assert fifth.end is not None
    assert fifth.end.text.splitlines()[:-1] == ["one", f"until {go}", "three", "five"]


async def test_cleaning_removes_a_session_that_is_over_with_its_files(tmp_path: Path) -> None:
    data = json.dumps([str(with_talker(tmp_path / "data"))])
    idle, at_once = {"JETCREW_SESSION_IDLE": "0.1"}, {"JETCREW_CLEANING__SETTLE": "0"}
    async with running_crew(tmp_path, JETCREW_DATA=data, **idle, **at_once) as crew:
        await workers(crew, ada="team")
        await told(crew, "ada", "one", "t-1")
        assert await conversations(crew) == ["ada/t-1/conversation"]

        async def gone() -> bool:
            await crew.ask("image.gc", {}, **{"Jc-Wait": "8"})
            return await session(crew) is None and not await conversations(crew)

        await eventually(gone, expected=True)


async def test_a_session_whose_files_are_gone_begins_afresh_and_says_so(crew: RunningCrew) -> None:
    await workers(crew, ada="team", bob="team")
    await told(crew, "ada", "one", "t-1")
    async with control_plane(crew.server) as bus:
        for name in await conversations(crew):
            await Artifacts(bus).delete(name)

    assert await told(crew, "bob", "two", "t-2") == ["two"]
    record = await crew.task("t-2")
    assert record is not None
    assert record.end is not None
    assert "The earlier conversation was lost." in record.end.detail


async def test_claude_remembers_at_another_worker_what_it_was_told_at_the_first(
    tmp_path: Path,
) -> None:
    path = path_with("claude")
    done = Says(f"Done.\n{result(summary='as asked')}")
    async with (
        scripted_endpoint(in_order(done)) as endpoint,
        running_crew(tmp_path, JETCREW_HOST_PATH=path) as crew,
    ):
        for name in ("ada", "bob"):
            secret = {"name": "ANTHROPIC_API_KEY", "value": KEY, "worker": name}
            assert (await crew.ask("secret.put", secret)).error is None
            await crew.create(
                name, agent="claude", owner="team", secrets=["ANTHROPIC_API_KEY"],
                env={"ANTHROPIC_BASE_URL": endpoint.url},
            )  # fmt: skip
        for worker, prompt in (("ada", "Remember the word BLUE42."), ("bob", "Which word?")):
            await crew.submit(worker, prompt, task=f"t-{worker}", session="review")
            record = await crew.ended(f"t-{worker}")
            assert record.state == "succeeded", record.end

    said = endpoint.requests[-1].said
    assert "Which word?" in said
    assert "BLUE42" in said


async def test_the_command_line_uses_lists_and_forgets_sessions(crew: RunningCrew) -> None:
    creds = str(crew.server.creds("operator"))
    cli = Cli(crew.server.state.root, {"JETCREW_URL": crew.server.url, "JETCREW_CREDS": creds})

    async def jetcrew(*arguments: str) -> Done:
        return await asyncio.to_thread(cli, *arguments)

    await workers(crew, ada="team")
    await told(crew, "ada", "one", "t-1")
    await told(crew, "ada", "own", "t-2", "continue")
    made = ("--agent", "talker", "--owner", "team", "--runtime", "process")
    ran = await jetcrew("run", *made, "--session", "review", "--json", "two")
    assert ran.code == 0, ran.err
    assert ran.document["end"]["text"].splitlines()[:-1] == ["one", "two"]
    assert "owner         team" in (await jetcrew("worker", "get", "ada")).out

    shown = (await jetcrew("session", "list", "--json")).document
    assert {(s["name"], s.get("owner"), s.get("worker")) for s in shown} >= {
        ("review", "team", None), ("continue", None, "ada"),
    }  # fmt: skip
    table = (await jetcrew("session", "list", "--owner", "team")).out
    assert "owner team" in table
    assert "worker ada" not in table

    assert (await jetcrew("session", "forget", "review", "--owner", "team")).code == 0
    assert (await jetcrew("session", "forget", "continue", "--worker", "ada")).code == 0
    assert await session(crew) is None
    assert await session(crew, "ada.continue") is None
