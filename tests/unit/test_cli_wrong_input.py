"""What cannot work is told on one line that names the matter and the next step; no traceback, one exit code."""

import json
from pathlib import Path

import pytest

from contracts.codec import convert
from contracts.errors import InvalidMessage
from contracts.results import Failure
from contracts.worker import Limits
from services.cli.app import run
from services.cli.failures import sentence
from services.cli.link import refusal

BYTES = "\udcff"
"""How a byte that is no text comes in from the system."""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No crew, and nothing of the caller's."""
    for name in ("URL", "CREDS", "CONTEXT"):
        monkeypatch.delenv(f"JETCREW_{name}", raising=False)
    monkeypatch.setenv("JETCREW_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nats://[::1", 2), ("nats://host:99999", 2), ("nats://host:port", 2), ("http://host", 2),
        ("nats://", 2), ("nats://host:0", 2), ("a b", 2), (",", 2),
    ],
)  # fmt: skip
def test_an_address_that_is_none(url: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "list", "--url", url]) == code
    assert "is no address of a NATS server, as in nats://host:4222" in complaint(capsys)


@pytest.mark.parametrize("command", ["init", "up", "run --agent shell x"])
def test_a_state_directory_that_cannot_be_one(
    command: str, environment: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for there in ("file", "file/below"):
        (environment / "file").write_text("")
        monkeypatch.setenv("JETCREW_STATE_DIR", str(environment / there))

        assert run(command.split()) == 2
        said = complaint(capsys)
        assert "cannot be the state directory" in said
        assert "set JETCREW_STATE_DIR" in said


@pytest.mark.parametrize(
    "command",
    [
        "worker get ada", "worker delete ada", "worker logs ada", "worker exec ada ls", "task list",
        "task submit ada x", "task wait t1", "node list", "image gc", "dlq list", "dlq redrive 1", "events",
        "down",
    ],
)  # fmt: skip
def test_a_crew_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.split()) == 3
    assert "no crew runs on" in complaint(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["worker", "create", BYTES], ["task", "submit", "ada", BYTES], ["run", BYTES],
        ["worker", "create", "ada", "--env", f"A={BYTES}"], ["task", "cancel", "t1", "--reason", BYTES],
    ],
)  # fmt: skip
def test_bytes_that_are_no_text(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert (
        f"argument {words.index(next(w for w in words if BYTES in w)) + 1} is not UTF-8 text"
        in (complaint(capsys))
    )


def test_a_secret_that_is_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", BYTES)

    assert run(["run", "--agent", "shell", "--secret", "TOKEN", "x"]) == 2
    assert "secret TOKEN is not UTF-8 text" in complaint(capsys)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["task", "get", "--json"], {"exit_code", "error"}),
        (["node", "list", "--json"], {"exit_code", "error"}),
        (["worker", "create", "ada", "--json", "--cpus", "many"], {"exit_code", "error"}),
        (["run", "--json", ""], {"exit_code", "error", "task", "end", "worker", "repository"}),
    ],
)
def test_with_json_a_failure_is_one_document_and_one_line(
    words: list[str], keys: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(words)
    said = capsys.readouterr()

    document = json.loads(said.out)
    assert (document.keys(), document["exit_code"]) == (keys, code)
    assert said.err == f"jetcrew: {document['error']['message']}\n"


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_what_is_no_number_is_told_as_it_was_given(value: float, told: str) -> None:
    with pytest.raises(InvalidMessage, match=f"got {told}$"):
        convert({"cpus": value}, Limits)


@pytest.mark.parametrize("what", ["worker", "task"])
def test_what_is_not_there_comes_with_the_command_that_shows_what_is(what: str) -> None:
    error = refusal(Failure(code=404, err_code=404, description=f"there is no {what} 'x'"))

    assert str(error) == f"there is no {what} 'x' (jetcrew {what} list shows them)"


def test_an_error_of_the_system_names_the_file() -> None:
    assert sentence(PermissionError(13, "Permission denied", "/x/y")).startswith(
        "/x/y: Permission denied"
    )
