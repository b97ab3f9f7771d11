"""Each agent in a hardened container built from its file, against a scripted endpoint."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine, remove_everything_of
from tests.support.images import worker_image
from tests.support.models import Request, Says, Step, result, scripted_endpoint
from tests.support.rigs import KEY, RIGS, Rig


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    need_engine()
    async with running_crew(tmp_path) as running:
        try:
            yield running
        finally:
            await running.stop_manager()
            remove_everything_of(running.server.identity.crew)


@pytest.mark.parametrize("rig", RIGS.values(), ids=RIGS)
async def test_an_agent_uses_its_shell_and_remembers_what_it_was_told(
    rig: Rig, crew: RunningCrew
) -> None:
    """R18, R20, R21."""
    await worker_image(rig.agent)
    gateway = need_engine().networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]

    def script(request: Request) -> Step:
        if "Keep" in request.said and "uid=1000" not in request.said:
            return rig.shell("echo BLUE42 > file; id")
        return Says(f"Done.\n{result(summary='as asked')}")

    async with scripted_endpoint(script, host=gateway) as endpoint:
        await crew.ask("secret.put", {"name": rig.key_env, "value": KEY, "worker": "ada"})
        spec = {
            "name": "ada", "agent": rig.agent, "runtime": "docker", "secrets": [rig.key_env],
            "env": rig.environment(endpoint.url), "instructions": "Always answer in haiku.",
        }  # fmt: skip
        await crew.ask("worker.create", spec)
        made = await crew.until("ada", "ready", "failed")
        assert made.state == "ready", made
        await crew.submit("ada", "Keep the word BLUE42 in a file.", task="t-1")
        first = await crew.ended("t-1", within=180)
        await crew.submit("ada", "Which word?", task="t-2")
        second = await crew.ended("t-2", within=180)
        record = await crew.worker("ada")

    assert (first.state, second.state) == ("succeeded", "succeeded"), (first.end, second.end)
    assert any("Always answer in haiku." in request.said for request in endpoint.requests)
    assert {request.key for request in endpoint.requests} == {KEY}
    assert any("uid=1000" in request.said for request in endpoint.requests)
    assert "BLUE42" in endpoint.requests[-1].said
    assert record is not None
    assert KEY not in json.dumps(need_engine().api.inspect_container(str(record.unit)))
    assert KEY not in json.dumps([event.data.decode() for event in await crew.events()])
