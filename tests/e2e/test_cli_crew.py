"""A crew that stays (`jetcrew up`) and the commands that speak to it."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from contracts.bus import connect
from contracts.task import SubmitTask
from contracts.topology import Topology
from services.kit.state import StateDirectory
from tests.support.cli import PATIENCE, Cli, Running, processes_of


def test_it_says_where_it_listens(up: Running, jetcrew: Cli) -> None:
    told = json.loads(up.out)
    crew = json.loads((jetcrew.state / "crew.json").read_text())

    assert told["url"] == crew["url"]
    assert told["http_url"] == crew["http_url"]
    assert told["pid"] == crew["pid"] == up.process.pid


def test_run_uses_the_crew_that_is_up(up: Running, jetcrew: Cli) -> None:
    done = jetcrew("run", "--agent", "shell", "echo hello from $PPID")

    assert done.code == 0, done.err
    assert done.out.startswith("hello from ")
    assert up.process.poll() is None
    names = [worker["name"] for worker in jetcrew("worker", "list", "--json").document]
    assert names == ["ada"], "the worker made for the prompt is gone, the crew is not"


def test_two_prompts_for_one_worker_share_its_workspace(up: Running, jetcrew: Cli) -> None:
    assert jetcrew("run", "--worker", "ada", "echo kept > file").code == 0
    assert jetcrew("run", "--worker", "ada", "cat file").out == "kept\n"


def test_a_task_is_submitted_awaited_listed_shown_and_told(up: Running, jetcrew: Cli) -> None:
    submitted = jetcrew("task", "submit", "ada", "echo one", "--id", "first")
    assert (submitted.code, submitted.out) == (0, "first\n"), submitted.err
    assert jetcrew("task", "wait", "first").out.startswith("succeeded")

    assert jetcrew("task", "get", "first", "--json").document["state"] == "succeeded"
    listed = jetcrew("task", "list", "--worker", "ada", "--json").document
    assert "first" in [task["id"] for task in listed]
    events = [
        json.loads(line) for line in jetcrew("task", "events", "first", "--json").out.splitlines()
    ]
    types = [event["event"]["type"] for event in events]
    assert [types[0], types[1], types[-1]] == ["task.queued", "task.started", "task.succeeded"]
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)


def test_the_node_is_listed_with_the_workers_it_keeps(up: Running, jetcrew: Cli) -> None:
    [node] = jetcrew("node", "list", "--json").document
    table = jetcrew("node", "list").out

    assert (node["here"], "process" in node["runtimes"], node["workers"]) == (True, True, 1)
    assert node["node"] in table


def test_a_project_is_made_spent_in_changed_and_archived(up: Running, jetcrew: Cli) -> None:
    assert (
        jetcrew("project", "create", "apollo", "--budget-usd", "1", "--budget-turns", "9").code == 0
    )
    assert jetcrew("run", "--agent", "shell", "--project", "apollo", "echo hello").code == 0
    assert jetcrew("project", "update", "apollo", "--budget-usd", "2", "--lift", "turns").code == 0

    assert "0 of 2; 1 did not tell" in jetcrew("project", "get", "apollo").out

    assert jetcrew("project", "archive", "apollo").code == 0
    [kept] = jetcrew("project", "list", "--all", "--json").document
    assert (kept["name"], kept["state"], kept["budget"]) == ("apollo", "archived", {"usd": 2.0})


def test_the_attempts_of_a_task_are_shown(up: Running, jetcrew: Cli) -> None:
    assert (
        jetcrew(
            "task", "submit", "ada", "exit 4", "--id", "twice", "--max-attempts", "2", "--wait"
        ).code
        == 1
    )
    shown = jetcrew("task", "get", "twice").out
    told = jetcrew("task", "events", "twice").out

    assert "2 of 2" in shown
    assert "attempt 1: failed (exit-4)" in shown
    assert "attempt 2, after failed (exit-4)" in told


def test_what_is_kept_of_a_task_and_of_a_deleted_worker_is_shown(up: Running, jetcrew: Cli) -> None:
    """R14."""
    assert jetcrew("worker", "create", "eve", "--agent", "shell").code == 0
    jetcrew("task", "submit", "eve", "--wait", "--id", "last", "seq 1 3; exit 4")
    none = jetcrew("worker", "evidence", "eve")
    assert jetcrew("worker", "delete", "eve").code == 0
    task = jetcrew("task", "evidence", "last", "--json").document
    unit = jetcrew("worker", "evidence", "eve", "--json").document
    file = jetcrew.state.parent / "last.txt"

    assert (none.code, "none of its units has ended" in none.complaint) == (2, True)
    assert (task["end"]["exit_code"], task["output"]) == (4, "1\n2\n3")
    assert (unit["reason"], unit["unit_end"]["exit_code"]) == ("deleted", 0)
    assert jetcrew("task", "transcript", "last").out == "1\n2\n3\n"
    assert jetcrew("task", "transcript", "last", "--output", str(file)).code == 0
    assert file.read_text() == "1\n2\n3\n"
    assert "eve/last/transcript, 6 bytes" in jetcrew("task", "evidence", "last").out
    assert "there is no task" in jetcrew("task", "evidence", "nothing").complaint


def test_a_failed_task_is_exit_code_1_when_awaited(up: Running, jetcrew: Cli) -> None:
    assert jetcrew("task", "submit", "ada", "--wait", "exit 4").code == 1


def test_a_queued_task_is_cancelled_at_once(up: Running, jetcrew: Cli) -> None:
    jetcrew("task", "submit", "ada", "sleep 600", "--id", "long")
    jetcrew("task", "submit", "ada", "echo never", "--id", "behind")

    assert jetcrew("task", "cancel", "behind").code == 0
    assert jetcrew("task", "cancel", "long", "--reason", "enough").code == 0
    assert jetcrew("task", "wait", "behind").out.startswith("cancelled")
    assert jetcrew("task", "wait", "long").out.startswith("cancelled")


@pytest.mark.parametrize(
    ("prompt", "out"),
    [
        ("echo '{{ID}} {{ x }} ${{ github.sha }}'", "{{ID}} {{ x }} ${{ github.sha }}\n"),
        ("echo short\n#" + "x" * 500_000, "short\n"),
        ("printf 'grüße 🎉'", "grüße 🎉"),
    ],
    ids=["braces", "500 KB", "beyond ASCII"],
)
def test_a_prompt_arrives_as_it_is(up: Running, jetcrew: Cli, prompt: str, out: str) -> None:
    done = jetcrew("run", "--worker", "ada", "-", stdin=prompt)

    assert (done.code, done.out) == (0, out), done.err


def test_a_prompt_over_the_doors_limit_is_refused_before_anything_happens(
    up: Running, jetcrew: Cli
) -> None:
    done = jetcrew("run", "--worker", "ada", "-", stdin="#" * 800_000)

    assert done.code == 2
    assert "over the limit of" in done.complaint


def test_a_worker_is_paused_and_resumed_and_who_waits_is_listed_with_its_place(
    up: Running, jetcrew: Cli
) -> None:
    assert jetcrew("worker", "pause", "ada").out == "worker ada will be paused\n"
    assert jetcrew("worker", "resume", "ada").out == "worker ada will be ready\n"
    huge = ("--agent", "shell", "--memory", "1000000", "--queue-timeout", "never")
    for name in ("hugo", "hugh"):
        made = jetcrew("worker", "create", name, *huge)
        assert made.code == 0
        assert f"worker {name} is queued" in made.err
    listed = {w["name"]: w.get("place") for w in jetcrew("worker", "list", "--json").document}
    shown = jetcrew("worker", "get", "hugh").out
    for name in ("hugo", "hugh"):
        assert jetcrew("worker", "delete", name).code == 0

    assert (listed["hugo"], listed["hugh"], listed["ada"]) == (1, 2, None)
    assert "queued #2 (it may use 1,000,000 MiB" in shown
    assert jetcrew("run", "--worker", "ada", "echo awake").out == "awake\n"


def test_long_output_comes_complete_and_in_order(up: Running, jetcrew: Cli) -> None:
    done = jetcrew("run", "--worker", "ada", "seq 1 60000")

    assert done.out == "".join(f"{n}\n" for n in range(1, 60_001))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("up",), 3, "use that one, stop it (jetcrew down)"),
        (("worker", "create", "ada", "--agent", "shell"), 2, "there is a worker 'ada'"),
        (("worker", "create", "bob", "--agent", "shel"), 2, 'unknown agent "shel"; known: claude'),
        (("worker", "create", "bob", "--memory", "1"), 2, "$.limits.memory_mb"),
        (("worker", "create", "bob", "--allow", "sudo"), 2, "$.allowed_commands[0]"),
        (("worker", "get", "nobody"), 2, 'there is no worker "nobody"'),
        (("worker", "get", "../x"), 2, "there is no worker"),
        (("worker", "delete", "nobody"), 2, "there is no worker"),
        (("worker", "logs", "nobody"), 2, "there is no worker"),
        (("run", "--worker", "nobody", "x"), 2, "there is no worker"),
        (("run", "--agent", "shell", "--name", "ada", "x"), 2, "there is a worker 'ada'"),
        (("task", "submit", "nobody", "x"), 2, "there is no worker"),
        (("task", "submit", "ada", "x", "--id", "a b"), 2, "no name of a task"),
        (("task", "get", "nothing"), 2, 'there is no task "nothing"'),
        (("task", "cancel", "nothing"), 2, "there is no task"),
        (("task", "wait", "nothing"), 2, "there is no task"),
        (("task", "events", "nothing"), 2, "there are no events"),
        (("events", "--worker", "a.b"), 2, "no name of a worker"),
        (("worker", "create", "bob", "--project", "none"), 2, "there is no project 'none'"),
        (("project", "create", "apollo", "--budget-usd", "-1"), 2, "$.budget.usd"),
        (("project", "get", "none"), 2, 'there is no project "none"'),
    ],
)
def test_wrong_input_is_one_clear_line(
    up: Running, jetcrew: Cli, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = jetcrew(*arguments)

    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.complaint


def test_a_program_runs_beside_the_agent(up: Running, jetcrew: Cli) -> None:
    done = jetcrew("worker", "exec", "ada", "--", "sh", "-c", "pwd; exit 3")
    assert done.code == 3, done.err
    assert done.out == f"{jetcrew.state}/workers/ada/workspace\n", done.err

    killed = jetcrew("worker", "exec", "ada", "--timeout", "1s", "sleep", "60")
    assert (killed.code, "killed after 1 s" in killed.err) == (124, True), killed.err
    missing = jetcrew("worker", "exec", "ada", "no-such-program")
    assert (missing.code, "'no-such-program' cannot be run" in missing.complaint) == (2, True)
    assert "there is no worker" in jetcrew("worker", "exec", "nobody", "id").complaint


async def test_a_full_queue_is_told_to_whoever_submits(up: Running, jetcrew: Cli) -> None:
    assert jetcrew("worker", "create", "full", "--agent", "shell").code == 0
    creds = StateDirectory(jetcrew.state).creds("operator")
    async with connect(
        json.loads(up.out)["url"], name="test", creds=creds, inbox_prefix="_INBOX.ops.operator",
        patience=20,
    ) as bus:  # fmt: skip
        await bus.publish(bus.subjects.task("full"), SubmitTask(prompt="sleep 600"), id="blocker")
        bound = next(s for s in Topology().streams if s.name == "JC_TASK").max_msgs_per_subject
        for number in range(bound):
            await bus.publish(bus.subjects.task("full"), SubmitTask(prompt="true"), id=f"q{number}")
    done = jetcrew("task", "submit", "full", "echo one too many")
    assert jetcrew("worker", "delete", "full").code == 0

    assert done.code == 3, done.err
    assert "wait for a task to end" in done.complaint


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = Cli(tmp_path / "state")("up", "--port", str(taken.getsockname()[1]))

    assert done.code == 3
    assert "is in use" in done.complaint


@pytest.mark.parametrize("part", ["services.worker_manager", "services.api", "nats-server"])
def test_a_part_that_is_killed_comes_back(up: Running, jetcrew: Cli, part: str) -> None:
    killed = up.child(part)
    psutil.Process(killed).kill()
    up.until(lambda: up.child(part) != killed)

    done = jetcrew("run", "--worker", "ada", "echo still here")
    assert (done.code, done.out) == (0, "still here\n"), done.err


def test_doctor_finds_nothing_wrong_with_it(up: Running, jetcrew: Cli) -> None:
    up.until(lambda: jetcrew("doctor").code == 0)
    found = {
        finding["check"]: finding["status"] for finding in jetcrew("doctor", "--json").document
    }

    assert {found[check] for check in ("server", "jetstream", "topology", "manager", "api")} == {
        "ok"
    }


def test_a_terminal_gets_no_control_sequences_from_an_agent(up: Running, jetcrew: Cli) -> None:
    prompt = r"printf 'a\033]0;owned\007b\033[31mc\033[2J\n'"
    ours, theirs = pty.openpty()
    try:
        with jetcrew.started("run", "--worker", "ada", prompt, stdout=theirs) as running:
            assert running.wait() == 0, running.err
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert shown.replace("\r\n", "\n") == "abc\n"


def test_a_reader_that_goes_away_is_no_error_to_talk_about(up: Running, jetcrew: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with jetcrew.started("events", "--since", "0", "--no-follow", stdout=writing) as running:
            code = running.wait()
            told = running.err
    finally:
        os.close(writing)

    assert (code, told) == (141, "")


def test_events_go_on_from_a_sequence(up: Running, jetcrew: Cli) -> None:
    everything = jetcrew("events", "--since", "0", "--no-follow", "--json").out.splitlines()
    third = json.loads(everything[2])["seq"]
    rest = jetcrew("events", "--since", str(third), "--no-follow", "--json").out.splitlines()

    assert rest[: len(everything) - 2] == everything[2:]


def test_a_saved_context_serves_the_stock_cli_and_our_own(up: Running, jetcrew: Cli) -> None:
    nats = shutil.which("nats")
    if nats is None:
        if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
            pytest.fail("no nats command line")
        pytest.skip("no nats command line")
    saved = jetcrew("context", "save", "--json").document

    path = Path(saved["path"])
    assert (path.stat().st_mode & 0o777, saved["selected"]) == (0o600, True)
    got = subprocess.run(
        [nats, "--timeout", "30s", "kv", "get", "jc_worker", "ada", "--raw"],
        env=jetcrew.environment, capture_output=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert json.loads(got.stdout)["name"] == "ada"
    elsewhere = Cli(jetcrew.state.parent / "elsewhere")
    assert (
        elsewhere("worker", "get", "ada", "--context", "jetcrew", "--json").document["name"]
        == "ada"
    )
    assert not elsewhere.state.exists()


def test_a_context_that_is_selected_stays_selected(up: Running, jetcrew: Cli) -> None:
    selection = jetcrew.state.parent / "config" / "nats" / "context.txt"
    selection.parent.mkdir(parents=True, exist_ok=True)
    selection.write_text("mine")

    assert not jetcrew("context", "save", "other", "--json").document["selected"]
    assert selection.read_text() == "mine"
    assert jetcrew("context", "save", "other", "--select", "--json").document["selected"]
    assert selection.read_text() == "other"
    selection.unlink()


def test_ctrl_c_and_down_end_a_crew_in_order(tmp_path: Path) -> None:
    jetcrew = Cli(tmp_path / "state")
    for end in ("down", "SIGINT"):
        with jetcrew.started("up", "--json") as running:
            running.until(lambda: running.out.endswith("\n"))
            if end == "down":
                assert jetcrew("down").code == 0
            else:
                running.signal(signal.SIGINT)
            assert running.wait() == 0, running.err
        assert not (jetcrew.state / "crew.json").exists()
        assert processes_of(jetcrew.state) == []


def test_a_crew_whose_first_process_is_killed_goes_with_it(tmp_path: Path) -> None:
    jetcrew = Cli(tmp_path / "state")
    with jetcrew.started("up", "--json") as running:
        running.until(lambda: running.out.endswith("\n"))
        running.signal(signal.SIGKILL)
        running.wait()
    give_up = time.monotonic() + PATIENCE
    while processes_of(jetcrew.state) and time.monotonic() < give_up:
        time.sleep(0.1)

    assert processes_of(jetcrew.state) == []
    assert "held a crew together and has died" in jetcrew("doctor").out
    with jetcrew.started("up", "--json") as again:
        again.until(lambda: again.out.endswith("\n"))


def _killed_together(up: Running) -> None:
    """The first process of a crew and its server, at one moment."""
    server = up.child("nats-server")
    up.signal(signal.SIGSTOP)
    psutil.Process(server).kill()
    up.signal(signal.SIGKILL)
    up.wait()


def test_nothing_stays_behind_when_server_and_first_process_die_together(tmp_path: Path) -> None:
    jetcrew = Cli(tmp_path / "state")
    with jetcrew.started("up", "--json") as running:
        running.until(lambda: running.out.endswith("\n"))
        made = jetcrew("worker", "create", "ada", "--agent", "shell", "--runtime", "process")
        assert made.code == 0, made.err
        assert jetcrew("task", "submit", "ada", "sleep 600").code == 0
        _killed_together(running)
    give_up = time.monotonic() + PATIENCE
    while _of_the_control_plane(jetcrew.state) and time.monotonic() < give_up:
        time.sleep(0.1)

    assert _of_the_control_plane(jetcrew.state) == []
    with jetcrew.started("up", "--json") as again:
        again.until(lambda: again.out.endswith("\n"))
        for worker in jetcrew("worker", "list", "--json").document:
            assert jetcrew("worker", "delete", worker["name"]).code == 0


@pytest.mark.soak
def test_a_prompt_says_that_its_crew_does_not_answer_any_more(tmp_path: Path) -> None:
    """It waits for a good while, since a crew may come back."""
    jetcrew = Cli(tmp_path / "state", {"JETCREW_BUS_GRACE": "5"})
    with jetcrew.started("up", "--json") as running:
        running.until(lambda: running.out.endswith("\n"))
        with jetcrew.started("run", "--agent", "shell", "echo begun; sleep 20") as prompt:
            prompt.until(lambda: "begun" in prompt.out)
            _killed_together(running)
            assert prompt.wait() == 3, prompt.err
            assert "does not answer" in prompt.err.splitlines()[-1]


def _of_the_control_plane(state: Path) -> list[str]:
    """Workers outlive it, as they should."""
    parts = ("services.", "nats-server", "bin/jetcrew")
    return [words for words in processes_of(state) if any(part in words for part in parts)]


def test_the_command_line_lives_in_one_directory(tmp_path: Path) -> None:
    jetcrew = Cli(tmp_path / "state", {"HOME": str(tmp_path / "home")})
    (tmp_path / "home").mkdir()
    first, second = jetcrew("init", "--json").document, jetcrew("init", "--json").document

    assert (first["made"], second["made"], first["crew"]) == (True, False, second["crew"])
    assert list((tmp_path / "home").iterdir()) == []
    assert jetcrew.state.stat().st_mode & 0o777 == 0o700
