"""Dead letters: what nobody could handle, kept with the reason, so that it can be sent again."""

import hashlib
import json
import re
from typing import TYPE_CHECKING

import structlog

from contracts.bus.messages import CAUSE, MSG_ID, Delivery, Receipt, Stored
from contracts.errors import InvalidMessage, TooLarge
from contracts.letter import DeadLetter
from contracts.topology import Consumer

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

STREAM = "JC_DLQ"
SUBJECT, SEQ, REASON, ORIGINAL_ID = "Jc-Dlq-Subject", "Jc-Dlq-Seq", "Jc-Dlq-Reason", "Jc-Dlq-Msg-Id"
SIZE = "Jc-Dlq-Size"
"""Header of a letter whose body was cut: the bytes that it had."""
_OURS = ("nats-", "jc-dlq-")
"""Beginnings of headers that are not the sender's."""
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""The headers that go along; a worker may have written anything."""
ENVELOPE_BYTES = 32_768
"""What headers and subject of a cut letter have room in."""


async def bury(bus: "Bus", consumer: Consumer, delivery: Delivery, reason: str) -> None:
    """Copy a delivery to the dead-letter stream. The same message is kept once.

    Raises:
        BusUnavailable: it could not be stored.
    """
    await _keep(
        bus, consumer.stream, consumer.name, reason,
        Stored(delivery.subject, delivery.seq, delivery.data, delivery.headers, delivery.at),
    )  # fmt: skip


async def _keep(bus: "Bus", stream: str, consumer: str, reason: str, original: Stored) -> None:
    told = {
        SUBJECT: original.subject,
        SEQ: str(original.seq),
        REASON: reason.replace("\r", " ").replace("\n", " ")[:500],
    }
    if MSG_ID in original.headers:
        told[ORIGINAL_ID] = original.headers[MSG_ID][:200]
    subject = bus.subjects.dead_letter(stream, consumer)
    letter = f"{stream}-{original.seq}-{original.at.timestamp():.6f}"
    try:
        await bus.publish(
            subject, original.data, headers=_senders(original) | told, id=letter
        )  # fmt: skip
    except TooLarge:
        # it filled a message to the brim, and the reason would be too much
        told[SIZE] = str(len(original.data))
        room = bus.client.max_payload - ENVELOPE_BYTES
        await bus.publish(subject, original.data[:room], headers=told, id=letter)


def _senders(message: Stored) -> dict[str, str]:
    """The headers that its sender gave it."""
    return {
        k: v
        for k, v in message.headers.items()
        if _HEADER.fullmatch(k) and not k.lower().startswith(_OURS)
    }


async def move_exhausted(bus: "Bus", advisory: Delivery) -> None:
    """Handle a "max deliveries" advisory: copy the message it speaks of, then take it from its stream.

    Without this a message that used up its deliveries would stay in a work queue for ever.
    """
    told = json.loads(advisory.data)
    stream, consumer, seq = told["stream"], told["consumer"], int(told["stream_seq"])
    original = await bus.at(stream, seq)
    if original is None:
        return
    await _keep(
        bus, stream, consumer, f"not handled in {told.get('deliveries', '?')} deliveries", original
    )
    await bus.delete_message(stream, seq)
    log.error(
        "dead_letter.kept", stream=stream, consumer=consumer, seq=seq, subject=original.subject
    )


def letter_of(stored: Stored) -> DeadLetter:
    """What a message of the dead-letter stream tells.

    Raises:
        InvalidMessage: it is no dead letter.
    """
    headers = stored.headers
    try:
        stream, consumer = stored.subject.split(".")[-2:]
        return DeadLetter(
            seq=stored.seq, at=stored.at, stream=stream, consumer=consumer,
            subject=headers[SUBJECT], original_seq=int(headers[SEQ]), reason=headers.get(REASON, ""),
            message_id=headers.get(ORIGINAL_ID), size_bytes=int(headers.get(SIZE, len(stored.data))),
            cut=SIZE in headers,
        )  # fmt: skip
    except (KeyError, ValueError):
        raise InvalidMessage(f"message {stored.seq} of {STREAM} is no dead letter") from None


def redriven_id(letter: Stored) -> str:
    """The message id of a letter that is sent again: always the same for one letter, and of no other one,
    even if the dead-letter stream is made anew and counts from 1 again."""
    burial = letter.headers.get(MSG_ID, "")
    return f"dlq{letter.seq}-{hashlib.sha256(burial.encode()).hexdigest()[:8]}"


async def redrive(bus: "Bus", letter: Stored, *, cause: str | None = None) -> Receipt:
    """Publish a dead letter to the subject it first came on, then take it from the dead-letter stream.

    Raises:
        TooLarge, QueueFull: its stream does not take it; the letter stays.
        BusUnavailable: it may have been sent or not; to do it again is safe.
    """
    headers = _senders(letter) | ({CAUSE: cause} if cause else {})
    receipt = await bus.publish(
        letter_of(letter).subject, letter.data, headers=headers, id=redriven_id(letter)
    )
    await bus.delete_message(STREAM, letter.seq)
    return receipt
