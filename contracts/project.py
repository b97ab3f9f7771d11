"""Projects: a name under which workers spend together; the commands, and the record of one."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from contracts.budget import Budget, Spent, Untold
from contracts.events import Owed
from contracts.ids import CommandId, Instant, ProjectId, TaskId, Token

Bound = Literal["usd", "tokens", "turns"]
ProjectState = Literal["active", "archived"]


class CreateProject(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Make a project, in which workers can then be made."""

    name: Token
    budget: Budget = Budget()
    """What the tasks of all its workers together may use; after that none is started."""


class UpdateProject(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Change the budget of a project. What it has spent stays."""

    name: Token
    budget: Budget = Budget()
    """The bounds that change; those that it does not name stay."""
    lift: Annotated[list[Bound], Meta(max_length=3)] = []
    """Bounds that are taken away."""


class ArchiveProject(Struct, frozen=True, kw_only=True):
    """Close a project for good: no worker is made in it and no task of its workers is started. What runs
    ends by itself, and is counted."""

    name: Token


class ProjectRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of a project; changed by compare-and-set only."""

    name: ProjectId
    state: ProjectState
    created_at: Instant
    changed_at: Instant
    """When somebody last changed it; what is spent does not count."""
    budget: Budget = Budget()
    spent: Spent = Spent()
    """What the attempts that have ended are known to have used."""
    untold: Untold = Untold()
    attempts: int = 0
    """How many have ended."""
    made_by: CommandId | None = None
    """The command that made it: so that the same command, delivered again, finds its own work."""
    counted: dict[str, TaskId] = {}
    """Ends of attempts that `spent` holds already, by the id of their event, while their tasks may still owe
    them; each with its task."""
    owed: list[Owed] = field(default_factory=list)
    evt_seq: int = 0
