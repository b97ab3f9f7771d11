"""A repository on its way to a worker: its committed state, and on request the rest, as a git bundle.

Everything is done in a repository of its own that borrows the objects of the user's. That one is read and
nothing else: not its index, not its HEAD, not its work tree, not even its objects are written.
"""

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from contracts.codec import convert
from contracts.errors import InvalidMessage
from contracts.repository import BranchName, Origin, RepositorySource
from services.cli.failures import Usage
from services.cli.git import Git, GitFailed, borrowing

DEEP = 64 << 20
"""Bytes of objects up to which a repository takes its whole history along."""
RUNAWAY = 2
"""Times the bound at which a bundle is given up before it is whole."""
REF = "refs/heads/repository"
SHORTEST_SECRET = 6
"""Characters of a value that is looked for; shorter ones stand in ordinary words."""
SNAPSHOT = "Not committed when the task was given"

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SCP = re.compile(r"(?:[^/@:\s]+@)?([^/@:\s]+):(?!//)(\S+)")

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of which repository is to go along."""

    where: str
    """A path, or an address that git can clone."""
    dirty: bool = False
    depth: int | None = None
    """Commits of history; None: all of it, unless that is much."""
    limit: int
    """Bytes that the bundle may have."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets that the worker gets, by name: what is not committed must not hold their values."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A bundle and what is in it."""

    bundle: Path
    size_bytes: int
    commit: str
    snapshot: str | None
    branch: str | None
    shallow: tuple[str, ...]
    origin: str | None
    repository: Path | None
    """Where the work can land; None when it came from an address."""
    notes: tuple[str, ...]
    """What the user should know did not go along."""

    def source(self, name: str) -> RepositorySource:
        """The same as a message, for a bundle that is laid out under this name."""
        return RepositorySource(
            bundle=name, bundle_bytes=self.size_bytes, commit=self.commit, snapshot=self.snapshot,
            branch=self.branch, shallow=list(self.shallow), origin=self.origin,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def packed(wanted: Wanted, variables: Mapping[str, str], tell: Tell) -> AsyncIterator[Packed]:
    """The repository as a bundle, which is gone after the block.

    Raises:
        Usage: there is no such repository, or it cannot go along as it is.
        GitFailed: git could not read it.
    """
    with tempfile.TemporaryDirectory(prefix="jetcrew-repository-") as scratch:
        yield await _pack(wanted, Path(scratch), variables, tell)


async def _pack(wanted: Wanted, scratch: Path, variables: Mapping[str, str], tell: Tell) -> Packed:
    address = address_of(wanted.where)
    if address is None:
        found = await _Local.find(wanted.where, variables)
    else:
        if wanted.dirty:
            raise Usage(
                "--dirty takes a repository on this machine; an address has nothing uncommitted"
            )
        tell(f"cloning {public(address) or address}")
        found = await _cloned(address, scratch / "clone", wanted, variables)
    return await _Packing(wanted, found, scratch, tell).run()


def address_of(where: str) -> str | None:
    """The address that `--repo` names; None when it is a path."""
    if _URL.match(where):
        return where
    if not Path(where).expanduser().exists() and _SCP.fullmatch(where):
        return where
    return None


def public(address: str) -> str | None:
    """An address without what lets one in, and by https where it was by ssh: a worker has no ssh key."""
    if scp := None if _URL.match(address) else _SCP.fullmatch(address):
        address = f"https://{scp[1]}/{scp[2].removeprefix('/')}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in {"http", "https", "ssh", "git"}:
        return None
    host = f"[{host}]" if ":" in host else host
    if parts.scheme == "ssh":
        bare = urlunsplit(("https", host, parts.path, "", ""))
    else:
        bare = urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, "", ""))
    return bare if _fits(bare, Origin) else None


def directory_of(where: str) -> Path:
    """The directory that `--repo` names.

    Raises:
        Usage: there is none.
    """
    path = Path(where).expanduser()
    if not path.is_dir():
        raise Usage(f"--repo {where}: there is no such directory")
    return path.absolute()


def _fits(text: str, kind: object) -> bool:
    try:
        convert(text, kind)  # type: ignore[arg-type]  # an annotated type is one to msgspec
    except InvalidMessage:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Local:
    """A repository on this machine."""

    git: Git
    top: Path | None
    """None when it is bare."""
    origin: str | None
    borrowed: bool = False
    """Whether it is a clone that was made for this."""

    @classmethod
    async def find(cls, where: str, variables: Mapping[str, str]) -> "_Local":
        path = directory_of(where)
        git = Git(path, variables)
        try:
            bare = await git("rev-parse", "--is-bare-repository") == "true"
            top = None if bare else Path(await git("rev-parse", "--show-toplevel"))
        except GitFailed as error:
            if "not a git repository" in str(error):
                raise Usage(
                    f"--repo {where}: not a git repository; make it one with git init, and commit"
                ) from None
            raise
        remote = await git.line("remote", "get-url", "origin")
        return cls(git=git.at(top or path), top=top, origin=public(remote) if remote else None)


async def _cloned(address: str, to: Path, wanted: Wanted, variables: Mapping[str, str]) -> _Local:
    """With the caller's own keys, which go no further."""
    git = Git(to.parent, variables)
    depth = ("--depth", str(wanted.depth)) if wanted.depth else ()
    try:
        await git(
            "clone", "-q", "--bare", "--template=", "--no-tags", "--single-branch", *depth,
            "--", address, str(to),
        )  # fmt: skip
    except GitFailed as error:
        shown = public(address) or "that address"
        raise GitFailed(str(error).replace(address, shown)) from None
    return _Local(git=git.at(to), top=None, origin=public(address), borrowed=True)


