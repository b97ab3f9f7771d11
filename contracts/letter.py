"""Dead letters: messages that nobody could handle, and the commands that send them again or drop them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contracts.ids import Instant
from contracts.results import Failure

LetterSeq = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""A letter's place in JC_DLQ, by which it is known."""
Some = Annotated[list[LetterSeq], Meta(min_length=1, max_length=1000)]


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a dead letter, its body left out."""

    seq: LetterSeq
    at: Instant
    """When it was given up."""
    stream: str
    consumer: str
    """Whose messages it was one of."""
    subject: str
    """Where it first came, and comes again when it is redriven."""
    original_seq: int
    reason: str
    message_id: str | None = None
    """The sender's id, if it gave one."""
    size_bytes: int
    """Of the body, as it first came."""
    cut: bool = False
    """Whether only its beginning was kept, since not all of it would have gone through the server again."""


class RedriveLetters(Struct, frozen=True, kw_only=True):
    """Send dead letters to their subjects once more, each under a new id, which is the same if it is sent twice."""

    letters: Some | Literal["all"]
    """By their place in JC_DLQ; `all`: those there were when the command was stored."""


class DropLetters(Struct, frozen=True, kw_only=True):
    """Forget dead letters."""

    letters: Some


class Redriven(Struct, frozen=True, kw_only=True):
    """A letter that was sent again."""

    letter: LetterSeq
    subject: str
    id: str
    """Its new message id: that of the command or task that it is now."""
    seq: int
    """Its place in the stream of its subject."""


class Stuck(Struct, frozen=True, kw_only=True):
    """A letter that stays where it is, or is not there."""

    letter: LetterSeq
    error: Failure


class LettersHandled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a command about letters."""

    redriven: list[Redriven] = []
    dropped: list[LetterSeq] = []
    stuck: list[Stuck] = []
    unlisted: int = 0
    """Letters more than are listed here, redriven or stuck."""
