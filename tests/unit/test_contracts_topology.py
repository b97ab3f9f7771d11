"""Subjects, streams, consumers and buckets fit together before any server sees them."""

from collections.abc import Iterator
from itertools import combinations
from typing import get_args

import pytest

from contracts.codec import decode
from contracts.events import Event, TaskEvent, WorkerEvent
from contracts.ids import CommandId, NodeId, TaskId, WorkerId, is_token
from contracts.topology import COMMANDS, DOOR_BYTES, MAX_PAYLOAD_BYTES, Subjects, Topology
from tests.support.golden import WIRE, kind_of, message_of

ADA, T7 = WorkerId("ada"), TaskId("t7")
TOPOLOGY = Topology()
SUBJECTS = TOPOLOGY.subjects
NAMED: dict[str, Event] = {
    name: decode(wire, kind_of(name)) for name, wire in WIRE.items() if message_of(name) == "evt"
}
EVENTS = list(NAMED.values())

STORED = {
    SUBJECTS.command("worker", "create"): "JC_CMD",
    SUBJECTS.command("task", "cancel"): "JC_CMD",
    SUBJECTS.task(ADA): "JC_TASK",
    SUBJECTS.task("pool.fast"): "JC_TASK",
    SUBJECTS.run(ADA): "JC_RUN",
    SUBJECTS.report(ADA, "ready"): "JC_REP",
    SUBJECTS.report(ADA, "finished", T7): "JC_REP",
    SUBJECTS.output(ADA, T7): "JC_OUT",
    SUBJECTS.result(CommandId("s7")): "JC_RES",
    SUBJECTS.dead_letter("JC_CMD", "mgr"): "JC_DLQ",
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JC_CMD.mgr": "JC_ADV",
}
NOT_STORED = [
    SUBJECTS.door("worker", "create"),
    SUBJECTS.heartbeat(ADA),
    SUBJECTS.control(ADA, "0a1b"),
    SUBJECTS.ask(ADA, "task.start"),
    SUBJECTS.clean(NodeId("here")),
]


@pytest.mark.parametrize(("subject", "stream"), STORED.items())
def test_what_is_stored_is_stored_in_one_stream(subject: str, stream: str) -> None:
    assert _streams_of(subject) == [stream]


@pytest.mark.parametrize("subject", NOT_STORED)
def test_what_passes_by_is_stored_nowhere(subject: str) -> None:
    assert _streams_of(subject) == []


@pytest.mark.parametrize("event", EVENTS, ids=NAMED.keys())
def test_an_event_goes_to_the_subject_of_its_type_and_of_what_it_is_about(event: Event) -> None:
    entity, name = str(event.__struct_config__.tag).split(".", 1)
    about = {
        "worker": "ada",
        "task": "ada.t7",
        "image": "3f2a9c",
        "node": "here",
        "project": "apollo",
    }[entity]
    subject = SUBJECTS.event(event)

    assert subject == f"jetcrew.evt.{entity}.{about}.{name}"
    assert _streams_of(subject) == ["JC_EVT"]


def test_the_filters_of_one_task_and_one_worker_find_their_events_and_no_others() -> None:
    for event in EVENTS:
        subject = SUBJECTS.event(event)
        assert _matches(SUBJECTS.events_of_task(ADA, T7), subject) == isinstance(event, TaskEvent)
        assert _matches(SUBJECTS.events_of_worker(ADA), subject) == isinstance(event, WorkerEvent)


def test_every_token_that_we_make_is_legal() -> None:
    fixed = [part for subject in [*STORED, *NOT_STORED] for part in subject.split(".")]
    ours = [part for part in fixed if not part.startswith(("$", "JC_")) and part.islower()]
    kinds = [str(kind.__struct_config__.tag).split(".", 1)[1] for kind in get_args(Event)]

    assert [part for part in [*ours, *kinds] if not is_token(part)] == []


def test_no_two_streams_take_the_same_subject() -> None:
    taken = [(s.name, subject) for s in TOPOLOGY.streams for subject in s.subjects]

    assert [pair for pair in combinations(taken, 2) if _overlap(pair[0][1], pair[1][1])] == []


def test_a_work_queue_has_consumers_whose_filters_do_not_overlap() -> None:
    for stream in TOPOLOGY.streams:
        if stream.retention == "workqueue":
            filters = _filters(stream.name, stream.subjects)
            assert [pair for pair in combinations(filters, 2) if _overlap(*pair)] == []


def test_every_command_is_read_by_exactly_one_consumer() -> None:
    filters = _filters("JC_CMD", ())
    for entity, verbs in COMMANDS.items():
        for verb in verbs:
            subject = SUBJECTS.command(entity, verb)
            assert sum(_matches(pattern, subject) for pattern in filters) == 1


