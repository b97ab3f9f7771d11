"""Parameters that several routes take, and how their answers are described."""

from http import HTTPStatus
from typing import Annotated, Any, get_args

from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter

from contracts.errors import InvalidMessage
from contracts.ids import ID_PATTERN
from services.api.problems import MEDIA_TYPE, Problem

HIGHEST_SEQ = 2**63 - 1

AnyRequest = Request[Any, Any, Any]
Id = Annotated[str, PathParameter(pattern=ID_PATTERN)]
Filter = Annotated[str | None, QueryParameter(pattern=ID_PATTERN)]
ImageKey = Annotated[
    str | None, QueryParameter(max_length=81, description="Where the page before ended: `next`.")
]
SessionKey = Annotated[
    str | None, QueryParameter(max_length=131, description="Where the page before ended: `next`.")
]
Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="Items of a page, at most.")]
Seq = Annotated[
    int | None,
    QueryParameter(ge=0, le=HIGHEST_SEQ, description="Begin after this place in the stream."),
]
Label = Annotated[
    list[str] | None,
    QueryParameter(description="`key` or `key=value`; given several times, all of them hold."),
]


def states_of(kind: Any) -> Any:
    """The parameter `state` of a list, which may be given several times."""
    return QueryParameter(
        name="state",
        description="Given several times, any of them will do.",
        schema_extra={"items": {"type": "string", "enum": list(get_args(kind))}},
    )


def check_states(states: list[str] | None, kind: Any) -> None:
    """Whether all are states of this kind.

    Raises:
        InvalidMessage: one is not; says which there are.
    """
    for state in states or ():
        if state not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise InvalidMessage(f'unknown state "{state}"; known: {known}', field="state")


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The errors that a route may answer with, for the OpenAPI document."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=MEDIA_TYPE,
        )
        for status in statuses
    }


def shown(kind: type[Any]) -> dict[int, ResponseSpec]:
    """What a route answers with that answers a stream as well."""
    return {200: ResponseSpec(kind, generate_examples=False, description="A page of it.")}
