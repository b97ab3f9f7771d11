"""Conversations that travel: the files of one, packed after a turn and laid down before one elsewhere.

What comes was made by another worker, and is believed in nothing: what is not exactly a file of this
conversation, by the agent's own description, is not laid down, nor is anything else that came with it.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from contracts.agent import Agent
from contracts.errors import JetcrewError

FILES = 1000
"""The most files that one conversation has."""
_ALL_BELOW = "**"


class NoFiles(JetcrewError):
    """There is no file of this conversation."""


class TooMuch(JetcrewError):
    """The conversation is over a bound; says which."""

    def __init__(self, why: str, size_bytes: int = 0) -> None:
        super().__init__(why)
        self.size_bytes = size_bytes


class Unsafe(JetcrewError):
    """What came is not the files of this conversation; says what it is."""


def files_of(agent: Agent, session: str) -> list[str]:
    """The patterns of a conversation's files, below the agent's state directory."""
    return [pattern.replace("{session}", escape(session)) for pattern in agent.conversation]


def pack(
    state: Path, patterns: Sequence[str], archive: Path, *, limit: int, redact: Callable[[str], str]
) -> int:
    """Write the files of a conversation into an archive, without the values of secrets; its size in bytes. What is
    no plain file is left out.

    Raises:
        NoFiles: there are none.
        TooMuch: they are more than `limit` bytes, or more than `FILES`.
        OSError: one cannot be read.
    """
    found, total = sorted({path for pattern in patterns for path in _matching(state, pattern)}), 0
    if not found:
        raise NoFiles(f"nothing in {state.name} belongs to it")
    if len(found) > FILES:
        raise TooMuch(f"it has {len(found):,} files; {FILES:,} are the most")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in found:
            data, mtime = _read(path, limit)
            text = redact(data.decode(errors="surrogateescape"))
            data = text.encode(errors="surrogateescape")
            total += len(data)
            if total > limit:
                raise TooMuch(f"its files are over the bound of {limit:,} bytes", total)
            _add(tar, str(path.relative_to(state)), data, mtime)
    size = archive.stat().st_size
    if size > limit:
        raise TooMuch(f"with its {size:,} bytes it is over the bound of {limit:,}", size)
    return size


def unpack(archive: Path, state: Path, patterns: Sequence[str], *, limit: int) -> int:
    """Lay the files of an archive down below the state directory; how many. Either all are fit, or none is
    written.

    Raises:
        Unsafe: it is no archive, or holds something else than plain files of this conversation.
        OSError: a file cannot be written.
    """
    if archive.stat().st_size > limit:
        raise Unsafe(f"it is over the bound of {limit:,} bytes")
    try:
        with tarfile.open(archive, "r:") as tar:
            members = list(_checked(tar, patterns, limit))
            for member in members:
                _check_way(state, member.name)
            for member in members:
                source = tar.extractfile(member)
                assert source is not None
                _write(state, member, source.read())
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Unsafe(f"it is no archive that can be read: {error}") from None
    return len(members)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path is one of a conversation's files."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        return False
    return any(_fits(parts, pattern.split("/")) for pattern in patterns)


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if pattern[-1] == _ALL_BELOW:
        above = pattern[:-1]
        return len(parts) > len(above) and _fits(parts[: len(above)], above)
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _matching(directory: Path, pattern: str) -> Iterator[Path]:
    first, _, rest = pattern.partition("/")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(directory):
            if first == _ALL_BELOW:
                if entry.is_dir(follow_symlinks=False):
                    yield from _matching(Path(entry.path), _ALL_BELOW)
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
            elif not fnmatchcase(entry.name, first):
                continue
            elif rest and entry.is_dir(follow_symlinks=False):
                yield from _matching(Path(entry.path), rest)
            elif not rest and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _read(path: Path, most: int) -> tuple[bytes, int]:
    """What is in a file, and when it was changed; the agent may have put a link there meanwhile."""
    with open(path, "rb", opener=_not_through_links) as file:
        return file.read(most + 1), int(os.fstat(file.fileno()).st_mtime)


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _add(tar: tarfile.TarFile, name: str, data: bytes, mtime: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), mtime, 0o600
    tar.addfile(member, io.BytesIO(data))


def _checked(
    tar: tarfile.TarFile, patterns: Sequence[str], limit: int
) -> Iterator[tarfile.TarInfo]:
    total, names = 0, set[str]()
    for member in tar:
        if not member.isreg() or member.issparse():
            raise Unsafe(f"{member.name[:200]!r} is no plain file")
        if not matches(member.name, patterns) or member.name in names:
            raise Unsafe(f"{member.name[:200]!r} is no file of this conversation")
        names.add(member.name)
        total += member.size
        if total > limit or len(names) > FILES:
            raise Unsafe(f"it holds more than {limit:,} bytes, or {FILES} files")
        yield member


def _check_way(state: Path, name: str) -> None:
    """See that no link leads out of the state directory."""
    way = state
    for part in name.split("/"):
        if way.is_symlink():
            raise Unsafe(f"{way.name!r} is a link here")
        way /= part
    if way.is_dir():
        raise Unsafe(f"{name[:200]!r} is a directory here")


def _write(state: Path, member: tarfile.TarInfo, data: bytes) -> None:
    file = state / member.name
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{file.name[:100]}.part")
    part.unlink(missing_ok=True)
    part.write_bytes(data)
    part.chmod(0o600)
    os.utime(part, (member.mtime, member.mtime))
    part.replace(file)
