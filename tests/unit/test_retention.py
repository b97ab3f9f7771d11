"""Which records are over for good: never one that is open, owes an event, or that something is left of (R15)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.bus import Held
from contracts.bus.kv import MARKED
from contracts.events import Owed, TaskCancelling, WorkerState
from contracts.ids import NodeId, TaskId, WorkerId
from contracts.task import TASK_ENDED, TASK_TRANSITIONS, TaskRecord
from contracts.topology import Topology
from contracts.worker import WORKER_TRANSITIONS, CreateWorker, WorkerRecord
from services.worker_manager.cleaning.retention import Ended
from services.worker_manager.cleaning.seen import Seen, Thing

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ADA = WorkerId("ada")
OWED = [Owed(id="o", event=TaskCancelling(at=NOW, worker=ADA, task=TaskId("x"), attempt=1))]


def task(name: str = "x", state: Any = "succeeded", **fields: Any) -> TaskRecord:
    return TaskRecord(
        id=TaskId(name), worker=ADA, state=state, submitted_at=NOW, changed_at=NOW, **fields
    )


def worker(state: WorkerState = "stopped", **fields: Any) -> WorkerRecord:
    given: dict[str, Any] = {"node": NodeId("here"), "runtime": "docker"}
    return WorkerRecord(
        name=ADA,
        state=state,
        desired="running",
        spec=CreateWorker(name="ada", agent="shell"),
        requested_at=NOW,
        changed_at=NOW,
        **given | fields,
    )


def ended(*records: TaskRecord | WorkerRecord, **more: Any) -> Ended:
    """Records that have not changed for long, and what else there is."""
    workers = {r.name: r for r in records if isinstance(r, WorkerRecord)}
    known = workers | {r.name: r for r in more.get("living", ())}
    things = tuple(more.get("things", ()))
    seen = Seen(node="here", workers=known, engine=more.get("engine", True), things=things)
    return Ended(
        seen=seen,
        tasks={r.id: Held(r, 1) for r in records if isinstance(r, TaskRecord)},
        workers={name: Held(r, 1) for name, r in workers.items()},
        busy=frozenset(more.get("busy", ())),
        nodes=frozenset(more.get("nodes", {"here"})),
    )


@pytest.mark.parametrize("state", sorted(TASK_TRANSITIONS))
def test_a_task_goes_only_when_it_is_over(state: str) -> None:
    due = ended(task(state=state), living=[worker("ready")]).tasks_due()

    assert bool(due) == (state in TASK_ENDED - {"input-required"})


def test_a_question_goes_once_nobody_can_answer_it() -> None:
    asks = task(state="input-required")

    assert ended(asks, living=[worker("paused")]).tasks_due() == []
    assert ended(asks, living=[worker("failed")]).tasks_due() == ["x"]
    assert ended(asks).tasks_due() == ["x"]


@pytest.mark.parametrize(
    "more", [{"owed": OWED}, {"door_seq": 7}], ids=["owes an event", "its prompt is at the door"]
)
def test_a_task_with_more_to_come_stays(more: dict[str, Any]) -> None:
    assert ended(task(**more)).tasks_due() == []


def test_a_task_that_its_worker_is_not_rid_of_stays() -> None:
    assert ended(task(), living=[worker("busy", task=TaskId("x"))]).tasks_due() == []


def test_the_highest_number_stays_so_that_none_is_given_twice() -> None:
    found = ended(task("t9"), task("t10"), task("named"))

    assert sorted(found.tasks_due()) == ["named", "t9"]


@pytest.mark.parametrize("state", sorted(WORKER_TRANSITIONS))
def test_a_worker_goes_only_when_it_is_over(state: WorkerState) -> None:
    due = ended(worker(state)).workers_due(whole=True)

    assert bool(due) == (state in {"stopped", "failed"})
    assert ended(worker(state, owed=OWED)).workers_due(whole=True) == []


def test_a_failed_worker_that_was_not_cleared_away_stays() -> None:
    assert ended(worker("failed", user_key="U1")).workers_due(whole=True) == []


def test_a_worker_stays_for_as_long_as_anything_of_it_is_left() -> None:
    volume = Thing(kind="volume", name="v", worker="ada")

    assert ended(worker(), things=[volume]).workers_due(whole=True) == []
    assert ended(worker(), busy=["ada"]).workers_due(whole=True) == []


def test_where_the_engine_does_not_answer_nobody_knows_what_is_left() -> None:
    assert ended(worker(), engine=False).workers_due(whole=True) == []
    assert ended(worker(runtime="process"), engine=False).workers_due(whole=True) == ["ada"]


@pytest.mark.parametrize(
    ("fields", "alone", "whole"),
    [
        ({"node": "here"}, True, True),
        ({"node": None}, False, True),
        ({"node": "there"}, False, False),
        ({"node": "gone"}, False, True),
        ({"node": "gone", "keep_workspace": True}, False, False),
    ],
)
def test_each_node_sees_to_its_own_and_one_to_those_of_nobody(
    fields: dict[str, Any], alone: bool, whole: bool
) -> None:
    found = ended(worker(**fields), nodes={"here", "there"})

    assert (bool(found.workers_due(whole=False)), bool(found.workers_due(whole=True))) == (
        alone,
        whole,
    )


def test_an_id_is_taken_for_as_long_as_anything_may_tell_of_it() -> None:
    kept = {stream.name: stream.max_age for stream in Topology().streams}

    assert max(kept["JC_EVT"], kept["JC_RES"], kept["JC_REP"]) <= MARKED
