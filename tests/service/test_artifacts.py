"""The object store on a real server: what comes out is what went in, for us and for the stock command line."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.bus import Artifacts, Bus, apply_topology, connect
from contracts.errors import (
    Conflict,
    Damaged,
    InvalidMessage,
    NotThere,
    QueueFull,
    TooLarge,
    TopologyDrift,
)
from tests.support.raw_nats import raw_role
from tests.support.servers import Server
from tests.support.stock import need_stock, stock

CHUNK = 131_072
NAME = "ada/t1/transcript"
STREAM = "OBJ_jc_artifact"
MUCH = 1 << 30


@pytest.fixture
def objects(bus: Bus) -> Artifacts:
    return Artifacts(bus)


async def messages(bus: Bus) -> int:
    return int((await bus.api(f"STREAM.INFO.{STREAM}"))["state"]["messages"])


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield os.urandom(size)


# -- in and out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 40 * CHUNK + 7])
async def test_what_comes_out_is_what_went_in(objects: Artifacts, size: int) -> None:
    data = os.urandom(size)
    put = await objects.put(NAME, data, limit=MUCH)

    assert await objects.get(NAME, limit=MUCH) == data
    assert put == await objects.info(NAME)
    assert (put.size_bytes, put.chunks) == (size, -(-size // CHUNK))
    assert put.sha256 == hashlib.sha256(data).hexdigest()


async def test_files_and_streams_of_any_grain_go_in_and_out_in_chunks(
    objects: Artifacts, bus: Bus, tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    await asyncio.to_thread(source.write_bytes, os.urandom(5 * CHUNK + 11))
    passed: list[int] = []
    await objects.put("a/file", source, limit=MUCH, progress=passed.append)
    stored = await objects.put("a/stream", pieces(1, 3 * CHUNK, 0, CHUNK - 5), limit=MUCH)
    await objects.save("a/file", target)
    page = await bus.page(STREAM, f"$O.jc_artifact.C.{stored.put}")

    assert await asyncio.to_thread(target.read_bytes) == await asyncio.to_thread(source.read_bytes)
    assert passed == [CHUNK * n for n in range(1, 6)] + [5 * CHUNK + 11]
    assert [len(chunk.data) for chunk in page] == [CHUNK, CHUNK, CHUNK, CHUNK - 4]
    assert await asyncio.to_thread(lambda: sorted(f.name for f in tmp_path.iterdir())) == [
        "in",
        "out",
        "state",
    ]


async def test_a_list_shows_what_begins_alike_and_forgets_what_was_deleted(
    objects: Artifacts, bus: Bus
) -> None:
    for name in (
        "ada/t1/transcript",
        "ada/t2/transcript",
        "bob/t1/transcript",
        "ada/t1/evidence-1",
    ):
        await objects.put(name, name.encode(), limit=MUCH, labels={"kind": "test"})

    assert await objects.delete("ada/t2/transcript")
    assert not await objects.delete("ada/t2/transcript")
    assert [a.name for a in await objects.list("ada/")] == [
        "ada/t1/evidence-1",
        "ada/t1/transcript",
    ]
    assert [a.name for a in await objects.list()][-1] == "bob/t1/transcript"
    assert await objects.info("ada/t2/transcript") is None
    with pytest.raises(NotThere, match="ada/t2/transcript"):
        await objects.get("ada/t2/transcript", limit=MUCH)
    await objects.put("ada/t2/transcript", b"anew", limit=MUCH)
    assert await objects.get("ada/t2/transcript", limit=MUCH) == b"anew"


# -- what goes wrong leaves nothing ---------------------------------------------------------------


async def test_a_name_is_taken_once_unless_it_is_to_be_replaced(
    objects: Artifacts, bus: Bus
) -> None:
    await objects.put(NAME, os.urandom(3 * CHUNK), limit=MUCH)
    with pytest.raises(Conflict, match=NAME):
        await objects.put(NAME, b"second", limit=MUCH)
    await objects.put(NAME, b"third", limit=MUCH, replace=True)

    assert await objects.get(NAME, limit=MUCH) == b"third"
    assert await messages(bus) == 2  # one chunk, one meta message: the first put's are gone


async def test_of_two_that_put_at_once_one_wins_whole(objects: Artifacts, bus: Bus) -> None:
    async def put(byte: bytes) -> bool:
        try:
            await objects.put(NAME, byte * (4 * CHUNK), limit=MUCH)
        except Conflict:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(put(byte)) for byte in (b"a", b"b", b"c")]
    won = [put.result() for put in puts].index(True)

    assert sorted(put.result() for put in puts) == [False, False, True]
    assert await objects.get(NAME, limit=MUCH) == b"abc"[won : won + 1] * (4 * CHUNK)
    assert await messages(bus) == 5


async def test_more_than_the_limit_is_refused_and_leaves_nothing(
    objects: Artifacts, bus: Bus
) -> None:
    with pytest.raises(TooLarge, match=r"object ada/t1/transcript .* limit of 200,000"):
        await objects.put(NAME, pieces(CHUNK, CHUNK), limit=200_000)
    await objects.put(NAME, b"x" * 100, limit=100)
    with pytest.raises(TooLarge):
        await objects.get(NAME, limit=99)

    assert await messages(bus) == 2


async def test_a_source_that_breaks_leaves_nothing(objects: Artifacts, bus: Bus) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 * CHUNK)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await objects.put(NAME, broken(), limit=MUCH)

    assert await messages(bus) == 0


async def test_what_lost_a_chunk_is_not_given_out(
    objects: Artifacts, bus: Bus, tmp_path: Path
) -> None:
    put = await objects.put(NAME, os.urandom(3 * CHUNK), limit=MUCH)
    second = (await bus.page(STREAM, f"$O.jc_artifact.C.{put.put}"))[1]
    await bus.delete_message(STREAM, second.seq)

    with pytest.raises(Damaged, match=NAME):
        await objects.get(NAME, limit=MUCH)
    with pytest.raises(Damaged):
        await objects.save(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_full_store_refuses_and_keeps_what_it_has(objects: Artifacts, bus: Bus) -> None:
    config = (await bus.api(f"STREAM.INFO.{STREAM}"))["config"]
    await bus.api(f"STREAM.UPDATE.{STREAM}", config | {"max_bytes": 3 * CHUNK})
    await objects.put(NAME, os.urandom(2 * CHUNK), limit=MUCH)
    with pytest.raises(QueueFull):
        await objects.put("ada/t2/transcript", os.urandom(2 * CHUNK), limit=MUCH)

    assert len(await objects.get(NAME, limit=MUCH)) == 2 * CHUNK
    assert [artifact.name for artifact in await objects.list()] == [NAME]
    assert await messages(bus) == 3


async def test_a_full_store_makes_room_by_letting_go_of_the_oldest(
    objects: Artifacts, bus: Bus
) -> None:
    config = (await bus.api(f"STREAM.INFO.{STREAM}"))["config"]
    for n in range(4):
        await objects.put(f"ada/t{n}/transcript", os.urandom(CHUNK), limit=MUCH)
    await objects.append("begun-lately", 0, b"x", limit=MUCH)
    size = (await bus.api(f"STREAM.INFO.{STREAM}"))["state"]["bytes"]
    await bus.api(f"STREAM.UPDATE.{STREAM}", config | {"max_bytes": size})
    with pytest.raises(QueueFull):
        await objects.put("ada/t4/transcript", b"new", limit=MUCH)
    freed = await objects.make_room(CHUNK + 1)
    await objects.put("ada/t4/transcript", b"new", limit=MUCH)

    assert freed == 2 * CHUNK
    assert [artifact.name for artifact in await objects.list()] == [
        f"ada/t{n}/transcript" for n in (2, 3, 4)
    ]
    await objects.append("begun-lately", 1, b"y", limit=MUCH)


@pytest.mark.parametrize("name", ["", "/ada", "ada/", "ada//x", "../x", "a b", "a" * 257, "ä"])
async def test_a_name_that_no_path_could_be_made_of_is_refused(
    objects: Artifacts, name: str
) -> None:
    with pytest.raises(InvalidMessage, match=r"\$\.name: an object's name is words"):
        await objects.put(name, b"x", limit=MUCH)


async def test_a_server_killed_meanwhile_costs_nothing(
    objects: Artifacts, bus: Bus, server: Server
) -> None:
    data = os.urandom(20 * CHUNK)

    async def source() -> AsyncIterator[bytes]:
        yield data[: 10 * CHUNK]
        await server.kill()
        await server.start_again()
        yield data[10 * CHUNK :]

    await objects.put(NAME, source(), limit=MUCH)

    assert await objects.get(NAME, limit=MUCH) == data


# -- the store itself -----------------------------------------------------------------------------


async def test_the_store_is_part_of_the_topology(bus: Bus) -> None:
    assert await apply_topology(bus) == []
    config = (await bus.api(f"STREAM.INFO.{STREAM}"))["config"]
    assert config["max_bytes"] > 0
    assert config["discard"] == "new"
    await bus.api(f"STREAM.UPDATE.{STREAM}", config | {"max_bytes": 1 << 20})
    assert await apply_topology(bus) == [STREAM]

    await bus.api(f"STREAM.DELETE.{STREAM}")
    await bus.api(f"STREAM.CREATE.{STREAM}", config | {"storage": "memory", "max_bytes": 1 << 20})
    with pytest.raises(TopologyDrift, match=f"{STREAM} was made with other settings: storage"):
        await apply_topology(bus)


# -- who may --------------------------------------------------------------------------------------


async def test_the_stock_command_line_lists_and_fetches_as_an_operator(
    server: Server, objects: Artifacts, tmp_path: Path
) -> None:
    need_stock()
    data = os.urandom(20 * CHUNK + 3)
    await objects.put(NAME, data, limit=MUCH, description="what the agent wrote")
    listed = await stock(server, "object", "ls", "jc_artifact")
    info = await stock(server, "object", "info", "jc_artifact", NAME)
    got = await stock(
        server, "object", "get", "jc_artifact", NAME, "-O", str(tmp_path / "out"), "--no-progress"
    )

    assert (listed[0], info[0], got[0]) == (0, 0, 0), (listed, info, got)
    assert NAME in listed[1]
    assert hashlib.sha256(data).hexdigest() in info[1] or "2.5 MiB" in info[1]
    assert await asyncio.to_thread((tmp_path / "out").read_bytes) == data


async def test_the_stock_command_line_writes_nothing(
    server: Server, objects: Artifacts, bus: Bus, tmp_path: Path
) -> None:
    need_stock()
    await objects.put(NAME, b"the truth", limit=MUCH)
    before = await messages(bus)
    forged = tmp_path / "forged"
    await asyncio.to_thread(forged.write_bytes, b"forged")
    put = await stock(server, "object", "put", "jc_artifact", str(forged), "--name", NAME, "-f")
    gone = await stock(server, "object", "del", "jc_artifact", NAME, "-f")

    assert 0 not in (put[0], gone[0])
    assert await objects.get(NAME, limit=MUCH) == b"the truth"
    assert await messages(bus) == before


async def test_a_reader_reads_by_direct_gets_and_writes_nothing(
    server: Server, objects: Artifacts
) -> None:
    data = os.urandom(9 * CHUNK)
    await objects.put(NAME, data, limit=MUCH)
    async with connect(
        server.url, name="reader", creds=server.creds("api"), inbox_prefix="_INBOX.api", patience=20
    ) as reader:
        shown = Artifacts(reader)

        assert await shown.get(NAME, limit=MUCH) == data
        assert [artifact.name for artifact in await shown.list("ada/")] == [NAME]
        assert await shown.info("ada/t2/transcript") is None
    async with raw_role(server, "api") as raw:
        for subject in ("$O.jc_artifact.C.mine", "$O.jc_artifact.M.bWluZQ=="):
            await raw.nc.publish(subject, b"forged")
        await raw.settled()
    assert await objects.list() == [await objects.info(NAME)]
