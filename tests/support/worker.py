"""A real wrapper process on a real server, with the test in the manager's place."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.asks import Assignment, Boot, CredentialAnswer, StartAnswer, StartTask
from contracts.bus import Bus, Message, apply_consumer
from contracts.codec import decode, encode
from contracts.ids import WorkerId, nonce
from contracts.reports import Finished, Heartbeat, Output, Report
from services.kit.identity.claims import creds_text
from services.kit.identity.keys import KeyPair
from services.kit.identity.workers import LIFE, new_user
from tests.support.servers import Server
from tests.support.waiting import eventually

AGENTS = Path(__file__).resolve().parents[2] / "images" / "agents"
ADA = WorkerId("ada")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Worker:
    """One wrapper and what is known of it."""

    server: Server
    bus: Bus
    root: Path
    name: WorkerId = ADA
    agent_file: Path = AGENTS / "shell.toml"
    boot: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the boot file that differ from the default."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    credential_life: float = LIFE
    bus_url: str = ""
    """Where it finds the bus; the server itself by default."""
    nonce: str = field(default_factory=nonce)
    user: KeyPair = field(default_factory=new_user)
    process: asyncio.subprocess.Process | None = None
    asked: list[StartTask] = field(default_factory=list)
    answer: Callable[[StartTask], StartAnswer] = lambda _: StartAnswer(go=True)
    renewals: int = 0
    issued: list[str] = field(default_factory=list)
    """JWTs, oldest first."""
    beats: list[Heartbeat] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        """Where its agent works."""
        return self.root / "workspace"

    @property
    def home(self) -> Path:
        """Its agent's home."""
        return self.root / "home"

    @property
    def log(self) -> str:
        """What the wrapper wrote on stderr."""
        return (self.root / "wrapper.log").read_text()

    def jwt(self) -> str:
        """A fresh one for its key."""
        minter = self.server.identity.minter(())
        made = minter.mint(self.name, self.user.public, (), self.nonce, self.credential_life)
        self.issued.append(made.jwt)
        return made.jwt

    def jwt_in_use(self) -> str:
        """What the next connection would show."""
        return (self.root / "cred" / "worker.creds").read_text().split("\n")[1]

    def deliver(self) -> Path:
        """Write its boot directory as a runtime does, `boot.json` last; returns it."""
        directory = self.root / "cred"
        (directory / "secrets").mkdir(parents=True, mode=0o700)
        (directory / "worker.creds").write_text(creds_text(self.jwt(), self.user.seed))
        for name, value in self.secrets.items():
            (directory / "secrets" / name).write_text(value)
        boot = Boot(
            **{
                "worker": self.name,
                "incarnation": 1,
                "bus": self.bus_url or self.server.url,
                "ctl_nonce": self.nonce,
                "agent_file": str(self.agent_file),
                "workspace": str(self.workspace),
                "home": str(self.home),
                "secrets": list(self.secrets),
                "heartbeat_every": 0.2,
                "path": PATH,
                **self.boot,
            }
        )
        (directory / ".boot").write_bytes(encode(boot))
        (directory / ".boot").rename(directory / "boot.json")
        return directory

    async def start(self) -> None:
        """Start the wrapper, with nothing of this process's environment."""
        directory = self.deliver()
        with (self.root / "wrapper.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "wrapper", "--boot", str(directory),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": PATH},
            )  # fmt: skip

    async def assign(self, prompt: str, *, task: str = "t1", **given: Any) -> Assignment:
        """Give it work, as a manager does."""
        work = Assignment(
            **{
                "task": task,
                "attempt": 1,
                "nonce": nonce(),
                "prompt": prompt,
                "timeout": 60.0,
                **given,
            }
        )
        await self.bus.publish(
            self.bus.subjects.run(self.name), work, id=f"{task}:{work.attempt}-{work.nonce}"
        )
        return work

    async def control(self, order: bytes | Any) -> None:
        """Send an order."""
        await self.bus.tell(self.bus.subjects.control(self.name, self.nonce), order)

    async def reports(self) -> list[Report]:
        """All it has reported so far, oldest first."""
        prefix = self.bus.subjects.prefix
        stored = await self.bus.page("JC_REP", f"{prefix}.rep.{self.name}.>")
        return [decode(each.data, Report) for each in stored]  # type: ignore[arg-type]  # a union is a type to msgspec

    async def report(self, kind: type[Any], *, within: float = 60.0, **having: Any) -> Any:
        """The first report of this kind with these values, once it is there."""
        found: list[Report] = []

        async def there() -> bool:
            found[:] = [
                report
                for report in await self.reports()
                if isinstance(report, kind)
                and all(getattr(report, name) == value for name, value in having.items())
            ]
            return bool(found)

        try:
            await eventually(there, True, within)
        except AssertionError:
            said = await self.reports()
            raise AssertionError(f"no {kind.__name__} {having} in {said}\n{self.log}") from None
        return found[0]

    async def finished(self, task: str = "t1", *, within: float = 60.0) -> Finished:
        """The report of a task's end, once it is there."""
        report = await self.report(Finished, task=task, within=within)
        assert isinstance(report, Finished)
        return report

    async def output(self, task: str = "t1") -> list[Output]:
        """All output published of a task."""
        subject = f"{self.bus.subjects.prefix}.out.{self.name}.{task}"
        return [decode(each.data, Output) for each in await self.bus.page("JC_OUT", subject)]

    async def exit_code(self, within: float = 20.0) -> int:
        """Of the wrapper, once it has ended."""
        assert self.process is not None
        async with asyncio.timeout(within):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def managed(worker: Worker, *, start: bool = True) -> AsyncIterator[Worker]:
    """Answer what the worker asks for as long as the block lasts, and end it afterwards."""
    bus, subjects = worker.bus, worker.bus.subjects
    worker.root.mkdir(parents=True, exist_ok=True)
    await apply_consumer(bus, bus.topology.run_consumer(worker.name))

    async def may_start(message: Message) -> StartAnswer:
        question = decode(message.data, StartTask)
        worker.asked.append(question)
        return worker.answer(question)

    async def renew(_: Message) -> CredentialAnswer:
        worker.renewals += 1
        return CredentialAnswer(jwt=worker.jwt(), expires_at=time.time() + worker.credential_life)

    async def beat(message: Message) -> None:
        worker.beats.append(decode(message.data, Heartbeat))

    async with (
        bus.serve(subjects.ask(worker.name, "task.start"), may_start),
        bus.serve(subjects.ask(worker.name, "credential"), renew),
        bus.serve(subjects.heartbeat(worker.name), beat),
    ):
        if start:
            await worker.start()
        try:
            yield worker
        finally:
            await _end(worker)


async def _end(worker: Worker) -> None:
    process = worker.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(15):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"the wrapper did not end\n{worker.log}") from None


def marked(value: str) -> list[int]:
    """The living processes that carry a value in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if alive and value.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
