"""The wrapper as a process, against a real server: what a manager sees of it."""

import asyncio
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from contracts.asks import CancelRun, Drain, StartAnswer, StartTask
from contracts.bus import Bus, apply_topology
from contracts.events import Verdict
from contracts.ids import WorkerId
from contracts.reports import Finished, NotReady, Progress, Ready, SessionSeen
from services.kit.identity.workers import MARGIN
from services.worker_manager.forwarder import Forwarders
from tests.support.raw_nats import control_plane
from tests.support.servers import Server, running_server
from tests.support.waiting import eventually
from tests.support.worker import Worker, managed, marked

Make = Callable[..., Worker]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, Bus]]:
    """One server for all tests here; each has a worker of its own."""
    state = tmp_path_factory.mktemp("server")
    async with running_server(state) as server, control_plane(server) as bus:
        await apply_topology(bus)
        yield server, bus


@pytest.fixture
def server(bus: tuple[Server, Bus]) -> Server:
    return bus[0]


@pytest.fixture
def make(bus: tuple[Server, Bus], tmp_path: Path) -> Make:
    """A worker that is not started yet."""

    def make(**given: Any) -> Worker:
        name = WorkerId(f"ada-{next(_numbers)}")
        return Worker(*bus, tmp_path / name, name=name, **given)

    return make


@pytest.fixture
async def ada(make: Make) -> AsyncIterator[Worker]:
    async with managed(make()) as worker:
        await worker.report(Ready, within=120)
        yield worker


async def open_assignments(worker: Worker) -> bool:
    stored = await worker.bus.last_matching("JC_RUN", worker.bus.subjects.run(worker.name))
    return stored is not None


async def test_it_says_that_it_is_ready_and_beats(ada: Worker) -> None:
    ready = await ada.report(Ready)

    assert ready.incarnation == 1
    await eventually(lambda: bool(ada.beats), True)
    assert ada.beats[0].boot == ready.boot
    assert 0 < (ada.beats[0].rss_bytes or 0) < 80_000_000


async def test_a_script_is_run_its_output_streamed_and_its_end_reported(ada: Worker) -> None:
    work = await ada.assign("echo one; echo two >&2; exit 0")

    done = await ada.finished()

    assert (done.state, done.end.exit_code, done.end.text) == ("succeeded", 0, "one")
    assert done.end.usage is None
    assert [asked.run for asked in ada.asked] == [done.run]
    output = await ada.output()
    assert {(each.stream, each.text) for each in output} == {
        ("stdout", "one\n"),
        ("stderr", "two\n"),
    }
    assert [each.n for each in output] == [1, 2]
    stored = await ada.bus.last_matching(
        "JC_REP", f"jetcrew.rep.{ada.name}.task.{work.task}.finished"
    )
    assert stored is not None
    assert stored.headers["Nats-Msg-Id"] == f"{work.nonce}:end"
    await eventually(lambda: open_assignments(ada), False)


async def test_an_exit_code_other_than_zero_is_a_failure(ada: Worker) -> None:
    await ada.assign("echo half; exit 7")

    done = await ada.finished()

    assert (done.state, done.end.reason, done.end.exit_code) == ("failed", "exit-7", 7)
    assert done.end.text == "half"


async def test_one_worker_works_off_one_task_after_the_other(ada: Worker) -> None:
    for task in ("t1", "t2", "t3"):
        await ada.assign(f"echo {task} > {task}", task=task)
        await ada.finished(task)
        await eventually(lambda: open_assignments(ada), False)

    assert sorted(path.name for path in ada.workspace.iterdir()) == ["t1", "t2", "t3"]


async def test_a_refused_start_runs_nothing_and_clears_the_assignment(ada: Worker) -> None:
    ada.answer = lambda _: StartAnswer(go=False, reason="it is over")
    await ada.assign("touch ran")

    await eventually(lambda: len(ada.asked), 1)
    await eventually(lambda: open_assignments(ada), False)

    assert not (ada.workspace / "ran").exists()
    assert [r for r in await ada.reports() if isinstance(r, Finished)] == []


