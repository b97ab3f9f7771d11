"""Agent files, and the command lines and environments made from them."""

import json
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.agent import Agent, Turn
from contracts.codec import convert
from contracts.errors import ConfigurationInvalid
from wrapper.agent import MARKER, Values, environment, load_agent, variables
from wrapper.ending import classify
from wrapper.output import ADAPTERS

AGENTS = Path(__file__).resolve().parents[2] / "images" / "agents"
NAMES = sorted(path.stem for path in AGENTS.glob("*.toml"))
VALUES = Values(workspace="/workspace", home="/home/worker", session="s-1", prompt_file="/p")


def agent_of(name: str) -> Agent:
    return load_agent(AGENTS / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_shipped_is_complete(name: str) -> None:
    agent = agent_of(name)

    assert agent.name == name
    assert agent.output in ADAPTERS or agent.jsonl is not None
    assert all(re.fullmatch(r"@?[^@]+@\d[\w.]*", package) for package in agent.install.npm)
    for error in agent.errors:
        re.compile(error.pattern)
    assert (agent.prompt_via == "file") == any(
        "{prompt_file}" in argument for group in agent.first.argv for argument in group
    )


def test_claude_starts_a_conversation_of_our_choice_and_resumes_it() -> None:
    claude = agent_of("claude")
    assert claude.resume is not None

    first, again = VALUES.argv(claude.first), VALUES.argv(claude.resume)

    common = ["claude", "-p", "--output-format", "stream-json", "--verbose"]
    assert first == [*common, "--dangerously-skip-permissions", "--session-id", "s-1"]
    assert again == [*common, "--dangerously-skip-permissions", "--resume", "s-1"]


def test_an_option_is_there_only_with_its_value() -> None:
    claude = agent_of("claude")
    values = Values(workspace="/w", home="/h", session="s", env={"ANTHROPIC_MODEL": "opus"})

    assert values.argv(claude.first)[-2:] == ["--model", "opus"]
    assert "--model" not in VALUES.argv(claude.first)


def test_braces_that_are_no_placeholder_stay() -> None:
    turn = Turn(
        argv=[["sh", "-c", "f() { echo {a,b}; }; f ${HOME} {unknown}"], ["{home}/{session}"]]
    )

    assert VALUES.argv(turn) == [
        "sh",
        "-c",
        "f() { echo {a,b}; }; f ${HOME} {unknown}",
        "/home/worker/s-1",
    ]


def test_a_value_is_never_read_as_a_placeholder_again() -> None:
    values = Values(workspace="/w", home="/h", env={"A": "{home}"})

    assert values.fill("{env.A}") == "{home}"


def test_the_environment_holds_what_is_listed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JETCREW_OPERATOR_SECRET", "inherited")
    claude, values = agent_of("claude"), Values(workspace="/w", home="/h")
    own = {"TZ": "UTC", "PATH_INFO": "x"}

    made = environment(
        claude,
        replace(values, env=variables(claude, values, own=own, secrets=["ANTHROPIC_API_KEY"])),
        path="/bin",
        secrets={"ANTHROPIC_API_KEY": "k"},
        run="r1",
        uid=1000,
    )

    assert made == {
        "PATH": "/bin",
        "HOME": "/h",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": made["USER"],
        "CLAUDE_CODE_MAX_RETRIES": "4",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CONFIG_DIR": "/h/.claude",
        "TZ": "UTC",
        "PATH_INFO": "x",
        "ANTHROPIC_API_KEY": "k",
        MARKER: "r1",
    }


def test_root_gets_more_variables_and_nobody_can_take_the_marker_away() -> None:
    values = Values(workspace="/w", home="/h", env={MARKER: "forged"})

    made = environment(agent_of("claude"), values, path="/bin", secrets={}, run="r1", uid=0)

    assert made["IS_SANDBOX"] == "1"
    assert made[MARKER] == "r1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Failed to authenticate. API Error: 401 bad key", "auth"),
        ("Invalid API key · Fix external API key", "auth"),
        ("Not logged in · Please run /login", "auth"),
        ("API Error: Request rejected (429) · slow down", "rate-limited"),
        ("API Error: 529 Overloaded. This is a server-side issue", "overloaded"),
        ("API Error: 500 broken. This is a server-side issue", "provider-error"),
        ("API Error: Connection refused — a firewall (ECONNREFUSED)", "provider-error"),
        ("Prompt is too long", "context-overflow"),
        ("error_max_turns: Reached maximum number of turns (2)", "max-turns"),
        ("No conversation found with session ID: 5", "session-lost"),
        ("error_during_execution", None),
    ],
)
def test_errors_of_claude_are_classified(text: str, reason: str | None) -> None:
    found = classify(agent_of("claude"), text)

    assert (found and found[0]) == reason


