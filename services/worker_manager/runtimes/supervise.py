"""Run one wrapper as a script of its own: `python -I -S supervise.py WORKER INCARNATION COMMAND…`.

Outlives whoever starts it. In the current directory it holds a lock for as long as it lives, writes
`unit.json` before the wrapper's first instruction, and `exit.json` after the wrapper has ended and every
process it left behind is dead. Exit codes: 0 started, 75 somebody else supervises here, 70 it failed.

Stands on the standard library alone, and little of it: it stays in memory once per worker.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

STARTED, FAILED, OCCUPIED = 0, 70, 75
_PR_SET_CHILD_SUBREAPER = 36


def main(worker: str, incarnation: str, command: list[str]) -> None:
    """Fork away from the caller, who learns whether the wrapper was started, and supervise."""
    if _locked(Path()) is None:
        os._exit(OCCUPIED)
    heard, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os._exit(STARTED if os.read(heard, 1) else FAILED)
    os.close(heard)
    os.setsid()
    # Orphans of the wrapper become our children, wherever they moved their session or emptied their
    # environment: that is how they are found.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child, gate = _forked(command)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    unit = {
        "worker": worker,
        "incarnation": int(incarnation),
        "pid": child,
        "started": started(child),
        "supervisor": os.getpid(),
        "supervisor_started": started(os.getpid()),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }
    _write("unit.json", unit)
    os.write(gate, b"g")
    os.close(gate)
    os.write(tell, b"s")
    os.close(tell)
    status = _wait_for(child)
    _kill_children()
    if os.WIFSIGNALED(status):
        _write("exit.json", {"code": None, "signal": signal.Signals(os.WTERMSIG(status)).name})
    else:
        _write("exit.json", {"code": os.WEXITSTATUS(status), "signal": None})


def occupied(directory: Path) -> bool:
    """Whether a supervisor is alive there, be it one that has not told of itself yet."""
    lock = _locked(directory)
    if lock is not None:
        os.close(lock)
    return lock is None


def _locked(directory: Path) -> int | None:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


def _forked(command: list[str]) -> tuple[int, int]:
    """The wrapper's process, which waits for a byte at the gate before it becomes the wrapper."""
    wait, gate = os.pipe()
    child = os.fork()
    if child:
        os.close(wait)
        return child, gate
    os.close(gate)
    os.setpgid(0, 0)
    if os.read(wait, 1):
        try:
            os.chdir("workspace")
            os.execvp(command[0], command)  # noqa: S606  # no shell is the point
        except OSError as error:
            os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(127)


def _wait_for(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _kill_children() -> None:
    """Until there is none: each one killed hands its own children over to us."""
    us = os.getpid()
    while True:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent(entry) == us:
                os.kill(int(entry.name), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _write(name: str, content: dict[str, object]) -> None:
    part = Path(f".{name}")
    with part.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
