"""The gate in front of the real routes, and what comes through it whatever is asked."""

import asyncio
import os
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.task import TaskRecord
from contracts.worker import WorkerRecord
from tests.support.api import RunningApi, progress, running_api, task, tell, worker
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server

TOKEN = "a-token-that-is-long-enough"
PATHS = (
    "/v1/workers", "/v1/workers/{id}", "/v1/tasks", "/v1/tasks/{id}", "/v1/tasks/{id}/events",
    "/v1/tasks/{id}/output", "/v1/events", "/healthz", "/readyz", "/schema", "/{id}", "/v1/{id}",
)  # fmt: skip
NAMES = (
    "limit",
    "after",
    "state",
    "agent",
    "label",
    "worker",
    "task",
    "reader",
    "request",
    "states",
)
EXPECTED = {200, 400, 404, 405, 422}
"""400 is the server's word for what is not HTTP at all."""

REQUESTS = 1000 if os.environ.get("CI") else 250  # noqa: TID251  # tests have no settings

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
NUMBERS = ("0", "1", "-1", "1e3", "1001", f"{2**63 - 1}", f"{2**63}", "99" * 40)
STATES = ("ready", "queued", "timed-out", "null", "true", "[]", "{}")
ODD = (
    "",
    "Ada",
    "*",
    ">",
    "a.b",
    "$KV",
    "..",
    "%",
    "%00",
    "\x00",
    "\r\n",
    "a" * 41,
    "é",
    "\U0001f600",
)
likely = st.sampled_from(("ada", "t1", "team=core", "=", "==", *NUMBERS, *STATES, *ODD))
value = st.one_of(likely, anything)
asked = st.fixed_dictionaries(
    {
        "path": st.sampled_from(PATHS),
        "id": value,
        "query": st.lists(st.tuples(st.sampled_from(NAMES) | anything, value), max_size=5),
        "raw": st.binary(max_size=12),
        "seen": st.none() | value,
    }
)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with running_server(tmp_path_factory.mktemp("doors"), applied=True) as server:
        async with control_plane(server) as bus:
            await bus.bucket("jc_worker", WorkerRecord).put("ada", worker("ada"))
            await bus.bucket("jc_task", TaskRecord).put("t1", task(1))
            await tell(bus, progress(1))
        yield server


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[RunningApi]:
    async with running_api(server) as api:
        yield api


async def test_every_route_but_the_probes_is_behind_the_token(server: Server) -> None:
    async with running_api(server, token=TOKEN) as api:
        walked = {
            (method, route.path): (
                await api.client.request(
                    method,
                    route.path_format.format(worker="ada", task="t1", project="apollo", path="x"),
                )
            ).status_code
            for route in api.api.routes.routes
            for method in getattr(route, "methods", ())
        }
        known = (
            await api.client.get("/v1/workers/ada", headers={"authorization": f"Bearer {TOKEN}"})
        ).status_code
        nowhere = (await api.client.get("/no/such/route")).status_code

    probes = {key for key in walked if key[1] in {"/healthz", "/readyz"}}
    assert ("GET", "/v1/events") in walked
    assert ("GET", "/schema") in walked
    assert {walked[key] for key in walked.keys() - probes} == {401}
    assert {walked["GET", path] for path in ("/healthz", "/readyz")} == {200}
    assert (known, nowhere) == (200, 401)


async def test_a_page_whose_name_was_made_to_resolve_to_us_reads_nothing(api: RunningApi) -> None:
    rebound = await api.client.get("/v1/workers", headers={"host": "evil.example"})
    ours = await api.client.get(
        "/v1/workers", headers={"host": "localhost:1", "origin": "http://evil.example"}
    )

    assert (rebound.status_code, rebound.json()["field"]) == (421, "Host")
    assert ours.status_code == 200
    assert not [name for name in ours.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "requests", [REQUESTS, pytest.param(100_000, marks=pytest.mark.soak)], ids=["some", "many"]
)
async def test_whatever_is_asked_the_server_does_not_fail(api: RunningApi, requests: int) -> None:
    """Requests from nearly right to nonsense: each is answered, or refused as a problem."""

    @settings(
        max_examples=requests, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(asked=asked)
    def ask(asked: dict[str, object]) -> None:
        url = _url(api.url, asked)
        seen = bytes(b for b in str(asked["seen"] or "").encode() if b > 32 and b != 127)
        headers = [(b"last-event-id", seen)] if seen else []
        with client.stream("GET", url, headers=headers) as answer:
            kind = answer.headers.get("content-type", "")
            assert answer.status_code in EXPECTED, f"{url}: {answer.status_code}"
            if answer.status_code not in {200, 400}:
                assert kind == "application/problem+json", f"{url}: {kind}"

    with httpx.Client(timeout=120) as client:
        await asyncio.to_thread(ask)


def _url(base: str, asked: dict[str, object]) -> httpx.URL:
    path = str(asked["path"]).replace("{id}", quote(str(asked["id"]), safe=""))
    pairs = [f"{quote(k)}={quote(v)}" for k, v in asked["query"]]  # type: ignore[attr-defined]  # a list of pairs
    query = "&".join([*pairs, quote(asked["raw"])])  # type: ignore[call-overload]  # bytes
    return httpx.URL(f"{base}{path}?{query}")
