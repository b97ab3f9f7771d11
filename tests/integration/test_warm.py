"""Containers that wait for workers: nobody's until they are adopted, then one worker's, and found again."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.worker import Limits
from services.worker_manager.runtimes import UnitSpec
from services.worker_manager.runtimes.docker import DockerRuntime
from services.worker_manager.runtimes.engine import Engine
from services.worker_manager.runtimes.warm import Warm
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import labelled, need_engine, remove_everything_of, stand_in_image
from tests.support.images import worker_image
from tests.support.waiting import eventually

WAITS = "echo up; while :; do sleep 0.05; done"
SOCKETS = "for name in boot bus; do [ ! -e /run/jetcrew/$name.sock ] || echo $name; done"
LIMITS = Limits(memory_mb=128, cpus=1, pids=64)


class Host:
    """A runtime of a crew that no other test knows; `again` is that of the next manager."""

    def __init__(self, workers: Path, crew: str | None = None) -> None:
        self.name = crew or f"test-{secrets.token_hex(4)}"
        self.workers = workers
        self.engine = Engine()
        self.runtime = DockerRuntime(self.engine, crew=self.name, node="here", workers=workers)
        self.image = stand_in_image()

    def again(self) -> "Host":
        self.engine.close()
        return Host(self.workers, self.name)

    async def warm(self) -> Warm:
        return await self.runtime.warm.make(self.image, LIMITS, "none")

    async def adopted(self, worker: str = "ada") -> Warm:
        warm = await self.warm()
        self.runtime.warm.reserve(warm, worker, 1)
        unit = await self.runtime.start(self.spec(worker))
        assert unit.id == warm.container
        return warm

    def spec(self, worker: str = "ada", incarnation: int = 1) -> UnitSpec:
        files = {"boot.json": b"{}", "secrets/SCRIPT": WAITS.encode()}
        return UnitSpec(
            worker=worker, incarnation=incarnation, agent="shell", image=self.image, files=files, network="none",
            limits=LIMITS,
        )  # fmt: skip

    def things(self) -> dict[str, int]:
        """How many of each the engine has of this crew."""
        client, mine = need_engine(), labelled(self.name)
        return {
            "containers": len(client.containers.list(all=True, filters=mine)),
            "volumes": len(client.volumes.list(filters=mine)),
        }

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = need_engine().api.inspect_container(container)
        return found

    def inside(self, container: str, command: str) -> str:
        output = need_engine().containers.get(container).exec_run(["/bin/sh", "-c", command]).output
        assert isinstance(output, bytes)
        return output.decode().strip()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    need_engine()
    host = Host(tmp_path)
    yield host
    host.engine.close()
    await asyncio.to_thread(remove_everything_of, host.name)


async def test_a_warm_container_is_frozen_hardened_and_knows_nobody(host: Host) -> None:
    warm = await host.warm()

    found = host.inspect(warm.container)
    assert found["State"]["Status"] == "paused"
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["Config"]["Labels"]["jetcrew.kind"] == "warm"
    assert "jetcrew.worker" not in found["Config"]["Labels"]
    assert await host.runtime.list() == []
    need_engine().api.unpause(warm.container)
    assert host.inside(warm.container, "ls -A /run/cred /workspace /home/worker") == (
        "/home/worker:\n\n/run/cred:\n\n/workspace:"
    )
    assert host.inside(warm.container, SOCKETS) == ""


async def test_an_adopted_worker_is_found_frozen_stopped_and_removed_like_any_other(
    host: Host,
) -> None:
    warm = await host.adopted()
    again = host.again()

    [listed] = await again.runtime.list()
    found = await again.runtime.find("ada")
    assert (listed.id, listed.worker, listed.state) == (warm.container, "ada", "running")
    assert found == listed
    await again.runtime.pause("ada")
    await again.runtime.resume("ada")
    ended = await again.runtime.stop("ada", 0)
    assert ended is not None
    assert ended.reason == "killed"
    await again.runtime.remove("ada", keep_volumes=False)
    assert again.things() == {"containers": 0, "volumes": 0}


async def test_the_boot_files_reach_memory_and_the_socket_is_gone(host: Host) -> None:
    warm = await host.adopted()

    assert host.inside(warm.container, "stat -c '%a %u' /run/cred/boot.json") == "600 1000"
    assert host.inside(warm.container, "stat -f -c %T /run/cred") == "tmpfs"
    assert host.inside(warm.container, SOCKETS) == ""
    assert [p for p in host.workers.rglob("*") if not p.is_dir()] == []


async def test_the_workspace_of_an_adopted_worker_outlives_its_container_whoever_removes_it(
    host: Host,
) -> None:
    warm = await host.adopted()
    host.inside(warm.container, "echo kept > /workspace/file; echo too > /home/worker/file")
    need_engine().api.remove_container(warm.container, force=True)
    again = host.again()

    await again.runtime.warm.sweep()
    second = await again.runtime.start(again.spec(incarnation=2))
    await again.runtime.remove("ada", keep_volumes=True)
    await again.runtime.warm.sweep()
    again.runtime.warm.reserve(await again.warm(), "ada", 3)
    third = await again.runtime.start(again.spec(incarnation=3))

    assert len({warm.container, second.id, third.id}) == 3
    assert host.inside(third.id, "cat /workspace/file /home/worker/file") == "kept\ntoo"
    assert again.things() == {"containers": 1, "volumes": 3}


async def test_a_kept_workspace_is_worth_more_than_a_warm_start(host: Host) -> None:
    first = await host.runtime.start(host.spec())
    host.inside(first.id, "echo kept > /workspace/file")
    await host.runtime.remove("ada", keep_volumes=True)
    warm = await host.warm()
    host.runtime.warm.reserve(warm, "ada", 2)

    unit = await host.runtime.start(host.spec(incarnation=2))

    assert unit.id != warm.container
    assert host.inside(unit.id, "cat /workspace/file") == "kept"
    assert host.things() == {"containers": 1, "volumes": 2}


async def test_a_warm_container_that_died_is_no_obstacle(host: Host) -> None:
    warm = await host.warm()
    host.runtime.warm.reserve(warm, "ada", 1)
    need_engine().api.remove_container(warm.container, force=True)

    unit = await host.runtime.start(host.spec())

    assert (unit.worker, unit.state) == ("ada", "running")
    assert host.things() == {"containers": 1, "volumes": 2}


async def test_what_was_reserved_for_one_worker_is_not_for_a_later_one_of_its_name(
    host: Host,
) -> None:
    warm = await host.warm()
    host.runtime.warm.reserve(warm, "ada", 1)

    unit = await host.runtime.start(host.spec(incarnation=2))

    assert unit.id != warm.container


async def test_what_a_dead_manager_left_warm_is_removed_and_its_workers_are_not(host: Host) -> None:
    adopted = await host.adopted("ada")
    await host.warm()
    again = host.again()

    await again.runtime.warm.sweep()

    [unit] = await again.runtime.list()
    assert unit.id == adopted.container
    assert again.things() == {"containers": 1, "volumes": 3}
    assert list((host.workers / ".warm").iterdir()) == []


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    need_engine()
    async with running_crew(tmp_path, JETCREW_WARM__SIZE="1") as running:
        yield running
    await asyncio.to_thread(remove_everything_of, running.server.identity.crew)


def _frozen(crew: RunningCrew) -> list[str]:
    mine = f"jetcrew.crew={crew.server.identity.crew}"
    filters: dict[str, str | list[str] | bool] = {"label": [mine, "jetcrew.kind=warm"]}
    containers = need_engine().containers.list(filters=filters)
    return [str(found.id) for found in containers if found.status == "paused"]


async def test_a_crew_adopts_what_is_warm_and_leaves_nothing(crew: RunningCrew) -> None:
    await worker_image("shell")
    docker = {"runtime": "docker", "network": "none"}

    async def one_waits() -> int:
        return len(_frozen(crew))

    await crew.create("ada", **docker)
    await eventually(one_waits, 1, within=60)
    [waiting] = _frozen(crew)
    await crew.create("bob", **docker)
    record = await crew.worker("bob")
    assert record is not None
    assert record.unit == waiting
    await crew.submit("bob", "echo kept > file; id -u", task="t-1")
    assert (await crew.ended("t-1")).state == "succeeded"

    await crew.kill_manager()
    await crew.start_manager()
    await crew.submit("bob", "cat file", task="t-2")
    second = await crew.ended("t-2")
    assert second.end is not None
    assert second.end.text.strip() == "kept"
    kinds = await crew.kinds("jetcrew.evt.worker.bob.>")
    assert kinds[:6] == ["requested", "starting", "ready", "busy", "ready", "busy"]

    for name in ("ada", "bob"):
        await crew.ask("worker.delete", {"name": name})
        await crew.until(name, "stopped")
    assert await crew.stop_manager() == 0
    mine, client = labelled(crew.server.identity.crew), need_engine()
    assert client.containers.list(all=True, filters=mine) == []
    assert client.volumes.list(filters=mine) == []
    assert client.networks.list(filters=mine) == []
