"""How a run is judged: never by its exit code alone."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.agent import Agent
from contracts.events import Verdict
from wrapper.agent import load_agent
from wrapper.ending import broke, cut_short, judged
from wrapper.output import Reading
from wrapper.session import conversation, is_lost
from wrapper.turn import Cause, Ran, Stop
from wrapper.verdict import VerdictProblem

AGENTS = Path(__file__).resolve().parents[2] / "images" / "agents"
CLAUDE = load_agent(AGENTS / "claude.toml")
SHELL = load_agent(AGENTS / "shell.toml")
LOST = (Path(__file__).parent / "captures/claude/resume_unknown.stderr.txt").read_text()


def ran(
    *, cause: Cause = "exit", exit_code: int | None = 0, signal: str | None = None,
    stderr: str = "", reading: Reading | None = None, oom: bool = False,
) -> Ran:  # fmt: skip
    return Ran(
        cause=cause, exit_code=exit_code, signal=signal, took=1.0, stderr=stderr,
        reading=reading or Reading(text="hi", final=True), oom=oom,
    )  # fmt: skip


def failure(of: Ran, agent: Agent = CLAUDE) -> tuple[str, str | None] | None:
    ending = broke(of, agent, ends_with_event=agent.output == "claude")
    return (ending.state, ending.reason) if ending else None


def test_a_clean_end_with_a_final_answer_is_left_to_the_verdict() -> None:
    assert failure(ran()) is None


def test_exit_zero_without_a_final_answer_is_a_failure() -> None:
    assert failure(ran(reading=Reading(text="half"))) == ("failed", "no-result")


def test_exit_zero_is_enough_for_a_script() -> None:
    assert failure(ran(reading=Reading(text="x")), SHELL) is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (ran(exit_code=3), "exit-3"),
        (ran(exit_code=None, signal="SIGKILL"), "killed"),
        (ran(exit_code=None, signal="SIGKILL", oom=True), "oom"),
        (ran(exit_code=137, oom=True), "oom"),
        (ran(exit_code=1, oom=True), "exit-1"),
        (ran(exit_code=1, stderr="API Error: 529 Overloaded"), "overloaded"),
        (ran(exit_code=1, reading=Reading(final=True, error="API Error: 429")), "rate-limited"),
        (ran(exit_code=0, reading=Reading(final=True, error="odd")), "agent-error"),
        (ran(exit_code=1, reading=Reading(final=True, error="odd"), stderr="401"), "auth"),
    ],
)
def test_a_broken_run_is_named_by_what_broke_it(given: Ran, reason: str) -> None:
    assert failure(given) == ("failed", reason)


def test_an_agent_killed_after_its_final_event_keeps_its_success() -> None:
    assert failure(ran(cause="final", exit_code=None, signal="SIGKILL")) is None


def test_who_cut_it_short_is_told() -> None:
    stop = Stop()
    stop.want("cancelled", "cancelled", "changed my mind")
    stop.want("timed-out", "deadline", "too late to ask")

    stopped = cut_short(ran(cause="stopped"), stop, 5)
    late = cut_short(ran(cause="deadline"), stop, 5)
    silent = cut_short(ran(cause="inactive"), stop, 5)

    assert stopped is not None
    assert late is not None
    assert silent is not None
    assert (stopped.state, stopped.reason, stopped.detail) == (
        "cancelled",
        "cancelled",
        "changed my mind",
    )
    assert (late.state, late.reason) == ("timed-out", "deadline")
    assert (silent.state, silent.reason) == ("timed-out", "inactive")
    assert cut_short(ran(), stop, 5) is None


def test_the_verdict_decides_otherwise() -> None:
    def state(status: str) -> tuple[str, str | None]:
        ending = judged(ran(), Verdict(status=status, summary="s"))  # type: ignore[arg-type]  # literals
        return ending.state, ending.reason

    assert state("success") == ("succeeded", None)
    assert state("failure") == ("failed", "failure")
    assert state("in_progress") == ("input-required", None)


def test_no_verdict_is_a_failure_with_its_sentence() -> None:
    missing = judged(ran(), VerdictProblem("missing", "There is none."))
    broken = judged(ran(), VerdictProblem("broken", "Odd JSON."))

    assert (missing.state, missing.reason, missing.detail) == (
        "failed",
        "no-result",
        "There is none.",
    )
    assert (broken.state, broken.reason) == ("failed", "bad-result")


@pytest.mark.parametrize(("tools", "failed", "state"), [(3, 3, "failed"), (3, 2, "succeeded"), (0, 0, "succeeded")])  # fmt: skip
def test_success_is_not_believed_when_every_tool_call_failed(
    tools: int, failed: int, state: str
) -> None:
    reading = Reading(final=True, tools=tools, tools_failed=failed)

    assert judged(ran(reading=reading), Verdict(status="success")).state == state


def test_an_unknown_conversation_is_noticed_and_nothing_else_is_taken_for_it() -> None:
    assert is_lost(CLAUDE, ran(exit_code=1, stderr=LOST))
    assert not is_lost(CLAUDE, ran(exit_code=1, stderr="API Error: 500"))
    assert not is_lost(SHELL, ran(exit_code=1, stderr=LOST))


def test_silence_is_a_lost_conversation_only_where_nothing_was_answered() -> None:
    factory = replace(CLAUDE, session_lost=r"\A\s*\Z")

    assert is_lost(factory, ran(exit_code=1, reading=Reading()))
    assert not is_lost(factory, ran(exit_code=0))
    assert not is_lost(factory, ran(cause="final", exit_code=None, signal="SIGTERM"))
    assert not is_lost(factory, ran(exit_code=1, reading=Reading(error="401", final=True)))


def test_a_conversation_is_resumed_only_by_agents_that_can() -> None:
    assert conversation(CLAUDE, "s-1").id == "s-1"
    assert conversation(CLAUDE, "s-1").resumed
    assert not conversation(CLAUDE, None).resumed
    assert len(conversation(CLAUDE, None).id) == 36
    assert conversation(SHELL, "s-1").id == ""
