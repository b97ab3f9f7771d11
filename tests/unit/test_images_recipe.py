"""From agent and capabilities to a Dockerfile and its tag."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from contracts.agent import Agent, Capability, Install, Turn
from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.ids import is_token
from services.kit.catalog import Catalog
from services.worker_manager.images.recipe import Recipe, base_recipe, needs_node, worker_recipe

AGENT = Agent(
    name="robot", version="1.2.3", first=Turn(argv=[["robot"]]), install=Install(npm=["@acme/robot@1.2.3"]),
    preflight=["robot", "--version"],
)  # fmt: skip
GIT = Capability(name="git", apt=["git"], check="git --version")
CURL = Capability(name="curl", apt=["curl", "ca-certificates"])
NODE = Capability(name="node", npm=["npm@10.9.9"])
BASE = base_recipe(
    "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n",
    b"msgspec==1\n",
    base_image="python:3",
    base_id="sha256:1",
)
SOURCES = {"wrapper/__init__.py": b"", "wrapper/__main__.py": b"print()"}


def recipe(
    *capabilities: Capability,
    agent: Agent = AGENT,
    base: Recipe = BASE,
    agent_file: bytes = b"name = 'robot'",
    sources: dict[str, bytes] = SOURCES,
    node_id: str = "sha256:2",
) -> Recipe:
    return worker_recipe(
        base, agent, agent_file, capabilities, sources, node_image="node:22", node_id=node_id
    )


def with_version(version: str) -> Agent:
    return msgspec.structs.replace(AGENT, install=Install(npm=[f"@acme/robot@{version}"]))


CHANGES: dict[str, Callable[[], Recipe]] = {
    "the base image": lambda: recipe(GIT, base=replace(BASE, ids={"python:3": "sha256:9"})),
    "the base's Dockerfile": lambda: recipe(
        GIT, base=replace(BASE, dockerfile=BASE.dockerfile + " ")
    ),
    "a pinned requirement": lambda: recipe(
        GIT, base=replace(BASE, files={"requirements.txt": b"msgspec==2\n"})
    ),
    "the Node image": lambda: recipe(GIT, node_id="sha256:3"),
    "a byte of the wrapper": lambda: recipe(
        GIT, sources={**SOURCES, "wrapper/__main__.py": b"print( )"}
    ),
    "a file's name": lambda: recipe(
        GIT, sources={"wrapper/__init__.py": b"", "wrapper/main.py": b"print()"}
    ),
    "the agent's pinned version": lambda: recipe(GIT, agent=with_version("1.2.4")),
    "a byte of the agent's file": lambda: recipe(GIT, agent_file=b"name = 'robot' "),
    "a capability more": lambda: recipe(GIT, CURL),
    "a capability less": lambda: recipe(),
    "a capability's check": lambda: recipe(msgspec.structs.replace(GIT, check="git version")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_makes_another_tag(what: str) -> None:
    assert CHANGES[what]().tag != recipe(GIT).tag


def test_a_newer_builder_makes_another_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe(GIT).tag
    monkeypatch.setattr("services.worker_manager.images.recipe.BUILDER_VERSION", 10_000)

    assert recipe(GIT).tag != before


def test_the_order_of_capabilities_and_naming_one_twice_change_nothing() -> None:
    assert recipe(GIT, CURL, NODE) == recipe(NODE, GIT, CURL, GIT)
    assert recipe(GIT).tag == recipe(GIT).tag


def test_the_hash_in_a_tag_is_a_subject_token() -> None:
    made = recipe(GIT)

    assert is_token(made.digest)
    assert made.tag == f"jetcrew/worker:{made.digest}"


def test_dockerfiles_keep_to_the_classic_builder() -> None:
    text = recipe(GIT, CURL, NODE, agent=msgspec.structs.replace(AGENT, install=Install(
        npm=["a@1"], pip=["b==2"], apt=["c"], steps=["true"], node=True,
    ))).dockerfile  # fmt: skip

    for absent in ("<<", "--mount", "--chmod", "# syntax", "TARGETARCH", "--link"):
        assert absent not in text
    assert text.rstrip().endswith("USER 1000:1000")


def test_the_wrapper_is_copied_after_all_that_is_slow_to_install() -> None:
    lines = recipe(GIT, CURL, NODE).dockerfile.splitlines()

    assert [line.split()[0] for line in lines[-4:]] == ["COPY", "COPY", "RUN", "USER"]
    assert (
        max(i for i, line in enumerate(lines) if "apt-get" in line or "--from" in line)
        < len(lines) - 4
    )


def test_all_that_is_installed_has_a_home_that_is_not_the_workers() -> None:
    lines = recipe(GIT, CURL, NODE, agent=msgspec.structs.replace(AGENT, install=Install(
        pip=["b==2"], apt=["c"], steps=["true"],
    ))).dockerfile.splitlines()  # fmt: skip

    begins, ends = (i for i, line in enumerate(lines) if line.startswith("ENV HOME="))
    kinds = ("apt-get install", "pip install", "RUN true")
    installing = [i for i, line in enumerate(lines) if any(kind in line for kind in kinds)]
    assert len(installing) == 4
    assert all(begins < i < ends for i in installing)
    assert lines[ends] == "ENV HOME=/home/worker"


def test_package_names_are_quoted_for_the_shell() -> None:
    agent = msgspec.structs.replace(AGENT, install=Install(npm=["robot@1; rm -rf /"]))

    assert "'robot@1; rm -rf /'" in recipe(agent=agent).dockerfile


def test_node_is_taken_along_only_where_something_runs_on_it() -> None:
    assert "/usr/local/bin/node" not in recipe(GIT).dockerfile
    assert "/usr/local/bin/node" in recipe(NODE).dockerfile
    plain = msgspec.structs.replace(AGENT, install=Install())
    assert needs_node(AGENT, []) is True
    assert needs_node(plain, [GIT]) is False
    assert "FROM node" not in recipe(GIT, agent=plain).dockerfile


def test_an_image_is_checked_for_its_wrapper_its_agent_and_each_capability() -> None:
    assert [(check.name, check.line) for check in recipe(GIT, CURL).checks[1:]] == [
        ("agent robot", "robot --version"), ("capability git", "git --version"),
    ]  # fmt: skip
    assert recipe().checks[0].name == "wrapper"


def test_a_step_of_two_lines_is_refused_by_name() -> None:
    broken = Capability(name="odd", steps=["true", "echo one\necho two"])

    with pytest.raises(ConfigurationInvalid, match=r"capability odd: steps\[1\]"):
        recipe(broken)


def test_an_unknown_capability_is_an_error_that_names_those_known() -> None:
    catalog = Catalog(agents={}, capabilities={"git": GIT, "curl": CURL})

    with pytest.raises(
        InvalidMessage, match=r'\$\.capabilities\[1\]: unknown capability "gitt"; known: curl, git'
    ):
        catalog.capability("gitt", field="$.capabilities[1]")
