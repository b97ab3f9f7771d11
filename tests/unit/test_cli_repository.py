"""The options of a repository that goes along, and the patch that comes back, before anything runs."""

from typing import Any

import pytest

from contracts.repository import Work
from services.cli.failures import Usage
from services.cli.packing import Wanted
from services.cli.repository import summary, wanted
from services.cli.running import Request, spec_of
from services.cli.work import coloured

NOTHING: dict[str, Any] = {
    "repo": None, "dirty": False, "depth": None, "repo_limit": None, "apply": False,
}  # fmt: skip


def test_without_repo_nothing_goes_along() -> None:
    assert wanted(NOTHING) is None


def test_what_goes_along_has_a_bound() -> None:
    assert wanted(NOTHING | {"repo": "."}) == Wanted(where=".", limit=256 << 20)
    given = NOTHING | {"repo": "x", "dirty": True, "depth": 3, "repo_limit": 1}
    assert wanted(given) == Wanted(where="x", dirty=True, depth=3, limit=1 << 20)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dirty": True}, "--dirty goes with --repo"),
        ({"depth": 1}, "--depth goes with --repo"),
        ({"repo_limit": 1}, "--repo-limit goes with --repo"),
        ({"apply": True}, "--apply goes with --repo"),
        ({"repo": ".", "apply": True, "dirty": True}, "clean work tree only: leave out --dirty"),
        ({"repo": "https://example.org/a", "apply": True}, "--repo is an address"),
    ],
)
def test_contradictions_are_wrong_usage(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Usage, match=said):
        wanted(NOTHING | given)


def test_a_worker_that_gets_a_repository_has_git_and_its_bound() -> None:
    request = Request(prompt="p", timeout=1, repo=".", repo_limit=8, trust_repository=True)
    spec = spec_of(request, "ada")

    assert spec.capabilities == ["git"]
    assert spec.limits.repository_mb == 8
    assert spec.trust_repository
    assert spec_of(Request(prompt="p", timeout=1), "ada").capabilities == []


def test_a_patch_is_coloured_and_cannot_command_the_terminal() -> None:
    patch = "diff --git a/f b/f\n@@ -1 +1 @@\n-old\n+new \x1b]0;owned\x07\n same"
    shown = coloured(patch).split("\n")

    assert shown[1:4] == [
        "\x1b[36m@@ -1 +1 @@\x1b[0m",
        "\x1b[31m-old\x1b[0m",
        "\x1b[32m+new \x1b[0m",
    ]
    assert shown[4] == " same"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"commits": 1, "files": 1, "insertions": 2}, "1 commit, 1 file (+2 -0)"),
        ({"commits": 2, "uncommitted": True, "files": 3}, "2 commits and uncommitted changes, 3 files (+0 -0)"),
        ({}, "earlier work, 0 files (+0 -0)"),
    ],
)  # fmt: skip
def test_work_is_summed_up_on_one_line(facts: dict[str, Any], told: str) -> None:
    assert summary(Work(base="a" * 40, tip="b" * 40, **facts)) == told