async def test_a_cancelled_run_dies_with_everything_it_started_and_keeps_its_output(
    ada: Worker,
) -> None:
    await ada.assign(
        "echo begun; (setsid sh -c 'while :; do date >> alive; sleep 0.05; done' &); sleep 99"
    )
    await eventually(lambda: (ada.workspace / "alive").exists(), True)
    run = ada.asked[0].run
    assert len(marked(run)) >= 3

    await ada.control(CancelRun(task="t1", attempt=1, reason="not needed"))
    done = await ada.finished()

    assert (done.state, done.end.reason, done.end.detail) == (
        "cancelled",
        "cancelled",
        "not needed",
    )
    assert done.end.text == "begun"
    assert marked(run) == []


async def test_a_cancel_of_another_attempt_or_nonsense_changes_nothing(ada: Worker) -> None:
    await ada.assign("while [ ! -e go ]; do sleep 0.02; done")
    await eventually(lambda: len(ada.asked), 1)

    await ada.control(CancelRun(task="t1", attempt=2))
    await ada.control(CancelRun(task="t2", attempt=1))
    await ada.control(b'{"type":"explode"}')
    await ada.control(b"\xff")
    await eventually(lambda: ada.log.count("control."), 4)
    (ada.workspace / "go").touch()

    assert (await ada.finished()).state == "succeeded"


async def test_the_manager_may_end_it_as_timed_out(ada: Worker) -> None:
    await ada.assign("sleep 99")
    await eventually(lambda: len(ada.asked), 1)

    await ada.control(CancelRun(task="t1", attempt=1, state="timed-out"))

    done = await ada.finished()
    assert (done.state, done.end.reason) == ("timed-out", "deadline")


async def test_the_deadline_that_the_manager_names_holds(ada: Worker) -> None:
    ada.answer = lambda _: StartAnswer(go=True, seconds_left=0.5)
    await ada.assign("echo early; sleep 99; touch late", timeout=600.0)

    done = await ada.finished()

    assert (done.state, done.end.reason, done.end.text) == ("timed-out", "deadline", "early")
    assert not (ada.workspace / "late").exists()


async def test_sigterm_cancels_what_runs_reports_it_and_ends_with_zero(
    make: Make, tmp_path: Path
) -> None:
    async with managed(make(boot={"drain_grace": 0.1})) as ada:
        await ada.report(Ready, within=120)
        await ada.assign("sleep 99")
        await eventually(lambda: len(marked(ada.asked[0].run)) if ada.asked else 0, 2)
        assert ada.process is not None

        ada.process.send_signal(signal.SIGTERM)

        assert await ada.exit_code() == 0
        done = await ada.finished()
        assert (done.state, done.end.reason) == ("cancelled", "drained")


async def test_drain_lets_the_run_finish_and_takes_no_further_one(ada: Worker) -> None:
    await ada.assign("while [ ! -e go ]; do sleep 0.02; done")
    await eventually(lambda: len(ada.asked), 1)

    await ada.control(Drain())
    await eventually(lambda: "control.drain" in ada.log, True)
    (ada.workspace / "go").touch()

    assert (await ada.finished()).state == "succeeded"
    assert await ada.exit_code() == 0


async def test_a_server_that_goes_away_costs_no_output_and_no_result(
    ada: Worker, server: Server
) -> None:
    await ada.assign(
        "i=0; while [ ! -e go ]; do i=$((i+1)); echo line-$i; sleep 0.02; done; echo last"
    )
    await eventually(lambda: bool(ada.asked), True)

    async def some_output() -> bool:
        return bool(await ada.output())

    await eventually(some_output, True)
    await server.kill()
    (ada.workspace / "go").touch()
    await server.start_again()

    done = await ada.finished()
    assert done.state == "succeeded"
    pieces = await ada.output()
    assert [piece.n for piece in pieces] == list(range(1, len(pieces) + 1))
    lines = "".join(piece.text for piece in pieces).split()
    assert lines == [f"line-{i}" for i in range(1, len(lines))] + ["last"]
    assert done.end.output_dropped_bytes == 0


