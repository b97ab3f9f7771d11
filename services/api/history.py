"""The routes that show streams: a page of it, or all of it as it goes on."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from contracts.bus.deadletter import STREAM, letter_of
from contracts.errors import InvalidMessage
from contracts.ids import TaskId, WorkerId
from contracts.topology import Subjects
from services.api import frames
from services.api.feed import EVERYTHING, Feed, Frame
from services.api.params import HIGHEST_SEQ, AnyRequest, Filter, Id, Limit, Seq, problems, shown
from services.api.reading import Reader, no_task
from services.api.views import DeadLetters, Events, Outputs

EVENT_STREAM = "text/event-stream"


class EventFeed(Feed):
    """Of the events."""


class OutputFeed(Feed):
    """Of the agents' output."""


Reads = NamedDependency[Reader]
Names = NamedDependency[Subjects]


@get("/v1/tasks/{task:str}/events", responses=shown(Events) | problems(401, 404, 422, 503))
async def task_events(
    request: AnyRequest, reader: Reads, subjects: Names,
    event_feed: NamedDependency[EventFeed], task: Id, after: Seq = None, limit: Limit = 100,
) -> Response[Any]:  # fmt: skip
    """The history of a task; as server-sent events (`Accept: text/event-stream`) it goes on as it happens."""
    subject = subjects.events(task=TaskId(task))
    start = _resumed(request, after) or 0
    streaming = _wants_stream(request)
    # who comes again for more is let in even while the bus is away
    known = (streaming and start > 0) or await reader.find_task(TaskId(task))
    if not known and not await reader.page(event_feed.stream, subject, 0, 1):
        raise no_task(task)
    if streaming:
        return _stream(event_feed, subject, key=task, after=start, frame=frames.event_frame)
    stored = await reader.page(event_feed.stream, subject, start, limit)
    items = [item for item in map(frames.event_item, stored) if item is not None]
    return Response(Events(items=items, next=stored[-1].seq if stored else start))


@get("/v1/tasks/{task:str}/output", responses=shown(Outputs) | problems(401, 404, 422, 503))
async def task_output(
    request: AnyRequest, reader: Reads, subjects: Names,
    output_feed: NamedDependency[OutputFeed], task: Id, after: Seq = None, limit: Limit = 100,
) -> Response[Any]:  # fmt: skip
    """What the agent wrote; as server-sent events (`Accept: text/event-stream`) it goes on as it comes."""
    record = await reader.task(TaskId(task))
    # of the task's own worker: others can write under its id, below their names
    subject = subjects.output(record.worker, record.id)
    start = _resumed(request, after) or 0
    if _wants_stream(request):
        return _stream(output_feed, subject, key=task, after=start, frame=frames.output_frame)
    stored = await reader.page(output_feed.stream, subject, start, limit)
    items = [item for item in map(frames.output_item, stored) if item is not None]
    return Response(Outputs(items=items, next=stored[-1].seq if stored else start))


@get(
    "/v1/events",
    media_type=EVENT_STREAM,
    responses=problems(401, 422, 503),
)
async def follow_events(
    request: AnyRequest, reader: Reads, subjects: Names,
    event_feed: NamedDependency[EventFeed], worker: Filter = None, task: Filter = None, after: Seq = None,
) -> Stream:  # fmt: skip
    """Events as they happen, as server-sent events whose `id` is their place in the history.

    They begin after the `Last-Event-ID` header, else after `after` (0: with the oldest there is), else now.
    """
    start = _resumed(request, after)
    if start is None:
        start = await reader.last_seq(event_feed.stream)
    subject = subjects.events(
        worker=None if worker is None else WorkerId(worker),
        task=None if task is None else TaskId(task),
    )
    frame = frames.event_frame if worker is None else frames.whose_event_frame
    return _stream(event_feed, subject, key=task or worker or EVERYTHING, after=start, frame=frame)


@get("/v1/dead-letters", responses=problems(401, 422, 503))
async def list_dead_letters(
    reader: Reads, subjects: Names, after: Seq = None, limit: Limit = 100
) -> DeadLetters:
    """Messages that nobody could handle, each with the reason."""
    start = after or 0
    stored = await reader.page(STREAM, subjects.dead_letter("*", "*"), start, limit)
    return DeadLetters(
        items=[letter_of(one) for one in stored], next=stored[-1].seq if stored else start
    )


ROUTES = (task_events, task_output, follow_events, list_dead_letters)


def _wants_stream(request: AnyRequest) -> bool:
    return EVENT_STREAM in request.headers.get("accept", "").lower()


def _resumed(request: AnyRequest, after: int | None) -> int | None:
    """Where to begin: what a client has seen already counts more than what its address says."""
    if not (seen := request.headers.get("last-event-id", "").strip()):
        return after
    if not (seen.isascii() and seen.isdigit() and len(seen) < 20 and int(seen) <= HIGHEST_SEQ):
        raise InvalidMessage(
            "a place in the stream, a whole number, is expected", field="Last-Event-ID"
        )
    return int(seen)


def _stream(feed: Feed, subject: str, *, key: str, after: int, frame: Frame) -> Stream:
    feed.check_room()
    return Stream(
        feed.follow(subject, key=key, after=after, frame=frame),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
