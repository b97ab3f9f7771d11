"""What a node may remove: never what runs, is used, is leased or is not known."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import WorkerState
from contracts.ids import NodeId, WorkerId
from contracts.image import Leftover
from contracts.worker import CreateWorker, WorkerRecord
from services.worker_manager.cleaning.judging import doubt, judge, standing
from services.worker_manager.cleaning.seen import Policy, Seen, SeenImage, Thing, Verdict

NOW = datetime(2026, 1, 31, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = Policy(older_than=14 * 86_400, keep=1, keep_files=None, settle=600)
EVERYTHING = Policy(older_than=0, keep=0, keep_files=0, settle=0)


def record(name: str = "ada", state: WorkerState = "stopped", **fields: Any) -> WorkerRecord:
    given: dict[str, Any] = {
        "changed_at": NOW - DAY,
        "node": NodeId("here"),
        "runtime": "docker",
        "spec": CreateWorker(name=name, agent="shell", capabilities=["git"]),
    }
    return WorkerRecord(
        name=WorkerId(name),
        state=state,
        desired="running",
        requested_at=NOW - 9 * DAY,
        **given | fields,
    )


def thing(kind: Leftover = "container", **fields: Any) -> Thing:
    given: dict[str, Any] = {"name": f"a {kind}", "worker": "ada"}
    return Thing(kind=kind, **given | fields)


def image(digest: str = "a1", days: float | None = 30, **fields: Any) -> SeenImage:
    """One of ours that was used so many days ago."""
    given: dict[str, Any] = {
        "made_at": NOW - 60 * DAY,
        "ours": True,
        "agent": "shell",
        "capabilities": frozenset({"git"}),
        "used_at": None if days is None else NOW - timedelta(days=days),
    }
    return SeenImage(tag=f"jetcrew/worker:{digest}", id=f"sha256:{digest}", **given | fields)


def seen(
    *things: Thing, images: tuple[SeenImage, ...] = (), workers: Any = (), **fields: Any
) -> Seen:
    known = None if workers is None else {worker.name: worker for worker in workers}
    return Seen(node="here", workers=known, things=things, images=images, **fields)


def only(found: Seen, policy: Policy = POLICY) -> Verdict:
    [verdict] = judge(found, policy, NOW)
    return verdict


@pytest.mark.parametrize(
    "kind", ["container", "volume", "directory", "consumer", "secret", "session"]
)
def test_what_is_left_of_a_deleted_worker_goes(kind: Leftover) -> None:
    assert only(seen(thing(kind), workers=[record()])).remove


@pytest.mark.parametrize(
    "kind", ["container", "volume", "directory", "consumer", "secret", "session"]
)
@pytest.mark.parametrize(
    "state", [s for s in get_args(WorkerState) if s not in {"stopped", "failed"}]
)
def test_what_a_worker_that_is_there_has_stays(kind: Leftover, state: WorkerState) -> None:
    found = only(seen(thing(kind, incarnation=1), workers=[record(state=state)]), EVERYTHING)

    assert (found.remove, found.unknown) == (False, False)


@pytest.mark.parametrize("kind", get_args(Leftover))
def test_where_no_record_knows_a_worker_everything_of_it_stays(kind: Leftover) -> None:
    if kind not in {"image", "revocation"}:
        assert not only(seen(thing(kind)), EVERYTHING).remove


def test_a_shared_session_goes_once_it_is_over_and_nobody_is_in_it() -> None:
    def shared(**fields: Any) -> Verdict:
        one = thing("session", worker=None, purpose="_shared", made_at=NOW - DAY, **fields)
        return only(seen(one), EVERYTHING)

    assert shared(over=True).remove
    for kept in (shared(), shared(over=True, live=True), shared(live=True)):
        assert (kept.remove, kept.unknown) == (False, False)


def test_a_stopped_container_without_a_record_is_told_of() -> None:
    assert only(seen(thing())).unknown


def test_a_secret_may_come_before_its_worker_and_stays_without_a_word() -> None:
    found = only(seen(thing("secret")))

    assert (found.remove, found.unknown) == (False, False)


def test_a_secret_stored_after_the_worker_ended_is_for_the_next_one() -> None:
    later = thing("secret", made_at=NOW - DAY / 2)

    assert not only(seen(later, workers=[record()])).remove


def test_a_running_container_of_a_deleted_worker_stays_and_is_told_of() -> None:
    found = only(seen(thing(live=True), workers=[record()]))

    assert (found.remove, found.unknown) == (False, True)


def test_an_earlier_incarnations_container_goes_and_the_present_ones_stays() -> None:
    living = record(state="starting", incarnation=2)
    first, second = judge(
        seen(thing(incarnation=1), thing(incarnation=2), workers=[living]), POLICY, NOW
    )

    assert (first.remove, second.remove) == (True, False)


def test_a_directory_of_a_worker_that_is_there_stays_whatever_incarnation_left_its_last_unit() -> (
    None
):
    living = record(state="starting", incarnation=2, runtime="process")

    assert not only(seen(thing("directory", incarnation=1), workers=[living]), EVERYTHING).remove


def test_what_is_new_is_left_alone() -> None:
    just_made = thing(made_at=NOW - timedelta(seconds=5))
    just_ended = record(changed_at=NOW - timedelta(seconds=5))

    assert not only(seen(just_made, workers=[record()])).remove
    assert not only(seen(thing(), workers=[just_ended])).remove


@pytest.mark.parametrize(
    "ended",
    [
        pytest.param(record(keep_workspace=True), id="kept on purpose"),
        pytest.param(record(state="failed"), id="failed"),
    ],
)
@pytest.mark.parametrize("kind", ["volume", "directory", "session"])
def test_a_workspace_that_was_left_stays_until_its_time_is_over(
    kind: Leftover, ended: WorkerRecord
) -> None:
    left = seen(thing(kind), workers=[ended])
    shorter, longer = 86_300.0, 86_500.0

    assert not only(left).remove
    assert not only(left, Policy(older_than=0, keep=0, keep_files=longer, settle=0)).remove
    assert only(left, Policy(older_than=0, keep=0, keep_files=shorter, settle=0)).remove


def test_a_failed_workers_container_and_consumer_go_though_its_files_stay() -> None:
    verdicts = judge(
        seen(thing(), thing("consumer"), thing("volume"), workers=[record(state="failed")]),
        POLICY,
        NOW,
    )

    assert [v.remove for v in verdicts] == [True, True, False]


def test_a_failed_worker_that_is_not_cleared_away_yet_keeps_everything() -> None:
    failed = record(state="failed", user_key="U1")

    assert standing(failed) == "live"
    assert not only(seen(thing(), workers=[failed]), EVERYTHING).remove


def test_the_network_goes_with_the_last_worker_and_the_last_container() -> None:
    network = thing("network", worker=None)
    alone = seen(network, workers=[record()])
    with_worker = seen(network, workers=[record(state="ready")])
    with_container = seen(network, thing(live=True, worker=None), workers=[record()])

    assert only(alone).remove
    assert not only(with_worker, EVERYTHING).remove
    assert not any(v.remove for v in judge(with_container, EVERYTHING, NOW))


def test_a_check_of_an_image_that_was_left_goes_unless_the_image_is_being_built() -> None:
    check = thing(worker=None, purpose="image-check", image="jetcrew/worker:a1-unchecked")

    assert only(seen(check)).remove
    assert not only(seen(check, building=frozenset({"a1"})), EVERYTHING).remove


def test_a_warm_container_that_waits_stays() -> None:
    waiting = thing(worker=None, purpose="warm", live=True)
    ended = thing(worker=None, purpose="warm")

    for found in judge(seen(waiting, ended), EVERYTHING, NOW):
        assert (found.remove, found.unknown) == (False, False)


# -- images ---------------------------------------------------------------------------------------


def test_images_go_by_their_last_use_the_oldest_first() -> None:
    images = (image("new", 1), image("old", 30), image("older", 40), image("oldest", 50))
    verdicts = judge(
        seen(images=images), Policy(older_than=14 * 86_400, keep=2, keep_files=None, settle=0), NOW
    )

    assert [v.judged().name.partition(":")[2] for v in verdicts if v.remove] == ["oldest", "older"]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param({"images_in_use": frozenset({"sha256:a1"})}, id="a container"),
        pytest.param(
            {"workers": [record(state="paused", image="jetcrew/worker:a1")]}, id="a worker"
        ),
        pytest.param({"workers": [record(state="building")]}, id="a worker that will have it"),
        pytest.param({"building": frozenset({"a1"})}, id="a build"),
    ],
)
def test_an_image_that_something_needs_stays(found: Mapping[str, Any]) -> None:
    verdict = only(seen(images=(image(),), **found), EVERYTHING)

    assert (verdict.remove, verdict.in_use) == (False, True)


def test_a_base_stays_while_anything_is_built() -> None:
    base = image("b0", base=True, agent="", capabilities=frozenset())

    assert not only(seen(images=(base,), building=frozenset({"a1"})), EVERYTHING).remove
    assert only(seen(images=(base,)), EVERYTHING).remove


def test_an_image_that_others_built_or_that_has_no_record_stays() -> None:
    assert not only(seen(images=(image(ours=False),)), EVERYTHING).remove
    assert not only(seen(images=(image(days=None),)), EVERYTHING).remove


def test_a_build_that_broke_off_leaves_nothing_for_long() -> None:
    unchecked = image("a1-unchecked", None, checked=False)

    assert only(seen(images=(unchecked,))).remove
    assert not only(seen(images=(unchecked,), building=frozenset({"a1"})), EVERYTHING).remove


# -- what is not known ----------------------------------------------------------------------------


def test_nothing_goes_when_the_records_cannot_be_read() -> None:
    found = seen(thing(), images=(image(),), workers=None, doubt="no such bucket")

    assert [v.remove for v in judge(found, EVERYTHING, NOW)] == [False, False]
    assert "no such bucket" in (doubt(found) or "")


def test_nothing_goes_while_something_runs_that_no_record_knows() -> None:
    stray = thing(live=True, worker="bob")
    found = seen(stray, thing(), thing("volume"), images=(image(),), workers=[record()])

    assert not any(v.remove for v in judge(found, EVERYTHING, NOW))
    assert "a container" in (doubt(found) or "")


NAMES = st.sampled_from(["ada", "bob", "eve"])
RECORDS = st.builds(
    lambda name, state, incarnation, kept, node, age, key, image: record(
        name, state, incarnation=incarnation, keep_workspace=kept, node=node,
        changed_at=NOW - timedelta(seconds=age), user_key=key, image=image,
    ),
    NAMES, st.sampled_from(get_args(WorkerState)), st.integers(1, 3), st.booleans(),
    st.sampled_from(["here", "there", None]), st.integers(0, 10**6), st.sampled_from([None, "U1"]),
    st.sampled_from([None, "jetcrew/worker:a1", "jetcrew/worker:b2"]),
)  # fmt: skip
THINGS = st.builds(
    Thing,
    kind=st.sampled_from([kind for kind in get_args(Leftover) if kind not in {"image", "revocation"}]),
    name=st.just("it"), worker=st.none() | NAMES, incarnation=st.none() | st.integers(1, 3),
    live=st.booleans(), made_at=st.none() | st.just(NOW - 2 * DAY),
    purpose=st.sampled_from(["worker", "image-check", "warm", ""]),
    image=st.just("jetcrew/worker:a1-unchecked"),
)  # fmt: skip
IMAGES = st.builds(
    image, st.sampled_from(["a1", "b2", "c3"]), st.none() | st.floats(0, 100), ours=st.booleans()
)
SEEN = st.builds(
    lambda things, images, workers, used, building: seen(
        *things, images=tuple(images), workers=workers, images_in_use=used, building=building
    ),
    st.lists(THINGS, max_size=5), st.lists(IMAGES, max_size=4, unique_by=lambda i: i.tag),
    st.lists(RECORDS, max_size=3), st.frozensets(st.sampled_from(["sha256:a1", "sha256:c3"])),
    st.frozensets(st.sampled_from(["a1", "b2"])),
)  # fmt: skip
POLICIES = st.builds(
    Policy, older_than=st.sampled_from([0.0, 10.0, 1e6]), keep=st.integers(0, 3),
    keep_files=st.none() | st.sampled_from([0.0, 1e5]), settle=st.sampled_from([0.0, 600.0]),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(SEEN, POLICIES)
def test_whatever_there_is_nothing_goes_that_runs_is_used_is_built_or_is_not_known(
    found: Seen, policy: Policy
) -> None:
    assert found.workers is not None
    living = [r for r in found.workers.values() if standing(r) == "live"]
    for verdict in judge(found, policy, NOW):
        what = verdict.what
        if not verdict.remove:
            continue
        assert doubt(found) is None
        if isinstance(what, SeenImage):
            assert what.ours
            assert what.used_at is not None
            assert what.id not in found.images_in_use
            assert what.tag not in {r.image for r in living}
            assert what.tag.rpartition(":")[2] not in found.building
            continue
        assert not what.live
        if what.worker is not None:
            its = found.workers[what.worker]
            newer = what.kind == "container" and (what.incarnation or 99) < its.incarnation
            assert standing(its) != "live" or newer
