"""What passes between a worker and the control plane besides reports: its boot file, its assignment,
what it may ask and the answers, and the control messages it obeys."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contracts.budget import Budget
from contracts.events import Usage
from contracts.ids import Instant, Token
from contracts.repository import RepositorySource


class Boot(Struct, frozen=True, kw_only=True):
    """`boot.json` in a worker's credential directory: all a wrapper needs to begin.

    Beside it stand `worker.creds` and `secrets/NAME`, one file a secret.
    """

    worker: Token
    incarnation: int
    bus: str
    """`nats://HOST:PORT`, `tls://HOST:PORT` or `unix:PATH`."""
    ctl_nonce: Token
    """Last token of the control subject this worker listens to; known to no other worker."""
    agent_file: str
    """Path of the agent's description."""
    workspace: str
    home: str
    instructions: str = ""
    env: dict[str, str] = {}
    secrets: list[str] = []
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    """The agent's PATH."""
    output_bytes: int = 67_108_864
    """Bytes of output published of one task; the rest is counted and dropped."""
    heartbeat_every: float = 5.0
    """Seconds."""
    drain_grace: float = 2.0
    """Seconds that a task in flight gets to end by itself after SIGTERM."""
    bus_grace: float = 600.0
    """Seconds without a bus after which an idle wrapper ends by itself."""
    prefix: Token = "jetcrew"
    repository: RepositorySource | None = None
    """To be checked out before the first task."""
    repository_bytes: int = 268_435_456
    """Bytes of a bundle or a patch that may come in or go out."""
    trust_repository: bool = False
    """Whether the agent may find configuration of its own in a repository."""


class Berth(Struct, frozen=True, kw_only=True):
    """First line on a worker's boot socket: where things are in its container. A warm container is told
    this long before there is a worker for it."""

    agent_file: str
    workspace: str
    home: str
    path: str
    """The agent's PATH."""


class BootFiles(Struct, frozen=True, kw_only=True):
    """The rest on the boot socket, sent once there is a worker: its credential directory's files."""

    files: dict[str, bytes]
    """`boot.json`, `worker.creds`, `secrets/NAME`."""

    def __repr__(self) -> str:
        return f"BootFiles(files={sorted(self.files)})"


class SharedConversation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a task in a shared session: what its wrapper does with the conversation's files. When the turn has ended
    it hands them over as `conversation`."""

    stored: bool = False
    """Whether they are to be fetched, as `conversation`, before the agent starts."""
    counted: Usage | None = None
    """What the agent had counted when they were stored."""
    lost: str = ""
    """Why there are none, though the session had begun."""


class Assignment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one open piece of work of a worker, on `jetcrew.run.<worker>`."""

    task: Token
    attempt: int
    nonce: Token
    """Message ids of this attempt's reports and output start with it."""
    prompt: str
    timeout: float
    agent_session: str | None = None
    """The agent CLI's conversation to resume; None starts a fresh one."""
    context: dict[str, str] = {}
    repository: RepositorySource | None = None
    """To be checked out before the agent starts."""
    budget: Budget = Budget()
    """What this attempt may use."""
    data_schema: dict[str, object] | None = None
    """JSON Schema of `data` in the verdict."""
    shared: SharedConversation | None = None
    """None when the session is the worker's own, whose files stay where they are."""


class StartTask(Struct, frozen=True, kw_only=True):
    """`task.start`: may this run begin? Asked before the agent is started, because a broker can deliver
    an assignment twice. The same `run` asking again gets the same answer."""

    task: Token
    attempt: int
    run: Token


class StartAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Go, or no-go with the reason."""

    go: bool
    reason: str = ""
    deadline_at: Instant | None = None
    seconds_left: float | None = None
    """The same deadline for a clock that is not the manager's."""


class RenewCredential(Struct, frozen=True, kw_only=True):
    """`credential`: a new JWT for the same user key."""

    boot: Token


class CredentialAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The new JWT, or why there is none."""

    jwt: str = ""
    expires_at: float = 0.0
    """Unix time in seconds."""
    reason: str = ""


PIECE_BYTES = 131_072
"""The most that one piece of what is handed over, or fetched, holds."""

Piece = Annotated[bytes, Meta(max_length=PIECE_BYTES)]


class _OfRun(Struct, frozen=True, kw_only=True):
    task: Token
    attempt: int
    run: Token
    name: Token
    """`bundle`, `patch` or `conversation`."""


class PutPiece(_OfRun, frozen=True, kw_only=True):
    """`artifact.put`: the next piece of what this run hands over. Putting a piece again does no harm."""

    n: Annotated[int, Meta(ge=0)]
    """Counts the pieces, from 0."""
    data: Piece


class KeepArtifact(_OfRun, frozen=True, kw_only=True):
    """`artifact.keep`: all pieces are there. They become an object if together they are what this says."""

    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]


class HandedOver(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Taken, or why not."""

    ok: bool
    reason: str = ""
    object: str = ""
    """The object's name, once it is one."""


class GetPiece(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`artifact.get`: a piece of what was laid out for this worker; as `conversation`, of the shared session that
    its task is in."""

    name: Token
    after: Annotated[int, Meta(ge=0)] = 0
    """`next` of the answer before; 0 for the first piece."""


class PieceAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The piece, and what the whole is, by which it is checked; or why there is none."""

    data: Piece = b""
    next: int = 0
    size_bytes: int = 0
    sha256: str = ""
    reason: str = ""


class CancelRun(Struct, frozen=True, kw_only=True, tag_field="type", tag="cancel"):
    """Kill the agent of this attempt and report it as cancelled, or as timed out."""

    task: Token
    attempt: int
    state: Literal["cancelled", "timed-out"] = "cancelled"
    reason: Annotated[str, Meta(max_length=500)] = ""


class Drain(Struct, frozen=True, kw_only=True, tag_field="type", tag="drain"):
    """Take no further task, finish the one in flight, then end."""


Control = CancelRun | Drain
