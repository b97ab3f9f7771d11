"""Who is in a shared session, decided by compare-and-set on a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.asks import SharedConversation
from contracts.bus import Artifacts
from contracts.errors import Refused
from contracts.events import ConversationLeft, TaskEnd, TaskState
from contracts.ids import TaskId, WorkerId
from contracts.session import SessionLife, SessionRecord, SharedSession
from contracts.task import TaskRecord
from services.kit.catalog import Catalog
from services.worker_manager.cleaning.retention import Retention
from services.worker_manager.cleaning.seen import Thing, Verdict
from services.worker_manager.crew import Crew, now
from services.worker_manager.sharing import GoingOn
from tests.support.raw_nats import control_plane
from tests.support.servers import running_server

REVIEW = SharedSession(owner="team", agent="claude", name="review")
HOUR = timedelta(hours=1)


class At:
    """A clock that stands."""

    def __init__(self) -> None:
        self.time = now()

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> At:
    return At()


@pytest.fixture
async def crew(tmp_path: Path, clock: At) -> AsyncIterator[Crew]:
    async with running_server(tmp_path, applied=True) as server, control_plane(server) as bus:
        yield Crew(bus, Catalog.load(), clock=clock, sessions_live=SessionLife(idle=3600.0))


async def queued(crew: Crew, task: str) -> TaskRecord:
    record = TaskRecord(
        id=TaskId(task), worker=WorkerId(f"w-{task}"), state="queued", session="review",
        shared=REVIEW, submitted_at=now(), changed_at=now(),
    )  # fmt: skip
    await crew.tasks.bucket.put(task, record)
    return record


async def entered(crew: Crew, task: str) -> GoingOn | None:
    return await crew.sharing.take(await queued(crew, task))


async def ended(
    crew: Crew, task: str, state: TaskState = "succeeded", *, files: bytes | None = b"talk",
    session: str = "s1", **end: object,
) -> None:  # fmt: skip
    """Its end, as it is recorded, and what that entails."""
    held = await crew.tasks.bucket.get(task)
    assert held is not None
    if files is not None:
        name = f"{held.value.worker}/{task}/conversation"
        await Artifacts(crew.bus).put(name, files, limit=1000)
    over = TaskEnd(agent_session=session, **end)  # type: ignore[arg-type]
    record = replace(held.value, state=state, end=over)
    await crew.tasks.bucket.put(task, record)
    await crew.sharing.give_back(record)


async def record(crew: Crew) -> SessionRecord:
    held = await crew.sessions.get(REVIEW.key)
    assert held is not None
    return held.value


async def objects(crew: Crew) -> list[str]:
    return [artifact.name for artifact in await Artifacts(crew.bus).list()]


async def test_of_many_that_would_enter_at_once_one_does_and_after_it_the_next(crew: Crew) -> None:
    tasks = [await queued(crew, f"t{n}") for n in range(12)]
    for left in range(len(tasks), 0, -1):
        async with asyncio.TaskGroup() as group:
            asked = {t.id: group.create_task(crew.sharing.take(t)) for t in tasks[-left:]}
        inside = [task for task, asking in asked.items() if asking.result() is not None]
        assert len(inside) == 1
        assert (await crew.sharing.take(await queued(crew, inside[0]))) is not None
        await ended(crew, inside[0])
        tasks = [t for t in tasks if t.id != inside[0]]

    assert ((await record(crew)).turns, (await record(crew)).holder) == (12, None)
    assert len(await objects(crew)) == 1


async def test_one_goes_on_with_what_the_one_before_handed_over(crew: Crew) -> None:
    assert await entered(crew, "t1") == GoingOn(shared=SharedConversation())
    assert await entered(crew, "t2") is None
    await ended(crew, "t1")

    assert await entered(crew, "t2") == GoingOn(
        agent_session="s1", shared=SharedConversation(stored=True)
    )


async def test_an_attempt_that_came_to_nothing_leaves_the_session_as_it_was(crew: Crew) -> None:
    await entered(crew, "t1")
    await ended(crew, "t1")
    await entered(crew, "t2")
    await ended(crew, "t2", "failed", files=None, told_by="manager", session="s2")

    again = await entered(crew, "t3")
    assert again is not None
    assert again.agent_session == "s1"
    assert (await record(crew)).turns == 1


async def test_a_conversation_that_could_not_be_kept_is_lost_and_said_to_be(crew: Crew) -> None:
    await entered(crew, "t1")
    await ended(crew, "t1")
    await entered(crew, "t2")
    left = ConversationLeft(reason="too-large", detail="it is over the bound")
    await ended(crew, "t2", files=None, conversation=left)

    assert await objects(crew) == []
    assert await entered(crew, "t3") == GoingOn(
        shared=SharedConversation(lost="it is over the bound")
    )


@pytest.mark.parametrize("session", ["--settings=/x", "../s1"])
async def test_an_id_that_is_no_name_goes_to_no_other_worker(crew: Crew, session: str) -> None:
    await entered(crew, "t1")
    kept = ConversationLeft(reason="kept", size_bytes=4)
    await ended(crew, "t1", session=session, conversation=kept)

    after = await entered(crew, "t2")
    assert after is not None
    assert after.agent_session is None
    assert after.shared == SharedConversation(lost="its files were not handed over")


async def test_who_holds_a_session_and_is_no_more_does_not_keep_others_out(crew: Crew) -> None:
    await entered(crew, "t1")
    await crew.tasks.bucket.delete("t1")

    assert await entered(crew, "t2") is not None
    assert (await record(crew)).held_by(TaskId("t2"), 1)


async def test_a_session_that_was_left_alone_begins_afresh_without_a_word(
    crew: Crew, clock: At
) -> None:
    await entered(crew, "t1")
    await ended(crew, "t1")
    clock.time += 2 * HOUR

    assert await entered(crew, "t2") == GoingOn(shared=SharedConversation())
    assert await objects(crew) == []


async def test_a_session_is_forgotten_with_its_files_but_not_under_a_task(crew: Crew) -> None:
    await entered(crew, "t1")
    with pytest.raises(Refused, match="in use by task t1"):
        await crew.sharing.forget(REVIEW)
    await ended(crew, "t1")

    assert await crew.sharing.forget(REVIEW)
    assert not await crew.sharing.forget(REVIEW)
    assert await objects(crew) == []


async def test_what_a_session_holds_outlives_the_record_of_its_last_task(crew: Crew) -> None:
    await entered(crew, "t1")
    await ended(crew, "t1")
    await Artifacts(crew.bus).put("w-t1/t1/transcript", b"x", limit=10)
    held = await crew.tasks.bucket.get("t1")
    assert held is not None
    old = Thing(kind="task-record", name="t1", worker="w-t1", revision=held.revision)
    await Retention(crew, "here", 1.0).removed([Verdict(what=old, remove=True, why="old")])

    assert await crew.tasks.bucket.get("t1") is None
    assert await objects(crew) == ["w-t1/t1/conversation"]


async def test_an_end_that_is_told_late_does_not_throw_the_next_one_out(crew: Crew) -> None:
    await entered(crew, "t1")
    await ended(crew, "t1")
    await entered(crew, "t2")
    held = await crew.tasks.bucket.get("t1")
    assert held is not None
    await crew.sharing.give_back(held.value)

    assert (await record(crew)).held_by(TaskId("t2"), 1)
