"""`jetcrew run` on an empty state directory: everything that is missing is started, and put away again."""

import hashlib
import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.cli import Cli, processes_of
from tests.support.servers import need_server

SHELL = ("--agent", "shell", "--runtime", "process")


@pytest.fixture
def jetcrew(tmp_path: Path) -> Cli:
    """The command on a state directory that does not exist yet."""
    need_server()
    return Cli(tmp_path / "state")


def test_one_prompt_needs_nothing_and_leaves_nothing(jetcrew: Cli) -> None:
    done = jetcrew("run", *SHELL, "uname -a > proof.txt && cat proof.txt")

    assert done.code == 0, done.err
    assert done.out.startswith("Linux "), "stdout holds the agent's output"
    assert "succeeded" in done.err.splitlines()[-1]
    assert not (jetcrew.state / "crew.json").exists()
    assert list((jetcrew.state / "workers").glob("*/workspace")) == []
    assert processes_of(jetcrew.state) == []


def test_a_script_that_fails_is_exit_code_1_and_says_why(jetcrew: Cli) -> None:
    done = jetcrew("run", *SHELL, "echo so far; exit 7")

    assert (done.code, done.out) == (1, "so far\n")
    assert "failed (exit-7)" in done.err


def test_json_is_one_document_on_stdout_and_the_output_is_on_stderr(jetcrew: Cli) -> None:
    done = jetcrew("run", *SHELL, "--json", "--name", "ada", "-", stdin="echo from stdin")

    document = done.document
    assert (done.code, document["exit_code"]) == (0, 0)
    assert document["task"]["state"] == "succeeded"
    assert document["end"]["exit_code"] == 0
    assert document["worker"]["name"] == "ada"
    assert document["worker"]["runtime"] == "process"
    assert "from stdin" in done.err


def test_a_kept_worker_has_its_files_for_the_next_prompt(jetcrew: Cli) -> None:
    first = jetcrew("run", *SHELL, "--keep", "--name", "ada", "echo remembered > note")
    second = jetcrew("run", "--worker", "ada", "cat note")

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "jetcrew run --worker ada" in first.err
    assert second.out == "remembered\n"


def test_a_secret_comes_from_the_environment_and_reaches_the_agent_only(jetcrew: Cli) -> None:
    value = "hunter2-hunter2"
    digest = hashlib.sha256(value.encode()).hexdigest()
    prompt = 'printf %s "$PASSWORD" | sha256sum; echo "said $PASSWORD in $COLOUR"'
    done = jetcrew(
        "run", *SHELL, "--secret", "PASSWORD", "--env", "COLOUR=blue", "--json", prompt,
        PASSWORD=value,
    )  # fmt: skip

    assert done.code == 0, done.err
    assert digest in done.err
    assert "in blue" in done.err
    assert value not in done.out + done.err


def test_ctrl_c_cancels_the_task_and_puts_everything_away(jetcrew: Cli) -> None:
    prompt = "echo begun; sleep 600; echo never"
    with jetcrew.started("run", *SHELL, prompt) as running:
        running.until(lambda: "begun" in running.out)
        running.signal(signal.SIGINT)
        code = running.wait()
        told = running.err

    assert code == 130, told
    assert "cancelling task" in told
    assert "cancelled" in told.splitlines()[-1]
    assert processes_of(jetcrew.state) == []


