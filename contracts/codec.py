"""JSON in and out, with errors a person can act on.

Readers tolerate unknown fields. What does not decode raises `InvalidMessage`, which names the
field, the value found there and what would be right.
"""

import re
from functools import cache
from typing import Any, TypeVar

import msgspec

from contracts.errors import InvalidMessage

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_SHOWN = 60  # characters of a wrong value that an error repeats


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
        value: T = decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        raise _explained(error, data) from None
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
        found = _explained(error, value)
        raise InvalidMessage(found.reason, field=field + found.field[1:]) from None


def _explained(error: msgspec.ValidationError, source: object) -> InvalidMessage:
    match = _AT.match(str(error))
    assert match is not None
    reason, path = match["reason"], match["path"] or "$"
    if missing := re.match(r"Object missing required field `([^`]+)`", reason):
        return InvalidMessage("missing", field=f"{path}.{missing[1]}")
    if isinstance(source, bytes):
        try:
            source = msgspec.json.decode(source)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return InvalidMessage(_lower(reason), field=path)
    found = _at(source, path)
    shown = "" if found is _ELSEWHERE else f"; got {_short(found)}"
    return InvalidMessage(f"{_lower(reason)}{shown}", field=path)


_ELSEWHERE = object()


def _at(source: object, path: str) -> object:
    """The value at `path`, or `_ELSEWHERE` where the path does not say which one."""
    for name, index in _STEP.findall(path.removeprefix("$")):
        if name and isinstance(source, dict) and name in source:
            source = source[name]
        elif index and index != "..." and isinstance(source, list) and int(index) < len(source):
            source = source[int(index)]
        else:
            return _ELSEWHERE
    return source


def _short(value: object) -> str:
    try:
        text = msgspec.json.encode(value).decode(errors="replace")
    except (TypeError, ValueError, OverflowError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _lower(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