def test_a_consumer_reads_a_stream_that_exists_and_subjects_that_it_has() -> None:
    streams = {stream.name: stream for stream in TOPOLOGY.streams}
    for consumer in (*TOPOLOGY.consumers, TOPOLOGY.run_consumer(ADA)):
        subjects = streams[consumer.stream].subjects
        for pattern in consumer.filters:
            assert any(_covers(subject, pattern) for subject in subjects)


def test_names_are_unique_and_legal() -> None:
    streams = [stream.name for stream in TOPOLOGY.streams]
    buckets = [bucket.name for bucket in TOPOLOGY.buckets]
    consumers = [(c.stream, c.name) for c in TOPOLOGY.consumers]

    assert len({*streams, *(b.stream for b in TOPOLOGY.buckets)}) == len(streams) + len(buckets)
    assert len(set(consumers)) == len(consumers)
    assert all(name.startswith("JC_") and name.isupper() for name in streams)
    assert all(name.startswith("jc_") and name.islower() for name in buckets)


def test_numbered_streams_count_on_from_something_that_exists() -> None:
    known = {stream.name for stream in TOPOLOGY.streams} | {b.stream for b in TOPOLOGY.buckets}

    assert {s.numbered_by for s in TOPOLOGY.streams if s.numbered_by} <= known


def test_every_stream_is_bounded_and_doors_tell_their_publishers() -> None:
    assert [stream.name for stream in TOPOLOGY.streams if not stream.max_bytes] == []
    doors = [s for s in TOPOLOGY.streams if s.name in {"JC_CMD", "JC_TASK", "JC_RUN"}]
    assert {stream.discard for stream in doors} == {"new"}


def test_what_a_door_takes_can_be_passed_on_with_headers() -> None:
    headroom = MAX_PAYLOAD_BYTES - DOOR_BYTES

    assert headroom >= 64 * 1024
    assert {s.max_msg_size for s in TOPOLOGY.streams if s.name in {"JC_CMD", "JC_TASK"}} == {
        DOOR_BYTES
    }


def test_every_object_store_is_bounded_and_every_name_has_a_subject_of_its_own() -> None:
    [store] = TOPOLOGY.objects
    names = ["ada/t1/transcript", "ada/t1/evidence-1", "a.b/c*d", "ä"]
    metas = {store.meta(name) for name in names}

    assert min(store.max_bytes, store.max_age) > 0
    assert len(metas) == len(names)
    assert all(_matches(store.subjects[1], meta) and meta.count(".") == 3 for meta in metas)
    assert _matches(store.subjects[0], store.chunks("0a1b"))


def test_secrets_leases_and_revocations_are_shown_to_nobody() -> None:
    hidden = {bucket.name for bucket in TOPOLOGY.buckets if not bucket.republished}

    assert hidden >= {"jc_secret", "jc_lease", "jc_revoked"}


def test_another_prefix_moves_every_subject() -> None:
    other = Topology(prefix="crew2")

    assert other.subjects == Subjects("crew2")
    moved = [s for stream in other.streams for s in stream.subjects if not s.startswith("$JS.")]
    moved += [pattern for consumer in other.consumers for pattern in consumer.filters]
    assert {subject.split(".")[0] for subject in moved} == {"crew2"}


def _streams_of(subject: str) -> list[str]:
    return [s.name for s in TOPOLOGY.streams if any(_matches(p, subject) for p in s.subjects)]


def _filters(stream: str, otherwise: tuple[str, ...]) -> list[str]:
    found = [c.filters or otherwise for c in TOPOLOGY.consumers if c.stream == stream]
    return [pattern for filters in found for pattern in filters]


def _matches(pattern: str, subject: str) -> bool:
    """Whether a subject without wildcards fits a pattern."""
    return _covers(pattern, subject)


def _covers(pattern: str, other: str) -> bool:
    """Whether all that `other` takes, `pattern` takes too."""
    for mine, theirs in _tokens(pattern, other):
        if mine == ">":
            return theirs is not None
        if theirs == ">" or mine is None or theirs is None or (mine != "*" and mine != theirs):
            return False
    return True


def _overlap(one: str, other: str) -> bool:
    """Whether some subject fits both."""
    for a, b in _tokens(one, other):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


def _tokens(one: str, other: str) -> Iterator[tuple[str | None, str | None]]:
    a, b = one.split("."), other.split(".")
    for n in range(max(len(a), len(b))):
        yield (a[n] if n < len(a) else None), (b[n] if n < len(b) else None)
