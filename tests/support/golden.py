"""The golden wire files: each holds one message as it has been on the wire ever since it exists.

`NAME.json` is what we write, byte for byte; `typed/NAME.json` is the same message as a person, or a
program of somebody else's, may write it. NAME begins with the message's name in `contracts.schema`.
"""

from pathlib import Path
from typing import Any

from contracts.schema import MESSAGES

_FILES = Path(__file__).parent.parent / "unit" / "golden"

WIRE: dict[str, bytes] = {
    path.stem: path.read_bytes().removesuffix(b"\n") for path in sorted(_FILES.glob("*.json"))
}
TYPED: dict[str, bytes] = {
    path.stem: path.read_bytes() for path in sorted((_FILES / "typed").glob("*.json"))
}


def message_of(name: str) -> str:
    """The message a golden file is an example of: `rep.ready` is one of `rep`."""
    return max(
        (m for m in MESSAGES if name == m or name.startswith(f"{m}.")), key=len, default="none"
    )


def kind_of(name: str) -> Any:
    """The type that a golden file decodes to."""
    return MESSAGES[message_of(name)]
