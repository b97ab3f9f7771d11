"""Real processes under the wrapper's care: scripts that misbehave, and git."""

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from contracts.agent import Agent, Session, Turn
from contracts.events import Verdict
from contracts.repository import GitState
from tests.support.attempts import Bench
from tests.support.waiting import eventually
from tests.support.worker import AGENTS, marked
from wrapper.agent import load_agent
from wrapper.outlet import PIECE

SHELL = load_agent(AGENTS / "shell.toml")


def bench(root: Path, agent: Agent = SHELL, **changes: object) -> Bench:
    return Bench(root, msgspec.structs.replace(agent, **changes))


def speaking(body: str) -> Agent:
    """An agent that is a shell script and prints claude's format; `$1` is its conversation."""
    return Agent(
        name="scripted",
        version="1",
        output="claude",
        first=Turn(argv=[["sh", "-c", body, "sh", "{session}", "first"]]),
        resume=Turn(argv=[["sh", "-c", body, "sh", "{session}", "resume"]]),
        session=Session(source="caller"),
        session_lost="no such conversation",
        cancel_grace=0.5,
    )


def says(text: str, **more: object) -> str:
    event = {"type": "result", "is_error": False, "result": text, "session_id": "s-1", **more}
    return f"printf '%s\\n' {shlex.quote(msgspec.json.encode(event).decode())}"


GOOD = '<result>{"status":"success","summary":"fine"}</result>'


# -- the end of a run is the end of all its processes ---------------------------------------------


async def test_grandchildren_in_sessions_of_their_own_die_with_the_deadline(tmp_path: Path) -> None:
    ada = bench(tmp_path)
    writer = "while :; do date +%s%N >> alive; sleep 0.02; done"

    done = await ada.attempt(
        f"setsid sh -c '{writer}' & (setsid sh -c '{writer}' &) ; trap '' TERM; echo up; sleep 99",
        seconds=3.0,
    )

    assert (done.state, done.end.reason, done.end.text) == ("timed-out", "deadline", "up")
    assert marked(ada.run) == []
    written = (ada.workspace / "alive").read_bytes()
    await asyncio.to_thread(subprocess.run, ["sleep", "0.2"], check=True)
    assert (ada.workspace / "alive").read_bytes() == written


async def test_what_a_finished_agent_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    ada = bench(tmp_path)

    done = await ada.attempt("setsid sleep 99 & echo done")

    assert (done.state, done.end.text) == ("succeeded", "done")
    assert marked(ada.run) == []


async def test_a_process_that_forks_without_end_is_ended(tmp_path: Path) -> None:
    ada = bench(tmp_path)
    chain = 'f() { sleep 0.05; setsid sh -c "$0" "$0" & }; f'

    done = await ada.attempt(f"setsid sh -c {shlex.quote(chain)} {shlex.quote(chain)}; sleep 1")

    assert done.state == "succeeded"
    assert marked(ada.run) == []


def test_orphans_without_the_marker_are_known_by_descent_and_reaped(tmp_path: Path) -> None:
    """In a process of its own, for it has to become the parent of orphans."""
    script = tmp_path / "adopts.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from wrapper.family import Family, adopt_orphans\n"
        "assert adopt_orphans()\n"
        "family = Family(adopting=True)\n"
        "subprocess.run(['sh', '-c', 'env -i setsid sleep 98 & env -i setsid sleep 98 & exit'])\n"
        "assert len(family.members('r')) == 2, family.members('r')\n"
        "assert family.end('r') == []\n"
        "children = Path(f'/proc/self/task/{os.getpid()}/children')\n"
        "assert not children.exists() or children.read_text().strip() == ''\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# -- watchdogs ------------------------------------------------------------------------------------


async def test_silence_counts_as_hung_and_output_as_life(tmp_path: Path) -> None:
    ada = bench(tmp_path, inactivity=2.0, cancel_grace=0.2)

    done = await ada.attempt("for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done; sleep 99")

    assert (done.state, done.end.reason) == ("timed-out", "inactive")
    assert done.end.text.endswith("6")


async def test_an_agent_that_hangs_after_its_final_event_is_ended_and_its_success_kept(
    tmp_path: Path,
) -> None:
    ada = bench(tmp_path, speaking(f"{says(GOOD)}; trap '' TERM; while :; do sleep 0.1; done"))

    done = await ada.attempt("x")

    assert (done.state, done.end.verdict) == (
        "succeeded",
        Verdict(status="success", summary="fine"),
    )
    assert marked(ada.run) == []


