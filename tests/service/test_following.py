"""What is open is found by reading what has changed: all of it, at the cost of nothing else (R6, R13)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from contracts.bus import Bus, Following, Held, apply_topology, connect
from contracts.events import TaskEnd
from contracts.ids import TaskId, WorkerId
from contracts.task import SubmitTask, TaskRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew, now
from tests.support.dying import die
from tests.support.servers import Server, running_server

ADA = WorkerId("ada")


class Job(Struct, frozen=True):
    """A record of sorts."""

    done: bool = False


@dataclass
class Followed:
    """A bucket that is written to, and what is open in it."""

    server: Server
    bus: Bus

    def __post_init__(self) -> None:
        self.jobs = self.bus.bucket("jc_task", Job)
        self.open = Following(self.jobs, lambda held: None if held.value.done else held)

    async def names(self) -> set[str]:
        """Of the open ones."""
        return set(await self.open.now())


@asynccontextmanager
async def followed(tmp_path: Path) -> AsyncIterator[Followed]:
    async with (
        running_server(tmp_path, applied=True) as server,
        connect(
            server.url,
            name="follower",
            creds=server.creds("manager"),
            inbox_prefix="_INBOX.manager",
            patience=20,
        ) as bus,
    ):
        yield Followed(server, bus)


async def test_what_changes_is_found_and_what_is_done_is_left_out(tmp_path: Path) -> None:
    async with followed(tmp_path) as there:
        assert await there.names() == set()
        first = await there.jobs.create("a", Job())
        await there.jobs.create("b", Job())
        await there.jobs.create("done", Job(done=True))
        assert await there.names() == {"a", "b"}
        await there.jobs.update("a", Job(done=True), first)
        await there.jobs.delete("b")
        await there.jobs.create("c", Job())
        assert await there.names() == {"c"}
        await there.jobs.create("b", Job())
        assert await there.names() == {"b", "c"}


async def test_a_look_where_nothing_has_changed_reads_next_to_nothing(tmp_path: Path) -> None:
    async with followed(tmp_path) as there:
        for n in range(300):
            await there.jobs.put(f"j{n}", Job(done=n % 2 == 0))
        assert len(await there.open.now()) == 150
        before = there.bus.client.stats["in_msgs"]
        for _ in range(10):
            assert len(await there.open.now()) == 150
        assert there.bus.client.stats["in_msgs"] - before <= 20  # the last message and an end, each


async def test_a_record_that_does_not_decode_hides_no_other(tmp_path: Path) -> None:
    async with followed(tmp_path) as there:
        await there.jobs.create("a", Job())
        await there.bus.publish(there.jobs.subject("odd"), b"[]")
        await there.jobs.create("b", Job())
        assert await there.names() == {"a", "b"}


@pytest.mark.parametrize("more", [0, 1, 3])
async def test_a_bucket_that_was_made_anew_is_read_anew(tmp_path: Path, more: int) -> None:
    """With fewer, as many and more messages than it had."""
    async with followed(tmp_path) as there:
        for name in ("old-1", "old-2"):
            await there.jobs.create(name, Job())
        assert len(await there.names()) == 2
        await there.bus.api("STREAM.DELETE.KV_jc_task")
        await apply_topology(there.bus)
        names = [f"new-{n}" for n in range(1 + more)]
        for name in names:
            await there.jobs.create(name, Job())
        assert await there.names() == set(names)


async def test_those_who_ask_while_it_is_read_share_one_read(tmp_path: Path) -> None:
    async with followed(tmp_path) as there:
        await there.jobs.create("a", Job())
        await there.names()
        before = there.bus.client.stats["in_msgs"]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(there.names()) for _ in range(20)]
        assert all(task.result() == {"a"} for task in asked)
        assert there.bus.client.stats["in_msgs"] - before <= 4


async def test_after_a_crash_of_the_server_it_goes_on(tmp_path: Path) -> None:
    async with followed(tmp_path) as there:
        await there.jobs.create("a", Job())
        assert await there.names() == {"a"}
        await there.server.kill()
        await there.server.start_again()
        await there.jobs.create("b", Job())
        assert await there.names() == {"a", "b"}


# -- managers that die ----------------------------------------------------------------------------


async def told(bus: Bus, task: str) -> list[str]:
    page = await bus.page("JC_EVT", f"jetcrew.evt.task.*.{task}.>")
    return [msgspec.json.decode(stored.data)["type"] for stored in page]


async def test_what_a_manager_owed_when_it_was_killed_is_found_by_one_that_lives(
    tmp_path: Path,
) -> None:
    """R6: killed with the record written and its event not, and with the event out and not struck off."""
    async with followed(tmp_path) as there:
        crew = Crew(there.bus, Catalog.load())
        over = moves.queued(
            TaskId("over"), ADA, SubmitTask(prompt="x"), now(), door_seq=1, actor=None
        )
        await crew.tasks.create("over", over)
        await crew.tasks.change("over", lambda r: moves.started(r, 1, "run", now()))
        await crew.tasks.change("over", lambda r: moves.ended(r, "succeeded", TaskEnd(), now()))
        assert dict(await crew.open_tasks.now()) == {}
        async with asyncio.TaskGroup() as group:
            group.create_task(die(there.server, "owing", "owing", ADA, "queued"))
            group.create_task(die(there.server, "told", "told", ADA, "running"))

        found: dict[str, Held[TaskRecord]] = dict(await crew.open_tasks.now())
        assert {name: held.value.state for name, held in found.items()} == {
            "owing": "queued",
            "told": "running",
        }
        assert await told(there.bus, "owing") == []
        assert await crew.tasks.settle_these(found.items()) == 2

        assert all(held.value.owed == [] for held in (await crew.open_tasks.now()).values())
        assert await told(there.bus, "owing") == ["task.queued"]
        assert await told(there.bus, "told") == ["task.queued", "task.started"]
