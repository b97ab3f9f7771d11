"""Whether the kernel killed something of ours for want of memory."""

import contextlib
from pathlib import Path

COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
"""Of this container's control group: version 2, version 1."""


def oom_kills(counters: tuple[Path, ...] = COUNTERS) -> int:
    """How many processes of this control group were killed so far; 0 where nobody counts."""
    for file in counters:
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
