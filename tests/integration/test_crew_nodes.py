"""Two nodes of one crew, each a manager of its own: what becomes of the workers of one that is gone."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.node import NodeRecord
from tests.support.crew import RunningCrew, kill_all_below, killed, running_crew
from tests.support.waiting import eventually

QUICK = {
    "JETCREW_NODE_TTL": "2",
    "JETCREW_NODE_GRACE": "2",
    "JETCREW_SILENCE": "4",
    "JETCREW_DEADLINE_GRACE": "2",
}


@dataclass
class There:
    """The second node, whose manager is started and killed."""

    crew: RunningCrew
    state: Path
    manager: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it is one of the nodes."""
        self.manager = await self.crew.spawn_manager(
            JETCREW_NODE="there", JETCREW_STATE_DIR=str(self.state), JETCREW_MAX_WORKERS="16"
        )
        await eventually(self._since_this_start, expected=True, within=30)

    async def _since_this_start(self) -> bool:
        assert self.manager is not None
        assert self.manager.returncode is None, self.crew.log.read_text()[-3000:]
        return "there" in await nodes_of(self.crew)

    async def kill(self, *, with_workers: bool = False) -> None:
        """SIGKILL its manager; with its workers, as when the host is gone."""
        await killed(self.manager)
        if with_workers:
            kill_all_below(str(self.state))


@pytest.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[There]:
    """Here has no room, so that all workers are there."""
    root = tmp_path_factory.mktemp("nodes")
    async with running_crew(root, **QUICK, JETCREW_MAX_WORKERS="1") as crew:
        await crew.create("filler")
        state = root / "there"
        shutil.copytree(crew.server.state.identity, state / "identity")
        node = There(crew, state)
        try:
            yield node
        finally:
            await node.kill(with_workers=True)


@pytest.fixture
async def there(both: There) -> There:
    if both.manager is None or both.manager.returncode is not None:
        await both.start()
    return both


@pytest.fixture
async def ada(there: There, request: pytest.FixtureRequest) -> str:
    """A worker of that node, for one test."""
    name = f"ada-{sum(map(ord, request.node.name)) % 10_000}"
    await there.crew.create(name)
    return name


async def nodes_of(crew: RunningCrew) -> dict[str, NodeRecord]:
    held = await crew.bus.bucket("jc_node", NodeRecord).list()
    return {key: each.value for key, each in held.items()}


async def kinds_of(crew: RunningCrew, task: str) -> list[str]:
    return await crew.kinds(f"jetcrew.evt.task.*.{task}.>")


async def test_the_tasks_of_a_host_that_is_gone_are_run_again_where_they_ask_for_it(
    there: There, ada: str, tmp_path: Path
) -> None:
    """R10, R13: fenced first; one that asked for one attempt waits for its deadline."""
    crew, ran = there.crew, tmp_path / "ran"
    await crew.create("bob")
    script = f"echo $$ >> {ran}; [ $(wc -l < {ran}) -gt 1 ] || sleep 300"
    await crew.submit(ada, script, task="t-1a", max_attempts=2)
    await crew.submit("bob", "sleep 300", task="t-1b", timeout=10)
    await crew.running("t-1a", ran)
    await crew.running("t-1b")

    await there.kill(with_workers=True)
    lost = await crew.until(ada, "lost", within=30)
    assert lost.reason == "node there cannot be reached"
    await crew.until("bob", "lost")
    await eventually(lambda: kinds_of(crew, "t-1a"), ["queued", "started", "queued"], within=40)
    second = await crew.ended("t-1b", within=90)
    assert (second.state, second.end and second.end.reason) == ("failed", "node-lost")

    await there.start()
    first = await crew.ended("t-1a")
    assert (first.state, first.attempt, first.past[0].end.reason) == ("succeeded", 2, "node-lost")
    assert await kinds_of(crew, "t-1a") == ["queued", "started", "queued", "started", "succeeded"]
    assert len(ran.read_text().split()) == 2
    await crew.until("bob", "ready")


