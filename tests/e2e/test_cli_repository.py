"""A repository goes to a worker and its work comes home, by the command line alone."""

import signal
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.git import Repository
from tests.support.servers import need_server

SHELL = ("--agent", "shell", "--runtime", "process")
ME = "-c user.name=a -c user.email=a@b"


@pytest.fixture
def jetcrew(tmp_path: Path) -> Cli:
    """The command on a state directory that does not exist yet."""
    need_server()
    return Cli(tmp_path / "state")


@pytest.fixture
def mine(tmp_path: Path) -> Repository:
    repository = Repository.made(tmp_path / "mine")
    repository.commit()
    return repository


def test_work_lands_in_a_branch_and_what_is_checked_out_stays(
    jetcrew: Cli, mine: Repository
) -> None:
    mine.write(".mcp.json", "evil\n")
    head = mine.commit("file", "two\n", "two")
    mine.write("file", "unfinished\n")
    mine.write("new", "untracked\n")
    before = {k: v for k, v in mine.state().items() if ".git/" not in k}
    done = jetcrew(
        "run", *SHELL, "--repo", str(mine.path), "--json",
        f"ls -A; echo x > made; git add made; git {ME} commit -qm made; echo y > left",
    )  # fmt: skip

    assert done.code == 0, done.err
    document = done.document
    branch = document["repository"]["branch"]
    assert branch == f"jetcrew/{document['task']['id']}"
    assert mine("show", f"{branch}:made") == "x"
    assert mine("show", f"{branch}:left") == "y"
    assert document["end"]["git"] == {
        "head": mine("rev-parse", f"{branch}^"), "branch": "main", "dirty": True,
    }  # fmt: skip
    assert "2 files are not committed: left behind (--dirty takes them along)" in done.err
    assert "set aside while the agent runs: .mcp.json" in done.err
    assert "file\nmade" not in done.err
    assert mine.head == head
    assert {k: v for k, v in mine.state().items() if ".git/" not in k} == before


def test_work_is_merged_on_request_and_a_conflict_is_told(jetcrew: Cli, mine: Repository) -> None:
    done = jetcrew("run", *SHELL, "--repo", str(mine.path), "--apply", "echo x > made")
    assert done.code == 0, done.err
    assert (mine.path / "made").read_text() == "x\n"
    assert "is merged (fast-forward)" in done.err

    clash = f"cd {mine.path} && echo mine > file && git {ME} commit -qam mine"
    head = mine.head
    done = jetcrew(
        "run", *SHELL, "--repo", str(mine.path), "--apply", f"echo theirs > file; ({clash})"
    )
    assert done.code == 1, done.err
    assert "it conflicts in file; git merge jetcrew/" in done.err
    assert mine("rev-parse", "HEAD^") == head
    assert mine("status", "--porcelain") == ""


def test_a_crew_that_stays_takes_repositories_for_workers_and_for_tasks(
    jetcrew: Cli, mine: Repository, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.git"
    mine("clone", "-q", "--bare", str(mine.path), str(bare))
    at = str(mine.path)
    with jetcrew.started("up", "--json") as up:
        up.until(lambda: up.out.endswith("\n"))
        made = jetcrew("worker", "create", "ada", *SHELL, "--repo", at)
        assert made.code == 0, made.err
        first = jetcrew("task", "submit", "ada", "cat file; echo a > a", "--id", "t-1", "--wait")
        assert first.code == 0, first.err
        assert jetcrew("worker", "logs", "ada").out == "one\n"

        shown = jetcrew("task", "diff", "t-1")
        assert shown.out.startswith("diff --git a/a b/a\n"), shown.err
        told = jetcrew("task", "fetch", "t-1", "--repo", at, "--apply")
        assert (told.code, told.out) == (0, "jetcrew/t-1\n"), told.err
        assert (mine.path / "a").read_text() == "a\n"

        mine.write("file", "unfinished\n")
        second = jetcrew(
            "task", "submit", "ada", "cat file; echo b > b", "--repo", at, "--dirty", "--id", "t-2", "--wait",
        )  # fmt: skip
        assert second.code == 0, second.err
        assert "→ branch jetcrew/t-2" in second.err
        assert mine("show", "jetcrew/t-2:b") == "b"
        assert (mine.path / "file").read_text() == "unfinished\n"

        url = jetcrew("run", *SHELL, "--repo", f"file://{bare}", "--json", "echo c > c")
        assert url.code == 0, url.err
        task = url.document["task"]["id"]
        assert f"jetcrew task fetch {task} --repo CLONE" in url.err
        assert jetcrew("task", "fetch", task, "--repo", at).code == 0
        assert mine("show", f"jetcrew/{task}:c") == "c"

        none = jetcrew("task", "submit", "ada", "true", "--id", "t-3", "--wait")
        assert none.code == 0, none.err
        assert "nothing changed" in jetcrew("task", "diff", "t-3").err
        wrong = Repository.made(tmp_path / "other")
        wrong.commit("else")
        lost = jetcrew("task", "fetch", "t-1", "--repo", str(wrong.path))
        assert lost.code == 2
        assert "this repository does not have commit" in lost.complaint
        assert "there is no task" in jetcrew("task", "fetch", "nobody", "--repo", at).complaint


def test_half_done_work_comes_home_after_ctrl_c(jetcrew: Cli, mine: Repository) -> None:
    prompt = "echo half > file; echo begun; sleep 600"
    with jetcrew.started("run", *SHELL, "--repo", str(mine.path), prompt) as running:
        running.until(lambda: "begun" in running.out)
        running.signal(signal.SIGINT)
        code = running.wait()
        told = running.err

    assert code == 130, told
    [branch] = mine("for-each-ref", "--format=%(refname:short)", "refs/heads/jetcrew").split()
    assert f"→ branch {branch}" in told
    assert mine("show", f"{branch}:file") == "half"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--repo", "nowhere"), "there is no such directory"),
        (("--repo", "plain"), "not a git repository; make it one with git init"),
        (("--repo", "empty"), "it has no commit yet; commit something first"),
        (("--repo", "mine", "--repo-limit", "0"), "0 is not in the range"),
        (("--repo", "mine", "--apply", "--dirty"), "leave out --dirty"),
        (("--dirty",), "--dirty goes with --repo"),
        (("--worker", "ada", "--trust-repo"), "--trust-repo is for one that is made"),
    ],
)
def test_wrong_input_is_one_clear_line_and_leaves_no_trace(
    jetcrew: Cli, mine: Repository, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "plain").mkdir()
    Repository.made(tmp_path / "empty")
    there = {"nowhere", "plain", "empty", "mine"}
    done = jetcrew(
        "run", *(() if "--worker" in arguments else SHELL),
        *(str(tmp_path / a) if a in there else a for a in arguments), "true",
    )  # fmt: skip

    assert (done.code, done.out) == (2, ""), done.err
    assert said in done.complaint
    assert not jetcrew.state.exists()
