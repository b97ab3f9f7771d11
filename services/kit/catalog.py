"""The agents and capabilities this installation knows, read from their TOML files."""

import importlib.util
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from contracts.agent import Agent, Capability
from contracts.codec import convert
from contracts.errors import ConfigurationInvalid, InvalidMessage

Described = TypeVar("Described", Agent, Capability)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Agents and capabilities by name, and the file each came from."""

    agents: dict[str, Agent]
    capabilities: dict[str, Capability]
    agent_files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, *extra: Path) -> "Catalog":
        """Read the packaged files, then `agents/*.toml` and `capabilities/*.toml` below each extra
        directory; a later file replaces an earlier one of the same name.

        Raises:
            ConfigurationInvalid: a file is not TOML, or says something that does not fit; names file and field.
        """
        agents: dict[str, tuple[Agent, Path]] = {}
        capabilities: dict[str, tuple[Capability, Path]] = {}
        for root in (packaged_images(), *extra):
            agents |= _read(root / "agents", Agent)
            capabilities |= _read(root / "capabilities", Capability)
        return cls(
            agents={name: agent for name, (agent, _) in sorted(agents.items())},
            capabilities={name: known for name, (known, _) in sorted(capabilities.items())},
            agent_files={name: path for name, (_, path) in agents.items()},
        )

    def agent(self, name: str, *, field: str = "$.agent") -> Agent:
        """The agent of this name.

        Raises:
            InvalidMessage: there is none; says which there are.
        """
        return _find(self.agents, name, "agent", field)

    def agent_file(self, name: str, *, field: str = "$.agent") -> Path:
        """The file that describes the agent of this name.

        Raises:
            InvalidMessage: there is none; says which there are.
        """
        return _find(self.agent_files, name, "agent", field)

    def capability(self, name: str, *, field: str = "$.capabilities") -> Capability:
        """The capability of this name.

        Raises:
            InvalidMessage: there is none; says which there are.
        """
        return _find(self.capabilities, name, "capability", field)


def packaged_images() -> Path:
    """The `images` folder that came with this installation: in the checkout, or inside the wheel."""
    spec = importlib.util.find_spec("services")
    for location in (spec and spec.submodule_search_locations) or ():
        services = Path(location)
        for candidate in (services / "data" / "images", services.parent / "images"):
            if (candidate / "agents").is_dir():
                return candidate
    raise ConfigurationInvalid(
        "this installation of jetcrew lacks its images folder; install it again"
    )


Found = TypeVar("Found")


def _find(known: dict[str, Found], name: str, what: str, field: str) -> Found:
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidMessage(f'unknown {what} "{name}"; known: {names}', field=field)
    return known[name]


def _read(folder: Path, kind: type[Described]) -> dict[str, tuple[Described, Path]]:
    return {described.name: (described, path) for path, described in _files(folder, kind)}


def _files(folder: Path, kind: type[Described]) -> Iterator[tuple[Path, Described]]:
    for path in sorted(folder.glob("*.toml")):
        try:
            described = convert(tomllib.loads(path.read_text()), kind)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidMessage) as error:
            raise ConfigurationInvalid(f"{path}: {error}") from None
        if described.name != path.stem:
            raise ConfigurationInvalid(
                f'{path}: $.name: "{described.name}" is not the name of the file, "{path.stem}"'
            )
        yield path, described
