"""Errors as problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from msgspec import Struct

from contracts.errors import BusClosed, BusUnavailable, Denied, InvalidMessage, Refused

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "2"
"""Seconds after which it is worth while to ask again when the bus is away, or too many ask."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not served."""

    type: str
    """`urn:jetcrew:problem:` and a word for a machine."""
    title: str
    status: int
    detail: str
    """A sentence about this very request."""
    instance: str
    """The path that was asked for."""
    field: str | None = None
    """The parameter or header that is wrong."""


class TooManyStreams(HTTPException):
    """As many clients follow events as the process wants to serve."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE


class RecordUnreadable(HTTPException):
    """A record on the bus does not decode."""


_KINDS = {
    401: "unauthenticated",
    404: "not-found",
    405: "method-not-allowed",
    421: "misdirected",
    422: "invalid",
    503: "unavailable",
}


def problem(status: int, detail: str, instance: str, field: str | None = None) -> Problem:
    """The problem that an HTTP status stands for."""
    return Problem(
        type=f"urn:jetcrew:problem:{_KINDS.get(status, 'bad-request' if status < 500 else 'internal')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        field=field,
    )


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """The response to a request that raised `error`."""
    headers: dict[str, str] = {}
    field = None
    match error:
        case InvalidMessage():
            status, detail, field = 422, error.reason, error.field
        case Refused():
            status, detail, field = error.code, error.reason, error.field
        case BusUnavailable() | BusClosed() | Denied():
            status, detail = 503, str(error)
        case ValidationException():
            status, (field, detail) = 422, _first(error)
        case HTTPException():
            status, detail = error.status_code, error.detail
            headers = dict(error.headers or {})
        case _:
            status, detail = 500, "the server failed; its log says why"
    if status >= 500 and status != 503:
        log.error("request.failed", path=request.url.path, exc_info=error)
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER
    return Response(
        problem(status, detail, request.url.path, field),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def _first(error: ValidationException) -> tuple[str | None, str]:
    """The first parameter that does not fit, and why."""
    match error.extra:
        case [{"key": str(key), "message": str(message)}, *_]:
            # every pattern of a parameter is that of an id
            return key, _ID_EXPECTED if "matching regex" in message else message
        case [{"message": str(message)}, *_]:
            return None, message
    return None, error.detail


_ID_EXPECTED = "lower-case letters, digits and dashes are expected, 1 to 40 of them"
