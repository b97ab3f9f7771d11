"""What the wrapper tells: reports and output, stored by the bus before it goes on, and never twice."""

import asyncio
import contextlib
from collections import deque
from pathlib import Path

import structlog
from msgspec import Struct

from contracts import __version__
from contracts.asks import Assignment
from contracts.bus import Bus
from contracts.errors import BusUnavailable
from contracts.ids import TaskId, WorkerId
from contracts.redaction import Secrets
from contracts.reports import Finished, Heartbeat, NotReady, Output, Progress, Ready, SessionSeen
from wrapper.output import Noted
from wrapper.output.reading import shortened

log = structlog.get_logger(__name__)

PROGRESS_EVERY = 0.5
"""Seconds between two progress reports."""
PROGRESS_WAITING = 8
"""Notes that may wait for their turn; older ones are dropped."""


class Reports:
    """Publishes what concerns the worker itself."""

    def __init__(self, bus: Bus, worker: str, incarnation: int, boot: str) -> None:
        self.bus = bus
        self.worker = WorkerId(worker)
        self.incarnation = incarnation
        self.boot = boot
        """Chosen at random by this process."""

    async def ready(self, agent_version: str | None) -> None:
        """The worker can take tasks."""
        report = Ready(
            incarnation=self.incarnation,
            boot=self.boot,
            version=__version__,
            agent_version=agent_version,
        )
        await self.store(
            self.bus.subjects.report(self.worker, "ready"), report, f"{self.boot}:ready"
        )

    async def not_ready(self, reason: str) -> None:
        """The worker cannot take tasks; the process ends after this."""
        report = NotReady(incarnation=self.incarnation, boot=self.boot, reason=reason[:2000])
        subject = self.bus.subjects.report(self.worker, "not-ready")
        await self.store(subject, report, f"{self.boot}:not-ready")

    async def heartbeat(self, task: str | None) -> None:
        """A sign of life; it does not matter if one is lost."""
        beat = Heartbeat(boot=self.boot, task=task, rss_bytes=resident_bytes())
        with contextlib.suppress(BusUnavailable):
            await self.bus.tell(self.bus.subjects.heartbeat(self.worker), beat)

    async def store(self, subject: str, message: Struct, id: str) -> None:  # noqa: A002  # the field's own name
        """Publish until it is stored, through any outage.

        Raises:
            BusClosed: the connection is gone for good.
        """
        while True:
            try:
                await self.bus.publish(subject, message, id=id)
            except BusUnavailable as error:
                log.warning("report.delayed", id=id, error=str(error))
            else:
                return

    def of(self, work: Assignment, run: str, secrets: Secrets) -> "RunReports":
        """The reports of one run."""
        return RunReports(self, work, run, secrets)


class RunReports:
    """Publishes what concerns one run; ids begin with the assignment's nonce."""

    def __init__(self, reports: Reports, work: Assignment, run: str, secrets: Secrets) -> None:
        self._reports = reports
        self._work = work
        self._run = run
        self._secrets = secrets
        self._notes: deque[Noted] = deque(maxlen=PROGRESS_WAITING)
        self._sessions: deque[SessionSeen] = deque()
        self._some = asyncio.Event()
        self._closing = asyncio.Event()
        self._n = 0

    def note(self, note: Noted) -> None:
        """Tell of it when its turn comes."""
        self._notes.append(note)
        self._some.set()

    def session(self, agent_session: str, *, fresh: bool) -> None:
        """The agent named its conversation."""
        self._sessions.append(
            SessionSeen(
                task=self._work.task,
                attempt=self._work.attempt,
                run=self._run,
                agent_session=agent_session[:200],
                fresh=fresh,
            )
        )
        self._some.set()

    def close(self) -> None:
        """Nothing more comes; `pump` tells the rest at once and ends."""
        self._closing.set()
        self._some.set()

    async def pump(self) -> None:
        """Publish sessions at once and notes at most two a second."""
        while not self._closing.is_set() or self._sessions or self._notes:
            await self._some.wait()
            self._some.clear()
            while self._sessions:
                seen = self._sessions.popleft()
                await self._store("session", seen, f"session-{seen.agent_session}"[:80])
            if self._notes:
                await self._progress(self._notes.popleft())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_EVERY):
                        await self._closing.wait()
            if self._notes or self._sessions:
                self._some.set()

    async def _progress(self, note: Noted) -> None:
        self._n += 1
        report = Progress(
            task=self._work.task,
            attempt=self._work.attempt,
            run=self._run,
            n=self._n,
            kind=note.kind,
            text=shortened(self._secrets.redact(note.text)),
        )
        await self._store("progress", report, f"p{self._n}")

    async def output(self, piece: Output) -> None:
        """A piece of the agent's output."""
        bus, work = self._reports.bus, self._work
        subject = bus.subjects.output(self._reports.worker, TaskId(work.task))
        await self._reports.store(subject, piece, f"{work.nonce}:o{piece.n}")

    async def finished(self, report: Finished) -> None:
        """The run is over; returns once that is stored."""
        await self._store("finished", report, "end")

    async def _store(self, kind: str, report: Struct, id: str) -> None:  # noqa: A002  # as above
        subject = self._reports.bus.subjects.report(
            self._reports.worker, kind, TaskId(self._work.task)
        )
        await self._reports.store(subject, report, f"{self._work.nonce}:{id}")


def resident_bytes() -> int | None:
    """Memory of this process; None where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * 4096
