"""Which images a worker may use: patterns over names, as the operator's settings list them."""

import re
from collections.abc import Iterable, Sequence

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB = (
    "docker.io/library/",
    "docker.io/",
    "index.docker.io/library/",
    "index.docker.io/",
    "library/",
)
_SPECIAL = re.compile(r"\*\*|\*|\?")
_MEANING = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def named(name: str) -> str:
    """A name in its short form and with its tag: `docker.io/library/python` is `python:latest`."""
    for prefix in _DOCKER_HUB:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    if "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:latest"


class Allowed:
    """The images of a list of patterns.

    `*` stands for anything but a slash, `**` for anything; a pattern without a tag allows every tag and
    digest. So `python` and `python:3.*` never mean a registry whose name begins like that.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._tagged = [_compiled(named(p)) for p in patterns if ":" in p.rpartition("/")[2]]
        self._any_tag = [
            _compiled(named(p).rpartition(":")[0])
            for p in patterns
            if ":" not in p.rpartition("/")[2]
        ]

    def allows(self, name: str) -> bool:
        """Whether a name is on the list."""
        full = named(name)
        repository, at, digest = full.partition("@")
        if at:
            if DIGEST.fullmatch(digest) is None:
                return False
            head, colon, tag = repository.rpartition(":")
            repository = head if colon and "/" not in tag else repository
        else:
            repository = full.rpartition(":")[0]
            if any(pattern.fullmatch(full) for pattern in self._tagged):
                return True
        return any(pattern.fullmatch(repository) for pattern in self._any_tag)

    def among(self, names: Iterable[str] | None) -> list[str]:
        """Those of some names that are on the list."""
        return [name for name in names or () if self.allows(name)]

    def __str__(self) -> str:
        return ", ".join(self.patterns) or "none"


def _compiled(pattern: str) -> re.Pattern[str]:
    parts, end = [], 0
    for match in _SPECIAL.finditer(pattern):
        parts += [re.escape(pattern[end : match.start()]), _MEANING[match[0]]]
        end = match.end()
    return re.compile("".join(parts) + re.escape(pattern[end:]))
