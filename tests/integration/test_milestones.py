"""What a worker manager has to be able to do, whole: real engine, real bus, the agents' real CLIs.

A task that merely ends proves nothing: each of these asks for the end it should have.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.kit.catalog import Catalog
from services.worker_manager.images.build import Images
from services.worker_manager.runtimes.engine import Engine
from tests.support.cli import Cli
from tests.support.containers import container_crew, gateway, inside, start
from tests.support.crew import RunningCrew
from tests.support.engine import need_engine
from tests.support.images import worker_image
from tests.support.models import Says, Uses, in_order, result, scripted_endpoint
from tests.support.waiting import eventually

KEY = "sk-ant-scripted-key"
INSTRUCTIONS = "Commit what you do."


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with container_crew(tmp_path) as running:
        yield running


async def with_key(crew: RunningCrew, name: str = "ANTHROPIC_API_KEY") -> list[str]:
    stored = await crew.ask("secret.put", {"name": name, "value": KEY})
    assert stored.error is None
    return [name]


async def test_create_claude_worker_with_git_capability(crew: RunningCrew) -> None:
    await worker_image("claude", "git")
    work = "git init -q . && echo one > f && git add f && git -c user.name=a -c user.email=a@b commit -qm one && git rev-list --count HEAD"
    script = in_order(Uses("Bash", {"command": work}), Says(f"Done.\n{result()}"))
    async with scripted_endpoint(script, host=gateway()) as endpoint:
        record = await start(
            crew, "claude", capabilities=["git"], instructions=INSTRUCTIONS,
            secrets=await with_key(crew), env={"ANTHROPIC_BASE_URL": endpoint.url},
        )  # fmt: skip
        await crew.submit("ada", "Make a repository.", task="t-1")
        task = await crew.ended("t-1")

    assert task.state == "succeeded", task.end
    [ran] = endpoint.requests[-1].tool_results
    assert "1" in json.dumps(ran["content"])
    assert inside(record, "git -C /workspace log --format=%s") == (0, "one\n")
    code, kept = inside(record, "cat $HOME/.claude/CLAUDE.md")
    assert (code, INSTRUCTIONS in kept) == (0, True)
    assert INSTRUCTIONS in endpoint.requests[0].said


async def test_create_factory_worker_with_curl_capability(crew: RunningCrew) -> None:
    await worker_image("factory", "curl")
    async with scripted_endpoint(in_order(Says(result())), host=gateway()) as endpoint:
        fetch = f"curl -s -o page -w 'code %{{http_code}}' {endpoint.url}/page; jq -c . page"
        calls = Uses("Execute", {"summary": "fetch it", "command": fetch})
        endpoint.script = in_order(calls, Says(f"Done.\n{result()}"))
        record = await start(
            crew, "factory", capabilities=["curl"], instructions=INSTRUCTIONS,
            secrets=await with_key(crew), env={"ANTHROPIC_BASE_URL": endpoint.url},
        )  # fmt: skip
        await crew.submit("ada", "Fetch the page.", task="t-1")
        task = await crew.ended("t-1")

    assert task.state == "succeeded", task.end
    assert "code 404" in endpoint.requests[-1].said
    code, kept = inside(record, "cat $HOME/.factory/AGENTS.md")
    assert (code, INSTRUCTIONS in kept) == (0, True)
    assert INSTRUCTIONS in endpoint.requests[0].said
    code, found = inside(record, "cat /workspace/page; find / -name CLAUDE.md 2>/dev/null")
    assert found == "{}"


async def test_different_agent_types_produce_different_images() -> None:
    await worker_image("claude")
    await worker_image("factory")
    async with Engine() as engine, Images(engine, Catalog.load()) as images:
        tags = [await images.tag(agent, []) for agent in ("claude", "factory")]
        again = await images.tag("claude", [])
        with_tools = {
            await images.tag("claude", tools) for tools in (["git", "curl"], ["curl", "git"])
        }

    assert again == tags[0]
    assert len(with_tools) == 1
    assert len({*tags, *with_tools}) == 3
    found = [need_engine().images.get(tag) for tag in tags]
    assert found[0].id != found[1].id
    assert [image.labels["jetcrew.agent"] for image in found] == ["claude", "factory"]


async def test_worker_executes_task_with_mocked_claude(crew: RunningCrew) -> None:
    """The model is scripted; the CLI is the vendor's own."""
    await worker_image("claude")
    answer = Says(f"It is 4.\n{result(summary='added', answer=4)}")
    async with scripted_endpoint(in_order(answer), host=gateway()) as endpoint:
        await start(
            crew, "claude", secrets=await with_key(crew), env={"ANTHROPIC_BASE_URL": endpoint.url}
        )
        await crew.submit("ada", "What is 2 + 2?", task="t-1")
        task = await crew.ended("t-1")

    assert task.state == "succeeded", task.end
    kinds = await crew.kinds("jetcrew.evt.task.ada.t-1.>")
    assert kinds == ["queued", "started", "session", "succeeded"]
    assert task.end is not None
    assert task.end.verdict is not None
    assert (task.end.verdict.summary, task.end.verdict.data) == ("added", {"answer": 4})
    assert task.end.usage is not None
    assert "What is 2 + 2?" in endpoint.requests[0].said


