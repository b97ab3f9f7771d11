"""A repository in a worker: laid out, worked in, gathered; and what came with it kept from the agent."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.reports import Finished
from contracts.repository import RepositorySource
from services.cli.git import Git
from services.cli.landing import land
from services.cli.packing import Wanted, packed
from tests.support.attempts import Bench
from tests.support.git import ENVIRONMENT, Repository
from tests.support.worker import AGENTS
from wrapper.agent import load_agent
from wrapper.family import Family
from wrapper.git import in_workspace
from wrapper.quarantine import Quarantine

SHELL = load_agent(AGENTS / "shell.toml")
ME = "-c user.name=a -c user.email=a@b"


class Ann:
    """A user with a repository, and a worker that gets it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mine = Repository.made(root / "mine")
        self.base = self.mine.commit()
        self.bench = Bench(root / "ada", SHELL)

    @property
    def inside(self) -> Repository:
        return Repository(self.bench.workspace)

    async def sends(self, name: str = "r-1", **wanted: Any) -> RepositorySource:
        given = Wanted(where=str(self.mine.path), **{"limit": 1 << 26, **wanted})
        async with packed(given, ENVIRONMENT, lambda _: None) as found:
            self.bench.parcels.laid_out[name] = found.bundle.read_bytes()
            return found.source(name)

    async def asks(self, script: str, **more: Any) -> Finished:
        return await self.bench.attempt(script, **more)

    async def gets(self, done: Finished, task: str = "t1") -> Repository:
        """Fetch the work, as `jetcrew run --repo` does."""
        work = done.end.work
        assert work is not None
        assert work.bundle is not None, work
        bundle = self.root / "got"
        bundle.write_bytes(self.bench.parcels.handed_over[work.bundle])
        assert bundle.stat().st_size == work.bundle_bytes
        await land(Git(self.mine.path, ENVIRONMENT), bundle, work, task)
        return self.mine

    def patch(self, done: Finished) -> str:
        work = done.end.work
        assert work is not None
        assert work.patch is not None, work
        return self.bench.parcels.handed_over[work.patch].decode()


@pytest.fixture
def ann(tmp_path: Path) -> Ann:
    return Ann(tmp_path)


async def test_commits_and_what_is_left_uncommitted_come_back(ann: Ann) -> None:
    done = await ann.asks(
        f"cat file; git branch --show-current; echo two >> file; git {ME} commit -qam two; "
        "echo three > new; echo four >> file",
        repository=await ann.sends(),
    )

    assert (done.state, done.end.text) == ("succeeded", "one\nmain")
    work, git = done.end.work, done.end.git
    assert git is not None
    assert work is not None
    assert (git.branch, git.dirty, git.pushed) == ("main", True, None)
    assert (work.base, work.commits, work.uncommitted, work.lost) == (ann.base, 1, True, "")
    assert (work.files, work.insertions, work.deletions) == (2, 3, 0)
    mine = await ann.gets(done)
    assert mine("log", "--format=%s", "jetcrew/t1").split("\n") == [
        "Left uncommitted by task t1", "two", "one",
    ]  # fmt: skip
    assert mine("show", "jetcrew/t1:new") == "three"
    assert mine("rev-parse", "jetcrew/t1^") == git.head
    mine("apply", "--check", "-", stdin=ann.patch(done).encode())
    assert mine.head == ann.base


async def test_what_was_not_committed_is_uncommitted_there_too_and_no_part_of_the_work(
    ann: Ann,
) -> None:
    ann.mine.write("file", "changed\n")
    ann.mine.write("new", "untracked\n")
    done = await ann.asks(
        "git status --porcelain; cat new; echo mine > other", repository=await ann.sends(dirty=True)
    )

    assert done.end.text == "M file\n?? new\nuntracked"
    assert "+mine" in ann.patch(done)
    assert "untracked" not in ann.patch(done)
    mine = await ann.gets(done)
    assert mine("show", "jetcrew/t1:new") == "untracked", "the branch holds all of it"


