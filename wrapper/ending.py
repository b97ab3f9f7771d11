"""How a run ended, judged by all that is known: never by the exit code alone."""

import re
from dataclasses import dataclass

from contracts.agent import Agent
from contracts.events import Verdict
from contracts.reports import EndState
from wrapper.output.reading import shortened
from wrapper.turn import Ran, Stop
from wrapper.verdict import VerdictProblem

_SHELL_SIGKILL = 137  # how a shell passes on that its command was killed


@dataclass(frozen=True)
class Ending:
    """The state a run ends in, a word for machines and a sentence for people."""

    state: EndState
    reason: str | None = None
    detail: str = ""


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
    return None


def broke(ran: Ran, agent: Agent, *, ends_with_event: bool) -> Ending | None:
    """The ending when the agent failed as a program; None when it has something to say."""
    if ran.reading.error is not None:
        reason = classify(agent, ran.reading.error) or classify(agent, ran.stderr)
        return Ending("failed", reason or "agent-error", shortened(ran.reading.error))
    if ran.cause == "exit" and (ran.signal or ran.exit_code != 0):
        if ran.oom and (ran.signal == "SIGKILL" or ran.exit_code == _SHELL_SIGKILL):
            return Ending("failed", "oom", "The agent was killed: the worker's memory is used up.")
        reason = classify(agent, ran.stderr)
        last = next(iter(ran.stderr.splitlines()[-1:]), "")
        if ran.signal:
            how = f"The agent was ended by {ran.signal}."
            return Ending("failed", reason or "killed", how)
        how = f"The agent ended with exit code {ran.exit_code}."
        return Ending("failed", reason or f"exit-{ran.exit_code}", shortened(f"{how} {last}"))
    if ends_with_event and not ran.reading.final:
        return Ending("failed", "no-result", "The agent ended without a final answer.")
    return None


def classify(agent: Agent, text: str) -> str | None:
    """The reason that the agent's file gives for an error text."""
    for error in agent.errors:
        if text and re.search(error.pattern, text):
            return error.reason
    return None


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
