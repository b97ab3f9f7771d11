"""Text for terminals and people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import TaskEnd, Usage, Verdict
from services.cli.text import Cleaner, clean, columns, duration, one_line, verdict_line

HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("a\x1b]0;title\x07b", "ab"),
    ("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
    ("\x1bPq#0\x1b\\sixel", "sixel"),
    ("\x1b[2J\x1b[Hgone", "gone"),
    ("\x1bcreset", "reset"),
    ("\x1b(0charset", "charset"),
    ("\x9b31mC1", "C1"),
    ("\x9d0;title\x9cC1", "C1"),
    ("bell\x07 back\x08 null\x00", "bell back null"),
    ("50%\r100%\r\n", "50%\n100%\n"),
    ("abc\u202edef", "abcdef"),
    ("tab\tand\nline", "tab\tand\nline"),
    ("grüße 🎉", "grüße 🎉"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_nothing_is_left_that_a_terminal_would_obey(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_it_is_the_same_however_the_text_is_cut_into_pieces(text: str, shown: str) -> None:
    cleaner = Cleaner()
    pieces = [cleaner.feed(character) for character in text]

    assert "".join(pieces) + cleaner.rest() == shown


@given(st.lists(st.text(alphabet="ab\x1b[]\\\x07\x9b\x9c\x9d;0mP\r\n", max_size=12), max_size=6))
def test_no_pieces_make_a_control_sequence(pieces: list[str]) -> None:
    cleaner = Cleaner()
    shown = "".join(cleaner.feed(piece) for piece in pieces) + cleaner.rest()

    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\x9c", "\x9d", "\r"}


def test_a_sequence_that_never_ends_does_not_hold_output_back_for_ever() -> None:
    cleaner = Cleaner()
    shown = cleaner.feed("\x1b]0;") + "".join(cleaner.feed("x" * 1000) for _ in range(6))

    assert "x" * 1000 in shown


def test_plain_text_is_never_held_back() -> None:
    assert Cleaner().feed("progress 10%") == "progress 10%"


def test_one_line_is_one_line_and_not_too_long() -> None:
    assert one_line("a\nb\t\x1b[31mc") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_verdict_tells_time_usage_and_summary() -> None:
    end = TaskEnd(
        took=12.2,
        usage=Usage(input_tokens=1204, output_tokens=345, cost_usd=0.0123, turns=1),
        verdict=Verdict(status="success", summary="Flag added.\nTests pass."),
    )

    assert verdict_line("succeeded", end) == (
        "succeeded · 12 s · tokens 1,204 in, 345 out · $0.0123 · 1 turn · Flag added. Tests pass."
    )


def test_a_verdict_without_usage_invents_none() -> None:
    end = TaskEnd(reason="exit-3", detail="The agent ended with exit code 3.")

    assert verdict_line("failed", end) == "failed (exit-3) · The agent ended with exit code 3."


def test_columns_align_wide_characters_too() -> None:
    assert columns(("A", "B"), [("漢", "1"), ("xyz", "2")]) == "A    B\n漢   1\nxyz  2"


def test_hostile_text_takes_no_longer_than_any_other() -> None:
    for piece in ("\x1b]", "\x9d", "\x1b[0", "\x1b[ ", "\x1bP\x1b", "\x1b(", "\r"):
        assert "\x1b" not in clean(piece * 200_000)