async def test_a_cancel_is_not_overruled_by_what_the_agent_prints_then(tmp_path: Path) -> None:
    ada = bench(tmp_path, speaking(f"trap '{says(GOOD)}; exit 0' TERM; touch up; sleep 99 & wait"))
    async with asyncio.TaskGroup() as group:
        attempt = group.create_task(ada.attempt("x"))
        await eventually(lambda: (ada.workspace / "up").exists(), True)
        ada.stop.want("cancelled", "cancelled", "enough")

    done = attempt.result()
    assert (done.state, done.end.detail, done.end.verdict) == ("cancelled", "enough", None)


# -- output ---------------------------------------------------------------------------------------


async def test_a_line_of_megabytes_is_published_whole(tmp_path: Path) -> None:
    ada = bench(tmp_path)

    done = await ada.attempt("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")

    assert done.state == "succeeded"
    assert len(ada.told.stdout) == 3_000_005
    assert max(len(piece.text.encode()) for piece in ada.told.pieces) <= PIECE
    assert [piece.n for piece in ada.told.pieces] == list(range(1, len(ada.told.pieces) + 1))
    assert len(done.end.text.encode()) <= 65_536
    assert done.end.text.endswith("x\nend")


async def test_output_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    ada = bench(tmp_path)

    done = await ada.attempt(
        "printf 'a\\377\\376b\\0c'; head -c 100000 /dev/urandom; echo; echo end"
    )

    assert done.state == "succeeded"
    assert ada.told.stdout.startswith("a��b\0c")
    assert ada.told.stdout.endswith("end\n")


async def test_output_beyond_the_budget_is_dropped_counted_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    ada = bench(tmp_path)
    ada.boot["output_bytes"] = 1000

    done = await ada.attempt("head -c 5000 /dev/zero | tr '\\0' x; touch went-on; echo; echo end")

    assert done.state == "succeeded"
    assert (ada.workspace / "went-on").exists()
    assert len(ada.told.stdout) == done.end.output_bytes == 1000
    assert done.end.output_dropped_bytes == 4005
    assert done.end.text.endswith("end")


async def test_secrets_reach_the_agent_and_nobody_else(tmp_path: Path) -> None:
    ada = bench(tmp_path)
    ada.secrets["TOKEN"] = "canary-value-1"
    (tmp_path / "home").mkdir()

    done = await ada.attempt(
        'printf canary-; sleep 0.2; echo value-1; test "$TOKEN" = canary-value-1'
    )

    assert done.state == "succeeded"
    assert "canary-value-1" not in ada.told.stdout + done.end.text
    assert "[redacted]" in ada.told.stdout
    assert "[redacted]" in done.end.text


async def test_the_agent_sees_nothing_of_the_wrappers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "should not be seen")
    ada = bench(tmp_path)

    await ada.attempt("exec env")

    names = {line.partition("=")[0] for line in ada.told.stdout.splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "HOME", "LANG", "TERM", "USER", "JETCREW_RUN"}


# -- turns ----------------------------------------------------------------------------------------


async def test_an_agent_that_is_not_there_is_told_apart_from_one_that_failed(
    tmp_path: Path,
) -> None:
    ada = bench(tmp_path, first=Turn(argv=[["no-such-agent"]]))

    done = await ada.attempt("x")

    assert (done.state, done.end.reason, done.end.took) == ("failed", "not-started", None)
    assert "no-such-agent" in done.end.detail


async def test_a_prompt_of_any_size_and_kind_arrives_on_stdin(tmp_path: Path) -> None:
    ada = bench(tmp_path, speaking(f"cat > got; {says(GOOD)}"), asks_for_result=False)
    prompt = "--help '\"$(touch hacked) ä😀\n" * 20_000

    done = await ada.attempt(prompt)

    assert done.state == "succeeded"
    assert (ada.workspace / "got").read_text() == prompt
    assert not (ada.workspace / "hacked").exists()


async def test_an_answer_without_a_result_is_asked_for_once_more_in_the_same_conversation(
    tmp_path: Path,
) -> None:
    body = f"cat > $2; echo $1 > $2.session; if [ $2 = first ]; then {says('Done, no block.')}; else {says(GOOD)}; fi"
    ada = bench(tmp_path, speaking(body))

    done = await ada.attempt("do it")

    assert (done.state, done.end.verdict) == (
        "succeeded",
        Verdict(status="success", summary="fine"),
    )
    assert "There is no <result> block." in (ada.workspace / "resume").read_text()
    assert (ada.workspace / "resume.session").read_text() == "s-1\n"
    assert done.end.text.startswith("Done, no block.")


