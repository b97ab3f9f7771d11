"""Records of what ended long ago go with what hangs on them, and nothing that comes late brings them back (R15)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contracts.bus import Artifacts, Bus, apply_topology
from contracts.codec import encode
from contracts.events import TaskEnd
from contracts.ids import CommandId, NodeId, TaskId, WorkerId
from contracts.reports import Finished
from contracts.task import SubmitTask, TaskRecord
from contracts.worker import CreateWorker, WorkerRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.cleaning.retention import Retention
from services.worker_manager.cleaning.seen import Seen, Thing
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew, now
from services.worker_manager.intake import Intake
from services.worker_manager.testimony import Testimony
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually

ADA = WorkerId("ada")
MONTH = 2_592_000.0


class Aged:
    """A crew whose records are all of last year, as its clock has it."""

    def __init__(self, server: Server, bus: Bus) -> None:
        self.server = server
        self.bus = bus
        self.crew = Crew(bus, Catalog.load())
        later = Crew(bus, self.crew.catalog, clock=lambda: now() + timedelta(days=365))
        self.retention = Retention(later, "here", MONTH)
        self.objects = Artifacts(bus)

    async def worker(self, state: Any = "stopped", name: WorkerId = ADA) -> None:
        """Record one."""
        spec = CreateWorker(name=name, agent="shell")
        last = await self.crew.last_of(name, None)
        record = moves.requested(spec, now(), made_by=CommandId("c"), before=last)
        assert await self.crew.workers.create(name, record) is not None
        await self.crew.workers.change(
            name, lambda r: replace(r, state=state, node=NodeId("here"), runtime="process")
        )

    async def task(self, name: str, *, over: bool = True) -> None:
        """Record one of ada's, brought as far as its end."""
        task, body = TaskId(name), SubmitTask(prompt="x")
        record = moves.queued(task, ADA, body, now(), door_seq=99, actor=None)
        assert await self.crew.tasks.create(task, record, over=0) is not None
        await self.crew.tasks.change(task, lambda r: moves.started(r, 1, "run", now()))
        if over:
            end = TaskEnd()
            await self.crew.tasks.change(task, lambda r: moves.ended(r, "succeeded", end, now()))

    async def seen(self, *things: Thing) -> Seen:
        """What a look finds, with nothing left but these."""
        held = await self.crew.workers.bucket.list()
        workers = {key: each.value for key, each in held.items()}
        return Seen(node="here", workers=workers, engine=True, things=things)

    async def clean(self, *things: Thing, dry_run: bool = False) -> set[str]:
        """The names of what goes."""
        seen = await self.seen(*things)
        verdicts = await self.retention.clean(seen, whole=True, dry_run=dry_run)
        return {f"{v.judged().kind} {v.judged().name}" for v in verdicts}

    async def records(self) -> set[str]:
        """The keys there are."""
        tasks, workers = self.crew.tasks.bucket, self.crew.workers.bucket
        return {*await tasks.list(), *await workers.list()}


@asynccontextmanager
async def aged(tmp_path: Path) -> AsyncIterator[Aged]:
    async with running_server(tmp_path, applied=True) as server, control_plane(server) as bus:
        yield Aged(server, bus)


async def test_what_is_over_goes_with_its_objects_and_what_is_open_stays(tmp_path: Path) -> None:
    async with aged(tmp_path) as old:
        await old.worker()
        for name in ("over", "t7", "t8"):
            await old.task(name)
        await old.task("open", over=False)
        for name in ("ada/over/transcript", "ada/over/evidence-1", "ada/t8/transcript"):
            await old.objects.put(name, b"x", limit=10)

        gone = {"task-record over", "task-record t7"}
        assert await old.clean(dry_run=True) == gone
        assert await old.records() == {"ada", "over", "t7", "t8", "open"}
        assert await old.clean() == gone
        assert await old.records() == {"ada", "t8", "open"}  # ada has a task that is not over
        assert [a.name for a in await old.objects.list()] == ["ada/t8/transcript"]

        await old.crew.end(TaskId("open"), "failed", TaskEnd())
        assert await old.clean() == {"task-record open", "worker-record ada"}
        assert await old.clean() == set()


async def test_a_record_that_changes_meanwhile_stays(tmp_path: Path) -> None:
    async with aged(tmp_path) as old:
        await old.worker()
        await old.worker(name=WorkerId("bob"))
        due = await old.retention.due(await old.seen(), whole=True)
        await old.crew.workers.change(ADA, lambda r: replace(r, reason="made anew, say"))

        gone = await old.retention.removed(due)

        assert [verdict.judged().name for verdict in gone] == ["bob"]
        assert await old.records() == {"ada"}


