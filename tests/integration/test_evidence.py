"""What is kept of ends: transcripts and evidence, of tasks and of units, before anything is removed."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from contracts.bus import Artifacts
from contracts.events import ArtifactRef, Event
from contracts.evidence import Evidence, TaskEvidence, UnitEvidence
from tests.support.containers import container_crew, start
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine
from tests.support.images import worker_image
from tests.support.raw_nats import control_plane
from tests.support.waiting import eventually

MUCH = 1 << 28
CANARY = "canary-f3c1-in-the-coal-mine"
STORE = "OBJ_jc_artifact"


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path) as running:
        yield running


@pytest.fixture
async def containers(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with container_crew(tmp_path) as running:
        await worker_image("shell")
        yield running


async def kept(crew: RunningCrew, where: ArtifactRef | None) -> bytes:
    """The object, which is what the reference says."""
    assert where is not None
    data = await Artifacts(crew.bus).get(where.name, limit=MUCH)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (where.size_bytes, where.sha256)
    return data


async def of_task(crew: RunningCrew, task: str) -> TaskEvidence:
    record = await crew.ended(task)
    assert record.end is not None
    assert record.end.not_kept == ""
    found = msgspec.json.decode(await kept(crew, record.end.evidence), type=Evidence)
    assert isinstance(found, TaskEvidence)
    return found


async def of_unit(crew: RunningCrew, worker: str) -> UnitEvidence:
    record = await crew.worker(worker)
    assert record is not None
    assert record.not_kept == ""
    found = msgspec.json.decode(await kept(crew, record.evidence), type=Evidence)
    assert isinstance(found, UnitEvidence)
    return found


async def replaced(crew: RunningCrew) -> None:
    """Wait for the worker's second unit."""

    async def there() -> bool:
        record = await crew.worker("ada")
        return record is not None and (record.units, record.state) == (2, "ready")

    await eventually(there, expected=True, within=60)


async def told(crew: RunningCrew, filtered: str) -> list[ArtifactRef]:
    """Evidence named in events."""
    events = [msgspec.json.decode(e.data, type=Event) for e in await crew.events(filtered)]
    return [e.evidence for e in events if getattr(e, "evidence", None) is not None]


async def test_all_that_the_agent_wrote_is_in_its_transcript_and_the_end_says_where(
    crew: RunningCrew,
) -> None:
    await crew.create("ada")
    script = "echo one; echo oops >&2; seq 1 20000; printf 'no end'"
    await crew.submit("ada", script, task="t-1")
    record = await crew.ended("t-1")
    assert record.end is not None
    transcript = await kept(crew, record.end.transcript)
    evidence = await of_task(crew, "t-1")

    wanted = ["one", *[str(n) for n in range(1, 20001)], "no end"]
    assert [line for line in transcript.decode().split("\n") if line != "oops"] == wanted
    assert transcript.count(b"oops\n") == 1
    assert record.end.transcript is not None
    assert record.end.transcript.name == "ada/t-1/transcript"
    assert record.end.evidence is not None
    assert record.end.evidence.name == "ada/t-1/evidence-1"
    assert (evidence.state, evidence.end.transcript) == ("succeeded", record.end.transcript)
    last = [line for line in evidence.output.split("\n") if line != "oops"]
    assert last[-3:] == ["19999", "20000", "no end"]
    assert "worker.ready" in evidence.log
    assert (evidence.missing, evidence.unit_end) == ("", None)


async def test_a_worker_killed_in_its_task_leaves_what_it_wrote_until_then(
    crew: RunningCrew, tmp_path: Path
) -> None:
    await crew.create("ada")
    marker = tmp_path / "there"
    await crew.submit("ada", f"echo before the end; touch {marker}; sleep 60", task="t-1")
    await crew.running("t-1", marker)

    async def published() -> bool:
        return bool(await crew.bus.page("JC_OUT", "jetcrew.out.ada.t-1"))

    await eventually(published, expected=True)
    first = await crew.worker("ada")
    crew.wrapper("ada").kill()
    record = await crew.ended("t-1")
    assert record.end is not None
    evidence = await of_task(crew, "t-1")
    await replaced(crew)
    unit = await of_unit(crew, "ada")

    assert await kept(crew, record.end.transcript) == b"before the end\n"
    assert (evidence.end.told_by, evidence.end.reason) == ("manager", "killed")
    assert (evidence.output, evidence.unit_end and evidence.unit_end.signal) == (
        "before the end", "SIGKILL",
    )  # fmt: skip
    assert (unit.reason, unit.number, unit.task) == ("killed", 1, "t-1")
    assert first is not None
    assert unit.unit == first.unit
    assert await told(crew, "jetcrew.evt.worker.ada.starting") == [
        ArtifactRef(
            name="ada/evidence-1-1",
            size_bytes=len(data := await Artifacts(crew.bus).get("ada/evidence-1-1", limit=MUCH)),
            sha256=hashlib.sha256(data).hexdigest(),
        )
    ]


async def test_the_evidence_of_a_deleted_worker_is_there_when_it_is_said_to_be_stopped(
    crew: RunningCrew,
) -> None:
    await crew.create("ada")
    await crew.ask("worker.delete", {"name": "ada"})
    record = await crew.until("ada", "stopped")
    unit = await of_unit(crew, "ada")
    stopped = await told(crew, "jetcrew.evt.worker.ada.stopped")

    assert stopped == [record.evidence]
    assert record.evidence is not None
    assert record.evidence.name == "ada/evidence-1-1"
    assert (unit.reason, unit.unit_end and unit.unit_end.exit_code) == ("deleted", 0)
    assert "worker.ready" in unit.log


