"""The records of images: when each was last used, node by node."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.bus import Bus
from contracts.ids import NodeId, WorkerId
from contracts.image import ImageRecord
from services.worker_manager.images.stored import ImageOnDisk
from services.worker_manager.images.used import ImagesUsed
from tests.support.raw_nats import control_plane
from tests.support.servers import running_server

START = datetime(2026, 1, 1, tzinfo=UTC)
BUILT = START - timedelta(days=2)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    async with running_server(tmp_path, applied=True) as server, control_plane(server) as bus:
        yield bus


def on_disk(digest: str) -> ImageOnDisk:
    return ImageOnDisk(
        tag=f"jetcrew/worker:{digest}",
        id=f"sha256:{digest}",
        agent="shell",
        capabilities=("git",),
        size_bytes=5,
        created_at=BUILT.timestamp(),
    )


async def test_each_use_of_an_image_is_recorded_with_who_used_it_last(bus: Bus) -> None:
    clock = Clock()
    used = ImagesUsed(bus, NodeId("here"), clock)
    await used.note(on_disk("a1"), WorkerId("ada"))
    clock.now += timedelta(hours=1)
    await used.note(on_disk("a1"), WorkerId("bob"))
    clock.now += timedelta(hours=1)
    await used.note(on_disk("a1"))

    held = await used.list()

    assert held["a1"].value == ImageRecord(
        image="a1",
        node=NodeId("here"),
        tag="jetcrew/worker:a1",
        agent="shell",
        capabilities=["git"],
        size_bytes=5,
        built_at=BUILT,
        last_used_at=START + timedelta(hours=2),
        last_used_by=WorkerId("bob"),
    )


async def test_nodes_do_not_share_records_of_the_same_image(bus: Bus) -> None:
    here, there = ImagesUsed(bus, NodeId("here")), ImagesUsed(bus, NodeId("there"))
    await here.note(on_disk("a1"), WorkerId("ada"))
    await there.note(on_disk("a1"), WorkerId("bob"))

    held = await here.list()
    await here.forget("a1", held["a1"].revision)

    assert await here.list() == {}
    assert [h.value.last_used_by for h in (await there.list()).values()] == ["bob"]


async def test_a_record_is_not_forgotten_when_its_image_was_used_meanwhile(bus: Bus) -> None:
    used = ImagesUsed(bus, NodeId("here"))
    await used.note(on_disk("a1"), WorkerId("ada"))
    before = (await used.list())["a1"].revision
    await used.note(on_disk("a1"), WorkerId("bob"))

    await used.forget("a1", before)

    assert list(await used.list()) == ["a1"]
