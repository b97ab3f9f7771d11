"""Two managers, many workers on simulated engines, and everything that can go wrong, by chance: afterwards all
records, events and leftovers are looked at (R6, R10, R12, R13)."""

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from contracts.bus import Bus, connect
from contracts.codec import decode
from contracts.errors import BusUnavailable, QueueFull
from contracts.events import Event, TaskQueued
from contracts.task import TASK_ENDED, TaskRecord
from contracts.worker import WORKER_TRANSITIONS, WorkerRecord
from tests.support.servers import Server, running_server
from tests.support.simulated import Host
from tests.support.simulation import SimulatedManager
from tests.support.waiting import eventually

SETTLED = {"ready", "failed", "stopped"}
QUEUES = ("JC_TASK", "JC_RUN", "JC_CMD")


@dataclass
class Simulation:
    """A crew of simulated workers."""

    server: Server
    bus: Bus
    managers: list[SimulatedManager]
    chance: random.Random
    names: list[str]
    tasks: list[str]

    async def command(self, tail: str, body: object, command: str) -> None:
        """By the durable door, until it is stored."""
        while True:
            try:
                await self.bus.publish(f"jetcrew.cmd.{tail}", msgspec.json.encode(body), id=command)
            except (BusUnavailable, QueueFull):
                await asyncio.sleep(0.2)
            else:
                return

    async def create(self) -> None:
        """All workers."""
        for name in self.names:
            spec = {"name": name, "agent": "shell", "runtime": "process"}
            await self.command("worker.create", spec, f"create-{name}")

    async def submit(self, each: int) -> None:
        """Prompts for all of them, some with further attempts."""
        for n in range(each):
            for name in self.names:
                body = {
                    "prompt": "work",
                    "max_attempts": self.chance.choice((1, 1, 3)),
                    "timeout": 60,
                }
                task = f"{name}-{n}"
                await self.bus.publish(f"jetcrew.task.{name}", msgspec.json.encode(body), id=task)
                self.tasks.append(task)

    async def disturb(self, seconds: float) -> None:
        """Kill units and managers, take engines away, delete workers."""
        until = time.monotonic() + seconds
        doomed = self.chance.sample(self.names, len(self.names) // 6)
        while time.monotonic() < until:
            manager = self.chance.choice(self.managers)
            host = manager.host
            match self.chance.choice(
                ("kill", "kill", "kill", "oom", "manager", "engine", "delete")
            ):
                case "manager":
                    await manager.kill()
                    await asyncio.sleep(self.chance.uniform(0, 1))
                    manager.start()
                case "engine":
                    host.away = True
                    await asyncio.sleep(self.chance.uniform(0, 1))
                    host.away = False
                case "delete" if doomed:
                    name = doomed.pop()
                    await self.command("worker.delete", {"name": name}, f"delete-{name}")
                case how if host.processes:
                    victim = self.chance.choice(list(host.processes))
                    host.kill(victim, "oom" if how == "oom" else "killed")
            await asyncio.sleep(self.chance.uniform(0, 0.2))

    async def workers(self) -> dict[str, WorkerRecord]:
        """Their records."""
        held = await self.bus.bucket("jc_worker", WorkerRecord).list()
        return {key: each.value for key, each in held.items()}

    async def records(self) -> dict[str, TaskRecord]:
        """Those of tasks."""
        held = await self.bus.bucket("jc_task", TaskRecord).list()
        return {key: each.value for key, each in held.items()}

    async def unsettled(self) -> str:
        """What is not where it has to end up."""
        for manager in self.managers:
            manager.check()
        workers, tasks = await self.workers(), await self.records()
        found = {n: workers[n].state if n in workers else "none" for n in self.names}
        found |= {n: tasks[n].state if n in tasks else "none" for n in self.tasks}
        return ", ".join(f"{n} {s}" for n, s in found.items() if s not in SETTLED | TASK_ENDED)

    async def delete(self) -> None:
        """Everybody."""
        for name in self.names:
            await self.command("worker.delete", {"name": name}, f"end-{name}")

        async def left() -> str:
            records = (await self.workers()).values()
            return ", ".join(f"{w.name} {w.state}" for w in records if w.state != "stopped")

        await eventually(left, "", within=30 + len(self.names))

    async def history(self) -> list[Event]:
        """All events, oldest first."""
        found: list[Event] = []
        after = 0
        while page := await self.bus.page("JC_EVT", "jetcrew.evt.>", after=after):
            found += [decode(stored.data, Event) for stored in page]  # type: ignore[arg-type]  # a union
            after = page[-1].seq
        return found


@contextlib.asynccontextmanager
async def simulation(tmp_path: Path, count: int, *, seed: int) -> AsyncIterator[Simulation]:
    """Two nodes with room for all workers together."""
    chance = random.Random(seed)
    async with (
        running_server(tmp_path, applied=True) as server,
        connect(
            server.url,
            name="operator",
            creds=server.creds("manager"),
            inbox_prefix="_INBOX.manager",
            patience=30,
        ) as bus,
    ):
        hosts = [Host(server.url, tmp_path, random.Random(seed + n), refusals=0.01) for n in (1, 2)]
        managers = [
            SimulatedManager(server, f"n{n}", host, max_workers=count // 2 + 1)
            for n, host in enumerate(hosts)
        ]
        for manager in managers:
            manager.start()
        names = [f"w{n:04}" for n in range(count)]
        crew = Simulation(server, bus, managers, chance, names, [])
        try:
            yield crew
        finally:
            for manager in managers:
                await manager.kill()
            for host in hosts:
                for worker in list(host.processes):
                    host.kill(worker)
                while host.dying:
                    await asyncio.wait(host.dying)


def look_at_workers(history: list[Event], workers: dict[str, WorkerRecord]) -> None:
    """Only legal transitions, and the record agrees with the last event."""
    states: dict[tuple[str, int], list[str]] = defaultdict(list)
    for event in history:
        entity, _, kind = str(event.__struct_config__.tag).partition(".")
        if entity == "worker" and kind in WORKER_TRANSITIONS:
            states[event.worker, event.incarnation].append(kind)  # type: ignore[union-attr]  # see the tag
    for name, record in workers.items():
        told = states[name, record.incarnation]
        assert told[0] == "requested", (name, told)
        wrong = [
            (a, b)
            for a, b in pairwise(told)
            if b not in WORKER_TRANSITIONS[a]  # type: ignore[index]  # states
        ]
        assert not wrong, (name, told)
        assert (told[-1], record.owed) == (record.state, []), (name, told)


def look_at_tasks(history: list[Event], tasks: dict[str, TaskRecord]) -> None:
    """Each attempt started at most once and ended once; the record agrees."""
    told: dict[str, list[str]] = defaultdict(list)
    for event in history:
        tag = str(event.__struct_config__.tag)
        if tag.startswith("task."):
            again = isinstance(event, TaskQueued) and event.attempt > 1
            told[event.task].append("again" if again else tag.partition(".")[2])  # type: ignore[union-attr]  # see the tag
    for name, record in tasks.items():
        attempts = ["queued", *["started", "again"] * (record.attempt - 1)]
        last = [] if record.started_at is None else ["started"]
        ended = "refused" if record.end and record.end.reason == "refused" else record.state
        expected = [ended] if ended == "refused" else [*attempts, *last, ended]
        assert told[name] == expected, (name, told[name], record)
        assert (record.owed, record.door_seq) == ([], None), record


async def storm(crew: Simulation, *, each: int, seconds: float) -> None:
    """Create, submit, disturb, settle, look; delete, and look for what is left."""
    async with asyncio.TaskGroup() as group:
        group.create_task(crew.create())
        group.create_task(crew.submit(each))
        group.create_task(crew.disturb(seconds))
    await eventually(crew.unsettled, "", within=60 + len(crew.names))
    hosts = [manager.host for manager in crew.managers]
    twice = [key for host in hosts for key, runs in host.ran.items() if runs > 1]
    assert not twice, "an attempt was run twice"
    living = [w for h in hosts for w, process in h.processes.items() if process.lives]
    assert len(living) == len(set(living)), "a worker has two units"

    await crew.delete()
    history, tasks = await crew.history(), await crew.records()
    look_at_workers(history, await crew.workers())
    look_at_tasks(history, tasks)
    assert not [worker for host in hosts for worker in host.processes]
    for stream in QUEUES:
        state = (await crew.bus.api(f"STREAM.INFO.{stream}"))["state"]
        assert state["messages"] == 0, stream
    run = (await crew.bus.api("STREAM.INFO.JC_RUN"))["state"]
    assert run["consumer_count"] == 0


async def test_forty_workers_in_a_storm_keep_every_promise(tmp_path: Path) -> None:
    async with simulation(tmp_path, 40, seed=7) as crew:
        await storm(crew, each=2, seconds=5)


# A thousand clients in one process are slow to answer one another; of a handshake that took too long the
# client library leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.soak
async def test_a_thousand_workers_in_a_storm_keep_every_promise(tmp_path: Path) -> None:
    async with simulation(tmp_path, 1000, seed=11) as crew:
        await storm(crew, each=3, seconds=120)