async def test_the_start_is_asked_for_until_somebody_answers(make: Make, tmp_path: Path) -> None:
    worker = make()
    async with managed(worker, start=False):
        pass  # its consumer is made; from here on the manager is away
    await worker.start()
    await worker.assign("echo made it")
    await eventually(lambda: "start.unanswered" in worker.log, True, 120)

    async with managed(worker, start=False):
        done = await worker.finished()

    assert done.state == "succeeded"
    assert len({question.run for question in worker.asked}) == 1


async def test_its_credential_is_renewed_in_mid_task_and_no_secret_leaves(
    make: Make, tmp_path: Path
) -> None:
    canary = 'canary-"quoted"-value'
    worker = make(credential_life=20.0, secrets={"TOKEN": canary}, boot={"env": {"VISIBLE": "yes"}})
    async with managed(worker) as ada:
        expired = time.time() + worker.credential_life
        await ada.assign(
            'printf "%s\\n" "$VISIBLE" "$TOKEN"; cat ../cred/worker.creds; '
            "while [ ! -e go ]; do sleep 0.05; done"
        )
        await eventually(lambda: ada.renewals >= 1 and time.time() > expired, True, 60)
        (ada.workspace / "go").touch()
        done = await ada.finished()
        output = "".join(piece.text for piece in await ada.output())
        reports = repr(await ada.reports())

    assert done.state == "succeeded"
    assert output.startswith("yes\n[redacted]\n")
    for secret in (canary, worker.user.seed):
        assert secret not in output + reports + worker.log
    assert "[redacted]" in done.end.text


async def test_its_credential_is_renewed_at_once_for_a_deadline_that_it_does_not_last_for(
    ada: Worker,
) -> None:
    """Once a task, and in the file only: whoever comes back after an outage shows that one."""
    deadlines = {"t1": 60, "t2": 3600, "t3": 3500}

    def answer(ask: StartTask) -> StartAnswer:
        deadline = datetime.now(UTC) + timedelta(seconds=deadlines[ask.task])
        return StartAnswer(go=True, deadline_at=deadline)

    ada.answer = answer
    await ada.assign("echo short", task="t1")
    await ada.finished("t1")
    await eventually(lambda: open_assignments(ada), False)
    assert ada.renewals == 0

    ada.credential_life = 3600 + MARGIN
    await ada.assign("until [ -e go ]; do sleep 0.05; done", task="t2")
    await eventually(lambda: ada.renewals, 1)
    (ada.workspace / "go").touch()
    await ada.finished("t2")
    await eventually(lambda: open_assignments(ada), False)
    await ada.assign("echo covered", task="t3")
    await ada.finished("t3")

    assert ada.renewals == 1
    assert ada.jwt_in_use() == ada.issued[-1]
    assert "reconnected" not in ada.log


async def test_an_agent_that_is_not_there_is_reported_and_ends_the_wrapper(
    make: Make, tmp_path: Path
) -> None:
    agent = tmp_path / "gone.toml"
    agent.write_text(
        'name="gone"\nversion="1"\npreflight=["no-such-agent"]\n[first]\nargv=[["x"]]\n'
    )
    async with managed(make(agent_file=agent)) as ada:
        report = await ada.report(NotReady)

        assert "no-such-agent" in report.reason
        assert await ada.exit_code() == 3