def test_backend_integration_smoke(tmp_path: Path) -> None:
    """Server, manager, API and a container, from the command line to HTTP."""
    need_engine()
    jetcrew = Cli(tmp_path / "state", {"JETCREW_RUNTIME": "docker"})
    with jetcrew.started("up", "--json") as up:
        up.until(lambda: up.out.endswith("\n"))
        http = json.loads(up.out)["http_url"]
        assert jetcrew("worker", "create", "ada", "--agent", "shell").code == 0
        done = jetcrew("task", "submit", "ada", "--wait", "--id", "smoke", "hostname; whoami")
        assert done.code == 0, done.err
        worker, task, events = (
            httpx.get(f"{http}/v1/{path}", timeout=10, trust_env=False).json()
            for path in ("workers/ada", "tasks/smoke", "tasks/smoke/events")
        )
        assert jetcrew("worker", "delete", "ada").code == 0

    assert worker["runtime"] == "docker"
    assert (task["state"], task["end"]["text"].split()) == ("succeeded", ["ada", "worker"])
    assert [event["event"]["type"] for event in events["items"]][-1] == "task.succeeded"


async def test_killed_container_forwards_failure(crew: RunningCrew) -> None:
    """R12, R20: one end for the same task, with its reason; the workspace outlives the container."""
    await worker_image("shell")
    record = await start(crew, "shell", network="none")
    await crew.submit("ada", "echo kept > file; echo begun; sleep 300", task="t-1")

    async def begun() -> bool:
        return bool(await crew.bus.page("JC_OUT", "jetcrew.out.ada.t-1"))

    await eventually(begun, expected=True, within=60)
    need_engine().containers.get(str(record.unit)).kill()
    first = await crew.ended("t-1")
    await crew.submit("ada", "cat file; pwd", task="t-2")
    second = await crew.ended("t-2")

    assert (first.id, first.state, first.end and first.end.reason) == ("t-1", "failed", "killed")
    kinds = await crew.kinds("jetcrew.evt.task.ada.t-1.>")
    assert kinds == ["queued", "started", "failed"]
    assert second.end is not None
    assert (second.state, second.end.text.split()) == ("succeeded", ["kept", "/workspace"])


ASK = """
import asyncio, sys
from contracts.bus import connect
from contracts.topology import Topology
from wrapper.link import reachable

async def main():
    refused = []
    async with reachable("unix:/run/jetcrew/bus.sock") as url:
        import nats
        async def told(error): refused.append(str(error))
        client = await nats.connect(
            url, user_credentials="/run/cred/worker.creds", inbox_prefix="_INBOX.ada", error_cb=told
        )
        for verb in ("credential", "git.token", "project.get"):
            try:
                answer = await client.request(f"jetcrew.ask.ada.{verb}", b"{}", timeout=2)
                print(verb, "answered")
            except Exception as error:
                print(verb, type(error).__name__, any(verb in text for text in refused))
        await client.close()

asyncio.run(main())
"""


async def test_worker_cannot_use_a_command_it_was_not_allowed(crew: RunningCrew) -> None:
    """R28: the broker refuses it, whatever runs in the worker; here with the worker's own credential."""
    await worker_image("shell")
    await start(crew, "shell", network="none")
    await crew.submit("ada", f"/opt/jetcrew/bin/python -I - <<'END'\n{ASK}\nEND", task="t-1")
    task = await crew.ended("t-1")

    assert task.end is not None
    assert task.end.text.splitlines() == [
        "credential answered", "git.token TimeoutError True", "project.get TimeoutError True",
    ]  # fmt: skip
