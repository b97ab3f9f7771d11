"""The agents and capabilities of this installation, and those a user adds."""

from pathlib import Path

import pytest

from contracts.errors import ConfigurationInvalid, InvalidMessage
from services.kit.catalog import Catalog, packaged_images


def written(directory: Path, folder: str, name: str, text: str) -> Path:
    (directory / folder).mkdir(exist_ok=True)
    (directory / folder / f"{name}.toml").write_text(text)
    return directory


def test_the_packaged_files_are_all_right_and_say_what_they_are() -> None:
    catalog = Catalog.load()

    assert {"claude", "shell"} <= catalog.agents.keys()
    assert {
        "git",
        "github-cli",
        "curl",
        "docker-cli",
        "python",
        "node",
    } <= catalog.capabilities.keys()
    assert all(agent.summary for agent in catalog.agents.values())
    assert all(known.summary and known.check for known in catalog.capabilities.values())
    assert catalog.agent_file("claude") == packaged_images() / "agents" / "claude.toml"


def test_everything_an_agent_or_a_capability_installs_from_a_registry_is_pinned() -> None:
    catalog = Catalog.load()

    installs = [(agent.install.npm, agent.install.pip) for agent in catalog.agents.values()]
    for npm, pip in (*installs, *((tool.npm, tool.pip) for tool in catalog.capabilities.values())):
        assert all("@" in package[1:] for package in npm), npm
        assert all("==" in package for package in pip), pip


def test_a_users_file_adds_and_replaces(tmp_path: Path) -> None:
    written(tmp_path, "capabilities", "rust", 'name = "rust"\napt = ["cargo"]\n')
    written(tmp_path, "capabilities", "git", 'name = "git"\nsummary = "mine"\n')

    catalog = Catalog.load(tmp_path)

    assert catalog.capability("rust").apt == ["cargo"]
    assert catalog.capability("git").summary == "mine"
    assert "curl" in catalog.capabilities


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "rust"\napt = "cargo"', r"\$\.apt: .*cargo"),
        ('name = "rust"\nsteps = ["a", 2]', r"\$\.steps\[1\]: "),
        ('name = "rust"\naptt = []', r"aptt"),
        ('name = "Rust"', r"\$\.name: .*Rust"),
        ('name = "rusty"', r'\$\.name: "rusty" is not the name of the file, "rust"'),
        ("name =", r"[Ii]nvalid value"),
        ("", r"\$\.name: missing"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, text: str, reason: str) -> None:
    written(tmp_path, "capabilities", "rust", text)

    with pytest.raises(ConfigurationInvalid, match=r"capabilities/rust\.toml: .*" + reason):
        Catalog.load(tmp_path)


def test_an_unknown_agent_is_refused_with_those_known() -> None:
    with pytest.raises(InvalidMessage, match=r'\$\.agent: unknown agent "clod"; known: claude, '):
        Catalog.load().agent("clod")