async def test_an_agent_of_any_kind_reports_verdict_session_and_progress(
    make: Make, tmp_path: Path
) -> None:
    """An agent that is a script speaking claude's format, to see each report once."""
    agent = tmp_path / "scripted.toml"
    script = tmp_path / "agent.sh"
    script.write_text(
        'cat > prompt; echo \'{"type":"system","subtype":"init","session_id":"\'$2\'"}\'\n'
        'echo \'{"type":"assistant","message":{"content":[{"type":"text","text":"working"}]}}\'\n'
        'echo \'{"type":"result","is_error":false,"result":"<result>{\\"status\\":\\"success\\",'
        '\\"summary\\":\\"fine\\"}</result>","usage":{"input_tokens":5,"output_tokens":2}}\'\n'
    )
    agent.write_text(
        f'name="scripted"\nversion="1"\noutput="claude"\n[session]\nsource="caller"\n'
        f'[first]\nargv=[["sh","{script}"],["--new","{{session}}"]]\n'
        f'[resume]\nargv=[["sh","{script}"],["--old","{{session}}"]]\n'
    )
    async with managed(make(agent_file=agent)) as ada:
        await ada.assign("do it")
        first = await ada.finished()
        seen = await ada.report(SessionSeen)
        await ada.assign("go on", task="t2", agent_session=seen.agent_session)
        second = await ada.finished("t2")
        resumed = await ada.report(SessionSeen, task="t2")

        assert first.state == second.state == "succeeded"
        assert first.end.verdict == Verdict(status="success", summary="fine")
        assert first.end.usage is not None
        assert (first.end.usage.input_tokens, first.end.usage.cost_usd) == (5, None)
        assert (seen.fresh, resumed.fresh) == (True, False)
        assert resumed.agent_session == seen.agent_session == second.end.agent_session
        progress = await ada.report(Progress)
        assert (progress.n, progress.kind, progress.text) == (1, "text", "working")
        assert (ada.workspace / "prompt").read_text().startswith("go on\n")


async def test_a_worker_without_network_reaches_the_bus_through_a_socket(
    make: Make, server: Server, tmp_path: Path
) -> None:
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    directory = tmp_path / "run"
    async with Forwarders(address.hostname, address.port) as forwarders:
        socket = await forwarders.open("ada", directory)
        async with managed(make(bus_url=f"unix:{socket}")) as ada:
            await ada.report(Ready, within=120)
            await ada.assign("echo begun; while [ ! -e go ]; do sleep 0.02; done; echo over")
            await eventually(lambda: bool(ada.asked), True)

            await forwarders.close("ada")
            (ada.workspace / "go").touch()
            await eventually(lambda: "bus.disconnected" in ada.log, True)
            await forwarders.open("ada", directory)

            done = await ada.finished()
            assert (done.state, done.end.text) == ("succeeded", "begun\nover")
            assert "".join(piece.text for piece in await ada.output()) == "begun\nover\n"


async def test_an_idle_wrapper_without_a_bus_ends_by_itself(make: Make, server: Server) -> None:
    worker = make(boot={"bus_grace": 1.0})
    async with managed(worker) as ada:
        await ada.report(Ready, within=120)
        await server.kill()
        try:
            assert await ada.exit_code(60) == 4
        finally:
            await server.start_again()


async def test_a_wrapper_that_nobody_will_listen_to_any_more_ends_with_its_agent(
    make: Make, server: Server
) -> None:
    """Nothing outlives a crew that is gone for good, not even what has something to say."""
    worker = make(credential_life=6.0)
    async with managed(worker) as ada:
        await ada.assign("echo x > begun; sleep 300")
        await eventually((ada.workspace / "begun").exists, True, 60)
        (run,) = {question.run for question in ada.asked}
        await server.kill()
        try:
            assert await ada.exit_code(90) == 4
            assert marked(run) == []
        finally:
            await server.start_again()


async def test_without_boot_files_it_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "boot.json").write_text('{"worker": "Ada"}')

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "wrapper",
        "--boot",
        str(tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()

    assert process.returncode == 2
    assert "$.worker" in said.decode()


def test_what_a_wrapper_can_do_without_is_not_loaded_at_its_start() -> None:
    script = "import sys, wrapper.__main__; print(*sys.modules)"

    said = subprocess.run(
        [sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True
    )

    loaded = set(said.stdout.split())
    assert "structlog" in loaded
    unneeded = {"rich.console", "pydantic", "docker", "wrapper.attempt", "wrapper.workspace"}
    assert not unneeded & loaded
