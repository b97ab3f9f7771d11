"""What has been seen of one worker and one task: told by their events, waited for by a command."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from contracts.bus import Stored
from contracts.events import Event as AnyEvent
from contracts.events import (
    TaskAnswered,
    TaskCancelled,
    TaskEnd,
    TaskFailed,
    TaskInputRequired,
    TaskProgressed,
    TaskQueued,
    TaskRefused,
    TaskSessionSeen,
    TaskStarted,
    TaskState,
    TaskSucceeded,
    TaskTimedOut,
    WorkerFailed,
    WorkerInspected,
    WorkerState,
)
from contracts.ids import TaskId, WorkerId
from services.cli import story
from services.cli.screen import Screen

_SHOWN = {"tool", "retry", "status"}
"""Kinds of progress that are shown; what an agent says comes as its output."""


class Watch:
    """Fed with events, it shows them and answers whoever waits for a state.

    `broken` ends every wait with an error; `poke` has the waits look again.
    """

    def __init__(self, screen: Screen, worker: WorkerId, task: TaskId) -> None:
        self._screen = screen
        self.worker = worker
        self.task = task
        self.worker_state: WorkerState | None = None
        self.worker_reason: str | None = None
        self.task_state: TaskState | None = None
        self.end: TaskEnd | None = None
        self.refused: TaskRefused | None = None
        self.broken: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more comes of the task."""
        return self.end is not None or self.refused is not None

    def poke(self) -> None:
        """Something changed that waits may depend on."""
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Have every wait raise this."""
        self.broken = self.broken or error
        self.poke()

    async def until(self, there: Callable[[], bool], *, within: float | None = None) -> bool:
        """Wait for `there()`; False when `within` seconds were not enough. Raises what `fail` was told."""
        loop = asyncio.get_running_loop()
        give_up = None if within is None else loop.time() + within
        while not there():
            if self.broken is not None:
                raise self.broken
            self._changed.clear()
            left = 0.5 if give_up is None else min(0.5, give_up - loop.time())
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
            self._screen.tick()
        return True

    async def take(self, page: Sequence[Stored]) -> None:
        """Events in their order."""
        for stored in page:
            event = story.event_of(stored)
            if event is not None:
                self._heed(event)
        self.poke()

    def _heed(self, event: AnyEvent) -> None:
        kind = story.kind(event)
        if isinstance(event, WorkerInspected):
            return  # no state of it
        if kind.startswith("worker."):
            self._of_worker(event, kind.partition(".")[2])
        elif getattr(event, "task", None) == self.task:
            self._of_task(event)

    def _of_worker(self, event: AnyEvent, state: str) -> None:
        before = self.worker_state
        self.worker_state = state  # type: ignore[assignment]  # the type of the event is the state
        self.worker_reason = getattr(event, "reason", None)
        if isinstance(event, WorkerFailed):
            self._screen.phase(
                f"worker {self.worker} failed: {self.worker_reason or 'no reason told'}"
            )
        elif state in {"queued", "building", "starting", "paused", "lost"}:
            self._tell(f"worker {self.worker} is {state}", self.worker_reason)
        elif state == "ready" and before != "busy":
            self._tell(f"worker {self.worker} is ready")

    def _tell(self, text: str, reason: str | None = None) -> None:
        text += f" ({reason})" if reason else ""
        self._screen.doing(text)
        self._screen.phase(text)

    def _of_task(self, event: AnyEvent) -> None:
        match event:
            case TaskQueued():
                self.task_state, self.end = "queued", None
                if event.attempt > 1:
                    self._screen.phase(f"task {self.task}: {story.told(event)}")
                self._screen.doing(f"task {self.task} waits for {self.worker}")
            case TaskAnswered():
                self.task_state, self.end = "queued", None
                self._screen.phase(f"task {self.task} was answered")
            case TaskRefused():
                self.refused = event
            case TaskStarted():
                self.task_state = "running"
                self._screen.phase(f"task {self.task} runs on {self.worker}")
                self._screen.doing("working")
            case TaskProgressed() if event.kind in _SHOWN:
                self._screen.phase(f"· {story.told(event)}")
            case TaskProgressed():
                self._screen.doing(f"working: {event.text}" if event.text else "working")
            case TaskSessionSeen(fresh=False):
                self._screen.phase("the conversation goes on where it ended")
            case (
                TaskSucceeded() | TaskFailed() | TaskCancelled() | TaskTimedOut()
                | TaskInputRequired()
            ):  # fmt: skip
                self.task_state = story.kind(event).partition(".")[2]  # type: ignore[assignment]  # likewise
                self.end = event.end