BROKEN = "stream disconnected before completion: error sending request for url"
QUOTA = (
    "[API Error: slow down]\nPlease wait and try again later. To increase your limits, request a quota increase "
    "through AI Studio, or switch to another /auth method"
)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("factory", '401 {"type":"error","error":{"type":"authentication_error"}}', "auth"),
        ("factory", "Authentication failed. Please log in using /login or set a valid key", "auth"),
        ("factory", '429 {"type":"error","error":{"type":"rate_limit_error"}}', "rate-limited"),
        ("factory", '500 {"type":"error","error":{"type":"api_error"}}', "provider-error"),
        ("codex", "unexpected status 401 Unauthorized: Incorrect API key provided.", "auth"),
        ("codex", "Missing environment variable: `OPENAI_API_KEY`.", "auth"),
        ("codex", "exceeded retry limit, last status: 429 Too Many Requests", "rate-limited"),
        ("codex", "experiencing high demand, which may cause", "overloaded"),
        ("codex", BROKEN, "provider-error"),
        ("codex", "no rollout found for thread id 01a2", "session-lost"),
        ("gemini", '[API Error: {"error":{"code":400,"message":"API key not valid."}}]', "auth"),
        ("gemini", "you must specify the GEMINI_API_KEY environment variable", "auth"),
        ("gemini", QUOTA, "rate-limited"),
        ("gemini", '[API Error: {"error":{"code":503,"status":"UNAVAILABLE"}}]', "overloaded"),
        ("gemini", '[API Error: {"error":{"code":500,"status":"INTERNAL"}}]', "provider-error"),
        ("opencode", "401 Incorrect API key provided.", "auth"),
        ("opencode", "429 slow down", "rate-limited"),
        ("opencode", "500 broken", "provider-error"),
        ("opencode", "The model stopped before its end: length.", "context-overflow"),
        ("qwen", "error_during_execution: [API Error: 401 Incorrect API key provided.]", "auth"),
        ("qwen", "error_during_execution: [API Error: 429 slow down]", "rate-limited"),
        ("qwen", "error_during_execution: [API Error: 500 broken]", "provider-error"),
        ("custom", "HTTP 529 overloaded", "overloaded"),
    ],
)
def test_errors_of_the_other_agents_are_classified(name: str, text: str, reason: str) -> None:
    found = classify(agent_of(name), text)

    assert (found and found[0]) == reason


@pytest.mark.parametrize(
    ("name", "text", "wait"),
    [
        ("codex", "Rate limit reached for gpt-5.5. Please try again in 1m30.5s.", 90.5),
        ("codex", "Rate limit reached. Please try again in 20s.", 20),
        (
            "gemini",
            '{"error":{"code":429,"message":"Quota exceeded. Please retry in 34.07s."}}',
            34,
        ),
        ("opencode", "429 Rate limit reached. Please try again in 1.2s", 1.2),
        ("qwen", "[API Error: 429 Please try again in 2m0s]", 120),
    ],
)
def test_a_provider_that_says_for_how_long_is_believed(name: str, text: str, wait: float) -> None:
    found = classify(agent_of(name), text)

    assert found is not None
    reason, until = found
    assert reason == "rate-limited"
    assert until is not None
    assert abs((until - datetime.now(UTC)).total_seconds() - wait) < 5