async def test_of_whom_anything_is_left_the_record_stays(tmp_path: Path) -> None:
    async with aged(tmp_path) as old:
        await old.worker()
        assert await old.clean(Thing(kind="volume", name="v", worker="ada")) == set()
        assert await old.clean() == {"worker-record ada"}


async def test_a_later_worker_of_the_name_goes_on_from_the_events_of_the_last(
    tmp_path: Path,
) -> None:
    async with aged(tmp_path) as old:
        await old.worker()
        assert await old.clean() == {"worker-record ada"}
        await old.worker("ready")

        held = await old.crew.workers.bucket.get(ADA)
        assert held is not None
        assert held.value.incarnation == 2
        events = await old.bus.page("JC_EVT", "jetcrew.evt.worker.ada.>")
        told = [msgspec.json.decode(event.data).get("incarnation", 1) for event in events]
        assert (told, held.value.evt_seq) == ([1, 2], events[-1].seq)


async def test_a_removed_task_is_not_brought_back_by_what_comes_late(tmp_path: Path) -> None:
    """Its prompt once more, after the stream has forgotten it; its wrapper's last report."""
    async with aged(tmp_path) as old:
        await old.worker("ready")
        await old.task("mine")
        await old.task("t5")
        assert await old.clean() == {"task-record mine"}
        consumers = {(c.stream, c.name): c for c in old.bus.topology.consumers}
        identity = old.server.identity
        credentials = Credentials(old.bus, identity, identity.minter(()), owner="here")
        intake = Intake(old.crew, consumers["JC_TASK", "mgr"])
        testimony = Testimony(old.crew, credentials)
        stop = asyncio.Event()
        report = Finished(
            task=TaskId("mine"), attempt=1, run="run", state="succeeded", end=TaskEnd()
        )

        async with asyncio.TaskGroup() as group:
            for key, handle in (("JC_TASK", intake.handle), ("JC_REP", testimony.report)):
                name = {"JC_TASK": "mgr", "JC_REP": "rec"}[key]
                group.create_task(old.bus.consume(consumers[key, name], handle, stop=stop))
            prompt = encode(SubmitTask(prompt="x"))
            await old.bus.publish("jetcrew.task.ada", prompt, id="mine")
            await old.bus.publish("jetcrew.rep.ada.task.mine.finished", encode(report))
            for key, name in (("JC_TASK", "mgr"), ("JC_REP", "rec")):

                async def handled(key: str = key, name: str = name) -> tuple[int, int]:
                    info = await old.bus.api(f"CONSUMER.INFO.{key}.{name}")
                    return info["num_pending"], info["num_ack_pending"]

                await eventually(handled, (0, 0))
            stop.set()

        assert await old.records() == {"ada", "t5"}
        assert await old.bus.page("JC_TASK", "jetcrew.task.ada") == []
        assert await old.bus.page("JC_DLQ", "jetcrew.dlq.>") == []


async def test_numbers_are_not_given_twice_though_their_records_are_gone(tmp_path: Path) -> None:
    async with aged(tmp_path) as old:
        await old.worker("ready")
        for name in ("t41", "t42"):
            await old.task(name)
        assert await old.clean() == {"task-record t41"}
        await old.bus.purge("KV_jc_task", "$KV.jc_task.t41")  # the marker has expired, say
        await old.bus.api("STREAM.DELETE.JC_TASK")
        await apply_topology(old.bus)
        receipt = await old.bus.publish("jetcrew.task.ada", encode(SubmitTask(prompt="x")))
        assert receipt.seq == 43


@pytest.mark.parametrize("kind", [TaskRecord, WorkerRecord])
async def test_markers_of_removed_records_go_some_day(tmp_path: Path, kind: type[Any]) -> None:
    async with aged(tmp_path) as old:
        await old.worker()
        await old.task("over")
        await old.clean()
        bucket, key = (
            (old.crew.tasks.bucket, "over")
            if kind is TaskRecord
            else (old.crew.workers.bucket, ADA)
        )
        marker = await old.bus.last(bucket.stream, bucket.subject(key))
        assert marker is not None
        assert marker.headers["Nats-TTL"] == f"{MONTH * 1000:.0f}ms"
