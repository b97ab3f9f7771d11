"""What lists and streams show of what is stored."""

import json
from datetime import timedelta

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.bus import Stored
from contracts.events import TaskEnd, Verdict
from services.api import frames
from services.api.paging import page_of_tasks, page_of_workers
from services.api.views import TaskSummary, task_summary, worker_summary
from tests.support.api import EPOCH, task, worker

SLOWLY = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
NAMES = st.sets(st.text("abc-019", min_size=1, max_size=5), max_size=30)


def stored(data: bytes) -> Stored:
    return Stored("jetcrew.out.ada.t1", 7, data, {}, EPOCH)


@SLOWLY
@given(names=NAMES, limit=st.integers(1, 10))
def test_pages_of_workers_are_all_of_them_once_by_name(names: set[str], limit: int) -> None:
    workers = [worker_summary(worker(name)) for name in names]
    seen: list[str] = []
    after: str | None = None
    for _ in range(len(names) + 1):
        items, after = page_of_workers(workers, after, limit)
        assert len(items) <= limit
        seen += [item.name for item in items]
        if after is None:
            break

    assert seen == sorted(names)


@SLOWLY
@given(ages=st.lists(st.integers(0, 5), max_size=30), limit=st.integers(1, 10))
def test_pages_of_tasks_are_all_of_them_once_the_newest_first(ages: list[int], limit: int) -> None:
    tasks = {
        f"t{n}": replace(task_summary(task(n)), submitted_at=EPOCH + timedelta(seconds=age))
        for n, age in enumerate(ages)
    }
    seen: list[TaskSummary] = []
    after: TaskSummary | None = None
    for _ in range(len(tasks) + 1):
        items, rest = page_of_tasks(tasks.values(), after, limit)
        seen += items
        if rest is None:
            break
        after = tasks[rest]

    assert sorted(item.id for item in seen) == sorted(tasks)
    assert [item.submitted_at for item in seen] == sorted(
        (item.submitted_at for item in seen), reverse=True
    )


def test_a_list_repeats_only_the_beginning_of_what_an_agent_says() -> None:
    end = TaskEnd(reason="exit-1", verdict=Verdict(status="failure", summary="x" * 9000), text="y")

    shown = task_summary(replace(task(1), state="failed", end=end))

    assert (shown.reason, shown.verdict) == ("exit-1", "failure")
    assert shown.summary == "x" * 500


@SLOWLY
@given(data=st.binary(max_size=60))
def test_output_that_is_none_is_left_out_of_pages_and_streams(data: bytes) -> None:
    assert frames.output_item(stored(data)) is None
    assert frames.output_frame(stored(data)) is None


@SLOWLY
@given(text=st.text(), n=st.integers(0, 2**40))
def test_output_cannot_break_out_of_its_event(text: str, n: int) -> None:
    piece = {"run": "r1", "n": n, "stream": "stdout", "text": text, "at": 0.5}

    frame = frames.output_frame(stored(json.dumps(piece, indent=2).encode()))

    assert frame is not None
    head, data, *rest = frame.split(b"\n")
    assert (head, rest) == (b"id: 7", [b"", b""])
    assert b"\r" not in frame
    assert msgspec.json.decode(data.removeprefix(b"data: "))["text"] == text


def test_what_is_laid_out_over_lines_becomes_one_line() -> None:
    frame = frames.event_frame(stored(b'{\n "type": "task.new-kind",\r\n "worker": "ada"\n}'))

    assert frame == b'id: 7\ndata: {"type":"task.new-kind","worker":"ada"}\n\n'


def test_a_node_of_a_workers_name_is_not_that_worker() -> None:
    assert frames.whose_event_frame(stored(b'{"type":"node.joined","node":"ada"}')) is None
    assert frames.whose_event_frame(stored(b'{"type":"worker.ready","worker":"ada"}')) is not None
