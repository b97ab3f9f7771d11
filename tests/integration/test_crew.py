"""One crew, whole: server, manager, wrappers as plain processes, and an operator. No engine needed."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from contracts.results import Result
from contracts.topology import MAX_PAYLOAD_BYTES
from tests.support.crew import RunningCrew, running_crew
from tests.support.waiting import eventually

ENDS = {"succeeded", "failed", "cancelled", "timed-out", "input-required", "refused"}


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path) as running:
        yield running


async def ends_of(crew: RunningCrew, task: str, worker: str = "ada") -> list[str]:
    kinds = await crew.kinds(f"jetcrew.evt.task.{worker}.{task}.>")
    return [kind for kind in kinds if kind in ENDS]


async def test_prompts_run_in_their_order_and_the_worker_goes_when_told(crew: RunningCrew) -> None:
    await crew.create("ada")
    for n in range(3):
        await crew.submit("ada", f"echo turn-{n} >> log; cat log", task=f"t-{n}")
    last = await crew.ended("t-2")

    assert last.state == "succeeded"
    assert last.end is not None
    assert last.end.text.split() == ["turn-0", "turn-1", "turn-2"]
    assert last.end.usage is None
    assert await crew.kinds("jetcrew.evt.task.ada.t-1.>") == ["queued", "started", "succeeded"]

    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    assert await crew.kinds("jetcrew.evt.worker.ada.>") == [
        "requested", "starting", "ready", *["busy", "ready"] * 3, "stopping", "stopped",
    ]  # fmt: skip
    assert not (crew.server.state.workers / "ada").exists()
    info = await crew.bus.api("STREAM.INFO.JC_RUN")
    assert info["state"]["consumer_count"] == 0


async def test_a_script_that_fails_is_a_task_that_failed(crew: RunningCrew) -> None:
    """R23."""
    await crew.create("ada")
    await crew.submit("ada", "echo partial; exit 3", task="t-1")
    task = await crew.ended("t-1")

    assert (task.state, task.end and task.end.reason, task.end and task.end.exit_code) == (
        "failed", "exit-3", 3,
    )  # fmt: skip
    assert task.end is not None
    assert "partial" in task.end.text


async def test_secrets_reach_the_agent_and_nothing_else(crew: RunningCrew, tmp_path: Path) -> None:
    """R29."""
    canary = "canary-3fe1c2d4a5"
    await crew.ask("secret.put", {"name": "API_KEY", "value": canary, "worker": "ada"})
    await crew.create("ada", secrets=["API_KEY"])
    await crew.submit("ada", 'printf %s "$API_KEY" | sha256sum; echo "$API_KEY"', task="t-1")
    task = await crew.ended("t-1")

    assert task.end is not None
    assert hashlib.sha256(canary.encode()).hexdigest() in task.end.text
    assert canary not in task.end.text
    everything = [await crew.bus.page(s, ">") for s in ("JC_EVT", "JC_OUT", "JC_RES")]
    assert not [m for page in everything for m in page if canary.encode() in m.data]
    assert canary not in crew.log.read_text()
    wrapper_log = crew.server.state.workers / "ada" / "wrapper.log"
    assert canary not in wrapper_log.read_text()

    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")
    found = await crew.ask(
        "worker.create", {"name": "ada", "agent": "shell", "secrets": ["API_KEY"]}
    )
    assert found.error is not None
    assert found.error.field == "$.secrets[0]"


async def test_a_running_task_is_cancelled_with_all_it_started(
    crew: RunningCrew, tmp_path: Path
) -> None:
    """R11."""
    await crew.create("ada")
    beat = tmp_path / "beat"
    script = f"setsid sh -c 'while :; do date >> {beat}; sleep 0.2; done' & echo begun; sleep 300"
    await crew.submit("ada", script, task="t-1")
    await crew.running("t-1", beat)
    result = await crew.ask("task.cancel", {"task": "t-1", "reason": "enough"})
    task = await crew.ended("t-1")
    size = beat.stat().st_size

    assert result.detail == "cancelling"
    assert task.state == "cancelled"
    assert task.end is not None
    assert "begun" in task.end.text
    assert await ends_of(crew, "t-1") == ["cancelled"]
    await crew.until("ada", "ready")
    assert beat.stat().st_size == size


async def test_a_queued_task_is_cancelled_without_running(crew: RunningCrew) -> None:
    await crew.create("ada")
    await crew.submit("ada", "sleep 3", task="t-1")
    await crew.running("t-1")
    await crew.submit("ada", "touch never", task="t-2")

    async def recorded() -> bool:
        return await crew.task("t-2") is not None

    await eventually(recorded, expected=True)
    result = await crew.ask("task.cancel", {"task": "t-2"})
    await crew.ended("t-1")
    await crew.submit("ada", "ls", task="t-3")
    last = await crew.ended("t-3")

    assert result.detail == "cancelled"
    assert await ends_of(crew, "t-2") == ["cancelled"]
    assert last.end is not None
    assert "never" not in last.end.text


async def test_a_task_past_its_time_is_ended(crew: RunningCrew) -> None:
    await crew.create("ada")
    await crew.submit("ada", "echo begun; sleep 300", task="t-1", timeout=1.5)
    task = await crew.ended("t-1")

    assert (task.state, task.end and task.end.reason) == ("timed-out", "deadline")
    await eventually(lambda: ends_of(crew, "t-1"), ["timed-out"])


async def test_deleting_a_worker_ends_its_task_and_its_queue(crew: RunningCrew) -> None:
    await crew.create("ada")
    await crew.submit("ada", "sleep 300", task="t-1")
    await crew.submit("ada", "echo next", task="t-2")
    await crew.running("t-1")
    await crew.ask("worker.delete", {"name": "ada"})
    await crew.until("ada", "stopped")

    assert (await crew.ended("t-1")).state == "cancelled"
    assert (await crew.ended("t-2")).state == "cancelled"
    assert await ends_of(crew, "t-1") == ["cancelled"]
    await crew.submit("ada", "echo late", task="t-3")
    late = await crew.ended("t-3")
    assert late.end is not None
    assert late.end.reason == "refused"


async def test_more_workers_than_there_is_room_for_wait_their_turn(tmp_path: Path) -> None:
    """R17."""
    async with running_crew(tmp_path, JETCREW_MAX_WORKERS="1") as crew:
        await crew.create("ada")
        await crew.ask("worker.create", {"name": "bob", "agent": "shell", "runtime": "process"})
        await crew.until("bob", "queued")
        await crew.ask("worker.delete", {"name": "ada"})
        await crew.until("bob", "ready")


@pytest.mark.parametrize(
    ("tail", "body", "code", "field", "says"),
    [
        ("worker.create", {"name": "Ada", "agent": "shell"}, 422, "$.name", "Ada"),
        ("worker.create", {"name": "ada"}, 422, "$.agent", "missing"),
        ("worker.create", {"name": "ada", "agent": "shel"}, 422, "$.agent", "known: claude, codex, custom, factory"),
        ("worker.create", {"name": "ada", "agent": "shell", "capabilities": ["gitt"]}, 422, "$.capabilities[0]", "known:"),
        ("worker.create", {"name": "ada", "agent": "shell", "env": {"JETCREW_URL": "x"}}, 422, "$.env.JETCREW_URL", "not for workers"),
        ("worker.create", {"name": "ada", "agent": "shell", "secrets": ["NOPE"]}, 422, "$.secrets[0]", "NOPE"),
        ("worker.create", {"name": "ada", "agent": "shell", "allowed_commands": ["git.token"]}, 422, "$.allowed_commands[0]", "git.token"),
        ("worker.delete", {"name": "nobody"}, 404, "$.name", "nobody"),
        ("worker.pause", {"name": "nobody"}, 404, "$.name", "nobody"),
        ("task.cancel", {"task": "t99"}, 404, "$.task", "t99"),
        ("worker.create", {"name": "ada", "agent": "custom"}, 422, "$.env.CUSTOM_COMMAND", "missing"),
    ],
)  # fmt: skip
async def test_a_refusal_names_field_and_reason_and_changes_nothing(
    shared_crew: RunningCrew, tail: str, body: dict[str, object], code: int, field: str, says: str
) -> None:
    """R31."""
    before = await shared_crew.events()
    result = await shared_crew.ask(tail, body)

    assert result.error is not None
    assert (result.error.code, result.error.field) == (code, field)
    assert says in result.error.description
    assert await shared_crew.events() == before


@pytest.fixture(scope="module")
async def shared_crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    async with running_crew(tmp_path_factory.mktemp("crew")) as running:
        yield running


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b"x" * (MAX_PAYLOAD_BYTES - 200), b'{"name":' * 50_000]
)
@pytest.mark.parametrize("tail", ["worker.create", "task.cancel", "secret.put"])
async def test_every_synchronous_door_answers_whatever_it_gets(
    shared_crew: RunningCrew, tail: str, body: bytes
) -> None:
    """R31: readable, and the doors stay open."""
    answer = await shared_crew.bus.request(f"jetcrew.api.{tail}", body, timeout=10)
    result = msgspec.json.decode(answer.data, type=Result)

    assert result.error is not None
    assert result.error.code in {413, 422}
    assert (await shared_crew.ask("worker.status", {"name": "nobody"})).error is not None


async def test_an_empty_prompt_is_refused_with_an_event(shared_crew: RunningCrew) -> None:
    receipt = await shared_crew.bus.publish("jetcrew.task.ada", b"", id="empty-1")
    task = await shared_crew.ended("empty-1")

    assert receipt.stream == "JC_TASK"
    assert task.end is not None
    assert (task.state, task.end.reason) == ("failed", "refused")
    assert "empty" in task.end.detail
    assert await shared_crew.kinds("jetcrew.evt.task.ada.empty-1.>") == ["refused"]
    assert (await shared_crew.bus.page("JC_DLQ", ">"))[-1].headers[
        "Jc-Dlq-Subject"
    ] == "jetcrew.task.ada"


async def test_a_prompt_for_nobody_is_refused(shared_crew: RunningCrew) -> None:
    await shared_crew.submit("nobody", "echo", task="n-1")

    task = await shared_crew.ended("n-1")
    assert task.end is not None
    assert "there is no worker 'nobody'" in task.end.detail


async def test_the_same_command_twice_has_one_effect_and_one_answer(
    shared_crew: RunningCrew,
) -> None:
    """R3."""
    body = {"name": "twin", "agent": "shell", "runtime": "process"}
    first = await shared_crew.ask("worker.create", body, **{"Nats-Msg-Id": "twin-1"})
    second = await shared_crew.ask("worker.create", body, **{"Nats-Msg-Id": "twin-1"})
    other = await shared_crew.ask("worker.create", body, **{"Nats-Msg-Id": "twin-2"})

    assert (first.id, first.worker, first.seq) == (second.id, second.worker, second.seq)
    assert other.error is not None
    assert other.error.code == 409
    kinds = await shared_crew.kinds("jetcrew.evt.worker.twin.>")
    assert kinds.count("requested") == 1


async def test_a_caller_that_does_not_wait_is_told_where_the_answer_will_be(
    shared_crew: RunningCrew,
) -> None:
    result = await shared_crew.ask("worker.status", {"name": "nobody"}, **{"Jc-Wait": "0"})

    assert result.stream == "JC_CMD"
    assert result.status in {"accepted", "refused"}
    assert result.id is not None

    async def answered() -> bool:
        return await shared_crew.bus.last("JC_RES", f"jetcrew.res.{result.id}") is not None

    await eventually(answered, expected=True)


async def test_a_paused_worker_wakes_for_a_task(crew: RunningCrew) -> None:
    """R16."""
    await crew.create("ada")
    await crew.ask("worker.pause", {"name": "ada"})
    await crew.until("ada", "paused")
    await crew.submit("ada", "echo awake", task="t-1")

    assert (await crew.ended("t-1")).state == "succeeded"


async def test_a_second_manager_on_the_state_directory_ends_with_a_reason(
    crew: RunningCrew,
) -> None:
    second = await crew.spawn_manager()

    assert await second.wait() == 3
    assert "another worker manager works on" in crew.log.read_text()
    assert (await crew.ask("worker.status", {"name": "nobody"})).error is not None


async def test_a_worker_that_failed_is_made_anew_at_once_and_as_often_as_one_likes(
    tmp_path: Path,
) -> None:
    """Clearing the failed one away changes its record meanwhile."""
    agents = tmp_path / "data" / "agents"
    agents.mkdir(parents=True)
    (agents / "absent.toml").write_text(
        'name = "absent"\nversion = "1"\npreflight = ["no-such-program"]\n'
        'first = { argv = [["no-such-program"]] }\n'
    )
    async with running_crew(tmp_path, JETCREW_DATA=f'["{agents.parent}"]') as crew:
        for number in range(1, 9):
            made = await crew.ask(
                "worker.create", {"name": "ada", "agent": "absent", "runtime": "process"},
                **{"Jc-Wait": "9"},
            )  # fmt: skip
            assert made.error is None, made.error
            failed = await crew.until("ada", "failed")
            assert (failed.incarnation, "no-such-program" in str(failed.reason)) == (number, True)
        await crew.create("ada")
