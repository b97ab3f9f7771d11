"""Commands of one's own as agents, and agents that do nothing but try again."""

import shlex
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.agent import Agent, Turn
from contracts.errors import ConfigurationInvalid
from tests.support.attempts import Bench
from tests.support.clis import agent_file
from wrapper.agent import load_agent

CUSTOM = load_agent(agent_file("custom"))
GOOD = '<result>{"status":"success","summary":"fine"}</result>'


def custom(root: Path, command: str, **env: str) -> Bench:
    return Bench(root, CUSTOM, env={"CUSTOM_COMMAND": command, **env})


def line(event: str) -> str:
    return f"printf '%s\\n' {shlex.quote(event)}"


ESCAPED = GOOD.replace('"', '\\"')


async def test_a_command_of_ones_own_gets_the_prompt_and_answers_in_text(tmp_path: Path) -> None:
    ada = custom(tmp_path, f"head -1 > prompt; echo '{GOOD}'")

    done = await ada.attempt("go")

    assert done.state == "succeeded"
    assert (ada.workspace / "prompt").read_text() == "go\n"


async def test_its_answer_and_its_conversation_are_found_in_lines_of_json(tmp_path: Path) -> None:
    event = f'{{"meta":{{"id":"s-1"}},"answer":{{"text":"{ESCAPED}"}}}}'
    ada = custom(
        tmp_path, f'echo "for $1" > resumed; echo noise; {line(event)}',
        CUSTOM_TEXT="answer.text", CUSTOM_SESSION="meta.id",
    )  # fmt: skip

    first = await ada.attempt("go")
    again = await ada.attempt("go on", agent_session=first.end.agent_session)

    assert (first.state, again.state) == ("succeeded", "succeeded")
    assert first.end.agent_session == "s-1"
    assert (ada.workspace / "resumed").read_text() == "for s-1\n"


async def test_its_error_is_classified(tmp_path: Path) -> None:
    ada = custom(
        tmp_path, line('{"text":"","error":"HTTP 429 slow down"}'),
        CUSTOM_TEXT="text", CUSTOM_ERROR="error",
    )  # fmt: skip

    done = await ada.attempt("go")

    assert (done.state, done.end.reason) == ("failed", "rate-limited")


def test_without_its_command_it_is_refused_with_the_name_of_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"agent custom needs the variable CUSTOM_COMM"):
        Bench(tmp_path, CUSTOM).place()


async def test_last_words_that_nobody_waited_for_are_not_lost(tmp_path: Path) -> None:
    """Node ends its programs without writing what a full pipe did not take."""
    program = f"import os; os.set_blocking(1, False); os.write(1, b'x' * 600_000 + b'{GOOD}')"
    ada = custom(tmp_path, f"{sys.executable} -c {shlex.quote(program)}")

    done = await ada.attempt("go")

    assert done.state == "succeeded"


@pytest.mark.parametrize(
    ("output", "text", "redirect"),
    [
        ("codex", '{"type":"error","message":"Reconnecting"}', ""),
        ("gemini", "Attempt 7 failed with status 500", ">&2"),
    ],
)
async def test_tries_at_a_provider_that_is_not_there_are_no_sign_of_life(
    output: str, text: str, redirect: str, tmp_path: Path
) -> None:
    body = f"while :; do {line(text)} {redirect}; sleep 0.1; done"
    agent = replace(
        Agent(name="x", version="1", first=Turn(argv=[["sh", "-c", body]])),
        output=output, retries="Attempt .* failed", inactivity=1.5, cancel_grace=0.5,
    )  # fmt: skip
    ada = Bench(tmp_path, agent)

    done = await ada.attempt("go", seconds=60)

    assert (done.state, done.end.reason) == ("timed-out", "inactive")
    assert {note.kind for note in ada.told.notes} == {"retry"}
