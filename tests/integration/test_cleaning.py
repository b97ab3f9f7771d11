"""Cleaning a node: images by their last use, what dead workers left, and nothing that is not known."""

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound
from msgspec.structs import replace

from contracts.bus import Bus, Held, apply_consumer
from contracts.codec import convert, decode
from contracts.events import Event
from contracts.ids import NodeId, TaskId, WorkerId
from contracts.image import Cleaned, ImageRecord
from contracts.session import SessionRecord
from contracts.worker import WorkerRecord
from services.worker_manager.credentials import Kept
from services.worker_manager.crew import now
from tests.support.cli import Cli
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import (
    labelled,
    need_engine,
    remove_everything_of,
    stand_in_image,
)
from tests.support.images import worker_image
from tests.support.raw_nats import control_plane
from tests.support.waiting import eventually

AT_ONCE = {"JETCREW_CLEANING__SETTLE": "0"}
NOW_AND_ALL = {"older_than": 0, "keep": 0}


@asynccontextmanager
async def containers_of(crew: RunningCrew) -> AsyncIterator[docker.DockerClient]:
    """The engine, and nothing of the crew on it afterwards."""
    client = need_engine()
    try:
        yield client
    finally:
        await crew.stop_manager()
        remove_everything_of(crew.server.identity.crew)


async def gc(crew: RunningCrew, **body: Any) -> Cleaned:
    """One cleaning of the only node."""
    result = await crew.ask("image.gc", body, **{"Jc-Wait": "60"})
    assert result.error is None, result.error
    [cleaned] = convert(result.record, list[Cleaned])
    return cleaned


async def events_of(crew: RunningCrew, kind: str) -> list[Any]:
    return [
        decode(stored.data, Event)  # type: ignore[arg-type]  # a union is not a class
        for stored in await crew.events("jetcrew.evt.>")
        if stored.subject.endswith(f".{kind}")
    ]


async def end(crew: RunningCrew, name: str) -> None:
    await crew.ask("worker.delete", {"name": name})
    await crew.until(name, "stopped")


# -- what is not known ----------------------------------------------------------------------------


async def test_deleting_the_records_under_live_workers_makes_cleaning_remove_nothing(
    tmp_path: Path,
) -> None:
    """R15."""
    await worker_image("shell")
    async with (
        running_crew(tmp_path, **AT_ONCE) as crew,
        containers_of(crew) as engine,
        control_plane(crew.server) as bus,
    ):
        await crew.create("ada", runtime="docker", network="none")
        await crew.create("bob")
        await crew.create("eve")
        await end(crew, "eve")
        (crew.server.state.workers / "eve").mkdir()
        await bus.api("STREAM.DELETE.KV_jc_worker")

        unreadable = await gc(crew, **NOW_AND_ALL)
        await crew.kill_manager()
        await crew.start_manager()  # which makes the bucket anew, and empty
        empty = await gc(crew, **NOW_AND_ALL)

        assert (unreadable.removed, empty.removed) == ([], [])
        assert "cannot be read" in (unreadable.doubt or "")
        assert "no record knows" in (empty.doubt or "")
        [container] = engine.containers.list(filters=labelled(crew.server.identity.crew))
        assert container.status == "running"
        assert crew.wrapper("bob").is_running()
        assert (crew.server.state.workers / "eve").is_dir()
        told = await events_of(crew, "kept-unknown")
        assert any(f"container {container.name}" in event.things for event in told)


# -- what dead workers left -----------------------------------------------------------------------


def plant(engine: docker.DockerClient, crew: RunningCrew, worker: str) -> str:
    """A container that was made and never started, and a volume; the name of both."""
    name = f"jetcrew-{crew.server.identity.crew}.{worker}"
    labels = {
        "jetcrew.crew": crew.server.identity.crew,
        "jetcrew.node": "here",
        "jetcrew.kind": "worker",
        "jetcrew.worker": worker,
        "jetcrew.incarnation": "1",
    }
    engine.containers.create(stand_in_image(), name=name, labels=labels)
    engine.volumes.create(name=name, labels=labels)
    return name


async def plant_on_bus(bus: Bus, worker: str) -> None:
    await apply_consumer(bus, bus.topology.run_consumer(WorkerId(worker)))
    await bus.bucket("jc_secret", Kept).put(f"ctl.{worker}", Kept(value="0a"))
    session = SessionRecord(agent_session="s", seen_at=now(), task=TaskId("t-0"))
    await bus.bucket("jc_session", SessionRecord).put(f"{worker}.continue", session)


async def ended_now(bus: Bus, worker: str) -> None:
    """As if what was planted had been there when the worker ended."""
    bucket = bus.bucket("jc_worker", WorkerRecord)
    held = await bucket.get(worker)
    assert held is not None
    await bucket.put(worker, replace(held.value, changed_at=now()))


