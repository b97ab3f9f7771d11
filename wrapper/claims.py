"""What an agent says it committed and pushed, held against git and the remote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from msgspec import structs

from contracts.events import Verdict
from contracts.repository import GitState
from wrapper.git import Git

PATIENCE = 20.0
"""Seconds for one question to git, the remote's answer included."""
GLANCE = 5.0
"""Seconds for the remote when nobody claimed anything: a task's end does not wait for long."""
_HASH = re.compile(r"^[0-9a-f]{7,64}$")
_REPOSITORIES = 20  # looked into, when the workspace is not one itself


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Asks git in the workspace, with the agent's own environment and thus its credentials."""

    git: Git
    began_at: str | None = None
    """What was checked out when the agent started."""

    async def state(self, *, remote: bool) -> GitState | None:
        """What git says of the workspace, or of the one repository in it; None when there is none, or several.
        `remote`: whether the remote is asked, too."""
        repositories = list(self._repositories())
        if len(repositories) != 1:
            return None
        git = repositories[0]
        status = await git.line("status", "--porcelain=v2", "--branch", "--untracked-files=normal")
        if status is None:
            return None
        lines = status.splitlines()
        told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
        head, branch = told.get("branch.oid", ""), told.get("branch.head", "")
        state = GitState(
            head=head if _HASH.fullmatch(head) else None,
            branch=None if branch in {"", "(detached)"} else branch,
            dirty=any(not line.startswith("#") for line in lines),
        )
        if remote and state.head and state.branch:
            at_remote = await self._remote_head(git, state.branch, GLANCE)
            pushed = None if at_remote is None else at_remote == state.head
            return structs.replace(state, pushed=pushed)
        return state

    async def doubts(self, verdict: Verdict, state: GitState | None) -> str:
        """A sentence on what git does not bear out; empty when nothing is claimed or all of it holds."""
        data = verdict.data
        commit, branch, pushed = data.get("commit"), data.get("branch"), data.get("pushed")
        if commit and not await self._has_commit(commit, state):
            said = "something" if commit is True else str(commit)[:64]
            return f"It says that it committed {said}, which no repository here has."
        if branch and not await self._has_branch(branch, commit):
            return f"It says that its work is on branch {str(branch)[:100]}, which git does not bear out."
        if pushed and not await self._is_pushed(pushed, commit, state):
            said = "" if pushed is True else f" {str(pushed)[:100]}"
            return f"It says that it pushed{said}, which the remote does not bear out."
        if data.get("dirty") is False and state is not None and state.dirty:
            return "It says that nothing is left uncommitted, which git does not bear out."
        return ""

    async def _has_commit(self, commit: object, state: GitState | None) -> bool:
        if commit is True:
            return state is not None and state.head not in {None, self.began_at}
        if not isinstance(commit, str) or not _HASH.fullmatch(commit):
            return False
        for git in self._repositories():
            if await _succeeds(git, "cat-file", "-e", f"{commit}^{{commit}}"):
                return True
        return False

    async def _has_branch(self, branch: object, commit: object) -> bool:
        if not isinstance(branch, str) or branch.startswith("-"):
            return False
        for git in self._repositories():
            ref = f"refs/heads/{branch}"
            if not await _succeeds(git, "rev-parse", "-q", "--verify", ref):
                continue
            if not isinstance(commit, str) or await _succeeds(
                git, "merge-base", "--is-ancestor", commit, ref
            ):
                return True
        return False

    async def _is_pushed(self, branch: object, commit: object, state: GitState | None) -> bool:
        if branch is True and state is not None:
            branch, commit = state.branch, state.head
        if not isinstance(branch, str) or branch.startswith("-"):
            return False
        for git in self._repositories():
            there = await self._remote_head(git, branch, PATIENCE)
            if there and (not isinstance(commit, str) or there.startswith(commit)):
                return True
        return False

    async def _remote_head(self, git: Git, branch: str, within: float) -> str | None:
        """The commit of a branch at the remote; empty when there is no such branch, None when nobody says."""
        if await git.line("remote", "get-url", "origin") is None:
            return None
        listed = await git.within(within).answer("ls-remote", "origin", f"refs/heads/{branch}")
        return None if listed is None else listed.partition("\t")[0]

    def _repositories(self) -> Iterator[Git]:
        workspace = self.git.directory
        if (workspace / ".git").exists():
            yield self.git
            return
        below = (path.parent for path in sorted(workspace.glob("*/.git")))
        for path, _ in zip(below, range(_REPOSITORIES), strict=False):
            yield replace(self.git, directory=path)


async def _succeeds(git: Git, *arguments: str) -> bool:
    return await git.answer(*arguments) is not None
