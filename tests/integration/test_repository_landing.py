"""What a worker sends back lands in one branch, whatever is in it."""

import subprocess
import zlib
from hashlib import sha1
from pathlib import Path

import pytest

from contracts.errors import Damaged, Refused
from contracts.repository import Work
from services.cli.git import Git, GitFailed
from services.cli.landing import apply, land
from tests.support.git import ENVIRONMENT, Repository


class Ann:
    """A user with a repository, and a worker with a clone of it."""

    def __init__(self, root: Path) -> None:
        self.mine = Repository.made(root / "mine")
        self.base = self.mine.commit()
        self.worker = Repository(root / "worker")
        self.mine("clone", "-q", str(self.mine.path), str(self.worker.path))
        self.git = Git(self.mine.path, ENVIRONMENT)
        self.bundle = root / "bundle"

    def sent(self, tip: str = "HEAD", *more: str) -> Work:
        """What the worker has, as a bundle and the words that come with it."""
        self.worker("update-ref", "refs/jetcrew/work", tip)
        self.worker(
            "bundle", "create", str(self.bundle), "refs/jetcrew/work", *more, f"^{self.base}"
        )
        return Work(base=self.base, tip=self.worker("rev-parse", "refs/jetcrew/work"))

    def outside(self) -> dict[str, str]:
        """All of the repository but its objects and our branch."""
        return {
            name: content
            for name, content in self.mine.state().items()
            if not name.startswith((".git/objects/", ".git/refs/heads/jetcrew/", ".git/logs/refs/heads/jetcrew/"))
        }  # fmt: skip


@pytest.fixture
def ann(tmp_path: Path) -> Ann:
    return Ann(tmp_path)


async def test_work_lands_in_its_branch_and_nothing_else_changes(ann: Ann) -> None:
    tip = ann.worker.commit("file", "better\n", "better")
    ann.worker("tag", "v1")
    ann.mine.write("file", "in the middle of something\n")
    before = ann.outside()

    assert await land(ann.git, ann.bundle, ann.sent(), "t1") == "jetcrew/t1"
    assert await land(ann.git, ann.bundle, ann.sent(), "t1") == "jetcrew/t1", "again is no error"

    assert ann.mine("rev-parse", "refs/heads/jetcrew/t1") == tip
    assert ann.outside() == before
    assert ann.mine("tag") == ""


async def test_later_work_of_a_task_moves_its_branch_on_and_other_work_does_not(ann: Ann) -> None:
    ann.worker.commit("file", "better\n", "better")
    await land(ann.git, ann.bundle, ann.sent(), "t1")
    later = ann.worker.commit("file", "best\n", "best")
    await land(ann.git, ann.bundle, ann.sent(), "t1")
    assert ann.mine("rev-parse", "jetcrew/t1") == later

    ann.worker("reset", "-q", "--hard", ann.base)
    ann.worker.commit("file", "other\n", "other")
    with pytest.raises(Refused, match="exists and holds something else"):
        await land(ann.git, ann.bundle, ann.sent(), "t1")
    assert ann.mine("rev-parse", "jetcrew/t1") == later


async def test_a_repository_that_was_not_sent_is_told(ann: Ann, tmp_path: Path) -> None:
    ann.worker.commit("file", "better\n", "better")
    other = Repository.made(tmp_path / "other")
    other.commit("else")

    with pytest.raises(Refused, match="this repository does not have commit"):
        await land(Git(other.path, ENVIRONMENT), ann.bundle, ann.sent(), "t1")


async def test_a_bundle_with_further_refs_is_refused(ann: Ann) -> None:
    ann.worker.commit("file", "better\n", "better")
    ann.worker("branch", "evil")
    before = ann.mine.state()

    with pytest.raises(Damaged, match="and that alone"):
        await land(ann.git, ann.bundle, ann.sent("HEAD", "evil"), "t1")
    assert ann.mine.state() == before


async def test_a_bundle_that_holds_another_commit_than_was_told_is_refused(ann: Ann) -> None:
    ann.worker.commit("file", "better\n", "better")
    ann.sent()

    with pytest.raises(Damaged, match="does not hold 111111111111"):
        await land(ann.git, ann.bundle, Work(base=ann.base, tip="1" * 40), "t1")


def object_of(repository: Repository, kind: str, body: bytes) -> str:
    """Written past git, which would refuse it."""
    data = f"{kind} {len(body)}".encode() + b"\0" + body
    name = sha1(data).hexdigest()  # git's own
    file = repository.path / ".git" / "objects" / name[:2] / name[2:]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(zlib.compress(data))
    return name


