"""The application: routes, and the answers to errors, behind the gate."""

from collections.abc import Callable, Mapping

from litestar import Litestar
from litestar.di import Provide

from contracts.bus import Bus
from services.api import ends, history, routes
from services.api.document import openapi
from services.api.gate import Gate
from services.api.history import EventFeed, OutputFeed
from services.api.problems import answer
from services.api.reading import Reader

EVENTS, OUTPUT = "JC_EVT", "JC_OUT"
PROVIDED = ("reader", "event_feed", "output_feed", "subjects")
"""What routes ask for by name."""


class Api:
    """One API on one bus."""

    def __init__(self, bus: Bus, token: str | None) -> None:
        self.reader = Reader(bus)
        self.events = EventFeed(bus, self.reader, EVENTS)
        self.output = OutputFeed(bus, self.reader, OUTPUT)
        self.routes = application(
            {
                "reader": self.reader,
                "event_feed": self.events,
                "output_feed": self.output,
                "subjects": bus.subjects,
            }
        )
        self.asgi = Gate(self.routes, token)


def application(provided: Mapping[str, object]) -> Litestar:
    """The routes; without what they need they can be described, not used."""
    return Litestar(
        (*routes.ROUTES, *ends.ROUTES, *history.ROUTES),
        dependencies={
            name: Provide(_always(provided.get(name)), sync_to_thread=False) for name in PROVIDED
        },
        exception_handlers={Exception: answer},
        openapi_config=openapi(),
        logging_config=None,
    )


def _always(value: object) -> Callable[[], object]:
    return lambda: value
