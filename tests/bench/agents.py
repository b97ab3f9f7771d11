"""What the wrapper costs a task: from the prompt to the agent's first line of code, from the agent's end to
the event, and the wrapper itself.

The agent is a script that notes the time; the same script is run bare in each round beside it. The clock is
the host's, the same in all processes of it.
"""

import argparse
import asyncio
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
RSS, RSS_LIMIT = "wrapper, resident", "goal: resident"
FIGURES = [
    Figure(TO_AGENT, "ms"),
    Figure(TO_END, "ms"),
    Figure(WHOLE, "ms"),
    Figure(BARE, "ms", note="a shell and two dates"),
    Figure(READY, "ms", note="process runtime; by the events' own times"),
    Figure(READY_LIMIT, "ms", [300.0]),
    Figure(RSS, "MiB"),
    Figure(RSS_LIMIT, "MiB", [40.0]),
]
GOALS = [
    Goal("ready ≤ 300 ms", READY, READY_LIMIT, 1.0, at_least=False),
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


async def ready_time(crew: RunningCrew, name: str) -> float:
    """Milliseconds between the two events of a worker's start."""
    at: dict[Any, Any] = {}
    for stored in await crew.events(f"jetcrew.evt.worker.{name}.*"):
        for kind in (WorkerStarting, WorkerBecameReady):
            if stored.subject.endswith(str(kind.__struct_config__.tag).partition(".")[2]):
                at.setdefault(kind, decode(stored.data, kind).at)
    return float((at[WorkerBecameReady] - at[WorkerStarting]).total_seconds() * 1000)


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
                figures[READY].rounds.append(await ready_time(crew, name))
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
