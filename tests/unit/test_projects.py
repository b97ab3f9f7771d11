"""What a project spends and when it is used up: decided without a bus (R26)."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.budget import Budget, Spent, Untold
from contracts.events import (
    ProjectCreated,
    ProjectUpdated,
    ProjectUsedUp,
    TaskEnd,
    TaskState,
    Usage,
)
from contracts.ids import CommandId, TaskId, WorkerId
from contracts.project import CreateProject, ProjectRecord, UpdateProject
from contracts.task import SubmitTask, TaskRecord
from services.worker_manager import moves, projects

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
CENTS = Usage(cost_usd=0.4, input_tokens=100, output_tokens=20, turns=1)


def project(**budget: Any) -> ProjectRecord:
    spec = CreateProject(name="apollo", budget=Budget(**budget))
    return replace(projects.created(spec, NOON, CommandId("s1")), owed=[], evt_seq=1)


def spending(record: ProjectRecord, *usages: Usage | None) -> ProjectRecord:
    for usage in usages:
        record = projects.counted(record, usage, NOON, {})
    return record


def queued(**more: Any) -> TaskRecord:
    body = SubmitTask(prompt="echo", **more)
    return moves.queued(TaskId("t1"), WorkerId("ada"), body, NOON, door_seq=7, actor=None)


def ended(state: TaskState, end: TaskEnd, **more: Any) -> TaskRecord:
    started = moves.started(queued(**more), 1, "run", NOON, project="apollo")
    assert started is not None
    over = moves.ended(started, state, end, NOON)
    assert over is not None
    return over


def test_what_is_not_told_is_counted_as_not_told_and_never_as_nothing() -> None:
    after = spending(project(), CENTS, None, Usage(output_tokens=5))

    assert after.spent == Spent(usd=0.4, tokens=125, turns=1)
    assert after.untold == Untold(usd=2, tokens=1, turns=2)
    assert after.attempts == 3


def test_that_a_project_is_used_up_is_told_once() -> None:
    before = spending(project(usd=1.0), CENTS, CENTS)
    at_once, later = spending(before, CENTS), spending(before, CENTS, CENTS)

    assert before.owed == []
    assert [type(owed.event) for owed in at_once.owed] == [ProjectUsedUp]
    assert later.owed == []


def test_a_task_may_start_until_its_project_is_used_up_or_archived() -> None:
    open_, spent = spending(project(turns=2), CENTS), spending(project(turns=2), CENTS, CENTS)
    closed = projects.archived(open_, NOON)
    assert closed is not None

    assert projects.refusal(open_) is None
    assert projects.refusal(spent) == TaskEnd(
        reason="budget-exhausted",
        detail="project apollo has used up its budget: 2 of 2 turns are used",
    )
    assert projects.refusal(closed) == TaskEnd(
        reason="project-archived", detail="project apollo is archived"
    )
    assert projects.archived(closed, NOON) is None


@pytest.mark.parametrize(
    ("budget", "lift", "after"),
    [
        (Budget(usd=5.0), [], Budget(usd=5.0, turns=9)),
        (Budget(tokens=7), ["turns"], Budget(usd=1.0, tokens=7)),
        (Budget(), ["usd", "turns"], Budget()),
        (Budget(usd=1.0), ["tokens"], None),
    ],
)
def test_an_update_changes_what_it_names(
    budget: Budget, lift: list[Any], after: Budget | None
) -> None:
    change = UpdateProject(name="apollo", budget=budget, lift=lift)
    changed = projects.updated(project(usd=1.0, turns=9), change, NOON)

    assert (changed.budget if changed else None) == after


def test_a_bound_below_what_is_spent_is_told_with_the_update() -> None:
    change = UpdateProject(name="apollo", budget=Budget(usd=0.1))
    changed = projects.updated(spending(project(), CENTS), change, NOON)
    assert changed is not None

    assert [type(owed.event) for owed in changed.owed] == [ProjectUpdated, ProjectUsedUp]
    assert len({owed.id for owed in changed.owed}) == 2


def test_a_new_project_tells_its_bounds() -> None:
    made = projects.created(
        CreateProject(name="apollo", budget=Budget(turns=9)), NOON, CommandId("s1")
    )

    assert made.owed[0].event == ProjectCreated(at=NOON, project=made.name, turns=9)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "input-required"])
def test_an_end_of_an_attempt_is_owed_under_the_id_of_its_event(state: TaskState) -> None:
    record = ended(state, TaskEnd(usage=CENTS))

    assert list(projects.ends_owed(record)) == [(record.owed[0].id, CENTS)]
    assert list(projects.ends_owed(replace(record, owed=[]))) == []


def test_a_crash_that_is_followed_by_another_attempt_is_owed_too() -> None:
    again = ended("failed", TaskEnd(reason="killed", usage=CENTS), max_attempts=2)

    assert again.state == "queued"
    assert list(projects.ends_owed(again)) == [(again.owed[0].id, CENTS)]


def test_what_never_ran_has_spent_nothing() -> None:
    over = moves.ended(queued(), "failed", TaskEnd(reason="budget-exhausted"), NOON)
    again = ended("failed", TaskEnd(reason="killed"), max_attempts=2)
    cancelled = moves.ended(replace(again, owed=[]), "cancelled", TaskEnd(), NOON)
    assert over is not None
    assert cancelled is not None

    assert list(projects.ends_owed(over)) == []
    assert list(projects.ends_owed(cancelled)) == []
