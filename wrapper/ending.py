"""How a run ended, judged by all that is known: never by the exit code alone."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.agent import Agent
from contracts.budget import EXHAUSTED
from contracts.events import Verdict
from contracts.reports import EndState
from wrapper.output.reading import shortened
from wrapper.turn import Ran, Stop
from wrapper.verdict import VerdictProblem

LONGEST_PAUSE = timedelta(days=8)
"""Providers count by the week at most; what says more is no moment at all."""
_SHELL_SIGKILL = 137  # how a shell passes on that its command was killed


@dataclass(frozen=True)
class Ending:
    """The state a run ends in, a word for machines and a sentence for people."""

    state: EndState
    reason: str | None = None
    detail: str = ""
    until: datetime | None = None
    """When the provider takes requests again; None when it does not say."""


def cut_short(ran: Ran, stop: Stop, inactivity: float) -> Ending | None:
    """The ending when somebody or something else than the agent ended it; None otherwise."""
    match ran.cause:
        case "stopped":
            return Ending(stop.state, stop.reason, stop.detail)
        case "deadline":
            return Ending("timed-out", "deadline", f"The deadline passed after {ran.took:.0f} s.")
        case "inactive":
            detail = f"The agent was silent for {inactivity:.0f} s and counted as hung."
            return Ending("timed-out", "inactive", detail)
        case "budget":
            return Ending("failed", EXHAUSTED, f"The agent was stopped: {ran.enough}.")
    return None


def broke(ran: Ran, agent: Agent, *, ends_with_event: bool) -> Ending | None:
    """The ending when the agent failed as a program; None when it has something to say."""
    if ran.reading.error is not None:
        found = classify(agent, ran.reading.error) or classify(agent, ran.stderr)
        reason, until = found or ("agent-error", None)
        return Ending("failed", reason, shortened(ran.reading.error), until)
    if ran.cause == "exit" and (ran.signal or ran.exit_code != 0):
        if ran.oom and (ran.signal == "SIGKILL" or ran.exit_code == _SHELL_SIGKILL):
            return Ending("failed", "oom", "The agent was killed: the worker's memory is used up.")
        found = classify(agent, ran.stderr)
        if ran.signal:
            reason, until = found or ("killed", None)
            return Ending("failed", reason, f"The agent was ended by {ran.signal}.", until)
        reason, until = found or (f"exit-{ran.exit_code}", None)
        last = next(iter(ran.stderr.splitlines()[-1:]), "")
        how = shortened(f"The agent ended with exit code {ran.exit_code}. {last}")
        return Ending("failed", reason, how, until)
    if ends_with_event and not ran.reading.final:
        return Ending("failed", "no-result", "The agent ended without a final answer.")
    return None


def classify(agent: Agent, text: str) -> tuple[str, datetime | None] | None:
    """The reason that the agent's file gives for an error text, and until when it holds where that is said."""
    for error in agent.errors:
        if text and (match := re.search(error.pattern, text)):
            return error.reason, _until({k: v for k, v in match.groupdict().items() if v})
    return None


def _until(said: dict[str, str]) -> datetime | None:
    if not said.keys() & {"epoch", "minutes", "seconds"}:
        return None
    now = datetime.now(UTC)
    try:
        if "epoch" in said:
            until = datetime.fromtimestamp(float(said["epoch"]), UTC)
        else:
            wait = 60 * float(said.get("minutes", 0)) + float(said.get("seconds", 0))
            until = now + timedelta(seconds=wait)
    except (ValueError, OverflowError, OSError):  # a number beyond all time
        return None
    return until if until - now < LONGEST_PAUSE else None


def judged(ran: Ran, verdict: Verdict | VerdictProblem) -> Ending:
    """The ending by what the agent says of its task."""
    if isinstance(verdict, VerdictProblem):
        reason = "no-result" if verdict.kind == "missing" else "bad-result"
        return Ending("failed", reason, verdict.detail)
    if verdict.status == "failure":
        return Ending("failed", "failure", shortened(verdict.summary))
    if verdict.status == "in_progress":
        return Ending("input-required", None, shortened(verdict.summary))
    tools, failed = ran.reading.tools, ran.reading.tools_failed
    if tools and failed >= tools:
        said = f"It says success, but each of its {tools} tool calls failed."
        return Ending("failed", "tools-failed", said)
    return Ending("succeeded")
