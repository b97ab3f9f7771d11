"""Ends of attempts: which of them is a crash, so that the task may be run again."""

import re
from typing import Literal

from contracts.events import TaskEnd, TaskState

Kind = Literal["final", "crash", "provider"]

CRASHES = frozenset({"killed", "oom", "engine-lost", "node-lost", "unknown"})
"""Something ended the agent or its worker that has nothing to do with the prompt."""
PROVIDER = frozenset({"rate-limited", "overloaded", "auth"})
"""The model's provider did not take the work: no attempt was made, in the sense of `max_attempts`, and
running it again at once would not help. The submitter decides when."""
_EXIT = re.compile(r"exit-\d+")


def kind_of(state: TaskState, end: TaskEnd) -> Kind:
    """What sort of end this is.

    An exit code is a crash unless there is a verdict beside it. `no-result` is one only if the manager tells
    it: then the wrapper has gone without a word, while an agent that says nothing has finished. `drained` is
    a worker that was told to stop by someone else than us, as by an engine that goes down.
    """
    reason = end.reason or ""
    if (state, reason) == ("cancelled", "drained"):
        return "crash"
    if state != "failed":
        return "final"
    if reason in PROVIDER:
        return "provider"
    if reason in CRASHES or (reason == "no-result" and end.told_by == "manager"):
        return "crash"
    if _EXIT.fullmatch(reason) and end.verdict is None:
        return "crash"
    return "final"


def is_crash(state: TaskState, end: TaskEnd) -> bool:
    """Whether the task may be run again after this end, if it asked for more than one attempt."""
    return kind_of(state, end) == "crash"
