"""One turn: the agent started once, watched, and ended."""

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from contracts.events import Usage
from wrapper.family import Family
from wrapper.memory import oom_kills
from wrapper.output import Adapter, Noted, Reading
from wrapper.output.lines import Lines
from wrapper.process import AgentProcess, StreamName, started

Cause = Literal["exit", "final", "deadline", "inactive", "budget", "stopped"]
"""Why a turn ended: by itself, killed after its final event, or because one of these came first."""

AFTER_FINAL = 4.0
"""Seconds that an agent has to go by itself after the event that ends its turn."""
AFTER_FINAL_GRACE = 1.0
"""Seconds between the signal and SIGKILL then: the answer is there, nothing is left to save."""
STDERR_KEPT = 16_384
"""Bytes of the end of stderr that are kept to explain a failure."""


class Stop:
    """Somebody's wish that the run ends, with what to report then."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.state: Literal["cancelled", "timed-out"] = "cancelled"
        self.reason = "cancelled"
        self.detail = ""

    def want(self, state: Literal["cancelled", "timed-out"], reason: str, detail: str = "") -> None:
        """Ask for the end; the first one who asks is the one who is reported."""
        if not self.wanted.is_set():
            self.state, self.reason, self.detail = state, reason, detail
            self.wanted.set()


class Listener(Protocol):
    """Who is told while the agent works."""

    def heard(self, stream: StreamName, data: bytes) -> None:
        """The agent wrote something."""

    def noted(self, note: Noted) -> None:
        """Something worth telling happened."""

    def met(self, session: str) -> None:
        """The agent named its conversation."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run, with all it is given."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""
    run: str
    cancel_signal: signal.Signals = signal.SIGTERM
    cancel_grace: float = 5.0
    deadline: float
    """`time.monotonic()` at which it has to be over."""
    inactivity: float
    """Seconds without output after which it counts as hung; retries against the provider are none."""
    retries: str | None = None
    """Regular expression for a line of stderr that tells of such a retry."""
    enough: Callable[[Usage | None], str | None] = lambda _: None
    """Told what the turn has used so far; says which bound that reaches."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a turn went."""

    cause: Cause
    exit_code: int | None
    signal: str | None
    took: float
    """Seconds from the start to the last byte of output."""
    reading: Reading
    stderr: str
    enough: str | None = None
    """The bound that was reached in it."""
    oom: bool = False
    """Whether something in this container was killed for want of memory meanwhile."""


async def take_turn(
    command: Command, adapter: Adapter, listener: Listener, *, family: Family, stop: Stop
) -> Ran:
    """Run a command to its end, whichever way that comes.

    Raises:
        NotStarted: it could not be started.
    """
    return await _Turn(command, adapter, listener, stop).run(family)


