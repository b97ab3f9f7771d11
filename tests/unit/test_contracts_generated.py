"""Whatever arrives, a decoder reads it or refuses it and names the field; nothing else happens (R31)."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.codec import decode, encode
from contracts.errors import InvalidMessage
from contracts.schema import MESSAGES
from tests.support.golden import WIRE, message_of

Path = tuple[str | int, ...]

TEXTS = ["", "\n", "a\n", "\x00", "Ada", "a.b", "*", ">", "x" * 41, "x" * 3000, "é", "{{ID}}", "💥"]
VALUES = ["0", "-1", "1.5", "1" + "0" * 30, "-0.0", "1e308", "1e999", "true", "null", "NaN"]
SHAPES = ["[]", "{}", "[[]]", '{"":{}}', '{"type":"x"}', "[null]"]
ODD = st.sampled_from([*map(json.dumps, TEXTS), *VALUES, *SHAPES]).map(json.loads)
JSON = st.recursive(
    ODD | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@st.composite
def mutated(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """A golden message in which something is replaced, removed or added, or a byte is wrong."""
    body = draw(st.sampled_from(examples))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body) - 1))
        return body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    value = json.loads(body)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([*_paths(value), ("added",)]))
        inside = value
        for step in parents:
            inside = inside[step]
        if isinstance(last, str) and last in inside and draw(st.integers(0, 3)) == 0:
            del inside[last]
        else:
            inside[last] = draw(ODD | JSON)
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def generated(count: int) -> Callable[[Any], Any]:
    """Run a test on this many inputs."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=slow)


def read_or_refused(body: bytes, message: str) -> None:
    """Decode; a refusal names a field and is short, and what was read can be written and read again."""
    kind = MESSAGES[message]
    refusal: InvalidMessage
    try:
        value = decode(body, kind)
    except InvalidMessage as error:
        refusal = error
    else:
        assert decode(encode(value), kind) == value
        return
    assert refusal.field.startswith("$")
    assert refusal.reason
    assert len(str(refusal)) < 4_000


def examples_of(message: str) -> list[bytes]:
    """The golden files of a message; of one without, something of the right shape."""
    found = [body for name, body in WIRE.items() if message_of(name) == message]
    return found or [b'{"name":"a","version":"1","first":{"argv":[["sh"]]},"apt":["git"]}']


def inputs(message: str) -> st.SearchStrategy[bytes]:
    """Bytes, JSON, and nearly right messages; the last half of the time."""
    nearly = mutated(examples_of(message))
    anything = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
    return st.one_of(nearly, nearly, anything)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_decoder_reads_or_refuses(message: str) -> None:
    @generated(90)
    @given(body=inputs(message))
    def each(body: bytes) -> None:
        read_or_refused(body, message)

    each()


@pytest.mark.soak
@pytest.mark.parametrize("message", MESSAGES)
def test_a_decoder_reads_or_refuses_a_hundred_thousand_inputs(message: str) -> None:
    """Each decoder so many, made without hypothesis, which would take hours for that."""
    examples, dice = examples_of(message), Random(message)
    for _ in range(100_000):
        body = shaken(examples, dice)
        try:
            read_or_refused(body, message)
        except BaseException as error:
            error.add_note(f"for {body!r}")
            raise


def shaken(examples: list[bytes], dice: Random) -> bytes:
    """As `mutated`."""
    body = dice.choice(examples)
    if dice.random() < 0.25:
        at = dice.randrange(len(body))
        return body[:at] + dice.randbytes(dice.randrange(3)) + body[at + dice.randrange(3) :]
    value = json.loads(body)
    for _ in range(dice.randint(1, 3)):
        *parents, last = dice.choice([*_paths(value), ("added",)])
        inside = value
        for step in parents:
            inside = inside[step]
        if isinstance(last, str) and last in inside and dice.random() < 0.25:
            del inside[last]
        else:
            inside[last] = _odd(dice)
    return json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def _odd(dice: Random, depth: int = 0) -> object:
    shape = dice.random()
    if depth > 3 or shape < 0.6:
        return json.loads(dice.choice([*map(json.dumps, TEXTS), *VALUES, *SHAPES]))
    if shape < 0.7:
        return dice.randint(-(2**70), 2**70)
    if shape < 0.8:
        return "".join(chr(dice.randrange(0xD800)) for _ in range(dice.randrange(8)))
    inner = [_odd(dice, depth + 1) for _ in range(dice.randrange(4))]
    return inner if shape < 0.9 else {str(item)[:3]: item for item in inner}


def _paths(value: object, above: Path = ()) -> Iterator[Path]:
    """The way to every value inside."""
    inside: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inside = enumerate(value)
    for step, inner in inside:
        yield (*above, step)
        yield from _paths(inner, (*above, step))
