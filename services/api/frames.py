"""Stored messages as items of a list and as server-sent events."""

from typing import Any

import msgspec
import structlog

from contracts.bus import Stored
from contracts.codec import decode, encode
from contracts.errors import InvalidMessage
from contracts.reports import Output
from services.api.views import EventItem, OutputItem

log = structlog.get_logger(__name__)

ENTITIES = ("worker", "task")
"""What a worker's name in a subject may stand for; a node or an image may bear the same name."""


def event_item(stored: Stored) -> EventItem | None:
    """An event of a page; None for what is not a JSON object."""
    try:
        return EventItem(
            seq=stored.seq, event=msgspec.json.decode(stored.data, type=dict[str, Any])
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("event.unreadable", seq=stored.seq, error=str(error))
        return None


def output_item(stored: Stored) -> OutputItem | None:
    """A piece of output; None for what is none, since it was the worker who wrote it."""
    try:
        piece = decode(stored.data, Output)
    except InvalidMessage:
        return None  # not worth a line in our log: a worker could fill it
    return OutputItem(
        seq=stored.seq, run=piece.run, n=piece.n, stream=piece.stream, text=piece.text, at=piece.at
    )


def event_frame(stored: Stored) -> bytes | None:
    """An event as a server-sent one."""
    item = event_item(stored)
    return None if item is None else _frame(item.seq, item.event)


def output_frame(stored: Stored) -> bytes | None:
    """A piece of output as a server-sent event."""
    item = output_item(stored)
    return None if item is None else _frame(item.seq, item)


def whose_event_frame(stored: Stored) -> bytes | None:
    """As `event_frame`, for events of workers and tasks only."""
    item = event_item(stored)
    if item is None or str(item.event.get("type")).partition(".")[0] not in ENTITIES:
        return None
    return _frame(item.seq, item.event)


def _frame(seq: int, shown: object) -> bytes:
    # encoded anew: JSON of our own has no line breaks, which would end the event
    return b"id: %d\ndata: %b\n\n" % (seq, encode(shown))
