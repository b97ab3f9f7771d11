"""Identifiers, each a type of its own, and the one grammar of subject tokens."""

import hashlib
import re
import secrets
from datetime import datetime
from typing import Annotated, NewType

from msgspec import Meta

ID_PATTERN = r"^[a-z0-9-]{1,40}(?!\n)$"
"""One token of a subject: what may stand between two dots, in a key, in a container's name."""

_TOKEN = re.compile(ID_PATTERN)
_NUMBERED = re.compile(r"[st](\d+)")

Token = Annotated[
    str,
    Meta(pattern=ID_PATTERN, description="Lower-case letters, digits and dashes, 1 to 40 of them."),
]

Instant = Annotated[datetime, Meta(tz=True)]
"""A moment with its offset, as in `2026-01-31T12:00:00Z`; one without is refused, since nobody knows it."""

WorkerId = NewType("WorkerId", str)
"""A worker's name. Names are unique among the workers that exist, and free again after the end."""
TaskId = NewType("TaskId", str)
CommandId = NewType("CommandId", str)
NodeId = NewType("NodeId", str)
ProjectId = NewType("ProjectId", str)


def is_token(text: str) -> bool:
    """Whether `text` may stand as one token of a subject."""
    return _TOKEN.fullmatch(text) is not None


def message_id(prefix: str, given: str | None, seq: int) -> str:
    """The id of a stored message: the sender's `Nats-Msg-Id`, else `prefix` + its stream sequence.

    An id that cannot be a subject token (capitals, dots, spaces) is replaced by a hash of itself,
    so that the same message sent twice keeps the same id.
    """
    if not given:
        return f"{prefix}{seq}"
    if is_token(given):
        return given
    return f"{prefix}-{hashlib.sha256(given.encode()).hexdigest()[:24]}"


def number_of(made: str) -> int:
    """The stream sequence that an id was made of; 0 where the sender gave it."""
    found = _NUMBERED.fullmatch(made)
    return int(found[1]) if found else 0


def nonce() -> str:
    """96 random bits as a subject token: unguessable, and legal wherever an id is."""
    return secrets.token_hex(12)
