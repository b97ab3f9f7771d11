"""Plain text: the whole of stdout is the answer."""

import codecs

from wrapper.output.reading import KEPT as NOTE
from wrapper.output.reading import Noted, Reading

KEPT = 1_048_576
"""Characters of the end of stdout that are kept."""


class TextOutput:
    """Keeps the end of the text; every piece is a sign of life."""

    has_events = False
    ends_with_event = False

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []
        self._size = 0

    @property
    def reading(self) -> Reading:
        """The text so far."""
        return Reading(text=self._joined().strip())

    def feed(self, data: bytes) -> list[Noted]:
        """Take a piece of stdout."""
        return self._add(self._decoder.decode(data))

    def close(self) -> list[Noted]:
        """Stdout is over."""
        return self._add(self._decoder.decode(b"", final=True))

    def _add(self, text: str) -> list[Noted]:
        self._parts.append(text)
        self._size += len(text)
        if self._size > 2 * KEPT:
            self._parts = [self._joined()]
            self._size = len(self._parts[0])
        said = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        return [Noted("text", said[:NOTE])] if said else []

    def _joined(self) -> str:
        return "".join(self._parts)[-KEPT:]
