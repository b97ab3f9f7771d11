"""Whose turn it is to start: a bounded number at once, the oldest first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from contracts.ids import WorkerId


@dataclass
class Turns:
    """Asked, not waited for: whoever has no turn yet is called when it comes, and is free to do something
    else meanwhile, such as to be deleted."""

    places: int
    _taken: set[WorkerId] = field(default_factory=set)
    _waiting: dict[WorkerId, tuple[datetime, Callable[[], None]]] = field(default_factory=dict)

    def take(self, worker: WorkerId, since: datetime, call: Callable[[], None]) -> bool:
        """Whether it is this worker's turn; if not, `call` is called when it may ask again. `since` is when
        it was asked for."""
        if worker in self._taken:
            return True
        self._waiting[worker] = (since, call)
        if worker not in self._next():
            return False
        del self._waiting[worker]
        self._taken.add(worker)
        return True

    def give_back(self, worker: WorkerId) -> None:
        """It has started, or will not; no error when it had no turn."""
        self._taken.discard(worker)
        self._waiting.pop(worker, None)
        for name in self._next():
            self._waiting[name][1]()

    def _next(self) -> list[WorkerId]:
        """Those whose turn it is, of all who wait."""
        free = self.places - len(self._taken)
        oldest = sorted(self._waiting, key=lambda name: (self._waiting[name][0], name))
        return oldest[: max(free, 0)]