async def test_nothing_done_is_nothing_to_hand_over(ann: Ann) -> None:
    done = await ann.asks("true", repository=await ann.sends())

    assert done.end.work is not None
    assert (done.end.work.tip, done.end.work.bundle, done.end.work.patch) == (ann.base, None, None)
    assert ann.bench.parcels.handed_over == {}


async def test_a_later_task_goes_on_where_the_first_ended_and_tells_its_own_part(ann: Ann) -> None:
    await ann.asks("echo two > second", repository=await ann.sends())
    done = await ann.asks("cat second; echo three > third")

    assert done.end.text == "two"
    assert "+three" in ann.patch(done)
    assert "+two" not in ann.patch(done)
    mine = await ann.gets(done)
    assert mine("ls-tree", "--name-only", "jetcrew/t1").split() == ["file", "second", "third"]


async def test_a_second_attempt_finds_what_the_first_left(ann: Ann) -> None:
    source = await ann.sends()
    await ann.asks("echo half > file; exit 1", repository=source)
    done = await ann.asks("cat file", repository=source)

    assert done.end.text == "half"
    assert "+half" in ann.patch(done)


async def test_another_repository_replaces_what_was_handed_over_and_nothing_else(ann: Ann) -> None:
    await ann.asks("echo mine > file; echo x > new", repository=await ann.sends())
    ann.mine.commit("file", "newer\n", "newer")
    done = await ann.asks("cat file; ls", repository=await ann.sends("r-2"))
    assert done.end.text == "newer\nfile"

    (ann.bench.workspace / "precious").write_text("not handed over")
    refused = await ann.asks("cat file", repository=await ann.sends("r-3"))
    assert (refused.state, refused.end.reason) == ("failed", "workspace")
    assert "uncommitted changes that were not handed over" in refused.end.detail
    assert (ann.bench.workspace / "precious").exists()


async def test_a_workspace_that_holds_something_else_is_left_alone(ann: Ann) -> None:
    ann.bench.workspace.mkdir(parents=True)
    (ann.bench.workspace / "notes").write_text("mine")

    done = await ann.asks("true", repository=await ann.sends())

    assert (done.state, done.end.reason) == ("failed", "workspace")
    assert "is no repository and is not empty: it holds notes" in done.end.detail


async def test_a_bundle_that_is_not_there_or_too_large_is_one_clear_line(ann: Ann) -> None:
    source = await ann.sends()
    ann.bench.boot["repository_bytes"] = 10
    large = await ann.asks("true", repository=source)
    ann.bench.parcels.laid_out.clear()
    gone = await ann.asks("true", repository=source)

    assert "bytes; 10 are the most" in large.end.detail
    assert "nothing called 'r-1' is laid out" in gone.end.detail
    assert {large.end.reason, gone.end.reason} == {"workspace"}


async def test_a_worker_without_git_says_so(ann: Ann) -> None:
    ann.bench.path = str(ann.root / "nothing")
    done = await ann.asks("true", repository=await ann.sends())

    assert (done.state, done.end.reason) == ("failed", "workspace")
    assert "git could not be started" in done.end.detail


