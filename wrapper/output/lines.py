"""Lines out of pieces of bytes."""

from collections.abc import Iterator

LONGEST = 16_777_216
"""Bytes of a line; a longer one is skipped to its end."""


class Lines:
    """Joins pieces and yields whole lines, without their ends. A line may be megabytes long."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0
        self.skipped = 0
        """Lines that were too long."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete by now."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._add(end)
            if (line := self._take()) is not None:
                yield line
        self._add(rest)

    def close(self) -> Iterator[bytes]:
        """A last line that nothing ended."""
        if self._size and (line := self._take()) is not None:
            yield line

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._longest:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _take(self) -> bytes | None:
        too_long = self._size > self._longest
        line = b"".join(self._parts)
        self._parts, self._size = [], 0
        self.skipped += too_long
        return None if too_long else line
