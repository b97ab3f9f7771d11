"""Log format: structlog, JSON lines or a console's colours, always on stderr.

What is bound to the context (subject, id, cause, traceparent of the delivery at hand) stands in every
line that is written meanwhile.
"""

import logging
import sys
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]


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
