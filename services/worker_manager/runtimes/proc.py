"""What the kernel tells of processes, read from `/proc`."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def boot_id() -> str:
    """Names this start of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def state(pid: int, started: int) -> str | None:
    """The state letter of a process (`R`, `S`, `T`, …); None when it has ended or the number is another's."""
    fields = _stat(pid)
    if fields is None or fields[0] in {"Z", "X"} or int(fields[19]) != started:
        return None
    return fields[0]


def descendants(pid: int) -> set[int]:
    """All children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        if fields := _stat(other):
            children.setdefault(int(fields[1]), []).append(other)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += [child for child in below if child not in found]
        found.update(below)
    return found


def carrying(marker: str) -> set[int]:
    """Processes of ours whose environment holds `marker`, a `NAME=value`."""
    wanted = marker.encode()
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def send(pid: int, signum: signal.Signals, *, started: int | None = None) -> None:
    """Signal a process; nothing happens when it has ended, or when the number is another's by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if started is None or state(pid, started) is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signum)
    finally:
        os.close(descriptor)


def _pids() -> Iterator[int]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _stat(pid: int) -> list[str] | None:
    """Fields of `/proc/PID/stat` from the state on; a name with blanks and brackets stands before them."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
