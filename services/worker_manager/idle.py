"""When a worker without a task is paused, and when it is deleted."""

import math
import time
from dataclasses import dataclass
from datetime import datetime

from contracts.worker import CreateWorker, WorkerRecord
from services.worker_manager.settings import ManagerSettings


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds without a task, running or queued; infinite where a rule is off."""

    pause: float
    expiry: float

    @classmethod
    def of(cls, spec: CreateWorker, settings: ManagerSettings) -> "Patience":
        """What a worker asks for, or else what the operator has set."""
        return cls(
            pause=seconds(spec.idle_pause, settings.idle_pause),
            expiry=seconds(spec.idle_expiry, settings.idle_expiry),
        )

    def left(self, record: WorkerRecord, at: datetime) -> tuple[float, float]:
        """Seconds until an idle worker is due to be paused, and to be deleted; 0 or less: it is."""
        idle = (at - (record.idle_since or record.changed_at)).total_seconds()
        pause = math.inf if record.state == "paused" else self.pause - idle
        return pause, self.expiry - idle


def seconds(asked: float | None, otherwise: float) -> float:
    """A bound on a wait, which 0 switches off."""
    wanted = otherwise if asked is None else asked
    return wanted or math.inf


LOOK_AT_LEAST = 600.0
"""Seconds between two looks at a worker that rests, though neither hints nor the node's own looks at all records,
prompts and units found anything."""


class Rest:
    """How long a keeper may leave its worker alone after a look: a tick, or longer where nothing is expected.

    `tick` in seconds.
    """

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._ends = 0.0
        self._chosen = False
        self.long = False
        """Whether nothing is expected, or a look is just finding out: then every hint counts."""

    def begin(self) -> None:
        """A look begins: unless it says otherwise, the next one is due after a tick."""
        self._chosen, self.long = False, True
        self._ends = time.monotonic() + self._tick

    def until(self, seconds: float) -> None:
        """Nothing is expected for so long."""
        self._chosen = True
        self._ends = time.monotonic() + min(max(seconds, 0.01), LOOK_AT_LEAST)

    def end(self) -> None:
        """The look is over."""
        self.long = self._chosen

    def left(self) -> float:
        """Seconds until the next look."""
        return self._ends - time.monotonic()


BREATH_EVERY = 240.0
"""Seconds that a worker is frozen at a stretch, at most."""
BREATHS = 4 / 15
"""The same as a share of its credential's life, in the last third of which the wrapper renews it, for which that has
to run."""
BREATH = 5.0
"""Seconds that it then runs."""


class Breath:
    """When a paused worker runs for a moment, so that its bus credential does not expire while it is frozen.

    Whoever finds a worker frozen does not know for how long: then a breath is due at once.
    """

    def __init__(self, credential_life: float) -> None:
        """`credential_life` in seconds."""
        self._every = min(BREATH_EVERY, credential_life * BREATHS)
        self._next = time.monotonic()

    def frozen(self) -> None:
        """It is frozen now, and ran until now."""
        self._next = time.monotonic() + self._every

    def due(self) -> bool:
        """Whether it should run now."""
        now = time.monotonic()
        if now >= self._next + BREATH:
            self._next = now + self._every
        return now >= self._next

    def left(self) -> float:
        """Seconds until that changes."""
        now = time.monotonic()
        return (self._next if now < self._next else self._next + BREATH) - now
