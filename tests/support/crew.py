"""A worker manager as a process of its own, on a real server, and an operator who commands it."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from contracts.bus import Bus, Stored, connect
from contracts.errors import BusUnavailable
from contracts.results import Result
from contracts.task import TaskRecord
from contracts.worker import WorkerRecord
from tests.support.engine import remove_everything_of
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually


@dataclass
class RunningCrew:
    """Server, manager and operator."""

    server: Server
    bus: Bus
    """The operator's."""
    log: Path
    settings: dict[str, str] = field(default_factory=dict)
    manager: asyncio.subprocess.Process | None = None

    async def spawn_manager(self, **settings: str) -> asyncio.subprocess.Process:
        """Start one, and do not wait for it; `settings` differ from those of the crew."""
        environment = {
            "PATH": os.environ["PATH"],  # noqa: TID251  # tests have no settings
            "HOME": str(self.server.state.root.parent),
            "JETCREW_STATE_DIR": str(self.server.state.root),
            "JETCREW_URL": self.server.url,
            "JETCREW_NODE": "here",
            "JETCREW_TICK": "1",
            **self.settings,
            **settings,
        }
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.worker_manager",
                env=environment, stderr=log, cwd=Path(__file__).parents[2],
            )  # fmt: skip

    async def start_manager(self) -> None:
        """Returns when its doors answer."""
        manager = self.manager = await self.spawn_manager()

        async def answers() -> bool:
            assert manager.returncode is None, f"the manager ended:\n{self.log.read_text()[-3000:]}"
            try:
                await self.ask("worker.status", {"name": "nobody"})
            except BusUnavailable:
                return False
            return True

        await eventually(answers, expected=True, within=60)

    async def kill_manager(self) -> None:
        """SIGKILL, as a crash."""
        await killed(self.manager)

    async def stop_manager(self) -> int:
        """SIGTERM; its exit code."""
        assert self.manager is not None
        if self.manager.returncode is None:
            self.manager.send_signal(signal.SIGTERM)
        return await self.manager.wait()

    async def ask(self, tail: str, body: dict[str, Any], **headers: str) -> Result:
        """A synchronous door's answer."""
        message = await self.bus.request(
            f"jetcrew.api.{tail}", msgspec.json.encode(body), headers=headers, timeout=10
        )
        return msgspec.json.decode(message.data, type=Result)

    async def create(self, name: str, **spec: Any) -> None:
        """Make a worker and wait until it is ready."""
        result = await self.ask(
            "worker.create", {"name": name, "agent": "shell", "runtime": "process"} | spec
        )
        assert result.error is None, result.error
        record = await self.until(name, "ready", "failed")
        assert record.state == "ready", record.reason

    async def until(self, name: str, *states: str, within: float = 90) -> WorkerRecord:
        """The worker once it is in one of these states."""

        async def there() -> bool:
            record = await self.worker(name)
            return record is not None and record.state in states

        await eventually(there, expected=True, within=within)
        record = await self.worker(name)
        assert record is not None
        return record

    async def submit(self, worker: str, prompt: str, *, task: str, **body: Any) -> str:
        """Publish a prompt; the task's id."""
        message = msgspec.json.encode({"prompt": prompt} | body)
        await self.bus.publish(f"jetcrew.task.{worker}", message, id=task)
        return task

    async def ended(self, task: str, within: float = 90) -> TaskRecord:
        """The task once it is over."""

        async def over() -> bool:
            record = await self.task(task)
            return record is not None and record.ended

        await eventually(over, expected=True, within=within)
        record = await self.task(task)
        assert record is not None
        return record

    async def running(self, task: str, marker: Path | None = None) -> TaskRecord:
        """The task once it runs, and its script has made `marker`."""

        async def runs() -> bool:
            record = await self.task(task)
            assert record is None or not record.ended, record
            return record is not None and record.state == "running"

        await eventually(runs, expected=True, within=90)
        if marker is not None:
            await eventually(marker.exists, expected=True, within=30)
        record = await self.task(task)
        assert record is not None
        return record

    async def task(self, task: str) -> TaskRecord | None:
        """A task's record."""
        held = await self.bus.bucket("jc_task", TaskRecord).read(task)
        return held.value if held else None

    async def worker(self, name: str) -> WorkerRecord | None:
        """A worker's record."""
        held = await self.bus.bucket("jc_worker", WorkerRecord).read(name)
        return held.value if held else None

    async def events(self, filtered: str = "jetcrew.evt.>") -> list[Stored]:
        """History, oldest first."""
        found: list[Stored] = []
        while page := await self.bus.page("JC_EVT", filtered, after=found[-1].seq if found else 0):
            found += page
        return found

    async def kinds(self, filtered: str = "jetcrew.evt.>") -> list[str]:
        """The last token of each event's subject, progress left out."""
        kinds = [event.subject.rpartition(".")[2] for event in await self.events(filtered)]
        return [kind for kind in kinds if kind != "progress"]

    def processes(self, worker: str) -> list[psutil.Process]:
        """What runs in a worker's home; other crews of this machine may have one of the same name."""
        home, found = str(self.server.state.workers / worker / "home"), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == home:
                    found.append(process)
        return found

    def wrapper(self, worker: str, state: Path | None = None) -> psutil.Process:
        """The worker's wrapper process, below another state directory than the crew's own."""
        directory = str((state or self.server.state.root) / "workers" / worker)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if (
                    "wrapper" in line
                    and any(directory in part for part in line)
                    and "-S" not in line
                ):
                    return process
        raise AssertionError(f"no wrapper of {worker} runs")


@contextlib.asynccontextmanager
async def running_crew(tmp_path: Path, **settings: str) -> AsyncIterator[RunningCrew]:
    """A server with a manager; all of it is gone at the end, workers included."""
    async with (
        running_server(tmp_path, applied=True) as server,
        connect(
            server.url,
            name="operator",
            creds=server.creds("operator"),
            inbox_prefix="_INBOX.ops.operator",
            patience=30,
        ) as bus,
    ):
        crew = RunningCrew(server, bus, tmp_path / "manager.log", settings)
        await crew.start_manager()
        try:
            yield crew
        finally:
            await crew.stop_manager()
            await asyncio.to_thread(remove_everything_of, server.identity.crew)
            kill_all_below(str(server.state.workers))


@contextlib.asynccontextmanager
async def another_node(crew: RunningCrew, state: Path, **more: str) -> AsyncIterator[str]:
    """A second manager of this crew, as on another host: same identity, own state directory."""
    shutil.copytree(
        crew.server.state.root, state, ignore=shutil.ignore_patterns("*.lock", "*.sock")
    )
    settings = crew.settings | {"JETCREW_NODE": "there", "JETCREW_STATE_DIR": str(state), **more}
    other = RunningCrew(crew.server, crew.bus, state.parent / "there.log", settings)
    await other.start_manager()
    try:
        yield "there"
    finally:
        await other.stop_manager()
        kill_all_below(str(state))


async def killed(process: asyncio.subprocess.Process | None) -> None:
    """SIGKILL it, and see it gone."""
    assert process is not None
    if process.returncode is None:
        process.kill()
    await process.wait()


def kill_all_below(directory: str) -> None:
    """Processes that name something in this directory."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(directory in part for part in process.cmdline()):
                process.kill()
