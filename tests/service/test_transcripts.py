"""Transcripts made of published output, on a real server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from contracts.bus import Bus
from contracts.ids import TaskId, WorkerId
from contracts.reports import Output
from contracts.task import TaskRecord
from services.worker_manager.crew import now
from services.worker_manager.evidence import KEYS
from services.worker_manager.transcripts import Transcript
from tests.support.raw_nats import control_plane
from tests.support.servers import running_server

ADA, T1 = WorkerId("ada"), TaskId("t1")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    async with running_server(tmp_path, applied=True) as server, control_plane(server) as bus:
        yield bus


async def publish(
    bus: Bus, n: int, text: str, stream: Literal["stdout", "stderr"] = "stdout", run: str = "r1"
) -> None:
    piece = Output(run=run, n=n, stream=stream, text=text, at=0.0)
    await bus.publish(bus.subjects.output(ADA, T1), piece)


async def read(bus: Bus, limit: int = 1 << 20) -> tuple[str, Transcript]:
    record = TaskRecord(
        id=T1, worker=ADA, state="running", run="r1", submitted_at=now(), changed_at=now()
    )
    transcript = Transcript(bus, record, limit)
    return b"".join([data async for data in transcript.read()]).decode(), transcript


async def test_lines_of_one_stream_are_not_torn_by_the_other(bus: Bus) -> None:
    await publish(bus, 1, "first ha")
    await publish(bus, 2, "warning\n", "stderr")
    await publish(bus, 3, "lf\nrest")
    text, transcript = await read(bus)

    assert text == "warning\nfirst half\nrest"
    assert (transcript.tail(), transcript.lost, transcript.cut) == (text, 0, False)


async def test_repeated_pieces_and_those_of_other_runs_are_left_out_and_losses_counted(
    bus: Bus,
) -> None:
    await publish(bus, 1, "one\n")
    await publish(bus, 1, "one\n")
    await publish(bus, 2, "of another attempt\n", run="r0")
    await bus.publish(bus.subjects.output(ADA, T1), b"not a piece at all")
    await publish(bus, 4, "four\n")
    text, transcript = await read(bus)

    assert (text, transcript.lost) == ("one\nfour\n", 2)


async def test_it_ends_at_its_bound(bus: Bus) -> None:
    for n in range(1, 5):
        await publish(bus, n, "x" * 9 + "\n")
    text, transcript = await read(bus, limit=25)

    assert (len(text), transcript.cut) == (25, True)


async def test_an_attempt_that_wrote_nothing_has_an_empty_one(bus: Bus) -> None:
    assert (await read(bus))[0] == ""


def test_seeds_and_tokens_of_the_bus_are_known_by_their_looks() -> None:
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    jwt = f"eyJ0eXAiOiJKV1QifQ{'a' * 9}.{'b' * 40}.{'c' * 40}"

    assert KEYS.sub("-", f"a {seed} b {jwt} c") == "a - b - c"
    assert KEYS.sub("-", "SUMMARY of SUB and eyJ") == "SUMMARY of SUB and eyJ"
