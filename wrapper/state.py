"""What the parts of a wrapper know of each other: the run at hand and the end of the process."""

import asyncio
from dataclasses import dataclass, field

from contracts.asks import Assignment
from wrapper.turn import Stop


@dataclass
class Current:
    """The run at hand."""

    work: Assignment
    stop: Stop = field(default_factory=Stop)


@dataclass
class Cover:
    """Until when the bus is needed for sure."""

    until: float = 0.0
    """Unix time in seconds."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, until: float) -> None:
        """It is needed until then."""
        self.until = until
        self.asked.set()


@dataclass
class State:
    """Shared by the wrapper's tasks, which all live on one event loop."""

    current: Current | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no further task is to be taken."""
    cover: Cover = field(default_factory=Cover)
