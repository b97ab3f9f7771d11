"""`--repo`: a repository goes to a worker, and what came of it returns."""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.asks import PIECE_BYTES
from contracts.bus import Artifacts, Bus
from contracts.errors import Damaged, NotThere, Refused, TooLarge
from contracts.laying import LayOut, LayPiece
from contracts.repository import GitState, RepositorySource, Work
from contracts.task import TaskRecord
from contracts.topology import HANDED_OVER
from services.cli.failures import Usage, sentence
from services.cli.git import Git, GitFailed
from services.cli.landing import apply, land
from services.cli.link import call
from services.cli.packing import Packed, Tell, Wanted, address_of, directory_of, packed
from services.cli.screen import Screen

LIMIT_MB = 256
"""MiB of a bundle when `--repo-limit` does not say."""
NOTICEABLE = 1.0
"""Seconds after which it is told how far something has come."""
KEEP_WITHIN = 60.0
"""Seconds for the crew to check all that was sent."""


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What became of the work of a task in the user's repository."""

    branch: str | None = None
    applied: bool | None = None
    """None when that was not asked for."""
    problem: str | None = None
    """Why it did not land, or was not merged."""


def wanted(options: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> Wanted | None:
    """What the options of `--repo` ask for; None without it.

    Raises:
        Usage: they contradict each other.
    """
    where = options.get("repo")
    if where is None:
        for name in ("dirty", "depth", "repo_limit", "apply"):
            if options.get(name):
                raise Usage(f"--{name.replace('_', '-')} goes with --repo")
        return None
    if options.get("apply"):
        if options["dirty"]:
            raise Usage(
                "--apply merges into a clean work tree only: leave out --dirty, or commit first"
            )
        if address_of(where) is not None:
            raise Usage(
                "--apply merges into a repository on this machine, and --repo is an address"
            )
    limit = options.get("repo_limit") or LIMIT_MB
    return Wanted(
        where=where, dirty=options["dirty"], depth=options["depth"], limit=limit << 20,
        secrets=secrets or {},
    )  # fmt: skip


@contextlib.asynccontextmanager
async def taken_along(
    asked: Wanted | None, variables: Mapping[str, str], screen: Screen
) -> AsyncIterator[Packed | None]:
    """The repository that was asked for, packed; what stays behind is told.

    Raises:
        Usage, GitFailed: as for `packed`.
    """
    if asked is None:
        yield None
        return
    async with packed(asked, variables, screen.doing) as found:
        screen.idle()
        for note in found.notes:
            screen.phase(f"repository: {note}")
        yield found


async def lay_out(bus: Bus, worker: str, found: Packed, screen: Screen) -> RepositorySource:
    """Send a bundle to where the worker will find it.

    Raises:
        InvalidMessage, Refused, CrewFailed: it was not taken.
    """
    digest = _digest(found.bundle)
    source = found.source(f"repository-{digest[:16]}")
    told: dict[str, Any] = {"worker": worker, "name": source.bundle, "sha256": digest}
    tell = paced(screen.doing, "sending the repository", found.size_bytes)
    sent = 0
    with found.bundle.open("rb") as file:
        for n, piece in enumerate(iter(lambda: file.read(PIECE_BYTES), b"")):
            await call(bus, "artifact", "put", LayPiece(n=n, data=piece, **told))
            sent += len(piece)
            tell(sent)
    screen.doing("the crew checks the repository")
    await call(
        bus, "artifact", "keep", LayOut(size_bytes=found.size_bytes, **told), wait=KEEP_WITHIN
    )
    screen.idle()
    return source


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def paced(tell: Tell, what: str, whole: int) -> Any:
    """Tells how far something has come, once it takes noticeably long."""
    began = time.monotonic()

    def progress(size: int) -> None:
        if time.monotonic() - began > NOTICEABLE:
            tell(f"{what}: {size / 1e6:,.1f} of {whole / 1e6:,.1f} MB")

    return progress


def repository_at(where: str, variables: Mapping[str, str]) -> Git:
    """git in the repository that work is to land in.

    Raises:
        Usage: it is an address, or no directory.
    """
    if address_of(where) is not None:
        raise Usage(
            "--repo is where the work is to land: a repository on this machine, not an address"
        )
    return Git(directory_of(where), variables)


async def fetched(bus: Bus, name: str, to: Path, kind: str, screen: Screen) -> None:
    """An object of a worker's, in a file.

    Raises:
        NotThere, Damaged, TooLarge: it is gone, or larger than what a worker may hand over.
    """
    artifacts = Artifacts(bus)
    info = await artifacts.info(name)
    if info is None:
        raise NotThere(f"{name} is no longer kept")
    if info.size_bytes > HANDED_OVER[kind]:
        raise TooLarge(info.size_bytes, HANDED_OVER[kind], name)
    await artifacts.save(
        name, to, progress=paced(screen.doing, f"fetching the {kind}", info.size_bytes)
    )
    screen.idle()


async def bring_home(bus: Bus, git: Git, task: TaskRecord, work: Work, screen: Screen) -> str:
    """Fetch the work of a task into its branch; the branch.

    Raises:
        NotThere, Refused, Damaged, TooLarge, GitFailed: it cannot be had, or does not land.
    """
    if work.bundle is None:
        raise NotThere(f"task {task.id} has no work to fetch: {work.lost or 'nothing changed'}")
    with tempfile.TemporaryDirectory(prefix="jetcrew-fetch-") as scratch:
        bundle = Path(scratch) / "work.bundle"
        await fetched(bus, work.bundle, bundle, "bundle", screen)
        screen.doing("checking what came back")
        branch = await land(git, bundle, work, task.id)
    screen.idle()
    return branch


async def returned(
    bus: Bus, found: Packed, task: TaskRecord | None, variables: Mapping[str, str], screen: Screen,
    *, merge: bool,
) -> Returned:  # fmt: skip
    """Bring the work of a task home after its end, and tell of it. What goes wrong here is told, too: the
    task is over, and its work is kept."""
    work = task.end.work if task is not None and task.end is not None else None
    if task is None or work is None:
        return Returned()
    if work.lost:
        screen.phase(f"work: {work.lost}")
    if work.bundle is None:
        if not work.lost:
            screen.phase("work: nothing changed")
        return Returned(problem=work.lost or None)
    if found.repository is None:
        screen.phase(f"work: {summary(work)}")
        screen.phase(
            f"into a clone: jetcrew task fetch {task.id} --repo CLONE · see it: jetcrew task diff {task.id}"
        )
        return Returned()
    git = Git(found.repository, variables)
    try:
        branch = await bring_home(bus, git, task, work, screen)
    except (NotThere, Refused, Damaged, TooLarge, GitFailed) as error:
        screen.phase(
            f"the work did not land: {sentence(error)}; later: jetcrew task fetch {task.id}"
        )
        return Returned(problem=sentence(error))
    screen.phase(f"work: {summary(work)} → branch {branch}")
    if not merge:
        screen.phase(f"see it: git diff HEAD...{branch} · take it: git merge {branch}")
        return Returned(branch=branch)
    return await merged(git, branch, screen)


async def merged(git: Git, branch: str, screen: Screen) -> Returned:
    """Merge a branch that has landed, and tell of it."""
    try:
        screen.phase(await apply(git, branch))
    except (Refused, GitFailed) as error:
        screen.phase(sentence(error))
        return Returned(branch=branch, applied=False, problem=sentence(error))
    return Returned(branch=branch, applied=True)


def git_line(state: GitState) -> str:
    """`main at 8c1f0a9be2d3, with uncommitted changes, pushed`."""
    where = f"{state.branch or 'no branch'} at {(state.head or 'no commit')[:12]}"
    pushed = {None: "", True: ", pushed", False: ", not pushed"}[state.pushed]
    return where + (", with uncommitted changes" if state.dirty else "") + pushed


def summary(work: Work) -> str:
    """`2 commits and uncommitted changes, 3 files (+40 -7)`."""
    parts = [f"{work.commits} commit" + ("" if work.commits == 1 else "s")] if work.commits else []
    parts += ["uncommitted changes"] if work.uncommitted else []
    files = f"{work.files} file" + ("" if work.files == 1 else "s")
    return (
        f"{' and '.join(parts) or 'earlier work'}, {files} (+{work.insertions} -{work.deletions})"
    )
