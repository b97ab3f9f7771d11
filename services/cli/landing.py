"""Work on its way back: into a branch of the user's repository, and nowhere else.

The bundle comes from a worker and may hold anything. git unpacks and checks it in repositories of
its own first; from there it is fetched into the one branch `jetcrew/<task>`. No other ref is written, no
hook runs, nothing is checked out.
"""

import tempfile
from pathlib import Path

from contracts.errors import Damaged, Refused
from contracts.repository import Work
from services.cli.git import Git, GitFailed, borrowing

_WORK = "refs/jetcrew/work"
"""What workers call the tip in their bundles."""
_CAREFUL = (
    "-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false", "-c", "fetch.prune=false", "-c", "protocol.file.allow=always",
)  # fmt: skip
"""Every object is looked at, and kept as it was packed, so that little data cannot become much."""
_NOTHING_ELSE = ("-q", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")


def branch_of(task: str) -> str:
    """The branch in which the work of a task lands."""
    return f"jetcrew/{task}"


async def land(git: Git, bundle: Path, work: Work, task: str) -> str:
    """Bring the work of a task into its branch; the branch.

    Raises:
        Refused: the repository lacks the commit that the work builds on, or has other work in this branch.
        Damaged: the bundle does not hold what the task's end says.
        GitFailed: git refuses what is in it.
    """
    branch = branch_of(task)
    if not await git.succeeds("cat-file", "-e", f"{work.base}^{{commit}}"):
        raise Refused(
            f"this repository does not have commit {work.base[:12]}, on which the work of task {task} "
            "builds: name the one that was sent (--repo PATH)"
        )
    present = await git.line("rev-parse", "-q", "--verify", f"refs/heads/{branch}")
    if present == work.tip:
        return branch
    with tempfile.TemporaryDirectory(prefix="jetcrew-work-") as scratch:
        checked = await _checked(git, bundle, work, Path(scratch))
        if present is not None and not await checked.succeeds(
            "merge-base", "--is-ancestor", present, work.tip
        ):
            raise Refused(
                f"branch {branch} exists and holds something else: git branch -m it out of the way first"
            )
        await git(
            *_CAREFUL, "fetch", *_NOTHING_ELSE, str(checked.directory),
            f"{_WORK}:refs/heads/{branch}",
        )  # fmt: skip
    landed = await git.line("rev-parse", "-q", "--verify", f"refs/heads/{branch}")
    if landed != work.tip:
        raise Damaged(f"branch {branch} is {landed}, and not {work.tip}")
    return branch


async def _checked(git: Git, bundle: Path, work: Work, scratch: Path) -> Git:
    """A repository that holds the bundle's objects, each of them looked at, and borrows those of the user's.

    A bundle is unpacked without a look at what is in it, so it is fetched once more from where it was.
    """
    unpacked = await _borrowing(git, scratch / "unpacked", work.base)
    heads = await unpacked("bundle", "list-heads", str(bundle))
    if heads.split() != [work.tip, _WORK]:
        raise Damaged(f"the bundle does not hold {work.tip[:12]} as {_WORK}, and that alone")
    await unpacked(*_CAREFUL, "fetch", *_NOTHING_ELSE, str(bundle), f"{_WORK}:{_WORK}")
    checked = await _borrowing(git, scratch / "checked", work.base)
    await checked(*_CAREFUL, "fetch", *_NOTHING_ELSE, str(unpacked.directory), f"{_WORK}:{_WORK}")
    return checked


async def _borrowing(git: Git, store: Path, base: str) -> Git:
    inside = await borrowing(git, store)
    await inside("update-ref", "refs/jetcrew/base", base)
    return inside


async def apply(git: Git, branch: str) -> str:
    """Merge a branch into what is checked out; a line that says what was done.

    Raises:
        Refused: the work tree is not clean, or there would be conflicts; nothing was changed.
    """
    tip = f"refs/heads/{branch}"
    why_not = f"{branch} is there, and was not merged:"
    if await git("rev-parse", "--is-bare-repository") == "true":
        raise Refused(f"{why_not} a bare repository has nothing checked out")
    if await git.line("rev-parse", "-q", "--verify", "MERGE_HEAD") is not None:
        raise Refused(f"{why_not} another merge is under way here")
    if await git("status", "--porcelain", "--untracked-files=no") != "":
        raise Refused(
            f"{why_not} the work tree has uncommitted changes; commit or stash them, then git merge {branch}"
        )
    if await git.succeeds("merge-base", "--is-ancestor", tip, "HEAD"):
        return f"{branch} is merged already"
    forward = await git.succeeds("merge-base", "--is-ancestor", "HEAD", tip)
    if not forward:
        await _without_conflicts(git, tip, branch, why_not)
    how = ("--ff-only",) if forward else ("--no-ff", "-m", f"Merge branch '{branch}'")
    try:
        await git("merge", "-q", *how, tip)
    except GitFailed as error:
        await git.succeeds("merge", "--abort")
        raise Refused(f"{why_not} {error}") from None
    return f"{branch} is merged" + (" (fast-forward)" if forward else "")


async def _without_conflicts(git: Git, tip: str, branch: str, why_not: str) -> None:
    """Try the merge where it leaves no trace."""
    try:
        said = await git("merge-tree", "--write-tree", "--name-only", "HEAD", tip, ok=(0, 1))
    except GitFailed:
        raise Refused(
            f"{why_not} it is not a fast-forward, and this git (2.38 is needed) cannot try a merge; git merge {branch}"
        ) from None
    lines = said.splitlines()
    if len(lines) > 1:
        files = ", ".join(lines[1 : lines.index("")] if "" in lines else lines[1:])
        raise Refused(
            f"{why_not} it conflicts in {files[:200]}; git merge {branch} starts the merge"
        )
