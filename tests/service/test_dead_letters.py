"""Dead letters on a real server: what is kept of a message, how it is sent again, who may look."""

import asyncio

from contracts.bus import Bus, Delivery, redrive
from contracts.bus.deadletter import STREAM, letter_of
from contracts.errors import InvalidMessage
from contracts.ids import CommandId
from contracts.letter import RedriveLetters
from contracts.topology import MAX_PAYLOAD_BYTES, Consumer
from services.worker_manager.commands import command_of
from services.worker_manager.letters import Letters
from tests.support.api import running_api
from tests.support.servers import Server

REPORTS = Consumer(stream="JC_REP", name="rec")
FOREVER = CommandId("s1")


async def buried(bus: Bus, body: bytes, headers: dict[str, str] | None = None) -> int:
    """Publish a report that its reader refuses; the letter that it becomes."""
    await bus.publish("jetcrew.rep.ada.ready", body, headers=headers)
    stop = asyncio.Event()

    async def refuse(_: Delivery) -> None:
        stop.set()
        raise InvalidMessage("not so")

    async with asyncio.timeout(60):
        await bus.consume(REPORTS, refuse, stop=stop)
    return (await bus.page(STREAM, ">"))[-1].seq


async def test_the_same_letter_redriven_twice_comes_once(bus: Bus) -> None:
    seq = await buried(bus, b"{}")
    letter = await bus.at(STREAM, seq)
    assert letter is not None

    first = await redrive(bus, letter)
    again = await redrive(bus, letter)  # as after a crash before the letter was taken away

    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.seq == again.seq
    assert await bus.at(STREAM, seq) is None


async def test_what_a_sender_says_in_headers_of_ours_is_not_believed(bus: Bus) -> None:
    forged = {
        "jc-dlq-subject": "jetcrew.evt.worker.ada.forged",
        "Jc-Dlq-Subject": "jetcrew.evt.worker.ada.forged",
        "odd!header": "x",
        "traceparent": "kept",
    }
    stored = await bus.at(STREAM, await buried(bus, b"{}", forged))
    assert stored is not None

    assert letter_of(stored).subject == "jetcrew.rep.ada.ready"
    assert {k.lower() for k in stored.headers if "forged" in stored.headers[k]} == set()
    assert stored.headers["traceparent"] == "kept"
    assert "odd!header" not in stored.headers


async def test_a_message_full_to_the_brim_is_kept_in_part_and_does_not_go_out_again(
    bus: Bus,
) -> None:
    size = MAX_PAYLOAD_BYTES - 200
    seq = await buried(bus, b"x" * size, {"a": "b" * 100})
    stored = await bus.at(STREAM, seq)
    assert stored is not None
    letter = letter_of(stored)

    assert (letter.size_bytes, letter.cut) == (size, True)
    assert len(stored.data) > size - 65_536
    result = await Letters(bus, command_of).redrive(
        RedriveLetters(letters=[seq]), FOREVER, stored.at
    )
    assert result.error is not None
    assert "bytes could be kept" in result.error.description
    assert await bus.at(STREAM, seq) is not None


async def test_a_letter_whose_subject_is_gone_stays(bus: Bus) -> None:
    await bus.publish(
        bus.subjects.dead_letter("JC_OLD", "mgr"), b"{}",
        headers={"Jc-Dlq-Subject": "jetcrew.old.thing", "Jc-Dlq-Seq": "3", "Jc-Dlq-Reason": "x"},
    )  # fmt: skip
    [stored] = await bus.page(STREAM, ">")

    result = await Letters(bus, command_of).redrive(
        RedriveLetters(letters="all"), FOREVER, stored.at
    )

    assert result.error is not None
    assert "no stream takes jetcrew.old.thing any more" in result.error.description
    assert result.error.code == 409


async def test_viewers_see_the_letters_without_their_bodies(server: Server, bus: Bus) -> None:
    seqs = [await buried(bus, b"private") for _ in range(3)]

    async with running_api(server) as api:
        first = (await api.client.get("/v1/dead-letters", params={"limit": 2})).json()
        rest = (await api.client.get("/v1/dead-letters", params={"after": first["next"]})).json()

    assert [one["seq"] for one in first["items"] + rest["items"]] == seqs
    assert rest["items"][0]["reason"] == "$: not so"
    assert "private" not in str(first)