async def test_all_that_dead_workers_left_goes_and_what_nobody_knows_stays(tmp_path: Path) -> None:
    async with (
        running_crew(tmp_path, **AT_ONCE) as crew,
        containers_of(crew) as engine,
        control_plane(crew.server) as bus,
    ):
        await crew.create("ada")
        await crew.create("bob")
        await end(crew, "ada")
        left, unknown = plant(engine, crew, "ada"), plant(engine, crew, "ghost")
        await plant_on_bus(bus, "ada")
        directory = crew.server.state.workers / "ada" / "workspace"
        directory.mkdir(parents=True)
        directory.chmod(0o500)
        await ended_now(bus, "ada")

        tried = await gc(crew, dry_run=True)
        assert directory.is_dir()
        assert engine.containers.get(left).status == "created"
        done = await gc(crew)
        again = await gc(crew)

        assert {judged.kind for judged in done.removed} == {
            "container", "volume", "directory", "consumer", "secret", "session",
        }  # fmt: skip
        assert {j.worker for j in done.removed} == {"ada"}
        assert tried.removed == done.removed
        assert again.removed == []
        with pytest.raises(NotFound):
            engine.containers.get(left)
        assert [
            v.name for v in engine.volumes.list(filters=labelled(crew.server.identity.crew))
        ] == [unknown]
        assert engine.containers.get(unknown).status == "created"
        assert not directory.exists()
        assert (await bus.api("CONSUMER.NAMES.JC_RUN"))["consumers"] == ["bob"]
        [event] = await events_of(crew, "cleaned")
        assert event.removed["container"] == 1
        [told] = await events_of(crew, "kept-unknown")
        assert told.things == [f"container {unknown}", f"volume {unknown}"]
        await crew.submit("bob", "echo fine", task="t-1")
        assert (await crew.ended("t-1")).state == "succeeded"


async def test_a_node_cleans_itself_by_the_clock(tmp_path: Path) -> None:
    async with running_crew(tmp_path, JETCREW_CLEANING__EVERY="0.5", **AT_ONCE) as crew:
        await crew.create("ada")
        await end(crew, "ada")
        directory = crew.server.state.workers / "ada"
        directory.mkdir(exist_ok=True)

        await eventually(directory.exists, expected=False)


async def test_another_node_is_asked_and_one_that_does_not_answer_is_named(tmp_path: Path) -> None:
    async with running_crew(tmp_path) as crew, control_plane(crew.server) as bus:

        async def there(_message: object) -> Cleaned:
            return Cleaned(node=NodeId("there"))

        async with bus.serve("jetcrew.node.there.clean", there):
            answered = await crew.ask("image.gc", {"node": "there", "dry_run": True})
        silent = await crew.ask("image.gc", {"node": "nowhere"})

    assert convert(answered.record, list[Cleaned]) == [Cleaned(node=NodeId("there"))]
    assert silent.error is not None
    assert (silent.error.code, silent.error.field) == (404, "$.node")
    assert "nowhere" in silent.error.description


# -- images ---------------------------------------------------------------------------------------


@pytest.fixture
def capability(tmp_path: Path) -> Iterator[str]:
    """A tool set that no other crew has, so that its image is this crew's own."""
    name = f"try-{secrets.token_hex(4)}"
    folder = tmp_path / "data" / "capabilities"
    folder.mkdir(parents=True)
    text = f'name = "{name}"\nsteps = ["echo {name}"]\ncheck = "true"\n'
    (folder / f"{name}.toml").write_text(text)
    yield name
    client = need_engine()
    for image in client.images.list(filters={"label": f"jetcrew.capabilities={name}"}):
        for tag in image.tags:
            client.images.remove(tag, force=True)


