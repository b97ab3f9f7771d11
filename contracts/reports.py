"""Reports: what a worker claims. They become events only after the control plane has checked them.

`ready` is published on `jetcrew.rep.<worker>.ready`, the others on
`jetcrew.rep.<worker>.task.<task>.<kind>`. Message ids start with the assignment's nonce, which no other
worker can guess, because the stream's deduplication spans all workers.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contracts.events import TaskEnd
from contracts.ids import Token

EndState = Literal["succeeded", "failed", "cancelled", "timed-out", "input-required"]


class _Report(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    pass


class Ready(_Report, tag="ready", frozen=True, kw_only=True):
    """The wrapper runs, the instruction file is written, the agent's preflight passed."""

    incarnation: int
    boot: Token
    """Chosen at random by the wrapper process when it starts."""
    version: str
    """Of the wrapper."""
    agent_version: str | None = None


class NotReady(_Report, tag="not-ready", frozen=True, kw_only=True):
    """The wrapper runs and cannot take tasks; it ends after this."""

    incarnation: int
    boot: Token
    reason: Annotated[str, Meta(max_length=2000)]


class _TaskReport(_Report, frozen=True, kw_only=True, omit_defaults=True):
    task: Token
    attempt: int
    run: Token


class Progress(_TaskReport, tag="progress", frozen=True, kw_only=True):
    """Something worth telling; at most two a second."""

    n: int
    """Counts the progress reports of this run, from 1."""
    kind: Annotated[str, Meta(max_length=40)]
    """`text`, `tool`, `tool-done`, `retry`, `usage`, `status`."""
    text: Annotated[str, Meta(max_length=2000)] = ""


class SessionSeen(_TaskReport, tag="session", frozen=True, kw_only=True):
    """The agent named its conversation."""

    agent_session: Annotated[str, Meta(min_length=1, max_length=200)]
    fresh: bool = True


class Finished(_TaskReport, tag="finished", frozen=True, kw_only=True):
    """The attempt is over."""

    state: EndState
    end: TaskEnd


TaskReport = Progress | SessionSeen | Finished
Report = Ready | NotReady | TaskReport


class Heartbeat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """On `jetcrew.hb.<worker>`, every few seconds."""

    boot: Token
    task: Token | None = None
    rss_bytes: int | None = None


class Output(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the agent's output, on `jetcrew.out.<worker>.<task>`."""

    run: Token
    n: int
    """Counts the pieces of this run, from 1: a gap is a loss."""
    stream: Literal["stdout", "stderr"]
    text: str
    at: float
    """Seconds since the run began."""
