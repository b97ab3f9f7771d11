"""Dead letters: what nobody could handle, kept with the reason, so that it can be sent again."""

import json
from typing import TYPE_CHECKING

import structlog

from contracts.bus.messages import MSG_ID, Delivery, Stored
from contracts.topology import Consumer

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

log = structlog.get_logger(__name__)

SUBJECT, SEQ, REASON, ORIGINAL_ID = "Jc-Dlq-Subject", "Jc-Dlq-Seq", "Jc-Dlq-Reason", "Jc-Dlq-Msg-Id"


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
    headers = {k: v for k, v in original.headers.items() if not k.lower().startswith("nats-")}
    headers[SUBJECT], headers[SEQ] = original.subject, str(original.seq)
    headers[REASON] = reason.replace("\r", " ").replace("\n", " ")[:500]
    if MSG_ID in original.headers:
        headers[ORIGINAL_ID] = original.headers[MSG_ID]
    await bus.publish(
        bus.subjects.dead_letter(stream, consumer), original.data, headers=headers,
        id=f"{stream}-{original.seq}-{original.at.timestamp():.6f}",
    )  # fmt: skip


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


async def redrive(bus: "Bus", letter: Stored) -> None:
    """Publish a dead letter to the subject it first came on, then take it from the dead-letter stream."""
    headers = {
        k: v for k, v in letter.headers.items() if not k.lower().startswith(("nats-", "jc-dlq-"))
    }
    await bus.publish(
        letter.headers[SUBJECT], letter.data, headers=headers, id=f"redrive-{letter.seq}"
    )
    await bus.delete_message("JC_DLQ", letter.seq)
