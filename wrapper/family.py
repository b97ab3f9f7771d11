"""The processes of a run, wherever they went, and their end.

Signalling an agent's process group is not enough: tool shells run in sessions of their own, launchers
leave their children behind, and a shell can clear its environment. So a run's processes are known by a
marker in their environment and, where the wrapper has adopted all orphans below it, by descent.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wrapper.agent import MARKER

_SET_CHILD_SUBREAPER = 36
_PATIENCE = 5.0
"""Seconds until a process that survives SIGKILL (stuck in the kernel) is left behind."""


def adopt_orphans() -> bool:
    """Make this process the parent of every orphan below it; False where the kernel refuses."""
    refused: int = ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return refused == 0


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    zombie: bool


class Family:
    """What this process has started.

    `adopting` says that orphans come to this process and that it starts nothing but runs: then all its
    descendants belong to the run at hand, and dead orphans are reaped here.
    """

    def __init__(self, *, adopting: bool = False) -> None:
        self.adopting = adopting
        self.own: set[int] = set()
        """Children that somebody waits for; not to be reaped here."""

    def end(self, run: str) -> list[int]:
        """Kill whatever is left of a run until nothing is. Blocks; for a thread.

        Returns the pids that could not be killed in five seconds.
        """
        until = time.monotonic() + _PATIENCE
        while members := self.members(run):
            if time.monotonic() > until:
                return members
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            time.sleep(0.01)
        self.reap()
        return []

    def members(self, run: str) -> list[int]:
        """The living processes of a run."""
        me = os.getpid()
        processes = {process.pid: process for process in _processes()}
        wanted = f"\0{MARKER}={run}\0".encode()
        found = []
        for pid, process in processes.items():
            if pid == me or process.zombie:
                continue
            if (self.adopting and _descends(pid, me, processes)) or _carries(pid, wanted):
                found.append(pid)
        return found

    def reap(self) -> None:
        """Collect dead orphans that came to this process."""
        if not self.adopting:
            return
        me = os.getpid()
        for process in _processes():
            if process.zombie and process.parent == me and process.pid not in self.own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)


def _processes() -> Iterator[_Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # pid (name, which may hold anything) state parent …
                fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                yield _Process(int(entry.name), int(fields[1]), fields[0] in (b"Z", b"X"))


def _descends(pid: int, ancestor: int, processes: dict[int, _Process]) -> bool:
    seen = 0
    while pid in processes and seen < len(processes):
        pid = processes[pid].parent
        seen += 1
        if pid == ancestor:
            return True
    return False


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or not ours
        return False
