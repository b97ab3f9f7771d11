"""What an agent says it committed and pushed, held against git and the remote."""

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.events import Verdict
from wrapper.family import Family
from wrapper.process import NotStarted, StreamName, started

PATIENCE = 20.0
"""Seconds for one question to git."""
_HASH = re.compile(r"^[0-9a-f]{7,64}$")
_REPOSITORIES = 20  # looked into, when the workspace is not one itself
_OUTPUT = 65_536  # bytes of git's answer


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Asks git in the workspace, with the agent's own environment and thus its credentials."""

    workspace: Path
    env: Mapping[str, str]
    family: Family
    run: str

    async def doubts(self, verdict: Verdict) -> str:
        """A sentence on what git does not bear out; empty when nothing is claimed or all of it holds."""
        commit, branch = verdict.data.get("commit"), verdict.data.get("pushed")
        if commit and not await self._has_commit(commit):
            return f"It says that it committed {str(commit)[:64]}, which no repository here has."
        if branch and branch is not True and not await self._is_pushed(branch, commit):
            return (
                f"It says that it pushed {str(branch)[:100]}, which the remote does not bear out."
            )
        return ""

    async def _has_commit(self, commit: object) -> bool:
        if not isinstance(commit, str) or not _HASH.fullmatch(commit):
            return False
        for repository in self._repositories():
            if await self._git(repository, "cat-file", "-e", f"{commit}^{{commit}}") is not None:
                return True
        return False

    async def _is_pushed(self, branch: object, commit: object) -> bool:
        if not isinstance(branch, str) or branch.startswith("-"):
            return False
        for repository in self._repositories():
            listed = await self._git(
                repository, "ls-remote", "--exit-code", "origin", f"refs/heads/{branch}"
            )
            if listed is not None and (not isinstance(commit, str) or listed.startswith(commit)):
                return True
        return False

    def _repositories(self) -> Iterator[Path]:
        if (self.workspace / ".git").exists():
            yield self.workspace
            return
        below = (path.parent for path in sorted(self.workspace.glob("*/.git")))
        for path, _ in zip(below, range(_REPOSITORIES), strict=False):
            yield path

    async def _git(self, repository: Path, *arguments: str) -> str | None:
        """What git prints; None when it fails."""
        out = bytearray()

        def take(stream: StreamName, data: bytes) -> None:
            if stream == "stdout" and len(out) < _OUTPUT:
                out.extend(data)

        argv = ["git", "-C", str(repository), *arguments]
        env = {**self.env, "GIT_TERMINAL_PROMPT": "0"}
        with contextlib.suppress(TimeoutError, NotStarted):
            async with (
                asyncio.timeout(PATIENCE),
                started(argv, env=env, cwd=repository, family=self.family, run=self.run) as git,
            ):
                await git.follow(take)
                await git.exited.wait()
                return out.decode(errors="replace") if git.exit_code == 0 else None
        return None
