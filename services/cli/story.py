"""Events as lines for people."""

from datetime import datetime

from contracts.bus import Stored
from contracts.codec import decode
from contracts.errors import InvalidMessage
from contracts.events import (
    Event,
    ImageBuilding,
    ImageBuilt,
    ImageEvent,
    NodeCleaned,
    NodeEvent,
    NodeKeptUnknown,
    ProjectCreated,
    ProjectEvent,
    ProjectUpdated,
    TaskAnswered,
    TaskCancelling,
    TaskEnd,
    TaskProgressed,
    TaskQueued,
    TaskRefused,
    TaskSessionSeen,
    WorkerBusy,
    WorkerInspected,
    WorkerRequested,
)
from services.cli.text import duration, one_line, verdict_line

ENDINGS = {
    "task.succeeded", "task.failed", "task.cancelled", "task.timed-out", "task.input-required",
    "task.refused",
}  # fmt: skip
"""Types of the events after which nothing comes of a task."""


def event_of(stored: Stored) -> Event | None:
    """The event in a stored message; None when this version does not know it."""
    try:
        event: Event = decode(stored.data, Event)  # type: ignore[arg-type]  # a union is not a class
    except InvalidMessage:
        return None
    return event


def kind(event: Event) -> str:
    """Its type, as in `task.started`."""
    return str(event.__struct_config__.tag)


def told(event: Event) -> str:
    """What an event says beyond its type and whom it is about."""
    match event:
        case WorkerRequested():
            return f"agent {event.agent}"
        case WorkerBusy():
            return f"task {event.task}"
        case WorkerInspected():
            return f"{event.program}, by {event.actor or 'somebody'}"
        case TaskAnswered():
            return f"by {event.actor}" if event.actor else ""
        case TaskQueued(after=TaskEnd() as before):
            return f"attempt {event.attempt}, after {verdict_line('failed', before)}"
        case TaskRefused():
            where = f"{event.field}: " if event.field not in {None, "$"} else ""
            return f"{where}{event.reason}"
        case TaskProgressed():
            return f"{event.kind}: {event.text}" if event.text else event.kind
        case TaskSessionSeen():
            return f"{'new' if event.fresh else 'resumed'} conversation {event.agent_session}"
        case TaskCancelling():
            return event.reason
        case ImageBuilding():
            return f"step {event.step}/{event.steps} {event.text}"
        case ImageBuilt():
            return f"in {duration(event.took)}"
        case NodeCleaned():
            return ", ".join(f"{count} {kind}" for kind, count in event.removed.items())
        case NodeKeptUnknown():
            return f"{event.reason}: {', '.join(event.things)}" if event.things else event.reason
        case ProjectCreated() | ProjectUpdated():
            bounds = {"USD": event.usd, "tokens": event.tokens, "turns": event.turns}
            given = [f"{bound:g} {unit}" for unit, bound in bounds.items() if bound is not None]
            return ", ".join(given) or "without bounds"
    if (end := getattr(event, "end", None)) is not None:
        return verdict_line(kind(event).partition(".")[2], end)
    return getattr(event, "reason", None) or ""


def whom(event: Event) -> str:
    """The worker, task, image, node or project it is about."""
    if isinstance(event, ImageEvent):
        return event.image
    if isinstance(event, NodeEvent):
        return event.node
    if isinstance(event, ProjectEvent):
        return event.project
    task = getattr(event, "task", None)
    return f"{event.worker}/{task}" if task and kind(event).startswith("task.") else event.worker


def line(stored: Stored) -> str:
    """One event on one line: sequence, local time, type, whom, what."""
    event = event_of(stored)
    at = stored.at.astimezone().strftime("%H:%M:%S")
    if event is None:
        return f"{stored.seq:>6}  {at}  {one_line(stored.subject, 80)}"
    return f"{stored.seq:>6}  {at}  {kind(event):<20} {whom(event):<16} {one_line(told(event))}".rstrip()


def when(at: datetime | None) -> str:
    """A moment in local time, without the date when it is today."""
    if at is None:
        return "-"
    local = at.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")
