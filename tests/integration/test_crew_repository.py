"""Repositories through a whole crew: laid out at the door, worked on in both runtimes, fetched back."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.bus import Artifacts
from contracts.ids import WorkerId
from contracts.repository import RepositorySource
from contracts.task import TaskRecord
from contracts.topology import OBJECTS
from services.cli.git import Git
from services.cli.packing import Wanted, packed
from services.cli.repository import bring_home, lay_out
from services.cli.screen import Screen
from tests.support.containers import container_crew, inside, start
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine
from tests.support.git import ENVIRONMENT, Repository
from tests.support.images import worker_image

ME = "-c user.name=a -c user.email=a@b"
SCRIPT = (
    f"ls -A; git log --format=%s; echo two >> file; git {ME} commit -qam two; echo three > left"
)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path / "crew") as running:
        yield running


@pytest.fixture
def mine(tmp_path: Path) -> Repository:
    repository = Repository.made(tmp_path / "mine")
    repository.write(".mcp.json", "evil\n")
    repository.commit()
    return repository


def screen() -> Screen:
    return Screen(document=True)


async def sent(crew: RunningCrew, mine: Repository, worker: str = "ada") -> RepositorySource:
    wanted = Wanted(where=str(mine.path), limit=1 << 26)
    async with packed(wanted, ENVIRONMENT, lambda _: None) as found:
        return await lay_out(crew.bus, worker, found, screen())


async def work_of(crew: RunningCrew, mine: Repository) -> TaskRecord:
    source = await sent(crew, mine)
    await crew.submit("ada", SCRIPT, task="t-1", repository=msgspec.to_builtins(source))
    done = await crew.ended("t-1")
    assert done.end is not None
    assert (done.state, done.end.text) == ("succeeded", ".git\nfile\none"), done.end
    assert done.repository == source
    assert done.end.work is not None
    await bring_home(crew.bus, Git(mine.path, ENVIRONMENT), done, done.end.work, screen())
    assert mine("show", "jetcrew/t-1:left") == "three"
    assert mine("log", "--format=%s", "jetcrew/t-1").split("\n")[1:] == ["two", "one"]
    assert done.end.git is not None
    assert done.end.git.head == mine("rev-parse", "jetcrew/t-1^")
    return done


async def test_work_comes_back_from_a_process(crew: RunningCrew, mine: Repository) -> None:
    await crew.create("ada", agent="shell")
    await work_of(crew, mine)


async def test_work_comes_back_from_a_container_that_has_no_network_and_no_mount_of_ours(
    tmp_path: Path, mine: Repository
) -> None:
    async with container_crew(tmp_path / "crew") as crew:
        await worker_image("shell", "git")
        source = await sent(crew, mine)
        record = await start(crew, "shell", network="none", repository=msgspec.to_builtins(source))
        assert record.spec.capabilities == ["git"], "a repository brings the tools for it"
        assert inside(record, "git -C /workspace log --format=%s") == (0, "one\n")
        mounts = need_engine().api.inspect_container(str(record.unit))["Mounts"]
        assert not any(str(mine.path) in str(mount.get("Source")) for mount in mounts)
        await work_of(crew, mine)


async def test_a_bundle_is_taken_whole_or_not_at_all(crew: RunningCrew) -> None:
    data = b"x" * 200_000
    laid = {"worker": "ada", "name": "repository-1", "sha256": hashlib.sha256(data).hexdigest()}
    name = OBJECTS.handed_to(WorkerId("ada"), "repository-1")

    async def put(n: int, piece: bytes) -> Any:
        return await crew.ask("artifact.put", {"n": n, "data": msgspec.to_builtins(piece)} | laid)

    async def keep(size: int) -> Any:
        return await crew.ask("artifact.keep", {"size_bytes": size} | laid)

    early = await put(1, data[131_072:])
    assert early.error is not None
    assert "piece 0 comes first" in early.error.description
    for n, piece in ((0, data[:131_072]), (0, data[:131_072]), (1, data[131_072:])):
        assert (await put(n, piece)).error is None
    assert await Artifacts(crew.bus).info(name) is None, "not before it is whole"
    assert (await keep(200_000)).error is None
    assert (await keep(200_000)).error is None, "again is no error"
    assert await Artifacts(crew.bus).get(name, limit=200_000) == data

    other = {**laid, "sha256": "0" * 64}
    taken = await crew.ask("artifact.keep", {"size_bytes": 200_000} | other)
    assert taken.error is not None
    assert taken.error.code == 409


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("put", {"worker": "ada", "name": "x", "sha256": "0", "n": 0, "data": ""}, "$.sha256"),
        ("put", {"worker": "a/b", "name": "x", "sha256": "0" * 64, "n": 0, "data": ""}, "$.worker"),
        ("put", {"worker": "ada", "name": "../x", "sha256": "0" * 64, "n": 0, "data": ""}, "$.name"),
        ("keep", {"worker": "ada", "name": "x", "sha256": "0" * 64, "size_bytes": 0}, "$.size_bytes"),
    ],
)  # fmt: skip
async def test_wrong_input_at_the_door_names_its_field(
    crew: RunningCrew, verb: str, body: dict[str, Any], field: str
) -> None:
    """R31."""
    told = await crew.ask(f"artifact.{verb}", body)

    assert told.error is not None
    assert (told.error.code, told.error.field) == (422, field)


async def test_a_repository_that_is_not_there_or_too_large_is_refused_and_changes_nothing(
    crew: RunningCrew, mine: Repository
) -> None:
    """R31."""
    source = msgspec.to_builtins(await sent(crew, mine))
    gone = await crew.ask(
        "worker.create",
        {"name": "ada", "agent": "shell", "repository": source | {"bundle": "repository-0"}},
    )
    assert gone.error is not None
    assert (gone.error.code, gone.error.field) == (404, "$.repository.bundle")
    mine.commit("big", secrets.token_hex(2_000_000), "big")
    large = msgspec.to_builtins(await sent(crew, mine))
    refused = await crew.ask(
        "worker.create",
        {"name": "ada", "agent": "shell", "repository": large, "limits": {"repository_mb": 1}},
    )
    assert refused.error is not None
    assert "worker 'ada' takes 1,048,576 (limits.repository_mb)" in refused.error.description
    assert await crew.worker("ada") is None

    await crew.create("ada", agent="shell", limits={"repository_mb": 1})
    await crew.submit("ada", "true", task="t-1", repository=large)
    task = await crew.ended("t-1")
    assert task.end is not None
    assert (task.end.reason, task.started_at) == ("refused", None)


async def test_what_was_laid_out_goes_with_its_worker(crew: RunningCrew, mine: Repository) -> None:
    source = await sent(crew, mine)
    await crew.create("ada", agent="shell", repository=msgspec.to_builtins(source))
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")

    assert await Artifacts(crew.bus).list(OBJECTS.all_handed_to(WorkerId("ada"))) == []


async def test_a_workers_repository_that_cannot_be_laid_out_is_why_it_is_not_ready(
    crew: RunningCrew, mine: Repository
) -> None:
    source = msgspec.to_builtins(await sent(crew, mine)) | {"commit": "1" * 40}
    made = await crew.ask(
        "worker.create",
        {"name": "ada", "agent": "shell", "runtime": "process", "repository": source},
    )
    assert made.error is None
    record = await crew.until("ada", "failed")

    assert record.reason is not None
    assert "the repository could not be laid out: git checkout" in record.reason