async def test_an_image_goes_once_nothing_uses_it_and_is_built_again_when_needed(
    tmp_path: Path, capability: str
) -> None:
    await worker_image("shell")
    data = f'["{tmp_path / "data"}"]'
    async with (
        running_crew(tmp_path, JETCREW_DATA=data, **AT_ONCE) as crew,
        containers_of(crew) as engine,
    ):
        spec = {"runtime": "docker", "network": "none", "capabilities": [capability]}
        await crew.create("ada", **spec)
        [used] = await images_of(crew, capability)
        while_used = await gc(crew, **NOW_AND_ALL)
        await end(crew, "ada")
        dry = await gc(crew, dry_run=True, **NOW_AND_ALL)
        kept = await gc(crew, keep=1, older_than=0)
        young = await gc(crew, keep=0, older_than=3600)
        shown = await command(crew, "list")
        told = await command(crew, "gc", "--dry-run", "--all-unused")
        engine.images.get(used.value.tag).tag("jetcrew/worker", f"{capability}-unchecked")
        gone = await gc(crew, **NOW_AND_ALL)

        assert used.value.last_used_by == "ada"
        assert why(while_used, used.value.tag) in {"a container uses it", "worker ada has it"}
        assert why(kept, used.value.tag) == "it is among the 1 used last"
        assert why(young, used.value.tag) == "it was used less than 3600 s ago"
        assert used.value.tag in {item["tag"] for item in shown}
        assert removed_images(dry) == [used.value.tag]
        [told_of] = convert(told, list[Cleaned])
        assert (told_of.dry_run, removed_images(told_of)) == (True, [used.value.tag])
        assert set(removed_images(gone)) == {
            used.value.tag,
            f"jetcrew/worker:{capability}-unchecked",
        }
        assert dry.removed_bytes == used.value.size_bytes > 0
        with pytest.raises(NotFound):
            engine.images.get(used.value.tag)
        assert await images_of(crew, capability) == []
        assert used.value.image in {event.image for event in await events_of(crew, "removed")}

        await crew.create("bob", **spec)
        [anew] = await images_of(crew, capability)
        assert (anew.value.tag, anew.value.last_used_by) == (used.value.tag, "bob")
        await end(crew, "bob")

        crew.settings["JETCREW_DISK_RESERVE"] = "1e18"
        await crew.stop_manager()
        await crew.start_manager()  # and no disk has so much room
        await eventually(lambda: count_of(crew, capability), expected=0)
        with pytest.raises(NotFound):
            engine.images.get(used.value.tag)


async def images_of(crew: RunningCrew, capability: str) -> list[Held[ImageRecord]]:
    held = await crew.bus.bucket("jc_image", ImageRecord).list()
    return [h for h in held.values() if capability in h.value.capabilities]


async def count_of(crew: RunningCrew, capability: str) -> int:
    return len(await images_of(crew, capability))


async def command(crew: RunningCrew, *arguments: str) -> list[dict[str, Any]]:
    """What `jetcrew image` prints."""
    creds = str(crew.server.creds("operator"))
    cli = Cli(crew.server.state.root, {"JETCREW_URL": crew.server.url, "JETCREW_CREDS": creds})
    found: list[dict[str, Any]] = (
        await asyncio.to_thread(cli, "image", *arguments, "--json")
    ).document
    return found


def removed_images(cleaned: Cleaned) -> list[str]:
    return [judged.name for judged in cleaned.removed if judged.kind == "image"]


def why(cleaned: Cleaned, tag: str) -> str | None:
    return next((judged.why for judged in cleaned.kept if judged.name == tag), None)


# -- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A directory on a disk that nobody else fills."""
    memory = Path("/dev/shm")  # a file system in memory is the point
    if not memory.is_dir() or shutil.disk_usage(memory).free < 256 << 20:
        pytest.skip("no file system in memory")
    directory = memory / f"jetcrew-test-{secrets.token_hex(4)}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


async def test_while_a_disk_is_full_no_worker_is_made_and_every_caller_knows_at_once(
    small_disk: Path,
) -> None:
    reserve = shutil.disk_usage(small_disk).free - (64 << 20)
    async with running_crew(small_disk, JETCREW_DISK_RESERVE=str(reserve)) as crew:
        filler = small_disk / "filler"
        filler.write_bytes(bytes(96 << 20))
        began = time.monotonic()
        refused = await crew.ask("worker.create", {"name": "ada", "agent": "shell"})
        took = time.monotonic() - began

        assert refused.error is not None
        assert refused.error.code == 507
        assert str(crew.server.state.root) in refused.error.description
        assert took < 2
        assert await crew.worker("ada") is None
        await eventually(lambda: kinds(crew), ["disk-full"])
        filler.unlink()
        await eventually(lambda: kinds(crew), ["disk-full", "disk-freed"])
        await crew.create("ada")


async def kinds(crew: RunningCrew) -> list[str]:
    return await crew.kinds("jetcrew.evt.node.here.>")


@pytest.mark.soak
async def test_a_worker_that_comes_while_its_image_is_being_removed_finds_it_or_has_it_built(
    tmp_path: Path, capability: str
) -> None:
    await worker_image("shell")
    data = f'["{tmp_path / "data"}"]'
    spec = {"runtime": "docker", "network": "none", "capabilities": [capability]}
    async with running_crew(tmp_path, JETCREW_DATA=data, **AT_ONCE) as crew, containers_of(crew):
        removed = []

        async def clean() -> None:
            removed.append(len(removed_images(await gc(crew, **NOW_AND_ALL))))

        for round_trips in range(0, 1800, 200):
            await crew.create("ada", **spec)
            await end(crew, "ada")
            async with asyncio.TaskGroup() as group:
                group.create_task(clean())
                for _ in range(round_trips):  # the create comes a little later each time
                    await crew.worker("ada")
                group.create_task(crew.create("ada", **spec))
            await end(crew, "ada")

        assert 1 in removed
        assert await crew.kinds("jetcrew.evt.worker.ada.failed") == []