@dataclass(frozen=True)
class _Packing:
    wanted: Wanted
    found: _Local
    scratch: Path
    tell: Tell

    @property
    def _store(self) -> Path:
        return self.scratch / "store"

    async def run(self) -> Packed:
        git, wanted = self.found.git, self.wanted
        commit = await git.line("rev-parse", "-q", "--verify", "HEAD^{commit}")
        if commit is None:
            raise Usage(f"--repo {wanted.where}: it has no commit yet; commit something first")
        branch = await git.line("symbolic-ref", "-q", "--short", "HEAD")
        store = await borrowing(git, self._store)
        snapshot = await self._snapshot(commit) if wanted.dirty else None
        if snapshot is not None:
            await self._check_for_secrets(store, snapshot)
        tip = snapshot or commit
        await store("update-ref", REF, tip)
        depth = await self._depth()
        if depth is not None:
            store = await self._shallow(store, depth + (snapshot is not None))
        bundle = self.scratch / "repository.bundle"
        size = await self._bundle(store, bundle)
        return Packed(
            bundle=bundle,
            size_bytes=size,
            commit=commit,
            snapshot=snapshot,
            branch=branch if branch is not None and _fits(branch, BranchName) else None,
            shallow=await self._boundary(store, tip),
            origin=self.found.origin,
            repository=None if self.found.borrowed else self.found.git.directory,
            notes=tuple([note async for note in self._notes(commit)]),
        )

    async def _snapshot(self, commit: str) -> str | None:
        """A commit on top of `commit` that holds the work tree, ignored files left out; None when it holds
        nothing else than the commit does."""
        git = self.found.git
        if self.found.top is None:
            raise Usage(f"--repo {self.wanted.where}: a bare repository has nothing uncommitted")
        if unmerged := await git("diff", "--name-only", "--diff-filter=U"):
            first = unmerged.splitlines()[0]
            raise Usage(
                f"--dirty: a merge is under way, with conflicts in {first}; finish it first"
            )
        index = self.scratch / "index"
        own = git.directory / await git("rev-parse", "--git-path", "index")
        if own.exists():
            shutil.copyfile(own, index)
        env = {
            "GIT_INDEX_FILE": str(index), "GIT_OBJECT_DIRECTORY": str(self._store / "objects"),
            **{f"GIT_{who}_NAME": "jetcrew" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "jetcrew@jetcrew.invalid" for who in ("AUTHOR", "COMMITTER")},
        }  # fmt: skip
        self.tell("reading what is not committed")
        await git("add", "-A", env=env)
        tree = await git("write-tree", env=env)
        if tree == await git("rev-parse", f"{commit}^{{tree}}"):
            return None
        return await git("commit-tree", tree, "-p", commit, "-m", SNAPSHOT, env=env)

    async def _check_for_secrets(self, store: Git, snapshot: str) -> None:
        """Secrets reach a worker by a way of their own, and nothing keeps them on it; a bundle is kept."""
        for name, value in self.wanted.secrets.items():
            line = max(value.splitlines(), key=len, default="").strip()
            if len(line) < SHORTEST_SECRET:
                continue
            sought = self.scratch / "sought"
            sought.touch(mode=0o600)
            sought.write_text(line)
            found = await store("grep", "-l", "-F", "-f", str(sought), snapshot, ok=(0, 1))
            sought.unlink()
            if found:
                file = found.splitlines()[0].partition(":")[2]
                raise Usage(f"--dirty: {file} holds the value of secret {name}; have git ignore it")

    async def _depth(self) -> int | None:
        """How much history goes along: what was asked for, else all that is not much."""
        if self.wanted.depth is not None:
            return self.wanted.depth
        git = self.found.git
        if await git.line("config", "--get-regexp", r"^remote\..*\.promisor$") is not None:
            return 1  # of older commits there are no files here
        counted = dict(
            line.split(": ", 1)
            for line in (await git("count-objects", "-v")).splitlines()
            if ": " in line
        )
        kib = int(counted.get("size", 0)) + int(counted.get("size-pack", 0))
        return None if kib << 10 <= DEEP else 1

    async def _shallow(self, store: Git, depth: int) -> Git:
        """A store with the newest commits only."""
        cut = self.scratch / "cut"
        form = await store("rev-parse", "--show-object-format")
        await store("init", "-q", "--bare", "--template=", f"--object-format={form}", str(cut))
        self.tell("leaving older history behind")
        git = store.at(cut)
        await git(
            "fetch", "-q", "--no-tags", "--depth", str(depth), str(self._store), f"{REF}:{REF}"
        )
        return git

    async def _boundary(self, store: Git, tip: str) -> tuple[str, ...]:
        """The commits whose parents did not go along."""
        file = store.directory / "shallow"
        if not file.exists():
            return ()
        cut = set((await asyncio.to_thread(file.read_text)).split())
        roots = await store("rev-list", "--max-parents=0", tip)
        return tuple(root for root in roots.split() if root in cut)

    async def _bundle(self, store: Git, bundle: Path) -> int:
        limit = self.wanted.limit

        def meanwhile() -> None:
            size = _size(bundle)
            self.tell(f"packing the repository: {size / 1e6:,.1f} MB")
            if size > RUNAWAY * limit:
                raise self._too_large(f"more than {size:,}")

        await store("bundle", "create", "-q", str(bundle), REF, meanwhile=meanwhile)
        size = _size(bundle)
        if size > limit:
            raise self._too_large(f"{size:,}")
        return size

    def _too_large(self, size: str) -> Usage:
        hint = "" if self.wanted.depth == 1 else "; --depth 1 leaves its history behind"
        return Usage(
            f"--repo {self.wanted.where}: its bundle has {size} bytes, and {self.wanted.limit:,} is the "
            f"bound (--repo-limit){hint}"
        )

    async def _notes(self, commit: str) -> AsyncIterator[str]:
        git = self.found.git
        if await git.succeeds("cat-file", "-e", f"{commit}:.gitmodules"):
            yield "submodules stay behind: their folders are empty in the worker"
        if self.found.top is None:
            return
        in_lfs = await git.line("ls-files", "--", ":(top,attr:filter=lfs)")
        if in_lfs is not None:
            yield f"{_files(len(in_lfs.splitlines()))} in Git LFS: the worker sees the pointers only"
        if not self.wanted.dirty:
            changed = await git("status", "--porcelain", "--untracked-files=normal")
            if count := len(changed.splitlines()):
                yield f"{_files(count)} not committed: left behind (--dirty takes them along)"


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _size(file: Path) -> int:
    """Of the finished file, or of git's own `.lock` of it."""
    for path in (file, file.with_name(f"{file.name}.lock")):
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return 0
