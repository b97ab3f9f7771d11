"""Room, the line for it, turns to start, idle rules: what is decided without a bus or an engine."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.budget import Spent
from contracts.errors import InvalidMessage
from contracts.events import TaskEnd, TaskState, Usage, WorkerQueued, WorkerState
from contracts.ids import CommandId, NodeId, TaskId, WorkerId
from contracts.task import SubmitTask, TaskRecord
from contracts.worker import CreateWorker, Limits, WorkerRecord, line
from services.worker_manager import moves
from services.worker_manager.capacity import Capacity
from services.worker_manager.idle import Patience
from services.worker_manager.limits import within
from services.worker_manager.settings import Caps, ManagerSettings
from services.worker_manager.turns import Turns

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def spec(name: str = "ada", memory_mb: int = 1000, **more: Any) -> CreateWorker:
    return CreateWorker(name=name, agent="shell", limits=Limits(memory_mb=memory_mb), **more)


def record(name: str = "ada", *, after: float = 0.0, **more: Any) -> WorkerRecord:
    at = NOON + timedelta(seconds=after)
    return moves.requested(spec(name, **more), at, made_by=CommandId("s1"))


def became(before: WorkerRecord, *states: WorkerState, at: datetime = NOON) -> WorkerRecord:
    for state in states:
        after = moves.worker(before, state, at, node=NodeId("n1"))
        assert after is not None
        before = after
    return before


def task(state: TaskState, **end: Any) -> TaskRecord:
    body = SubmitTask(prompt="echo")
    queued = moves.queued(TaskId("t1"), WorkerId("ada"), body, NOON, door_seq=7, actor=None)
    started = moves.started(queued, 1, "run", NOON)
    assert started is not None
    over = moves.ended(started, state, TaskEnd(**end), NOON)
    assert over is not None
    return over


def on_task(**more: Any) -> WorkerRecord:
    busy = moves.busy(became(record(**more), "starting", "ready"), TaskId("t1"), NOON)
    assert busy is not None
    return busy


def test_the_line_is_by_age_and_then_by_name_and_holds_only_who_waits() -> None:
    waiting = [record("late", after=2), record("b"), record("a"), record("early", after=-1)]
    taken = became(record("taken", after=-9), "starting")

    assert [r.name for r in line([*waiting, taken])] == ["early", "a", "b", "late"]


def test_there_is_room_until_the_last_place_is_taken() -> None:
    there = Capacity(workers=2, memory_mb=100_000)

    assert there.lacking(spec(), [record("a")]) is None
    assert there.lacking(spec(), [record("a"), record("b")]) == "2 of 2 workers are there"


def test_limits_are_promises_that_memory_has_to_keep() -> None:
    there = Capacity(workers=9, memory_mb=3000)
    live = [record("a"), record("b")]

    assert there.lacking(spec(memory_mb=1000), live) is None
    why = there.lacking(spec(memory_mb=1001), live)
    assert why == "it may use 1,001 MiB, and 1,000 of 3,000 MiB are not promised to others"


def test_a_worker_with_containers_of_its_own_is_promised_its_memory_twice() -> None:
    there = Capacity(workers=9, memory_mb=3000)
    with_engine = replace(spec(memory_mb=1000), capabilities=["docker-cli"])
    live = [replace(record("a"), spec=with_engine)]

    assert there.lacking(spec(memory_mb=1000), live) is None
    assert there.lacking(spec(memory_mb=1001), live) is not None
    assert there.never(replace(with_engine, limits=spec(memory_mb=1501).limits)) is not None


def test_there_is_no_room_while_a_disk_is_full() -> None:
    there = Capacity(workers=9, memory_mb=3000, full="0 GiB are free")

    assert there.lacking(spec(), []) == "0 GiB are free"


def test_what_is_larger_than_the_node_waits_in_nobodys_way() -> None:
    there = Capacity(workers=9, memory_mb=3000)

    assert there.never(spec(memory_mb=3000)) is None
    assert "4,000 MiB" in str(there.never(spec(memory_mb=4000)))


def test_a_queued_worker_is_told_its_place_once() -> None:
    queued = moves.worker(record(), "queued", NOON, reason="full", place=3)

    assert queued is not None
    [owed] = queued.owed
    assert isinstance(owed.event, WorkerQueued)
    assert (owed.event.place, owed.event.reason) == (3, "full")


def test_turns_go_to_the_oldest_and_whoever_leaves_the_line_holds_up_nobody() -> None:
    called: list[str] = []
    turns = Turns(1)

    def take(name: str, age: int) -> bool:
        since = NOON - timedelta(seconds=age)
        return turns.take(WorkerId(name), since, lambda: called.append(name))

    assert take("first", 1)
    assert take("first", 1)
    assert not take("young", 2)
    assert not take("old", 9)
    assert not take("oldest", 10)
    turns.give_back(WorkerId("oldest"))  # deleted while it waited
    turns.give_back(WorkerId("first"))
    assert called[-1] == "old"
    assert not take("young", 2)
    assert take("old", 9)


def test_as_many_turns_at_once_as_there_are_places() -> None:
    turns = Turns(2)
    names = [WorkerId(name) for name in "abc"]

    assert [turns.take(name, NOON, lambda: None) for name in names] == [True, True, False]
    turns.give_back(names[0])
    assert turns.take(names[2], NOON, lambda: None)


@pytest.mark.parametrize(
    ("asked", "operators", "seconds"),
    [(None, 900, 900), (60, 900, 60), (0, 900, math.inf), (None, 0, math.inf), (60, 0, 60)],
)
def test_a_worker_has_its_own_patience_or_the_operators_and_0_is_never(
    asked: float | None, operators: float, seconds: float
) -> None:
    settings = ManagerSettings(idle_pause=operators, idle_expiry=operators)
    patience = Patience.of(spec(idle_pause=asked, idle_expiry=asked), settings)

    assert (patience.pause, patience.expiry) == (seconds, seconds)


def test_idle_counts_from_ready_on_and_goes_on_while_it_is_paused() -> None:
    patience = Patience(pause=60, expiry=600)
    ready = became(record(), "starting", "ready")
    paused = became(ready, "paused", at=NOON + timedelta(seconds=60))
    later = NOON + timedelta(seconds=90)

    assert patience.left(ready, later) == (-30, 510)
    assert patience.left(paused, later) == (math.inf, 510)
    assert became(paused, "ready", at=later).idle_since == later


@pytest.mark.parametrize(
    ("lifetime", "end", "state"),
    [
        ("task", "succeeded", "stopping"),
        ("persistent", "succeeded", "ready"),
        ("task", "input-required", "ready"),
    ],
)
def test_a_worker_for_one_task_ends_with_it_unless_that_asks(
    lifetime: str, end: TaskState, state: WorkerState
) -> None:
    after = moves.free(on_task(lifetime=lifetime), task(end), NOON)

    assert after is not None
    assert (after.state, after.task) == (state, None)


def test_what_a_task_used_is_counted_once() -> None:
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=999, cost_usd=0.5, turns=2)
    done = task("succeeded", usage=usage)
    after = moves.free(on_task(), done, NOON)

    assert after is not None
    assert after.spent == Spent(usd=0.5, tokens=15, turns=2)
    assert moves.free(after, done, NOON) is None
    again = moves.replaced(on_task(), done, NOON)
    assert again is not None
    assert (again.state, again.task, again.spent) == ("starting", None, after.spent)
    more = moves.replaced(after, done, NOON)
    assert more is not None
    assert more.spent == after.spent


def test_a_provider_that_says_until_when_parks_the_worker_and_the_next_end_frees_it() -> None:
    until = NOON + timedelta(hours=2)
    parked = moves.free(on_task(), task("failed", reason="rate-limited", until=until), NOON)
    assert parked is not None
    assert parked.parked_until == until

    busy = moves.busy(parked, TaskId("t1"), NOON)
    assert busy is not None
    after = moves.free(busy, task("succeeded"), NOON)
    assert after is not None
    assert after.parked_until is None


def test_an_answer_queues_the_next_turn_of_the_same_conversation() -> None:
    asked = task("input-required", agent_session="s-1", text="Which one?")
    told = moves.answered(asked, WorkerId("ada"), NOON, door_seq=9, actor="alice")

    assert told is not None
    assert (told.state, told.attempt, told.door_seq, told.goes_on_in) == ("queued", 2, 9, "s-1")
    assert (told.end, told.max_attempts, len(told.past)) == (None, 2, 1)
    assert moves.answered(told, WorkerId("ada"), NOON, door_seq=10, actor=None) is None
    assert moves.answered(asked, WorkerId("bob"), NOON, door_seq=9, actor=None) is None
    assert moves.answered(task("failed"), WorkerId("ada"), NOON, door_seq=9, actor=None) is None


@pytest.mark.parametrize(
    ("caps", "field", "says"),
    [
        (Caps(memory_mb=999), "$.limits.memory_mb", "1000 is above the operator's cap of 999"),
        (Caps(cpus=1.5), "$.limits.cpus", "2 is above the operator's cap of 1.5"),
        (Caps(pids=100), "$.limits.pids", "512 is above the operator's cap of 100"),
        (Caps(output_mb=1), "$.limits.output_mb", "64 is above the operator's cap of 1"),
    ],
)
def test_a_limit_above_its_cap_is_refused_by_name(caps: Caps, field: str, says: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        within(caps, spec().limits)

    assert (refused.value.field, refused.value.reason) == (field, says)


def test_a_limit_at_its_cap_is_taken() -> None:
    within(Caps(memory_mb=1000, cpus=2, pids=512, output_mb=64), spec().limits)
