"""How a crew that runs on a state directory is found: `crew.json`, written by the process that started it."""

import ctypes
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec
import psutil

from services.kit.state import StateDirectory

Kind = Literal["up", "run"]


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """A crew, as its first process tells of it."""

    url: str
    """Of its NATS server."""
    http_url: str | None = None
    """Of its HTTP API, where it has one."""
    pid: int
    """Of the process that holds it together; SIGTERM ends the crew."""
    started: float
    """When that process started, Unix time in seconds: a number alone could be another's by now."""
    kind: Kind = "up"
    """`up` runs until it is stopped; `run` ends with the prompt it was started for."""
    since: datetime

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return process_started(self.pid) == self.started


def announce(
    state: StateDirectory, *, url: str, http_url: str | None = None, kind: Kind = "up"
) -> Crew:
    """Tell that this process holds a crew together."""
    started = process_started(os.getpid())
    assert started is not None
    crew = Crew(
        url=url, http_url=http_url, pid=os.getpid(), started=started, kind=kind,
        since=datetime.now(UTC),
    )  # fmt: skip
    state.write_private(state.crew_file, msgspec.json.encode(crew))
    return crew


def withdraw(state: StateDirectory) -> None:
    """Take back what this process announced; what another one did stays."""
    crew = _read(state)
    if crew is not None and crew.pid == os.getpid():
        state.crew_file.unlink(missing_ok=True)


def running_crew(state: StateDirectory) -> Crew | None:
    """The crew that runs on this state directory; one whose process has died does not count."""
    crew = _read(state)
    return crew if crew is not None and crew.alive else None


def process_started(pid: int) -> float | None:
    """When a process started, Unix time in seconds; None when there is none of this number."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def ends_with_parent(signum: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For `preexec_fn`: the child gets `signum` when the thread that started it ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)  # here: a forked child must not load libraries
    parent = os.getpid()
    set_parent_death_signal = 1

    def ask() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(set_parent_death_signal, signum)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _read(state: StateDirectory) -> Crew | None:
    try:
        return msgspec.json.decode(state.crew_file.read_bytes(), type=Crew)
    except (OSError, msgspec.MsgspecError):
        return None
