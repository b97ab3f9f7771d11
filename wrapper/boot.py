"""What the wrapper is given to begin with, and what it prepares before the first task."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contracts.agent import Agent
from contracts.asks import Boot
from contracts.codec import decode
from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.redaction import Secrets
from wrapper.agent import Values, environment, load_agent, variables

PATIENCE = 60.0
"""Seconds until `boot.json` has to be there."""
POLL = 0.01
"""Seconds between two looks; its arrival is on the way to readiness."""

BEGIN = "<!-- jetcrew: instructions of this worker -->"
END = "<!-- jetcrew: end of instructions -->"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A worker as its wrapper finds it."""

    boot: Boot
    agent: Agent
    creds: Path | None
    """The bus credentials; None for a server that wants none."""
    environment_secrets: Mapping[str, str]
    """Handed to the agent as variables."""
    secrets: Secrets
    """Kept out of everything that is published."""

    @property
    def workspace(self) -> Path:
        """Where the agent works."""
        return Path(self.boot.workspace)

    def own_folder(self) -> Path:
        """Where the wrapper keeps what outlives a run; made when it is not there."""
        folder = Path(self.boot.home, ".jetcrew")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def values(self, **more: str) -> Values:
        """What the agent file's placeholders stand for."""
        boot = self.boot
        bare = Values(workspace=boot.workspace, home=boot.home, env=boot.env)
        secrets = self.environment_secrets
        env = variables(self.agent, bare, own=boot.env, secrets=secrets)
        return replace(bare, env=env, **more)

    def environment(self, run: str) -> dict[str, str]:
        """All variables of the agent's process."""
        return environment(
            self.agent,
            self.values(),
            path=self.boot.path,
            secrets=self.environment_secrets,
            run=run,
        )


async def read_boot(directory: Path, patience: float = PATIENCE) -> Place:
    """Wait for `boot.json`, which is delivered last, and read what stands beside it.

    Raises:
        ConfigurationInvalid: it did not come in time, or something in it is wrong; names what.
    """
    until = time.monotonic() + patience
    file = directory / "boot.json"
    while not file.exists():
        if time.monotonic() > until:
            raise ConfigurationInvalid(f"no boot.json in {directory} within {patience:.0f} s")
        await asyncio.sleep(POLL)
    try:
        boot = decode(file.read_bytes(), Boot)
        secrets = {name: _secret(directory, name) for name in boot.secrets}
    except InvalidMessage as error:
        raise ConfigurationInvalid(f"{file}: {error}") from None
    except OSError as error:
        raise ConfigurationInvalid(f"{error.filename}: {error.strerror}") from None
    creds = directory / "worker.creds"
    known = Secrets(secrets.values())
    if creds.exists():
        known.add(*credential_parts(creds.read_text()))
    return Place(
        boot=boot,
        agent=load_agent(Path(boot.agent_file)),
        creds=creds if creds.exists() else None,
        environment_secrets=secrets,
        secrets=known,
    )


def _secret(directory: Path, name: str) -> str:
    # A line's end belongs to the file, not to the value.
    return (directory / "secrets" / name).read_text().removesuffix("\n")


def credential_parts(creds: str) -> list[str]:
    """The JWT and the seed of a credentials file."""
    return [line for line in creds.split() if len(line) > 40 and not line.startswith("-")]


def prepare(place: Place) -> None:
    """Make the directories, write instructions and configuration.

    Raises:
        ConfigurationInvalid: a file cannot be written, or a variable is missing; names it.
    """
    values, agent = place.values(), place.agent
    for name, purpose in agent.required_env.items():
        if not place.boot.env.get(name):
            raise ConfigurationInvalid(
                f"agent {agent.name} needs the variable {name} in the worker's env: {purpose}"
            )
    try:
        place.workspace.mkdir(parents=True, exist_ok=True)
        Path(place.boot.home).mkdir(parents=True, exist_ok=True)
        for name, content in agent.config_files.items():
            file = place.workspace / values.fill(name)
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(values.file(name, content))
        if agent.instructions_file is not None:
            _instruct(
                place.workspace / values.fill(agent.instructions_file), place.boot.instructions
            )
    except OSError as error:
        raise ConfigurationInvalid(f"{error.filename}: {error.strerror}") from None


def _instruct(file: Path, instructions: str) -> None:
    """Put the instructions into the agent's file between two marks; what else stands there stays."""
    before = file.read_text(errors="replace") if file.exists() else ""
    head, found, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2] if found else ""
    block = f"{BEGIN}\n{instructions}\n{END}" if instructions else ""
    kept = "\n\n".join(part for part in (head.strip("\n"), tail.strip("\n")) if part.strip())
    after = "\n\n".join(part for part in (block, kept) if part)
    if after.strip() != before.strip():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(after + "\n")
