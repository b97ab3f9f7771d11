"""Tokens of agents that count from a conversation's beginning: what one turn adds."""

import contextlib
from pathlib import Path

from contracts.codec import decode, encode
from contracts.errors import InvalidMessage
from contracts.events import Usage


class Totals:
    """Remembers, in the worker's home, what each conversation had used when its last turn ended."""

    def __init__(self, home: Path) -> None:
        self._folder = home / ".jetcrew" / "usage"

    def turn(self, session: str, total: Usage, *, resumed: bool) -> Usage | None:
        """What the turn that ended with `total` used; None when nobody knows what came before it."""
        before = self.of(session) if resumed else Usage()
        self.keep(session, total)
        if before is None:
            return None
        return Usage(
            input_tokens=_less(total.input_tokens, before.input_tokens),
            output_tokens=_less(total.output_tokens, before.output_tokens),
            cache_read_tokens=_less(total.cache_read_tokens, before.cache_read_tokens),
            cache_write_tokens=_less(total.cache_write_tokens, before.cache_write_tokens),
            turns=total.turns,
            model=total.model,
        )

    def _file(self, session: str) -> Path:
        return self._folder / f"{session.encode().hex()[:200]}.json"

    def of(self, session: str) -> Usage | None:
        """What a conversation had used by then; None when nobody knows."""
        file = self._file(session)
        try:  # the agent can write there, too: whatever it likes
            return decode(file.read_bytes(), Usage) if file.is_file() else None
        except (OSError, InvalidMessage):
            return None

    def keep(self, session: str, total: Usage) -> None:
        """Remember it."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._file(session)
            file.unlink(missing_ok=True)
            file.write_bytes(encode(total))


def _less(total: int | None, before: int | None) -> int | None:
    return None if total is None else max(0, total - (before or 0))
