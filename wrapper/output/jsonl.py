"""Formats of one JSON object a line: what all their adapters share."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from contracts.events import Usage
from wrapper.output.lines import Lines
from wrapper.output.reading import KEPT, Noted, Reading

Event = dict[str, Any]

_decoder = msgspec.json.Decoder()


class JsonLines:
    """Hands each object to `_event`; lines that are not JSON objects are passed over."""

    has_events = True
    ends_with_event = True

    def __init__(self) -> None:
        self.reading = Reading()
        self._lines = Lines()

    def feed(self, data: bytes) -> list[Noted]:
        """Take a piece of stdout."""
        return self._read(self._lines.feed(data))

    def close(self) -> list[Noted]:
        """Stdout is over."""
        return self._read(self._lines.close())

    def _read(self, lines: Iterable[bytes]) -> list[Noted]:
        events = (event for line in lines if (event := decoded(line)) is not None)
        return [note for event in events for note in self._event(event)]

    def _event(self, event: Event) -> Iterator[Noted]:
        raise NotImplementedError

    def _said(self, text: str) -> Noted:
        """What the agent said last, until something is final."""
        self.reading.text = text
        return Noted("text", text[:KEPT])

    def _called(self, name: object, given: object) -> Noted:
        """A tool call began."""
        self.reading.tools += 1
        shown = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return Noted("tool", f"{name} {shown}"[:KEPT])

    def _returned(self, said: str, *, failed: bool) -> Noted:
        """A tool call ended."""
        self.reading.tools_failed += failed
        return Noted("tool-done", f"{'failed' if failed else 'ok'}: {said}"[:KEPT])


def decoded(line: bytes) -> Event | None:
    """The JSON object in a line; None when there is none."""
    line = line.strip()
    if not line.startswith(b"{"):
        return None
    try:
        event = _decoder.decode(line)
    except (ValueError, RecursionError):
        try:  # halves of surrogate pairs and broken UTF-8 are no reason to lose an answer
            event = _decoder.decode(_respelled(json.loads(line.decode(errors="replace"))))
        except (ValueError, RecursionError):
            return None
    return event if isinstance(event, dict) else None


def _respelled(event: object) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def text_at(value: object, *path: str) -> str | None:
    """The text under these names, one inside the other; None when it is not there, or not text."""
    found = part(value, *path)
    return found if isinstance(found, str) else None


def part(value: object, *path: str) -> object:
    """What stands under these names, one inside the other."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def count(value: object) -> int | None:
    """A whole number; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def price(value: object) -> float | None:
    """US dollars; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def usage_with_cache_inside(tokens: object, cached_name: str) -> Usage | None:
    """Tokens of a CLI that counts what was read from a cache as input, which is not done here; None when no
    model answered."""
    taken, cached, output = (
        count(part(tokens, name)) for name in ("input_tokens", cached_name, "output_tokens")
    )
    if not taken and not output:
        return None
    return Usage(
        input_tokens=None if taken is None else taken - (cached or 0),
        output_tokens=output,
        cache_read_tokens=cached,
    )