async def test_a_worker_cannot_say_where_its_evidence_is(crew: RunningCrew) -> None:
    """What its report says of that is overwritten, whatever it says."""
    await crew.create("ada")
    await crew.submit("ada", "true", task="t-1")
    record = await crew.ended("t-1")
    reports = await crew_reports(crew, "jetcrew.rep.ada.task.t-1.finished")

    assert record.end is not None
    assert record.end.evidence is not None
    assert all(b"evidence" not in report for report in reports)


async def crew_reports(crew: RunningCrew, subject: str) -> list[bytes]:
    async with control_plane(crew.server) as bus:
        return [stored.data for stored in await bus.page("JC_REP", subject)]


@pytest.mark.parametrize(("there", "why"), [(True, "maximum bytes"), (False, "nobody answers")])
async def test_a_store_that_takes_nothing_holds_nothing_up_for_long_and_is_named(
    tmp_path: Path, there: bool, why: str
) -> None:
    async with running_crew(tmp_path, JETCREW_EVIDENCE_PATIENCE="2") as crew:
        await crew.create("ada")
        async with control_plane(crew.server) as bus:
            if there:
                config = (await bus.api(f"STREAM.INFO.{STORE}"))["config"]
                await bus.api(f"STREAM.UPDATE.{STORE}", config | {"max_bytes": 1})
            else:
                await bus.api(f"STREAM.DELETE.{STORE}")
        await crew.submit("ada", "echo hello", task="t-1")
        task = await crew.ended("t-1")
        await crew.ask("worker.delete", {"name": "ada"})
        worker = await crew.until("ada", "stopped", within=60)

    assert task.state == "succeeded"
    assert task.end is not None
    assert why in task.end.not_kept
    assert worker.evidence is None
    assert why in worker.not_kept


@pytest.mark.parametrize(
    ("script", "reason", "signal"),
    [
        ("sleep 1; kill -9 $PPID", "killed", "SIGKILL"),
        ("python3 -c 'x = bytearray(900 << 20)'", "oom", None),
    ],
)
async def test_a_container_that_ends_badly_leaves_evidence(
    containers: RunningCrew, script: str, reason: str, signal: str | None
) -> None:
    """R12, R14: before it is replaced, and again before it is removed."""
    crew = containers
    await start(crew, "shell", limits={"memory_mb": 128})
    await crew.submit("ada", f"echo before; {script}", task="t-1")
    record = await crew.ended("t-1")
    evidence = await of_task(crew, "t-1")
    if reason == "killed":
        await replaced(crew)
    await crew.ask("worker.delete", {"name": "ada"})
    last = await crew.until("ada", "stopped")
    unit = await of_unit(crew, "ada")
    label = f"jetcrew.crew={crew.server.identity.crew}"

    assert record.end is not None
    assert (await kept(crew, record.end.transcript)).startswith(b"before\n")
    assert record.end.reason == reason
    assert evidence.image is not None
    assert (evidence.image, evidence.runtime) == (last.image, "docker")
    assert unit.reason == "deleted"
    assert unit.resources is not None
    assert (unit.resources.memory_peak_bytes or 0) > 1 << 20
    assert need_engine().containers.list(all=True, filters={"label": label}) == []
    assert signal in {None, evidence.end.signal}


async def test_a_secret_is_nowhere_but_in_its_bucket(containers: RunningCrew) -> None:
    """R29: the agent prints it in every way; the wrapper's log is made to hold it, too."""
    crew = containers
    await crew.ask("secret.put", {"name": "API_KEY", "value": CANARY})
    await start(crew, "shell", secrets=["API_KEY"])
    script = (
        'echo "$API_KEY"; echo "$API_KEY" >&2; printf "%s" "$API_KEY" | head -c 9; sleep 0.2; '
        'printf "%s\\n" "$API_KEY" | tail -c +10; echo "$API_KEY" > /proc/1/fd/2; env > all; cat all; '
        'echo "<result>{\\"status\\":\\"success\\",\\"summary\\":\\"$API_KEY\\"}</result>"'
    )
    await crew.submit("ada", script, task="t-1")
    await crew.ended("t-1")
    engine = need_engine()
    label = f"jetcrew.crew={crew.server.identity.crew}"
    [container] = engine.containers.list(filters={"label": label})
    seen = {"inspect": msgspec.json.encode(container.attrs)}
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    async with control_plane(crew.server) as bus:
        streams = (await bus.api("STREAM.LIST"))["streams"]
        for name in {stream["config"]["name"] for stream in streams} - {"KV_jc_secret"}:
            after, seen[name] = 0, b""
            while page := await bus.page(name, ">", after=after):
                after = page[-1].seq
                seen[name] += b"".join(stored.data + stored.subject.encode() for stored in page)
    seen["manager's log"] = crew.log.read_bytes()
    seen["transcript"] = await Artifacts(crew.bus).get("ada/t-1/transcript", limit=MUCH)

    assert [where for where, data in seen.items() if CANARY.encode() in data] == []
    assert seen["transcript"].count(b"[redacted]") >= 4
    assert b"[redacted]" in seen[STORE]
