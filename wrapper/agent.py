"""What the wrapper knows of an agent: its file, and the command line and environment made from it."""

import json
import os
import pwd
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from contracts.agent import Agent, Turn
from contracts.codec import convert
from contracts.errors import ConfigurationInvalid, InvalidMessage

MARKER = "JETCREW_RUN"
"""Environment variable by which every process of a run is known, wherever it went."""

_PLACEHOLDER = re.compile(
    r"\{(session|workspace|home|prompt_file|schema_file|schema|env\.[A-Za-z_][A-Za-z0-9_]*)\}"
)


def load_agent(path: Path) -> Agent:
    """The agent that a TOML file describes.

    Raises:
        ConfigurationInvalid: not there, not TOML, or not an agent; names the field.
    """
    try:
        with path.open("rb") as file:
            return convert(tomllib.load(file), Agent)
    except OSError as error:
        raise ConfigurationInvalid(f"agent file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"agent file {path} is not TOML: {error}") from None
    except InvalidMessage as error:
        raise ConfigurationInvalid(f"agent file {path}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Values:
    """What placeholders stand for; an empty one leaves its group of arguments out."""

    workspace: str
    home: str
    session: str = ""
    prompt_file: str = ""
    schema: str = ""
    schema_file: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    """The agent's variables, secrets not among them: arguments are visible to everybody."""

    def fill(self, text: str) -> str:
        """`text` with its placeholders replaced."""
        return _PLACEHOLDER.sub(lambda match: self._of(match[1]), text)

    def file(self, name: str, content: str) -> str:
        """The content of a configuration file: in JSON and TOML placeholders stand inside strings."""
        if not name.endswith((".json", ".toml")):
            return self.fill(content)
        return _PLACEHOLDER.sub(
            lambda match: json.dumps(self._of(match[1]), ensure_ascii=False)[1:-1], content
        )

    def argv(self, turn: Turn) -> list[str]:
        """The command line, without the groups in which a placeholder is empty."""
        return [
            self.fill(argument)
            for group in turn.argv
            if all(self._of(name) for argument in group for name in _PLACEHOLDER.findall(argument))
            for argument in group
        ]

    def _of(self, name: str) -> str:
        if name.startswith("env."):
            return self.env.get(name[4:], "")
        return str(getattr(self, name))


def variables(
    agent: Agent, values: Values, *, own: Mapping[str, str], secrets: Collection[str]
) -> dict[str, str]:
    """The variables that the agent's file sets, and over them the worker's `own`. `secrets` are names.

    One may stand in the value of another that comes after it.
    """
    given = dict(agent.env)
    for name, more in agent.env_with.items():
        if own.get(name) or name in secrets:
            given |= more
    made = dict(own)
    for name, value in given.items():
        if name not in made:
            made[name] = replace(values, env=made).fill(value)
    return made


def environment(
    agent: Agent,
    values: Values,
    *,
    path: str,
    secrets: Mapping[str, str],
    run: str,
    uid: int | None = None,
) -> dict[str, str]:
    """All that the agent's process gets to see; nothing of the wrapper's own environment."""
    as_root = (os.getuid() if uid is None else uid) == 0
    made = {
        "PATH": path,
        "HOME": values.home,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": _user(),
    }
    made |= agent.root_env if as_root else {}
    return made | dict(values.env) | dict(secrets) | {MARKER: run}


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "worker"
