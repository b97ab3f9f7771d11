"""What keeps the house: sizes, documents that tell the truth, nothing of one machine in the tree."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from services.cli.app import root

ROOT = Path(__file__).parents[2]
SOURCE = ("contracts", "services", "wrapper", "deploy", "docs")
MODULE_LINES, FUNCTION_LINES = 400, 60
NOT_IN_THE_TREE = {
    "a path of one machine": r"(?<![\w.-])/(?:root|work|home/(?!worker\b)\w+|Users)/\w",
    "a package index": r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs)\.org|--index-url",
    "a reminder": r"\b(?:TODO|FIXME|XXX|HACK)\b",
    "how it came about": r"(?i)\b(?:session|phase|milestone|iteration) \d|\bissue #?\d|\bas an AI\b",
}

NOT_SETTINGS = {
    "JETCREW_CONTEXT",  # of the command line, which names a context of the nats CLI by it
    "JETCREW_RUN",  # marks the processes of one run of an agent, so that none is left behind
    "JETCREW_UNIT",  # marks the processes of one worker in the process runtime
}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def _modules() -> list[Path]:
    return [path for folder in SOURCE for path in sorted((ROOT / folder).rglob("*.py"))]


def test_modules_and_functions_are_short_enough_to_read() -> None:
    long: list[str] = []
    for path in _modules():
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MODULE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}: {lines} lines")

    assert long == []


@pytest.mark.parametrize(("what", "pattern"), NOT_IN_THE_TREE.items())
def test_the_tree_speaks_of_itself_only(what: str, pattern: str) -> None:
    found: list[str] = []
    for path in _tracked():
        for number, line in enumerate(_text(path).splitlines(), 1):
            if match := re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")

    assert found == [], what


def test_no_lock_file_is_committed() -> None:
    assert [p for p in _tracked() if p.name in {"uv.lock", "package-lock.json"}] == []


def _commands(name: str) -> list[str]:
    """The `jetcrew …` command lines among the indented lines of a document."""
    lines = re.findall(r"^    .*?\bjetcrew ([a-z].*)$", _text(ROOT / name), re.MULTILINE)
    assert lines, "the document shows no command"
    return lines


@pytest.mark.parametrize("line", _commands("README.md"))
def test_the_readme_shows_commands_that_exist(line: str) -> None:
    command: click.Command = root
    words = shlex.split(line, comments=True)
    while isinstance(command, click.Group) and words:
        context = click.Context(command)
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word for word in words if word.startswith("--")} - known == set()


def _documents() -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    ]


@pytest.mark.parametrize("name", _documents())
def test_links_between_documents_lead_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)", _text(path))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_recipes_that_documents_name_exist() -> None:
    recipes = set(
        re.findall(r"^([a-z][a-z-]*)[^:=\n]*:(?!=)", _text(ROOT / "justfile"), re.MULTILINE)
    )
    named = {
        recipe
        for name in _documents()
        for recipe in re.findall(r"(?:`|uv run )just ([a-z-]+)", _text(ROOT / name))
    }

    assert named - recipes == set()


def test_the_reference_is_what_the_code_says() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    pages: Callable[[], dict[str, str]] = generator["pages"]
    written: Callable[[str], str] = generator["written"]

    assert [n for n, text in pages().items() if text != written(n)] == [], "run `just docs`"


def test_every_variable_that_the_code_or_the_documents_name_is_a_setting() -> None:
    known = set(re.findall(r"`(JETCREW_\w+)`", _text(ROOT / "docs/reference/settings.md")))
    named = {
        variable
        for path in [*_modules(), *(ROOT / name for name in _documents())]
        for variable in re.findall(r"\bJETCREW_[A-Z_]*[A-Z]\b", _text(path))
    }

    assert named - known - NOT_SETTINGS == set()


def test_scripts_can_be_run() -> None:
    scripts = [path for path in _tracked() if _text(path).startswith("#!")]

    assert [path for path in scripts if not os.access(path, os.X_OK)] == []
    assert ROOT / ".ci/run" in scripts


def test_settings_alone_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in _modules()
        for node in ast.walk(ast.parse(_text(path)))
        if _reads_environment(node) and path.name != "settings.py"
    }

    assert readers == set()


def _reads_environment(node: Any) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
