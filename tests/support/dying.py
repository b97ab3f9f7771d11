"""A manager that dies, as by SIGKILL, in the middle of recording a task: run as a process of its own.

Arguments: server, credentials, where it dies (`owing`: the record is there, its event is not; `told`: the
event is out, the record says that it is owed), the task, its worker, and how far it brings the task.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import create_subprocess_exec
from pathlib import Path

from contracts.bus import Records, connect
from contracts.ids import TaskId, WorkerId
from contracts.task import SubmitTask, TaskRecord
from services.kit.catalog import Catalog
from services.worker_manager import moves
from services.worker_manager.crew import Crew, now
from tests.support.servers import Server


async def die(server: Server, where: str, task: str, worker: str, state: str) -> None:
    """Have a manager die there; returns when it has."""
    process = await create_subprocess_exec(
        sys.executable, "-m", "tests.support.dying",
        server.url, str(server.creds("manager")), where, task, worker, state,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    async with asyncio.timeout(60):
        assert await process.wait() == -signal.SIGKILL


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, creds: str, where: str, task: str, worker: str, state: str) -> None:
    """Does not return."""
    options = {"creds": Path(creds), "inbox_prefix": "_INBOX.manager", "patience": 20}
    async with connect(url, name="dying", **options) as bus:  # type: ignore[arg-type]
        crew, at = Crew(bus, Catalog.load()), now()
        body = SubmitTask(prompt="x")
        record = moves.queued(TaskId(task), WorkerId(worker), body, at, door_seq=1, actor=None)

        def chain(record: TaskRecord) -> str:
            """Asked for when the record is there, and before its event is published."""
            if where == "owing" and record.state == state:
                _die()
            return bus.subjects.events_of_task(record.worker, record.id)

        async def after(record: TaskRecord) -> TaskRecord:
            """Called when the event is published, and before it is struck off."""
            if where == "told" and record.state == state:
                _die()
            return record

        tasks = Records(bus, crew.tasks.bucket, chain, after)
        await tasks.create(task, record)
        await tasks.change(task, lambda r: moves.started(r, 1, "run", at))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
