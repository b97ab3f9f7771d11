"""Where workers run: what every runtime does, whichever technology it uses.

A *unit* is what a runtime starts for one incarnation of a worker: a container, or a process tree. A
runtime keeps no records of its own. What runs is read from the engine or from the run directories, so
that a manager that starts anew finds the units an earlier one started.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from contracts.errors import EngineUnavailable
from contracts.evidence import Resources
from contracts.worker import ExecOutcome, Limits, Network

UnitState = Literal["running", "paused", "exited"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a worker's things are, as seen from inside it; what its boot file tells it."""

    agent_file: str
    """Path of the agent's description."""
    workspace: str
    home: str
    bus: str
    """`unix:PATH` or `nats://HOST:PORT`."""
    path: str
    """The agent's PATH."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a unit ended, as far as its runtime can tell."""

    code: int | None = None
    """Of the wrapper; None when nobody knows it, or when a signal ended it and the runtime can tell."""
    oom: bool = False
    """Whether something in it was killed for want of memory, the wrapper or a child of it."""
    signal: str | None = None
    """Such as `SIGKILL`, where a signal ended it."""
    reason: str = "unknown"
    """`oom`, `killed`, `exit-N`, `engine-lost` (its engine went down with it) or `unknown`."""
    log_tail: str = ""


@dataclass(frozen=True, kw_only=True)
class UnitSpec:
    """What to start."""

    worker: str
    incarnation: int
    agent: str
    image: str | None = None
    """Tag of a worker image; None where a runtime uses none."""
    limits: Limits = field(default_factory=Limits)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Delivered to the boot directory: `boot.json`, `worker.creds`, `secrets/NAME`. `boot.json` appears last."""
    capabilities: tuple[str, ...] = ()
    network: Network = "bridge"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What runs, or ran, for one incarnation of a worker."""

    id: str
    worker: str
    incarnation: int
    state: UnitState
    exit: Exit | None = None
    """Set when `state` is `exited`."""


async def removed(runtime: "Runtime", worker: str, *, keep_volumes: bool) -> None:
    """Remove a worker's unit, and see that it is gone.

    Raises:
        EngineUnavailable: it is not.
    """
    await runtime.remove(worker, keep_volumes=keep_volumes)
    if await runtime.find(worker) is not None:
        raise EngineUnavailable(f"the unit of {worker} is still there")


class Runtime(Protocol):
    """One way to run workers. Every method may raise `EngineUnavailable`: nothing is known then."""

    @property
    def name(self) -> Literal["docker", "process"]:
        """As in `WorkerRecord.runtime`."""

    async def available(self) -> str | None:
        """None when workers can run here, else the sentence that says why not. Never raises."""

    def layout(self, worker: str, agent: str) -> Layout:
        """Where the worker's things will be.

        Raises:
            InvalidMessage: no such agent.
        """

    async def start(self, spec: UnitSpec) -> Unit:
        """Start a unit. Adopts one of the same incarnation that runs, replaces one that has ended or is of
        another incarnation. Safe to repeat at any point, also after a crash in the middle of an earlier call.

        Raises:
            ImageMissing: there is no image by that tag.
            EngineRefused: the engine answers and will not start it.
        """

    async def stop(self, worker: str, grace: float) -> Exit | None:
        """Ask the unit to end, kill it after `grace` seconds. None when there is no unit. It stays
        listed, and its logs readable, until it is removed."""

    async def remove(self, worker: str, keep_volumes: bool) -> None:
        """Remove all that is left of a worker, killing what still runs; workspace and home stay when
        `keep_volumes`. Removing what is not there is no error."""

    async def pause(self, worker: str) -> None:
        """Freeze every process of the unit. No error when it is paused already.

        Raises:
            NotThere: no unit of this worker runs.
        """

    async def resume(self, worker: str) -> None:
        """Thaw a paused unit. No error when it runs.

        Raises:
            NotThere: no unit of this worker runs.
        """

    async def list(self) -> list[Unit]:
        """All units of this crew and node, exited ones too."""

    async def find(self, worker: str) -> Unit | None:
        """The unit of one worker, exited or not: a single look where `list` takes many."""

    def exits(self, stop: asyncio.Event) -> AsyncIterator[Unit]:
        """Each end as it happens, until `stop` is set. Hints, with gaps and repetitions: `list` stands
        behind them. Outlives an engine that goes away and comes back; does not raise."""

    async def exec(self, worker: str, argv: Sequence[str], timeout: float) -> ExecOutcome:
        """Run a program in the worker's workspace, as the worker's user, without the agent's secrets.

        Raises:
            NotThere: no unit of this worker runs.
            EngineRefused: there is no such program, or it is paused.
        """

    async def resources(self, worker: str) -> Resources | None:
        """What the unit has used since it began; None when it does not run, or nobody measures it."""

    async def logs(self, worker: str, lines: int = 200) -> str:
        """The last lines the wrapper wrote; empty when there is no unit."""
