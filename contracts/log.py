"""Log format: structlog, JSON lines or a console's colours, always on stderr.

What is bound to the context stands in every line that is written meanwhile, and so do subject, id, cause
and traceparent of the delivery `at_hand`.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]

at_hand: ContextVar[Callable[[], Mapping[str, str]] | None] = ContextVar("at_hand", default=None)
"""Gives the fields of what is being handled. Asked by the lines that are written, of which most deliveries
have none: binding the fields instead takes a third of the time that handling a small message does."""


def configure(*, json: bool | None = None, level: Level = "info", process: str = "") -> None:
    """Set the format for this process; `json=None` is JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    render: list[structlog.typing.Processor]
    if as_json:
        # Without local variables, which structlog's own default shows: they hold secrets.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        render = [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(),
        ]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_what_is_at_hand,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    if process:
        structlog.contextvars.bind_contextvars(process=process)


def _with_what_is_at_hand(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    fields = at_hand.get()
    return {**fields(), **line} if fields is not None else line
