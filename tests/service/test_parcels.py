"""What a worker hands over and fetches, with its own credential, on a real server."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.asks import GetPiece, HandedOver, KeepArtifact, PieceAnswer, PutPiece
from contracts.bus import Artifacts, Bus, connect
from contracts.codec import encode
from contracts.errors import BusUnavailable, InvalidMessage, NotThere, Refused
from contracts.events import ArtifactRef
from contracts.ids import TaskId, WorkerId
from contracts.laying import LayPiece
from contracts.session import Holder, SessionRecord, SharedSession
from contracts.task import TaskRecord
from contracts.topology import HANDED_OVER, OBJECTS, SESSION, TASK, WORKER
from contracts.worker import CreateWorker, WorkerRecord
from services.kit.catalog import Catalog
from services.worker_manager import parcels
from services.worker_manager.crew import Crew, now
from tests.support.raw_nats import control_plane, raw_worker
from tests.support.servers import Server
from tests.support.waiting import eventually
from wrapper.parcels import Parcels

ADA, BOB, T1 = WorkerId("ada"), WorkerId("bob"), TaskId("t1")
PIECE = 131_072
BUNDLE = "ada/t1/bundle"


@dataclass
class Side:
    """The control plane's bus, and a worker's."""

    bus: Bus
    worker: Bus

    @property
    def objects(self) -> Artifacts:
        return Artifacts(self.bus)

    @property
    def ada(self) -> Parcels:
        return Parcels(self.worker, ADA)

    async def put(self, n: int, data: bytes = b"x", **other: object) -> HandedOver:
        of = {"task": "t1", "attempt": 1, "run": "r1", "name": "bundle"} | other
        subject = self.bus.subjects.ask(ADA, "artifact.put")
        return await self.worker.ask(subject, PutPiece(n=n, data=data, **of), HandedOver)  # type: ignore[arg-type]

    async def keep(self, data: bytes, **other: object) -> HandedOver:
        of = {"task": "t1", "attempt": 1, "run": "r1", "name": "bundle"} | other
        ask = KeepArtifact(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **of)  # type: ignore[arg-type]
        return await self.worker.ask(self.bus.subjects.ask(ADA, "artifact.keep"), ask, HandedOver)

    async def messages(self) -> int:
        return int((await self.bus.api("STREAM.INFO.OBJ_jc_artifact"))["state"]["messages"])


@pytest.fixture
async def side(server: Server) -> AsyncIterator[Side]:
    """Ada runs task t1 as r1."""
    async with (
        control_plane(server) as bus,
        raw_worker(server, ADA) as ada,
        connect(
            server.url, name="ada", creds=ada.creds, inbox_prefix="_INBOX.ada", patience=20
        ) as worker,
        parcels.Parcels(Crew(bus, Catalog.load())).opened(),
    ):
        record = TaskRecord(
            id=T1, worker=ADA, state="running", run="r1", submitted_at=now(), changed_at=now()
        )
        await bus.bucket(TASK, TaskRecord).put(T1, record)
        yield Side(bus, worker)


async def file_of(tmp_path: Path, size: int) -> tuple[Path, bytes]:
    file, data = tmp_path / "bundle", os.urandom(size)
    await asyncio.to_thread(file.write_bytes, data)
    return file, data


# -- out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PIECE, 20 * PIECE + 5])
async def test_what_a_run_hands_over_becomes_an_object_under_its_name(
    side: Side, tmp_path: Path, size: int
) -> None:
    file, data = await file_of(tmp_path, size)
    name = await side.ada.hand_over(file, "bundle", task=T1, attempt=1, run="r1")

    assert name == BUNDLE == OBJECTS.handed_over(ADA, T1, 1, "bundle")
    assert await side.objects.get(name, limit=HANDED_OVER["bundle"]) == data


async def test_handing_over_again_changes_nothing(side: Side, tmp_path: Path) -> None:
    file, data = await file_of(tmp_path, 3 * PIECE)
    for _ in range(2):
        await side.ada.hand_over(file, "bundle", task=T1, attempt=1, run="r1")

    assert await side.messages() == 4
    assert await side.objects.get(BUNDLE, limit=1 << 30) == data


async def test_it_goes_on_where_it_was_when_managers_and_server_change_in_the_middle(
    side: Side, server: Server
) -> None:
    data = os.urandom(2 * PIECE)
    await side.put(0, data[:PIECE])
    await server.kill()
    await server.start_again()

    async def taken(asked: Callable[[], Awaitable[HandedOver]]) -> bool:
        with contextlib.suppress(BusUnavailable):
            return (await asked()).ok
        return False

    await eventually(lambda: taken(lambda: side.put(0, data[:PIECE])), expected=True)
    async with parcels.Parcels(Crew(side.bus, Catalog.load())).opened():
        await eventually(lambda: taken(lambda: side.put(1, data[PIECE:])), expected=True)
        await eventually(lambda: taken(lambda: side.keep(data)), expected=True)

    assert await side.objects.get(BUNDLE, limit=1 << 30) == data


async def test_what_is_not_what_it_is_said_to_be_goes(side: Side) -> None:
    await side.put(0, b"abc")
    answer = await side.keep(b"abd")

    assert not answer.ok
    assert "does not have the digest" in answer.reason
    assert await side.messages() == 0
    assert (await side.put(0, b"abd")).ok
    assert (await side.keep(b"abd")).ok


async def test_a_piece_must_follow_the_one_before(side: Side) -> None:
    assert (await side.put(1)).reason == "piece 0 comes first"
    assert (await side.put(0)).ok
    assert await side.messages() == 1


async def test_a_piece_told_twice_at_once_stands_there_once(side: Side) -> None:
    second = parcels.Parcels(Crew(side.bus, Catalog.load()))
    async with second.opened(), asyncio.TaskGroup() as group:
        told = [group.create_task(side.put(0, b"abc")) for _ in range(8)]

    assert all(answer.result().ok for answer in told)
    assert await side.messages() == 1


async def test_more_than_its_bound_is_not_taken(side: Side) -> None:
    most = HANDED_OVER["patch"]
    answer = await side.put(most // PIECE, name="patch")

    assert "is over the limit of 16,777,216" in answer.reason
    assert await side.messages() == 0


@pytest.mark.parametrize(
    "other",
    [{"task": "t2"}, {"run": "r2"}, {"attempt": 2}, {"name": "transcript"}, {"name": "evidence-1"}],
)
async def test_only_the_run_under_way_hands_over_and_only_what_has_a_name_for_it(
    side: Side, other: dict[str, object]
) -> None:
    put, keep = await side.put(0, b"x", **other), await side.keep(b"", **other)

    assert not put.ok
    assert not keep.ok
    assert put.reason == keep.reason
    assert await side.messages() == 0


async def test_a_worker_cannot_hand_over_as_another(side: Side, server: Server) -> None:
    async with raw_worker(server, BOB) as bob:
        subjects = side.bus.subjects
        verbs = ("artifact.put", "artifact.keep", "artifact.get")
        assert await bob.publishable([subjects.ask(ADA, verb) for verb in verbs]) == []
        body = b'{"task":"t1","attempt":1,"run":"r1","name":"bundle","n":0,"data":"eHh4"}'
        answer = await bob.nc.request(subjects.ask(BOB, "artifact.put"), body)
        writes = [
            "$O.jc_artifact.C.x",
            "$O.jc_artifact.M.eA==",
            "$JS.API.STREAM.INFO.OBJ_jc_artifact",
        ]
        assert await bob.publishable(writes) == []

    assert b"worker bob does not run task t1" in answer.data
    assert await side.messages() == 0


# -- in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 20 * PIECE + 5])
async def test_a_worker_fetches_what_was_laid_out_for_it(
    side: Side, tmp_path: Path, size: int
) -> None:
    data, file = os.urandom(size), tmp_path / "got"
    await side.objects.put(OBJECTS.handed_to(ADA, "bundle"), data, limit=1 << 30)
    await side.ada.fetch("bundle", file, limit=1 << 30)

    assert await asyncio.to_thread(file.read_bytes) == data


async def test_a_worker_fetches_nothing_else(side: Side, tmp_path: Path) -> None:
    await side.objects.put(OBJECTS.handed_to(BOB, "bundle"), b"of bob", limit=100)
    await side.objects.put("ada/t1/transcript", b"of ada, for operators", limit=100)
    for name in ("bundle", "transcript"):
        with pytest.raises(NotThere, match="is laid out for this worker"):
            await side.ada.fetch(name, tmp_path / "got", limit=100)
    ask = side.bus.subjects.ask(ADA, "artifact.get")
    climbed = await side.worker.request(ask, b'{"name":"../../bob/to.worker/bundle"}')

    assert b"of bob" not in climbed.data
    assert not (await side.worker.ask(ask, GetPiece(name="x"), PieceAnswer)).data


async def test_a_worker_takes_no_more_than_it_wants(side: Side, tmp_path: Path) -> None:
    await side.objects.put(OBJECTS.handed_to(ADA, "bundle"), b"x" * 101, limit=200)
    with pytest.raises(Refused, match="holds 101 bytes; 100 are the most"):
        await side.ada.fetch("bundle", tmp_path / "got", limit=100)

    assert not await asyncio.to_thread((tmp_path / "got").exists)


# -- the files of a shared session ----------------------------------------------------------------

REVIEW = SharedSession(owner="team", agent="claude", name="review")


@pytest.fixture
async def shared(side: Side) -> Side:
    """Task t1 is in a shared session, and so was another one before it."""
    stored = await side.objects.put("bob/t0/conversation", b"of before", limit=100)
    files = ArtifactRef(name=stored.name, size_bytes=stored.size_bytes, sha256=stored.sha256)
    await in_session(side, SessionRecord(
        agent_session="s1", seen_at=now(), task=T1, shared=REVIEW, files=files,
        holder=Holder(task=T1, attempt=1, worker=ADA, since=now()),
    ))  # fmt: skip
    held = await side.bus.bucket(TASK, TaskRecord).get(T1)
    assert held is not None
    await side.bus.bucket(TASK, TaskRecord).put(T1, replace(held.value, shared=REVIEW))
    worker = WorkerRecord(
        name=ADA, state="busy", desired="running", task=T1, requested_at=now(), changed_at=now(),
        spec=CreateWorker(name=ADA, agent="claude", owner="team"),
    )  # fmt: skip
    await side.bus.bucket(WORKER, WorkerRecord).put(ADA, worker)
    return side


async def in_session(side: Side, record: SessionRecord) -> None:
    await side.bus.bucket(SESSION, SessionRecord).put(REVIEW.key, record)


async def test_the_worker_whose_task_is_in_a_session_fetches_it_and_hands_it_over(
    shared: Side, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    await shared.ada.fetch("conversation", got, limit=100)
    assert await asyncio.to_thread(got.read_bytes) == b"of before"

    name = await shared.ada.hand_over(got, "conversation", task=T1, attempt=1, run="r1")
    assert name == "ada/t1/conversation"


async def test_nobody_else_fetches_it(shared: Side, tmp_path: Path) -> None:
    sessions = shared.bus.bucket(SESSION, SessionRecord)
    held = await sessions.get(REVIEW.key)
    assert held is not None
    for holder in (None, Holder(task=TaskId("t2"), attempt=1, worker=BOB, since=now())):
        await in_session(shared, replace(held.value, holder=holder))
        with pytest.raises(NotThere):
            await shared.ada.fetch("conversation", tmp_path / "got", limit=100)


async def test_a_conversation_over_its_bound_or_of_no_shared_session_is_not_taken(
    side: Side,
) -> None:
    most = HANDED_OVER["conversation"]
    assert "is in no shared session" in (await side.put(0, name="conversation")).reason
    held = await side.bus.bucket(TASK, TaskRecord).get(T1)
    assert held is not None
    await side.bus.bucket(TASK, TaskRecord).put(T1, replace(held.value, shared=REVIEW))

    answer = await side.put(most // PIECE, name="conversation")
    assert "is over the limit of 33,554,432" in answer.reason
    assert await side.messages() == 0


async def test_nothing_is_laid_out_in_the_place_of_a_conversation(side: Side) -> None:
    body = LayPiece(worker=ADA, name="conversation", sha256="0" * 64, n=0, data=b"x")
    with pytest.raises(InvalidMessage, match="is what a shared session holds"):
        await parcels.Parcels(Crew(side.bus, Catalog.load())).lay_piece(encode(body))