async def test_nothing_that_git_would_run_comes_with_a_bundle(ann: Ann) -> None:
    """Hooks and configuration are no part of a bundle; templates are not used."""
    ann.mine.commit(".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = ../evil\n')
    hook = ann.mine.path / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch owned\n")
    hook.chmod(0o755)
    ann.mine("config", "core.fsmonitor", "touch owned")
    ann.mine("config", "alias.st", "!touch owned")

    done = await ann.asks(
        "ls .git/hooks 2>/dev/null; cat .git/config; ls", repository=await ann.sends()
    )

    assert "fsmonitor" not in done.end.text
    assert "alias" not in done.end.text
    assert "owned" not in done.end.text
    assert "sample" not in done.end.text


async def test_shallow_history_and_a_public_origin_come_along(ann: Ann) -> None:
    ann.mine("remote", "add", "origin", "https://ann:token@127.0.0.1:9/a/b.git")
    ann.mine.commit("file", "two\n", "two")

    done = await ann.asks(
        "git log --format=%s; git remote get-url origin; echo x > new",
        repository=await ann.sends(depth=1),
    )

    assert done.end.text == "two\nhttps://127.0.0.1:9/a/b.git"
    await ann.gets(done)


async def test_a_detached_head_gets_a_branch(ann: Ann) -> None:
    ann.mine("checkout", "-q", "--detach")

    done = await ann.asks("git branch --show-current", repository=await ann.sends())

    assert done.end.text == "jetcrew"


# -- secrets and bounds ---------------------------------------------------------------------------


async def test_a_secret_in_the_work_keeps_the_bundle_in_the_worker_and_is_redacted(
    ann: Ann,
) -> None:
    """R29."""
    ann.bench.secrets = {"TOKEN": "hunter2-hunter2-hunter2"}
    done = await ann.asks('echo "$TOKEN" > config', repository=await ann.sends())

    work = done.end.work
    assert work is not None
    assert (work.bundle, work.lost) == (
        None, "the value of a secret is in it: the bundle stayed in the worker",
    )  # fmt: skip
    assert "+[redacted]" in ann.patch(done)
    assert all(b"hunter2" not in data for data in ann.bench.parcels.handed_over.values())


async def test_work_over_the_bound_is_told_with_its_size(ann: Ann) -> None:
    source = await ann.sends()
    ann.bench.boot["repository_bytes"] = source.bundle_bytes
    done = await ann.asks("head -c 100000 /dev/urandom > big", repository=source)

    work = done.end.work
    assert work is not None
    assert (work.bundle, work.patch) == (None, None)
    assert f"is over the bound of {source.bundle_bytes:,}" in work.lost


async def test_half_done_work_comes_back_when_the_deadline_passes(ann: Ann) -> None:
    """R11."""
    done = await ann.asks("echo half > file; sleep 99", repository=await ann.sends(), seconds=3.0)

    assert (done.state, done.end.reason) == ("timed-out", "deadline")
    assert (await ann.gets(done))("show", "jetcrew/t1:file") == "half"


async def test_an_agent_that_destroys_the_repository_ends_as_it_would_have(ann: Ann) -> None:
    gone = await ann.asks("rm -rf .git", repository=await ann.sends())
    assert (gone.state, gone.end.work, gone.end.git) == ("succeeded", None, None)


async def test_history_of_its_own_comes_back_whole(ann: Ann) -> None:
    done = await ann.asks(
        f"git checkout -q --orphan fresh; git {ME} commit -qm fresh", repository=await ann.sends()
    )

    assert (await ann.gets(done))("log", "--format=%s", "jetcrew/t1") == "fresh"


# -- configuration that came with it --------------------------------------------------------------

CONFIG = (".claude/settings.json", ".mcp.json", "deep/.claude/skills/x")


@pytest.fixture
def hostile(ann: Ann) -> Ann:
    for name in CONFIG:
        ann.mine.write(name, "evil\n")
    ann.base = ann.mine.commit("CLAUDE.md", "what everybody may read\n")
    return ann


async def test_configuration_is_out_of_sight_while_the_agent_runs_and_back_afterwards(
    hostile: Ann,
) -> None:
    done = await hostile.asks(
        "find . -name .git -prune -o -type f -print | sort; git status --porcelain; "
        f"echo x > new; git add -A; git {ME} commit -qm new; git {ME} commit -qam all --allow-empty",
        repository=await hostile.sends(),
    )

    assert done.end.text == "./CLAUDE.md\n./file"
    [note] = [note.text for note in hostile.bench.told.notes if "set aside" in note.text]
    assert note == "set aside while the agent runs: .claude, .mcp.json, deep/.claude"
    assert done.end.work is not None
    assert (done.end.work.files, done.end.work.uncommitted) == (1, False)
    assert (hostile.bench.workspace / ".claude" / "settings.json").read_text() == "evil\n"
    assert hostile.inside("status", "--porcelain") == ""
    again = await hostile.asks("ls -A")
    assert ".mcp.json" not in again.end.text


async def test_configuration_stays_where_the_worker_trusts_the_repository(hostile: Ann) -> None:
    hostile.bench.boot["trust_repository"] = True
    done = await hostile.asks("cat .mcp.json", repository=await hostile.sends())

    assert done.end.text == "evil"
    assert not any("set aside" in note.text for note in hostile.bench.told.notes)


async def test_configuration_that_was_not_committed_is_set_aside_too(ann: Ann) -> None:
    ann.mine.write(".mcp.json", "evil\n")
    done = await ann.asks("ls -A", repository=await ann.sends(dirty=True))

    assert ".mcp.json" not in done.end.text
    assert (ann.bench.workspace / ".mcp.json").read_text() == "evil\n"
    assert done.end.work is not None
    assert done.end.work.files == 0


async def test_an_agents_own_list_counts_as_well(ann: Ann) -> None:
    ann.bench.agent = replace(SHELL, repository_config=[".shellrc"])
    ann.mine.commit(".shellrc", "evil\n")
    done = await ann.asks("ls -A", repository=await ann.sends())

    assert ".shellrc" not in done.end.text


async def test_what_the_agent_makes_at_the_same_place_is_its_work(hostile: Ann) -> None:
    done = await hostile.asks(
        "mkdir .claude; echo good > .claude/settings.json; echo more > .claude/more",
        repository=await hostile.sends(),
    )

    mine = await hostile.gets(done)
    assert mine("show", "jetcrew/t1:.claude/settings.json") == "good"
    assert mine("show", "jetcrew/t1:.claude/more") == "more"
    assert mine("show", "jetcrew/t1:.mcp.json") == "evil"


async def test_a_link_cannot_lead_what_is_put_back_elsewhere(hostile: Ann) -> None:
    outside = hostile.root / "outside"
    outside.mkdir()
    done = await hostile.asks(
        f"rm -rf deep; ln -s {outside} deep", repository=await hostile.sends()
    )

    assert done.state == "succeeded"
    assert list(outside.iterdir()) == []


async def test_another_commit_brings_its_own_configuration_back(hostile: Ann) -> None:
    hostile.mine("checkout", "-q", "-b", "other")
    hostile.mine.commit(".mcp.json", "other\n")
    hostile.mine("checkout", "-q", "main")
    hostile.mine("merge", "-q", "--no-ff", "-m", "m", "other")
    done = await hostile.asks(
        f"git {ME} revert -q --no-edit -m1 HEAD >/dev/null 2>&1 || git reset -q --hard HEAD^1; true",
        repository=await hostile.sends(),
    )

    assert done.end.work is not None
    assert hostile.inside("show", "HEAD:.mcp.json") == "evil"
    assert (hostile.bench.workspace / ".mcp.json").read_text() == "evil\n"
    assert done.end.work.uncommitted is False


async def test_a_run_that_was_killed_leaves_nothing_set_aside_for_good(hostile: Ann) -> None:
    await hostile.asks("true", repository=await hostile.sends())
    place = hostile.bench.place()
    await Quarantine(place, in_workspace(place, Family(), "killed")).set_aside()
    assert not (hostile.bench.workspace / ".mcp.json").exists()

    done = await hostile.asks("ls -A")
    assert ".mcp.json" not in done.end.text
    assert (hostile.bench.workspace / ".mcp.json").exists()
    assert hostile.inside("status", "--porcelain") == ""
