"""Events and output over HTTP: pages, and streams that go on where a client, a server or the API left off."""

import asyncio
import socket
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx
import psutil
import pytest

from contracts.bus import Bus
from contracts.codec import encode
from contracts.ids import TaskId, WorkerId
from contracts.reports import Output
from contracts.task import TaskRecord
from services.api import feed
from tests.support.api import RunningApi, Sent, progress, running_api, sent_events, task, tell
from tests.support.raw_nats import raw_worker
from tests.support.servers import Server
from tests.support.waiting import eventually

PATIENCE = 120
"""Seconds; generous, since it decides nothing but how long a failure takes."""


@pytest.fixture
async def api(server: Server, bus: Bus) -> AsyncIterator[RunningApi]:
    async with running_api(server) as api:
        yield api


async def take(api: RunningApi, path: str, count: int, *, after: int | None = None) -> list[Sent]:
    """The first events of a stream, resumed after one where that is given; then hang up."""
    headers = {"accept": "text/event-stream"}
    if after is not None:
        headers["last-event-id"] = str(after)
    got: list[Sent] = []
    async with asyncio.timeout(PATIENCE), api.client.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200, await stream.aread()
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for event in sent_events(stream):
            got.append(event)
            if len(got) == count:
                break
    return got


def steps(events: list[Sent]) -> list[str]:
    return [event.data["text"] for event in events]


async def test_a_stream_is_resumed_after_the_last_event_seen(api: RunningApi, bus: Bus) -> None:
    await tell(bus, *(progress(n) for n in range(8)))

    first = await take(api, "/v1/events?after=0", 3)
    second = await take(api, "/v1/events", 3, after=first[-1].id)
    # the browser repeats the address it was given; what it has seen counts more
    third = await take(api, "/v1/events?after=0", 2, after=second[-1].id)

    assert steps(first + second + third) == [f"step {n}" for n in range(8)]
    assert [event.id for event in first + second + third] == list(range(1, 9))


async def test_without_a_beginning_a_stream_begins_now(api: RunningApi, bus: Bus) -> None:
    await tell(bus, progress(1), progress(2))

    async with asyncio.TaskGroup() as group:
        following = group.create_task(take(api, "/v1/events", 1))
        await eventually(lambda: api.api.events.followers, 1, within=PATIENCE)
        await tell(bus, progress(3))

    assert steps(following.result()) == ["step 3"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("worker=ada", ["step 1", "step 2", "step 4"]),
        ("worker=bob", ["step 3"]),
        ("task=t2", ["step 2", "step 3"]),
        ("worker=ada&task=t2", ["step 2"]),
    ],
)
async def test_a_stream_tells_only_of_the_worker_and_task_it_was_asked_for(
    api: RunningApi, bus: Bus, query: str, expected: list[str]
) -> None:
    async with asyncio.TaskGroup() as group:
        following = group.create_task(take(api, f"/v1/events?after=0&{query}", len(expected)))
        await tell(
            bus,
            progress(1, on="ada", of="t1"),
            progress(2, on="ada", of="t2"),
            progress(3, on="bob", of="t2"),
            progress(4, on="ada", of="t3"),
        )

    assert steps(following.result()) == expected


async def test_a_server_that_dies_and_returns_leaves_no_gap_and_no_repetition(
    server: Server, api: RunningApi, bus: Bus
) -> None:
    """While events are published throughout; one stream stays open, others are resumed again and again."""
    total, got = 120, list[Sent]()
    resumed: list[Sent] = []

    async def publish() -> None:
        for n in range(total):
            event = progress(n)
            # under one id, for as long as it takes
            await bus.publish(bus.subjects.event(event), event, id=f"e{n}", budget=PATIENCE)

    async def stay() -> None:
        got.extend(await take(api, "/v1/events?after=0", total))

    async def hop() -> None:
        while len(resumed) < total:
            after = resumed[-1].id if resumed else 0
            resumed.extend(
                await take(
                    api, "/v1/tasks/t1/events", 7 if total - len(resumed) > 7 else 1, after=after
                )
            )

    await tell(bus, progress(-1))  # so that the task is known
    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        group.create_task(stay())
        await eventually(lambda: api.api.events.followers > 0, True, within=PATIENCE)
        group.create_task(hop())
        for crash in (25, 75):
            await eventually(lambda seen=crash: len(resumed) >= seen, True, within=PATIENCE)  # type: ignore[misc]  # a default binds it
            await server.kill()
            await server.start_again()

    expected = [f"step {n}" for n in range(-1, total - 1)]
    assert steps(got) == expected
    assert steps(resumed) == expected
    assert all(one.id < two.id for one, two in pairwise(got))


async def test_an_api_that_starts_anew_goes_on_where_its_client_was(
    server: Server, bus: Bus
) -> None:
    await tell(bus, *(progress(n) for n in range(4)))
    async with running_api(server) as first:
        seen = await take(first, "/v1/events?after=0", 2)
    await tell(bus, progress(4))

    async with running_api(server) as second:
        seen += await take(second, "/v1/events", 3, after=seen[-1].id)

    assert steps(seen) == [f"step {n}" for n in range(5)]


