"""Laying a repository into the workspace: what the sender had, committed or not, and its history."""

import asyncio
import contextlib
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from contracts.codec import decode, encode
from contracts.errors import Damaged, InvalidMessage, JetcrewError, NotThere, Refused
from contracts.repository import DEFAULT_BRANCH, CommitHash, RepositorySource
from wrapper.boot import Place, prepare
from wrapper.git import Git, GitFailed
from wrapper.tree import tree_of

SOURCE = "refs/jetcrew/source"
WORK = "refs/jetcrew/work"
"""The tip of what was handed over last."""


class NotLaid(JetcrewError):
    """The repository could not be laid into the workspace; says why."""


class Fetching(Protocol):
    """Where bundles come from."""

    async def fetch(self, name: str, file: Path, *, limit: int) -> None:
        """Write what was laid out as `name` into a file."""


class Laid(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the workspace was given last; kept in the worker's home."""

    bundle: str
    base: CommitHash
    begun: CommitHash
    """The commit whose files the agent began with."""


def _file(place: Place) -> Path:
    return place.own_folder() / "repository.json"


def laid(place: Place) -> Laid | None:
    """What the workspace was given last; None when it was given nothing."""
    try:
        return decode(_file(place).read_bytes(), Laid)
    except (OSError, InvalidMessage):
        return None


class Checkout:
    """Lays repositories into one workspace."""

    def __init__(self, place: Place, git: Git, parcels: Fetching) -> None:
        self._place = place
        self._git = git
        self._parcels = parcels
        self._scratch = place.own_folder()

    async def lay(self, source: RepositorySource, why: str) -> Laid:
        """Check out what the bundle holds, unless that was done before; `why` names the ref under which an
        earlier head stays.

        Raises:
            NotLaid: the workspace holds something that would be lost, or the bundle cannot be had.
        """
        before = laid(self._place)
        if before is not None and before.bundle == source.bundle:
            return before
        bundle = self._scratch / "repository.bundle"
        try:
            await self._make_room(why)
            await self._parcels.fetch(
                source.bundle, bundle, limit=self._place.boot.repository_bytes
            )
            await self._check_out(source, bundle)
        except (NotThere, Refused, Damaged, GitFailed, OSError) as error:
            raise NotLaid(f"the repository could not be laid out: {error}") from None
        finally:
            with contextlib.suppress(OSError):
                bundle.unlink(missing_ok=True)
        now = Laid(bundle=source.bundle, base=source.commit, begun=source.snapshot or source.commit)
        _file(self._place).write_bytes(encode(now))
        return now

    async def _make_room(self, why: str) -> None:
        """See that nothing is lost by what comes."""
        git, workspace = self._git, self._place.workspace
        if not (workspace / ".git").exists():
            ours = self._ours()
            found = sorted(path.name for path in workspace.iterdir() if path not in ours)
            if found:
                raise NotLaid(
                    f"the workspace is no repository and is not empty: it holds {', '.join(found[:5])}"
                )
            await git("init", "-q", "--template=", "-b", DEFAULT_BRANCH)
            await git("config", "user.name", "jetcrew")
            await git("config", "user.email", f"{self._place.boot.worker}@jetcrew.invalid")
            return
        if await git("status", "--porcelain"):
            handed_over = await git.line("rev-parse", "-q", "--verify", f"{WORK}^{{tree}}")
            if handed_over is None or handed_over != await tree_of(git, self._scratch):
                raise NotLaid(
                    "the workspace has uncommitted changes that were not handed over: another "
                    "repository would overwrite them"
                )
        if await git.line("rev-parse", "-q", "--verify", "HEAD^{commit}") is not None:
            await git("update-ref", f"refs/jetcrew/before/{why}", "HEAD")
            await git("reset", "-q", "--hard")
        await git("clean", "-q", "-f", "-d")

    def _ours(self) -> set[Path]:
        """What `prepare` has written into the workspace, by the first part of its path."""
        values, agent, workspace = self._place.values(), self._place.agent, self._place.workspace
        names = [
            *agent.config_files,
            *([agent.instructions_file] if agent.instructions_file else []),
        ]
        ours = set()
        for name in names:
            path = workspace / values.fill(name)
            if path.is_relative_to(workspace):
                ours.add(workspace / path.relative_to(workspace).parts[0])
        return ours

    async def _check_out(self, source: RepositorySource, bundle: Path) -> None:
        git = self._git
        # Nothing else makes its history end where it ends; a boundary that is there already stays.
        if source.shallow:
            shallow = self._place.workspace / ".git" / "shallow"
            before = shallow.read_text().split() if shallow.exists() else []
            shallow.write_text("".join(f"{c}\n" for c in dict.fromkeys([*before, *source.shallow])))
        await git("fetch", "-q", "--no-tags", str(bundle), f"+refs/heads/repository:{SOURCE}")
        branch = source.branch or DEFAULT_BRANCH
        begun = source.snapshot or source.commit
        await git("checkout", "-q", "-f", "--no-track", "-B", branch, begun)
        if source.snapshot is not None:
            await git("reset", "-q", "--mixed", source.commit)
        if source.origin is not None:
            verb = "set-url" if await git.line("remote", "get-url", "origin") else "add"
            await git("remote", verb, "origin", source.origin)
        await asyncio.to_thread(prepare, self._place)
