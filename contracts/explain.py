"""What is wrong with a message, told to the person who typed it.

The decoder says where it failed and what it expected; this adds the name of the wrong entry, the value
found and what would be right: `$.runtime: unknown value "podman"; known: auto, docker, process`.
"""

import math
import re
from collections.abc import Iterator
from itertools import islice
from types import EllipsisType
from typing import Any

import msgspec
from msgspec import inspect

from contracts.errors import InvalidMessage

_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at (?P<key>`key` in )?`(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(
    r"Object (?P<missing>missing required|contains unknown) field `(?P<name>[^`]+)`"
)
_PATTERN = re.compile(r"Expected `str` matching regex")
_GOT = re.compile(r", got `[^`]*`$")
_PLAIN = re.compile(r"[\w-]+")
_SHOWN = 60  # characters of a wrong value that are repeated
_TRIED = 200  # entries of a mapping that are tried to find the wrong one
_WORDS = {"float": "number", "int": "integer", "str": "string", "bool": "boolean"}

NOWHERE = object()
"""Stands for a value that cannot be shown: it is not in the source, or the source cannot be read."""

Step = str | int | EllipsisType
"""A field or key, an index, or some entry that the decoder does not name."""


def explain(error: msgspec.ValidationError, source: object, kind: Any) -> InvalidMessage:
    """The error of reading `source`, built of plain dicts and lists or `NOWHERE`, as a `kind`."""
    match = _PLACE.match(str(error))
    assert match is not None
    reason, in_key = match["reason"], bool(match["key"])
    steps = _steps(match["path"] or "$", in_key=in_key)
    source = _name_entries(steps, source, kind, str(error))
    if named := _FIELD.match(reason):
        field = _path([*steps, named["name"]])
        if named["missing"].startswith("missing"):
            return InvalidMessage("missing", field=field)
        return InvalidMessage(f"unknown field{_known(_type_at(kind, steps, source))}", field=field)
    if in_key:
        wrong = "a key" if steps[-1] is ... else f"key {_short(steps[-1])}"
        wanted = _wanted(reason, _type_at(kind, steps, source, key=True))
        return InvalidMessage(f"{wrong}: {wanted}", field=_path(steps[:-1]))
    found, place = _value_at(source, steps), _type_at(kind, steps, source)
    if reason.startswith(("Invalid enum value", "Invalid value")):
        tagged = place or _type_at(kind, steps[:-1], source)
        return InvalidMessage(f"unknown value {_short(found)}{_known(tagged)}", field=_path(steps))
    shown = "" if found is NOWHERE or _is_secret(place) else f"; got {_short(found)}"
    return InvalidMessage(f"{_wanted(reason, place)}{shown}", field=_path(steps))


def _steps(path: str, *, in_key: bool) -> list[Step]:
    found: list[Step] = [
        name or (... if index == "..." else int(index)) for name, index in _STEP.findall(path)
    ]
    return [*found, ...] if in_key else found


def _path(steps: list[Step]) -> str:
    return "$" + "".join(map(_step, steps))


def _step(step: Step) -> str:
    if isinstance(step, str):
        return f".{step}" if _PLAIN.fullmatch(step) else f"[{_short(step)}]"
    return "[...]" if step is ... else f"[{step}]"


def _name_entries(steps: list[Step], source: object, kind: Any, text: str) -> object:
    """Put names in place of the `...` among `steps`; the source, narrowed to what they lead to.

    An entry is the wrong one when the message fails in the same way with this entry alone.
    """
    for n, step in enumerate(steps):
        mapping = _value_at(source, steps[:n])
        if step is not ... or not isinstance(mapping, dict):
            continue
        for key, value in islice(mapping.items(), _TRIED):
            alone = _replaced(source, steps[:n], {key: value})
            if _failure(alone, kind) == text:
                steps[n], source = key, alone
                break
    return source


def _failure(source: object, kind: Any) -> str | None:
    try:
        msgspec.convert(source, kind)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _replaced(source: Any, steps: list[Step], value: object) -> object:
    if not steps:
        return value
    copy = source.copy()
    copy[steps[0]] = _replaced(copy[steps[0]], steps[1:], value)
    return copy


def _value_at(source: Any, steps: list[Step]) -> Any:
    """The value there, or `NOWHERE` where the steps do not say which one."""
    for step in steps:
        try:
            source = source[step]
        except (LookupError, TypeError):
            return NOWHERE
    return source


def _type_at(kind: Any, steps: list[Step], source: Any, *, key: bool = False) -> Any:
    """The type that the message should have there, without its metadata; None where it has none.

    With `key`, the type of the mapping's keys instead of that of its values.
    """
    here: Any = inspect.type_info(kind)
    for n, step in enumerate(steps):
        last = n == len(steps) - 1
        options = _options(here, _value_at(source, steps[:n]))
        inner = (_inner(option, step, key=key and last) for option in options)
        here = next((found for found in inner if found is not None), None)
    return here


def _options(here: Any, value: object) -> Iterator[Any]:
    """The types that `here` stands for; of a tagged union only the one that the value's tag names."""
    if isinstance(here, inspect.Metadata):
        yield from _options(here.type, value)
    elif isinstance(here, inspect.UnionType):
        for option in here.types:
            yield from _options(option, value)
    elif isinstance(here, inspect.StructType) and here.tag_field and isinstance(value, dict):
        if value.get(here.tag_field) == here.tag:
            yield here
    elif here is not None:
        yield here


def _inner(here: Any, step: Step, *, key: bool) -> Any:
    if isinstance(here, inspect.StructType):
        return next((field.type for field in here.fields if field.encode_name == step), None)
    if isinstance(here, inspect.DictType):
        return here.key_type if key else here.value_type
    if isinstance(here, inspect.ListType):
        return here.item_type
    return None


def _wanted(reason: str, place: Any) -> str:
    """What the decoder expected, without the type it found, in words where the type has some."""
    if _PATTERN.match(reason) and isinstance(place, inspect.Metadata) and place.extra_json_schema:
        reason = f"expected {_lower(place.extra_json_schema.get('description', reason))}"
    reason = re.sub(r"\b(float|int|str|bool)\b", lambda word: _WORDS[word[1]], _GOT.sub("", reason))
    return _lower(reason).removesuffix(".")


def _is_secret(place: Any) -> bool:
    """Whether the value in this place must not be repeated (`writeOnly` in its schema)."""
    extra = place.extra_json_schema if isinstance(place, inspect.Metadata) else None
    return bool(extra and extra.get("writeOnly"))


def _known(place: Any) -> str:
    """What may stand in this place, if that is a list."""
    found: set[str] = set()
    for option in _options(place, None):
        if isinstance(option, inspect.LiteralType):
            found |= set(map(str, option.values))
        elif isinstance(option, inspect.StructType):
            tags = isinstance(place, inspect.UnionType)
            found |= {str(option.tag)} if tags else {f.encode_name for f in option.fields}
    return f"; known: {', '.join(sorted(found))}" if found else ""


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    try:
        text = msgspec.json.encode(value).decode(errors="replace")
    except (TypeError, ValueError, OverflowError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _lower(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
