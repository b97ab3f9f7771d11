"""Parameters that several routes take, and how their answers are described."""

from http import HTTPStatus
from typing import Annotated, Any

from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from contracts.ids import ID_PATTERN
from services.api.problems import Problem

HIGHEST_SEQ = 2**63 - 1

AnyRequest = Request[Any, Any, Any]
Id = Annotated[str, Parameter(pattern=ID_PATTERN)]
Filter = Annotated[str | None, Parameter(pattern=ID_PATTERN)]
Limit = Annotated[int, Parameter(ge=1, le=1000, description="Items of a page, at most.")]
Seq = Annotated[
    int | None,
    Parameter(ge=0, le=HIGHEST_SEQ, description="Begin after this place in the stream."),
]
Label = Annotated[
    list[str] | None,
    Parameter(description="`key` or `key=value`; given several times, all of them hold."),
]


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The errors that a route may answer with, for the OpenAPI document."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
        )
        for status in statuses
    }


def shown(kind: type[Any]) -> dict[int, ResponseSpec]:
    """What a route answers with that answers a stream as well."""
    return {200: ResponseSpec(kind, generate_examples=False, description="A page of it.")}
