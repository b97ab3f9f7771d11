"""A repository on its way into a worker, and what comes back of it."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.ids import Token

CommitHash = Annotated[
    str,
    Meta(
        pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})(?!\n)$",
        description="A commit's full hash, in lower case.",
    ),
]
BranchName = Annotated[
    str,
    Meta(
        pattern=r"^(?!/)(?!.*(//|\.\.|@\{|\.lock(/|$)|/$|\.$|/\.))[^\x00-\x20\x7f~^:?*\[\\.-][^\x00-\x20\x7f~^:?*\[\\]*(?!\n)$",
        max_length=200,
        description="A branch's name, as git allows it.",
    ),
]
ArtifactName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*(?!\n)$",
        max_length=256,
        description="An object's name in the object store.",
    ),
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(https?|ssh|git)://[^\s@]+(?!\n)$",
        max_length=2000,
        description="An http, https, ssh or git address without a user.",
    ),
]

DEFAULT_BRANCH = "jetcrew"
"""What is checked out in a worker when the sender's HEAD was detached."""


class RepositorySource(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a repository that a worker begins with: a git bundle, laid out for it in the object store.

    The commit is checked out, on its branch. What the snapshot holds beyond it lies in the work tree,
    uncommitted.
    """

    bundle: Token
    """The name under which the bundle is laid out for the worker."""
    bundle_bytes: Annotated[int, Meta(ge=1)]
    commit: CommitHash
    """What was committed: the sender's HEAD."""
    snapshot: CommitHash | None = None
    """A commit on top of it that holds what was not committed; in the bundle only, never in the sender's
    repository."""
    branch: BranchName | None = None
    """None when no branch was checked out."""
    shallow: Annotated[list[CommitHash], Meta(max_length=10_000)] = []
    """Commits of the bundle whose parents were left behind."""
    origin: Origin | None = None
    """The address that becomes the remote `origin`: without user name, password or key."""


class GitState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What git says of the workspace when a task ends, whatever the agent says."""

    head: CommitHash | None = None
    """None before the first commit."""
    branch: str | None = None
    """None when no branch is checked out."""
    dirty: bool = False
    """Whether something is not committed."""
    pushed: bool | None = None
    """Whether the remote `origin` has the head on the branch of that name; None when there is no such
    remote, or it does not answer."""


class Work(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task changed in the repository its worker was given, and where it is kept."""

    base: CommitHash
    """The commit that the worker was given; the bundle builds on it."""
    tip: CommitHash
    """The commit that holds all of it, what was left uncommitted included. `base` when nothing changed."""
    commits: int = 0
    """Made by the agent, on top of the base."""
    uncommitted: bool = False
    """Whether the tip holds, beyond the agent's commits, what it left uncommitted."""
    files: int = 0
    insertions: int = 0
    deletions: int = 0
    bundle: ArtifactName | None = None
    """A git bundle from base to tip, the tip under `refs/jetcrew/work`. None when nothing changed, or
    when it could not be kept: `lost` then says why."""
    bundle_bytes: int = 0
    patch: ArtifactName | None = None
    """What changed during this task, as a patch."""
    patch_bytes: int = 0
    lost: str = ""
    """Why something of it could not be kept; empty when all is there."""
