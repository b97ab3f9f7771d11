"""Records over HTTP: lists in pages, filters, single ones, and what is said when the server is away."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.bus import Bucket, Bus
from contracts.events import ArtifactRef, Owed, WorkerBecameReady
from contracts.ids import NodeId, ProjectId, TaskId, WorkerId
from contracts.image import ImageRecord
from contracts.node import NodeRecord
from contracts.project import ProjectRecord
from contracts.session import SessionRecord, SharedSession
from contracts.task import TaskRecord
from contracts.worker import CreateWorker, WorkerRecord
from tests.support.api import EPOCH, RunningApi, image, running_api, side_by_side, task, worker
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually

MANY = 1150
"""More than one request for many subjects may answer with."""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with running_server(tmp_path_factory.mktemp("lists"), applied=True) as server:
        yield server


@pytest.fixture(scope="module")
async def bus(server: Server) -> AsyncIterator[Bus]:
    """A crew of many workers: `w0000` to `w1149`, each tenth busy, each fifth of team core."""
    async with control_plane(server) as bus:
        workers, tasks = bus.bucket("jc_worker", WorkerRecord), bus.bucket("jc_task", TaskRecord)
        await side_by_side(*(workers.put(f"w{n:04}", numbered(n)) for n in range(MANY)))
        await side_by_side(*(tasks.put(f"t{n}", task(n, on=f"w{n % 7:04}")) for n in range(MANY)))
        yield bus


@pytest.fixture(scope="module")
async def api(server: Server, bus: Bus) -> AsyncIterator[RunningApi]:
    async with running_api(server) as api:
        yield api


@pytest.fixture
def workers(bus: Bus) -> Bucket[WorkerRecord]:
    return bus.bucket("jc_worker", WorkerRecord)


def numbered(n: int) -> WorkerRecord:
    return worker(
        f"w{n:04}",
        state="busy" if n % 10 == 0 else "ready",
        agent="codex" if n % 2 else "claude",
        labels={"team": "core" if n % 5 == 0 else "web", **({"gpu": ""} if n == 3 else {})},
    )


async def walk(api: RunningApi, path: str, **params: Any) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    items: list[dict[str, Any]] = []
    while True:
        answer = await api.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if page["next"] is None:
            return items
        assert len(page["items"]) == params.get("limit", 100)
        params["after"] = page["next"]


@pytest.mark.parametrize("limit", [97, 575, 1000])
async def test_pages_hold_every_worker_once_by_name(api: RunningApi, limit: int) -> None:
    items = await walk(api, "/v1/workers", limit=limit)

    assert [item["name"] for item in items] == [f"w{n:04}" for n in range(MANY)]


async def test_pages_hold_every_task_once_the_newest_first(api: RunningApi) -> None:
    items = await walk(api, "/v1/tasks", limit=300)

    assert [item["id"] for item in items] == [f"t{n}" for n in reversed(range(MANY))]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"state": "busy"}, [n for n in range(MANY) if n % 10 == 0]),
        ({"state": ["busy", "ready"]}, list(range(MANY))),
        ({"state": "lost"}, []),
        ({"agent": "codex"}, [n for n in range(MANY) if n % 2]),
        ({"agent": "claude", "state": "ready"}, [n for n in range(0, MANY, 2) if n % 10]),
        ({"label": "team=core"}, list(range(0, MANY, 5))),
        ({"label": "gpu"}, [3]),
        ({"label": ["team=web", "gpu"]}, [3]),
        ({"label": ["team=core", "gpu"]}, []),
        ({"label": "team="}, []),
    ],
)
async def test_filters_of_workers_hold_together(
    api: RunningApi, params: dict[str, Any], expected: list[int]
) -> None:
    items = await walk(api, "/v1/workers", limit=1000, **params)

    assert [item["name"] for item in items] == [f"w{n:04}" for n in expected]


async def test_tasks_are_filtered_by_worker_and_state(api: RunningApi, bus: Bus) -> None:
    ended = replace(task(70, on="w0000"), state="succeeded")
    await bus.bucket("jc_task", TaskRecord).put("t70", ended)

    of_one = await walk(api, "/v1/tasks", worker="w0000")
    of_one_ended = await walk(api, "/v1/tasks", worker="w0000", state="succeeded")

    assert [t["id"] for t in of_one] == [f"t{n}" for n in reversed(range(0, MANY, 7))]
    assert [t["id"] for t in of_one_ended] == ["t70"]


async def test_images_are_listed_by_node_and_hash(api: RunningApi, bus: Bus) -> None:
    images = bus.bucket("jc_image", ImageRecord)
    for node in ("here", "there"):
        for n in range(3):
            await images.put(f"{node}.{n:x}", image(f"{n:x}", node=node, agent="shell"))

    everything = await walk(api, "/v1/images", limit=2)
    of_one = await walk(api, "/v1/images", node="there", agent="shell")

    assert [(i["node"], i["image"]) for i in everything] == [
        (node, n) for node in ("here", "there") for n in "012"
    ]
    assert [i["tag"] for i in of_one] == [f"jetcrew/worker:{n}" for n in "012"]


async def test_projects_are_listed_by_name_and_shown_without_what_they_owe(
    api: RunningApi, bus: Bus
) -> None:
    projects = bus.bucket("jc_project", ProjectRecord)
    active = ProjectRecord(
        name=ProjectId("a"), state="active", created_at=EPOCH, changed_at=EPOCH,
        counted={"t:t1:1:3:failed": TaskId("t1")},
    )  # fmt: skip
    for record in (active, replace(active, name=ProjectId("b"), state="archived")):
        await projects.put(record.name, record)
    await projects.put("c", replace(active, name=ProjectId("c")))

    everything = await walk(api, "/v1/projects", limit=2)
    open_ones = await walk(api, "/v1/projects", state="active")
    shown = (await api.client.get("/v1/projects/b")).json()
    missing = await api.client.get("/v1/projects/z")

    assert [p["name"] for p in everything] == ["a", "b", "c"]
    assert [p["name"] for p in open_ones] == ["a", "c"]
    assert (shown["state"], shown.get("counted", {})) == ("archived", {})
    assert missing.status_code == 404


async def test_sessions_are_listed_with_whose_they_are(api: RunningApi, bus: Bus) -> None:
    sessions = bus.bucket("jc_session", SessionRecord)
    own = SessionRecord(agent_session="s1", seen_at=EPOCH, task=TaskId("t1"))
    review = SharedSession(owner="team", agent="claude", name="review")
    files = ArtifactRef(name="ada/t2/conversation", size_bytes=7, sha256="0" * 64)
    await sessions.put("ada.continue", own)
    await sessions.put(review.key, replace(own, shared=review, worker=WorkerId("ada"), files=files))

    everything = await walk(api, "/v1/sessions", limit=1)
    of_owner = await walk(api, "/v1/sessions", owner="team", agent="claude")

    assert [(s["name"], s["worker"], s["owner"]) for s in everything] == [
        ("review", None, "team"), ("continue", "ada", None),
    ]  # fmt: skip
    assert [(s["last_worker"], s["size_bytes"]) for s in of_owner] == [("ada", 7)]
    assert await walk(api, "/v1/sessions", worker="ada") == everything[1:]
    assert await walk(api, "/v1/sessions", owner="nobody") == []


async def test_nodes_are_listed_with_those_that_are_gone_while_workers_are_theirs(
    api: RunningApi, bus: Bus, workers: Bucket[WorkerRecord]
) -> None:
    record = NodeRecord(
        node=NodeId("n1"), owner="host:/state", since=EPOCH, runtimes=["process"], max_workers=4
    )
    await bus.bucket("jc_node", NodeRecord).create("n1", record, ttl=60)
    await workers.put("zz-on-n2", replace(worker("zz-on-n2", state="lost"), node=NodeId("n2")))
    await workers.put("zz-was-n3", replace(worker("zz-was-n3", state="stopped"), node=NodeId("n3")))

    items = (await api.client.get("/v1/nodes")).json()["items"]
    found = {item["node"]: item for item in items}

    assert found["n1"]["here"]
    assert (found["n1"]["workers"], found["n1"]["max_workers"]) == (0, 4)
    assert (found["n2"]["here"], found["n2"]["workers"]) == (False, 1)
    assert "n3" not in found


async def test_a_list_is_never_older_than_its_request(
    api: RunningApi, workers: Bucket[WorkerRecord]
) -> None:
    seen = []
    for state in ("requested", "starting", "ready"):
        await workers.put("a-new-one", worker("a-new-one", state=state))
        answer = await api.client.get("/v1/workers", params={"limit": 1})
        seen.append((answer.json()["items"][0]["name"], answer.json()["items"][0]["state"]))
    await workers.delete("a-new-one")
    gone = await api.client.get("/v1/workers", params={"limit": 1})

    assert seen == [("a-new-one", s) for s in ("requested", "starting", "ready")]
    assert gone.json()["items"][0]["name"] == "w0000"


async def test_who_waits_for_room_is_shown_with_its_place(
    api: RunningApi, workers: Bucket[WorkerRecord]
) -> None:
    names = ["zoe", "abe"]
    for age, name in enumerate(names):
        waiting = worker(name, state="queued")
        asked_at = waiting.requested_at + timedelta(seconds=age)
        await workers.put(name, replace(waiting, requested_at=asked_at, place=9))
    listed = await walk(api, "/v1/workers", state="queued")
    shown = [(await api.client.get(f"/v1/workers/{name}")).json()["place"] for name in names]
    for name in names:
        await workers.delete(name)

    assert [(item["name"], item["place"]) for item in listed] == [("abe", 2), ("zoe", 1)]
    assert shown == [1, 2]


async def test_a_record_is_shown_whole_but_for_what_it_owes(
    api: RunningApi, workers: Bucket[WorkerRecord]
) -> None:
    event = WorkerBecameReady(at=EPOCH, worker=WorkerId("zed"))
    record = replace(
        worker("zed"),
        spec=CreateWorker(name="zed", agent="claude", instructions="Be brief.", env={"A": "b"}),
        owed=[Owed(id="x", event=event)],
    )
    await workers.put("zed", record)

    shown = (await api.client.get("/v1/workers/zed")).json()
    await workers.delete("zed")

    assert shown["spec"] == {
        "name": "zed",
        "agent": "claude",
        "instructions": "Be brief.",
        "env": {"A": "b"},
    }
    assert "owed" not in shown


async def test_a_record_that_nobody_can_read_does_not_hide_the_others(
    api: RunningApi, bus: Bus, workers: Bucket[WorkerRecord]
) -> None:
    await bus.publish(workers.subject("broken"), b'{"name": 7}')

    listed = await api.client.get("/v1/workers", params={"limit": 1})
    single = await api.client.get("/v1/workers/broken")
    await workers.delete("broken")

    assert [item["name"] for item in listed.json()["items"]] == ["w0000"]
    assert (single.status_code, single.json()["type"]) == (500, "urn:jetcrew:problem:internal")


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/v1/workers/nobody", 404, "worker"),
        ("/v1/tasks/t999999", 404, "task"),
        ("/v1/tasks/t999999/events", 404, "task"),
        ("/v1/tasks/t999999/output", 404, "task"),
        ("/v1/workers/Ada", 422, "worker"),
        ("/v1/workers/a%0a", 422, "worker"),
        ("/v1/workers/%2a", 422, "worker"),
        ("/v1/workers?limit=0", 422, "limit"),
        ("/v1/workers?limit=1001", 422, "limit"),
        ("/v1/workers?limit=ten", 422, "limit"),
        ("/v1/workers?state=asleep", 422, "state"),
        ("/v1/workers?agent=%3e", 422, "agent"),
        ("/v1/tasks?worker=a.b", 422, "worker"),
        ("/v1/tasks?state=ready", 422, "state"),
        ("/v1/tasks?after=t999999", 422, "after"),
        ("/v1/tasks/t1/events?after=-1", 422, "after"),
        ("/v1/tasks/t1/output?after=9223372036854775808", 422, "after"),
        ("/v1/events?after=now", 422, "after"),
        ("/v1/events?worker=*", 422, "worker"),
        ("/v2/workers", 404, None),
        ("/v1/workers/ada/", 404, "worker"),
    ],
)
async def test_what_is_wrong_is_told_as_a_problem_that_names_the_field(
    api: RunningApi, path: str, status: int, field: str | None
) -> None:
    answer = await api.client.get(path)

    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem.get("field")) == (status, status, field)
    assert problem["type"].startswith("urn:jetcrew:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("/v")


async def test_an_unknown_state_is_answered_with_the_known_ones(api: RunningApi) -> None:
    answer = await api.client.get("/v1/tasks?state=asleep")

    assert answer.json()["detail"].startswith('unknown state "asleep"; known: queued, running, ')


async def test_nothing_can_be_written(api: RunningApi) -> None:
    methods = {m for route in api.api.routes.routes for m in getattr(route, "methods", ())}
    refused = [
        (await api.client.request(method, "/v1/workers")).status_code
        for method in ("POST", "PUT", "PATCH", "DELETE")
    ]

    assert methods == {"GET", "OPTIONS"}
    assert refused == [405] * 4


async def test_the_openapi_document_names_every_route(api: RunningApi) -> None:
    document = (await api.client.get("/schema")).json()

    assert set(document["paths"]) == {
        "/v1/workers", "/v1/workers/{worker}", "/v1/tasks", "/v1/tasks/{task}",
        "/v1/tasks/{task}/events", "/v1/tasks/{task}/output", "/v1/tasks/{task}/evidence",
        "/v1/tasks/{task}/transcript", "/v1/workers/{worker}/evidence", "/v1/sessions", "/v1/images",
        "/v1/nodes", "/v1/projects", "/v1/projects/{project}", "/v1/dead-letters", "/v1/events",
        "/healthz", "/readyz",
    }  # fmt: skip
    [state] = (
        p for p in document["paths"]["/v1/tasks"]["get"]["parameters"] if p["name"] == "state"
    )
    assert "timed-out" in str(state["schema"])


async def test_while_the_server_is_away_everything_but_life_is_red(tmp_path: Path) -> None:
    async with running_server(tmp_path, applied=True) as server, running_api(server) as api:

        async def ready() -> int:
            return (await api.client.get("/readyz")).status_code

        await eventually(ready, 200, within=60)
        await server.kill()
        await eventually(ready, 503, within=60)
        red = await api.client.get("/v1/workers")
        alive = await api.client.get("/healthz")
        await server.start_again()
        await eventually(ready, 200, within=60)

    assert alive.status_code == 200
    assert (red.status_code, red.json()["type"]) == (503, "urn:jetcrew:problem:unavailable")
    assert int(red.headers["retry-after"]) > 0
    assert red.headers["content-type"] == "application/problem+json"
