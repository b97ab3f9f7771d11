"""The state machines are closed: every state can be reached, what is over stays over, events tell all."""

from collections.abc import Mapping
from typing import get_args

import msgspec
import pytest

from contracts.events import TASK_ENDINGS, TaskEvent, TaskState, WorkerEvent, WorkerState
from contracts.reports import EndState
from contracts.task import TASK_ENDED, TASK_TRANSITIONS
from contracts.worker import WORKER_TRANSITIONS

Machine = Mapping[str, frozenset[str]]
WORKER: Machine = {state: frozenset(then) for state, then in WORKER_TRANSITIONS.items()}
TASK: Machine = {state: frozenset(then) for state, then in TASK_TRANSITIONS.items()}


@pytest.mark.parametrize(
    ("machine", "states"), [(WORKER, get_args(WorkerState)), (TASK, get_args(TaskState))]
)
def test_the_table_speaks_of_every_state_and_of_no_other(
    machine: Machine, states: tuple[str, ...]
) -> None:
    assert set(machine) == set(states)
    assert {after for then in machine.values() for after in then} <= set(states)


@pytest.mark.parametrize(("machine", "first"), [(WORKER, "requested"), (TASK, "queued")])
def test_every_state_can_be_reached(machine: Machine, first: str) -> None:
    assert _reachable(machine, first) == set(machine)


OVER = set(TASK_ENDED) - {"input-required"}
"""Ends for good: what waits for input may be answered."""


@pytest.mark.parametrize(("machine", "ends"), [(WORKER, {"stopped"}), (TASK, OVER)])
def test_every_state_has_a_way_to_an_end_and_an_end_has_none_out(
    machine: Machine, ends: set[str]
) -> None:
    assert {state for state, then in machine.items() if not then} == ends
    assert all(_reachable(machine, state) & ends for state in machine)


@pytest.mark.parametrize(("machine", "again"), [(WORKER, ["starting"]), (TASK, [])])
def test_no_state_follows_itself_but_that_of_a_unit_that_is_replaced(
    machine: Machine, again: list[str]
) -> None:
    assert [state for state, then in machine.items() if state in then] == again


def test_a_worker_can_be_stopped_from_every_state_but_its_end() -> None:
    unstoppable = {state for state in WORKER if "stopping" not in WORKER[state]}

    assert unstoppable == {"stopping", "stopped"}


def test_every_state_of_a_worker_is_told_by_the_event_of_its_name() -> None:
    assert _told(WorkerEvent, "worker") - {"inspected"} == set(WORKER)


def test_every_state_of_a_task_is_told_by_an_event() -> None:
    started = {"started": "running"}
    told = {started.get(kind, kind) for kind in _told(TaskEvent, "task")}

    assert told >= set(TASK)


def test_every_end_of_a_task_has_an_event_of_its_name_and_may_be_reported() -> None:
    tags = {state: str(kind.__struct_config__.tag) for state, kind in TASK_ENDINGS.items()}

    assert tags == {state: f"task.{state}" for state in TASK_ENDED}
    assert set(get_args(EndState)) == TASK_ENDED


def _told(union: object, entity: str) -> set[str]:
    kinds: tuple[type[msgspec.Struct], ...] = get_args(union)
    return {str(kind.__struct_config__.tag).removeprefix(f"{entity}.") for kind in kinds}


def _reachable(machine: Machine, first: str) -> set[str]:
    found, waiting = {first}, [first]
    while waiting:
        new = machine[waiting.pop()] - found
        found |= new
        waiting += new
    return found
