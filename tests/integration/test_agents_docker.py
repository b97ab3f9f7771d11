"""Each agent in a hardened container built from its file, against a scripted provider."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.containers import container_crew, gateway, start
from tests.support.crew import RunningCrew
from tests.support.engine import need_engine
from tests.support.images import worker_image
from tests.support.models import Request, Says, Step, result, scripted_endpoint
from tests.support.rigs import KEY, RIGS, Rig, besides_titles

SOAK = {"claude", "gemini", "opencode", "qwen"}
"""Claude's container is in the normal run elsewhere; the others' images and turns take a minute each, and
their turns without a container are in the normal run."""


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with container_crew(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "rig",
    [
        pytest.param(rig, id=name, marks=[pytest.mark.soak] if name in SOAK else [])
        for name, rig in RIGS.items()
    ],
)
async def test_two_tasks_at_once_share_a_conversation_one_after_the_other(
    rig: Rig, crew: RunningCrew
) -> None:
    """R18, R20, R21: in a hardened container, with a tool."""
    await worker_image(rig.agent)

    def script(request: Request) -> Step:
        if "Keep" in request.said and "uid=1000" not in request.said:
            return rig.shell("echo BLUE42 > file; id")
        return Says(f"Done.\n{result(summary='as asked')}")

    async with scripted_endpoint(besides_titles(script), host=gateway()) as endpoint:
        await crew.ask("secret.put", {"name": rig.key_env, "value": KEY, "worker": "ada"})
        made = await start(
            crew, rig.agent, secrets=[rig.key_env], env=rig.environment(endpoint.url),
            instructions="Always answer in haiku.",
        )  # fmt: skip
        await crew.submit("ada", "Keep the word BLUE42 in a file.", task="t-1")
        await crew.submit("ada", "Which word?", task="t-2")
        first = await crew.ended("t-1", within=180)
        second = await crew.ended("t-2", within=180)
        inspected = json.dumps(need_engine().api.inspect_container(str(made.unit)))

    assert (first.state, second.state) == ("succeeded", "succeeded"), (first.end, second.end)
    said = [request.said for request in endpoint.requests if "title generator" not in request.said]
    assert "Always answer in haiku." in said[0]
    assert {request.key for request in endpoint.requests} == {KEY}
    assert "uid=1000" in said[1]
    assert "Which word?" not in said[1]
    assert "BLUE42" in said[-1]
    assert "Which word?" in said[-1]
    assert KEY not in inspected
    assert KEY not in json.dumps([event.data.decode() for event in await crew.events()])