async def test_without_a_result_even_then_the_task_failed(tmp_path: Path) -> None:
    ada = bench(tmp_path, speaking(f"echo x >> turns; {says('I am done.')}"))

    done = await ada.attempt("do it")

    assert (done.state, done.end.reason, done.end.exit_code) == ("failed", "no-result", 0)
    assert (ada.workspace / "turns").read_text() == "x\nx\n"
    assert done.end.usage is None


async def test_a_lost_conversation_gives_one_fresh_run_that_says_so(tmp_path: Path) -> None:
    body = f"echo $1 >> $2; if [ $2 = resume ]; then echo 'no such conversation' >&2; exit 1; fi; {says(GOOD)}"
    ada = bench(tmp_path, speaking(body))

    done = await ada.attempt("go on", agent_session="s-lost")

    assert done.state == "succeeded"
    assert "conversation was lost" in done.end.detail
    assert (ada.workspace / "resume").read_text() == "s-lost\n"
    assert (ada.workspace / "first").read_text().strip() != "s-lost"
    assert ada.told.sessions == [("s-1", True)]
    assert [note.kind for note in ada.told.notes] == ["status"]


async def test_usage_of_all_turns_is_added_up(tmp_path: Path) -> None:
    usage = {"usage": {"input_tokens": 10, "output_tokens": 1}}
    ada = bench(
        tmp_path,
        speaking(f"if [ $2 = first ]; then {says('hm', **usage)}; else {says(GOOD, **usage)}; fi"),
    )

    done = await ada.attempt("x")

    assert done.end.usage is not None
    assert (done.end.usage.input_tokens, done.end.usage.cost_usd) == (20, None)


# -- claims ---------------------------------------------------------------------------------------


def repository(ada: Bench) -> str:
    """A repository in the workspace with one commit, pushed to a remote beside it; the commit."""
    remote = ada.root / "remote.git"
    env = {"PATH": os.defpath, "HOME": str(ada.root), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(command, cwd=ada.workspace, env=env, capture_output=True, check=True)
        return done.stdout.decode().strip()

    ada.workspace.mkdir(parents=True)
    git("init", "-q", "--bare", str(remote))
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "one")
    git("remote", "add", "origin", str(remote))
    git("push", "-q", "origin", "main")
    return git("rev-parse", "HEAD")


def claiming(**data: object) -> Agent:
    body = msgspec.json.encode({"status": "success", "summary": "s", "data": data}).decode()
    return speaking(says(f"<result>{body}</result>"))


@pytest.mark.parametrize("pushed", ["main", True])
async def test_claims_that_git_bears_out_are_believed(tmp_path: Path, pushed: object) -> None:
    """R23."""
    ada = Bench(tmp_path, SHELL)
    commit = repository(ada)
    ada.agent = claiming(commit=commit, branch="main", pushed=pushed, dirty=False)

    done = await ada.attempt("commit it")

    assert (done.state, done.end.reason) == ("succeeded", None)
    assert done.end.git == GitState(head=commit, branch="main", pushed=True)


@pytest.mark.parametrize(
    "lie",
    [
        {"commit": "0" * 40},
        {"commit": "--help"},
        {"commit": True},
        {"branch": "feature"},
        {"branch": "--all"},
        {"pushed": "feature"},
        {"pushed": "--all"},
        {"dirty": False},
    ],
)
async def test_a_claim_that_git_does_not_bear_out_fails_the_task(
    tmp_path: Path, lie: dict[str, object]
) -> None:
    """R23."""
    ada = Bench(tmp_path, SHELL)
    repository(ada)
    (ada.workspace / "left").write_text("uncommitted")
    ada.agent = claiming(**lie)

    done = await ada.attempt("commit it")

    assert (done.state, done.end.reason) == ("failed", "unverified")
    assert done.end.verdict is not None
    assert done.end.verdict.status == "success"


async def test_a_commit_that_was_not_pushed_is_told_whatever_the_agent_says(tmp_path: Path) -> None:
    """R23."""
    ada = Bench(tmp_path, SHELL)
    repository(ada)
    commit = "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m two"
    told = says('<result>{"status":"success","data":{"pushed":true}}</result>')
    ada.agent = speaking(f"{commit}; {told}")

    done = await ada.attempt("push it")

    assert (done.state, done.end.reason) == ("failed", "unverified")
    assert "the remote does not bear out" in done.end.detail
    assert done.end.git is not None
    assert done.end.git.pushed is False
