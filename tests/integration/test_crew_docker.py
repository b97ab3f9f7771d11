"""The crew with workers in hardened containers, and the real Claude Code in both runtimes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.results import Result
from tests.support.clis import path_with
from tests.support.containers import BUILD, container_crew, gateway, start
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine
from tests.support.images import worker_image
from tests.support.models import Endpoint, Says, in_order, result, scripted_endpoint


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with container_crew(tmp_path) as running:
        yield running


async def test_a_script_runs_in_a_hardened_container_that_has_no_network(crew: RunningCrew) -> None:
    """R18."""
    await worker_image("shell")
    await start(crew, "shell", network="none")
    script = "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x 2>&1; ls /sys/class/net"
    await crew.submit("ada", script, task="t-1")
    task = await crew.ended("t-1")

    assert task.end is not None
    words = task.end.text.split()
    assert words[0] == "1000"
    assert words[words.index("CapEff:") + 1].strip("0") == ""
    assert words[words.index("NoNewPrivs:") + 1] == "1"
    assert words[words.index("Seccomp:") + 1] == "2"
    assert "Read-only file system" in task.end.text
    assert words[-1] == "lo"


async def test_nothing_of_a_deleted_worker_stays_on_the_engine(crew: RunningCrew) -> None:
    """R14."""
    await worker_image("shell")
    await start(crew, "shell")
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    label = f"jetcrew.crew={crew.server.identity.crew}"
    engine = need_engine()

    assert engine.containers.list(all=True, filters={"label": label}) == []
    assert engine.volumes.list(filters={"label": label}) == []


KEY = "sk-ant-scripted-key"


async def _two_turns(
    crew: RunningCrew, endpoint: Endpoint, *, losing_the_container: bool = False
) -> None:
    await crew.submit("ada", "Remember the word BLUE42.", task="t-1")
    first = await crew.ended("t-1", within=180)
    if losing_the_container:
        record = await crew.until("ada", "ready")
        need_engine().containers.get(str(record.unit)).remove(force=True)
    await crew.submit("ada", "Which word?", task="t-2")
    second = await crew.ended("t-2", within=180)

    assert (first.state, second.state) == ("succeeded", "succeeded"), (first.end, second.end)
    assert first.agent_session == second.agent_session is not None
    assert first.end is not None
    assert first.end.verdict is not None
    assert (first.end.verdict.summary, first.end.usage is not None) == ("as asked", True)
    assert "Always answer in haiku." in endpoint.requests[0].said
    assert "BLUE42" in endpoint.requests[-1].said
    everything = json.dumps([e.data.decode() for e in await crew.events()])
    assert KEY not in everything
    assert await crew.kinds("jetcrew.evt.task.ada.t-2.>") == [
        "queued", "started", "session", "succeeded",
    ]  # fmt: skip


def _script() -> Says:
    return Says(f"Done.\n{result(summary='as asked')}")


async def _with_key(crew: RunningCrew, endpoint_url: str) -> dict[str, Any]:
    stored = await crew.ask(
        "secret.put", {"name": "ANTHROPIC_API_KEY", "value": KEY, "worker": "ada"}
    )
    assert stored.error is None
    return {
        "secrets": ["ANTHROPIC_API_KEY"],
        "env": {"ANTHROPIC_BASE_URL": endpoint_url},
        "instructions": "Always answer in haiku.",
    }


async def test_claude_goes_on_with_its_conversation_as_a_plain_process(tmp_path: Path) -> None:
    """R20, R21."""
    path = path_with("claude")
    async with (
        scripted_endpoint(in_order(_script())) as endpoint,
        running_crew(tmp_path, JETCREW_HOST_PATH=path) as crew,
    ):
        spec = await _with_key(crew, endpoint.url)
        await crew.create("ada", agent="claude", **spec)
        await _two_turns(crew, endpoint)


async def test_claude_goes_on_with_its_conversation_in_a_hardened_container(
    crew: RunningCrew,
) -> None:
    """R18, R20, R21."""
    await worker_image("claude")
    async with scripted_endpoint(in_order(_script()), host=gateway()) as endpoint:
        spec = await _with_key(crew, endpoint.url)
        record = await start(crew, "claude", **spec)
        inspected = json.dumps(need_engine().api.inspect_container(str(record.unit)))
        await _two_turns(crew, endpoint, losing_the_container=True)
        assert KEY not in inspected


async def test_an_operator_looks_inside_and_the_history_tells(crew: RunningCrew) -> None:
    await worker_image("shell")
    await start(crew, "shell", network="none")

    async def run(*argv: str, **more: float) -> Result:
        body = {"name": "ada", "argv": list(argv), **more}
        return await crew.ask("worker.exec", body, **{"Jc-Actor": "alice"})

    told = await run("sh", "-c", "id -u; pwd; echo oops >&2; exit 3")
    assert told.record == {"exit_code": 3, "output": "1000\n/workspace\noops\n"}
    missing = await run("no-such-program")
    assert missing.error is not None
    assert "no-such-program" in missing.error.description
    assert (await run("sleep", "60", timeout=0.5)).record == {}
    flood = await run("sh", "-c", "yes | head -c 900000")
    assert isinstance(flood.record, dict)
    assert (len(flood.record["output"]), flood.record["cut"]) == (262_144, True)
    absent = await crew.ask("worker.exec", {"name": "nobody", "argv": ["id"]})
    assert absent.error is not None
    assert absent.error.code == 404

    [first, *_] = await crew.events("jetcrew.evt.worker.ada.inspected")
    event = json.loads(first.data)
    assert (event["program"], event["actor"]) == ("sh", "alice")


async def test_a_worker_whose_image_is_gone_gets_it_built_again(crew: RunningCrew) -> None:
    """Removed by somebody, or the engine is another one now."""
    record = await start(crew, "shell", capabilities=["curl"], network="none")
    engine, tag = need_engine(), str(record.image)
    engine.images.remove(tag, force=True, noprune=True)
    engine.containers.get(str(record.unit)).kill()
    await crew.submit("ada", "curl --version", task="t-1")
    done = await crew.ended("t-1", within=BUILD)

    assert done.state == "succeeded", done.end
    assert tag in engine.images.get(tag).tags
    assert "building" in (await crew.kinds("jetcrew.evt.worker.ada.>"))[3:]