@dataclass
class _Turn:
    command: Command
    adapter: Adapter
    listener: Listener
    stop: Stop
    began: float = field(default_factory=time.monotonic)
    heard_at: float = field(default_factory=time.monotonic)
    wrote_at: float = field(default_factory=time.monotonic)
    stderr_lines: Lines = field(default_factory=lambda: Lines(STDERR_KEPT))
    final_at: float | None = None
    deaf: bool = False
    stderr: bytearray = field(default_factory=bytearray)
    stderr_cut: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    known_session: str | None = None
    told: Usage | None = None
    enough: str | None = None

    async def run(self, family: Family) -> Ran:
        command = self.command
        killed_before = oom_kills()
        async with started(
            command.argv,
            env=command.env,
            cwd=command.cwd,
            family=family,
            run=command.run,
            stdin=command.stdin,
        ) as process:
            self.began = self.heard_at = self.wrote_at = time.monotonic()
            async with asyncio.TaskGroup() as group:
                following = group.create_task(process.follow(self._take), name="follow")
                watchers = [
                    group.create_task(self._wake_when(process.exited), name="exit"),
                    group.create_task(self._wake_when(self.stop.wanted), name="stop"),
                ]
                try:
                    cause = await self._watch(process)
                    await self._end(process, cause)
                    await _finish(following)
                finally:
                    for watcher in watchers:
                        watcher.cancel()
            self._tell(self.adapter.close())
        return Ran(
            cause=cause,
            exit_code=process.exit_code,
            signal=process.signal_name,
            took=round(self.wrote_at - self.began, 3),
            reading=self.adapter.reading,
            stderr=self._stderr_text(),
            enough=self.enough,
            oom=oom_kills() > killed_before,
        )

    def _stderr_text(self) -> str:
        kept = bytes(self.stderr)
        if self.stderr_cut:  # a line without its beginning could be the second half of a secret
            kept = kept.partition(b"\n")[2]
        return kept.decode(errors="replace").strip()

    async def _wake_when(self, event: asyncio.Event) -> None:
        await event.wait()
        self.wake.set()

    async def _watch(self, process: AgentProcess) -> Cause:
        """Wait for the first reason to end."""
        while True:
            now = time.monotonic()
            due: dict[Cause, float] = {
                "deadline": self.command.deadline,
                "inactive": self.heard_at + self.command.inactivity,
            }
            if self.final_at is not None:
                due["final"] = self.final_at + AFTER_FINAL
            if process.exited.is_set():
                return "exit"
            if self.enough is not None and self.final_at is None:
                return "budget"
            if self.stop.wanted.is_set():
                return "final" if self.final_at is not None else "stopped"
            cause = min(due, key=lambda each: due[each])
            if due[cause] <= now:
                return "final" if self.final_at is not None else cause
            self.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due[cause] - now):
                    await self.wake.wait()

    async def _end(self, process: AgentProcess, cause: Cause) -> None:
        if cause == "exit":
            await process.end()
            return
        # What it prints from here on is about being killed, and may look like an answer.
        self.deaf = True
        grace = AFTER_FINAL_GRACE if cause == "final" else self.command.cancel_grace
        await process.end(self.command.cancel_signal, grace)

    def _take(self, stream: StreamName, data: bytes) -> None:
        self.wrote_at = time.monotonic()
        self.listener.heard(stream, data)
        if stream == "stderr":
            self.stderr += data
            self.stderr_cut |= len(self.stderr) > STDERR_KEPT
            del self.stderr[:-STDERR_KEPT]
            notes = self._retries_in(data)
        elif self.deaf:
            return
        else:
            notes = self.adapter.feed(data)
        # Some agents try for ever to reach a provider that is not there, and tell of each try.
        if not notes or any(note.kind != "retry" for note in notes):
            self.heard_at = self.wrote_at
        self._tell(notes)

    def _retries_in(self, data: bytes) -> list[Noted]:
        if self.command.retries is None:
            return []
        lines = (line.decode(errors="replace") for line in self.stderr_lines.feed(data))
        return [Noted("retry", line) for line in lines if re.search(self.command.retries, line)]

    def _tell(self, notes: list[Noted]) -> None:
        for note in notes:
            self.listener.noted(note)
        if not self.adapter.has_events:
            return
        reading = self.adapter.reading
        if reading.so_far is not None and reading.so_far != self.told:
            self.told = reading.so_far
            self.listener.noted(Noted("usage", _tokens(reading.so_far)))
        if self.enough is None:
            self.enough = self.command.enough(reading.usage or reading.so_far)
            if self.enough is not None:
                self.wake.set()
        named = reading.session if reading.error is None else None
        if named and named != self.known_session:
            self.known_session = named
            self.listener.met(named)
        was = self.final_at
        self.final_at = (was or time.monotonic()) if reading.final else None
        if was is None and self.final_at is not None:
            self.wake.set()


async def _finish(following: "asyncio.Task[None]") -> None:
    """Read the rest; whoever still holds a pipe by now is beyond our reach."""
    await asyncio.wait({following}, timeout=2.0)
    following.cancel()


def _tokens(used: Usage) -> str:
    taken = sum(each or 0 for each in (used.input_tokens, used.cache_read_tokens, used.cache_write_tokens))  # fmt: skip
    return f"{taken:,} tokens read, {used.output_tokens or 0:,} written so far"


def signal_of(name: str) -> signal.Signals:
    """The signal of a name."""
    return signal.Signals[name]
