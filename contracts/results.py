"""The answer to a command, kept in `jetcrew.res.<command-id>`: also what makes a command run once.

The synchronous door answers in the same shape. It is that of a JetStream PubAck (`stream`, `seq`,
`error`), so `nats req` shows all of it and `nats pub -J` prints a readable line and sets its exit code.
"""

from typing import Literal

from msgspec import Struct

from contracts.errors import InvalidMessage, JetcrewError, Refused, TooLarge
from contracts.ids import CommandId, ProjectId, TaskId, WorkerId


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a command was not carried out. `code` follows HTTP: 403, 404, 409, 413, 422, 503, 507."""

    code: int
    err_code: int
    description: str
    field: str | None = None


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a command."""

    stream: str | None = None
    seq: int | None = None
    id: CommandId | None = None
    status: Literal["done", "accepted", "refused"] = "done"
    """`accepted`: stored, and not carried out yet when the wait was over."""
    worker: WorkerId | None = None
    task: TaskId | None = None
    project: ProjectId | None = None
    detail: str = ""
    record: object = None
    """The record of what the command was about, where it asked for it."""
    error: Failure | None = None


def failure(error: JetcrewError) -> Failure:
    """`error` as a command's answer tells it."""
    code = error.code if isinstance(error, InvalidMessage | Refused | TooLarge) else 503
    field = error.field if isinstance(error, InvalidMessage | Refused) else None
    return Failure(code=code, err_code=code, description=str(error), field=field)
