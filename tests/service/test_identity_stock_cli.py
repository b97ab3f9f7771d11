"""The stock `nats` command line with an operator's credential: what it is told to do, it does."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.bus import Bus
from contracts.topology import Topology
from tests.support.raw_nats import control_plane, everything
from tests.support.servers import Server, running_server
from tests.support.stock import need_stock, stock

S = Topology().subjects
EVENT = "jetcrew.evt.worker.ada.ready"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    need_stock()
    async with running_server(tmp_path, applied=True) as server:
        yield server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    async with control_plane(server) as bus:
        await bus.publish("$KV.jc_worker.ada", b'{"state":"ready"}')
        await bus.publish("$KV.jc_secret.key", b'{"value":"s3cret"}')
        await bus.publish(EVENT, b'{"type":"worker.ready"}')
        yield bus


TOUR: list[tuple[list[str], str]] = [
    (["pub", "-J", S.command("worker", "create"), "{}"], "Stored in Stream: JC_CMD"),
    (["pub", "-J", S.task("ada"), '{"prompt":"x"}'], "Stored in Stream: JC_TASK"),
    (["req", S.task("ada"), '{"prompt":"x"}'], '"stream":"JC_TASK"'),
    (["sub", "jetcrew.evt.>", "--all", "--wait", "2s", "--count", "1"], "worker.ready"),
    (["kv", "get", "jc_worker", "ada", "--raw"], '{"state":"ready"}'),
    (["kv", "ls", "jc_worker"], "ada"),
    (["kv", "history", "jc_worker", "ada"], "PUT"),
    (["stream", "ls"], "JC_EVT"),
    (["stream", "subjects", "JC_EVT"], EVENT),
    (["stream", "get", "JC_EVT", "--last-for", EVENT], "worker.ready"),
    (["consumer", "info", "JC_CMD", "mgr"], "JC_CMD"),
    (["account", "info"], "JetStream"),
]


async def test_the_tour_works(server: Server, bus: Bus) -> None:
    failed = {}
    for words, expected in TOUR:
        code, said = await stock(server, *words)
        if code != 0 or expected not in said:
            failed[" ".join(words)] = said

    assert failed == {}


FORBIDDEN = [
    ["kv", "get", "jc_secret", "key", "--raw"],
    ["kv", "ls", "jc_secret"],
    ["stream", "get", "KV_jc_secret", "1"],
    ["kv", "put", "jc_worker", "ada", "forged"],
    ["kv", "del", "jc_worker", "ada", "-f"],
    ["stream", "purge", "JC_RES", "-f"],
    ["stream", "rm", "JC_RES", "-f"],
    ["consumer", "rm", "JC_CMD", "mgr", "-f"],
    ["pub", "-J", EVENT, "forged"],
]


async def test_what_an_operator_may_not_do_fails_and_changes_nothing(
    server: Server, bus: Bus
) -> None:
    before = await everything(bus)
    done = {}
    for words in FORBIDDEN:
        code, said = await stock(server, *words)
        if code == 0 or "s3cret" in said:
            done[" ".join(words)] = said

    assert done == {}
    assert await everything(bus) == before


async def test_an_answer_aimed_at_a_record_leaves_it_alone(server: Server, bus: Bus) -> None:
    await bus.publish(S.task("held"), b"forged")
    before = await everything(bus)
    source = f"$JS.API.DIRECT.GET.JC_TASK.{S.task('held')}"
    for target in (
        "$KV.jc_worker.ada",
        "jetcrew.evt.worker.ada.forged",
        "$JS.API.STREAM.PURGE.JC_EVT",
    ):
        await stock(server, "pub", source, "", "--reply", target)

    assert await everything(bus) == before
