"""What any adapter finds in an agent's output."""

from dataclasses import dataclass
from typing import Literal, Protocol

from contracts.events import Usage


@dataclass(frozen=True)
class Noted:
    """Something worth telling while the agent works."""

    kind: Literal["text", "tool", "tool-done", "retry", "usage", "status"]
    text: str
    """As it came: it is redacted first and shortened then, lest half a secret remains."""


@dataclass
class Reading:
    """All that was understood so far."""

    session: str | None = None
    """The CLI's own name of its conversation."""
    text: str = ""
    """The final text; while there is none, the last thing the agent said."""
    final: bool = False
    """Whether the event was seen that ends a turn; stays False for formats that have none."""
    error: str | None = None
    """The final event says that the turn failed: its error, as the CLI puts it."""
    structured: dict[str, object] | None = None
    """The answer as an object, from a CLI that was given a schema for it and heeds it."""
    usage: Usage | None = None
    """Of the turn, once it tells; of the answers so far in a format that tells with each."""
    so_far: Usage | None = None
    """What the answers used that were seen before the turn tells its usage: no more than that, often less."""
    tools: int = 0
    tools_failed: int = 0


class Adapter(Protocol):
    """Understands one output format. Bytes may be cut anywhere."""

    has_events: bool
    """Whether `reading` says more than text while the agent works."""
    ends_with_event: bool
    """Whether a turn is complete only when `reading.final` is True."""

    @property
    def reading(self) -> Reading:
        """What was understood so far."""
        ...

    def feed(self, data: bytes) -> list[Noted]:
        """Take a piece of stdout."""
        ...

    def close(self) -> list[Noted]:
        """Stdout is over."""
        ...


KEPT = 65_536
"""Characters of a note's text that are kept."""
SHOWN = 300
"""Characters of it that are shown."""


def shortened(text: str, limit: int = SHOWN) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def added(one: Usage | None, other: Usage | None) -> Usage | None:
    """Both together; what neither knows stays unknown."""
    if one is None or other is None:
        return one or other
    return Usage(
        input_tokens=_sum(one.input_tokens, other.input_tokens),
        output_tokens=_sum(one.output_tokens, other.output_tokens),
        cache_read_tokens=_sum(one.cache_read_tokens, other.cache_read_tokens),
        cache_write_tokens=_sum(one.cache_write_tokens, other.cache_write_tokens),
        cost_usd=None
        if one.cost_usd is None and other.cost_usd is None
        else (one.cost_usd or 0.0) + (other.cost_usd or 0.0),
        turns=_sum(one.turns, other.turns),
        model=other.model or one.model,
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
