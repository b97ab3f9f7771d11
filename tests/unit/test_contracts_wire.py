"""The wire stays as it is: every message, written once, is read and written back unchanged (R36)."""

from collections.abc import Iterator
from inspect import get_annotations
from typing import Any, get_args

import msgspec
import pytest

from contracts.codec import decode, encode
from contracts.events import TASK_ENDINGS, Event
from contracts.schema import MESSAGES
from tests.support.golden import TYPED, WIRE, kind_of, message_of

NOT_ON_THE_WIRE = {"file.agent", "file.capability"}
"""Read from the TOML files of this repository, which are tested themselves."""


@pytest.mark.parametrize("name", WIRE)
def test_what_was_written_is_read_and_written_back_byte_for_byte(name: str) -> None:
    assert encode(decode(WIRE[name], kind_of(name))) == WIRE[name]


@pytest.mark.parametrize("name", TYPED)
def test_what_a_person_types_means_what_we_would_have_written(name: str) -> None:
    assert decode(TYPED[name], kind_of(name)) == decode(WIRE[name], kind_of(name))


def test_every_message_has_a_golden_file() -> None:
    assert {message_of(name) for name in WIRE} == MESSAGES.keys() - NOT_ON_THE_WIRE


def test_every_field_of_every_message_stands_in_a_golden_file() -> None:
    seen = {field for name in WIRE for field in _fields(decode(WIRE[name], kind_of(name)))}
    expected = {
        (_owner(kind, field), field)
        for message in MESSAGES.keys() - NOT_ON_THE_WIRE
        for kind in _members(MESSAGES[message])
        for field in kind.__struct_fields__
    }
    assert expected - seen == set()


def test_every_event_and_every_ending_has_a_golden_file() -> None:
    events = {type(decode(WIRE[name], kind_of(name))) for name in WIRE if name.startswith("evt.")}
    assert events == set(_members(Event))
    assert events >= set(TASK_ENDINGS.values())


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) or (kind,)


def _owner(kind: type, field: str) -> str:
    """The class that declares a field; those that inherit it share its line in the golden files."""
    return next(c.__name__ for c in kind.__mro__ if field in get_annotations(c))


def _fields(value: object) -> Iterator[tuple[str, str]]:
    """Each field, of the message or of one inside it, that does not merely have its default."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            inner = getattr(value, field.name)
            if field.required or inner != field.default:
                yield _owner(type(value), field.name), field.name
            yield from _fields(inner)
    elif isinstance(value, list):
        for item in value:
            yield from _fields(item)