async def test_a_worker_whose_manager_is_gone_finishes_what_it_does(
    there: There, ada: str, tmp_path: Path
) -> None:
    """Unknown is not dead: it is still heard, so nothing of it is given up."""
    crew, ran, may = there.crew, tmp_path / "ran", tmp_path / "may"
    script = f"echo x >> {ran}; until [ -e {may} ]; do sleep 0.1; done"
    await crew.submit(ada, script, task="t-2a", max_attempts=3)
    await crew.running("t-2a", ran)
    wrapper = crew.wrapper(ada, there.state).pid

    await there.kill()
    await crew.until(ada, "lost", within=30)
    may.touch()
    task = await crew.ended("t-2a")
    assert (task.state, task.attempt) == ("succeeded", 1)
    await crew.submit(ada, "echo later", task="t-2b")

    await there.start()
    assert (await crew.ended("t-2b")).state == "succeeded"
    assert ran.read_text().split() == ["x"]
    assert crew.wrapper(ada, there.state).pid == wrapper


async def test_a_fenced_worker_can_neither_report_nor_start(
    there: There, ada: str, tmp_path: Path
) -> None:
    """It was not heard, but it lives: what it says after that does not count, and the node replaces it."""
    crew, ran, may = there.crew, tmp_path / "ran", tmp_path / "may"
    script = f"echo x >> {ran}; until [ -e {may} ]; do sleep 0.1; done"
    await crew.submit(ada, script, task="t-3a", max_attempts=2)
    await crew.running("t-3a", ran)
    wrapper = crew.wrapper(ada, there.state)
    wrapper.send_signal(signal.SIGSTOP)
    await there.kill()
    await eventually(lambda: kinds_of(crew, "t-3a"), ["queued", "started", "queued"], within=60)
    fenced = await crew.worker(ada)
    assert fenced is not None
    assert fenced.fenced

    may.touch()
    wrapper.send_signal(signal.SIGCONT)
    await eventually(
        lambda: wrapper.is_running() and wrapper.status() != "zombie", False, within=60
    )
    assert await kinds_of(crew, "t-3a") == ["queued", "started", "queued"]

    await there.start()
    task = await crew.ended("t-3a")
    assert (task.state, task.attempt) == ("succeeded", 2)
    assert await kinds_of(crew, "t-3a") == ["queued", "started", "queued", "started", "succeeded"]
    assert len(ran.read_text().split()) == 2


async def test_a_manager_that_is_soon_back_changes_nothing(
    there: There, ada: str, tmp_path: Path
) -> None:
    crew, ran, may = there.crew, tmp_path / "ran", tmp_path / "may"
    script = f"echo x >> {ran}; until [ -e {may} ]; do sleep 0.1; done"
    await crew.submit(ada, script, task="t-4a", max_attempts=2)
    await crew.running("t-4a", ran)
    before = await crew.kinds(f"jetcrew.evt.worker.{ada}.>")

    await there.kill()
    await there.start()
    may.touch()
    task = await crew.ended("t-4a")
    await crew.until(ada, "ready")

    assert (task.state, task.attempt) == ("succeeded", 1)
    assert await crew.kinds(f"jetcrew.evt.worker.{ada}.>") == [*before, "ready"]


async def test_a_worker_of_a_node_that_is_gone_can_be_deleted(there: There, ada: str) -> None:
    crew = there.crew
    await crew.submit(ada, "sleep 300", task="t-5a", max_attempts=3)
    await crew.running("t-5a")
    await crew.until(ada, "busy")
    await there.kill(with_workers=True)
    await crew.until(ada, "lost", within=30)
    await crew.ask("worker.delete", {"name": ada})
    stopped = await crew.until(ada, "stopped", within=30)

    assert stopped.reason == "node there is gone"
    task = await crew.ended("t-5a")
    assert task.state == "cancelled", task.end


async def test_two_nodes_cannot_bear_one_name(there: There, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(there.state / "identity", other / "identity")
    second = await there.crew.spawn_manager(
        JETCREW_NODE="there", JETCREW_STATE_DIR=str(other), JETCREW_NODE_TTL="2"
    )

    assert await second.wait() == 3
    assert "node name 'there' is taken" in there.crew.log.read_text()
    assert set(await nodes_of(there.crew)) == {"here", "there"}
