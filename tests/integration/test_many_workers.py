"""Many workers, made and deleted on the real engine: everything is as it was before."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from contracts.worker import WorkerRecord
from tests.support.containers import container_crew
from tests.support.crew import RunningCrew
from tests.support.engine import labelled, need_engine
from tests.support.images import worker_image
from tests.support.waiting import eventually

MOST_AT_ONCE = 8
GROWTH = 1.5
"""Times that the manager's memory may be what it was after the first few: caches fill, records do not leak."""


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with container_crew(
        tmp_path, JETCREW_MAX_WORKERS=str(2 * MOST_AT_ONCE), JETCREW_MEMORY_OVERCOMMIT="100"
    ) as running:
        yield running


async def made_and_deleted(crew: RunningCrew, numbers: range, at_once: int) -> None:
    """These workers, some at once; every fifth has a task in its life."""
    left = iter(numbers)

    async def some() -> None:
        for number in left:
            name = f"w-{number}"
            await crew.create(name, runtime="docker", network="none")
            if number % 5 == 0:
                await crew.submit(name, "echo alive", task=f"t-{number}")
                assert (await crew.ended(f"t-{number}")).state == "succeeded"
            await crew.ask("worker.delete", {"name": name})
            await crew.until(name, "stopped")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(some())


def held(crew: RunningCrew) -> tuple[int, int]:
    """Open files and resident bytes of the manager."""
    assert crew.manager is not None
    process = psutil.Process(crew.manager.pid)
    return process.num_fds(), process.memory_info().rss


async def check_nothing_is_left(crew: RunningCrew, count: int) -> None:
    engine, ours = need_engine(), labelled(crew.server.identity.crew)
    assert engine.containers.list(all=True, filters=ours) == []
    assert engine.volumes.list(filters=ours) == []
    assert engine.networks.list(filters=ours) == []
    consumers = await crew.bus.api("CONSUMER.NAMES.JC_RUN")
    assert not consumers.get("consumers")
    records = await crew.bus.bucket("jc_worker", WorkerRecord).list()
    assert {r.value.state for r in records.values()} == {"stopped"}
    assert len(records) == count
    directories = [p for p in crew.server.state.workers.iterdir() if p.name.startswith("w-")]
    assert directories == []


@pytest.mark.parametrize(
    ("count", "at_once"), [(8, 4), pytest.param(500, MOST_AT_ONCE, marks=pytest.mark.soak)]
)
async def test_workers_come_and_go_and_leave_nothing(
    crew: RunningCrew, count: int, at_once: int
) -> None:
    """R14: containers, volumes, networks, consumers, files and memory."""
    await worker_image("shell")
    warm_up = at_once
    await made_and_deleted(crew, range(warm_up), at_once)
    files, memory = held(crew)

    await made_and_deleted(crew, range(warm_up, warm_up + count), at_once)

    await check_nothing_is_left(crew, warm_up + count)
    await eventually(lambda: held(crew)[0] <= files + at_once, expected=True)
    now = held(crew)
    print(
        f"{count} workers: open files {files} -> {now[0]}, RSS {memory >> 20} -> {now[1] >> 20} MiB"
    )
    assert now[1] < memory * GROWTH
