"""The bus on a real server: what it promises when all is well, and when the server is killed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from contracts.bus import (
    Bus,
    ConsumerGone,
    Delivery,
    Lease,
    Ledger,
    Message,
    Records,
    apply_consumer,
    apply_topology,
    connect,
    redrive,
    remove_consumer,
)
from contracts.bus.consume import Handle
from contracts.errors import (
    BusUnavailable,
    Conflict,
    InvalidMessage,
    LeaseLost,
    QueueFull,
    Retry,
    TooLarge,
    TopologyDrift,
)
from contracts.events import Owed, WorkerBecameReady
from contracts.ids import CommandId, WorkerId
from contracts.results import Result
from contracts.topology import MAX_PAYLOAD_BYTES, Consumer
from contracts.worker import CreateWorker, WorkerRecord
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually

COMMANDS = Consumer(stream="JC_CMD", name="mgr")


@asynccontextmanager
async def manager_bus(server: Server, name: str = "test") -> AsyncIterator[Bus]:
    async with connect(
        server.url,
        name=name,
        creds=server.creds("manager"),
        inbox_prefix="_INBOX.manager",
        patience=20,
    ) as bus:
        yield bus


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path, applied=True) as running:
        yield running


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    async with manager_bus(server) as connected:
        yield connected


async def depth(bus: Bus, stream: str) -> int:
    return int((await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


# -- topology -------------------------------------------------------------------------------------


async def test_applying_the_topology_again_changes_nothing(bus: Bus) -> None:
    assert await apply_topology(bus) == []


async def test_a_stream_with_other_fixed_settings_is_a_drift_that_says_so(bus: Bus) -> None:
    await bus.api("STREAM.DELETE.JC_RES")
    await bus.api("STREAM.CREATE.JC_RES", {"name": "JC_RES", "subjects": ["jetcrew.res.*"], "storage": "file", "deny_delete": True})  # fmt: skip

    with pytest.raises(TopologyDrift, match=r"JC_RES.*deny_delete is True, not False"):
        await apply_topology(bus)


async def test_a_door_made_anew_numbers_above_every_id_that_was_ever_made(bus: Bus) -> None:
    await Ledger(bus).enter(CommandId("s41"), Result())
    await bus.api("STREAM.DELETE.JC_CMD")
    await apply_topology(bus)

    assert (await bus.publish("jetcrew.cmd.worker.create", b"{}")).seq == 42


# -- publishing -----------------------------------------------------------------------------------


async def test_a_message_at_the_limit_passes_and_one_byte_more_is_refused_unsent(
    bus: Bus,
) -> None:
    headers = len("NATS/1.0\r\n\r\n") + len("Nats-Msg-Id: x\r\n")
    fits = MAX_PAYLOAD_BYTES - headers

    await bus.publish("jetcrew.rep.ada.ready", b"x" * fits, id="x")
    with pytest.raises(TooLarge) as refused:
        await bus.publish("jetcrew.rep.ada.ready", b"x" * (fits + 1), id="x")

    assert refused.value.size_bytes == MAX_PAYLOAD_BYTES + 1
    assert bus.connected
    assert not bus.closed.is_set()


async def test_a_door_refuses_what_could_not_be_passed_on(bus: Bus) -> None:
    with pytest.raises(TooLarge, match="over the limit of 786,432"):
        await bus.publish("jetcrew.task.ada", b"x" * (MAX_PAYLOAD_BYTES - 1000))


async def test_the_same_id_is_stored_once(bus: Bus) -> None:
    first = await bus.publish("jetcrew.cmd.worker.create", b"{}", id="once")
    again = await bus.publish("jetcrew.cmd.worker.create", b"{}", id="once")

    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_a_full_queue_is_an_error_of_the_publisher_and_loses_nothing(bus: Bus) -> None:
    """R5."""
    for n in range(100):
        await bus.publish("jetcrew.task.ada", b"{}", id=f"f{n}")

    with pytest.raises(QueueFull, match="10077"):
        await bus.publish("jetcrew.task.ada", b"{}", id="f100")

    await bus.publish("jetcrew.task.bob", b"{}", id="other")
    assert await depth(bus, "JC_TASK") == 101


async def test_a_publish_outlasts_a_killed_server_and_is_stored_once(
    server: Server, bus: Bus
) -> None:
    """R9."""
    await server.kill()
    async with asyncio.TaskGroup() as group:
        publishing = [
            group.create_task(bus.publish("jetcrew.cmd.worker.create", b"{}", id=f"k{n}"))
            for n in range(20)
        ]
        await asyncio.sleep(0.5)
        await server.start_again()

    assert {(await task).stream for task in publishing} == {"JC_CMD"}
    assert await depth(bus, "JC_CMD") == 20


async def test_a_publish_without_a_server_gives_up_in_its_time(server: Server, bus: Bus) -> None:
    await server.kill()
    began = time.monotonic()

    with pytest.raises(BusUnavailable):
        await bus.publish("jetcrew.cmd.worker.create", b"{}", budget=1.0)

    assert time.monotonic() - began < 10


async def test_connecting_without_a_server_names_the_address() -> None:
    with pytest.raises(BusUnavailable, match=r"nats://127\.0\.0\.1:1"):
        async with connect("nats://127.0.0.1:1", name="x", patience=0.5):
            pass


# -- consuming ------------------------------------------------------------------------------------


async def consume(bus: Bus, handle: Handle, stop: asyncio.Event, **options: Any) -> None:
    async with asyncio.timeout(60):
        await bus.consume(COMMANDS, handle, stop=stop, **options)


async def test_a_handled_message_leaves_the_queue(bus: Bus) -> None:
    stop, seen = asyncio.Event(), []
    for n in range(50):
        await bus.publish("jetcrew.cmd.worker.create", b"{}", id=f"m{n}")

    async def handle(delivery: Delivery) -> None:
        seen.append(delivery.id)
        if len(seen) == 50:
            stop.set()

    await consume(bus, handle, stop, concurrency=8)

    assert set(seen) == {f"m{n}" for n in range(50)}
    assert await depth(bus, "JC_CMD") == 0


async def test_messages_of_one_key_are_handled_in_order_and_one_at_a_time(bus: Bus) -> None:
    stop, order, inside = asyncio.Event(), [], 0
    for n in range(30):
        await bus.publish("jetcrew.cmd.worker.create", b"%d" % n)

    async def handle(delivery: Delivery) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.001)
        inside -= 1
        order.append(int(delivery.data))
        if len(order) == 30:
            stop.set()

    await consume(bus, handle, stop, concurrency=16, key=lambda d: d.subject)

    assert order == list(range(30))


async def test_retry_delivers_again_after_its_delay(bus: Bus) -> None:
    stop, at = asyncio.Event(), []
    await bus.publish("jetcrew.cmd.worker.create", b"{}")

    async def handle(delivery: Delivery) -> None:
        at.append(time.monotonic())
        if delivery.deliveries == 1:
            raise Retry("not yet", after=0.5)
        stop.set()

    await consume(bus, handle, stop)

    assert len(at) == 2
    assert at[1] - at[0] >= 0.45


async def test_an_invalid_message_becomes_a_dead_letter_that_can_be_sent_again(bus: Bus) -> None:
    """R4."""
    stop, heard = asyncio.Event(), []
    await bus.publish("jetcrew.cmd.worker.create", b"poison", id="p1")

    async def refuse(delivery: Delivery) -> None:
        stop.set()
        raise InvalidMessage("not so", field="$.name")

    await consume(bus, refuse, stop)
    [letter] = await bus.page("JC_DLQ", "jetcrew.dlq.>")

    assert (letter.data, letter.headers["Jc-Dlq-Reason"]) == (b"poison", "$.name: not so")
    assert await depth(bus, "JC_CMD") == 0

    await redrive(bus, letter)
    stop.clear()

    async def take(delivery: Delivery) -> None:
        heard.append(delivery.data)
        stop.set()

    await consume(bus, take, stop)
    assert heard == [b"poison"]
    assert await depth(bus, "JC_DLQ") == 0


async def test_a_bug_in_a_handler_is_tried_again_and_spares_the_others(bus: Bus) -> None:
    stop, done = asyncio.Event(), []
    await bus.publish("jetcrew.cmd.worker.create", b"bad")
    await bus.publish("jetcrew.cmd.worker.create", b"good")

    async def handle(delivery: Delivery) -> None:
        if delivery.data == b"bad" and delivery.deliveries == 1:
            raise ZeroDivisionError
        done.append(delivery.data)
        if len(done) == 2:
            stop.set()

    await consume(bus, handle, stop)

    assert done == [b"good", b"bad"]


async def test_a_handler_longer_than_the_ack_wait_is_delivered_once(bus: Bus) -> None:
    """R2."""
    consumer = Consumer(stream="JC_RUN", name="slow", filters=("jetcrew.run.slow",), ack_wait=1.0)
    await apply_consumer(bus, consumer)
    await bus.publish("jetcrew.run.slow", b"{}")
    stop, deliveries = asyncio.Event(), []

    async def handle(delivery: Delivery) -> None:
        deliveries.append(delivery.deliveries)
        await asyncio.sleep(3.5)
        stop.set()

    async with asyncio.timeout(30):
        await bus.consume(consumer, handle, stop=stop)

    assert deliveries == [1]
    assert await depth(bus, "JC_RUN") == 0


async def test_a_handler_that_blocks_the_loop_is_told_of(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """R2: heartbeats stop while the loop is blocked, so it must not pass unnoticed."""
    consumer = Consumer(stream="JC_RUN", name="rude", filters=("jetcrew.run.rude",), ack_wait=0.6)
    await apply_consumer(bus, consumer)
    await bus.publish("jetcrew.run.rude", b"{}")
    stop = asyncio.Event()

    async def handle(_: Delivery) -> None:
        time.sleep(1.5)  # noqa: ASYNC251  # the rudeness is the subject
        await asyncio.sleep(0.5)
        stop.set()

    async with asyncio.timeout(30):
        await bus.consume(consumer, handle, stop=stop)

    captured = capsys.readouterr()
    assert "loop.blocked" in captured.out + captured.err


async def test_consuming_goes_on_after_the_server_was_killed(server: Server, bus: Bus) -> None:
    stop, seen = asyncio.Event(), set()

    async def handle(delivery: Delivery) -> None:
        seen.add(delivery.data)
        if len(seen) == 2:
            stop.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(bus.consume(COMMANDS, handle, stop=stop))
        await bus.publish("jetcrew.cmd.worker.create", b"before")
        await eventually(lambda: len(seen), 1)
        await server.kill()
        await server.start_again()
        await bus.publish("jetcrew.cmd.worker.create", b"after")

    assert seen == {b"before", b"after"}


async def test_a_consumer_that_is_deleted_ends_the_loop_with_an_error(bus: Bus) -> None:
    """R1: a consumer that dies is not survived in silence."""
    consumer = Consumer(stream="JC_RUN", name="brief", filters=("jetcrew.run.brief",))
    await apply_consumer(bus, consumer)

    async def handle(_: Delivery) -> None: ...

    consuming = asyncio.ensure_future(bus.consume(consumer, handle, stop=asyncio.Event()))

    async def waits() -> int:
        info = await bus.api("CONSUMER.INFO.JC_RUN.brief")
        return int(info["num_waiting"])

    await eventually(waits, 1)
    await remove_consumer(bus, consumer)

    with pytest.raises(ConsumerGone):
        await consuming


# -- buckets, leases, ledger ----------------------------------------------------------------------


class Note(Struct, frozen=True):
    text: str


async def test_a_value_changes_only_from_the_revision_that_was_read(bus: Bus) -> None:
    """R6."""
    notes = bus.bucket("jc_image", Note)
    first = await notes.create("a", Note("one"))
    second = await notes.update("a", Note("two"), first)

    with pytest.raises(Conflict):
        await notes.update("a", Note("three"), first)
    with pytest.raises(Conflict):
        await notes.create("a", Note("four"))
    held = await notes.get("a")
    assert held is not None
    assert (held.value, held.revision) == (Note("two"), second)


async def test_a_deleted_key_is_gone_and_can_be_made_again(bus: Bus) -> None:
    notes = bus.bucket("jc_image", Note)
    await notes.create("a", Note("one"))
    await notes.delete("a")

    assert await notes.get("a") is None
    assert await notes.list() == {}
    await notes.create("a", Note("two"))
    assert (await notes.list())["a"].value == Note("two")


async def test_a_list_holds_every_key_and_leaves_no_consumer_behind(bus: Bus) -> None:
    notes = bus.bucket("jc_image", Note)
    async with asyncio.TaskGroup() as group:
        for n in range(1200):
            group.create_task(notes.put(f"k{n}", Note(str(n))))

    listed = await notes.list()

    assert {key: held.value.text for key, held in listed.items()} == {
        f"k{n}": str(n) for n in range(1200)
    }
    assert (await bus.api("STREAM.INFO.KV_jc_image"))["state"]["consumer_count"] == 0


async def test_a_lease_has_one_holder_and_passes_on_when_it_expires(bus: Bus) -> None:
    mine = Lease(bus, "jc_lease", "x", "me", ttl=1.0)
    yours = Lease(bus, "jc_lease", "x", "you", ttl=1.0)

    assert await mine.take()
    assert not await yours.take()
    await mine.renew()
    await eventually(yours.take, expected=True)
    with pytest.raises(LeaseLost):
        await mine.renew()
    assert not mine.held


async def test_a_lease_given_back_is_free_at_once(bus: Bus) -> None:
    async with Lease(bus, "jc_lease", "x", "me", ttl=30).waited_for():
        assert not await Lease(bus, "jc_lease", "x", "you", ttl=30).take()

    assert await Lease(bus, "jc_lease", "x", "you", ttl=30).take()


async def test_a_command_has_one_answer_for_ever(bus: Bus) -> None:
    """R3."""
    ledger = Ledger(bus)
    first = await ledger.enter(CommandId("c1"), Result(detail="first"))
    second = await ledger.enter(CommandId("c1"), Result(detail="second"))

    assert first == second == await ledger.answer(CommandId("c1"))
    assert await ledger.answer(CommandId("c2")) is None


# -- records --------------------------------------------------------------------------------------

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def records(bus: Bus) -> Records[WorkerRecord]:
    return Records(
        bus,
        bus.bucket("jc_worker", WorkerRecord),
        lambda record: bus.subjects.events_of_worker(record.name),
    )


def owing(record: WorkerRecord, n: int) -> WorkerRecord:
    event = WorkerBecameReady(at=AT, worker=record.name, reason=str(n))
    return replace(
        record, state="ready", reason=str(n), owed=[Owed(id=f"e{record.evt_seq}-{n}", event=event)]
    )


def new_record(name: str = "ada") -> WorkerRecord:
    return WorkerRecord(
        name=WorkerId(name),
        state="requested",
        desired="running",
        spec=CreateWorker(name=name, agent="shell"),
        requested_at=AT,
        changed_at=AT,
    )


async def test_each_change_has_its_event_in_order_however_many_race(server: Server) -> None:
    """R6, R8: two processes' worth of writers, one chain."""
    async with manager_bus(server, "one") as one, manager_bus(server, "two") as two:
        both = [records(one), records(two)]
        await both[0].create("ada", new_record())

        async def change(n: int) -> None:
            def step(record: WorkerRecord) -> WorkerRecord:
                count = int(record.reason or 0) + 1
                return owing(record, count)

            assert await both[n % 2].change("ada", step) is not None

        for _ in range(10):
            async with asyncio.TaskGroup() as group:
                for n in range(6):
                    group.create_task(change(n))
        told = await one.page("JC_EVT", "jetcrew.evt.worker.ada.>")
        final = await both[1].get("ada")

    reasons = [str(n) for n in range(1, 61)]
    assert [msgspec.json.decode(event.data)["reason"] for event in told] == reasons
    assert final is not None
    assert (final.value.reason, final.value.owed, final.value.evt_seq) == ("60", [], told[-1].seq)


@pytest.mark.parametrize("published", [False, True])
async def test_who_finds_an_owed_event_pays_it_once(bus: Bus, published: bool) -> None:
    """R3: the changer died before, or right after, the publish."""
    dying = owing(new_record(), 7)
    await bus.bucket("jc_worker", WorkerRecord).create("ada", dying)
    if published:
        owed = dying.owed[0]
        await bus.publish(bus.subjects.event(owed.event), owed.event, id=owed.id)

    held = await records(bus).get("ada")

    assert held is not None
    assert held.value.owed == []
    assert len(await bus.page("JC_EVT", "jetcrew.evt.worker.ada.>")) == 1


async def test_a_listener_hears_each_event_of_a_process_once(bus: Bus) -> None:
    """Two tasks of one process that look at the same record do not both publish what it owes."""
    heard: list[str] = []

    async def hear(message: Message) -> None:
        heard.append(message.subject)

    async with bus.serve("jetcrew.evt.>", hear):
        mine = records(bus)
        await bus.bucket("jc_worker", WorkerRecord).create("ada", owing(new_record(), 1))
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(mine.get("ada"))
        await eventually(lambda: len(heard), 1)
        await bus.client.flush()

    assert len(heard) == 1
