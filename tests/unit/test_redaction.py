"""Secrets stay inside, however the text that holds them is cut."""

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.redaction import MASK, RedactedStream, Secrets

KEY = "sk-ant-0123456789"
QUOTED = 'pass"word\\with\nall'


def through(secrets: Secrets, pieces: list[str]) -> str:
    stream = RedactedStream(secrets)
    return "".join(stream.feed(piece) for piece in pieces) + stream.close()


def test_a_secret_is_replaced_wherever_it_stands() -> None:
    secrets = Secrets([KEY])

    assert secrets.redact(f"a {KEY} b {KEY}{KEY}") == f"a {MASK} b {MASK}{MASK}"


def test_short_values_are_left_alone() -> None:
    assert Secrets(["yes", "12345", "  ab  "]).redact("yes 12345 ab") == "yes 12345 ab"


def test_the_spelling_inside_json_is_a_secret_too() -> None:
    line = json.dumps({"key": QUOTED})

    redacted = Secrets([QUOTED]).redact(line)

    assert json.loads(redacted) == {"key": MASK}


def test_values_inside_a_structure_are_replaced() -> None:
    found = Secrets([KEY]).redact_in({KEY: [f"x{KEY}", {"n": 1}], "ok": None})

    assert found == {MASK: [f"x{MASK}", {"n": 1}], "ok": None}


def test_of_two_secrets_that_begin_alike_the_whole_one_goes() -> None:
    secrets = Secrets(["abcdef", "abcdefghi"])

    for cut in range(12):
        text = "1abcdefghi2"
        assert through(secrets, [text[:cut], text[cut:]]) == f"1{MASK}2"


def test_a_value_added_later_is_kept_too() -> None:
    secrets = Secrets()
    stream = RedactedStream(secrets)
    before = stream.feed("nothing yet ")
    secrets.add(KEY)

    assert before + stream.feed(f"{KEY}.") == f"nothing yet {MASK}."


def test_text_that_cannot_be_a_secret_is_not_held_back() -> None:
    stream = RedactedStream(Secrets([KEY]))

    assert stream.feed("plain text\n") == "plain text\n"
    assert stream.feed("ends in sk-") == "ends in "
    assert stream.feed("iing") == "sk-iing"


@settings(deadline=None)
@given(
    before=st.text(alphabet="ask-nt01 \n", max_size=30),
    after=st.text(alphabet="ask-nt01 \n", max_size=30),
    cuts=st.lists(st.integers(0, 90), max_size=6),
)
def test_cut_anywhere_the_stream_redacts_as_the_whole(
    before: str, after: str, cuts: list[int]
) -> None:
    secrets = Secrets([KEY, "0123456"])
    text = before + KEY + after
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]

    redacted = through(secrets, pieces)

    assert redacted == secrets.redact(text)
    assert KEY not in redacted
