"""The request target: read strictly, so that the engine cannot read it differently."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlencode

from services.worker_manager.engine_door.refusal import Refusal

OLDEST, NEWEST = 41, 51
"""Minor versions of the API that are understood: what Docker 20.10 to 28 speak."""
_PATH = re.compile(r"(?:/v1\.([0-9]{2}))?((?:/[A-Za-z0-9_.:@+-]+)+)")
_PARAMETERS = 24


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a request is for."""

    path: str
    """Without the version."""
    version: int | None = None
    """The API's minor version; None where the request leaves it to the engine."""
    query: Mapping[str, str] = field(default_factory=dict)

    def at(self, ref: str, identity: str) -> "Target":
        """With an id in the place of the name that its path has."""
        first, _, rest = self.path.removeprefix("/").partition("/")
        return replace(self, path=f"/{first}/{identity}{rest.removeprefix(ref)}")

    def asking(self, query: Mapping[str, str]) -> "Target":
        """With other parameters."""
        return replace(self, query=query)

    def __str__(self) -> str:
        """As sent to the engine."""
        version = f"/v1.{self.version}" if self.version else ""
        return version + self.path + (f"?{urlencode(self.query)}" if self.query else "")


def parsed(raw: bytes) -> Target:
    """The target of a request line.

    Raises:
        Refusal: not a plain path with plain parameters. A percent sign, an empty segment or a dot segment
            in the path has no honest use in this API.
    """
    text = raw.decode("ascii", errors="replace")
    before, _, after = text.partition("?")
    match = _PATH.fullmatch(before)
    if match is None or any(segment in {".", ".."} for segment in before.split("/")):
        raise Refusal(f"the path {before[:100]!r} is not written as the Docker API writes it", 400)
    version = int(match[1]) if match[1] else None
    if version is not None and not OLDEST <= version <= NEWEST:
        raise Refusal(
            f"API version 1.{version} is not understood here; 1.{OLDEST} to 1.{NEWEST} are", 400
        )
    return Target(path=match[2], version=version, query=_query(after))


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_PARAMETERS,
        )
    except ValueError:
        raise Refusal("the query is not one", 400) from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise Refusal("a parameter of the query is there twice", 400)
    return query
