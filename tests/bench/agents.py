"""What the wrapper costs a task: from the prompt to the agent's first line of code, from the agent's end to
the event, and the wrapper itself.

The agent is a script that notes the time; the same script is run bare in each round beside it. The clock is
the host's, the same in all processes of it.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from contracts.bus import Bus, connect
from contracts.codec import decode
from contracts.events import WorkerBecameReady, WorkerStarting
from contracts.log import configure
from tests.bench.table import Figure, Goal, report
from tests.support.crew import RunningCrew, running_crew

SCRIPT = "date +%s.%N > begun; date +%s.%N > ended"
TO_AGENT, TO_END, WHOLE, BARE = (
    "prompt published to agent running",
    "agent ended to its end visible",
    "a task, whole",
    "the same script, bare",
)
READY, READY_LIMIT = "worker starting to ready", "goal: ready"
STARTED = "wrapper: process start to ready"
LIBRARIES = "python that imports the wrapper's libraries"
RSS, RSS_LIMIT = "wrapper, resident", "goal: resident"
FIGURES = [
    Figure(TO_AGENT, "ms"),
    Figure(TO_END, "ms"),
    Figure(WHOLE, "ms"),
    Figure(BARE, "ms", note="a shell and two dates"),
    Figure(READY, "ms", note="process runtime; by the events' own times"),
    Figure(STARTED, "ms", note="the same by the process's own start, to a hundredth of a second"),
    Figure(LIBRARIES, "ms", note="and ends; in no case is a wrapper ready sooner"),
    Figure(READY_LIMIT, "ms", [300.0]),
    Figure(RSS, "MiB"),
    Figure(RSS_LIMIT, "MiB", [40.0]),
]
GOALS = [
    Goal("wrapper ready ≤ 300 ms after its start", STARTED, READY_LIMIT, 1.0, at_least=False),
    Goal("resident ≤ 40 MiB", RSS, RSS_LIMIT, 1.0, at_least=False),
]


async def one_task(
    crew: RunningCrew, bus: Bus, name: str, number: int
) -> tuple[float, float, float]:
    """Milliseconds until the agent runs, from its end to the event, and altogether."""
    task = f"{name}-{number}"
    async with bus.listen(f"jetcrew.evt.task.{name}.{task}.succeeded") as ends:
        began = time.time()
        await crew.submit(name, SCRIPT, task=task)
        async with asyncio.timeout(60):
            await anext(ends)
        seen = time.time()
    workspace = crew.server.state.workers / name / "workspace"
    ran, ended = (float((workspace / mark).read_text()) for mark in ("begun", "ended"))
    return (ran - began) * 1000, (seen - ended) * 1000, (seen - began) * 1000


async def bare(directory: Path) -> float:
    """Milliseconds of the script by itself."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", SCRIPT, cwd=directory)
    await process.wait()
    return (time.perf_counter() - began) * 1000


async def libraries() -> float:
    """Milliseconds of a Python that imports what the wrapper is built on, rich left out as there."""
    script = "import sys; sys.modules['rich'] = None; import msgspec, nats, structlog"
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", script)
    await process.wait()
    return (time.perf_counter() - began) * 1000


async def ready_times(crew: RunningCrew, name: str) -> tuple[float, float]:
    """Milliseconds from the event of a worker's start, and from the start of its wrapper, until it is ready."""
    at: dict[Any, Any] = {}
    for stored in await crew.events(f"jetcrew.evt.worker.{name}.*"):
        for kind in (WorkerStarting, WorkerBecameReady):
            if stored.subject.endswith(str(kind.__struct_config__.tag).partition(".")[2]):
                at.setdefault(kind, decode(stored.data, kind).at)
    ready = at[WorkerBecameReady].timestamp()
    began = at[WorkerStarting].timestamp(), started_at(crew.wrapper(name).pid)
    return (ready - began[0]) * 1000, (ready - began[1]) * 1000


def started_at(pid: int) -> float:
    """Unix time at which a process began. psutil's is off by up to a second: it counts from a whole one."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


async def run(rounds: int) -> bool:
    """All of it."""
    figures = {figure.name: figure for figure in FIGURES}
    configure(level="error")
    with tempfile.TemporaryDirectory(prefix="jetcrew-bench-") as scratch:
        directory = Path(scratch)
        async with (
            running_crew(directory) as crew,
            connect(
                crew.server.url, name="bench", creds=crew.server.creds("manager"),
                inbox_prefix="_INBOX.manager", patience=20,
            ) as bus,
        ):  # fmt: skip
            for n in range(max(1, rounds // 4)):
                name = f"w{n}"
                await crew.create(name)
                figures[LIBRARIES].rounds.append(await libraries())
                for what, took in zip((READY, STARTED), await ready_times(crew, name), strict=True):
                    figures[what].rounds.append(took)
                rss = psutil.Process(crew.wrapper(name).pid).memory_info().rss
                figures[RSS].rounds.append(rss / (1 << 20))
                await one_task(crew, bus, name, 0)  # the first finds nothing cached
            for n in range(1, rounds + 1):
                print(f"round {n} of {rounds}", file=sys.stderr)
                figures[BARE].rounds.append(await bare(directory))
                parts = await one_task(crew, bus, "w0", n)
                for what, took in zip((TO_AGENT, TO_END, WHOLE), parts, strict=True):
                    figures[what].rounds.append(took)
    return report("agents", list(figures.values()), GOALS)


def main() -> int:
    """0 when every goal holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    return 0 if asyncio.run(run(parser.parse_args().rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
