"""Keeping secrets out of whatever is published or kept: their values are replaced wherever they appear."""

import json
import re
from collections.abc import Iterable
from typing import Any

MASK = "[redacted]"
SHORTEST = 6
"""Characters; shorter values would blot out ordinary words."""


class Secrets:
    """The values that must not leave the worker. Values may be added at any time."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.spellings: list[str] = []
        self.pattern: re.Pattern[str] | None = None
        self.add(*values)

    def add(self, *values: str) -> None:
        """Take in further values; those shorter than six characters are ignored."""
        known = set(self.spellings)
        for value in values:
            if len(value.strip()) >= SHORTEST:
                known |= _spellings(value.strip())
        # The longest first: of two that begin alike the whole one is replaced.
        self.spellings = sorted(known, key=lambda spelling: (-len(spelling), spelling))
        joined = "|".join(map(re.escape, self.spellings))
        self.pattern = re.compile(joined) if joined else None

    def redact(self, text: str) -> str:
        """`text` with every secret replaced."""
        return self.pattern.sub(MASK, text) if self.pattern else text

    def redact_in(self, value: Any) -> Any:
        """The same for all strings inside a JSON value, keys included."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact(key): self.redact_in(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.redact_in(item) for item in value]
        return value


def _spellings(value: str) -> set[str]:
    """A value as it is, and as it looks inside a JSON string."""
    return {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}


class RedactedStream:
    """Redacts text that comes in pieces: what may be the beginning of a secret waits for the rest."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is safe to publish by now."""
        text = self._held + text
        out: list[str] = []
        at = 0
        hold = self._hold(text, 0)
        for match in self._secrets.pattern.finditer(text) if self._secrets.pattern else ():
            if match.start() >= hold:
                break
            out += [text[at : match.start()], MASK]
            at = match.end()
        hold = hold if hold >= at else self._hold(text, at)
        out.append(text[at:hold])
        self._held = text[hold:]
        return "".join(out)

    def close(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._secrets.redact(text)

    def _hold(self, text: str, start: int) -> int:
        """Where the longest end of `text` begins that is a beginning of a secret."""
        earliest = len(text)
        for spelling in self._secrets.spellings:
            at = text.find(spelling[0], max(start, len(text) - len(spelling) + 1))
            while at != -1 and at < earliest:
                if spelling.startswith(text[at:]):
                    earliest = at
                    break
                at = text.find(spelling[0], at + 1)
        return earliest