def test_the_end_of_claudes_pause_is_a_moment_or_unknown() -> None:
    claude, soon = agent_of("claude"), datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    at = f"Claude AI usage limit reached|{soon.timestamp():.0f}"

    assert classify(claude, at) == ("rate-limited", soon)
    assert classify(claude, "usage limit reached|9999999999") == ("rate-limited", None)
    assert classify(claude, "Request rejected (429) · slow down") == ("rate-limited", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name = ", "is not TOML"),
        ('name = "x"\nversion = "1"\n', r"\$\.first: missing"),
        ('name = "x"\nversion = "1"\nprompt_vai = "file"\n[first]\nargv = [["x"]]', "prompt_vai"),
        ('name = "x"\nversion = "1"\noutput = "yaml"\n[first]\nargv = [["x"]]', r"\$\.output"),
    ],
)
def test_a_wrong_agent_file_names_the_file_and_the_field(
    content: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(content)

    with pytest.raises(ConfigurationInvalid, match=f"x.toml.*{says}"):
        load_agent(file)


@pytest.mark.parametrize(
    ("own", "secrets", "model", "airgap"),
    [
        ({}, ["ANTHROPIC_API_KEY"], "custom:anthropic", "1"),
        ({}, ["OPENAI_API_KEY"], "custom:openai", "1"),
        ({}, ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"], "custom:anthropic", "1"),
        ({}, ["FACTORY_API_KEY"], "claude-opus-4-8", ""),
        ({"FACTORY_MODEL": "custom:chat"}, ["OPENAI_API_KEY"], "custom:chat", "1"),
    ],
)
def test_the_key_that_factory_is_given_decides_where_its_model_is(
    own: dict[str, str], secrets: list[str], model: str, airgap: str
) -> None:
    made = variables(agent_of("factory"), VALUES, own=own, secrets=secrets)

    assert (made["FACTORY_MODEL"], made["FACTORY_AIRGAP_ENABLED"]) == (model, airgap)


def test_a_value_in_a_json_file_cannot_end_its_string() -> None:
    values = Values(workspace="/w", home="/h", env={"URL": 'x", "y": "\\'})

    content = values.file("settings.json", '{"url": "{env.URL}", "key": "${KEY}"}')

    assert json.loads(content) == {"url": 'x", "y": "\\', "key": "${KEY}"}


OTHERS = """
name = "droid"
version = "0.215.0"
output = "droid"
cancel_signal = "SIGINT"
key_env = ["FACTORY_API_KEY"]
instructions_file = "{home}/.factory/AGENTS.md"
state_dir = "{home}/.factory"
preflight = ["droid", "--version"]
[install]
npm = ["droid@0.215.0"]
node = true
[first]
argv = [["droid", "exec", "-o", "stream-json"], ["-m", "{env.DROID_MODEL}"]]
[resume]
argv = [["droid", "exec", "-o", "stream-json"], ["--fork", "{session}"]]
[session]
source = "output"
renewed_each_turn = true
same_workspace = true
[config_files]
"{home}/.factory/settings.json" = '{"customModels": [{"baseUrl": "{env.GATEWAY_URL}"}]}'
"""


def test_the_schema_holds_what_other_agents_need() -> None:
    agent = convert(tomllib.loads(OTHERS), Agent)
    values = Values(workspace="/w", home="/h", env={"GATEWAY_URL": "http://gw"})

    assert agent.session.renewed_each_turn
    [(path, content)] = agent.config_files.items()
    assert values.fill(path) == "/h/.factory/settings.json"
    assert values.fill(content) == '{"customModels": [{"baseUrl": "http://gw"}]}'