def test_a_second_prompt_at_the_same_time_takes_the_crew_over(jetcrew: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting = f"echo begun; while [ ! -e {gate} ]; do sleep 0.2; done; echo through"
    short = f"echo first; while [ ! -e {gate}.1 ]; do sleep 0.2; done"
    with jetcrew.started("run", *SHELL, short) as first:
        first.until(lambda: "first" in first.out)
        with jetcrew.started("run", *SHELL, waiting) as second:
            second.until(lambda: "begun" in second.out)
            Path(f"{gate}.1").touch()
            assert first.wait() == 0, first.err
            second.until(lambda: _host(jetcrew.state) == second.process.pid)
            gate.touch()
            assert second.wait() == 0, second.err
            assert second.out == "begun\nthrough\n"

    assert processes_of(jetcrew.state) == []


def test_a_manager_that_dies_meanwhile_costs_nothing(jetcrew: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    prompt = f"echo begun; while [ ! -e {gate} ]; do sleep 0.2; done; echo through"
    with jetcrew.started("run", *SHELL, prompt) as running:
        running.until(lambda: "begun" in running.out)
        psutil.Process(running.child("services.worker_manager")).kill()
        running.until(lambda: "starting it again" in running.err)
        psutil.Process(running.child("nats-server")).kill()
        running.until(lambda: "nats-server ended" in running.err)
        gate.touch()
        assert running.wait() == 0, running.err
        assert running.out == "begun\nthrough\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run",), 2, "Missing argument 'PROMPT'"),
        (("run", ""), 2, "the prompt is empty"),
        (("run", "-"), 2, "the prompt on stdin is empty"),
        (("run", "--agent", "shel", "x"), 2, 'unknown agent "shel"; known: claude'),
        (("run", "--agent", "shell", "--capability", "gitt", "x"), 2, 'unknown capability "gitt"'),
        (("run", "--name", "Ada", "x"), 2, "lower-case letters, digits and dashes"),
        (("run", "--timeout", "0", "x"), 2, "is no duration"),
        (("run", "--env", "NO VALUE", "x"), 2, "is not KEY=VALUE"),
        (("run", "--secret", "KEY=value", "x"), 2, "takes a name only"),
        (("run", "--secret", "NOT_THERE_AT_ALL", "x"), 2, "export NOT_THERE_AT_ALL=… first"),
        (("run", "--runtime", "podman", "x"), 2, "is not one of 'auto', 'docker', 'process'"),
        (("run", "--worker", "ada", "--agent", "shell", "x"), 2, "--agent is for one that is made"),
        (("run", "--frobnicate", "x"), 2, "No such option '--frobnicate'"),
        (("run", "--url", "nats://127.0.0.1:9", "x"), 3, "is the crew up (jetcrew up)"),
        (("run", "--context", "nowhere", "x"), 2, "there is no context 'nowhere'"),
        (("worker", "list"), 3, "start one with `jetcrew up`"),
        (("down",), 3, "no crew runs on"),
        (("up", "--http-host", "0.0.0.0"), 2, "set JETCREW_API__TOKEN"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_clear_line_and_leaves_no_trace(
    jetcrew: Cli, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = jetcrew(*arguments)

    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.complaint
    assert not jetcrew.state.exists()


def _host(state: Path) -> int | None:
    try:
        pid = json.loads((state / "crew.json").read_text())["pid"]
    except (OSError, ValueError):
        return None
    assert isinstance(pid, int)
    return pid


def test_what_a_killed_run_leaves_is_cleared_away_by_the_next(jetcrew: Cli) -> None:
    with jetcrew.started("run", *SHELL, "--name", "left", "echo begun; sleep 600") as running:
        running.until(lambda: "begun" in running.out)
        running.signal(signal.SIGKILL)
        running.wait()
    assert jetcrew("run", *SHELL, "true").code == 0
    with jetcrew.started("up", "--json") as up:
        up.until(lambda: up.out.endswith("\n"))
        up.until(lambda: jetcrew("worker", "list", "--json").document == [])


def test_json_holds_the_error_when_it_comes_to_nothing(jetcrew: Cli) -> None:
    done = jetcrew("run", "--json", "--agent", "shel", "x")

    assert (done.code, done.document["exit_code"], done.document["task"]) == (2, 2, None)
    assert done.document["error"]["field"] == "$.agent"
    assert "unknown agent" in done.complaint


def test_without_an_engine_auto_says_that_nothing_is_isolated(jetcrew: Cli) -> None:
    done = jetcrew(
        "run", "--agent", "shell", "true",
        JETCREW_RUNTIME="auto", DOCKER_HOST=f"unix://{jetcrew.state}/no-engine",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert sum("no isolation" in line for line in done.err.splitlines()) == 1
