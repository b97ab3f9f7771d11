"""The application: routes, error answers and the OpenAPI document behind the gate."""

from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from contracts import __version__
from contracts.bus import Bus
from services.api import history, routes
from services.api.gate import Gate
from services.api.history import EventFeed, OutputFeed
from services.api.params import AnyRequest
from services.api.problems import answer
from services.api.reading import Reader

EVENTS, OUTPUT = "JC_EVT", "JC_OUT"


class Api:
    """One API on one bus."""

    def __init__(self, bus: Bus, token: str | None) -> None:
        self.reader = Reader(bus)
        self.events = EventFeed(bus, self.reader, EVENTS)
        self.output = OutputFeed(bus, self.reader, OUTPUT)
        subjects = bus.subjects
        self.routes = Litestar(
            (*routes.ROUTES, *history.ROUTES),
            dependencies={
                "reader": Provide(lambda: self.reader, sync_to_thread=False),
                "event_feed": Provide(lambda: self.events, sync_to_thread=False),
                "output_feed": Provide(lambda: self.output, sync_to_thread=False),
                "subjects": Provide(lambda: subjects, sync_to_thread=False),
            },
            exception_handlers={Exception: answer},
            openapi_config=openapi(),
            logging_config=None,
        )
        self.asgi = Gate(self.routes, token)


class _Document(JsonRenderPlugin):
    """The document without what the framework believes of errors."""

    def render(self, request: AnyRequest, openapi_schema: dict[str, Any]) -> bytes:
        """As JSON."""
        return self.render_json(request, document(openapi_schema))


def document(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document that tells only what we answer: wrong parameters are a 422, not a 400."""
    paths = {
        path: {
            method: operation
            | {"responses": {k: v for k, v in operation["responses"].items() if k != "400"}}
            for method, operation in item.items()
        }
        for path, item in schema["paths"].items()
    }
    return schema | {"paths": paths}


def openapi() -> OpenAPIConfig:
    """What the document says of the whole."""
    return OpenAPIConfig(
        title="jetcrew",
        version=__version__,
        description="Workers, tasks and events of a crew. Reads only: commands go over NATS.",
        render_plugins=[_Document(path=["/", "/openapi.json"])],
        path="/schema",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
        ),
        security=[{"token": []}, {}],
    )
