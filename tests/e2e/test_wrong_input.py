"""Wrong input to a crew that runs: one clear line, the right exit code, and the crew goes on."""

import asyncio
import json
import shlex
import subprocess

import pytest

from contracts.bus import connect
from contracts.topology import COMMANDS, DOOR_ONLY
from services.kit.state import StateDirectory
from tests.support.cli import JETCREW, PATIENCE, Cli, Running


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("worker logs ada --task *", "'*' is no name of a task"),
        ("worker logs ada --task nope", 'there is no task "nope"'),
        ("worker exec ada nosuchprogram", "'nosuchprogram' cannot be run in it"),
        ("worker pause nobody", "(jetcrew worker list shows them)"),
        ("events --since 99999999999999999999 --no-follow", "is not in the range"),
    ],
)
def test_it_says_what_is_wrong(up: Running, jetcrew: Cli, words: str, told: str) -> None:
    done = jetcrew(*words.split())

    assert (done.code, done.out) == (2, "")
    assert told in done.complaint


def test_a_refusal_with_json_is_one_document(up: Running, jetcrew: Cli) -> None:
    done = jetcrew("worker", "pause", "nobody", "--json")

    assert done.code == done.document["exit_code"] == 2
    assert "there is no worker" in done.document["error"]["message"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("task submit ada - <&-", 2),
        ("worker list >&-", 0),
        ("worker get nobody 2>&-", 2),
        ("worker list <&- >&- 2>&-", 0),
        ("worker list >/dev/full", 3),
    ],
)
def test_a_stream_that_is_closed_or_full(up: Running, jetcrew: Cli, line: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(JETCREW)} {line}"], env=jetcrew.environment,
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") <= 1


@pytest.mark.parametrize("seconds", ["0.15", "0.4", "1.2"])
def test_ctrl_c_is_no_error_to_talk_about_at_any_stage(
    up: Running, jetcrew: Cli, seconds: str
) -> None:
    """While it is imported, while it connects, while it waits."""
    done = subprocess.run(
        ["timeout", "--signal", "INT", seconds, JETCREW, "node", "list", "--url", "nats://127.0.0.1:1"],
        env=jetcrew.environment, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.returncode == 124, done.stderr  # as timeout tells that it was needed
    assert done.stdout == b""
    assert b"services/cli" not in done.stderr, "a traceback of ours"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"name":', b"\xff", b"[" * 100_000])
def test_no_body_that_is_typed_at_a_door_does_harm(up: Running, jetcrew: Cli, body: bytes) -> None:
    """As `nats req` sends it."""
    state = StateDirectory(jetcrew.state)
    url = json.loads(state.crew_file.read_text())["url"]

    async def ask() -> None:
        async with connect(
            url, name="by-hand", creds=state.creds("operator"),
            inbox_prefix="_INBOX.ops.operator", patience=30,
        ) as bus:  # fmt: skip
            for entity, verbs in [*COMMANDS.items(), *DOOR_ONLY.items()]:
                for verb in verbs:
                    answer = await bus.request(bus.subjects.door(entity, verb), body, timeout=30)
                    told = json.loads(answer.data)
                    assert told["error"]["code"] == 422, (entity, verb, told)
                    assert told["error"]["description"]

    asyncio.run(ask())
