"""Reading streams without consumers: direct gets, single or in batches."""

import asyncio
import base64
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from nats.aio.msg import Msg

from contracts.bus.messages import NO_HEADERS, Headers, Stored
from contracts.errors import BusUnavailable, Denied, JetcrewError

if TYPE_CHECKING:
    from contracts.bus.connection import Bus

NOT_FOUND = {10037, 10059, 10043, 10014}
"""JetStream: no message, no stream, no such sequence, no consumer."""
_ABSENT = ("no message found", "deleted message", "stream store EOF")
"""How a refused deletion (10057, whatever the cause) says that there was nothing to delete."""
PAGE_BYTES = 4 << 20
"""The most that one batch of direct gets sends before it asks again."""


class ApiRefused(JetcrewError):
    """JetStream's own interface answered with an error."""

    def __init__(self, verb: str, code: int, description: str) -> None:
        super().__init__(f"{verb}: {description} ({code})")
        self.err_code = code


async def api(
    bus: "Bus", verb: str, request: dict[str, Any] | None = None, *, timeout: float = 10.0
) -> dict[str, Any]:
    """The answer of `$JS.API.<verb>`.

    Raises:
        ApiRefused: with JetStream's error code.
        BusUnavailable: no answer within `timeout` seconds.
    """
    body = msgspec.json.encode(request) if request is not None else b""
    answer: dict[str, Any] = msgspec.json.decode(
        (await bus.request(f"$JS.API.{verb}", body, timeout=timeout)).data
    )
    if error := answer.get("error"):
        raise ApiRefused(verb, int(error.get("err_code", 0)), str(error.get("description", "")))
    return answer


async def last(bus: "Bus", stream: str, subject: str) -> Stored | None:
    """The last message of `subject`: a direct get on one replica, from the leader where there are more,
    since a follower may be behind."""
    if bus.topology.replicas > 1:
        return await last_matching(bus, stream, subject)
    return await direct(bus, stream, subject)


async def direct(bus: "Bus", stream: str, subject: str) -> Stored | None:
    """The last message of `subject` from whichever replica answers; the one read that every account has."""
    answer = await bus.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
    if answer.headers.get("Status"):
        return None
    return _stored(answer.headers, answer.data)


async def last_matching(bus: "Bus", stream: str, subject: str) -> Stored | None:
    """The last message that matches `subject`, from the stream's leader."""
    return await _get(bus, stream, {"last_by_subj": subject})


async def at(bus: "Bus", stream: str, seq: int) -> Stored | None:
    """The message at `seq`, from the stream's leader."""
    return await _get(bus, stream, {"seq": seq})


async def _get(bus: "Bus", stream: str, request: dict[str, Any]) -> Stored | None:
    try:
        answer = await api(bus, f"STREAM.MSG.GET.{stream}", request)
    except ApiRefused as error:
        if error.err_code in NOT_FOUND:
            return None
        raise
    message = answer["message"]
    return Stored(
        message["subject"], message["seq"], base64.b64decode(message.get("data", "")),
        _parse(base64.b64decode(message.get("hdrs", ""))), _time(message["time"]),
    )  # fmt: skip


def _parse(block: bytes) -> Headers:
    if not block:
        return NO_HEADERS
    lines = block.decode(errors="replace").split("\r\n")[1:]
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines) if k}


async def delete_message(bus: "Bus", stream: str, seq: int) -> bool:
    """Whether the message was there to be deleted."""
    try:
        await api(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except ApiRefused as error:
        if error.err_code in NOT_FOUND or any(words in str(error) for words in _ABSENT):
            return False
        raise
    return True


async def page(
    bus: "Bus", stream: str, subject: str, *, after: int, limit: int, patience: float = 10.0
) -> list[Stored]:
    """One batch of direct gets. No consumer is made.

    Raises:
        BusUnavailable: the batch stopped coming for `patience` seconds.
    """
    inbox = bus.client.new_inbox()
    came: asyncio.Queue[Msg] = asyncio.Queue()

    async def take(message: Msg) -> None:
        came.put_nowait(message)

    subscription = await bus.client.subscribe(inbox, cb=take, pending_msgs_limit=limit + 16)
    found: list[Stored] = []
    try:
        request = {
            "seq": after + 1,
            "next_by_subj": subject,
            "batch": limit,
            "max_bytes": PAGE_BYTES,
        }
        await bus.tell(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox)
        while True:
            async with asyncio.timeout(patience):
                message = await came.get()
            headers = message.headers or NO_HEADERS
            match headers.get("Status"):
                case None:
                    found.append(_stored(headers, message.data))
                case "204" | "404":
                    return found
                case "503":
                    raise BusUnavailable(f"nobody serves direct gets of {stream}")
                case status:
                    raise Denied(
                        f"direct get of {stream}: {status} {headers.get('Description', '')}"
                    )
    except TimeoutError:
        raise BusUnavailable(
            f"no answer to a direct get of {stream} within {patience:.0f} s"
        ) from None
    finally:
        if not bus.client.is_closed:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()


def _stored(headers: Headers, data: bytes) -> Stored:
    own = {k: v for k, v in headers.items() if k not in _ENVELOPE}
    return Stored(
        headers["Nats-Subject"],
        int(headers["Nats-Sequence"]),
        data,
        own,
        _time(headers["Nats-Time-Stamp"]),
    )


_ENVELOPE = {
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
}


def _time(text: str) -> datetime:
    # nanoseconds, which datetime does not know
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)
