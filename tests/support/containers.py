"""A crew whose workers are containers, all of which are gone at the end."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contracts.errors import JetcrewError
from contracts.worker import WorkerRecord
from tests.support.crew import RunningCrew, running_crew
from tests.support.engine import need_engine

BUILD = 600
"""Seconds that the first build of an image may take."""


@asynccontextmanager
async def container_crew(tmp_path: Path, **settings: str) -> AsyncIterator[RunningCrew]:
    """Server, manager and operator; the workers that are left are deleted as a user deletes them."""
    need_engine()
    async with running_crew(tmp_path, **settings) as crew:
        try:
            yield crew
        finally:
            with contextlib.suppress(
                JetcrewError, AssertionError
            ):  # the test tells what went wrong
                await _delete_all(crew)


async def start(
    crew: RunningCrew, agent: str, *, name: str = "ada", **spec: object
) -> WorkerRecord:
    """Make a worker in a container; its record once it is ready."""
    made = await crew.ask(
        "worker.create", {"name": name, "agent": agent, "runtime": "docker"} | spec
    )
    assert made.error is None, made.error
    record = await crew.until(name, "ready", "failed", within=BUILD)
    assert record.state == "ready", record.reason
    return record


def inside(record: WorkerRecord, script: str) -> tuple[int, str]:
    """Exit code and output of a script in a worker's container, as the worker's user."""
    container = need_engine().containers.get(str(record.unit))
    code, said = container.exec_run(["/bin/sh", "-c", script])
    assert isinstance(said, bytes)
    return int(code or 0), said.decode(errors="replace")


def gateway() -> str:
    """The address of this host at which a container of any bridge reaches it."""
    address: str = need_engine().networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    return address


async def _delete_all(crew: RunningCrew) -> None:
    records = await crew.bus.bucket("jc_worker", WorkerRecord).list()
    left = [name for name, held in records.items() if not held.value.ended]
    for name in left:
        await crew.ask("worker.delete", {"name": name})
    for name in left:
        await crew.until(name, "stopped", within=60)
