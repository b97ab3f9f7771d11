"""The OpenAPI document: what is served at /schema, and written to docs/reference."""

from typing import Any

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.serialization import encode_json

from contracts import __version__
from services.api.params import AnyRequest

Json = dict[str, Any]


def cleaned(schema: Json) -> Json:
    """A document that tells only what is answered: the framework believes that wrong parameters are a 400."""
    paths = {
        path: {
            method: operation
            | {"responses": {k: v for k, v in operation["responses"].items() if k != "400"}}
            for method, operation in item.items()
        }
        for path, item in schema["paths"].items()
    }
    return schema | {"paths": paths}


class _Document(JsonRenderPlugin):
    """The cleaned document."""

    def render(self, request: AnyRequest, openapi_schema: Json) -> bytes:
        """As JSON."""
        return self.render_json(request, cleaned(openapi_schema))


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


def published() -> str:
    """The text of docs/reference/http.json; the same version always gives the same."""
    from services.api.app import application  # it needs this module for what it serves

    schema = cleaned(application({}).openapi_schema.to_schema())
    return msgspec.json.format(encode_json(schema), indent=2).decode() + "\n"
