"""Output on its way out: in order, whole, within its budget."""

import asyncio
from dataclasses import dataclass, field

from contracts.redaction import Secrets
from contracts.reports import Output
from tests.support.waiting import eventually
from wrapper.outlet import PIECE, WAITING, Outlet, pieces


@dataclass
class Stored:
    """A stand-in for the bus, which can be away."""

    messages: list[Output] = field(default_factory=list)
    there: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, message: Output) -> None:
        await self.there.wait()
        self.messages.append(message)

    def text(self, stream: str = "stdout") -> str:
        return "".join(m.text for m in self.messages if m.stream == stream)


def outlet(stored: Stored, *, budget: int = 1 << 30, secrets: Secrets | None = None) -> Outlet:
    return Outlet(stored.publish, secrets or Secrets(), run="r", budget=budget)


async def poured(stored: Stored, out: Outlet) -> None:
    out.close()
    stored.there.set()
    await out.pump()


async def test_pieces_are_numbered_from_one_and_hold_one_stream_each() -> None:
    stored = Stored()
    out = outlet(stored)

    for stream, text in (("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")):
        out.feed(stream, text.encode())  # type: ignore[arg-type]  # the two literals
    await poured(stored, out)

    assert [(m.n, m.stream, m.text) for m in stored.messages] == [
        (1, "stdout", "ab"),
        (2, "stderr", "c"),
        (3, "stdout", "d"),
    ]


async def test_a_character_cut_between_two_reads_arrives_whole() -> None:
    stored = Stored()
    out = outlet(stored)
    text = "grüße 😀 ende"

    for byte in text.encode():
        out.feed("stdout", bytes([byte]))
    await poured(stored, out)

    assert stored.text() == text


async def test_bytes_that_are_no_text_are_replaced() -> None:
    stored = Stored()
    out = outlet(stored)

    out.feed("stdout", b"a\xff\xfeb\xe2\x82")
    await poured(stored, out)

    assert stored.text() == "a��b�"


async def test_large_output_comes_in_pieces_that_fit_a_message() -> None:
    stored = Stored()
    out = outlet(stored)
    text = "ä€😀x" * 30_000

    out.feed("stdout", text.encode())
    await poured(stored, out)

    assert stored.text() == text
    assert max(len(m.text.encode()) for m in stored.messages) <= PIECE


async def test_what_goes_beyond_the_budget_is_dropped_and_counted() -> None:
    stored = Stored()
    out = outlet(stored, budget=10)

    for _ in range(5):
        out.feed("stdout", b"1234")
    await poured(stored, out)

    assert stored.text() == "1234123412"
    assert (out.accepted_bytes, out.dropped_bytes) == (10, 10)


async def test_the_budget_never_cuts_a_character() -> None:
    stored = Stored()
    out = outlet(stored, budget=5)

    out.feed("stdout", "😀😀".encode())
    await poured(stored, out)

    assert stored.text() == "😀"
    assert (out.accepted_bytes, out.dropped_bytes) == (4, 4)


async def test_while_the_bus_is_away_memory_is_bounded_and_the_gap_shows_in_the_numbers() -> None:
    stored = Stored()
    out = outlet(stored)
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(out.pump())
        line = b"x" * 1023 + b"\n"
        for _ in range(WAITING // len(line) + 100):
            out.feed("stdout", line)
        dropped = out.dropped_bytes
        stored.there.set()
        await eventually(lambda: len(stored.text()), WAITING)
        out.feed("stdout", b"after")
        out.close()
        await pump

    numbers = [m.n for m in stored.messages]
    assert dropped == 100 * 1024
    assert stored.messages[-1].text == "after"
    assert numbers == [*range(1, len(numbers)), len(numbers) + 1]


async def test_a_secret_across_two_reads_does_not_leave() -> None:
    stored = Stored()
    out = outlet(stored, secrets=Secrets(["hunter2hunter2"]))

    out.feed("stdout", b"pw: hunter2")
    out.feed("stderr", b"unrelated")
    out.feed("stdout", b"hunter2 ok")
    await poured(stored, out)

    assert stored.text() == "pw: [redacted] ok"


def test_pieces_end_between_characters() -> None:
    text = "aä€😀" * 50

    for limit in range(4, 12):
        cut = pieces(text, limit)
        assert "".join(cut) == text
        assert max(len(piece.encode()) for piece in cut) <= limit
