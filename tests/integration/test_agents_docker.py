"""Each agent in a hardened container built from its file, against a scripted endpoint."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.anthropic import Says, Uses, anthropic_endpoint, in_order, result
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine, remove_everything_of
from tests.support.images import worker_image

KEY = "sk-scripted-key"


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    need_engine()
    async with running_crew(tmp_path) as running:
        try:
            yield running
        finally:
            await running.stop_manager()
            remove_everything_of(running.server.identity.crew)


async def test_factory_writes_a_file_and_remembers_it(crew: RunningCrew) -> None:
    """R18, R20, R21."""
    await worker_image("factory")
    gateway = need_engine().networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    writes = Uses("Execute", {"summary": "make it", "command": "echo BLUE42 > file; id -u"})
    script = in_order(writes, Says(result(summary="made")))
    async with anthropic_endpoint(script, host=gateway) as endpoint:
        await crew.ask("secret.put", {"name": "ANTHROPIC_API_KEY", "value": KEY, "worker": "ada"})
        await crew.create(
            "ada", agent="factory", runtime="docker", secrets=["ANTHROPIC_API_KEY"],
            env={"ANTHROPIC_BASE_URL": endpoint.url}, instructions="Always answer in haiku.",
        )  # fmt: skip
        await crew.submit("ada", "Write BLUE42 into a file.", task="t-1")
        first = await crew.ended("t-1", within=180)
        await crew.submit("ada", "Which word?", task="t-2")
        second = await crew.ended("t-2", within=180)

    assert (first.state, second.state) == ("succeeded", "succeeded"), (first.end, second.end)
    assert "Always answer in haiku." in endpoint.requests[0].said
    assert endpoint.requests[0].key == KEY
    assert "1000" in endpoint.requests[1].said
    assert "BLUE42" in endpoint.requests[2].said
    assert first.agent_session != second.agent_session
