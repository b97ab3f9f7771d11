"""A repository becomes a bundle, and nothing of it changes meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from contracts.repository import RepositorySource
from services.cli.failures import Usage
from services.cli.git import GitFailed
from services.cli.packing import Packed, Wanted, address_of, packed, public
from tests.support.git import ENVIRONMENT, Repository

MIB = 1 << 20


@pytest.fixture
def mine(tmp_path: Path) -> Repository:
    repository = Repository.made(tmp_path / "mine")
    repository.commit()
    return repository


async def unpacked(where: str, to: Path, **wanted: Any) -> tuple[Packed, Repository]:
    """The bundle of a repository, and what a worker could read from it."""
    variables = {**ENVIRONMENT, "GIT_DIR": "/nonexistent"}
    given = Wanted(where=where, **{"limit": 64 * MIB, **wanted})
    async with packed(given, variables, lambda _: None) as found:
        worker = Repository.made(to)
        if found.shallow:
            (to / ".git" / "shallow").write_text("".join(f"{c}\n" for c in found.shallow))
        worker("fetch", "-q", str(found.bundle), "refs/heads/repository:refs/got")
        worker("fsck", "--connectivity-only")
        assert found.bundle.stat().st_size == found.size_bytes
    assert not found.bundle.exists()
    return found, worker


async def test_what_is_committed_goes_along_with_its_history_and_branch(
    mine: Repository, tmp_path: Path
) -> None:
    first = mine.head
    mine("checkout", "-q", "-b", "feature/x")
    second = mine.commit("other", "two\n", "two")
    before = mine.state()

    found, worker = await unpacked(str(mine.path), tmp_path / "worker")

    assert (found.commit, found.branch, found.snapshot) == (second, "feature/x", None)
    assert worker("rev-list", "refs/got").split() == [second, first]
    assert (found.shallow, found.origin, found.notes) == ((), None, ())
    assert mine.state() == before


async def test_a_folder_inside_means_the_whole_repository(mine: Repository, tmp_path: Path) -> None:
    mine.commit("deep/er/file")

    found, _ = await unpacked(str(mine.path / "deep" / "er"), tmp_path / "worker")

    assert found.commit == mine.head
    assert found.repository == mine.path


async def test_what_is_not_committed_goes_along_on_request_and_leaves_no_trace(
    mine: Repository, tmp_path: Path
) -> None:
    mine.commit(".gitignore", "*.log\n")
    mine.write("file", "changed\n")
    mine.write("staged", "staged\n")
    mine("add", "staged")
    mine.write("new/one", "untracked\n")
    mine.write("secret.log", "ignored\n")
    (mine.path / "gone").write_text("x")
    before = mine.state()

    found, worker = await unpacked(str(mine.path), tmp_path / "worker", dirty=True)

    assert found.snapshot is not None
    assert worker("rev-parse", f"{found.snapshot}^") == mine.head
    assert worker("show", f"{found.snapshot}:file") == "changed"
    assert worker("show", f"{found.snapshot}:new/one") == "untracked"
    files = worker("ls-tree", "-r", "--name-only", found.snapshot).split()
    assert files == [".gitignore", "file", "gone", "new/one", "staged"]
    assert mine.state() == before
    assert found.source("r-1").snapshot == found.snapshot


async def test_a_clean_work_tree_has_no_snapshot(mine: Repository, tmp_path: Path) -> None:
    found, _ = await unpacked(str(mine.path), tmp_path / "worker", dirty=True)

    assert found.snapshot is None


async def test_what_stays_behind_is_told(mine: Repository, tmp_path: Path) -> None:
    mine.write(".gitattributes", "*.bin filter=lfs\n")
    mine.commit("big.bin", "version https://git-lfs.github.com/spec/v1\n")
    mine("submodule", "-q", "add", str(mine.path), "inner")
    mine("commit", "-q", "-m", "submodule")
    mine.write("file", "changed\n")
    mine.write("new", "untracked\n")

    found, _ = await unpacked(str(mine.path), tmp_path / "worker")

    assert found.notes == (
        "submodules stay behind: their folders are empty in the worker",
        "1 file is in Git LFS: the worker sees the pointers only",
        "2 files are not committed: left behind (--dirty takes them along)",
    )


async def test_history_is_left_behind_on_request(mine: Repository, tmp_path: Path) -> None:
    commits = [mine.commit("file", f"{n}\n", str(n)) for n in range(4)]
    mine.write("file", "changed\n")

    found, worker = await unpacked(str(mine.path), tmp_path / "worker", depth=2, dirty=True)

    assert found.shallow == (commits[2],)
    assert worker("rev-list", "refs/got").split() == [found.snapshot, commits[3], commits[2]]


async def test_a_shallow_repository_goes_along_as_it_is(mine: Repository, tmp_path: Path) -> None:
    mine.commit("file", "two\n", "two")
    shallow = Repository(tmp_path / "shallow")
    mine("clone", "-q", "--depth", "1", f"file://{mine.path}", str(shallow.path))

    found, worker = await unpacked(str(shallow.path), tmp_path / "worker")

    assert found.shallow == (mine.head,)
    assert worker("rev-list", "refs/got").split() == [mine.head]


async def test_a_second_work_tree_and_a_detached_head_will_do(
    mine: Repository, tmp_path: Path
) -> None:
    first = mine.head
    mine.commit("file", "two\n", "two")
    mine("worktree", "add", "-q", "--detach", str(tmp_path / "second"), first)
    Repository(tmp_path / "second").write("new", "x\n")

    found, _ = await unpacked(str(tmp_path / "second"), tmp_path / "worker", dirty=True)

    assert (found.commit, found.branch) == (first, None)
    assert found.snapshot is not None


async def test_an_address_is_cloned_here_and_goes_along_without_what_lets_one_in(
    mine: Repository, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    mine("clone", "-q", "--bare", str(mine.path), str(bare))

    found, _ = await unpacked(f"file://{bare}", tmp_path / "worker")

    assert (found.commit, found.repository, found.origin) == (mine.head, None, None)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:token@example.org/a/b.git?x#y", "https://example.org/a/b.git"),
        ("https://example.org:8443/a.git", "https://example.org:8443/a.git"),
        ("git@example.org:a/b.git", "https://example.org/a/b.git"),
        ("ssh://git@example.org:22/a/b.git", "https://example.org/a/b.git"),
        ("file:///srv/a.git", None),
        ("/srv/a.git", None),
        ("https://[bad/a", None),
    ],
)
def test_a_worker_learns_of_an_address_only_what_everybody_may(
    address: str, shown: str | None
) -> None:
    assert public(address) == shown


def test_a_path_is_no_address(tmp_path: Path) -> None:
    assert address_of(str(tmp_path)) is None
    assert address_of(".") is None
    assert address_of("no/such/folder") is None
    assert address_of("https://example.org/a.git") == "https://example.org/a.git"
    assert address_of("git@example.org:a.git") == "git@example.org:a.git"


async def refused(where: str, **wanted: Any) -> str:
    given = Wanted(where=where, **{"limit": 64 * MIB, **wanted})
    with pytest.raises((Usage, GitFailed)) as caught:
        async with packed(given, ENVIRONMENT, lambda _: None):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_what_cannot_go_along_is_one_clear_line(mine: Repository, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    empty = Repository.made(tmp_path / "empty")

    assert "there is no such directory" in await refused(str(tmp_path / "nowhere"))
    assert "not a git repository; make it one" in await refused(str(tmp_path / "plain"))
    assert "it has no commit yet" in await refused(str(empty.path))
    assert "an address has nothing uncommitted" in await refused("https://example.org/", dirty=True)
    gone = await refused("https://ann:hunter2hunter2@127.0.0.1:9/a.git")
    assert gone.startswith("git clone: ")
    assert "hunter2" not in gone
    assert "ext" in await refused("ext::sh -c touch% /tmp/owned", limit=1)


async def test_the_value_of_a_secret_does_not_go_along(mine: Repository) -> None:
    """R29."""
    mine.write("deep/.env", "KEY=hunter2-hunter2\n")
    told = await refused(str(mine.path), dirty=True, secrets={"KEY": "hunter2-hunter2\n", "A": "b"})

    assert told == "--dirty: deep/.env holds the value of secret KEY; have git ignore it"


async def test_a_merge_with_conflicts_does_not_go_along(mine: Repository) -> None:
    mine("checkout", "-q", "-b", "other")
    mine.commit("file", "theirs\n", "theirs")
    mine("checkout", "-q", "main")
    mine.commit("file", "ours\n", "ours")
    with pytest.raises(AssertionError, match="git merge other"):
        mine("merge", "other")

    assert "with conflicts in file" in await refused(str(mine.path), dirty=True)


async def test_a_bundle_over_the_bound_names_both_sizes(mine: Repository) -> None:
    said = await refused(str(mine.path), limit=100)

    assert "bytes, and 100 is the bound (--repo-limit); --depth 1 leaves its history behind" in said


def test_the_message_of_a_source_is_one_that_contracts_take() -> None:
    found = Packed(
        bundle=Path("b"), size_bytes=1, commit="a" * 40, snapshot=None, branch=None, shallow=(),
        origin=None, repository=None, notes=(),
    )  # fmt: skip

    assert found.source("r-1") == RepositorySource(bundle="r-1", bundle_bytes=1, commit="a" * 40)
