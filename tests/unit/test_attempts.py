"""What a task does after each kind of end: over, or queued once more (R10, R12, R24)."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from contracts.events import TaskEnd, TaskQueued, TaskState, Verdict
from contracts.ids import TaskId, WorkerId
from contracts.reports import Finished
from contracts.repository import Work
from contracts.task import SubmitTask, TaskRecord
from services.worker_manager import moves
from services.worker_manager.attempts import kind_of

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
KILLED = TaskEnd(reason="killed", signal="SIGKILL", told_by="manager")


def running(attempt: int = 1, of: int = 3) -> TaskRecord:
    """A task in its n-th attempt."""
    body = SubmitTask(prompt="echo", max_attempts=of)
    record = moves.queued(TaskId("t1"), WorkerId("ada"), body, NOW, door_seq=7, actor=None)
    for n in range(1, attempt + 1):
        started = moves.started(replace(record, owed=[]), n, f"run-{n}", NOW)
        assert started is not None
        if n == attempt:
            return started
        again = moves.ended(started, "failed", KILLED, NOW)
        assert again is not None
        record = again
    raise AssertionError


@pytest.mark.parametrize(
    ("state", "end", "kind"),
    [
        ("failed", KILLED, "crash"),
        ("failed", TaskEnd(reason="oom"), "crash"),
        ("failed", TaskEnd(reason="engine-lost"), "crash"),
        ("failed", TaskEnd(reason="node-lost"), "crash"),
        ("failed", TaskEnd(reason="unknown"), "crash"),
        ("failed", TaskEnd(reason="exit-3"), "crash"),
        ("failed", TaskEnd(reason="exit-3", verdict=Verdict(status="failure")), "final"),
        ("failed", TaskEnd(reason="no-result", told_by="manager"), "crash"),
        ("failed", TaskEnd(reason="no-result"), "final"),
        ("cancelled", TaskEnd(reason="drained"), "crash"),
        ("failed", TaskEnd(reason="rate-limited"), "provider"),
        ("failed", TaskEnd(reason="overloaded"), "provider"),
        ("failed", TaskEnd(reason="auth"), "provider"),
        ("failed", TaskEnd(reason="failure", verdict=Verdict(status="failure")), "final"),
        ("failed", TaskEnd(reason="worker-failed"), "final"),
        ("cancelled", TaskEnd(reason="enough"), "final"),
        ("timed-out", TaskEnd(reason="deadline"), "final"),
        ("succeeded", TaskEnd(), "final"),
    ],
)
def test_each_end_is_of_one_kind(state: TaskState, end: TaskEnd, kind: str) -> None:
    assert kind_of(state, end) == kind


def test_a_crash_with_attempts_left_queues_the_task_again_and_says_how_the_attempt_ended() -> None:
    again = moves.ended(running(), "failed", KILLED, NOW)

    assert again is not None
    assert (again.state, again.attempt, again.run, again.deadline_at) == ("queued", 2, None, None)
    assert [(past.attempt, past.end) for past in again.past] == [(1, KILLED)]
    [owed] = again.owed
    assert isinstance(owed.event, TaskQueued)
    assert (owed.event.attempt, owed.event.after) == (2, KILLED)
    assert again.door_seq == 7


def test_the_last_attempt_is_the_last() -> None:
    over = moves.ended(running(attempt=3), "failed", KILLED, NOW)

    assert over is not None
    assert (over.state, over.attempt, len(over.past)) == ("failed", 3, 2)
    assert moves.ended(over, "failed", KILLED, NOW) is None


def test_a_cancel_beats_another_attempt() -> None:
    cancelled = moves.cancelling(running(), "enough", NOW)
    assert cancelled is not None
    over = moves.ended(cancelled, "failed", KILLED, NOW)

    assert over is not None
    assert over.ended


def test_a_failure_that_the_manager_tells_is_a_cancel_once_somebody_asked_for_one() -> None:
    asked = moves.cancelling(running(), "enough", NOW)
    assert asked is not None

    state, end = moves.heeding(asked, "failed", KILLED)
    assert (state, end.reason, end.signal) == ("cancelled", "enough", "SIGKILL")
    assert moves.heeding(running(), "failed", KILLED) == ("failed", KILLED)
    assert moves.heeding(asked, "timed-out", KILLED) == ("timed-out", KILLED)


def test_one_attempt_is_what_a_task_gets_that_asks_for_no_more() -> None:
    over = moves.ended(running(of=1), "failed", KILLED, NOW)

    assert over is not None
    assert over.state == "failed"


def test_a_report_of_an_earlier_attempt_counts_no_more() -> None:
    second = running(attempt=2)

    assert not moves.reported_by_its_run(second, 1, "run-1")
    assert moves.started(replace(second, state="queued"), 1, "run-1", NOW) is None


def test_what_a_worker_says_that_it_handed_over_is_its_own_or_forgotten() -> None:
    record = running()
    work = Work(base="a" * 40, tip="b" * 40, bundle="bob/t9/bundle", patch="ada/t1/patch")
    report = Finished(task="t1", attempt=1, run="run-1", state="succeeded", end=TaskEnd(work=work))
    done = moves.finished(record, report, NOW)

    assert done is not None
    assert done.end is not None
    assert done.end.work == replace(work, bundle=None, lost="not its own: bundle")
