"""Every refusal names the field, the value and what would be right (R31)."""

from typing import Any

import pytest

from contracts.agent import Agent
from contracts.codec import convert, decode
from contracts.errors import InvalidMessage
from contracts.events import Event
from contracts.reports import Report
from contracts.results import Result
from contracts.task import SubmitTask
from contracts.worker import CreateWorker, PutSecret

TOKEN = "expected lower-case letters, digits and dashes, 1 to 40 of them"
STATES = "cancelled, failed, input-required, succeeded, timed-out"
REFUSALS: list[tuple[Any, str, str]] = [
    (CreateWorker, "", "$: the message is empty; a JSON object is expected"),
    (CreateWorker, "null", "$: expected `object`; got null"),
    (CreateWorker, '["ada"]', '$: expected `object`; got ["ada"]'),
    (CreateWorker, '{"name":"ada"}', "$.agent: missing"),
    (CreateWorker, '{"name":"Ada","agent":"x"}', f'$.name: {TOKEN}; got "Ada"'),
    (CreateWorker, '{"name":"ada\\n","agent":"x"}', f'$.name: {TOKEN}; got "ada\\n"'),
    (CreateWorker, '{"name":7,"agent":"x"}', "$.name: expected `string`; got 7"),
    (
        CreateWorker,
        '{"name":"a","agent":"x","capabilities":["git","Git"]}',
        f'$.capabilities[1]: {TOKEN}; got "Git"',
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","runtime":"podman"}',
        '$.runtime: unknown value "podman"; known: auto, docker, process',
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","limits":{"memory_mb":"2g"}}',
        '$.limits.memory_mb: expected `integer`; got "2g"',
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","limits":{"cpus":0}}',
        "$.limits.cpus: expected `number` > 0.0; got 0",
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","env":{"TZ":"UTC","DEBUG":1}}',
        "$.env.DEBUG: expected `string`; got 1",
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","env":{"TZ":"UTC","1A":"x"}}',
        '$.env: key "1A": expected a variable\'s name: letters, digits and underscores, no digit first',
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","env":{"A":"a\\u0000"}}',
        '$.env.A: expected text without a NUL; got "a\\u0000"',
    ),
    (
        CreateWorker,
        '{"name":"a","agent":"x","labels":{"a b":"c"}}',
        f'$.labels: key "a b": {TOKEN}',
    ),
    (SubmitTask, '{"prompt":""}', '$.prompt: expected `string` of length >= 1; got ""'),
    (SubmitTask, '{"prompt":null}', "$.prompt: expected `string`; got null"),
    (SubmitTask, '{"prompt":"x","timeout":"10m"}', '$.timeout: expected `number`; got "10m"'),
    (SubmitTask, '{"prompt":"x","timeout":1e999}', "$.timeout: number out of range"),
    (Report, "{}", "$.type: missing"),
    (
        Report,
        '{"type":"started"}',
        '$.type: unknown value "started"; known: finished, not-ready, progress, ready, session',
    ),
    (
        Report,
        '{"type":"finished","task":"t1","attempt":1,"run":"r","state":"won","end":{}}',
        f'$.state: unknown value "won"; known: {STATES}',
    ),
    (
        Report,
        '{"type":"finished","task":"t1","attempt":1,"run":"r","state":"failed","end":{"told_by":7}}',
        "$.end.told_by: expected `string`; got 7",
    ),
    (
        Event,
        '{"type":"task.queued","at":"2026-01-01T00:00:00","worker":"ada","task":"t1"}',
        '$.at: expected `datetime` with a timezone component; got "2026-01-01T00:00:00"',
    ),
    (CreateWorker, '{"name":' + "[" * 100_000, "$.name: expected `string`"),
    (
        SubmitTask,
        f'{{"prompt":7,"context":{{"a":"{"x" * 100}"}}}}',
        "$.prompt: expected `string`; got 7",
    ),
]


@pytest.mark.parametrize(("kind", "body", "said"), REFUSALS)
def test_a_refusal_says_where_what_and_what_would_be_right(kind: Any, body: str, said: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        decode(body.encode(), kind)

    assert str(refusal.value) == said


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'{"prompt":"a"} b',
        b"\xef\xbb\xbf{}",
        b'{"prompt":NaN}',
        b'{"prompt":"\xff"}',
    ],
)
def test_what_is_not_json_is_said_to_be_no_json(body: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"^\$: not valid JSON: "):
        decode(body, SubmitTask)


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidMessage) as refusal:
        decode(b'{"prompt":"x","session":"%s"}' % (b"Y" * 100_000), SubmitTask)

    assert len(str(refusal.value)) < 200


def test_nesting_without_end_is_refused_and_does_no_harm() -> None:
    deep = b'{"record":' + b"[" * 5_000 + b"]" * 5_000 + b"}"

    with pytest.raises(InvalidMessage, match="nested too deeply"):
        decode(deep, Result)


@pytest.mark.parametrize("value", ['"hunter2\\u0000"', '["hunter2"]', f'"hunter2{"x" * 70_000}"'])
def test_a_secret_is_never_repeated(value: str) -> None:
    with pytest.raises(InvalidMessage, match=r"^\$\.value: expected ") as refusal:
        decode(f'{{"name":"KEY","value":{value}}}'.encode(), PutSecret)

    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(PutSecret(name="KEY", value="hunter2"))


def test_a_field_this_version_does_not_know_is_ignored_in_a_message() -> None:
    assert decode(b'{"prompt":"x","colour":"red"}', SubmitTask) == SubmitTask(prompt="x")


def test_an_unknown_field_in_a_file_of_ours_is_a_slip_and_is_named() -> None:
    with pytest.raises(InvalidMessage) as refusal:
        convert(
            {"name": "x", "version": "1", "first": {"argv": [["x"]], "args": []}},
            Agent,
            field="$.agents.x",
        )

    assert str(refusal.value) == "$.agents.x.first.args: unknown field; known: argv"
