"""What a run leaves in the repository it worked in: gathered as a bundle and a patch, and handed over."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from contracts.asks import Assignment
from contracts.errors import Refused, TooLarge
from contracts.redaction import Secrets
from contracts.repository import Work
from contracts.topology import HANDED_OVER
from wrapper.boot import Place
from wrapper.checkout import WORK
from wrapper.git import Git, GitFailed
from wrapper.tree import tree_of


class HandingOver(Protocol):
    """Where bundles and patches go."""

    async def hand_over(self, file: Path, name: str, *, task: str, attempt: int, run: str) -> str:
        """Hand over a file; the object's name."""


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """Gathers what one run left."""

    place: Place
    git: Git
    parcels: HandingOver
    work: Assignment
    run: str
    base: str
    """The commit that the receiver has."""
    begun: str
    """The commit or tree whose files the agent began with."""

    @property
    def _scratch(self) -> Path:
        return self.place.own_folder()

    async def gather(self) -> Work | None:
        """All of it, handed over as far as it may be; None when the workspace is no repository any more."""
        head = await self.git.line("rev-parse", "-q", "--verify", "HEAD^{commit}")
        if head is None:
            return None
        try:
            return await self._gathered(head)
        except (GitFailed, Refused, TooLarge, OSError) as error:
            return Work(base=self.base, tip=head, lost=f"it could not be kept: {error}")

    async def _gathered(self, head: str) -> Work:
        git = self.git
        tree = await tree_of(git, self._scratch)
        tip = head
        if tree != await git("rev-parse", f"{head}^{{tree}}"):
            left = f"Left uncommitted by task {self.work.task}"
            tip = await git("commit-tree", tree, "-p", head, "-m", left)
        await git("update-ref", WORK, tip)
        commits = await git("rev-list", "--count", f"{self.base}..{head}")
        work = Work(base=self.base, tip=tip, commits=int(commits), uncommitted=tip != head)
        work = replace(work, **await self._counted(tip))
        secret = tip != self.base and await self._holds_a_secret(tip)
        work = await self._with_patch(work)
        if tip == self.base:
            return work
        if secret:
            return replace(
                work,
                lost=_and(
                    work.lost, "the value of a secret is in it: the bundle stayed in the worker"
                ),
            )
        return await self._with_bundle(work)

    async def _counted(self, tip: str) -> dict[str, int]:
        """Files and lines, as git counts them."""
        said = await self.git("diff", "--no-ext-diff", "--shortstat", self.begun, tip)
        counts = {"files": 0, "insertions": 0, "deletions": 0}
        for part in said.split(","):
            number, _, what = part.strip().partition(" ")
            for name in counts:
                if what.startswith(name[:-1]):
                    counts[name] = int(number)
        return counts

    async def _with_patch(self, work: Work) -> Work:
        file = self._scratch / "work.patch"
        bound = min(HANDED_OVER["patch"], self.place.boot.repository_bytes)
        out = bytearray()

        def take(data: bytes) -> None:
            if len(out) <= bound:
                out.extend(data)

        await self.git.pour(
            take, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--full-index",
            self.begun, work.tip,
        )  # fmt: skip
        if not out:
            return work
        if len(out) > bound:
            return replace(
                work, lost=_and(work.lost, f"the patch is over the bound of {bound:,} bytes")
            )
        text = out.decode(errors="surrogateescape")
        file.write_bytes(self.place.secrets.redact(text).encode(errors="surrogateescape"))
        return replace(work, **await self._kept(file, "patch"))

    async def _with_bundle(self, work: Work) -> Work:
        file = self._scratch / "work.bundle"
        bound = min(HANDED_OVER["bundle"], self.place.boot.repository_bytes)
        await self.git("bundle", "create", "-q", str(file), WORK, f"^{self.base}")
        size = _size(file)
        if size > bound:
            _remove(file)
            lost = f"the bundle of {size:,} bytes is over the bound of {bound:,}"
            return replace(work, lost=_and(work.lost, lost))
        return replace(work, **await self._kept(file, "bundle"))

    async def _kept(self, file: Path, name: str) -> dict[str, object]:
        work = self.work
        size = _size(file)
        try:
            stored = await self.parcels.hand_over(
                file, name, task=work.task, attempt=work.attempt, run=self.run
            )
        except Refused as error:
            return {"lost": f"the {name} was not taken: {error}"}
        finally:
            _remove(file)
        return {name: stored, f"{name}_bytes": size}

    async def _holds_a_secret(self, tip: str) -> bool:
        """Whether one of the values that must not leave the worker is in what the bundle would hold."""
        if not self.place.secrets.spellings:
            return False
        listed = bytearray()
        await self.git.pour(
            listed.extend, "rev-list", "--objects", "--no-object-names", tip, f"^{self.base}"
        )
        search = _Search(self.place.secrets)
        await self.git.pour(search.feed, "cat-file", "--batch", stdin=bytes(listed))
        return search.found


class _Search:
    """Looks for secrets in bytes that come in pieces."""

    def __init__(self, secrets: Secrets) -> None:
        self._wanted = [spelling.encode() for spelling in secrets.spellings]
        self._overlap = max(map(len, self._wanted), default=1) - 1
        self._tail = b""
        self.found = False

    def feed(self, data: bytes) -> None:
        """The next piece."""
        data = self._tail + data
        self.found = self.found or _any_in(self._wanted, data)
        self._tail = data[-self._overlap :] if self._overlap else b""


def _any_in(wanted: Iterable[bytes], data: bytes) -> bool:
    return any(each in data for each in wanted)


def _size(file: Path) -> int:
    return file.stat().st_size


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _and(before: str, more: str) -> str:
    return f"{before}; {more}" if before else more
