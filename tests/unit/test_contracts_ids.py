"""One grammar for whatever becomes a subject token, a key or a container's name."""

import msgspec
import pytest

from contracts.ids import Token, is_token, message_id, nonce


@pytest.mark.parametrize("text", ["a", "ada", "t7", "a-b", "-", "0", "x" * 40])
def test_a_token_is_lower_case_letters_digits_and_dashes(text: str) -> None:
    assert is_token(text)
    assert msgspec.convert(text, Token) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ada",
        "x" * 41,
        "a.b",
        "a b",
        "a*",
        ">",
        "a\n",
        "\na",
        "a\x00",
        "é",
        "\uff41",
        "٣",
        "a_b",
        "a/b",
    ],
)
def test_nothing_else_is_a_token(text: str) -> None:
    assert not is_token(text)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Token)


def test_a_message_without_an_id_is_named_by_its_sequence() -> None:
    assert message_id("t", None, 7) == "t7"
    assert message_id("t", "", 7) == "t7"


def test_a_given_id_that_is_a_token_is_kept() -> None:
    assert message_id("t", "release-1", 7) == "release-1"


@pytest.mark.parametrize("given", ["Release 1", "a.b", "x" * 41, "t1\n", "日本"])
def test_any_other_id_becomes_a_token_that_depends_on_it_alone(given: str) -> None:
    first, again = message_id("t", given, 7), message_id("t", given, 8)

    assert first == again != message_id("t", given + "!", 7)
    assert is_token(first)


def test_nonces_are_tokens_and_differ() -> None:
    made = {nonce() for _ in range(1000)}

    assert len(made) == 1000
    assert all(map(is_token, made))
