"""Evidence and transcripts over HTTP, on a real server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.bus import Artifact, Artifacts, Bus
from contracts.codec import encode
from contracts.events import ArtifactRef, TaskEnd
from contracts.evidence import TaskEvidence, UnitEvidence
from contracts.ids import TaskId, WorkerId
from contracts.task import PastAttempt, TaskRecord
from contracts.worker import WorkerRecord
from tests.support.api import EPOCH, RunningApi, running_api, task, worker
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server

MUCH = 1 << 28
ADA, T1 = WorkerId("ada"), TaskId("t1")
SAID = "grüße\n".encode() * 100_000


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with running_server(tmp_path_factory.mktemp("ends"), applied=True) as server:
        yield server


def named(artifact: Artifact) -> ArtifactRef:
    return ArtifactRef(name=artifact.name, size_bytes=artifact.size_bytes, sha256=artifact.sha256)


async def kept(bus: Bus, name: str, data: bytes) -> ArtifactRef:
    return named(await Artifacts(bus).put(name, data, limit=MUCH))


@pytest.fixture(scope="module")
async def bus(server: Server) -> AsyncIterator[Bus]:
    """Task t1 ended with its second attempt, t2 never ran, the evidence of t3 was not kept."""
    async with control_plane(server) as bus:
        tasks, workers = bus.bucket("jc_task", TaskRecord), bus.bucket("jc_worker", WorkerRecord)
        ends = []
        for attempt in (1, 2):
            end = TaskEnd(transcript=await kept(bus, f"ada/t1/said-{attempt}", SAID[: attempt * 7]))
            if attempt == 2:
                end = TaskEnd(transcript=await kept(bus, "ada/t1/all", SAID))
            document = TaskEvidence(
                at=EPOCH, worker=ADA, task=T1, attempt=attempt, state="failed", end=end,
                submitted_at=EPOCH,
            )  # fmt: skip
            where = await kept(bus, f"ada/t1/evidence-{attempt}", encode(document))
            ends.append(replace(end, evidence=where))
        past = PastAttempt(attempt=1, started_at=EPOCH, ended_at=EPOCH, end=ends[0])
        ended = replace(task(1, state="failed"), attempt=2, past=[past], end=ends[1])
        await tasks.put("t1", ended)
        await tasks.put("t2", task(2))
        lost = TaskEnd(not_kept="the object store did not take it: it is full")
        await tasks.put("t3", replace(task(3, state="failed"), end=lost))
        unit = UnitEvidence(at=EPOCH, worker=ADA, reason="deleted", requested_at=EPOCH)
        where = await kept(bus, "ada/evidence-1-1", encode(unit))
        await workers.put("ada", replace(worker("ada", state="stopped"), evidence=where))
        await workers.put("bob", worker("bob"))
        yield bus


@pytest.fixture(scope="module")
async def api(server: Server, bus: Bus) -> AsyncIterator[RunningApi]:
    async with running_api(server) as api:
        yield api


async def test_evidence_is_shown_as_it_was_stored(api: RunningApi) -> None:
    unit = (await api.client.get("/v1/workers/ada/evidence")).json()
    last = (await api.client.get("/v1/tasks/t1/evidence")).json()
    first = (await api.client.get("/v1/tasks/t1/evidence", params={"attempt": 1})).json()

    assert (unit["type"], unit["reason"]) == ("unit", "deleted")
    assert (last["attempt"], first.get("attempt", 1)) == (2, 1)


async def test_a_transcript_comes_as_it_was_written(api: RunningApi) -> None:
    answer = await api.client.get("/v1/tasks/t1/transcript")
    first = await api.client.get("/v1/tasks/t1/transcript", params={"attempt": 1})

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content == SAID
    assert first.content == SAID[:7]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("workers/nobody/evidence", 'there is no worker "nobody"'),
        ("workers/bob/evidence", "none of its units has ended"),
        ("tasks/t9/evidence", 'there is no task "t9"'),
        ("tasks/t2/evidence", "it has not ended"),
        ("tasks/t2/transcript", "it has not ended"),
        ("tasks/t3/evidence", "the object store did not take it: it is full"),
        ("tasks/t1/evidence?attempt=3", "(attempt 3)"),
    ],
)
async def test_what_is_not_there_is_not_found_and_it_says_why(
    api: RunningApi, path: str, why: str
) -> None:
    answer = await api.client.get(f"/v1/{path}")

    assert answer.status_code == 404
    assert why in answer.json()["detail"]


async def test_what_is_not_kept_any_more_is_not_found(
    server: Server, bus: Bus, api: RunningApi, tmp_path: Path
) -> None:
    where = await kept(bus, "bob/evidence-1-1", b"{}")
    workers = bus.bucket("jc_worker", WorkerRecord)
    await workers.put("eve", replace(worker("eve"), evidence=where))
    await Artifacts(bus).delete(where.name)
    answer = await api.client.get("/v1/workers/eve/evidence")

    assert (answer.status_code, "bob/evidence-1-1" in answer.json()["detail"]) == (404, True)