async def test_an_open_stream_ends_when_the_api_does(server: Server, bus: Bus) -> None:
    await tell(bus, progress(1))
    lines: list[str] = []

    async def read(url: str) -> None:
        async with (
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("GET", f"{url}/v1/events?after=0") as stream,
        ):
            lines.extend([line async for line in stream.aiter_lines()])

    async with asyncio.TaskGroup() as group, running_api(server) as api:
        group.create_task(read(api.url))
        await eventually(lambda: api.api.events.followers, 1, within=PATIENCE)

    assert lines[0] == "retry: 1000"


async def test_a_place_beyond_the_end_is_the_end(api: RunningApi, bus: Bus) -> None:
    await tell(bus, progress(1))

    async with asyncio.TaskGroup() as group:
        following = group.create_task(take(api, "/v1/events", 1, after=999_999))
        while not following.done():
            await tell(bus, progress(2))

    [event] = following.result()
    assert event.data["text"] == "step 2"


@pytest.mark.parametrize("given", ["-1", "1.5", "x", "9223372036854775808", "\xb2"])
async def test_a_place_that_is_none_is_refused(api: RunningApi, given: str) -> None:
    answer = await api.client.get("/v1/events", headers={b"last-event-id": given.encode("latin-1")})

    assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


async def test_the_history_of_a_task_is_read_in_pages(api: RunningApi, bus: Bus) -> None:
    await tell(bus, *(progress(n, of=f"t{n % 2}") for n in range(10)))

    first = (await api.client.get("/v1/tasks/t1/events?limit=3")).json()
    second = (await api.client.get(f"/v1/tasks/t1/events?after={first['next']}")).json()
    third = (await api.client.get(f"/v1/tasks/t1/events?after={second['next']}")).json()

    shown = first["items"] + second["items"]
    assert [item["event"]["text"] for item in shown] == [f"step {n}" for n in (1, 3, 5, 7, 9)]
    assert (first["items"][0]["seq"], first["next"]) == (2, 6)
    assert third == {"items": [], "next": second["next"]}


async def test_output_is_that_of_the_tasks_own_worker(
    server: Server, api: RunningApi, bus: Bus
) -> None:
    await bus.bucket("jc_task", TaskRecord).put("t1", task(1, on="ada"))
    async with raw_worker(server, "ada") as ada, raw_worker(server, "eve") as eve:
        mine = bus.subjects.output(WorkerId("ada"), TaskId("t1"))
        hers = bus.subjects.output(WorkerId("eve"), TaskId("t1"))
        lie = encode(Output(run="r", n=1, stream="stdout", text="believe me", at=0.1))
        await eve.nc.request(hers, lie, timeout=PATIENCE)
        for n in (1, 2):
            piece = Output(run="r", n=n, stream="stdout", text=f"line {n}\n", at=n / 10)
            await ada.nc.request(mine, encode(piece), timeout=PATIENCE)
            await ada.nc.request(mine, b"id: 1\n\nnot ours", timeout=PATIENCE)

    page = (await api.client.get("/v1/tasks/t1/output")).json()
    stream = await take(api, "/v1/tasks/t1/output", 2)

    assert [item["text"] for item in page["items"]] == ["line 1\n", "line 2\n"]
    assert [event.data["text"] for event in stream] == ["line 1\n", "line 2\n"]


async def test_as_many_as_may_follow_and_no_more(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST_FOLLOWERS", 2)
    async with (
        api.client.stream("GET", "/v1/events"),
        api.client.stream("GET", "/v1/events"),
    ):
        await eventually(lambda: api.api.events.followers, 2, within=PATIENCE)
        third = await api.client.get("/v1/events")

    assert (third.status_code, third.json()["type"]) == (503, "urn:jetcrew:problem:unavailable")
    await eventually(lambda: api.api.events.followers, 0, within=PATIENCE)


async def test_clients_that_do_not_read_cost_a_page_each(api: RunningApi, bus: Bus) -> None:
    """Twenty clients that never read, 16 MB of events: kept for all of them, it would be 320 MB."""
    text = "x" * 32_000
    for _ in range(5):
        async with asyncio.TaskGroup() as group:
            for n in range(100):
                event = progress(n)
                group.create_task(
                    bus.publish(
                        bus.subjects.event(event),
                        event.__class__(
                            at=event.at,
                            worker=event.worker,
                            task=event.task,
                            kind="text",
                            text=text,
                        ),
                        budget=PATIENCE,
                    )
                )
    host, port = api.url.removeprefix("http://").split(":")
    before = psutil.Process().memory_info().rss
    stalled = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        for client in stalled:
            client.sendall(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: api.api.events.followers, 20, within=PATIENCE)
        read = await take(api, "/v1/events?after=0", 500)
        grown = psutil.Process().memory_info().rss - before
    finally:
        for client in stalled:
            client.close()

    assert len(read) == 500
    assert grown < 160 * 2**20
    await eventually(lambda: api.api.events.followers, 0, within=PATIENCE)
