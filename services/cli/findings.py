"""What `jetcrew doctor` finds."""

from typing import Literal

from msgspec import Struct

Status = Literal["ok", "note", "wrong"]
OK: Literal["ok"] = "ok"
NOTE: Literal["note"] = "note"
"""Nothing is wrong, but somebody should know."""
WRONG: Literal["wrong"] = "wrong"


class Finding(Struct, frozen=True):
    """What one check found."""

    check: str
    status: Status
    detail: str
    do: str = ""
    """The next step, unless all is well."""
