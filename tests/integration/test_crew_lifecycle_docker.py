"""Life and end of workers in containers: stops during a build, sleep and waking, what outlives a container."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.node import NodeRecord
from contracts.worker import WorkerRecord
from tests.support.containers import container_crew, inside, start
from tests.support.crew import RunningCrew, another_node, running_crew
from tests.support.engine import need_engine
from tests.support.images import worker_image
from tests.support.waiting import eventually

STOPS_WITHIN = 5.0
REFUSED_WITHIN = 2.0
"""Seconds, whatever is being built (R7)."""
SLOW = """
name = "slow"
summary = "Takes a minute to build"
steps = ["sleep 60 # {nonce}"]
check = "true"
"""


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    """A crew that knows a capability which takes long to build."""
    directory = tmp_path_factory.mktemp("crew")
    data = directory / "data"
    (data / "capabilities").mkdir(parents=True)
    (data / "capabilities" / "slow.toml").write_text(SLOW.replace("{nonce}", directory.name))
    await worker_image("shell")
    async with container_crew(directory, JETCREW_DATA=f'["{data}"]') as running:
        yield running


async def deleted(crew: RunningCrew, name: str) -> float:
    """Seconds until a worker has stopped."""
    began = time.monotonic()
    await crew.ask("worker.delete", {"name": name})
    await crew.until(name, "stopped")
    return time.monotonic() - began


async def test_a_stop_and_a_refusal_do_not_wait_for_a_build(crew: RunningCrew) -> None:
    """R7."""
    await start(crew, "shell", name="other", network="none")
    slow = {"agent": "shell", "runtime": "docker", "capabilities": ["slow"]}
    made = await crew.ask("worker.create", {"name": "slow"} | slow)
    assert made.error is None, made.error

    async def steps() -> int:
        return len(
            [e for e in await crew.events("jetcrew.evt.image.*.building") if b"sleep 60" in e.data]
        )

    await eventually(steps, expected=1, within=60)
    began = time.monotonic()
    refused = await crew.ask(
        "worker.create", {"name": "bad", "agent": "shell", "capabilities": ["gitt"]}
    )
    assert refused.error is not None
    assert time.monotonic() - began < REFUSED_WITHIN
    assert await deleted(crew, "other") < STOPS_WITHIN
    assert (await crew.until("slow", "building")).state == "building"
    assert await deleted(crew, "slow") < STOPS_WITHIN


async def test_a_container_sleeps_when_idle_and_wakes_within_a_second(crew: RunningCrew) -> None:
    """R16."""
    record = await start(crew, "shell", name="ida", network="none", idle_pause=1)
    await crew.until("ida", "paused")

    def status() -> str:
        return str(need_engine().containers.get(str(record.unit)).status)

    await eventually(status, expected="paused")
    await crew.submit("ida", "echo awake", task="ida-1")
    task = await crew.ended("ida-1")

    assert task.state == "succeeded"
    assert task.started_at is not None
    assert (task.started_at - task.submitted_at).total_seconds() < 1
    await deleted(crew, "ida")


async def test_files_outlive_a_container_and_go_with_the_worker_unless_kept(
    crew: RunningCrew,
) -> None:
    """R20."""
    write = "echo kept > /workspace/file; echo kept > ~/file"
    await start(crew, "shell", name="vol", network="none")
    await crew.submit("vol", write, task="vol-1")
    await crew.ended("vol-1")
    first = await _removed_and_replaced(crew, "vol")
    await crew.submit("vol", "cat /workspace/file ~/file", task="vol-2")
    second = await crew.ended("vol-2")
    assert second.end is not None
    assert second.end.text.split() == ["kept", "kept"]

    await crew.ask("worker.delete", {"name": "vol", "keep_workspace": True})
    await crew.until("vol", "stopped")
    kept = await start(crew, "shell", name="vol", network="none")
    assert kept.unit != first.unit
    assert inside(kept, "cat /workspace/file ~/file; stat -c %u /workspace ~") == (
        0, "kept\nkept\n1000\n1000\n",
    )  # fmt: skip
    await deleted(crew, "vol")
    fresh = await start(crew, "shell", name="vol", network="none")
    assert inside(fresh, "ls /workspace/file ~/file 2>/dev/null")[1] == ""
    await deleted(crew, "vol")


async def _removed_and_replaced(crew: RunningCrew, name: str) -> WorkerRecord:
    record = await crew.until(name, "ready")
    need_engine().containers.get(str(record.unit)).remove(force=True)

    async def replaced() -> bool:
        now = await crew.worker(name)
        return now is not None and now.state == "ready" and now.unit != record.unit

    await eventually(replaced, expected=True, within=60)
    return await crew.until(name, "ready")


async def test_a_worker_that_one_node_cannot_run_is_left_to_another_that_can(
    tmp_path: Path,
) -> None:
    need_engine()
    await worker_image("shell")
    nowhere = f"unix://{tmp_path}/none.sock"
    body = {"agent": "shell", "runtime": "docker", "network": "none"}
    async with running_crew(tmp_path, DOCKER_HOST=nowhere) as crew:
        await crew.ask("worker.create", {"name": "alone"} | body)
        assert "no docker runtime here" in str((await crew.until("alone", "failed")).reason)
        async with another_node(crew, tmp_path / "there", DOCKER_HOST="") as there:

            async def known() -> bool:
                held = await crew.bus.bucket("jc_node", NodeRecord).read(there)
                return held is not None and "docker" in held.value.runtimes

            await eventually(known, expected=True)
            await crew.ask("worker.create", {"name": "ada"} | body)
            assert (await crew.until("ada", "ready", "failed")).node == there
            await crew.ask("worker.delete", {"name": "ada"})
            await crew.until("ada", "stopped")
