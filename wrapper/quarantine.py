"""Configuration of agents that came with a repository: set aside while the agent runs, put back afterwards.

Such files can make an agent run commands, start servers or send its key to another address, and whoever
writes the repository writes them. To git they are not gone: those it tracks are marked as not to be looked at.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from contracts.agent import COMMON_CONFIG
from contracts.codec import decode, encode
from contracts.errors import InvalidMessage
from wrapper.boot import Place
from wrapper.git import Git

_NOT_LOOKED_INTO = {".git", "node_modules"}
"""No agent looks for configuration there; of packages that were installed there can be very many."""


class _Aside(Struct, frozen=True, kw_only=True):
    """What was set aside; kept beside it, so that whoever comes later can put it back."""

    tracked: dict[str, str]
    """Files that git tracks, with the object each had in the index."""


class Quarantine:
    """Keeps one workspace free of configuration that the worker's owner has not vouched for."""

    def __init__(self, place: Place, git: Git) -> None:
        self._place = place
        self._git = git
        self._workspace = place.workspace

    @property
    def _kept(self) -> Path:
        return self._place.own_folder() / "aside"

    @property
    def _record(self) -> Path:
        return self._place.own_folder() / "aside.json"

    @property
    def _is_repository(self) -> bool:
        return (self._workspace / ".git").exists()

    async def set_aside(self) -> list[str]:
        """Move away what configures agents; the paths, relative to the workspace.

        Raises:
            OSError: something cannot be moved: the agent must not start then.
            GitFailed: git cannot be told.
        """
        found = await asyncio.to_thread(lambda: sorted(self._found()))
        if not found:
            return []
        tracked = await self._indexed(found) if self._is_repository else {}
        self._record.write_bytes(encode(_Aside(tracked=tracked)))
        if tracked:
            await self._mark("--skip-worktree", tracked)
        await asyncio.to_thread(self._move_away, found)
        return found

    async def put_back(self) -> None:
        """Undo it: what the agent has made at the same place meanwhile stays, and what it has committed or
        checked out differently comes from git.

        Raises:
            OSError, GitFailed: it cannot be done; what is set aside stays there.
        """
        if not self._kept.exists() and not self._record.exists():
            return
        try:
            before = decode(self._record.read_bytes(), _Aside).tracked
        except (OSError, InvalidMessage):
            before = {}
        now: dict[str, str] = {}
        if before and self._is_repository:
            now = await self._indexed(list(before))
            await self._mark("--no-skip-worktree", now)
        changed = {path for path, blob in now.items() if before.get(path) != blob}
        dropped = set(before) - set(now) | changed
        await asyncio.to_thread(self._move_back, dropped)
        if changed:
            await self._git("checkout-index", "-q", "-u", "-z", "--stdin", stdin=_zero(changed))
        self._record.unlink(missing_ok=True)

    # -- looking ----------------------------------------------------------------------------------

    def _found(self) -> Iterator[str]:
        """All of it, the topmost of what lies in each other. Repositories inside are somebody else's."""
        names = {*COMMON_CONFIG, *self._place.agent.repository_config}
        ours = self._ours()
        for root, folders, files in os.walk(self._workspace):
            here = Path(root)
            if here != self._workspace and (".git" in folders or ".git" in files):
                folders.clear()
                continue
            for name in (*folders, *files):
                path = here / name
                if name in names and path not in ours:
                    yield str(path.relative_to(self._workspace))
            folders[:] = [name for name in folders if name not in names | _NOT_LOOKED_INTO]

    def _ours(self) -> set[Path]:
        values = self._place.values()
        return {self._workspace / values.fill(name) for name in self._place.agent.config_files}

    async def _indexed(self, paths: list[str]) -> dict[str, str]:
        """The files that git tracks at these paths or below, with their objects."""
        listed = await self._git("--literal-pathspecs", "ls-files", "-s", "-z", "--", *paths)
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: facts.split()[1] for facts, _, path in entries if facts.endswith(" 0")}

    async def _mark(self, how: str, paths: dict[str, str]) -> None:
        if paths:
            await self._git("update-index", "-z", how, "--stdin", stdin=_zero(paths))

    # -- moving -----------------------------------------------------------------------------------

    def _move_away(self, paths: list[str]) -> None:
        for path in paths:
            to = self._kept / path
            if to.is_dir() and not to.is_symlink():
                shutil.rmtree(to)  # left by a run that was killed, and newer in the workspace
            to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(self._workspace / path, to)

    def _move_back(self, dropped: set[str]) -> None:
        for root, folders, files in os.walk(self._kept):
            links = [name for name in folders if Path(root, name).is_symlink()]
            for name in (*files, *links):
                kept = Path(root, name)
                path = kept.relative_to(self._kept)
                to = self._workspace / path
                if str(path) in dropped or os.path.lexists(to) or self._leads_away(to):
                    continue
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(kept, to)
        shutil.rmtree(self._kept, ignore_errors=True)

    def _leads_away(self, to: Path) -> bool:
        """Whether a folder on the way is by now a link or a file."""
        between = [
            p for p in to.parents if p != self._workspace and p.is_relative_to(self._workspace)
        ]
        return any(os.path.lexists(p) and (p.is_symlink() or not p.is_dir()) for p in between)


def _zero(paths: "dict[str, str] | set[str]") -> bytes:
    return b"".join(path.encode(errors="surrogateescape") + b"\0" for path in sorted(paths))
