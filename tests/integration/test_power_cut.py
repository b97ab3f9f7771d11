"""What nats-server has acknowledged is still there after the power failed (R37)."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.bus import Bus, connect
from contracts.bus.apply import bucket_config, stream_config
from contracts.topology import Topology
from services.kit.embedded import EmbeddedServer
from services.kit.state import StateDirectory
from tests.support.disks import cut, fresh_disk, mounted, need_disks, synced
from tests.support.servers import need_server
from tests.support.waiting import eventually

TOPOLOGY = Topology()
STREAMS = {"JC_EVT": "jetcrew.evt.worker.{}.ready", "JC_TASK": "jetcrew.task.{}", "KV_jc_worker": "$KV.jc_worker.{}"}  # fmt: skip
"""A history, a queue and a bucket, with a subject of each."""
CUTS = 3
ACKNOWLEDGED = 150
"""Messages between two cuts, at least."""
ALWAYS = "sync_interval: always"

Acknowledged = dict[tuple[str, int], bytes]
"""Bodies by stream and sequence."""


class Careless(EmbeddedServer):
    """As nats-server is without our configuration: it acknowledges first and syncs minutes later."""

    def _configuration(self) -> str:
        ours = super()._configuration()
        assert ours.count(ALWAYS) == 1
        return ours.replace(ALWAYS, "sync_interval: 10m")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    need_server()
    need_disks()
    with fresh_disk(tmp_path) as made:
        yield made


@asynccontextmanager
async def serving(
    kind: type[EmbeddedServer], at: Path
) -> AsyncIterator[tuple[EmbeddedServer, Bus]]:
    """A server that keeps its streams on the disk mounted at `at`."""
    async with (
        kind(StateDirectory.at(at / "state"), TOPOLOGY, None) as server,
        connect(server.url, name="test", topology=TOPOLOGY, patience=30) as bus,
    ):
        yield server, bus


async def powered_until_cut(
    kind: type[EmbeddedServer], disk: tuple[Path, Path]
) -> list[tuple[Path, Acknowledged]]:
    """Publish on and on, and cut the power in the middle of it; each cut's image, and what had been
    acknowledged before it."""
    image, at = disk
    acknowledged: Acknowledged = {}
    left: list[tuple[Path, Acknowledged]] = []
    async with serving(kind, at) as (server, bus):
        for stream in TOPOLOGY.streams:
            if stream.name in STREAMS:
                await bus.api(f"STREAM.CREATE.{stream.name}", stream_config(stream, TOPOLOGY))
        for bucket in TOPOLOGY.buckets:
            if bucket.stream in STREAMS:
                await bus.api(f"STREAM.CREATE.{bucket.stream}", bucket_config(bucket, TOPOLOGY))
        await asyncio.to_thread(synced, at)  # only messages are at stake
        publishing = [
            asyncio.ensure_future(publish(bus, name, subject, writer, acknowledged))
            for name, subject in STREAMS.items()
            for writer in range(4)
        ]
        try:
            for n in range(CUTS):
                wanted = len(acknowledged) + ACKNOWLEDGED
                await eventually(lambda: len(acknowledged) >= wanted, expected=True, within=60)  # noqa: B023  # called at once
                before, copy = dict(acknowledged), image.with_name(f"cut-{n}.img")
                os.kill(server.pid, signal.SIGSTOP)  # no instruction more: this is the moment
                try:
                    await asyncio.to_thread(cut, image, copy)
                finally:
                    os.kill(server.pid, signal.SIGCONT)
                left.append((copy, before))
        finally:
            for task in publishing:
                task.cancel()
            await asyncio.wait(publishing)
    return left


async def publish(bus: Bus, stream: str, subject: str, writer: int, into: Acknowledged) -> None:
    """One message after the other, each as soon as the one before is acknowledged."""
    for n in itertools.count():
        body = f"{stream}-{writer}-{n}".encode() * 20
        receipt = await bus.publish(subject.format(f"w{writer}-{n}"), body)
        into[stream, receipt.seq] = body


async def lost(image: Path, acknowledged: Acknowledged) -> list[tuple[str, int]]:
    """What a server that starts on this disk does not have, or has otherwise."""
    with mounted(image, image.with_suffix(".mounted")) as at:
        async with serving(EmbeddedServer, at) as (_, bus):
            present: Acknowledged = {}
            for stream in STREAMS:
                after = 0
                while page := await bus.page(stream, ">", after=after):
                    present |= {(stream, stored.seq): stored.data for stored in page}
                    after = page[-1].seq
    return [key for key, body in acknowledged.items() if present.get(key) != body]


async def test_what_was_acknowledged_is_there_after_the_power_failed(
    disk: tuple[Path, Path],
) -> None:
    for image, acknowledged in await powered_until_cut(EmbeddedServer, disk):
        assert {stream for stream, _ in acknowledged} == STREAMS.keys()
        assert await lost(image, acknowledged) == []


async def test_without_our_setting_it_is_not(disk: tuple[Path, Path]) -> None:
    """So the test above can fail."""
    [*_, (image, acknowledged)] = await powered_until_cut(Careless, disk)

    assert await lost(image, acknowledged) != []
