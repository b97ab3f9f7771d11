"""The two ends of a publish: what may be sent, and what a stream answered."""

from msgspec import Struct

from contracts.bus.messages import Headers, Receipt
from contracts.codec import decoder
from contracts.errors import Conflict, JetcrewError, QueueFull, TooLarge
from contracts.topology import DOOR_BYTES

LINE_BYTES = 4096
"""The server's `max_control_line`: subject and reply together stay well below it."""
_HEADER_OVERHEAD = len("NATS/1.0\r\n\r\n")

# Error codes of JetStream (server/errors.json).
WRONG_LAST_SEQUENCE = {10071, 10164}
STORE_FULL = {10077, 10047}
MESSAGE_TOO_LARGE = 10054


class _Error(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


class StreamRefused(JetcrewError):
    """The stream did not take the message, for a reason none of the typed errors has."""


def check_size(subject: str, body: bytes, headers: Headers, limit: int) -> None:
    """Refuse what the server would answer by closing the connection: the client library does not count
    headers, and does not reconnect.

    Raises:
        TooLarge: headers and body, or the subject, are over their limit.
    """
    size = len(body)
    if headers:
        size += _HEADER_OVERHEAD + sum(
            len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items()
        )
    if size > limit:
        raise TooLarge(size, limit)
    if len(subject) > LINE_BYTES - 512:
        raise TooLarge(len(subject), LINE_BYTES - 512, "subject")


def receipt_of(answer: bytes, subject: str, size: int) -> tuple[Receipt | None, str]:
    """The stream's receipt, or None with the reason why trying again makes sense.

    Raises:
        QueueFull, Conflict, TooLarge, StreamRefused: trying again does not help.
    """
    if not answer:
        return None, f"an empty answer from {subject}"
    ack: _PubAck = decoder(_PubAck).decode(answer)
    if ack.error is None:
        return Receipt(ack.stream, ack.seq, ack.duplicate), ""
    text = f"{ack.error.description} ({ack.error.err_code})"
    if ack.error.err_code in WRONG_LAST_SEQUENCE:
        raise Conflict(f"{subject}: {text}")
    if ack.error.err_code in STORE_FULL:
        raise QueueFull(f"{subject}: {text}")
    if ack.error.err_code == MESSAGE_TOO_LARGE:
        raise TooLarge(size, DOOR_BYTES, f"message to {subject}")
    if ack.error.code == 503:
        return None, f"{subject}: {text}"
    raise StreamRefused(f"{subject}: {text}")