@pytest.mark.parametrize("name", [b".git", b".GIT", b"..", b"a/b", b".git\xe2\x80\x8c", b"git~1"])
async def test_names_that_would_leave_the_work_tree_are_refused(ann: Ann, name: bytes) -> None:
    blob = ann.worker("hash-object", "-w", "--stdin", stdin=b"evil")
    tree = object_of(ann.worker, "tree", b"100644 " + name + b"\0" + bytes.fromhex(blob))
    commit = object_of(
        ann.worker, "commit",
        f"tree {tree}\nparent {ann.base}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n".encode(),
    )  # fmt: skip
    before = ann.mine.state()

    with pytest.raises(GitFailed):
        await land(ann.git, ann.bundle, ann.sent(commit), "t1")
    assert ann.mine.state() == before


async def test_a_submodule_that_is_an_option_or_a_link_is_refused(ann: Ann) -> None:
    ann.worker.write(
        ".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = "--upload-pack=touch owned"\n'
    )
    ann.worker("add", "-A")
    ann.worker("commit", "-q", "-m", "x")

    with pytest.raises(GitFailed):
        await land(ann.git, ann.bundle, ann.sent(), "t1")


async def test_what_is_no_bundle_is_refused(ann: Ann) -> None:
    ann.bundle.write_bytes(b"#!/bin/sh\ntouch owned\n")

    with pytest.raises(GitFailed):
        await land(ann.git, ann.bundle, Work(base=ann.base, tip="1" * 40), "t1")


async def test_no_hook_runs_when_work_lands_or_is_merged(ann: Ann) -> None:
    """Hooks of a repository may lie in its work tree, where the agent could have written them."""
    ann.mine("config", "core.hooksPath", ".hooks")
    for hook in ("post-merge", "reference-transaction", "post-checkout", "pre-merge-commit"):
        ann.worker.write(f".hooks/{hook}", f"#!/bin/sh\ntouch {ann.mine.path}/owned\n")
        (ann.worker.path / ".hooks" / hook).chmod(0o755)
    ann.worker("add", "-A")
    ann.worker("commit", "-q", "-m", "hooks")

    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")
    await apply(ann.git, branch)
    again = ann.worker.commit("file", "later\n", "later")
    await land(ann.git, ann.bundle, ann.sent(), "t2")
    await apply(ann.git, "jetcrew/t2")

    assert ann.mine.head == again
    assert not (ann.mine.path / "owned").exists()


async def test_work_on_an_unchanged_branch_is_a_fast_forward(ann: Ann) -> None:
    tip = ann.worker.commit("file", "better\n", "better")
    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")

    assert await apply(ann.git, branch) == "jetcrew/t1 is merged (fast-forward)"
    assert (ann.mine.head, (ann.mine.path / "file").read_text()) == (tip, "better\n")
    assert await apply(ann.git, branch) == "jetcrew/t1 is merged already"


async def test_work_beside_the_users_own_is_merged(ann: Ann) -> None:
    ann.worker.commit("other", "theirs\n", "theirs")
    mine = ann.mine.commit("file", "mine\n", "mine")
    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")

    assert await apply(ann.git, branch) == "jetcrew/t1 is merged"
    assert ann.mine("rev-parse", "HEAD^1") == mine
    assert (ann.mine.path / "other").read_text() == "theirs\n"


async def test_a_conflict_is_told_and_nothing_is_changed(ann: Ann) -> None:
    ann.worker.commit("file", "theirs\n", "theirs")
    ann.mine.commit("file", "mine\n", "mine")
    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")
    before = ann.outside()

    with pytest.raises(
        Refused, match="it conflicts in file; git merge jetcrew/t1 starts the merge"
    ):
        await apply(ann.git, branch)
    assert ann.outside() == before


async def test_a_work_tree_with_changes_is_left_alone(ann: Ann) -> None:
    ann.worker.commit("file", "theirs\n", "theirs")
    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")
    ann.mine.write("file", "mine, unfinished\n")
    before = ann.outside()

    with pytest.raises(Refused, match="the work tree has uncommitted changes"):
        await apply(ann.git, branch)
    assert ann.outside() == before


async def test_an_untracked_file_in_the_way_is_left_alone(ann: Ann) -> None:
    ann.worker.commit("other", "theirs\n", "theirs")
    branch = await land(ann.git, ann.bundle, ann.sent(), "t1")
    ann.mine.write("other", "mine, untracked\n")
    before = ann.outside()

    with pytest.raises(Refused, match="was not merged"):
        await apply(ann.git, branch)
    assert ann.outside()["other"] == before["other"]
    assert ann.mine.head == ann.base


def test_git_is_new_enough_to_try_a_merge() -> None:
    version = subprocess.run(["git", "version"], capture_output=True, check=True).stdout.decode()

    assert tuple(map(int, version.split()[2].split(".")[:2])) >= (2, 38)
