"""Attempts without a bus: a real agent process, and what it reports kept in lists."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.agent import Agent
from contracts.asks import Assignment, Boot
from contracts.errors import NotThere, Refused
from contracts.ids import nonce
from contracts.redaction import Secrets
from contracts.reports import Finished, Output
from wrapper.attempt import Attempt
from wrapper.boot import Place, prepare
from wrapper.family import Family
from wrapper.output import Noted
from wrapper.turn import Stop


@dataclass
class Told:
    """What an attempt tells; stands in for the reports on the bus."""

    notes: list[Noted] = field(default_factory=list)
    sessions: list[tuple[str, bool]] = field(default_factory=list)
    pieces: list[Output] = field(default_factory=list)

    def note(self, note: Noted) -> None:
        """Keep it."""
        self.notes.append(note)

    def session(self, agent_session: str, *, fresh: bool) -> None:
        """Keep it."""
        self.sessions.append((agent_session, fresh))

    async def output(self, piece: Output) -> None:
        """Keep it."""
        self.pieces.append(piece)

    async def pump(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing waits here."""

    @property
    def stdout(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces if piece.stream == "stdout")


@dataclass
class Parcels:
    """What comes into the worker and goes out of it; stands in for the object store."""

    laid_out: dict[str, bytes] = field(default_factory=dict)
    handed_over: dict[str, bytes] = field(default_factory=dict)

    async def fetch(self, name: str, file: Path, *, limit: int) -> None:
        """Copy it."""
        if name not in self.laid_out:
            raise NotThere(f"nothing called {name!r} is laid out for this worker")
        if len(self.laid_out[name]) > limit:
            raise Refused(
                f"{name} holds {len(self.laid_out[name]):,} bytes; {limit:,} are the most"
            )
        await asyncio.to_thread(file.write_bytes, self.laid_out[name])

    async def hand_over(self, file: Path, name: str, *, task: str, attempt: int, run: str) -> str:
        """Keep a copy."""
        stored = f"ada/{task}/{name}"
        self.handed_over[stored] = await asyncio.to_thread(file.read_bytes)
        return stored


@dataclass
class Bench:
    """A worker's place, in which agents are really run."""

    root: Path
    agent: Agent
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    boot: dict[str, Any] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    stop: Stop = field(default_factory=Stop)
    run: str = field(default_factory=nonce)
    parcels: Parcels = field(default_factory=Parcels)

    @property
    def workspace(self) -> Path:
        """Where the agent works."""
        return self.root / "workspace"

    def place(self) -> Place:
        """As the boot files would describe it."""
        boot = Boot(
            **{
                "worker": "ada", "incarnation": 1, "bus": "nats://127.0.0.1:1", "ctl_nonce": "n",
                "agent_file": "", "workspace": str(self.workspace), "home": str(self.root / "home"),
                "env": self.env, "path": self.path, **self.boot,
            }
        )  # fmt: skip
        known = Secrets(self.secrets.values())
        place = Place(
            boot=boot, agent=self.agent, creds=None, environment_secrets=self.secrets, secrets=known
        )
        prepare(place)
        return place

    async def attempt(
        self, prompt: str, *, seconds: float = 600.0, agent_session: str | None = None, **more: Any
    ) -> Finished:
        """Run one attempt to its report."""
        self.told, self.stop, self.run = Told(), Stop(), nonce()
        work = Assignment(
            task="t1",
            attempt=1,
            nonce=nonce(),
            prompt=prompt,
            timeout=seconds,
            agent_session=agent_session,
            **more,
        )
        return await Attempt(
            self.place(), work, self.run, reports=self.told, stop=self.stop, family=Family(),
            deadline=time.monotonic() + seconds, parcels=self.parcels,
        ).run()  # fmt: skip
