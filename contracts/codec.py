"""JSON in and out, with errors a person can act on.

Readers tolerate unknown fields. What does not decode raises `InvalidMessage`, which names the
field, the value found there and what would be right.
"""

from functools import cache
from typing import Any, TypeVar

import msgspec

from contracts.errors import InvalidMessage
from contracts.explain import NOWHERE, explain

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(message: object) -> bytes:
    """The message as JSON."""
    return _encoder.encode(message)


@cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The one decoder of a type; making one costs more than a hundred decodings."""
    return msgspec.json.Decoder(kind)


def decode(data: bytes, kind: type[T]) -> T:
    """The message that `data` holds.

    Raises:
        InvalidMessage: empty, not JSON, or not of this kind.
    """
    if not data:
        raise InvalidMessage("the message is empty; a JSON object is expected")
    try:
        value: T = decoder(kind).decode(data)  # type: ignore[arg-type]  # a class is hashable
    except msgspec.ValidationError as error:
        raise _explained(error, data, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidMessage("not valid JSON: nested too deeply") from None
    return value


def convert(value: object, kind: type[T], *, field: str = "$") -> T:
    """`value`, built of plain dicts and lists (as from TOML), as a `kind`.

    Raises:
        InvalidMessage: it does not fit.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = explain(error, value, kind)
        raise InvalidMessage(found.reason, field=field + found.field[1:]) from None


def _explained(error: msgspec.ValidationError, data: bytes, kind: Any) -> InvalidMessage:
    source: object
    try:
        source = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        source = NOWHERE  # what follows the first mistake need not be JSON at all
    return explain(error, source, kind)
