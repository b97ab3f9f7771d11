"""Workers as plain processes of this user, for trying jetcrew where there is no container engine.

Nothing is isolated: an agent can do whatever the user who started jetcrew can, its files and other
workers' included. Limits of memory, CPUs and processes are not applied: the kernel's per-process limits
count address space (which Node reserves by the gigabyte) and processes per user (all of them). Linux only.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import structlog
from msgspec import Struct

from contracts.codec import decode
from contracts.errors import EngineRefused, EngineUnavailable, InvalidMessage, NotThere
from contracts.evidence import Resources
from contracts.worker import ExecOutcome
from services.kit.catalog import Catalog
from services.worker_manager.runtimes import Exit, Layout, Unit, UnitSpec, proc, supervise
from services.worker_manager.runtimes.execs import run_beside
from services.worker_manager.runtimes.files import write_files

MARKER = "JETCREW_UNIT"
"""Environment variable that names the unit a process belongs to."""
POLL = 0.25
"""Seconds between two looks at what runs."""
KILL_TIMEOUT = 5.0
"""Seconds that everything may take to be gone after SIGKILL."""
SPAWN_TIMEOUT = 60.0
"""Seconds to fork and report; a loaded machine takes long to start even that."""
TAIL_LINES = 50
TAIL_BYTES = 65_536

log = structlog.get_logger()


class _Record(Struct, frozen=True, kw_only=True):
    """`unit.json`, as the supervisor writes it."""

    worker: str
    incarnation: int
    pid: int
    started: int | None
    supervisor: int
    supervisor_started: int | None
    boot: str


class _Ending(Struct, frozen=True, kw_only=True):
    """`exit.json`, likewise."""

    code: int | None = None
    signal: str | None = None


class ProcessRuntime:
    """Units are process trees, each under a small supervisor that outlives this process.

    `command` and the boot directory make the wrapper's command line; its environment is `environment`
    (such as the locale and certificate settings of the host), PATH, HOME and the marker, nothing else.
    """

    name: Literal["process"] = "process"

    def __init__(
        self,
        workers: Path,
        catalog: Catalog,
        *,
        bus: str,
        path: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-I", "-m", "wrapper", "--boot"),
    ) -> None:
        self._workers = workers
        self._catalog = catalog
        self._bus = bus
        self._path = path
        self._environment = dict(environment or {})
        self._command = tuple(command)

    async def available(self) -> str | None:
        """None on Linux."""
        if not sys.platform.startswith("linux"):
            return "workers can run as plain processes on Linux only; start a container engine"
        return None

    def layout(self, worker: str, agent: str) -> Layout:
        """Paths on this host."""
        directory = self._workers / worker
        return Layout(
            agent_file=str(self._catalog.agent_file(agent)),
            workspace=str(directory / "workspace"),
            home=str(directory / "home"),
            bus=self._bus,
            path=self._path,
        )

    async def start(self, spec: UnitSpec) -> Unit:
        """Start the wrapper below a supervisor, or adopt the one that runs."""
        unit = await asyncio.to_thread(self._unit, spec.worker)
        if unit is not None and unit.state != "exited":
            if unit.incarnation == spec.incarnation:
                return unit
            await self.stop(spec.worker, grace=0)
        await asyncio.to_thread(self._spawn, spec)
        started = await asyncio.to_thread(self._unit, spec.worker)
        assert started is not None
        log.info("unit.started", worker=spec.worker, unit=started.id, runtime=self.name)
        return started

    async def stop(self, worker: str, grace: float) -> Exit | None:
        """SIGTERM for the wrapper, SIGKILL for every process of the unit after `grace` seconds."""
        record = await asyncio.to_thread(self._record, worker)
        if record is None:
            return None
        if grace > 0 and record.started is not None:
            proc.send(record.pid, signal.SIGTERM, started=record.started)
            await self.resume_if_paused(record)
            if (ended := await self._ended_within(worker, grace)) is not None:
                return ended
        await asyncio.to_thread(self._signal, record, signal.SIGKILL)
        if (
            ended := await self._ended_within(worker, KILL_TIMEOUT)
        ) is None and record.supervisor_started:
            proc.send(record.supervisor, signal.SIGKILL, started=record.supervisor_started)
            ended = await self._ended_within(worker, KILL_TIMEOUT)
        return ended

    async def remove(self, worker: str, keep_volumes: bool) -> None:
        """Delete the run directory, or all of it but workspace and home."""
        await self.stop(worker, grace=0)
        await asyncio.to_thread(self._delete, worker, keep_volumes)

    async def pause(self, worker: str) -> None:
        """SIGSTOP for every process of the unit."""
        await asyncio.to_thread(self._signal, await self._running(worker), signal.SIGSTOP)

    async def resume(self, worker: str) -> None:
        """SIGCONT for every process of the unit."""
        await asyncio.to_thread(self._signal, await self._running(worker), signal.SIGCONT)

    async def resume_if_paused(self, record: _Record) -> None:
        """A stopped process would see SIGTERM only once it is continued."""
        if record.started is not None and proc.state(record.pid, record.started) == "T":
            await asyncio.to_thread(self._signal, record, signal.SIGCONT)

    async def exits(self, stop: asyncio.Event) -> AsyncIterator[Unit]:
        """Look four times a second. The first look tells of everything that has ended by then."""
        told: set[str] = set()
        while not stop.is_set():
            ended = [unit for unit in await self.list() if unit.state == "exited"]
            for unit in ended:
                if unit.id not in told:
                    yield unit
            told = {unit.id for unit in ended}
            try:
                async with asyncio.timeout(POLL):
                    await stop.wait()
            except TimeoutError:
                continue

    async def resources(self, worker: str) -> Resources | None:
        """Not measured: nothing bounds these processes, and nothing adds them up."""
        return None

    async def exec(self, worker: str, argv: Sequence[str], timeout: float) -> ExecOutcome:
        """As another process of the unit, which ends with it."""
        record = await self._running(worker)
        directory = self._workers / worker
        environment = self._environment_of(directory, worker, record.incarnation)
        return await run_beside(argv, timeout, cwd=directory / "workspace", env=environment)

    async def logs(self, worker: str, lines: int = 200) -> str:
        """The end of `wrapper.log`, 64 KiB of it at most."""
        return await asyncio.to_thread(self._tail, worker, lines)

    async def list(self) -> list[Unit]:
        """Every run directory that a wrapper was started in."""
        return await asyncio.to_thread(lambda: [*self._all()])

    async def find(self, worker: str) -> Unit | None:
        """By its run directory."""
        return await asyncio.to_thread(self._unit, worker)

    # What follows blocks, for as long as reading a few small files takes, and runs in threads.

    def _all(self) -> Iterator[Unit]:
        if self._workers.is_dir():
            for path in sorted(self._workers.glob("*/unit.json")):
                if (unit := self._unit(path.parent.name)) is not None:
                    yield unit

    def _record(self, worker: str) -> _Record | None:
        try:
            return decode((self._workers / worker / "unit.json").read_bytes(), _Record)
        except (FileNotFoundError, InvalidMessage):
            return None

    def _unit(self, worker: str) -> Unit | None:
        record = self._record(worker)
        if record is None:
            return None
        ended = self._exit(record)
        paused = record.started is not None and proc.state(record.pid, record.started) == "T"
        return Unit(
            id=f"{record.pid}-{record.started}",
            worker=record.worker,
            incarnation=record.incarnation,
            state="exited" if ended else "paused" if paused else "running",
            exit=ended,
        )

    def _exit(self, record: _Record) -> Exit | None:
        """How it ended; None while the wrapper, or a supervisor that will tell, is alive."""
        same_boot = record.boot == proc.boot_id()
        if same_boot and any(
            started is not None and proc.state(pid, started) is not None
            for pid, started in (
                (record.pid, record.started),
                (record.supervisor, record.supervisor_started),
            )
        ):
            return None
        tail = self._tail(record.worker, TAIL_LINES)
        try:
            ending = decode((self._workers / record.worker / "exit.json").read_bytes(), _Ending)
        except (FileNotFoundError, InvalidMessage):
            return Exit(reason="unknown" if same_boot else "engine-lost", log_tail=tail)
        reason = "killed" if ending.signal else f"exit-{ending.code}"
        return Exit(code=ending.code, signal=ending.signal, reason=reason, log_tail=tail)

    async def _running(self, worker: str) -> _Record:
        record = await asyncio.to_thread(self._record, worker)
        if record is None or await asyncio.to_thread(self._exit, record) is not None:
            raise NotThere(f"worker {worker} does not run")
        return record

    async def _ended_within(self, worker: str, seconds: float) -> Exit | None:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    unit = await asyncio.to_thread(self._unit, worker)
                    if unit is None or unit.exit is not None:
                        return unit.exit if unit else None
                    await asyncio.sleep(POLL / 5)
        except TimeoutError:
            return None

    def _marker(self, worker: str, incarnation: int) -> str:
        """Names the directory too: another crew on this host may have a worker of the same name."""
        place = sha256(str(self._workers.absolute()).encode()).hexdigest()[:12]
        return f"{worker}-{incarnation}-{place}"

    def _spawn(self, spec: UnitSpec) -> None:
        directory = self._workers / spec.worker
        for name in ("workspace", "home"):
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if supervise.occupied(directory):
            raise EngineUnavailable(f"worker {spec.worker} is being started, or is just ending")
        _delete(directory / name for name in ("cred", "unit.json", "exit.json", "wrapper.log"))
        write_files(directory / "cred", spec.files)
        boot = directory / "cred"
        environment = self._environment_of(directory, spec.worker, spec.incarnation)
        supervised = [spec.worker, str(spec.incarnation), *self._command, str(boot)]
        with (directory / "wrapper.log").open("ab") as output:
            done = subprocess.run(
                [sys.executable, "-I", "-S", supervise.__file__, *supervised],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=SPAWN_TIMEOUT,
                check=False,
            )
        if done.returncode:
            why = (
                "another process starts it"
                if done.returncode == supervise.OCCUPIED
                else "see its log"
            )
            tail = self._tail(spec.worker, 3)
            raise EngineRefused(
                f"worker {spec.worker} could not be started: {why}\n{tail}".rstrip()
            )

    def _environment_of(self, directory: Path, worker: str, incarnation: int) -> dict[str, str]:
        return {
            **self._environment,
            "PATH": self._path,
            "HOME": str(directory / "home"),
            MARKER: self._marker(worker, incarnation),
        }

    def _signal(self, record: _Record, signum: signal.Signals) -> None:
        """Signal every process of a unit but its supervisor, until a look finds no further one."""
        if record.boot != proc.boot_id():
            return
        marker = f"{MARKER}={self._marker(record.worker, record.incarnation)}"
        signalled: set[int] = set()
        while True:
            found = proc.carrying(marker)
            supervisor = record.supervisor, record.supervisor_started
            if supervisor[1] is not None and proc.state(supervisor[0], supervisor[1]) is not None:
                found |= proc.descendants(record.supervisor)
            found -= signalled | {record.supervisor}
            if not found:
                return
            for pid in found:
                proc.send(pid, signum)
            signalled |= found

    def _delete(self, worker: str, keep_volumes: bool) -> None:
        directory = self._workers / worker
        if not directory.is_dir():
            return
        kept = {"workspace", "home"} if keep_volumes else set()
        _delete(path for path in directory.iterdir() if path.name not in kept)
        if not any(directory.iterdir()):
            directory.rmdir()

    def _tail(self, worker: str, lines: int) -> str:
        try:
            with (self._workers / worker / "wrapper.log").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            _make_writable(path)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _make_writable(directory: Path) -> None:
    """Package caches make their directories read-only, which keeps their files from being deleted."""
    directory.chmod(0o700)
    for below in directory.rglob("*/"):
        if not below.is_symlink():
            below.chmod(0o700)
