"""What all keepers of a node share, and what they start from it."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from contracts.ids import WorkerId
from contracts.worker import WorkerRecord
from services.worker_manager.capacity import Capacity
from services.worker_manager.commands import Commands
from services.worker_manager.credentials import Credentials
from services.worker_manager.crew import Crew
from services.worker_manager.evidence import Evidence
from services.worker_manager.runtimes import Runtime
from services.worker_manager.settings import ManagerSettings
from services.worker_manager.turns import Turns
from services.worker_manager.warm import WarmPool

EnsureImage = Callable[[WorkerRecord], Coroutine[Any, Any, str | None]]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all keepers of a node share."""

    crew: Crew
    credentials: Credentials
    commands: Commands
    settings: ManagerSettings
    runtimes: dict[str, Runtime]
    ensure_image: EnsureImage
    open_bus: Callable[[WorkerRecord], Awaitable[None]]
    """Makes the worker's way to the bus, where its runtime needs one."""
    close_bus: Callable[[WorkerId], Awaitable[None]]
    close_engine: Callable[[WorkerRecord], Awaitable[None]]
    """Closes the worker's way to the container engine, and removes all that it made there."""
    freeze_engine: Callable[[WorkerRecord], Awaitable[None]]
    """Freezes what the worker made there, once the worker is frozen."""
    thaw_engine: Callable[[WorkerRecord], Awaitable[None]]
    capacity: Callable[[], Awaitable[Capacity]]
    """What this node has room for."""
    turns: Turns
    evidence: Evidence
    last_beat: dict[WorkerId, float]
    warm: WarmPool
